# SPDX-License-Identifier: MIT
"""The rows of quirks: each is whole, true of its example and not of an ordinary model, and does what it says."""

from __future__ import annotations

import dataclasses
import inspect
import unittest
from typing import Any
from unittest import mock

import diffusers
import torch
from PIL import Image

from localai_diffusers.pipeline import quirks
from localai_diffusers.pipeline.profile import profile_of
from localai_diffusers.pipeline.quirks import Quirk, Subject, subject_of
from tests.support import zoo_model
from tests.zoo import ENTRIES

ROWS: dict[str, Quirk[Any]] = {row.name: row for table in quirks.TABLES for row in table}
ORDINARY = "StableDiffusionPipeline"


def subject(name: str) -> Subject:
    """The zoo's model of that class; the class alone where the zoo has none."""
    return subject_of(zoo_model(name).pipeline) if name in ENTRIES else Subject(getattr(diffusers, name))


class RowsTest(unittest.TestCase):
    def test_every_row_is_whole(self) -> None:
        self.assertEqual(len(ROWS), sum(map(len, quirks.TABLES)), "two rows have one name")
        for row in ROWS.values():
            for known in dataclasses.fields(row):
                self.assertTrue(getattr(row, known.name), f"{row.name} has no {known.name}")

    def test_every_row_is_true_of_its_example_and_not_of_an_ordinary_model(self) -> None:
        ordinary = subject(ORDINARY)
        for row in ROWS.values():
            with self.subTest(row.name):
                self.assertTrue(row.applies(subject(row.example)))
                self.assertFalse(row.applies(ordinary))

    def test_every_row_has_a_test_of_its_name(self) -> None:
        tests = {name.removeprefix("test_") for case in (CallsTest, ProfileTest, LoadTest) for name in dir(case)}
        self.assertEqual(ROWS.keys() - tests, set())


