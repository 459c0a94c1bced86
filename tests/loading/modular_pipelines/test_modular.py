# SPDX-License-Identifier: MIT
"""Modular pipelines load and run by the rules of every other pipeline: from their own index, by name,
with code if trusted."""

from __future__ import annotations

import atexit
import functools
import json
import math
import shutil
import tempfile
import unittest
from pathlib import Path
from typing import Any

import backend_pb2
from localai_diffusers.errors import Cancelled, InvalidRequest, LoadError, NotSupported
from localai_diffusers.generation import generation
from localai_diffusers.loading.pipelines import prepare
from localai_diffusers.pipeline.signatures import parameters_of
from localai_diffusers.settings import Settings
from localai_diffusers.wire import requests
from localai_diffusers.work.engine import Job
from tests import adapter_files
from tests.adapter_files import difference
from tests.support import Backend, arguments_of, generate, image_request, load, new_job, offloaded, spec_of
from tests.zoo import call as zoo_call
from tests.zoo import checkpoint

PROMPT, XL = "a red circle", "StableDiffusionXLPipeline"
SMALL = {"width": 64, "height": 64, "step": 2}


@functools.cache
def _scratch() -> str:
    folder = tempfile.mkdtemp(prefix="modular-test-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def modular_folder(name: str) -> Path:
    """The zoo's checkpoint as diffusers saves a modular pipeline, moved away from where its index says that it is."""
    import diffusers

    before, after = (Path(tempfile.mkdtemp(dir=_scratch())) / name for _ in range(2))
    pipeline = diffusers.ModularPipeline.from_pretrained(str(checkpoint(name)))
    pipeline.load_components()
    pipeline.save_pretrained(str(before), overwrite_modular_index=True)
    return Path(shutil.move(before, after))


@functools.cache
def model_of(name: str) -> Any:
    return load(modular_folder(name))


def copy_of(folder: Path, **index: Any) -> Path:
    """A copy of ``folder``, with its modular index changed."""
    target = Path(tempfile.mkdtemp(dir=_scratch())) / "model"
    shutil.copytree(folder, target)
    file = target / "modular_model_index.json"
    if file.is_file():
        file.write_text(json.dumps(json.loads(file.read_text()) | index), encoding="utf-8")
    return target


def picture_file(seed: int = 0) -> str:
    path = Path(tempfile.mkdtemp(dir=_scratch())) / "picture.png"
    zoo_call.picture(seed=seed).save(path)
    return str(path)


def mask_file() -> str:
    path = Path(tempfile.mkdtemp(dir=_scratch())) / "mask.png"
    zoo_call.mask().save(path)
    return str(path)


class LoadTest(unittest.TestCase):
    def test_a_saved_pipeline_loads_from_wherever_its_folder_went(self) -> None:
        for name in ("FluxPipeline", "StableDiffusionXLPipeline", "QwenImagePipeline", "WanPipeline"):
            model = model_of(name)
            self.assertEqual(type(model.pipeline).__name__, name.replace("Pipeline", "ModularPipeline"))
            self.assertGreater(sum(model.memory().values()), 0)

    def test_a_model_index_may_name_a_modular_class(self) -> None:
        folder = copy_of(checkpoint("FluxPipeline"))
        file = folder / "model_index.json"
        file.write_text(
            json.dumps(json.loads(file.read_text()) | {"_class_name": "FluxModularPipeline"}), encoding="utf-8"
        )
        self.assertEqual(generate(load(folder), PROMPT, **SMALL)[0].size, (64, 64))

    def test_a_modular_class_may_be_asked_for_by_name_on_a_classic_repo(self) -> None:
        model = load(checkpoint("ZImagePipeline"), PipelineType="ZImageModularPipeline")
        self.assertEqual(generate(model, PROMPT, **SMALL)[0].size, (64, 64))

    def test_an_unknown_modular_class_is_an_error_that_names_it(self) -> None:
        with self.assertRaisesRegex(LoadError, "GluxModularPipeline"):
            load(checkpoint("FluxPipeline"), PipelineType="GluxModularPipeline")

    def test_the_importers_pipeline_type_is_ignored_with_a_note(self) -> None:
        model = load(modular_folder("FluxPipeline"), PipelineType="StableDiffusionPipeline")
        self.assertEqual(
            model.notes, ("PipelineType StableDiffusionPipeline is ignored: the model is a FluxModularPipeline",)
        )

    def with_changed_unet(self, change: Any) -> Path:
        """A copy of the XL model whose UNet's tensors went through ``change``."""
        from safetensors.torch import load_file, save_file

        folder = copy_of(modular_folder(XL))
        (file,) = (folder / "unet").glob("*.safetensors")
        tensors = load_file(file)
        save_file(change(tensors), file, metadata={"format": "pt"})
        return folder

    def test_a_component_that_lacks_a_tensor_is_refused_before_anything_is_built(self) -> None:
        folder = self.with_changed_unet(lambda tensors: {key: tensors[key] for key in sorted(tensors)[1:]})
        with self.assertRaisesRegex(LoadError, "weights of unet lack 1 of its tensors"):
            prepare(spec_of(folder), Settings(), new_job())

    def test_a_key_without_a_use_is_told(self) -> None:
        folder = self.with_changed_unet(lambda tensors: tensors | {"of.nothing": next(iter(tensors.values())).clone()})
        notes = load(folder).notes
        self.assertTrue(any("unet" in note and "of.nothing" in note for note in notes), notes)

    def test_a_prefix_of_every_key_is_read(self) -> None:
        folder = self.with_changed_unet(
            lambda tensors: {f"model.diffusion_model.{key}": value for key, value in tensors.items()}
        )
        right, _ = generate(model_of(XL), PROMPT, seed=1, **SMALL)
        found, _ = generate(load(folder), PROMPT, seed=1, **SMALL)
        self.assertLess(difference(right, found), 0.5)

    def test_bf16_and_a_scheduler_are_taken(self) -> None:
        import torch

        model = load(modular_folder("StableDiffusionXLPipeline"), Options=["torch_dtype:bf16"], SchedulerType="euler_a")
        self.assertEqual(model.pipeline.unet.dtype, torch.bfloat16)
        self.assertEqual(type(model.pipeline.scheduler).__name__, "EulerAncestralDiscreteScheduler")
        generate(model, PROMPT, **SMALL)

    def test_an_option_that_the_blocks_do_not_take_is_refused_before_anything_is_read(self) -> None:
        with self.assertRaisesRegex(LoadError, "strenght:0.5 is taken by nothing.*did you mean 'strength'"):
            prepare(spec_of(modular_folder("FluxPipeline"), Options=["strenght:0.5"]), Settings(), new_job())
        model = load(modular_folder("FluxPipeline"), Options=["max_sequence_length:64"])
        self.assertEqual(arguments_of(model, PROMPT)["max_sequence_length"], 64)

    def test_a_config_of_the_blocks_is_an_option(self) -> None:
        model = load(modular_folder(XL), Options=["force_zeros_for_empty_prompt:false"])
        self.assertIs(model.pipeline.config.force_zeros_for_empty_prompt, False)

    def test_a_broken_component_is_an_error_that_names_it(self) -> None:
        folder = copy_of(modular_folder("FluxPipeline"))
        (folder / "vae" / "config.json").write_text("{}", encoding="utf-8")
        with self.assertRaisesRegex(LoadError, "vae"):
            load(folder)

    def test_a_load_that_is_cancelled_stops_between_components(self) -> None:
        from localai_diffusers.loading import pipelines
        from tests.support import spec_of

        job = new_job()
        build = pipelines.prepare(spec_of(modular_folder("FluxPipeline")), Settings(), job)
        job.cancel("the client left")
        with self.assertRaises(Cancelled):
            build()


class RunTest(unittest.TestCase):
    def test_the_same_seed_makes_the_same_picture_and_another_another(self) -> None:
        for name in ("FluxPipeline", "StableDiffusionXLPipeline", "QwenImagePipeline"):
            first, again, other = (generate(model_of(name), PROMPT, seed=seed, **SMALL)[0] for seed in (1, 1, 2))
            self.assertEqual(first.size, (64, 64))
            self.assertEqual(first.tobytes(), again.tobytes())
            self.assertNotEqual(first.tobytes(), other.tobytes())

    def test_the_picture_is_the_classic_pipelines(self) -> None:
        classic = generate(load(checkpoint("FluxPipeline")), PROMPT, seed=1, **SMALL)[0]
        self.assertEqual(difference(generate(model_of("FluxPipeline"), PROMPT, seed=1, **SMALL)[0], classic), 0)

    def test_a_picture_makes_it_image_to_image(self) -> None:
        for name in ("FluxPipeline", "StableDiffusionXLPipeline"):
            model = load(modular_folder(name), Options=["strength:0.5"])
            made = [
                generate(model, PROMPT, seed=1, src=picture_file(seed), **SMALL | {"step": 4})[0] for seed in (0, 3)
            ]
            self.assertGreater(difference(*made), 0)

    def test_its_strength_counts_where_there_is_a_picture_to_start_from(self) -> None:
        model = model_of("StableDiffusionXLPipeline")
        strength = parameters_of(model.pipeline)["strength"].default
        self.assertEqual(arguments_of(model, PROMPT, step=1)["num_inference_steps"], 1)
        self.assertNotIn("leaves no step", generate(model, PROMPT, seed=1, **SMALL | {"step": 1})[1].message())
        found = arguments_of(model, PROMPT, step=1, src=picture_file())["num_inference_steps"]
        self.assertEqual(found, math.ceil(1 / strength))

    def test_a_mask_makes_it_inpainting(self) -> None:
        arguments = arguments_of(
            model_of("StableDiffusionXLPipeline"), PROMPT, src=picture_file(), ref_images=[mask_file()]
        )
        self.assertEqual((arguments["image"].mode, arguments["mask_image"].mode), ("RGB", "L"))
        made = generate(
            model_of("StableDiffusionXLPipeline"),
            PROMPT,
            seed=1,
            src=picture_file(),
            ref_images=[mask_file()],
            **SMALL | {"step": 4},
        )[0]
        self.assertEqual(made.size, (64, 64))

    def test_guidance_reaches_the_guider_and_the_pictures_text(self) -> None:
        pictures = [
            generate(
                load(modular_folder("QwenImagePipeline"), CFGScale=scale),
                PROMPT,
                negative_prompt="blue",
                seed=1,
                **SMALL,
            )[0]
            for scale in (0, 4.0, 9.0)
        ]
        self.assertEqual(["CFG scale: 4.0" in picture.info["parameters"] for picture in pictures], [True, True, False])
        self.assertEqual(difference(*pictures[:2]), 0)
        self.assertGreater(difference(*pictures[1:]), 0)

    def test_a_video_has_the_frames_that_are_asked_for(self) -> None:
        self.assertEqual(self.video(model_of("WanPipeline"), num_frames=5).description, "MP4 5 frames at 16 fps 64x64")

    def test_a_video_may_have_sound(self) -> None:
        model = load(checkpoint("LTX2Pipeline"), PipelineType="LTX2ModularPipeline")
        self.assertIn("sound", self.video(model, num_frames=9).description)

    def test_what_the_blocks_lack_is_the_requests_fault(self) -> None:
        model = load(checkpoint("LTX2Pipeline"), PipelineType="LTX2ModularPipeline")
        with self.assertRaisesRegex(InvalidRequest, "num_frames"):
            self.video(model)

    def test_more_pictures_than_it_takes_are_refused(self) -> None:
        with self.assertRaisesRegex(NotSupported, "WanModularPipeline takes text alone"):
            generate(model_of("WanPipeline"), PROMPT, src=picture_file(), **SMALL)

    def video(self, model: Any, **fields: Any) -> generation.Outcome:
        dst = Path(tempfile.mkdtemp(dir=_scratch())) / "out.mp4"
        message = backend_pb2.GenerateVideoRequest(prompt=PROMPT, dst=str(dst), seed=1, fps=16, **SMALL, **fields)
        return generation.generate(model, requests.from_video_request(message, Settings()), new_job())


class AroundTest(unittest.TestCase):
    """LoRA, ControlNet and replaced components, by the rules of classic pipelines."""

    heavy = True

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp(dir=_scratch()))
        cls.plain = generate(model_of(XL), PROMPT, seed=1, **SMALL)[0]
        cls.source, cls.control = picture_file(), picture_file(seed=3)
        adapter_files.lora(checkpoint(XL), cls.folder / "lora.safetensors")
        adapter_files.component(XL, "vae", cls.folder / "vae")
        adapter_files.component(XL, "text_encoder", cls.folder / "clip")
        adapter_files.controlnet("StableDiffusionXLControlNetPipeline", cls.folder / "net")

    def made(self, pictures: tuple[str, ...] = (), step: int = 2, **fields: Any) -> Any:
        """The picture that a model loaded with ``fields`` makes of ``pictures``."""
        model = load(modular_folder(XL), ModelPath=str(self.folder), **fields)
        request = {"src": pictures[0], "ref_images": pictures[1:]} if pictures else {}
        return generate(model, PROMPT, seed=1, **SMALL | {"step": step}, **request)[0]

    def changed(self, pictures: tuple[str, ...] = (), **fields: Any) -> float:
        """How far that picture is from the plain one."""
        return difference(self.made(pictures, **fields), self.plain)

    def test_a_lora_counts_by_its_scale(self) -> None:
        self.assertGreater(self.changed(LoraAdapter="lora.safetensors"), 1)
        self.assertEqual(self.changed(LoraAdapters=["lora.safetensors"], LoraScales=[0.0]), 0)

    def test_a_lora_of_another_model_is_an_error(self) -> None:
        with self.assertRaisesRegex(LoadError, "fits no layer of FluxModularPipeline"):
            load(modular_folder("FluxPipeline"), LoraAdapter=str(self.folder / "lora.safetensors"))

    def test_vae_and_text_encoder_are_replaced(self) -> None:
        self.assertGreater(self.changed(Options=["vae:vae"]), 1)
        by_field = self.made(CLIPModel="clip")
        self.assertGreater(difference(by_field, self.plain), 0.5)
        self.assertEqual(difference(self.made(Options=["text_encoder:clip"]), by_field), 0)

    def test_another_familys_component_is_an_error(self) -> None:
        with self.assertRaisesRegex(LoadError, "latent_channels 16"):
            self.changed(Options=[f"vae:{checkpoint('FluxPipeline') / 'vae'}"])

    def test_a_lone_picture_is_for_the_controlnet(self) -> None:
        self.assertGreater(self.changed((self.control,), ControlNet="net"), 1)
        off = self.changed((self.control,), ControlNet="net", Options=["controlnet_conditioning_scale:0.0"])
        self.assertEqual(off, 0)
        self.assertEqual(self.changed(ControlNet="net"), 0)

    def test_a_source_comes_before_the_picture_for_control(self) -> None:
        model, seen = load(modular_folder(XL), ControlNet=str(self.folder / "net")), []
        model.pipeline.controlnet.register_forward_pre_hook(lambda *given: seen.append(given[2]), with_kwargs=True)
        generate(model, PROMPT, seed=1, src=self.source, ref_images=[self.control], **SMALL | {"step": 4})
        shown = seen[0]["controlnet_cond"][0].permute(1, 2, 0).numpy() * 255
        self.assertLess(difference(shown, zoo_call.picture(seed=3)), 1)
        taken = arguments_of(model, PROMPT, src=self.source, ref_images=[mask_file(), self.control])
        self.assertEqual([taken[name].mode for name in ("image", "mask_image", "control_image")], ["RGB", "L", "RGB"])
        for name, seed in (("image", 0), ("control_image", 3)):
            self.assertEqual(difference(taken[name], zoo_call.picture(seed=seed)), 0, name)

    def test_several_controlnets_take_a_picture_each(self) -> None:
        model = load(modular_folder(XL), ModelPath=str(self.folder), ControlNet="net,net")
        two = {"src": self.source, "ref_images": [self.control]}
        self.assertEqual(generate(model, PROMPT, **two, **SMALL)[0].size, (64, 64))
        with self.assertRaisesRegex(InvalidRequest, "2 ControlNets and the request brings 1 picture"):
            generate(model, PROMPT, src=self.source, **SMALL)

    def test_without_a_controlnet_no_picture_is_for_control(self) -> None:
        self.assertNotIn("control_image", parameters_of(model_of(XL).pipeline))

    def test_a_controlnet_that_the_blocks_do_not_take_is_an_error_that_says_so(self) -> None:
        net = str(self.folder / "net")
        for name, words in (
            ("FluxPipeline", "takes no ControlNet"),
            ("QwenImagePipeline", "takes QwenImageControlNetModel"),
        ):
            with self.assertRaisesRegex(LoadError, f"is a ControlNetModel; .*ModularPipeline {words}"):
                load(modular_folder(name), ControlNet=net)

    def test_an_ip_adapter_takes_the_last_picture(self) -> None:
        adapter_files.ip_adapter(self.folder / "ip" / "ip-adapter.safetensors", name=XL)
        option = {"Options": ["ip_adapter:ip"]}
        self.assertGreater(self.changed((self.source,), **option), 1)
        self.assertEqual(self.changed(**option), 0)
        alone = generate(load(modular_folder(XL)), PROMPT, seed=1, src=self.source, **SMALL | {"step": 4})[0]
        both = load(modular_folder(XL), ModelPath=str(self.folder), **option)
        with_adapter = generate(
            both, PROMPT, seed=1, src=self.source, ref_images=[self.control], **SMALL | {"step": 4}
        )[0]
        self.assertGreater(difference(with_adapter, alone), 0.5)

    def test_offloaded_it_makes_the_same_picture(self) -> None:
        with_lora = self.made(LoraAdapter="lora.safetensors")
        with offloaded("model"):
            self.assertEqual(self.changed(), 0)
            self.assertEqual(difference(self.made(LoraAdapter="lora.safetensors"), with_lora), 0)


