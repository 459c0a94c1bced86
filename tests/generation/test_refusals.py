# SPDX-License-Identifier: MIT
"""Whose an error inside a pipeline is, by where it comes from, and that the request's is told with what was given."""

from __future__ import annotations

import json
import shutil
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import backend_pb2
from localai_diffusers import errors
from localai_diffusers.generation import batching, refusals, upscaling
from localai_diffusers.wire import requests
from localai_diffusers.work.jobs import Job
from tests import zoo
from tests.rpc import Clip, RpcCase
from tests.support import FolderCase, generate, image_request, load, new_job, zoo_model
from tests.zoo import video_recent

TWO_STEPS = "num_inference_steps:2"


class BlameTest(RpcCase):
    """Through a real server: INVALID_ARGUMENT with the pipeline's words and what the request gave."""

    def assert_told(self, words: str, given: str, **request: Any) -> None:
        said = self.refusal(self.video, **request)
        self.assertRegex(said, rf"Pipeline refuses the request: .*{words}.*the request gave it .*{given}")
        self.assertNotIn("a cat", said)

    def test_an_argument_without_a_usable_default_can_be_given(self) -> None:
        """SkyReels V2 computes with its overlap_history, whose default is None."""
        self.load(zoo.checkpoint("SkyReelsV2DiffusionForcingVideoToVideoPipeline"), TWO_STEPS)
        self.assert_told("'NoneType'", "video=9 of 64x64", start_image=self.clip)
        self.video(start_image=self.clip, params={"overlap_history": "5", "base_num_frames": "9"})

    def test_a_value_that_cannot_be_computed_with_is_among_what_was_given(self) -> None:
        """Text2Video-Zero counts t0 steps from the end of two."""
        self.load(zoo.checkpoint("TextToVideoZeroSDXLPipeline"), TWO_STEPS, "t0:44")
        self.assert_told("out of bounds", "t0=44", num_frames=5)

    def test_what_a_pipeline_raises_on_purpose_is_a_refusal(self) -> None:
        self.load("AnyFlowFARPipeline")
        self.assert_told(r"chunk_partition=\[1, 2\] sums to 3", "num_frames=13", num_frames=13)

    def test_a_small_size_is_decoded_in_as_many_tiles_as_it_has(self) -> None:
        """LTX's long videos are decoded in 4 x 4 tiles, of which 2 x 2 latents make none."""
        self.load(zoo.checkpoint("LTXI2VLongMultiPromptPipeline"), TWO_STEPS)
        for side in (64, 160):
            made = Clip(self.video(start_image=self.picture, width=side, height=side))
            self.assertEqual(made.size, (side, side))

    def test_a_size_that_its_tensors_cannot_have_is_named(self) -> None:
        """Attend-and-Excite smooths maps of attention by three."""
        self.load("StableDiffusionAttendAndExcitePipeline")
        said = self.refusal(self.image, width=16, height=16)
        self.assertRegex(said, "refuses the request: .*adding size.*width=16, height=16")

    def test_what_only_another_model_makes_is_no_fault_of_the_server(self) -> None:
        folder = self.build("ConsisIDPipeline", {**video_recent.consisid(), "transformer": _with_face()})
        self.load(folder, TWO_STEPS)
        self.assert_told("'NoneType'", "image=64x64", start_image=self.picture)

    def test_code_of_diffusers_that_cannot_run_says_what_python_says(self) -> None:
        """EasyAnimateControlPipeline of 0.42.1 gives its own encode_prompt an argument that it does not take."""
        folder = self.build("EasyAnimateControlPipeline", video_recent.easyanimate(12)())
        self.load(folder, TWO_STEPS)
        self.assert_told("text_encoder_index", "control_video", params={"control_video": self.clip})

    def test_a_guard_that_is_not_installed_is_named_at_the_load(self) -> None:
        with self.assertRaises(AssertionError) as caught:
            self.load(zoo.checkpoint("Cosmos2TextToImagePipeline"))
        self.assertIn("pip install cosmos_guardrail", str(caught.exception))

    def test_a_guard_that_is_built_in_is_off_only_for_who_says_so(self) -> None:
        folder = self.folder / "guarded"
        if not folder.exists():
            shutil.copytree(zoo.checkpoint("Cosmos3OmniPipeline"), folder)
            index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
            (folder / "model_index.json").write_text(
                json.dumps(index | {"enable_safety_checker": True}), encoding="utf-8"
            )
        with self.assertRaisesRegex(AssertionError, "pip install cosmos_guardrail"):
            self.load(folder)
        self.load(folder, TWO_STEPS, "safety_checker:false")
        self.assertEqual(len(Clip(self.video()).frames), 9)

    def test_text_cannot_stand_for_a_tensor(self) -> None:
        self.load("WanPipeline")
        self.assertIn(
            "cannot be said in text: WanPipeline takes a Tensor there",
            self.refusal(self.video, params={"latents": "x"}),
        )

    def build(self, name: str, parts: dict[str, Any]) -> Path:
        """The folder of a model that no entry of the zoo is."""
        from tests.zoo.kit import as_published, assemble

        path = self.folder / f"built-{name}"
        if not path.exists():
            assemble(name, parts).save_pretrained(path)
            as_published(path)
        return path


