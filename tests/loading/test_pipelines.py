# SPDX-License-Identifier: MIT
"""From a LoadSpec to a placed pipeline: which class, which files, what is refused,
what becomes of the earlier model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any

import torch

from localai_diffusers.checkpoint import model_files
from localai_diffusers.errors import BackendError, LoadError
from localai_diffusers.loading import pipeline_class, pipelines
from localai_diffusers.settings import Settings
from localai_diffusers.work.engine import Engine, State
from tests import single_file
from tests.checkpoint.test_model_files import write_gguf
from tests.hub_server import FakeHub
from tests.shapes_judge import judge
from tests.support import HOME, SHAPES_MODEL, FolderCase, generate, load, spec_of
from tests.zoo import checkpoint

PROMPT = "a red circle on a blue background"


def class_of(name: str, pipeline_type: str = "", **fields: Any) -> tuple[str, list[str]]:
    """The class that is chosen for the zoo's checkpoint ``name``, and the notes on it; nothing is loaded."""
    folder = SHAPES_MODEL if name == "shapes" else checkpoint(name)
    facts = model_files.folder_facts(folder)
    cls, notes = pipeline_class.choose(spec_of(folder, PipelineType=pipeline_type, **fields), facts)
    return cls.__name__, notes


class ModelCase(FolderCase):
    """A test with a copy of a model that it may change."""

    def copy(self, source: Path = SHAPES_MODEL, name: str = "model") -> Path:
        return Path(shutil.copytree(source, self.folder / name))

    def edit(self, file: Path, **changes: Any) -> None:
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))


class ClassTest(unittest.TestCase):
    def test_without_a_type_it_is_the_models_own(self) -> None:
        for name in (
            "FluxPipeline",
            "StableDiffusionXLPipeline",
            "WanImageToVideoPipeline",
            "AudioLDM2Pipeline",
            "DDPMPipeline",
        ):
            self.assertEqual(class_of(name), (name, []))

    def test_what_importers_write_for_everything_gives_way_with_a_note(self) -> None:
        for name in (
            "FluxPipeline",
            "StableDiffusionXLPipeline",
            "StableDiffusion3Pipeline",
            "ZImagePipeline",
            "QwenImagePipeline",
            "WanPipeline",
            "QwenImageEditPipeline",
            "StableDiffusionUpscalePipeline",
            "KandinskyV22Pipeline",
            "StableDiffusionInstructPix2PixPipeline",
            "StableDiffusionInpaintPipeline",
            "MarigoldDepthPipeline",
            "StableVideoDiffusionPipeline",
        ):
            chosen, notes = class_of(name, "StableDiffusionPipeline")
            self.assertEqual(chosen, name)
            self.assertRegex(
                notes[0], f"StableDiffusionPipeline (does not fit this model .*: loaded|is taken) as {name}"
            )

    def test_a_class_that_fits_wins_over_the_models_own(self) -> None:
        for name, asked in (
            ("shapes", "StableDiffusionImg2ImgPipeline"),
            ("shapes", "StableDiffusionInpaintPipeline"),
            ("FluxPipeline", "FluxImg2ImgPipeline"),
            ("StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline"),
            ("LTX2Pipeline", "LTX2ImageToVideoPipeline"),
            ("QwenImagePipeline", "QwenImageInpaintPipeline"),
            ("shapes", "stablediffusionPIPELINE"),
            ("LatentConsistencyModelPipeline", "StableDiffusionPipeline"),
        ):
            chosen, notes = class_of(name, asked)
            self.assertEqual((chosen.lower(), notes), (asked.lower(), []), name)

    def test_a_misfit_gives_way_to_the_sibling_for_its_task(self) -> None:
        for name, asked, expected in (
            ("FluxPipeline", "StableDiffusionImg2ImgPipeline", "FluxImg2ImgPipeline"),
            ("shapes", "StableDiffusionXLInpaintPipeline", "StableDiffusionInpaintPipeline"),
            ("QwenImageEditPlusPipeline", "StableDiffusionXLPipeline", "QwenImageEditPlusPipeline"),
            ("shapes", "StableDiffusionXLPipeline", "StableDiffusionPipeline"),
        ):
            chosen, notes = class_of(name, asked)
            self.assertEqual(chosen, expected)
            self.assertIn(f"loaded as {expected}", notes[0])

    def test_a_plainer_class_of_the_same_kind_is_taken_as_the_models_own(self) -> None:
        """LocalAI's gallery asks for QwenImageEditPipeline where the repo is of the newer kind."""
        chosen, notes = class_of("QwenImageEditPlusPipeline", "QwenImageEditPipeline")
        self.assertEqual(chosen, "QwenImageEditPlusPipeline")
        self.assertIn("QwenImageEditPipeline is taken as QwenImageEditPlusPipeline", notes[0])

    def test_every_alias_and_task_picks_the_models_sibling(self) -> None:
        for name, asked, expected in (
            ("shapes", "stable-diffusion", "StableDiffusionPipeline"),
            ("shapes", "text-to-image", "StableDiffusionPipeline"),
            ("shapes", "txt2img", "StableDiffusionPipeline"),
            ("shapes", "img2img", "StableDiffusionImg2ImgPipeline"),
            ("shapes", "inpaint", "StableDiffusionInpaintPipeline"),
            ("FluxPipeline", "Image-To-Image", "FluxImg2ImgPipeline"),
            ("FluxPipeline", "flux", "FluxPipeline"),
            ("LTXPipeline", "image-to-video", "LTXImageToVideoPipeline"),
            ("StableDiffusionXLPipeline", "stable-diffusion-xl", "StableDiffusionXLPipeline"),
        ):
            self.assertEqual(class_of(name, asked)[0], expected, asked)

    def test_a_familys_name_on_another_family_gives_way(self) -> None:
        chosen, notes = class_of("FluxPipeline", "stable-diffusion")
        self.assertEqual(chosen, "FluxPipeline")
        self.assertIn("does not fit", notes[0])

    def test_auto_classes_and_general_ones_mean_the_task_or_the_models_own(self) -> None:
        for name, asked, expected in (
            ("FluxPipeline", "AutoPipelineForText2Image", "FluxPipeline"),
            ("WanPipeline", "DiffusionPipeline", "WanPipeline"),
            ("FluxPipeline", "AutoPipelineForImage2Image", "FluxImg2ImgPipeline"),
            ("StableDiffusionXLPipeline", "AutoPipelineForInpainting", "StableDiffusionXLInpaintPipeline"),
            ("TextToVideoSDPipeline", "VideoDiffusionPipeline", "TextToVideoSDPipeline"),
        ):
            self.assertEqual(class_of(name, asked)[0], expected, asked)

    def test_img2img_without_a_type_means_image_to_image(self) -> None:
        self.assertEqual(class_of("FluxPipeline", IMG2IMG=True)[0], "FluxImg2ImgPipeline")
        self.assertEqual(
            class_of("StableDiffusionInstructPix2PixPipeline", IMG2IMG=True)[0],
            "StableDiffusionInstructPix2PixPipeline",
        )

    def test_an_unknown_type_is_refused_with_the_closest(self) -> None:
        with self.assertRaisesRegex(LoadError, "Unknown .*'StableDifusionPipeline'.*StableDiffusionPipeline"):
            load(SHAPES_MODEL, PipelineType="StableDifusionPipeline")


