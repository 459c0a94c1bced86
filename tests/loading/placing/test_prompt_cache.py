# SPDX-License-Identifier: MIT
"""`options: prompt_cache:`: a prompt that was read before is not read again, and the picture is the one without it."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image

from localai_diffusers.errors import InvalidRequest, LoadError
from localai_diffusers.loading.placing.encoder_offload import text_encoders
from localai_diffusers.loading.placing.prompt_cache import PromptCache
from tests.support import SHAPES_MODEL, generate, load, offloaded, spec_of
from tests.zoo import checkpoint

KEPT = ["prompt_cache:64MB"]
FIELDS = {"width": 32, "height": 32, "step": 2, "seed": 1}


class Counted:
    """How often the text encoders of a model have run: their embeddings tell."""

    def __init__(self, model: Any) -> None:
        self.runs = 0
        for encoder in text_encoders(model.pipeline):
            for layer in encoder.modules():
                if isinstance(layer, torch.nn.Embedding):
                    layer.forward = self._counting(layer.forward)  # not by a hook: who hooks in has the encoder run

    def _counting(self, forward: Any) -> Any:
        def run(*arguments: Any, **named: Any) -> Any:
            self.runs += 1
            return forward(*arguments, **named)

        return run


def pixels(model: Any, prompt: str = "a red cat", **fields: Any) -> bytes:
    return generate(model, prompt, **{**FIELDS, **fields})[0].tobytes()


class HitTest(unittest.TestCase):
    def test_a_prompt_that_was_read_is_not_read_again(self) -> None:
        """Encoders of one kind and of several, pooled or not, of CLIP and of T5."""
        for name in ("StableDiffusionXLPipeline", "FluxPipeline", "StableDiffusion3Pipeline", "PixArtAlphaPipeline"):
            with self.subTest(name):
                plain, kept = load(checkpoint(name)), load(checkpoint(name), Options=KEPT)
                counted = Counted(kept)
                first = pixels(kept, negative_prompt="a blue dog")
                runs = counted.runs
                self.assertGreater(runs, 0)
                self.assertEqual(
                    pixels(kept, negative_prompt="a blue dog", seed=2),
                    pixels(plain, negative_prompt="a blue dog", seed=2),
                )
                self.assertEqual(pixels(kept, negative_prompt="a blue dog"), first)
                self.assertEqual(counted.runs, runs, "zero calls at a hit")

    def test_a_pipeline_that_looks_into_its_encoder_has_it_run_each_time(self) -> None:
        plain, kept = (load(checkpoint("JoyImageEditPlusPipeline"), Options=options) for options in ([], KEPT))
        with tempfile.TemporaryDirectory() as folder:
            source = str(Path(folder, "source.png"))
            Image.new("RGB", (64, 64), "red").save(source)
            fields = {"width": 64, "height": 64, "src": source}
            wanted = pixels(plain, **fields)
            for _ in range(2):
                found, outcome = generate(kept, "a red cat", **{**FIELDS, **fields})
                self.assertEqual(found.tobytes(), wanted)
                self.assertIn("prompt_cache is off for this request: the pipeline looks into", str(outcome))

    def test_all_that_enters_counts(self) -> None:
        plain, kept = load(SHAPES_MODEL), load(SHAPES_MODEL, Options=KEPT)
        for prompt, fields in (
            ("a red circle", {}),
            ("a green circle", {}),
            ("a green circle", {"negative_prompt": "a red circle"}),
        ):
            self.assertEqual(pixels(kept, prompt, **fields), pixels(plain, prompt, **fields), (prompt, fields))

    def test_a_mask_counts(self) -> None:
        kept = load(SHAPES_MODEL, Options=KEPT)
        kept.pipeline_as(type(kept.pipeline))
        ids, encoder = torch.arange(8)[None], kept.pipeline.text_encoder
        for length in (8, 4, 8):
            encoder(ids, attention_mask=(torch.arange(8) < length)[None].long())
        self.assertEqual((kept.prompt_cache.hits, kept.prompt_cache.misses), (1, 2))

    def test_a_picture_that_the_encoder_reads_counts(self) -> None:
        """Qwen-Image-Edit's encoder is a vision-language model: one prompt, two pictures."""
        kept = load(checkpoint("QwenImageEditPipeline"), Options=KEPT)
        counted, runs = Counted(kept), []
        with tempfile.TemporaryDirectory() as folder:
            for color in ("red", "blue", "red"):
                source = Path(folder, f"{color}.png")
                Image.new("RGB", (64, 64), color).save(source)
                before = counted.runs
                pixels(kept, src=str(source))
                runs.append(counted.runs - before)
        self.assertEqual((runs[0], runs[2]), (runs[1], 0))
        self.assertGreater(runs[1], 0)

    def test_the_scale_of_a_lora_on_the_encoder_counts(self) -> None:
        from peft import LoraConfig

        kept = load(SHAPES_MODEL, Options=KEPT)
        encoder = kept.pipeline.text_encoder
        encoder.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="gaussian"))
        layers = [part for part in encoder.modules() if hasattr(part, "lora_B")]
        for layer in layers:
            torch.nn.init.ones_(layer.lora_B["default"].weight)
        kept.prompt_cache.put_on(kept.pipeline)
        ids = torch.arange(8)[None]
        first = encoder(ids).last_hidden_state
        for layer in layers:
            layer.set_scale("default", 0.0)
        self.assertFalse(torch.equal(encoder(ids).last_hidden_state, first))
        encoder.disable_adapters()
        encoder(ids)
        self.assertEqual((kept.prompt_cache.hits, kept.prompt_cache.misses), (0, 3))

    def test_two_encoders_are_told_apart_whatever_their_order(self) -> None:
        """A sibling may name them the other way round, and an offload hangs its hooks up anew for each."""
        kept = load(checkpoint("FluxPipeline"), Options=KEPT)
        first, second = text_encoders(kept.pipeline)
        ids = torch.arange(8)[None]
        kept.prompt_cache.put_on(kept.pipeline)
        wanted = [tuple(encoder(ids).last_hidden_state.shape) for encoder in (first, second)]
        for encoder in (first, second):
            encoder.forward = encoder.forward.__wrapped__
        turned = mock.Mock(components={"text_encoder": second, "text_encoder_2": first})
        kept.prompt_cache.put_on(turned)
        self.assertEqual([tuple(one(ids).last_hidden_state.shape) for one in (first, second)], wanted)

    def test_an_encoder_that_waits_on_the_host_stays_there(self) -> None:
        with offloaded("model"):
            kept = load(checkpoint("StableDiffusionXLPipeline"), Options=KEPT)
            counted = Counted(kept)
            first = pixels(kept)
            runs = counted.runs
            self.assertEqual(pixels(kept), first)
        self.assertEqual(counted.runs, runs)

    def test_what_a_pipeline_writes_into_its_prompt_is_not_kept(self) -> None:
        kept = load(SHAPES_MODEL, Options=KEPT)
        ids = torch.arange(8)[None]
        for _ in range(3):
            found = kept.pipeline.text_encoder(ids).last_hidden_state
            self.assertFalse(torch.equal(found, torch.zeros_like(found)))
            found.zero_()


