# SPDX-License-Identifier: MIT
"""Caches of a denoiser: how many blocks they compute, what a request leaves, and what is refused by name."""

from __future__ import annotations

import tempfile
import unittest
from collections import Counter
from pathlib import Path
from typing import Any

from localai_diffusers.errors import InvalidRequest, LoadError
from localai_diffusers.wire.option_values import Named
from tests.support import generate, load
from tests.wire.test_load_spec import spec
from tests.zoo import checkpoint
from tests.zoo.call import arguments
from tests.zoo.call import picture as source_of

STEPS = 8
FLUX = "FluxPipeline"


def counted(model: Any) -> Counter[str]:
    """Runs of the layers that do the work, by name, from now on: under the hooks, which stand in ``forward``."""
    runs: Counter[str] = Counter()
    for name, module in model.pipeline.transformer.named_modules():
        if name.endswith("to_q"):
            module.register_forward_hook(lambda *_, name=name: runs.update([name]))
    return runs


def share(runs: Counter[str]) -> float:
    """Attentions computed ÷ (blocks x steps)."""
    share = sum(runs.values()) / (len(runs) * STEPS)
    runs.clear()
    return share


def picture(model: Any, **fields: Any) -> str:
    _picture, message = generate(model, "a cat", **{"width": 64, "height": 64, "step": STEPS, "seed": 1, **fields})
    return str(message)


class SharesTest(unittest.TestCase):
    def shares(self, option: str, name: str = FLUX, **fields: Any) -> float:
        """The same of two equal requests."""
        model = load(checkpoint(name), Options=[f"cache:{option}"])
        runs = counted(model)
        self.assertNotIn("off for this request", picture(model, **fields))
        first = share(runs)
        picture(model, **fields)
        self.assertEqual(share(runs), first, "a second request starts from nothing")
        return first

    def test_first_block_computes_the_first_alone_where_little_changes(self) -> None:
        self.assertEqual(self.shares("first_block(threshold=1000)"), (STEPS + 1) / (2 * STEPS))
        self.assertEqual(self.shares("first_block(threshold=0)"), 1)

    def test_taylorseer_computes_at_its_interval(self) -> None:
        self.assertEqual(self.shares("taylorseer(cache_interval=4, disable_cache_before_step=2)"), 4 / STEPS)

    def test_pyramid_computes_within_its_range_at_every_second_step(self) -> None:
        option = "pyramid(spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=[0, 1001])"
        self.assertEqual(self.shares(option), 0.5)

    def test_faster_skips_below_its_timestep(self) -> None:
        self.assertLess(self.shares("faster"), 1)

    def test_mag_is_told_the_steps_of_the_request(self) -> None:
        """Ratios of 1 skip all that may be skipped: after 2 of 8 steps 3 at once, computing one between."""
        option = '{"mag": {"mag_ratios": [1, 1, 1, 1], "retention_ratio": 0.25, "max_skip_steps": 3}}'
        self.assertEqual(self.shares(option), (2 + 1) / STEPS)


