"""What goes wrong inside a pipeline is told by its argument, its size or its package, through a real server."""

from __future__ import annotations

import json
import shutil
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from localai_diffusers.generation import complaints
from tests import zoo
from tests.rpc import Clip, RpcCase
from tests.support import zoo_model
from tests.zoo import video_recent

TWO_STEPS = "num_inference_steps:2"


class BlameTest(RpcCase):
    def test_an_argument_without_a_usable_default_is_named(self) -> None:
        """SkyReels V2 computes with its overlap_history, whose default is None."""
        self.load(zoo.checkpoint("SkyReelsV2DiffusionForcingVideoToVideoPipeline"), TWO_STEPS)
        self.assertIn(
            "needs overlap_history, which has no usable default", self.refusal(self.video, start_image=self.clip)
        )
        self.video(start_image=self.clip, params={"overlap_history": "5", "base_num_frames": "9"})

    def test_a_value_that_cannot_be_computed_with_is_named(self) -> None:
        """Text2Video-Zero counts 44 steps from the end of two."""
        self.load(zoo.checkpoint("TextToVideoZeroSDXLPipeline"), TWO_STEPS)
        self.assertIn("cannot use t0=44", self.refusal(self.video, num_frames=5))

    def test_what_a_pipeline_raises_on_purpose_is_a_refusal(self) -> None:
        self.load("AnyFlowFARPipeline")
        self.assertIn(
            "the pipeline refuses the request: chunk_partition=[1, 2] sums to 3",
            self.refusal(self.video, num_frames=13),
        )

    def test_a_size_that_its_tensors_cannot_have_is_named(self) -> None:
        """LTX's long videos are decoded in 4 x 4 tiles, of which 2 x 2 latents make none."""
        self.load(zoo.checkpoint("LTXI2VLongMultiPromptPipeline"), TWO_STEPS)
        self.assertIn("cannot work with width=64, height=64", self.refusal(self.video, start_image=self.picture))

    def test_what_only_another_model_makes_is_named_so(self) -> None:
        folder = self.build("ConsisIDPipeline", {**video_recent.consisid(), "transformer": _with_face()})
        self.load(folder, TWO_STEPS)
        self.assertIn(
            "left without id_cond: only other models make that", self.refusal(self.video, start_image=self.picture)
        )

    def test_code_of_diffusers_that_cannot_run_is_told_as_such(self) -> None:
        """EasyAnimateControlPipeline of 0.42.1 gives its own encode_prompt an argument that it does not take."""
        folder = self.build("EasyAnimateControlPipeline", video_recent.easyanimate(12)())
        self.load(folder, TWO_STEPS)
        said = self.refusal(self.video, params={"control_video": self.clip})
        self.assertRegex(
            said,
            r"EasyAnimateControlPipeline cannot do this: its code in diffusers \S+ does not run .*text_encoder_index",
        )

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

    def test_an_upsampler_keeps_the_aspect_of_its_clip(self) -> None:
        """Its width and height are the source's: by default it would make 512x704 of every clip first."""
        self.load("LTXLatentUpsamplePipeline")
        for size in ({"width": 0, "height": 0}, {"width": 96, "height": 64}):
            with self.subTest(size):
                self.assertEqual(Clip(self.video("", start_image=self.clip, **size)).size, (64, 64))

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
        from localai_diffusers.pipeline import sizes

        pipeline = zoo_model("AllegroPipeline").pipeline
        self.assertEqual([sizes.fit_frames(count, pipeline) for count in (1, 24, 33, 88)], [24, 24, 40, 88])
        self.assertEqual(sizes.fit_tiles(64, 200, pipeline), (128, 200))
        self.assertEqual(sizes.fit_tiles(64, 200, zoo_model("LTXPipeline").pipeline), (64, 200))


class PackageTest(unittest.TestCase):
    def test_a_class_of_a_package_that_is_not_installed_names_the_package(self) -> None:
        """OmniGen's constructor takes a class that its module imports only beside torchvision."""
        from diffusers.pipelines.omnigen import pipeline_omnigen

        with mock.patch.dict(vars(pipeline_omnigen)):
            vars(pipeline_omnigen).pop("OmniGenMultiModalProcessor", None)
            try:
                pipeline_omnigen.OmniGenPipeline(None, None, None, None)
            except NameError as error:
                self.assertIn("needs the Python package torchvision", complaints.missing_code(error))


class SoundnessTest(unittest.TestCase):
    """What is not about the call stays what it is."""

    def test_an_error_of_other_code_is_nobodys_fault(self) -> None:
        pipeline = zoo_model("DDPMPipeline").pipeline
        for failing in (lambda: None + 1, lambda: [][3], lambda: {}.nothing):
            try:
                failing()
            except (TypeError, IndexError, AttributeError) as error:
                self.assertIsNone(complaints.of_arguments(error, pipeline, {}))
                self.assertIsNone(complaints.of_code(error, pipeline))

    def test_memory_is_no_shape(self) -> None:
        pipeline = zoo_model("DDPMPipeline").pipeline
        self.assertIsNone(
            complaints.of_shapes(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), pipeline, {"width": 8})
        )


if __name__ == "__main__":
    unittest.main()