class StopAfter(Job):
    """A job that is cancelled as soon as it reports its first step."""

    def report(self, step: int, total: int) -> None:
        self.cancel("the client left")
        super().report(step, total)


class CancelTest(unittest.TestCase):
    def test_a_cancelled_run_stops_at_its_step_and_the_next_is_right(self) -> None:
        model = model_of("FluxPipeline")
        before = generate(model, PROMPT, seed=1, **SMALL)[0]
        load(modular_folder("FluxPipeline"))  # blocks that two pipelines of a class share must still ask this one's job
        job = StopAfter(lambda _job: None, "test")
        with self.assertRaises(Cancelled):
            generation.generate(model, image_request(PROMPT, seed=1, width=64, height=64, step=50), job)
        self.assertEqual((job.step, job.total_steps), (1, 50))
        self.assertEqual(generate(model, PROMPT, seed=1, **SMALL)[0].tobytes(), before.tobytes())


_BLOCKS = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
Path({marker!r}).touch()
from PIL import Image
from diffusers.modular_pipelines import InputParam, ModularPipelineBlocks, OutputParam

class OwnBlocks(ModularPipelineBlocks):
    model_name = "own"
    description = "One color"
    expected_components = []
    inputs = [InputParam("prompt", required=True), InputParam("width", default=32), InputParam("height", default=32)]
    intermediate_outputs = [OutputParam("images")]

    def __call__(self, components, state):
        block_state = self.get_block_state(state)
        block_state.images = [Image.linear_gradient("L").resize((block_state.width, block_state.height))]
        self.set_block_state(state, block_state)
        return components, state
