# SPDX-License-Identifier: MIT
"""The form in which an argument takes its media: of classes that few others are like."""

from __future__ import annotations

import unittest
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy
from PIL import Image

import diffusers_dynamic_loader as loader
from localai_diffusers.generation.arguments import media_forms
from localai_diffusers.generation.arguments.asked import Asked
from localai_diffusers.media.tracks import AudioTrack
from localai_diffusers.pipeline import signatures
from localai_diffusers.pipeline.defaults import ModelDefaults
from localai_diffusers.pipeline.profile import PipelineProfile, profile_of
from localai_diffusers.pipeline.signatures import parameters_of
from localai_diffusers.settings import Settings
from localai_diffusers.wire.intake import Intake
from localai_diffusers.wire.requests import GenerationRequest

WHITE = Image.new("RGB", (8, 6), "white")
FRAMES = [WHITE] * 5


def of(name: str, **parts: Any) -> PipelineProfile:
    """The profile of the class with nothing but ``parts``: its signature is what counts."""
    cls = loader.get_pipeline_registry()[name]
    pipeline = cls.__new__(cls)
    vars(pipeline).update(parts)
    return profile_of(pipeline)


def form(name: str, media: Mapping[str, Any], **parts: Any) -> Mapping[str, Any]:
    request, profile = GenerationRequest("GenerateImage", ""), of(name, **parts)
    asked = Asked(request, profile, ModelDefaults(), Intake(Settings()), seed=0)
    return media_forms.in_form(asked, media).arguments


class FormTest(unittest.TestCase):
    def test_a_video_that_must_be_a_tensor_has_the_layout_that_the_call_takes_apart(self) -> None:
        self.assertEqual(tuple(form("AnyFlowFARPipeline", {"video": FRAMES})["video"].shape), (1, 5, 3, 6, 8))
        made = form("EasyAnimateInpaintPipeline", {"video": FRAMES, "mask_video": FRAMES})
        self.assertEqual(tuple(made["video"].shape), (1, 3, 5, 6, 8))
        self.assertEqual((float(made["video"].max()), float(made["mask_video"].max())), (1.0, 1.0))
        self.assertEqual(tuple(made["mask_video"].shape), (1, 1, 5, 6, 8))
        made = form("EasyAnimateControlPipeline", {"ref_image": WHITE})
        self.assertEqual(tuple(made["ref_image"].shape), (1, 3, 1, 6, 8))

    def test_a_tensor_annotation_alone_changes_nothing(self) -> None:
        """FluxFill calls its picture a tensor, and its processor takes a picture."""
        self.assertEqual(form("FluxFillPipeline", {"image": WHITE}), {})
        self.assertEqual(form("WanImageToVideoPipeline", {"image": WHITE}), {})

    def test_one_picture_comes_in_a_list_where_only_lists_are_taken(self) -> None:
        for name, key in (
            ("WanVACEPipeline", "reference_images"),
            ("JoyImageEditPlusPipeline", "images"),
            ("OmniGenPipeline", "input_images"),
            ("StableCascadeCombinedPipeline", "images"),
            ("ZImageOmniPipeline", "image"),
            ("AnimateDiffControlNetPipeline", "conditioning_frames"),
        ):
            self.assertEqual(form(name, {key: WHITE})[key], [WHITE], name)
        self.assertEqual(form("FluxKontextPipeline", {"image": WHITE}), {})

    def test_examples_of_a_task_are_rows(self) -> None:
        one, two, three = (Image.new("RGB", (8, 8)) for _ in range(3))
        self.assertEqual(form("VisualClozePipeline", {"image": one})["image"], [[one, None]])
        rows = form("VisualClozePipeline", {"image": [one, two, three]})["image"]
        self.assertEqual(rows, [[one, two], [three, None]])


class ConditionsTest(unittest.TestCase):
    def test_the_first_picture_comes_at_the_start_and_the_last_at_the_end(self) -> None:
        for name, place, end in (("LTXConditionPipeline", "frame_index", 80), ("LTX2ConditionPipeline", "index", -1)):
            kinds = signatures.condition_parameters(parameters_of(loader.get_pipeline_registry()[name]))
            first, last = media_forms.conditions(kinds, [WHITE], WHITE, None, 81)["conditions"]
            self.assertEqual((getattr(first, place), getattr(last, place)), (0, end), name)

    def test_a_clip_goes_to_the_references_where_there_are_some(self) -> None:
        kinds = signatures.condition_parameters(parameters_of(loader.get_pipeline_registry()["LTX2InContextPipeline"]))
        found = media_forms.conditions(kinds, [WHITE], None, FRAMES, 81)
        self.assertEqual(
            {name: len(each) for name, each in found.items()}, {"conditions": 1, "reference_conditions": 1}
        )
        self.assertEqual(found["reference_conditions"][0].frames, FRAMES)

    def test_known_frames_are_kept_and_the_others_made(self) -> None:
        found = media_forms.around(WHITE, Image.new("RGB", (4, 4)), 5, "mask")
        self.assertEqual([mask.getpixel((0, 0)) for mask in found["mask"]], [0, 255, 255, 255, 0])
        self.assertEqual({frame.size for frame in found["video"]}, {(8, 6)})


class SoundTest(unittest.TestCase):
    TRACK = AudioTrack(numpy.zeros((1, 100), numpy.float32), 16000)

    def shape(self, name: str, key: str, channels: int = 2) -> tuple[int, ...]:
        vae = SimpleNamespace(config=SimpleNamespace(audio_channels=channels))
        return tuple(media_forms.sound(key, self.TRACK, of(name, vae=vae))[key].shape)

    def test_a_batch_where_the_call_says_so_and_the_models_channels(self) -> None:
        self.assertEqual(self.shape("AceStepPipeline", "src_audio"), (2, 100))
        self.assertEqual(self.shape("StableAudio3AudioToAudioPipeline", "audio"), (1, 2, 100))
        self.assertEqual(self.shape("StableAudioPipeline", "initial_audio_waveforms"), (1, 2, 100))

    def test_an_array_of_one_channel_where_one_is_taken(self) -> None:
        self.assertEqual(
            media_forms.sound("raw_audio", self.TRACK, of("AudioDiffusionPipeline"))["raw_audio"].shape, (100,)
        )


if __name__ == "__main__":
    unittest.main()