class CallsTest(unittest.TestCase):
    def changed(self, row: str, **arguments: Any) -> dict[str, Any]:
        """What the row changes in such a call of its example, {} for nothing."""
        known = ROWS[row]
        change = known.effect(arguments, subject(known.example))
        return {} if change is None else dict(change.arguments)

    def assert_two_steps(self, row: str, name: str = "num_inference_steps") -> None:
        self.assertEqual(self.changed(row, **{name: 1}), {name: 2})
        self.assertEqual(self.changed(row, **{name: 3}), {})

    def test_mask_of_repaint(self) -> None:
        mask = Image.new("L", (2, 1))
        mask.putpixel((0, 0), 255)
        self.assertEqual(self.changed("mask_of_repaint", mask_image=mask)["mask_image"].tobytes(), b"\0\xff")

    def test_timestep_between_two_steps_of_sana_sprint(self) -> None:
        row, name = "timestep_between_two_steps_of_sana_sprint", "intermediate_timesteps"
        self.assertEqual(self.changed(row, num_inference_steps=15), {name: None})
        for steps in ({}, {"num_inference_steps": 2}, {"num_inference_steps": 4, name: 1.2}):
            self.assertEqual(self.changed(row, **steps), {})

    def test_two_steps_for_a_terminal_shift(self) -> None:
        self.assert_two_steps("two_steps_for_a_terminal_shift")

    def test_two_steps_for_a_linear_quadratic_schedule(self) -> None:
        self.assert_two_steps("two_steps_for_a_linear_quadratic_schedule")

    def test_two_steps_without_a_distilled_scheduler(self) -> None:
        self.assert_two_steps("two_steps_without_a_distilled_scheduler")

    def test_two_steps_of_unclip(self) -> None:
        self.assert_two_steps("two_steps_of_unclip", "decoder_num_inference_steps")
        self.assertFalse(ROWS["two_steps_of_unclip"].applies(subject("StableDiffusionPipeline")))

    def test_moments_of_text_to_video_zero(self) -> None:
        row = "moments_of_text_to_video_zero"
        self.assertEqual(self.changed(row), {})
        self.assertEqual(self.changed(row, num_inference_steps=25), {"num_inference_steps": 25, "t0": 22, "t1": 23})
        self.assertEqual(self.changed(row, num_inference_steps=1), {"num_inference_steps": 2, "t0": 0, "t1": 1})
        set_by_hand = self.changed(row, num_inference_steps=2, t0=3, t1=5)
        self.assertEqual(set_by_hand, {"num_inference_steps": 6, "t0": 3, "t1": 5})

    def test_own_size_of_glm_image(self) -> None:
        pipeline = zoo_model("GlmImagePipeline").pipeline
        side = pipeline.default_sample_size * pipeline.vae_scale_factor
        self.assertEqual(self.changed("own_size_of_glm_image", width=64), {"width": 64, "height": side})
        self.assertEqual(self.changed("own_size_of_glm_image", width=64, height=32), {})
        self.assertEqual(self.changed("own_size_of_glm_image", image=[Image.new("RGB", (8, 8))]), {})

    def test_pictures_of_glm_image_in_lists(self) -> None:
        picture = Image.new("RGB", (8, 8))
        self.assertEqual(self.changed("pictures_of_glm_image_in_lists", image=picture), {"image": [picture]})
        self.assertEqual(self.changed("pictures_of_glm_image_in_lists", image=[picture]), {})

    def test_two_latents_for_reflection(self) -> None:
        row = "two_latents_for_reflection"
        self.assertEqual(self.changed(row, width=32, height=96), {"width": 64})
        self.assertEqual(self.changed(row, width=64), {})
        self.assertTrue(ROWS[row].applies(subject("SanaWMPipeline")))  # on the same autoencoder
        for other in ("LTXPipeline", "LTX2LatentUpsamplePipeline"):
            self.assertFalse(ROWS[row].applies(subject(other)), other)

    def test_tiles_wider_than_their_overlap(self) -> None:
        row, factor = "tiles_wider_than_their_overlap", 32
        self.assertEqual(self.changed(row, width=16 * factor, height=16 * factor), {})
        few = {"decode_horizontal_tiles": 1, "decode_vertical_tiles": 2}
        self.assertEqual(self.changed(row, width=2 * factor, height=5 * factor), few)
        self.assertEqual(self.changed(row, width=2 * factor, height=2 * factor, decode_overlap=0), {n: 2 for n in few})

    def test_second_latent_frame_of_kandinsky(self) -> None:
        self.assertEqual(self.changed("second_latent_frame_of_kandinsky", num_frames=1), {"num_frames": 5})
        self.assertEqual(self.changed("second_latent_frame_of_kandinsky", num_frames=5), {})

    def test_size_of_unidiffuser(self) -> None:
        self.assertEqual(self.changed("size_of_unidiffuser", width=32, height=64), {"width": 64})
        self.assertEqual(self.changed("size_of_unidiffuser", prompt="a cat"), {})

    def test_area_of_the_size(self) -> None:
        """Kontext would scale any size to a megapixel."""
        self.assertEqual(self.changed("area_of_the_size", width=64, height=32), {"max_area": 64 * 32})
        self.assertEqual(self.changed("area_of_the_size", width=64, height=32, max_area=9), {})

    def test_schedule_of_guidance(self) -> None:
        default = subject("Ideogram4Pipeline").parameters["guidance_schedule"].default
        found = self.changed("schedule_of_guidance", num_inference_steps=4)["guidance_schedule"]
        self.assertEqual(found, [default[len(default) * step // 4] for step in range(4)])
        self.assertEqual(self.changed("schedule_of_guidance", num_inference_steps=4, guidance_schedule=[1.0]), {})
        self.assertEqual(self.changed("schedule_of_guidance", guidance_scale=3.0), {"guidance_schedule": None})

    def test_no_bin_for_an_unknown_sample_size(self) -> None:
        row = "no_bin_for_an_unknown_sample_size"
        self.assertEqual(self.changed(row), {"use_resolution_binning": False})
        self.assertEqual(self.changed(row, use_resolution_binning=True), {})
        for name, expected in (("SanaVideoPipeline", True), ("PixArtSigmaPAGPipeline", True), ("SanaPipeline", False)):
            self.assertIs(ROWS[row].applies(subject(name)), expected, name)  # SanaPipeline's is a published size
        self.assertFalse(ROWS[row].applies(subject("PRXPipeline")))
        with mock.patch.object(zoo_model("PRXPipeline").pipeline, "default_sample_size", 48):
            self.assertTrue(ROWS[row].applies(subject("PRXPipeline")))

    def test_edit_instruction_of_bria_fibo(self) -> None:
        made = {"prompt": '{"edit_instruction": "make it \\"blue\\""}'}
        self.assertEqual(self.changed("edit_instruction_of_bria_fibo", prompt='make it "blue"'), made)
        self.assertEqual(self.changed("edit_instruction_of_bria_fibo", **made), {})

    def test_negative_prompt_of_easyanimate(self) -> None:
        self.assertEqual(self.changed("negative_prompt_of_easyanimate"), {"negative_prompt": ""})
        self.assertEqual(self.changed("negative_prompt_of_easyanimate", negative_prompt="fog"), {})

    def test_attention_by_size(self) -> None:
        self.assertEqual(self.changed("attention_by_size"), {"attn_res": None})
        self.assertEqual(self.changed("attention_by_size", attn_res=[8, 8]), {})

    def test_depth_as_array(self) -> None:
        self.assertEqual(self.changed("depth_as_array"), {"output_type": "np"})
        self.assertEqual(self.changed("depth_as_array", output_type="latent"), {})

    def test_transparency_for_an_autoencoder_of_four_channels(self) -> None:
        row, picture = "transparency_for_an_autoencoder_of_four_channels", Image.new("RGB", (8, 8))
        self.assertEqual(self.changed(row, image=picture)["image"].mode, "RGBA")
        self.assertEqual([part.mode for part in self.changed(row, image=[picture, picture])["image"]], ["RGBA"] * 2)
        self.assertEqual(self.changed(row), {})

    def test_mask_of_easyanimate_in_levels(self) -> None:
        mask = self.changed("mask_of_easyanimate_in_levels", mask_video=torch.ones(1, 1, 2, 4, 4))["mask_video"]
        self.assertEqual(float(mask.max()), 255)
        self.assertEqual(self.changed("mask_of_easyanimate_in_levels"), {})

    def test_examples_of_visualcloze(self) -> None:
        rows = ROWS["examples_of_visualcloze"].effect["image"]
        self.assertEqual([rows(list(text)) for text in ("a", "ab")], [[["a", None]], [["a", "b", None]]])
        self.assertEqual(rows(list("abcde")), [["a", "b"], ["c", "d"], ["e", None]])

    def test_tags_of_omnigen(self) -> None:
        pictures, tag = [Image.new("RGB", (8, 8))] * 2, "<img><|image_{}|></img>"
        found = self.changed("tags_of_omnigen", prompt=f"{tag.format(1)} in red", input_images=pictures)
        self.assertEqual(found, {"prompt": f"{tag.format(2)} {tag.format(1)} in red"})
        self.assertEqual(self.changed("tags_of_omnigen", prompt="a cat"), {})


class ProfileTest(unittest.TestCase):
    def test_latents_of_stable_cascade(self) -> None:
        profile = zoo_model("StableCascadeCombinedPipeline").profile
        self.assertEqual(profile.multiple % round(3 * profile.pipeline.prior_pipe.config.resolution_multiple), 0)

    def test_latents_of_kandinsky(self) -> None:
        profile = zoo_model("KandinskyV22CombinedPipeline").profile
        self.assertEqual(profile.multiple % 4 ** (len(profile.pipeline.movq.config.block_out_channels) - 1), 0)

    def test_sides_of_allegro(self) -> None:
        self.assertEqual(zoo_model("AllegroPipeline").profile.fit_size(64, 192), (128, 192))

    def test_frames_of_allegro(self) -> None:
        profile = zoo_model("AllegroPipeline").profile
        self.assertEqual([profile.fit_frames(count) for count in (1, 24, 33, 88)], [24, 24, 40, 88])

    def test_tiles_of_a_sized_upscaler(self) -> None:
        profile = zoo_model("IFSuperResolutionPipeline").profile
        self.assertEqual(profile.tile, profile.pipeline.unet.config.sample_size // 4)

    def test_one_length_of_latte(self) -> None:
        profile = zoo_model("LattePipeline").profile
        self.assertEqual([profile.fit_frames(count) for count in (1, 9)], [1, 16])

    def test_places_of_motion_layers(self) -> None:
        profile = zoo_model("AnimateDiffPipeline").profile
        self.assertEqual([profile.fit_frames(count) for count in (7, 40)], [7, 32])

    def test_latents_of_cogvideox_in_batches(self) -> None:
        profile = zoo_model("CogVideoXPipeline").profile
        self.assertEqual([profile.fit_frames(count) for count in (1, 5, 12, 48)], [1, 8, 9, 48])

    def test_instrumental_of_ace_step(self) -> None:
        fields = ROWS["instrumental_of_ace_step"].effect
        model = subject("AceStepPipeline")
        self.assertEqual(fields({"instrumental": True, "bpm": 9}, model), {"bpm": 9, "lyrics": "[Instrumental]"})
        self.assertEqual(fields({"instrumental": True, "lyrics": "la"}, model), {"lyrics": "la"})
        self.assertEqual(fields({"instrumental": False}, model), {})

    def test_frame_rate_of_mochi(self) -> None:
        self.assertEqual(profile_of(zoo_model("MochiPipeline").pipeline).frame_rate, 30)

    def test_frame_rate_of_ltx_latents(self) -> None:
        self.assertEqual(profile_of(zoo_model("LTXLatentUpsamplePipeline").pipeline).frame_rate, 25)

    def test_guidance_of_distilled_classes(self) -> None:
        guidance = profile_of(zoo_model("SanaSprintPipeline").pipeline).guidance
        self.assertEqual(guidance.arguments(None, distilled=True), {})
        self.assertEqual(guidance.arguments(4.0, distilled=True), {"guidance_scale": 4.0})


class LoadTest(unittest.TestCase):
    def numbers(self, row: str, component: str = "vae") -> quirks.Numbers:
        return quirks.numbers_of(subject(ROWS[row].example))[component]

    def test_wan_decodes_in_fp32(self) -> None:
        self.assertEqual(self.numbers("wan_decodes_in_fp32").dtype, "float32")

    def test_sana_in_bf16(self) -> None:
        found = self.numbers("sana_in_bf16", "transformer")
        self.assertEqual((found.half, found.variant, found.dtype), ("bfloat16", "bf16", ""))

    def test_allegro_decodes_in_tiles(self) -> None:
        self.assertTrue(zoo_model("AllegroPipeline").pipeline.vae.use_tiling)
        self.assertTrue(self.numbers("allegro_decodes_in_tiles").tiling)

    def test_own_dtype_that_the_code_does_not_ask_for(self) -> None:
        row = ROWS["own_dtype_that_the_code_does_not_ask_for"]
        self.assertEqual(row.effect({"vae": "float32"}, subject("JoyImageEditPipeline")), {})
        self.assertFalse(row.applies(subject("WanPipeline")))

    def test_pictures_cast_to_bf16(self) -> None:
        found = ROWS["pictures_cast_to_bf16"].effect({"x": "float32"}, subject("ZImageOmniPipeline"))
        self.assertEqual(found, {"x": "float32", "vae": "bfloat16"})

    def test_guard_of_cosmos(self) -> None:
        row = ROWS["guard_of_cosmos"]
        self.assertLessEqual(row.effect.keys(), inspect.signature(subject(row.example).cls.__init__).parameters.keys())


if __name__ == "__main__":
    unittest.main()
