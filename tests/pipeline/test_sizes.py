# SPDX-License-Identifier: MIT
"""Widths, heights and frame counts that a model can make."""

from __future__ import annotations

import unittest

from hypothesis import given
from hypothesis import strategies as st

from localai_diffusers.pipeline.sizes import (
    fit_within,
    frame_multiple,
    round_frames,
    round_size,
    size_multiple,
)
from tests.support import zoo_model

side = st.integers(1, 5000)


class RoundTest(unittest.TestCase):
    def test_each_side_goes_to_the_nearest_multiple(self) -> None:
        self.assertEqual(round_size(513, 500, 8), (512, 496))
        self.assertEqual(round_size(60, 21, 32), (64, 32))

    def test_no_side_becomes_0(self) -> None:
        self.assertEqual(round_size(1, 3, 64), (64, 64))

    @given(side, side, st.integers(1, 128))
    def test_a_rounded_size_is_a_multiple_and_near(self, width: int, height: int, multiple: int) -> None:
        for asked, made in zip((width, height), round_size(width, height, multiple), strict=True):
            self.assertEqual(made % multiple, 0)
            self.assertTrue(abs(asked - made) <= multiple / 2 or made == multiple)

    def test_frames_are_a_multiple_of_the_factor_and_one(self) -> None:
        self.assertEqual([round_frames(count, 4) for count in (1, 2, 16, 80, 81)], [1, 1, 17, 81, 81])
        self.assertEqual(round_frames(16, None), 16)


class FitTest(unittest.TestCase):
    def test_the_aspect_is_kept_within_the_bound(self) -> None:
        self.assertEqual(fit_within((1000, 500), (512, 512), 8), (512, 256))
        self.assertEqual(fit_within((500, 1000), (512, 512), 8), (256, 512))

    def test_nothing_is_enlarged_and_no_bound_is_no_bound(self) -> None:
        self.assertEqual(fit_within((64, 40), (512, 512), 8), (64, 40))
        self.assertEqual(fit_within((1000, 504), (None, None), 8), (1000, 504))
        self.assertEqual(fit_within((1000, 500), (None, 250), 1), (500, 250))

    @given(st.tuples(side, side), st.tuples(side, side))
    def test_the_result_is_within_the_bound_and_a_multiple(self, size: tuple[int, int], bound: tuple[int, int]) -> None:
        for made, limit in zip(fit_within(size, bound, 8), bound, strict=True):
            self.assertEqual(made % 8, 0)
            self.assertLessEqual(made, max(8, limit + 4))


class PipelinesTest(unittest.TestCase):
    """Of real tiny pipelines: what their own check_inputs insists on."""

    def test_what_the_code_refuses_all_but_multiples_of_is_a_multiple(self) -> None:
        """By a number, or by a product of the pipeline's and its components' attributes."""
        for name in ("SanaVideoPipeline", "LEditsPPPipelineStableDiffusion", "LTX2Pipeline"):
            self.assertEqual(size_multiple(zoo_model(name).pipeline) % 32, 0, name)
        glm = zoo_model("GlmImagePipeline").pipeline
        self.assertEqual(size_multiple(glm) % (glm.vae_scale_factor * glm.transformer.config.patch_size * 2), 0)

    def test_what_the_code_only_warns_of_is_none(self) -> None:
        """Bria's: "divisible by 32 ... Dimensions will be resized accordingly", and 16 will do."""
        bria = zoo_model("BriaPipeline").pipeline
        self.assertEqual(size_multiple(bria), bria.vae_scale_factor)

    def test_an_adapter_that_unshuffles_pixels_has_a_multiple(self) -> None:
        adapted = zoo_model("StableDiffusionXLAdapterPipeline").pipeline
        self.assertEqual(size_multiple(adapted) % adapted.adapter.downscale_factor, 0)

    def test_the_multiple_is_the_vaes_factor_times_the_patch(self) -> None:
        for name in (
            "StableDiffusionPipeline",
            "FluxPipeline",
            "StableDiffusion3Pipeline",
            "ZImagePipeline",
            "WanPipeline",
            "QwenImagePipeline",
            "LTXPipeline",
        ):
            pipeline = zoo_model(name).pipeline
            factor = next(
                getattr(pipeline, known)
                for known in ("vae_scale_factor", "vae_scale_factor_spatial", "vae_spatial_compression_ratio")
                if hasattr(pipeline, known)
            )
            self.assertEqual(size_multiple(pipeline) % factor, 0, name)
        self.assertEqual(
            size_multiple(zoo_model("FluxPipeline").pipeline), zoo_model("FluxPipeline").pipeline.vae_scale_factor * 2
        )

    def test_frames_are_what_the_model_makes(self) -> None:
        """CogVideoX decodes latents in pairs, and one more, LTX-Video only behind a switch; Latte knows one length,
        AnimateDiff a longest."""
        for name, asked, made in (
            ("CogVideoXPipeline", 5, 8),
            ("CogVideoXPipeline", 8, 8),
            ("CogVideoXPipeline", 9, 9),
            ("CogVideoXPipeline", 12, 9),
            ("CogVideoXPipeline", 48, 48),
            ("CogVideoXPipeline", 49, 49),
            ("LTXPipeline", 121, 121),
            ("WanPipeline", 2, 5),
            ("WanPipeline", 1, 1),
            ("MochiPipeline", 19, 19),
            ("LattePipeline", 9, 16),
            ("AnimateDiffPipeline", 40, 32),
            ("AnimateDiffPipeline", 7, 7),
        ):
            self.assertEqual(zoo_model(name).profile.fit_frames(asked), made, (name, asked))

    def test_a_unet_in_pixel_space_counts_its_halvings(self) -> None:
        pipeline = zoo_model("DDPMPipeline").pipeline
        self.assertEqual(size_multiple(pipeline), 2 ** (len(pipeline.unet.config.block_out_channels) - 1))

    def test_causal_video_vaes_tell_their_temporal_factor(self) -> None:
        wan = zoo_model("WanPipeline").pipeline
        self.assertEqual(frame_multiple(wan), wan.vae_scale_factor_temporal)
        self.assertIsNone(frame_multiple(zoo_model("StableDiffusionPipeline").pipeline))


class UNetTest(unittest.TestCase):
    def test_a_unet_that_cannot_restore_odd_sides_gets_even_ones(self) -> None:
        self.assertEqual(size_multiple(zoo_model("StableDiffusionXLControlNetXSPipeline").pipeline), 16)
        self.assertEqual(size_multiple(zoo_model("StableDiffusionXLPipeline").pipeline), 8)


if __name__ == "__main__":
    unittest.main()