class LoadTest(ModelCase):
    def test_the_shipped_model_makes_right_pictures_whatever_type_names_it(self) -> None:
        for asked in (
            "",
            "StableDiffusionPipeline",
            "stable-diffusion",
            "text-to-image",
            "img2img",
            "StableDiffusionXLPipeline",
        ):
            model = load(SHAPES_MODEL, PipelineType=asked, CFGScale=5)
            image, _ = generate(model, PROMPT, step=15, seed=1, width=64, height=64)
            self.assertEqual(judge(image).prompt(), PROMPT, asked)

    def test_f16_takes_the_fp16_files_where_there_are_any_and_plain_ones_where_not(self) -> None:
        model = self.copy()
        for file in model.glob("*/*.safetensors"):
            file.rename(file.with_suffix(".fp16.safetensors"))
        with self.assertRaises(LoadError):
            load(model, Options=["variant:bf16"])
        self.assertEqual(generate(load(model, F16Memory=True), PROMPT, step=1)[1].description, "PNG 64x64")
        self.assertEqual(type(load(SHAPES_MODEL, F16Memory=True).pipeline).__name__, "StableDiffusionPipeline")

    def test_the_dtype_that_is_asked_for_is_the_models(self) -> None:
        for option, dtype in (
            ("torch_dtype:bf16", torch.bfloat16),
            ("torch_dtype:fp32", torch.float32),
            ("dtype:float16", torch.float16),
        ):
            pipeline = load(SHAPES_MODEL, Options=[option], F16Memory=True).pipeline
            self.assertEqual({pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype}, {dtype})

    def test_wans_vae_is_loaded_in_fp32_though_the_rest_is_not(self) -> None:
        from unittest import mock

        from localai_diffusers.loading.placing import precision

        with mock.patch.object(precision, "_cpu_has_bf16", lambda: True):
            pipeline = load(checkpoint("WanPipeline"), F16Memory=True).pipeline
        self.assertEqual((pipeline.vae.dtype, pipeline.transformer.dtype), (torch.float32, torch.bfloat16))

    def test_the_scheduler_is_set_and_the_safety_checker_is_not_loaded(self) -> None:
        model = load(checkpoint("StableDiffusionPipelineSafe"), SchedulerType="k_euler")
        self.assertEqual(type(model.pipeline.scheduler).__name__, "EulerDiscreteScheduler")
        self.assertTrue(model.pipeline.scheduler.config.use_karras_sigmas)
        self.assertIsNone(model.pipeline.safety_checker)
        self.assertEqual(model.notes, ())

    def test_low_vram_and_threads_do_no_harm_on_a_cpu(self) -> None:
        model = load(SHAPES_MODEL, settings=Settings(xpu=True), LowVRAM=True, Threads=1)
        self.assertEqual((model.where.device, model.where.offload, torch.get_num_threads()), ("cpu", "none", 1))

    def test_memory_is_told_by_component(self) -> None:
        memory = load(SHAPES_MODEL).memory()
        self.assertEqual(memory.keys(), {"unet", "vae", "text_encoder"})
        self.assertGreater(memory["unet"], 4 * 10**6)

    def test_pickles_load_only_when_trusted(self) -> None:
        model = self.copy()
        for part in ("unet", "vae", "text_encoder"):
            file = next((model / part).glob("*.safetensors"))
            from safetensors.torch import load_file

            name = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
            torch.save(load_file(file), model / part / name)
            file.unlink()
        with self.assertRaisesRegex(LoadError, "is a pickle"):
            load(model)
        for trusted in (
            {"TrustRemoteCode": True},
            {"Options": ["use_safetensors:false"]},
            {"settings": Settings(safetensors=False)},
        ):
            self.assertEqual(type(load(model, **trusted).pipeline).__name__, "StableDiffusionPipeline")


