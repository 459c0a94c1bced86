"""COMPEL=1 and SD_EMBED=1: weights and long prompts count, and a prompt is never lost."""
from __future__ import annotations

import sys
import tempfile
import types
import unittest
from typing import Any
from unittest import mock

import torch

from localai_diffusers import prompts
from localai_diffusers.settings import Settings
from tests.adapter_files import difference
from tests.support import generate, load
from tests.zoo import checkpoint

COMPEL, SD_EMBED = Settings(compel=True), Settings(sd_embed=True)
KNOWN = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "FluxPipeline")


def picture(model: Any, prompt: str, **fields: Any) -> Any:
    return generate(model, prompt, width=32, height=32, step=2, seed=1, **fields)[0]


class CompelTest(unittest.TestCase):
    def test_an_unweighted_prompt_gives_the_plain_picture(self) -> None:
        for name in KNOWN:
            plain, compel = load(checkpoint(name)), load(checkpoint(name), COMPEL)
            for fields in ({}, {"negative_prompt": "blue"}):
                pair = [picture(model, "a red circle", **fields) for model in (plain, compel)]
                self.assertEqual(difference(*pair), 0, name)

    def test_weights_change_the_picture(self) -> None:
        for name in KNOWN:
            model = load(checkpoint(name), COMPEL)
            self.assertGreater(difference(picture(model, "a red circle"), picture(model, "a (red)1.8 circle")), 0, name)

    def test_words_beyond_77_tokens_count_in_both_prompts(self) -> None:
        for name in KNOWN[:2]:
            model, long = load(checkpoint(name), COMPEL), "a red circle, " * 30
            self.assertGreater(difference(picture(model, long), picture(model, long + "blue")), 0, name)
            self.assertGreater(difference(picture(model, long), picture(model, long, negative_prompt=long + "blue")), 0, name)

    def test_the_families_with_attention_masks_run(self) -> None:
        for name in ("SanaPipeline", "Lumina2Pipeline"):
            model = load(checkpoint(name), COMPEL)
            self.assertGreater(difference(picture(model, "a red circle"), picture(model, "a (red)1.8 circle")), 0, name)

    def test_a_sibling_for_another_task_embeds_as_well(self) -> None:
        model = load(checkpoint("StableDiffusionPipeline"), COMPEL)
        with tempfile.NamedTemporaryFile(suffix=".png") as source:
            picture(model, "a circle").save(source.name)
            weighted = picture(model, "a (red)1.8 circle", src=source.name)
            self.assertGreater(difference(weighted, picture(model, "a red circle", src=source.name)), 0)

    def test_an_unknown_family_keeps_its_plain_prompt_with_a_note(self) -> None:
        name = "StableDiffusion3Pipeline"
        image, outcome = generate(load(checkpoint(name), COMPEL), "a (red)1.8 circle", width=32, height=32, step=2, seed=1)
        self.assertIn("COMPEL does not know StableDiffusion3Pipeline", outcome.message())
        self.assertEqual(difference(image, picture(load(checkpoint(name)), "a (red)1.8 circle")), 0)

    def test_text_that_compel_cannot_read_stays_plain(self) -> None:
        arguments, model = {"prompt": "a circle"}, load(checkpoint("StableDiffusionPipeline"))
        with mock.patch("compel.CompelForSD", side_effect=ValueError("no")):
            notes = prompts.embed(arguments, model.pipeline, COMPEL)
        self.assertEqual(arguments, {"prompt": "a circle"})
        self.assertIn("COMPEL could not read the prompt", notes[0])

    def test_the_texts_give_way_to_embeddings_of_one_length(self) -> None:
        arguments = {"prompt": "a circle, " * 60, "negative_prompt": "blue"}
        prompts.embed(arguments, load(checkpoint("StableDiffusionXLPipeline")).pipeline, COMPEL)
        self.assertEqual(set(arguments), {"prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds",
                                          "negative_pooled_prompt_embeds"})
        self.assertEqual(arguments["prompt_embeds"].shape, arguments["negative_prompt_embeds"].shape)
        self.assertGreater(arguments["prompt_embeds"].shape[1], 77)


class SdEmbedTest(unittest.TestCase):
    def test_where_it_is_not_installed_the_prompt_stays_plain_with_a_note(self) -> None:
        arguments, model = {"prompt": "a circle"}, load(checkpoint("StableDiffusionPipeline"))
        with mock.patch.dict(sys.modules, {"sd_embed": None}):
            notes = prompts.embed(arguments, model.pipeline, SD_EMBED)
        self.assertEqual(arguments, {"prompt": "a circle"})
        self.assertIn("not installed", notes[0])

    def test_its_embeddings_take_the_place_of_both_texts(self) -> None:
        made = (torch.zeros(1, 77, 32), torch.ones(1, 77, 32))
        functions = types.SimpleNamespace(get_weighted_text_embeddings_sd15=lambda pipe, prompt, neg_prompt: made)
        arguments = {"prompt": "a (red:1.5) circle", "negative_prompt": "blue"}
        with mock.patch.dict(sys.modules, {"sd_embed": types.SimpleNamespace(embedding_funcs=functions)}):
            notes = prompts.embed(arguments, load(checkpoint("StableDiffusionPipeline")).pipeline, SD_EMBED)
        self.assertEqual((notes, set(arguments)), ([], {"prompt_embeds", "negative_prompt_embeds"}))
        self.assertTrue(arguments["negative_prompt_embeds"].all())


if __name__ == "__main__":
    unittest.main()
