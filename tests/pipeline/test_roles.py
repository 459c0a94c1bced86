# SPDX-License-Identifier: MIT
"""What a picture is to a class, asked of the whole catalogue's signatures and code."""

from __future__ import annotations

import unittest

import diffusers_dynamic_loader as loader
from localai_diffusers.pipeline.roles import Role, role_of
from localai_diffusers.pipeline.signatures import image_parameters, parameters_of

MAIN = {
    Role.SOURCE: """StableDiffusionImg2ImgPipeline StableDiffusionXLImg2ImgPipeline FluxImg2ImgPipeline
        StableDiffusion3Img2ImgPipeline QwenImageImg2ImgPipeline KandinskyV22Img2ImgCombinedPipeline IFImg2ImgPipeline
        StableDiffusionControlNetImg2ImgPipeline FluxControlImg2ImgPipeline StableDiffusionInstructPix2PixPipeline
        StableDiffusionDepth2ImgPipeline""",
    Role.EDITED: """FluxKontextPipeline Flux2Pipeline Flux2KleinPipeline QwenImageEditPipeline GlmImagePipeline
        QwenImageEditPlusPipeline QwenImage21Pipeline OmniGenPipeline LongCatImageEditPipeline QwenImageLayeredPipeline
        JoyImageEditPipeline DreamLitePipeline ZImageOmniPipeline BriaFiboEditPipeline VisualClozeGenerationPipeline""",
    Role.CONTROL: """StableDiffusionControlNetPipeline StableDiffusionXLControlNetUnionPipeline FluxControlPipeline
        FluxControlNetPipeline StableDiffusion3ControlNetPipeline StableDiffusionAdapterPipeline CogView4ControlPipeline
        StableDiffusionXLControlNetXSPipeline QwenImageControlNetPipeline ZImageControlNetPipeline""",
    Role.REFERENCE: """StableDiffusionImageVariationPipeline StableUnCLIPImg2ImgPipeline StableCascadeCombinedPipeline
        UnCLIPImageVariationPipeline BlipDiffusionPipeline VersatileDiffusionImageVariationPipeline ShapEImg2ImgPipeline
        StableDiffusionGLIGENTextImagePipeline""",
}


class RolesTest(unittest.TestCase):
    def test_of_the_first_picture(self) -> None:
        for role, names in MAIN.items():
            for name in names.split():
                cls = loader.get_pipeline_registry()[name]
                with self.subTest(name):
                    self.assertIs(role_of(image_parameters(parameters_of(cls))[0], cls), role)

    def test_of_the_others(self) -> None:
        for name, key, role in (
            ("FluxControlImg2ImgPipeline", "control_image", Role.CONTROL),
            ("BlipDiffusionControlNetPipeline", "condtioning_image", Role.CONTROL),
            ("PaintByExamplePipeline", "example_image", Role.REFERENCE),
            ("FluxKontextInpaintPipeline", "image_reference", Role.REFERENCE),
        ):
            self.assertIs(role_of(key, loader.get_pipeline_registry()[name]), role, name)


if __name__ == "__main__":
    unittest.main()