class SingleFileTest(FolderCase):
    """A checkpoint in the original format, as model sites offer it; `config=` stands for the Hub's configs."""

    @classmethod
    def setUpClass(cls) -> None:
        folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.file = single_file.write_checkpoint(SHAPES_MODEL, Path(folder) / "dreamshaper.safetensors")

    def test_it_makes_the_right_picture_with_and_without_a_type(self) -> None:
        for asked, expected in (
            ("", "StableDiffusionPipeline"),
            ("StableDiffusionPipeline", "StableDiffusionPipeline"),
            ("img2img", "StableDiffusionImg2ImgPipeline"),
            ("AutoPipelineForText2Image", "StableDiffusionPipeline"),
        ):
            model = load(
                self.file,
                PipelineType=asked,
                Options=[f"config:{SHAPES_MODEL}"],
                SchedulerType="k_dpmpp_2m",
                F16Memory=True,
                CFGScale=5,
            )
            self.assertEqual(type(model.pipeline).__name__, expected)
            self.assertEqual(
                judge(generate(model, PROMPT, step=20, seed=1, width=64, height=64)[0]).prompt(), PROMPT, asked
            )

    def test_the_config_may_be_relative_to_model_path_but_not_leave_it(self) -> None:
        shutil.copytree(SHAPES_MODEL, self.folder / "models" / "configs" / "sd")
        fields = {"ModelPath": str(self.folder / "models"), "PipelineType": "StableDiffusionPipeline"}
        self.assertEqual(
            load(self.file, Options=["config:configs/sd"], **fields).pipeline.unet.config.cross_attention_dim, 64
        )
        with self.assertRaisesRegex(LoadError, "leaves the models folder"):
            load(self.file, Options=["config:../elsewhere"], **fields)

    def test_options_are_call_arguments_of_its_class(self) -> None:
        model = load(self.file, Options=[f"config:{SHAPES_MODEL}", "eta:0.5", "nonsense"])
        self.assertEqual(dict(model.defaults.options), {"eta": 0.5})
        self.assertRegex(model.notes[1], "option 'nonsense' is no argument of StableDiffusionPipeline and is ignored")

    def test_a_class_that_reads_no_single_file_says_so(self) -> None:
        with self.assertRaisesRegex(BackendError, "DDPMPipeline.*folder"):
            load(self.file, PipelineType="DDPMPipeline")