def _with_face() -> Any:
    from tests.zoo.kit import model

    return model(
        "ConsisIDTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=8,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=32,
        num_layers=1,
        sample_width=4,
        sample_height=4,
        sample_frames=9,
        patch_size=2,
        max_text_seq_length=16,
        use_rotary_positional_embeddings=True,
        is_train_face=True,
        cross_attn_interval=1,
        cross_attn_dim_head=1,
        cross_attn_num_heads=1,
        LFE_id_dim=2,
        LFE_vit_dim=2,
        LFE_depth=5,
        LFE_dim_head=8,
        LFE_num_heads=2,
        LFE_num_id_token=1,
        LFE_num_querie=1,
        LFE_output_dim=10,
        LFE_ff_mult=1,
        LFE_num_scale=1,
    )


class RightFileTest(RpcCase):
    def test_a_class_that_calls_its_picture_optional_starts_from_text(self) -> None:
        self.load("Kandinsky6TI2VAPipeline")
        self.assertEqual(Clip(self.video(fps=24)).sound, [16000])

    def test_an_upsampler_keeps_the_aspect_of_its_clip_where_no_size_is_asked_for(self) -> None:
        """Its width and height are those before: by default it would make 512x704 of every clip first."""
        self.load("LTXLatentUpsamplePipeline")
        for asked, made in (((0, 0), (64, 64)), ((128, 64), (128, 64)), ((0, 128), (128, 128))):
            with self.subTest(asked):
                size = dict(zip(("width", "height"), asked, strict=True))
                self.assertEqual(Clip(self.video("", start_image=self.clip, **size)).size, made)

    def test_a_sound_given_to_a_text_model_runs_its_sibling_and_the_other_way_round(self) -> None:
        for model, sound, sibling in (
            ("StableAudio3Pipeline", "noise.wav", "StableAudio3AudioToAudioPipeline"),
            ("StableAudio3AudioToAudioPipeline", "", "StableAudio3Pipeline"),
        ):
            with self.subTest(model):
                self.load(model)
                self.sound(src=str(self.folder / sound) if sound else "")
                self.assertIn(f"{model} runs as {sibling} on the same weights", self.server.backend.log)

    def test_a_pipeline_with_a_seed_of_its_own_is_given_the_requests(self) -> None:
        self.load("LTXI2VLongMultiPromptPipeline")
        made = [
            self.video(name=f"{number}.gif", start_image=self.picture, seed=seed).read_bytes()
            for number, seed in enumerate((5, 5, 6))
        ]
        self.assertEqual([made[0] == made[1], made[0] == made[2]], [True, False])


class TilesTest(unittest.TestCase):
    def test_a_vae_of_whole_tiles_gets_sizes_and_frames_that_they_fill(self) -> None:
        """Allegro's: elsewhere its picture stays black, without a word."""
        profile = zoo_model("AllegroPipeline").profile
        self.assertEqual([profile.fit_frames(count) for count in (1, 24, 33, 88)], [24, 24, 40, 88])
        self.assertEqual(profile.fit_size(64, 192), (128, 192))
        self.assertEqual(zoo_model("LTXPipeline").profile.fit_size(64, 192), (64, 192))


def failed(work: Any, name: str = "StableDiffusionPipeline", step: int = 0, **arguments: Any) -> Exception:
    """What is told of the error that ``work``, as code of a library, raises in a call of a zoo's model."""
    pipeline = zoo_model(name).pipeline
    namespace = {"work": work, "__name__": "library"}
    exec("def call(): return work()" if callable(work) else f"def call(): {work}", namespace)
    try:
        namespace["call"]()
    except Exception as error:
        return refusals.told(error, pipeline, type(pipeline), arguments, step)
    raise AssertionError("it did not fail")


class PackageTest(unittest.TestCase):
    def test_a_class_of_a_package_that_is_not_installed_names_the_package(self) -> None:
        """OmniGen's constructor takes a class that its module imports only beside torchvision."""
        from diffusers.pipelines.omnigen import pipeline_omnigen

        with mock.patch.dict(vars(pipeline_omnigen), {"is_torchvision_available": lambda: False}):
            vars(pipeline_omnigen).pop("OmniGenMultiModalProcessor", None)
            try:
                pipeline_omnigen.OmniGenPipeline(None, None, None, None)
            except NameError as error:
                self.assertEqual(errors.missing_package(error), "the Python package torchvision is not installed")

    def test_a_missing_package_is_unimplemented_and_named_at_any_step(self) -> None:
        for step in (0, 3):
            error = failed("import no_such_package.part", step=step)
            self.assertIn("the Python package no_such_package is not installed", str(error))
            self.assertEqual(errors.status_name(error), "UNIMPLEMENTED")

    def test_a_name_that_is_nowhere_is_no_missing_package(self) -> None:
        self.assertIsInstance(failed("nowhere"), errors.InvalidRequest)