class BoundTest(unittest.TestCase):
    def test_the_oldest_in_use_goes_first(self) -> None:
        cache = PromptCache(3 * 400)
        for key in "abc":
            cache.keep(key, (torch.zeros(100), None))
        cache.find("a")
        cache.keep("d", (torch.zeros(100), None))
        self.assertEqual([cache.find(key) is not None for key in "abcd"], [True, False, True, True])
        self.assertEqual(cache.bytes, 1200)
        cache.keep("e", torch.zeros(1000))
        self.assertEqual((cache.find("e"), cache.bytes), (None, 1200))

    def test_the_bytes_may_be_written_as_people_write_them(self) -> None:
        for said, expected in (("64MB", 2**26), ("1.5 gb", 3 * 2**29), ("512k", 2**19), ("true", 2**26), ("0", 0)):
            self.assertEqual(spec_of(SHAPES_MODEL, Options=[f"prompt_cache:{said}"]).options.prompt_cache, expected)
        with self.assertRaisesRegex(InvalidRequest, "prompt_cache:much must be true, or a number of bytes"):
            spec_of(SHAPES_MODEL, Options=["prompt_cache:much"])

    def test_what_an_encoder_keeps_for_a_longer_text_is_not_held(self) -> None:
        """Gemma and Qwen answer with a cache too, as large as the rest and not counted."""
        for name in ("SanaPipeline", "ZImagePipeline"):
            model = load(checkpoint(name), Options=KEPT)
            before = pixels(model)
            cache = model.prompt_cache
            answers = [answer for answer, _size in cache._kept.values()]
            self.assertTrue(any("past_key_values" in answer for answer in answers), name)
            self.assertEqual([answer["past_key_values"] for answer in answers], [None] * len(answers))
            self.assertEqual(pixels(model), before)
            self.assertGreater(cache.hits, 0)

    def test_an_answer_with_what_cannot_be_copied_is_not_kept(self) -> None:
        cache = PromptCache(1000)
        cache.keep("a", (torch.zeros(10), object()))
        self.assertEqual((cache.find("a"), cache.bytes), (None, 0))

    def test_a_model_that_reads_no_prompt_refuses_it(self) -> None:
        with self.assertRaisesRegex(LoadError, "option prompt_cache: this model has no text encoder"):
            load(checkpoint("DDPMPipeline"), Options=KEPT)


if __name__ == "__main__":
    unittest.main()
