# SPDX-License-Identifier: MIT
"""What takes pictures, masks, videos and sounds, over every class of the catalogue; no class is named in the rules."""

from __future__ import annotations

import re
import unittest
from typing import Any

import diffusers_dynamic_loader as loader
from localai_diffusers.pipeline import signatures
from localai_diffusers.pipeline.argument_values import accepted_types
from localai_diffusers.pipeline.signatures import EMPTY, parameters_of

KINDS = ("image_parameters", "mask_parameters", "video_parameters", "audio_parameters", "condition_parameters")
# Pictures that feed an adapter or a renderer, and what is only annotated as a picture: no matter of the request's own.
ADAPTERS = re.compile(r"ip_adapter|^gligen_inpaint_image$|^text_images$|latents|prompt$")
NUMBERS = re.compile(
    r"(^|_)(num|embeds|embeddings|latents|scale|strength|guidance|length|factor|size|count|steps)(_|$)"
)


def catalogue() -> dict[str, Any]:
    """Class name -> parameters of its call, for every class that can be imported."""
    registry, found = loader.get_pipeline_registry(), {}
    for name in loader.get_available_pipelines():
        if not name.startswith("AutoPipelineFor") and name != "DiffusionPipeline":
            try:
                found[name] = parameters_of(registry[name])
            except ImportError:
                continue
    return found


class CatalogueTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.known = catalogue()

    def test_no_parameter_is_of_two_kinds(self) -> None:
        for name, parameters in self.known.items():
            every = [known for kind in KINDS for known in getattr(signatures, kind)(parameters)]
            self.assertEqual(len(every), len(set(every)), name)

    def test_every_parameter_that_is_annotated_as_a_picture_is_taken_for_media(self) -> None:
        for name, parameters in self.known.items():
            for key, parameter in parameters.items():
                if "PIL.Image" in str(parameter.annotation) and not ADAPTERS.search(key):
                    self.assertTrue(signatures.takes_media(key, parameters), f"{name}.{key}")

    def test_no_number_scale_or_embedding_is_taken_for_media(self) -> None:
        for name, parameters in self.known.items():
            taken = [key for key in parameters if signatures.takes_media(key, parameters)]
            self.assertEqual([key for key in taken if NUMBERS.search(key)], [], name)
            plain = {key for key in taken if {int, float, bool, str} & set(accepted_types(parameters[key]))}
            self.assertLessEqual(plain, {"image"}, name)  # Versatile Diffusion annotates its picture as text

    def test_what_a_call_must_have_is_text_media_or_for_the_options_to_give(self) -> None:
        """The few others are tensors that another model makes, or plain values."""
        for name, parameters in self.known.items():
            for key, parameter in parameters.items():
                if parameter.default is not EMPTY or key == "prompt" or signatures.takes_media(key, parameters):
                    continue
                plain = bool(accepted_types(parameter))
                tensor = key.endswith(signatures.TENSOR_WORDS) or "Tensor" in str(parameter.annotation)
                self.assertTrue(
                    plain or tensor or "int" in str(parameter.annotation), f"{name}.{key}: {parameter.annotation}"
                )

    def test_the_main_picture_comes_first(self) -> None:
        for name, parameters in self.known.items():
            images = signatures.image_parameters(parameters)
            if "image" in images:
                self.assertEqual(images[0], "image", name)

    def test_a_mask_beside_a_video_masks_its_frames(self) -> None:
        masked = {name for name, parameters in self.known.items() if signatures.video_masks(parameters)}
        self.assertIn("WanVACEPipeline", masked)
        for name in masked:
            self.assertIn("video", self.known[name], name)

    def test_conditions_have_a_place_for_a_picture_and_a_clip(self) -> None:
        kinds = {
            kind.kind.__name__: kind
            for parameters in self.known.values()
            for kind in signatures.condition_parameters(parameters).values()
        }
        self.assertGreaterEqual(len(kinds), 3)
        for kind in kinds.values():
            self.assertTrue(kind.kind(**{kind.image: None}))


if __name__ == "__main__":
    unittest.main()