class RuleTest(unittest.TestCase):
    """By where an error comes from, not by its words."""

    def test_until_the_first_step_has_ended_it_is_the_requests(self) -> None:
        for source in ("1 / 0", "None + 1", "[][3]", "{}.nothing", "raise RuntimeError('x')", "assert False"):
            with self.subTest(source):
                self.assertIsInstance(failed(source), errors.InvalidRequest)
                self.assertEqual(errors.status_name(failed(source, step=1)), "INTERNAL")

    def test_memory_files_and_the_accelerator_are_never_the_requests(self) -> None:
        import torch

        memory, device = torch.OutOfMemoryError("CUDA out of memory"), torch.AcceleratorError("CUDA error: x")
        for error in (memory, device, FileNotFoundError("vae.safetensors"), errors.Cancelled("left")):
            with self.subTest(error):
                self.assertIs(failed(mock.Mock(side_effect=error)), error)

    def test_our_own_error_is_not_the_requests_either(self) -> None:
        from localai_diffusers.pipeline import sizes

        pipeline = zoo_model("StableDiffusionPipeline").pipeline
        try:
            sizes.fit_within(None, (1, 1), 8)
        except TypeError as error:
            self.assertIs(refusals.told(error, pipeline, type(pipeline), {}, 0), error)

    def test_what_was_given_is_told_without_a_word_of_a_text(self) -> None:
        from PIL import Image

        picture = Image.new("RGB", (8, 4))
        given = {"prompt": "a secret", "num_inference_steps": 3, "image": picture, "images": [picture, picture]}
        said = str(failed("1 / 0", **given, prompt_embeds=object(), lyrics="a secret", generator=object()))
        self.assertIn("the request gave it prompt, step=3, image=8x4, images=2 of 8x4, prompt_embeds, lyrics", said)
        self.assertNotIn("secret", said)

    def test_a_picture_that_is_missing_and_a_sibling_are_told(self) -> None:
        self.assertIn("takes image", str(failed("1 / 0", "StableDiffusionImg2ImgPipeline", prompt="x")))
        pipeline = zoo_model("WanPipeline").pipeline
        try:
            exec("1 / 0", {"__name__": "library"})
        except ZeroDivisionError as error:
            told = refusals.told(error, pipeline, type(zoo_model("FluxPipeline").pipeline), {}, 0)
        self.assertIn("these weights run as FluxPipeline", str(told))


class PartsTest(FolderCase):
    """A later part of a request is judged by its own steps, and tells its own notes."""

    def test_a_later_tile_that_is_refused_before_its_first_step_is_the_requests(self) -> None:
        model = zoo_model("StableDiffusionUpscalePipeline")
        message = backend_pb2.UpscaleImageRequest(src=self.picture(size=(400, 64)), dst=str(self.folder / "out.png"))
        request, job = requests.from_upscale_request(message, model.settings), new_job()
        checked = mock.patch.object(type(model.pipeline), "check_inputs", side_effect=[None, ValueError("no")])
        with checked, self.assertRaisesRegex(errors.InvalidRequest, "refuses the request: ValueError: no"):
            upscaling.upscale(model, request, 4, job)

    def test_a_call_that_is_refused_after_its_inversion_is_the_requests(self) -> None:
        model = zoo_model("LEditsPPPipelineStableDiffusion")
        checked = mock.patch.object(type(model.pipeline), "check_inputs", side_effect=ValueError("no"))
        with checked, self.assertRaisesRegex(errors.InvalidRequest, "refuses the request: ValueError: no"):
            generate(model, "", src=self.picture(), step=2, seed=1)

    def test_every_member_of_a_batch_is_told_what_was_changed_for_its_model(self) -> None:
        model = load(zoo.checkpoint("QwenImagePipeline"), Options=["max_batch:2"])
        small: dict[str, Any] = {"step": 1, "width": 32, "height": 32}
        wanted = [image_request(f"cat {seed}", model.settings, seed=seed, **small) for seed in (1, 2)]
        jobs = [Job(lambda _job: None, "x", batch=batching.batch_for(model, request)) for request in wanted]
        self.assertTrue(jobs[0].batch.run(jobs, model))
        for job in jobs:
            job.settle()
            self.assertIn("step=1 is too few", job.wait(1).message())


if __name__ == "__main__":
    unittest.main()