class RequestTest(unittest.TestCase):
    def test_a_sibling_without_a_context_runs_uncached_and_says_so(self) -> None:
        model = load(checkpoint(FLUX), Options=["cache:taylorseer"])
        runs = counted(model)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "source.png"
            source_of(64).save(path)
            message = picture(model, src=str(path))
        self.assertIn("cache:taylorseer is off for this request: FluxImg2ImgPipeline opens no cache context", message)
        self.assertEqual(len(set(runs.values())), 1)
        runs.clear()
        picture(model)
        self.assertLess(share(runs), 1, "and it is on again")

    def test_a_failure_leaves_no_state(self) -> None:
        model = load(checkpoint(FLUX), Options=["cache:taylorseer"])
        runs = counted(model)
        picture(model)
        first = share(runs)

        def fail(*_: Any) -> None:
            if sum(runs.values()) > 4:
                raise MemoryError

        handle = model.pipeline.transformer.register_forward_pre_hook(fail)
        with self.assertRaises(MemoryError):
            picture(model)
        handle.remove()
        runs.clear()
        picture(model)
        self.assertEqual(share(runs), first)

    def test_two_runs_a_step_are_not_mixed_up(self) -> None:
        """A negative prompt runs alone here; pyramid would give it what the prompt's run kept."""
        option = "cache:pyramid(spatial_attention_timestep_skip_range=[0, 1001])"
        model = load(checkpoint(FLUX), Options=[option, "true_cfg_scale:3"])
        runs = counted(model)
        message = picture(model, negative_prompt="a dog")
        self.assertIn("cache:pyramid is off for this request: the model runs more than once a step", message)
        self.assertEqual(share(runs), 2)

    def test_a_model_that_keeps_keys_and_values_itself_is_left_to_it(self) -> None:
        """Its first step has the prompt's tokens, and the later ones have not."""
        name, option = "QwenImage21Pipeline", "cache:pyramid(spatial_attention_timestep_skip_range=[0, 1001])"
        self.assertIn("off for this request: the model itself keeps", picture(load(checkpoint(name), Options=[option])))
        model = load(checkpoint(name), Options=[option, "use_kv_cache:false"])
        runs = counted(model)
        self.assertNotIn("off for this request", picture(model))
        self.assertLess(share(runs), 1)

    def test_latents_of_another_form_are_left_alone(self) -> None:
        """LTX's are rows of tokens, whose frequencies faster cannot tell."""
        model = load(checkpoint("LTXPipeline"), Options=["cache:faster"])
        with model.cached(model.pipeline) as notes:
            model.pipeline(**arguments("LTXPipeline"))
        self.assertRegex(" ".join(notes), "cache:faster is off for this request: .* of the form BCFHW")


class RefusalsTest(unittest.TestCase):
    def refused(self, name: str, *options: str) -> str:
        with self.assertRaises(LoadError) as caught:
            load(checkpoint(name), Options=list(options))
        return str(caught.exception)

    def test_a_model_that_takes_none(self) -> None:
        told = self.refused("StableDiffusion3Pipeline", "cache:first_block")
        self.assertRegex(told, "cache:first_block: .*(StableDiffusion3Pipeline opens no cache context|takes no cache)")

    def test_parameters_by_name_and_value(self) -> None:
        self.assertIn("Did you mean threshold?", self.refused(FLUX, "cache:first_block(treshold=0.1)"))
        self.assertIn("threshold='x'", self.refused(FLUX, "cache:first_block(threshold='x')"))
        self.assertIn("of at least 1", self.refused(FLUX, "cache:taylorseer(cache_interval=0)"))
        self.assertIn("has no parameter", self.refused(FLUX, "cache:mag(num_inference_steps=4)"))

    def test_mag_without_ratios(self) -> None:
        self.assertIn("needs mag_ratios", self.refused(FLUX, "cache:mag"))

    def test_a_batch_whose_pictures_would_depend_on_each_other(self) -> None:
        self.assertIn("max_batch:4", self.refused(FLUX, "cache:first_block", "max_batch:4"))


class SpellingTest(unittest.TestCase):
    def test_parentheses_and_json_are_the_same(self) -> None:
        expected = Named("taylorseer", {"max_order": 2, "use_lite_mode": True})
        for text in (
            "taylorseer(max_order=2, use_lite_mode=true)",
            '{"taylorseer": {"max_order": 2, "use_lite_mode": true}}',
        ):
            self.assertEqual(spec(f"cache:{text}").options.cache, expected, text)
        self.assertEqual(spec("cache:Mag").options.cache, Named("mag", {}))
        self.assertIsNone(spec("cache:false").options.cache)

    def test_anything_else_is_refused_by_name(self) -> None:
        for text in ("second_block", "mag(", "mag(1)", "mag(a=open('x'))", "true", '{"mag": 1}'):
            with self.assertRaisesRegex(InvalidRequest, "option cache:.* must be one of first_block, taylorseer"):
                spec(f"cache:{text}")


if __name__ == "__main__":
    unittest.main()