class RefusalTest(ModelCase):
    """What fails is refused while the earlier model still serves; the messages name what is wrong."""

    def refused(self, says: str, model: str | Path = SHAPES_MODEL, **fields: Any) -> None:
        """The first half of the load refuses it."""
        from tests.support import new_job

        with self.assertRaisesRegex(BackendError, says):
            pipelines.refuse_early(spec_of(model, **fields))
            pipelines.prepare(spec_of(model, **fields), Settings(), new_job())

    def test_what_cannot_be_a_diffusion_model_is_refused_within_a_second(self) -> None:
        (self.folder / "empty").mkdir()
        (self.folder / "notes.txt").write_text("x")
        llm = write_gguf(self.folder / "llama.gguf", "llama", vocabulary=50_000)
        for path, says in (
            (llm, "llama-cpp"),
            (self.folder / "empty", "It is empty"),
            (self.folder / "notes.txt", "no checkpoint"),
        ):
            began = time.monotonic()
            with self.assertRaisesRegex(LoadError, says):
                pipelines.refuse_early(spec_of(path))
            self.assertLess(time.monotonic() - began, 1.0)

    def test_broken_models_are_refused(self) -> None:
        model = self.copy()
        weights = model / "unet" / "diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        self.refused("unet/diffusion_pytorch_model.safetensors is no intact", model)
        weights.unlink()
        self.refused("unet holds no weights", model)
        (model / "model_index.json").write_text("{")
        self.refused("model_index.json is not readable JSON", model)

    def test_bad_names_are_refused(self) -> None:
        self.refused("SchedulerType 'eulerr' is unknown", SchedulerType="eulerr")
        self.refused("cannot drive this model", SchedulerType="flow_match_euler")
        self.refused("torch_dtype .or DType. 'bf17' is unknown", Options=["torch_dtype:bf17"])
        self.refused("device 'gpu' is unknown", Options=["device:gpu"])
        self.refused("offload:disk", Options=["offload:disk"])
        self.refused("option num_inference_steps", Options=["num_inference_steps:x"])
        self.refused("neither an existing file", "no-such-model.safetensors")

    def test_a_class_of_a_newer_diffusers_is_named(self) -> None:
        model = self.copy()
        self.edit(model / "model_index.json", _class_name="StableDiffusion9Pipeline")
        self.refused("StableDiffusion9Pipeline", model)

    def test_remote_code_runs_only_when_trusted(self) -> None:
        model = self.copy()
        self.edit(model / "model_index.json", _class_name=["own_pipeline", "OwnPipeline"])
        (model / "own_pipeline.py").write_text(
            "import diffusers\nclass OwnPipeline(diffusers.StableDiffusionPipeline):\n    own = True\n"
        )
        self.refused("trust_remote_code: true", model)
        self.refused("trust_remote_code: true", model, PipelineType="StableDiffusionPipeline")
        self.assertTrue(load(model, TrustRemoteCode=True).pipeline.own)

    def test_a_community_pipeline_is_code_too(self) -> None:
        folder = self.folder / "community"
        folder.mkdir()
        (folder / "pipeline.py").write_text(
            "import diffusers\nclass MyPipeline(diffusers.StableDiffusionPipeline):\n    mine = True\n"
        )
        self.refused("custom_pipeline.*trust_remote_code", Options=[f"custom_pipeline:{folder}"])
        self.assertTrue(load(SHAPES_MODEL, Options=[f"custom_pipeline:{folder}"], TrustRemoteCode=True).pipeline.mine)

    def test_custom_code_stands_under_the_models_folder_and_is_read_before_the_earlier_model_goes(self) -> None:
        folder = self.folder / "mine"
        folder.mkdir()
        code = (
            "import diffusers\n"
            "class Mine(diffusers.StableDiffusionPipeline):\n"
            "    def __call__(self, prompt, twice: float = 1.0, generator=None, num_inference_steps: int = 2):\n"
            "        return super().__call__(prompt, generator=generator, num_inference_steps=num_inference_steps)\n"
        )
        (folder / "pipeline.py").write_text(code)
        trusted: dict[str, Any] = {"TrustRemoteCode": True, "ModelPath": str(self.folder)}
        model = load(SHAPES_MODEL, Options=["custom_pipeline:mine", "twice:2"], **trusted)
        self.assertEqual((type(model.pipeline).__name__, dict(model.defaults.options)), ("Mine", {"twice": 2.0}))
        self.refused("option thrice:2 is taken by nothing", Options=["custom_pipeline:mine", "thrice:2"], **trusted)
        self.refused("custom_pipeline .*leaves the models folder", Options=["custom_pipeline:../x"], **trusted)
        self.refused("custom_pipeline:absent.py is no file", Options=["custom_pipeline:absent.py"], **trusted)
        (folder / "broken.py").write_text("import nothing_of_this_name\n")
        self.refused("custom_pipeline:mine/broken.py gives no", Options=["custom_pipeline:mine/broken.py"], **trusted)


