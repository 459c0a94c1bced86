# SPDX-License-Identifier: MIT
"""GenerateVideo, through a real server: what fills which argument, sizes, frames, rates and containers."""

from __future__ import annotations

import base64
import unittest
from pathlib import Path

import numpy

from tests.rpc import SMALL, Clip, RpcCase


class SiblingsTest(RpcCase):
    """A request that the loaded class does not serve runs another class on the same weights."""

    def log_of(self) -> str:
        return self.server.backend.log

    def assert_runs_as(self, model: str, sibling: str, **fields: str) -> Clip:
        self.load(model)
        clip = Clip(self.video(**fields))
        self.assertIn(f"{model} runs as {sibling} on the same weights", self.log_of())
        return clip

    def test_text_alone_runs_the_text_to_video_class(self) -> None:
        for model, sibling in (
            ("LTXImageToVideoPipeline", "LTXPipeline"),
            ("LTX2ImageToVideoPipeline", "LTX2Pipeline"),
            ("Kandinsky5I2VPipeline", "Kandinsky5T2VPipeline"),
            ("SanaImageToVideoPipeline", "SanaVideoPipeline"),
        ):
            with self.subTest(model):
                self.assertEqual(self.assert_runs_as(model, sibling).size, (64, 64))

    def test_a_start_image_runs_the_image_to_video_class(self) -> None:
        for model, sibling in (
            ("LTXPipeline", "LTXImageToVideoPipeline"),
            ("LTX2Pipeline", "LTX2ImageToVideoPipeline"),
            ("SanaVideoPipeline", "SanaImageToVideoPipeline"),
            ("SkyReelsV2DiffusionForcingPipeline", "SkyReelsV2DiffusionForcingImageToVideoPipeline"),
        ):
            with self.subTest(model):
                self.assertEqual(self.assert_runs_as(model, sibling, start_image=self.picture).size, (64, 64))

    def test_a_clip_runs_the_video_to_video_class(self) -> None:
        for model, sibling in (
            ("WanPipeline", "WanVideoToVideoPipeline"),
            ("CogVideoXPipeline", "CogVideoXVideoToVideoPipeline"),
            ("AnimateDiffPipeline", "AnimateDiffVideoToVideoPipeline"),
            ("LTX2Pipeline", "LTX2ConditionPipeline"),
        ):
            with self.subTest(model):
                self.assertEqual(len(self.assert_runs_as(model, sibling, start_image=self.clip).frames), 9)

    def test_an_end_image_runs_a_class_of_the_package_that_takes_one(self) -> None:
        self.assert_runs_as("LTX2Pipeline", "LTX2ConditionPipeline", start_image=self.picture, end_image=self.second)

    def test_weights_that_do_not_fit_the_sibling_are_told_as_such(self) -> None:
        """Wan's weights for text have 16 channels in, those for pictures 36."""
        self.load("WanPipeline")
        self.assertIn(
            "these weights run as WanPipeline (takes text alone) and not as WanImageToVideoPipeline",
            self.refusal(self.video, start_image=self.picture),
        )
        self.load("WanImageToVideoPipeline")
        self.assertIn("WanImageToVideoPipeline (takes image, last_image)", self.refusal(self.video))

    def test_a_family_without_such_a_class_says_what_it_takes(self) -> None:
        self.load("MochiPipeline")
        self.assertIn("MochiPipeline takes text alone", self.refusal(self.video, start_image=self.picture))


