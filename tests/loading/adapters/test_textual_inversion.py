# SPDX-License-Identifier: MIT
"""Textual inversions whose embeddings are those of known words: the picture is the one that the words make."""

from __future__ import annotations

import sys
import types
import unittest
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from localai_diffusers.errors import LoadError
from localai_diffusers.patches import inversion_words
from localai_diffusers.settings import Settings
from tests import adapter_files
from tests.adapter_files import difference
from tests.support import FolderCase, generate, load
from tests.zoo import checkpoint

KNOWN = "red circle"
FAMILIES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "FluxPipeline")
PLAIN, COMPEL = Settings(), Settings(compel=True)


def picture(model: Any, prompt: str, **fields: Any) -> Any:
    return generate(model, prompt, width=32, height=32, step=2, seed=1, **fields)[0]


class KnownWordsTest(FolderCase):
    def rows(self, pipeline: Any, number: str = "") -> Any:
        """What the known words are to one of the text encoders."""
        ids = getattr(pipeline, f"tokenizer{number}")(KNOWN, add_special_tokens=False).input_ids
        weight = getattr(pipeline, f"text_encoder{number}").get_input_embeddings().weight
        self.assertGreater(len(ids), 1)
        return weight[ids].detach().clone()

    def saved(self, name: str, pipeline: Any, key: str = "emb_params") -> Path:
        found = {key: self.rows(pipeline)}
        if type(pipeline).__name__ == "StableDiffusionXLPipeline":
            found = {"clip_l": self.rows(pipeline), "clip_g": self.rows(pipeline, "_2")}
        return adapter_files.save(found, self.folder / f"{name}.safetensors")

    def inverted(self, family: str, *names: str, settings: Settings = PLAIN) -> tuple[Any, Any]:
        """A model with files of these names, and the same without."""
        plain = load(checkpoint(family), settings)
        files = ",".join(str(self.saved(name, plain.pipeline)) for name in names)
        return load(checkpoint(family), settings, Options=[f"textual_inversion:{files}"]), plain

    def test_every_embedding_counts_whatever_the_case(self) -> None:
        for family in FAMILIES[:2]:
            for settings in (PLAIN, COMPEL):
                model, plain = self.inverted(family, "ZogWub", settings=settings)
                right = picture(plain, f"a {KNOWN}, big", negative_prompt=f"{KNOWN} {KNOWN}")
                for said in ("ZogWub", "zogwub", "ZOGWUB"):
                    made = picture(model, f"a {said}, big", negative_prompt=f"{said} {said}")
                    self.assertEqual(difference(made, right), 0, (family, said, settings.compel))
                self.assertGreater(difference(picture(model, "a big"), right), 0)

    def test_flux_reads_it_by_clip_and_its_other_encoder_reads_the_word(self) -> None:
        for settings in (PLAIN, COMPEL):
            model, plain = self.inverted("FluxPipeline", "ZogWub", settings=settings)
            read: list[Any] = []
            for one, prompts in ((model, ("a ZogWub", None)), (plain, (f"a {KNOWN}", "a ZogWub"))):
                texts = {"prompt": prompts[0], "prompt_2": prompts[1]}
                read.append(self.embedded(one, {name: text for name, text in texts.items() if text}))
            for name in ("prompt_embeds", "pooled_prompt_embeds"):
                self.assertEqual(float((read[0][name] - read[1][name]).abs().max()), 0, (name, settings.compel))

    def embedded(self, model: Any, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        from localai_diffusers import patches
        from localai_diffusers.generation.prompts import prompts

        with patches.during_calls(model.pipeline):
            arguments, _ = prompts.embedded(arguments, model.pipeline, model.settings)
            if "prompt_embeds" not in arguments:
                two = arguments.get("prompt_2")
                found = model.pipeline.encode_prompt(arguments["prompt"], two, max_sequence_length=64)
                return {"prompt_embeds": found[0], "pooled_prompt_embeds": found[1]}
        return arguments

    def test_whole_words_alone_count_and_several_names_stand_side_by_side(self) -> None:
        model, plain = self.inverted(FAMILIES[0], "zog", "Zog-Wub_v2", "zogwub")
        for said, right in (
            ("a zogs, razzog zog2", "a zogs, razzog zog2"),
            ("zog Zog-Wub_v2 zogwub", f"{KNOWN} {KNOWN} {KNOWN}"),
            ("zog,zogwub.", f"{KNOWN},{KNOWN}."),
            ("(Zog-Wub_v2)", f"({KNOWN})"),
        ):
            self.assertEqual(difference(picture(model, said), picture(plain, right)), 0, said)

    def test_a_weight_is_that_of_all_its_embeddings(self) -> None:
        model, plain = self.inverted(FAMILIES[0], "ZogWub", settings=COMPEL)
        for said, right in (
            ("a (ZogWub)1.4", f"a ({KNOWN})1.4"),
            ("a ZogWub++, big", f"a ({KNOWN})++, big"),
            ("a ZogWub--, big", f"a ({KNOWN})--, big"),
        ):
            self.assertEqual(difference(picture(model, said), picture(plain, right)), 0, said)

    def test_sd_embed_gets_them_written_out(self) -> None:
        model, _plain = self.inverted(FAMILIES[0], "ZogWub")
        model.settings = Settings(sd_embed=True)  # which a load refuses where the library is not installed
        said: dict[str, str] = {}

        def embed(pipe: Any, prompt: str = "", neg_prompt: str = "") -> Any:
            said.update(prompt=prompt, neg_prompt=neg_prompt)
            return pipe.encode_prompt(prompt, "cpu", 1, True, neg_prompt)

        functions = types.SimpleNamespace(get_weighted_text_embeddings_sd15=embed)
        with mock.patch.dict(sys.modules, {"sd_embed": types.SimpleNamespace(embedding_funcs=functions)}):
            picture(model, "a (zogWUB:1.3)", negative_prompt="ZogWub")
        tokens = " ".join(inversion_words.words_of(model.pipeline.tokenizer)["zogwub"])
        self.assertEqual(said, {"prompt": f"a ({tokens}:1.3)", "neg_prompt": tokens})

    def test_a_sibling_reads_it_too(self) -> None:
        model, plain = self.inverted(FAMILIES[0], "ZogWub")
        source = self.picture("src", (32, 32))
        pair = [picture(one, said, src=source) for one, said in ((model, "a ZogWub"), (plain, f"a {KNOWN}"))]
        self.assertEqual(difference(*pair), 0)

    def test_the_width_tells_the_encoder_and_any_other_is_refused(self) -> None:
        pipeline = load(checkpoint(FAMILIES[1])).pipeline
        file = adapter_files.save({"emb_params": self.rows(pipeline)[:, :7]}, self.folder / "odd.safetensors")
        with self.assertRaisesRegex(LoadError, "odd.safetensors.* does not fit .* 7 wide, the text encoder's"):
            load(checkpoint(FAMILIES[1]), Options=[f"textual_inversion:{file}"])

    def test_a_file_of_something_else_is_refused(self) -> None:
        rows = self.rows(load(checkpoint(FAMILIES[0])).pipeline)
        file = adapter_files.save({"lora_a": rows, "lora_b": rows.clone()}, self.folder / "other.safetensors")
        with self.assertRaisesRegex(LoadError, "lora_b is nothing of a textual inversion"):
            load(checkpoint(FAMILIES[0]), Options=[f"textual_inversion:{file}"])

    def test_two_files_of_one_word_are_refused(self) -> None:
        with self.assertRaisesRegex(LoadError, "two files have the word 'zog'"):
            self.inverted(FAMILIES[0], "Zog", "zog")


if __name__ == "__main__":
    unittest.main()