class EarlierModelTest(ModelCase):
    """Two loads on one engine, the second of which fails."""

    def setUp(self) -> None:
        super().setUp()
        self.engine = Engine(8)
        self.addCleanup(self.engine.shutdown, 5)
        self.load(SHAPES_MODEL)
        self.first = self.engine.model

    def load(self, model: Path, **fields: Any) -> Any:
        spec = spec_of(model, **fields)
        return self.engine.load(spec.identity, lambda job, _current: pipelines.prepare(spec, Settings(), job)).wait(60)

    def test_a_failure_that_can_be_told_first_leaves_the_earlier_model(self) -> None:
        for fields in ({"SchedulerType": "x"}, {"PipelineType": "Nonsense"}, {"Options": ["device:cuda:9"]}):
            with self.assertRaises(BackendError):
                self.load(SHAPES_MODEL, **fields)
        other = self.copy()
        self.edit(other / "unet" / "config.json", cross_attention_dim=96)
        with self.assertRaisesRegex(LoadError, "of unet lack 14 of its tensors"):
            self.load(other)
        self.assertIs(self.engine.model, self.first)
        self.assertEqual((self.engine.identity, self.engine.state), (str(SHAPES_MODEL), State.READY))
        self.assertEqual(judge(generate(self.first, PROMPT, step=15, seed=1, width=64, height=64)[0]).prompt(), PROMPT)

    def test_a_failure_after_that_leaves_none_and_says_so(self) -> None:
        broken = self.copy()
        (broken / "tokenizer" / "tokenizer.json").write_text("{")
        with self.assertRaisesRegex(LoadError, "the earlier model was freed already: no model is loaded now"):
            self.load(broken)
        self.assertEqual((self.engine.model, self.engine.identity, self.engine.state), (None, "", State.UNINITIALIZED))
        self.load(SHAPES_MODEL)
        self.assertEqual(self.engine.state, State.READY)


class HubTest(ModelCase):
    """A repo id with the importer's class, in a fresh process: the client of the Hub reads its address at import."""

    CODE = """
import json, sys
from tests.support import load
notes = lambda model: [type(model.pipeline).__name__, *model.notes]
found = [notes(load("owner/sdxl", ModelFile="/nowhere", PipelineType="StableDiffusionPipeline", F16Memory=True)),
         notes(load("hf://owner/sdxl@main", ModelFile="/nowhere", Options=["local_files_only:true"])),
         notes(load("owner/half", ModelFile="/nowhere", PipelineType="StableDiffusionPipeline"))]
for name in ("missing", "pickled"):
    try:
        load(f"owner/{name}", ModelFile="/nowhere")
    except Exception as error:
        found.append([type(error).__name__, str(error)])
print(json.dumps(found))
"""

    def test_a_repo_is_downloaded_and_its_own_class_found(self) -> None:
        hub = self.folder / "hub" / "owner"
        shutil.copytree(checkpoint("StableDiffusionXLPipeline"), hub / "sdxl")
        for name, suffix in (("half", ".fp16.safetensors"), ("pickled", ".bin")):
            for file in shutil.copytree(SHAPES_MODEL, hub / name).glob("*/*.safetensors"):
                file.rename(file.with_suffix(suffix))
        self.edit(hub / "half" / "model_index.json", _class_name="TheirOwnPipeline")
        with FakeHub(self.folder / "hub") as hub:
            done = subprocess.run(
                [sys.executable, "-c", self.CODE],
                env=hub.environment(self.folder / "cache", PYTHONPATH=str(HOME)),
                cwd=HOME,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
        self.assertEqual(done.returncode, 0, done.stderr[-3000:])
        imported, again, half, missing, pickled = json.loads(done.stdout.splitlines()[-1])
        self.assertEqual(imported[0], "StableDiffusionXLPipeline")
        self.assertIn("does not fit this model", imported[1])
        self.assertEqual(again, ["StableDiffusionXLPipeline"])
        self.assertEqual(half, ["StableDiffusionPipeline"])  # fp16 files alone, and a class that only the YAML knows
        self.assertEqual(missing[0], "LoadError")
        self.assertRegex(pickled[1], "SAFETENSORS=0")


if __name__ == "__main__":
    unittest.main()
