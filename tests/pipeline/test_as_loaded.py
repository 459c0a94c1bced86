# SPDX-License-Identifier: MIT
"""What a request changes in a pipeline is the request's alone, however it ends."""

from __future__ import annotations

import unittest
from typing import Any

from localai_diffusers.errors import Cancelled
from localai_diffusers.generation import generation
from localai_diffusers.pipeline.as_loaded import AsLoaded
from tests.support import SHAPES_MODEL, FolderCase, generate, image_request, load, new_job
from tests.zoo import checkpoint


def upset(model: Any, **fields: Any) -> None:
    """A request that is cancelled where its picture is decoded."""
    job = new_job()
    decoder = model.pipeline.vae.decoder
    handle = decoder.register_forward_pre_hook(lambda *_: job.cancel("the client left"))
    try:
        generation.generate(model, image_request("a cat", model.settings, **fields), job)
    finally:
        handle.remove()


class AsLoadedTest(unittest.TestCase):
    def test_an_upcast_for_the_decode_is_undone_where_the_decode_does_not_end(self) -> None:
        import torch

        model = load(checkpoint("StableDiffusionXLPipeline"), Options=["torch_dtype:fp16"])
        before, _ = generate(model, "a cat", width=64, height=64, step=2, seed=1)
        model.restore()
        with self.assertRaises(Cancelled):
            upset(model, width=64, height=64, step=1)
        self.assertEqual(model.pipeline.vae.decoder.conv_out.weight.dtype, torch.float32)
        model.restore()
        self.assertEqual(model.pipeline.vae.decoder.conv_out.weight.dtype, torch.float16)
        after, _ = generate(model, "a cat", width=64, height=64, step=2, seed=1)
        self.assertEqual(before.tobytes(), after.tobytes())

    def test_processors_modules_and_plain_attributes_are_set_back(self) -> None:
        from diffusers.models.attention_processor import AttnProcessor

        pipeline = load(SHAPES_MODEL).pipeline
        kept, processors = AsLoaded(pipeline), dict(pipeline.unet.attn_processors)
        pipeline.unet.set_attn_processor(AttnProcessor())
        pipeline.vae.use_tiling, pipeline.scheduler.timesteps = True, None
        conv_out = pipeline.vae.decoder._modules.pop("conv_out")
        self.assertGreater(len(kept.restore()), 4)
        self.assertEqual(dict(pipeline.unet.attn_processors), processors)
        self.assertFalse(pipeline.vae.use_tiling)
        self.assertIsNotNone(pipeline.scheduler.timesteps)
        self.assertIs(pipeline.vae.decoder.conv_out, conv_out)
        self.assertEqual(kept.restore(), [])


class SiblingTest(FolderCase):
    def test_a_sibling_leaves_the_scheduler_and_the_configs_as_they_are(self) -> None:
        model = load(SHAPES_MODEL, SchedulerType="pndm")
        pipeline = model.pipeline
        configs = {
            name: dict(part.config) for name, part in pipeline.components.items() if hasattr(part, "config_name")
        }
        generate(model, "a red circle", width=64, height=64, step=4, seed=1, **{"src": self.picture()})
        sibling = model.pipeline_as(type(model._active))
        self.assertIsNot(sibling, pipeline)
        self.assertIsNot(sibling.scheduler, pipeline.scheduler)
        self.assertEqual(dict(sibling.scheduler.config), configs["scheduler"])
        now = {name: dict(part.config) for name, part in pipeline.components.items() if hasattr(part, "config_name")}
        self.assertEqual(now, configs)


if __name__ == "__main__":
    unittest.main()