class MediaTest(RpcCase):
    def test_the_start_image_decides_and_the_end_image_too(self) -> None:
        self.load("LTXConditionPipeline")
        made = {
            name: Clip(self.video(name=f"{name}.mp4", start_image=self.picture, **fields)).frames
            for name, fields in (("start", {}), ("both", {"end_image": self.second}))
        }
        self.assertTrue((numpy.array(made["start"][-1]) != numpy.array(made["both"][-1])).any())

    def test_vace_takes_first_and_last_frame_as_a_video_with_a_mask(self) -> None:
        self.load("WanVACEPipeline")
        self.assertEqual(len(Clip(self.video(start_image=self.picture, end_image=self.second)).frames), 9)

    def test_a_path_base64_and_a_data_uri_are_one(self) -> None:
        self.load("StableVideoDiffusionPipeline")
        text = base64.b64encode(Path(self.picture).read_bytes()).decode()
        forms = (self.picture, text, f"data:image/png;base64,{text}")
        made = [
            self.video("", name=f"{number}.gif", start_image=form).read_bytes() for number, form in enumerate(forms)
        ]
        self.assertEqual(len(set(made)), 1)

    def test_params_name_further_media_by_path(self) -> None:
        self.load("WanVACEPipeline")
        self.video(params={"video": self.clip, "mask": self.clip})
        self.video(params={"video": self.clip, "mask": self.mask})  # one for each frame
        self.video(params={"reference_images": f'["{self.picture}", "{self.second}"]'})
        self.load("CogVideoXFunControlPipeline")
        self.video(params={"control_video": self.clip})

    def test_missing_clips_are_named(self) -> None:
        self.load("WanAnimatePipeline")
        self.assertIn("also needs pose_video, face_video", self.refusal(self.video, start_image=self.picture))
        self.video(start_image=self.picture, params={"pose_video": self.clip, "face_video": self.clip})

    def test_a_control_picture_is_one_frame_of_the_control_video(self) -> None:
        self.load("AnimateDiffSparseControlNetPipeline")
        self.video(start_image=self.picture, num_frames=5)

    def test_an_end_image_that_nothing_takes_is_refused(self) -> None:
        self.load("StableVideoDiffusionPipeline")
        self.assertIn(
            "takes no last picture", self.refusal(self.video, start_image=self.picture, end_image=self.second)
        )

    def test_what_is_no_media_is_refused_by_its_field(self) -> None:
        self.load("StableVideoDiffusionPipeline")
        self.assertIn("start_image", self.refusal(self.video, start_image=str(self.folder / "mono.wav")))
        self.assertIn("end_image", self.refusal(self.video, start_image=self.picture, end_image="/nowhere.png"))


class LastImageTest(RpcCase):
    def test_wan_takes_the_end_image_where_its_weights_were_made_for_two(self) -> None:
        """Those have a place for both pictures' tokens; others refuse, and say so."""
        self.load("WanImageToVideoPipeline")
        self.assertIn(
            "end_image=",
            self.refusal(self.video, start_image=self.picture, end_image=self.second),
        )
        folder = self.folder / "first-last"
        if not folder.exists():
            _first_last_model(folder)
        self.load(folder, "num_inference_steps:2")
        ends = [
            Clip(self.video(name=f"{number}.mp4", start_image=self.picture, end_image=end)).frames[-1]
            for number, end in enumerate((self.picture, self.second))
        ]
        self.assertTrue((ends[0] != ends[1]).any())


