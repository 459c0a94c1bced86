# SPDX-License-Identifier: MIT
"""Gaps between the pinned libraries stay closed."""

from __future__ import annotations

import importlib
import logging
import pkgutil
import unittest
from unittest import mock

from localai_diffusers import patches
from localai_diffusers.patches import kit, modular_log, single_file_classes
from tests.support import SHAPES_MODEL, generate, load, zoo_model
from tests.zoo import checkpoint

EVERY = [found.name for found in pkgutil.iter_modules(patches.__path__) if found.name != "kit"]


class PatchesTest(unittest.TestCase):
    def test_each_says_why_for_which_version_and_when_it_may_go(self) -> None:
        for name in EVERY:
            said = importlib.import_module(f"localai_diffusers.patches.{name}").__doc__
            self.assertRegex(said, r"(?s)^[^\n]+\n\nFor: .*\d.*\nMay go: ", name)
        self.assertLessEqual(set(patches.OF_CALLS), set(EVERY))

    def test_a_model_enters_those_alone_that_it_needs(self) -> None:
        for model, names in (
            ("DDPMPipeline", ()),
            ("FluxPipeline", ("clip_text_model",)),
            ("WanPipeline", ()),
            ("StableDiffusionPipeline", ("clip_text_model",)),
            ("ChromaInpaintPipeline", ("absent_flags",)),
            ("MusicLDMPipeline", ("clap_text_features",)),
            ("GlmImagePipeline", ("glm_image_rows",)),
            ("HeliosPyramidPipeline", ("singular_covariance",)),
            ("VersatileDiffusionPipeline", ("dual_attention",)),
        ):
            found = [patch.__name__.rpartition(".")[2] for patch in patches.needed(zoo_model(model).pipeline)]
            self.assertEqual(found, list(names), model)

    def test_it_is_decided_once(self) -> None:
        pipeline = zoo_model("FluxPipeline").pipeline
        first = patches.needed(pipeline)
        with mock.patch.object(kit, "has", side_effect=AssertionError("asked again")):
            self.assertIs(patches.needed(pipeline), first)

    def test_one_that_fails_on_entry_leaves_none_of_the_earlier(self) -> None:
        from transformers import CLIPTextModel

        from localai_diffusers.patches import clip_text_model

        broken = mock.Mock(applied=mock.Mock(side_effect=RuntimeError("broken")))
        with (
            mock.patch.object(patches, "needed", lambda _pipeline: (clip_text_model, broken)),
            self.assertRaisesRegex(RuntimeError, "broken") as caught,
            patches.during_calls(object()),
        ):
            self.fail("entered")
        self.assertFalse(hasattr(CLIPTextModel, "text_model"))
        self.assertIsNotNone(caught.exception)  # and the traceback with it, which held the patches before

    def test_a_name_that_cannot_be_replaced_leaves_the_others_as_they_were(self) -> None:
        class Owner:
            one = 1

            def __setattr__(self, name: str, value: object) -> None:
                if name == "three":
                    raise AttributeError(name)
                super().__setattr__(name, value)

        owner = Owner()
        with self.assertRaises(AttributeError), kit.replaced(owner, one=2, two=2, three=3):
            self.fail("entered")
        self.assertEqual((owner.one, vars(owner)), (1, {}))


class OwnNamesTest(unittest.TestCase):
    """Names of the process are as they were outside of the block."""

    def test_a_class_is_readable_from_a_file_while_one_is_read(self) -> None:
        from diffusers import PRXTransformer2DModel
        from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES as table

        before = dict(table)
        with single_file_classes.applied(PRXTransformer2DModel, dict):
            self.assertEqual(table.keys() - before.keys(), {"PRXTransformer2DModel"})
        self.assertEqual(table, before)

    def test_a_modular_pipelines_logger_is_as_loud_as_before_after_its_call(self) -> None:
        logger = logging.getLogger("diffusers.modular_pipelines.modular_pipeline")
        before = logger.level
        with modular_log.applied():
            self.assertFalse(logger.isEnabledFor(logging.ERROR))
        self.assertEqual(logger.level, before)


class ClipSkip(unittest.TestCase):
    def test_clip_skip_changes_the_picture_of_a_stable_diffusion_1_model(self) -> None:
        model = load(SHAPES_MODEL)
        plain, skipped = (
            generate(model, "a red circle on a blue background", width=64, height=64, step=4, seed=1, CLIPSkip=skip)[
                0
            ].tobytes()
            for skip in (0, 1)
        )
        self.assertNotEqual(plain, skipped)

    def test_the_attribute_is_gone_after_the_call(self) -> None:
        from transformers import CLIPTextModel

        generate(load(SHAPES_MODEL), "a red circle on a blue background", width=64, height=64, step=2, CLIPSkip=1)
        self.assertFalse(hasattr(CLIPTextModel, "text_model"))


class Numpy(unittest.TestCase):
    def test_it_is_entered_for_old_pipelines_in_bf16_alone(self) -> None:
        names = ("numbers_for_numpy",)
        old, new = (load(checkpoint(name), Options=["torch_dtype:bf16"]) for name in ("DDPMPipeline", "FluxPipeline"))
        for model, expected in ((old, names), (new, ("clip_text_model",)), (zoo_model("DDPMPipeline"), ())):
            found = tuple(patch.__name__.rpartition(".")[2] for patch in patches.needed(model.pipeline))
            self.assertEqual(found, expected)

    def test_a_pipeline_that_hands_bf16_to_numpy_makes_its_picture(self) -> None:
        model = load(checkpoint("VQDiffusionPipeline"), Options=["torch_dtype:bf16"])
        self.assertEqual(generate(model, "a cat", step=2, seed=1)[0].size, (64, 64))


if __name__ == "__main__":
    unittest.main()