"""


def own_blocks(folder: Path, marker: Path) -> None:
    """A modular pipeline of its own code, which leaves ``marker`` where it is run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "own.py").write_text(_BLOCKS.format(marker=str(marker)), encoding="utf-8")
    (folder / "modular_config.json").write_text(
        json.dumps(
            {
                "_class_name": "OwnBlocks",
                "_diffusers_version": "0.42.1",
                "auto_map": {"ModularPipelineBlocks": "own.OwnBlocks"},
            }
        )
    )
    (folder / "modular_model_index.json").write_text(json.dumps({"_class_name": "ModularPipeline"}))


class OwnCodeTest(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=_scratch()))
        self.marker = self.folder / "marker"
        own_blocks(self.folder, self.marker)

    def test_own_blocks_are_refused_and_not_run_without_trust(self) -> None:
        with self.assertRaisesRegex(LoadError, "trust_remote_code"):
            load(self.folder)
        self.assertFalse(self.marker.exists())

    def test_own_blocks_run_with_trust(self) -> None:
        picture, _ = generate(load(self.folder, TrustRemoteCode=True), PROMPT, width=48, height=64)
        self.assertTrue(self.marker.exists())
        self.assertEqual(picture.size, (48, 64))

    def test_a_component_of_another_library_is_refused_without_trust(self) -> None:
        spec = {
            "type_hint": ["antigravity", "Flight"],
            "pretrained_model_name_or_path": "owner/name",
            "subfolder": "vae",
        }
        folder = copy_of(modular_folder("FluxPipeline"), vae=[None, None, spec])
        with self.assertRaisesRegex(LoadError, "antigravity"):
            load(folder)

    def test_the_type_that_diffusers_would_import_is_refused_whatever_stands_before_it(self) -> None:
        spec = {
            "type_hint": ["antigravity", "Flight"],
            "pretrained_model_name_or_path": "owner/name",
            "subfolder": "vae",
        }
        folder = copy_of(modular_folder("FluxPipeline"), vae=["diffusers", "AutoencoderKL", spec])
        with self.assertRaisesRegex(LoadError, "antigravity"):
            load(folder)

    def test_a_component_in_a_subfolder_of_another_name_is_found(self) -> None:
        folder = copy_of(modular_folder("FluxPipeline"))
        (folder / "vae").rename(folder / "decoder")
        index = json.loads((folder / "modular_model_index.json").read_text())
        index["vae"][2] |= {"subfolder": "decoder"}
        (folder / "modular_model_index.json").write_text(json.dumps(index), encoding="utf-8")
        self.assertEqual(generate(load(folder), PROMPT, **SMALL)[0].size, (64, 64))

    def test_an_input_that_only_the_caller_has_is_required(self) -> None:
        model = load(self.folder, TrustRemoteCode=True)
        self.assertIs(parameters_of(model.pipeline)["prompt"].default, parameters_of(model.pipeline)["prompt"].empty)


class ServerTest(unittest.TestCase):
    def test_a_modular_folder_is_served_like_any_other(self) -> None:
        with Backend(OMP_NUM_THREADS="1") as backend:
            result = backend.load(modular_folder("FluxPipeline"))
            self.assertTrue(result.success, result.message)
            self.assertEqual(backend.image(PROMPT, seed=1, **SMALL).read_bytes()[:8], b"\x89PNG\r\n\x1a\n")
            self.assertNotIn("\r", backend.log)


if __name__ == "__main__":
    unittest.main()