def _first_last_model(folder: Path) -> None:
    """Wan 2.1 for a first and a last frame: the tokens of two pictures have positions."""
    from tests.zoo import video
    from tests.zoo.kit import as_published, assemble

    parts = video.wan_image()
    vision = parts["image_encoder"].config
    tokens = (vision.image_size // vision.patch_size) ** 2 + 1
    parts["transformer"] = video.wan_transformer(
        in_channels=36, image_dim=32, added_kv_proj_dim=24, pos_embed_seq_len=2 * tokens
    )
    assemble("WanImageToVideoPipeline", parts).save_pretrained(folder)
    as_published(folder)


class AnimationsTest(RpcCase):
    """An animated picture counts as the clip that it is where a clip is taken, else its first frame does."""

    def animation(self, name: str, **options: object) -> str:
        from tests.zoo import call

        first, *rest = call.frames(9, 64)
        path = self.path(name)
        first.save(path, save_all=True, append_images=rest, duration=120, loop=0, **options)
        return str(path)

    def test_every_frame_counts_for_video_to_video_of_a_text_model_too(self) -> None:
        for name in ("a.gif", "a.webp", "a.png"):
            source = self.animation(name)
            for model in ("AnimateDiffVideoToVideoPipeline", "AnimateDiffPipeline", "LTXConditionPipeline"):
                self.load(model)
                with self.subTest(name, model=model):
                    self.assertEqual(len(Clip(self.video(start_image=source)).frames), 9)

    def test_its_own_rate_counts(self) -> None:
        self.load("AnimateDiffVideoToVideoPipeline")
        for name in ("a.gif", "a.webp", "a.png"):
            self.assertAlmostEqual(Clip(self.video(start_image=self.animation(name), fps=0)).rate, 25 / 3, places=2)

    def test_the_first_frame_is_the_picture_where_one_is_taken(self) -> None:
        self.load("LTXImageToVideoPipeline")
        moving = self.video(name="moving.gif", start_image=self.animation("a.webp", lossless=True))
        still = self.path("still.png")
        from tests.zoo import call

        call.frames(1, 64)[0].save(still)
        self.assertEqual(moving.read_bytes(), self.video(name="still.gif", start_image=str(still)).read_bytes())

    def test_an_animated_src_is_a_clip_of_a_video_model_and_a_picture_of_others(self) -> None:
        source = self.animation("a.gif")
        self.load("AnimateDiffVideoToVideoPipeline")
        self.assertEqual(len(Clip(self.image(src=source)).frames), 9)
        self.load("StableDiffusionPipeline")
        self.image(src=source)


class SizesTest(RpcCase):
    def setUp(self) -> None:
        super().setUp()
        self.load("WanPipeline")

    def test_sizes_and_frames_are_rounded_and_told(self) -> None:
        clip = Clip(self.video(width=70, height=50, num_frames=8))
        self.assertEqual((clip.size, len(clip.frames)), ((64, 48), 9))
        self.assertIn("num_frames 8 is rounded to 9; 70x50 is rounded to 64x48", self.message)
        self.assertIn("70x50 is rounded to 64x48", self.server.backend.log)

    def test_the_size_that_is_asked_for_is_made_whatever_the_start_images(self) -> None:
        self.load("LTXImageToVideoPipeline")
        clip = Clip(self.video(start_image=self.picture, width=96, height=32))
        self.assertEqual(clip.size, (96, 32))

    def test_an_upsampled_clip_gets_the_size_that_is_asked_for_else_its_own_times_the_factor(self) -> None:
        for model in ("LTXLatentUpsamplePipeline", "LTX2LatentUpsamplePipeline"):
            self.load(model)
            with self.subTest(model):
                own = Clip(self.video(start_image=self.clip, width=0, height=0, num_frames=0))
                asked = Clip(self.video(start_image=self.clip, width=256, height=128, num_frames=0))
                self.assertEqual((asked.size, own.size), ((256, 128), (64, 64)))

    def test_without_a_size_and_frames_the_pipelines_own_count(self) -> None:
        self.load("AnimateDiffPipeline", "num_frames:16")
        clip = Clip(self.video(width=0, height=0, num_frames=0))
        self.assertEqual(len(clip.frames), 16)
        self.load("TextToVideoSDPipeline", "num_frames:4")
        self.assertEqual(len(Clip(self.video(width=0, height=0, num_frames=0)).frames), 4)

    def test_a_model_of_one_length_makes_that(self) -> None:
        self.load("LattePipeline")
        self.assertEqual(len(Clip(self.video()).frames), 16)
        self.assertIn("rounded to 16", self.message)

    def test_no_more_frames_than_the_motion_layers_have_places(self) -> None:
        self.load("AnimateDiffPipeline")
        self.assertEqual(len(Clip(self.video(width=32, height=32, num_frames=40)).frames), 32)


class RatesTest(RpcCase):
    def test_without_a_rate_it_is_the_models_own(self) -> None:
        """A default of the call (LTX), else the rate that the class's example saves at (Wan)."""
        for model, rate in (("WanPipeline", 16), ("LTX2Pipeline", 24), ("CogVideoXPipeline", 8), ("LTXPipeline", 25)):
            self.load(model)
            self.assertEqual(Clip(self.video(name=f"{model}.mp4")).rate, rate, model)

    def test_a_model_without_a_rate_keeps_that_of_the_clip(self) -> None:
        from localai_diffusers.media import videos
        from tests.zoo import call

        clip = self.path("clip.mp4")
        videos.encode_video(call.frames(), 12.0, clip, "mp4", None)
        self.load("AnimateDiffVideoToVideoPipeline")
        self.assertEqual(Clip(self.video(start_image=str(clip))).rate, 12)
        self.assertEqual(Clip(self.video(start_image=str(clip), fps=5)).rate, 5)

    def test_a_rate_that_is_asked_for_counts(self) -> None:
        self.load("WanPipeline")
        self.assertEqual(Clip(self.video(fps=5)).rate, 5)

    def test_a_rate_that_params_tell_the_call_is_the_files_too(self) -> None:
        self.load("LTXPipeline")
        self.assertEqual(Clip(self.video(params={"frame_rate": "30"})).rate, 30)


class ParamsTest(RpcCase):
    def setUp(self) -> None:
        super().setUp()
        self.load("WanPipeline")

    def test_an_unknown_one_is_refused_with_the_closest(self) -> None:
        self.assertIn(
            "params['guidance_scal'] is no argument of WanPipeline (did you mean 'guidance_scale'?)",
            self.refusal(self.video, params={"guidance_scal": "2"}),
        )

    def test_a_wrong_type_is_refused(self) -> None:
        self.assertIn("WanPipeline takes float", self.refusal(self.video, params={"guidance_scale": "high"}))

    def test_they_reach_the_call(self) -> None:
        made = {
            value: self.video(name=f"{value}.gif", params={"guidance_scale": value}).read_bytes()
            for value in ("1.0", "9.0")
        }
        self.assertNotEqual(made["1.0"], made["9.0"])
        self.assertNotEqual(self.video(name="cfg.gif", cfg_scale=9.0).read_bytes(), made["1.0"])


class ContainersTest(RpcCase):
    def test_h264_in_mp4_whatever_dst_is_called(self) -> None:
        self.load("WanPipeline")
        for name in ("a.mp4", "b.tmp", "c"):
            clip = Clip(self.video(name=name))
            self.assertEqual((clip.codec, clip.pixels), ("h264", "yuv420p"), name)

    def test_gif_and_webm_by_their_extensions(self) -> None:
        self.load("WanPipeline")
        self.assertTrue(self.video(name="a.gif").read_bytes().startswith(b"GIF89a"))
        self.assertIn("webm", Clip(self.video(name="a.webm")).format)

    def test_the_sound_of_a_model_that_makes_one_is_muxed(self) -> None:
        self.load("LTX2Pipeline")
        self.assertEqual(Clip(self.video(name="a.mp4")).sound, [16000])
        self.assertEqual(Clip(self.video(name="b.tmp")).sound, [16000])
        self.assertEqual(len(Clip(self.video(name="a.webm")).sound), 1)
        self.assertIn("sound at 16000 Hz", self.message)

    def test_a_model_of_pictures_makes_no_video(self) -> None:
        self.load("StableDiffusionPipeline")
        self.assertIn("StableDiffusionPipeline makes image", self.refusal(self.video))


class EmptyPromptTest(RpcCase):
    def test_an_empty_prompt_is_a_prompt(self) -> None:
        for model in ("SanaVideoPipeline", "LTX2Pipeline"):  # Gemma's tokenizers give no token of their own for it
            self.load(model)
            self.video("", **SMALL)


if __name__ == "__main__":
    unittest.main()
