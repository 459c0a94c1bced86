# SPDX-License-Identifier: MIT
"""COMPEL=1 and SD_EMBED=1: weights and long prompts count, and a prompt is never lost."""

from __future__ import annotations

import sys
import tempfile
import types
import unittest
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from localai_diffusers import patches
from localai_diffusers.generation import batching
from localai_diffusers.generation.prompts import prompts
from localai_diffusers.settings import Settings
from tests import adapter_files
from tests.adapter_files import difference
from tests.support import generate, image_request, load
from tests.zoo import checkpoint

COMPEL, SD_EMBED = Settings(compel=True), Settings(sd_embed=True)
KNOWN = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "FluxPipeline")


def picture(model: Any, prompt: str, **fields: Any) -> Any:
    return generate(model, prompt, width=32, height=32, step=2, seed=1, **fields)[0]


class CompelTest(unittest.TestCase):
    heavy = True

    def test_an_unweighted_prompt_gives_the_plain_picture(self) -> None:
        for name in KNOWN:
            plain, compel = load(checkpoint(name)), load(checkpoint(name), COMPEL)
            for fields in ({}, {"negative_prompt": "blue"}):
                pair = [picture(model, "a red circle", **fields) for model in (plain, compel)]
                self.assertEqual(difference(*pair), 0, name)

    def test_weights_change_the_picture(self) -> None:
        for name in KNOWN[:2]:
            model = load(checkpoint(name), COMPEL)
            self.assertGreater(difference(picture(model, "a red circle"), picture(model, "a (red)1.8 circle")), 0, name)

    def test_weights_change_the_embeddings(self) -> None:
        """Flux's picture tells too little: in two steps of random weights the text is a hundredth of a level."""
        for name in KNOWN:
            model = load(checkpoint(name), COMPEL)
            (plain, said), (weighted, more) = (
                prompts.embedded({"prompt": text}, model.pipeline, COMPEL)
                for text in ("a red circle", "a (red)1.8 circle")
            )
            self.assertFalse(said + more, name)
            change = (weighted["prompt_embeds"] - plain["prompt_embeds"]).abs().max()
            self.assertGreater(change / plain["prompt_embeds"].abs().max(), 0.01, name)

    def test_words_beyond_77_tokens_count_in_both_prompts(self) -> None:
        for name in KNOWN[:2]:
            model, long = load(checkpoint(name), COMPEL), "a red circle, " * 30
            self.assertGreater(difference(picture(model, long), picture(model, long + "blue")), 0, name)
            self.assertGreater(
                difference(picture(model, long), picture(model, long, negative_prompt=long + "blue")), 0, name
            )

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

    def test_any_clip_skip_counts_as_it_does_without_compel(self) -> None:
        for name, most in ((KNOWN[0], 2), (KNOWN[1], 1)):  # of 2 layers; SDXL begins at the last but one
            path, seen = checkpoint(name), []
            for skip in range(1, most + 1):
                models = [load(path, settings, CLIPSkip=skip) for settings in (None, COMPEL)]
                pair = [picture(model, "a red circle", negative_prompt="blue") for model in models]
                self.assertEqual(difference(*pair), 0, (name, skip))
                seen.append(pair[0].tobytes())
            self.assertEqual(
                len({picture(load(path), "a red circle", negative_prompt="blue").tobytes(), *seen}), most + 1
            )

    def test_each_text_goes_to_the_encoder_that_reads_it_without_compel(self) -> None:
        for name in KNOWN[1:]:
            model, texts = load(checkpoint(name)), {"prompt": "a red circle", "prompt_2": "a blue cat, very big"}
            with patches.during_calls(model.pipeline):
                found, _ = prompts.embedded(texts, model.pipeline, COMPEL)
                right = model.pipeline.encode_prompt(**texts, **({} if "XL" in name else {"max_sequence_length": 512}))
            pooled = right[2] if "XL" in name else right[1]
            self.assertLess(float((found["pooled_prompt_embeds"] - pooled).abs().max()), 1e-4, name)
            self.assertLess(float((found["prompt_embeds"] - right[0]).abs().max()), 1e-4, name)

    def test_a_lora_a_new_word_and_a_controlnet_count_as_they_do_without_compel(self) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            adapter_files.lora(checkpoint(KNOWN[0]), folder / "lora.safetensors")
            adapter_files.save({"emb_params": torch.randn(2, 32)}, folder / "dog.safetensors")
            adapter_files.controlnet("StableDiffusionControlNetPipeline", folder / "net")
            fields = {
                "ModelPath": temporary,
                "LoraAdapter": "lora.safetensors",
                "ControlNet": "net",
                "Options": ["textual_inversion:dog.safetensors"],
            }
            picture(load(checkpoint(KNOWN[0])), "").save(folder / "control.png")
            pair = [
                picture(load(checkpoint(KNOWN[0]), settings, **fields), "a dog", src=str(folder / "control.png"))
                for settings in (None, COMPEL)
            ]
        self.assertEqual(difference(*pair), 0)

    def test_prompts_by_hand_are_not_batched(self) -> None:
        model = load(checkpoint(KNOWN[0]), COMPEL, Options=["max_batch:4"])
        self.assertIsNone(batching.batch_for(model, image_request("a circle")))

    def test_an_unknown_family_keeps_its_plain_prompt_with_a_note(self) -> None:
        name = "StableDiffusion3Pipeline"
        image, outcome = generate(
            load(checkpoint(name), COMPEL), "a (red)1.8 circle", width=32, height=32, step=2, seed=1
        )
        self.assertIn("COMPEL does not know StableDiffusion3Pipeline", outcome.message())
        self.assertEqual(difference(image, picture(load(checkpoint(name)), "a (red)1.8 circle")), 0)

    def test_text_that_compel_cannot_read_stays_plain(self) -> None:
        arguments, model = {"prompt": "a circle"}, load(checkpoint("StableDiffusionPipeline"))
        with mock.patch("compel.CompelForSD", side_effect=ValueError("no")):
            found, notes = prompts.embedded(arguments, model.pipeline, COMPEL)
        self.assertEqual(found, {"prompt": "a circle"})
        self.assertIn("COMPEL could not read the prompt", notes[0])

    def test_the_texts_give_way_to_embeddings_of_one_length(self) -> None:
        arguments = {"prompt": "a circle, " * 60, "negative_prompt": "blue"}
        arguments, _ = prompts.embedded(arguments, load(checkpoint("StableDiffusionXLPipeline")).pipeline, COMPEL)
        self.assertEqual(
            set(arguments),
            {"prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"},
        )
        self.assertEqual(arguments["prompt_embeds"].shape, arguments["negative_prompt_embeds"].shape)
        self.assertGreater(arguments["prompt_embeds"].shape[1], 77)


class SdEmbedTest(unittest.TestCase):
    def test_where_it_is_not_installed_the_prompt_stays_plain_with_a_note(self) -> None:
        arguments, model = {"prompt": "a circle"}, load(checkpoint("StableDiffusionPipeline"))
        with mock.patch.dict(sys.modules, {"sd_embed": None}):
            found, notes = prompts.embedded(arguments, model.pipeline, SD_EMBED)
        self.assertEqual(found, {"prompt": "a circle"})
        self.assertIn("not installed", notes[0])

    def embedded(self, name: str, **arguments: Any) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """The call's arguments with a stand-in for the library, and the notes."""
        self.pipeline = load(checkpoint(name)).pipeline
        with mock.patch.dict(sys.modules, {"sd_embed": types.SimpleNamespace(embedding_funcs=_Functions)}):
            return prompts.embedded(arguments, self.pipeline, SD_EMBED)

    def of_texts(self, name: str, **arguments: Any) -> dict[str, int]:
        """By the name of each embedding, the length of the text that it was made of."""
        found, notes = self.embedded(name, **arguments)
        self.assertEqual(notes, ())
        tensors = {name: value for name, value in found.items() if name.endswith("embeds")}
        self.assertFalse(any(tensor.is_inference() for tensor in tensors.values()), "nothing may change those")
        self.assertLessEqual(set(found) - set(tensors), {"clip_skip"}, "a text beside embeddings is refused")
        return {name: int(tensor.max()) for name, tensor in tensors.items()}

    def test_its_embeddings_take_the_place_of_both_texts(self) -> None:
        found = self.of_texts(KNOWN[0], prompt="a (red:1.5) circle", negative_prompt="blue")
        self.assertEqual(found, {"prompt_embeds": len("a (red:1.5) circle"), "negative_prompt_embeds": len("blue")})

    def test_where_it_takes_one_text_it_is_called_for_each(self) -> None:
        texts = {"prompt": "a circle", "negative_prompt": "blue", "prompt_2": "a red circle", "negative_prompt_2": "no"}
        found = self.of_texts("FluxPipeline", **texts)
        self.assertEqual(
            found,
            {
                "prompt_embeds": len("a red circle"),
                "pooled_prompt_embeds": len("a circle"),
                "negative_prompt_embeds": len("no"),
                "negative_pooled_prompt_embeds": len("blue"),
            },
        )

    def test_two_texts_of_one_call_get_embeddings_of_one_length(self) -> None:  # FluxPipeline refuses others
        arguments, _ = self.embedded("FluxPipeline", prompt="a red circle", negative_prompt="blue")
        self.assertEqual(arguments["prompt_embeds"].shape, arguments["negative_prompt_embeds"].shape)

    def test_a_prompt_that_it_fails_on_stays_plain_and_out_of_the_log(self) -> None:
        with self.assertNoLogs("localai_diffusers.generation.prompts.prompts", "INFO"):  # its error quotes the text
            arguments, notes = self.embedded(KNOWN[0], prompt="(secret:1.2.3)")
        self.assertEqual(arguments["prompt"], "(secret:1.2.3)")
        self.assertIn("SD_EMBED could not read the prompt (ValueError)", notes[0])

    def test_an_empty_text_does_not_become_the_word_empty(self) -> None:
        self.assertEqual(self.of_texts(KNOWN[0], prompt="a circle")["negative_prompt_embeds"], len(" "))
        self.assertEqual(self.of_texts(KNOWN[0], prompt="", negative_prompt="blue")["prompt_embeds"], len(" "))
        found = self.of_texts("FluxPipeline", prompt="a circle", negative_prompt="")
        self.assertEqual(found["negative_prompt_embeds"], len(" "))
        self.assertEqual(found["negative_pooled_prompt_embeds"], len("<|endoftext|>"))  # CLIP must have a token
        self.assertEqual(self.embedded("FluxPipeline", prompt=" "), ({"prompt": " "}, ()))

    def test_a_missing_negative_prompt_is_zeros_where_the_config_says_so(self) -> None:
        found = self.of_texts("StableDiffusionXLPipeline", prompt="a circle")
        self.assertEqual((found["negative_prompt_embeds"], found["negative_pooled_prompt_embeds"]), (0, 0))

    def test_clip_skip_is_of_the_prompt_and_of_this_call_alone(self) -> None:
        found = self.of_texts(KNOWN[0], prompt="a circle", negative_prompt="blue", clip_skip=1)
        self.assertEqual(found["prompt_embeds"] - len("a circle"), 100)
        self.assertEqual(found["negative_prompt_embeds"], len("blue"))
        _, notes = self.embedded(KNOWN[0], prompt="a (red:1.2.3) circle", clip_skip=1)
        self.assertIn("could not read the prompt (ValueError)", notes[0])
        self.assertEqual(len(self.pipeline.text_encoder.encoder.layers), 2)

    def test_a_text_that_it_would_lose_keeps_all_of_them_plain(self) -> None:
        texts = {"prompt": "a circle", "prompt_2": "a red circle"}
        arguments, notes = self.embedded("StableDiffusionXLPipeline", **texts)
        self.assertEqual(arguments, texts)
        self.assertIn("takes no prompt_2", notes[0])

    def test_where_it_fails_the_prompt_stays_plain(self) -> None:
        arguments, notes = self.embedded("StableDiffusion3Pipeline", prompt="a circle")
        self.assertEqual(arguments, {"prompt": "a circle"})
        self.assertIn("could not read the prompt (IndexError)", notes[0])


class _Functions:
    """sd_embed's functions, by the signatures of the commit that requirements-sd-embed.txt names. Of each text the
    length is in the tensors."""

    @staticmethod
    @torch.inference_mode()
    def get_weighted_text_embeddings_sd15(
        pipe: Any,
        prompt: str = "",
        neg_prompt: str = "",
        pad_last_block: bool = False,
        clip_skip: int = 0,
        device: Any = None,
    ) -> tuple[Any, ...]:
        assert pad_last_block and device is not None
        encoder = pipe.text_encoder.encoder
        layers = encoder.layers
        if clip_skip > 0:
            encoder.layers = layers[:-clip_skip]
        if "1.2.3" in prompt:
            raise ValueError("could not convert string to float: '1.2.3'")  # and the layers stay cut
        found = tuple(torch.full((1, 77, 32), len(text or "empty") + 100 * clip_skip) for text in (prompt, neg_prompt))
        encoder.layers = layers
        return found

    @staticmethod
    @torch.inference_mode()
    def get_weighted_text_embeddings_sdxl(
        pipe: Any, prompt: str = "", neg_prompt: str = "", pad_last_block: bool = True, device: Any = None
    ) -> tuple[Any, ...]:
        lengths = [len(prompt or "empty"), len(neg_prompt or "empty")]
        return *(torch.full((1, 77, 64), n) for n in lengths), *(torch.full((1, 32), n) for n in lengths)

    @staticmethod
    @torch.inference_mode()
    def get_weighted_text_embeddings_sd3(
        pipe: Any,
        prompt: str = "",
        neg_prompt: str = "",
        pad_last_block: bool = True,
        use_t5_encoder: bool = True,
        device: Any = None,
    ) -> tuple[Any, ...]:
        raise IndexError("index out of range in self")

    @staticmethod
    @torch.inference_mode()
    def get_weighted_text_embeddings_flux1(
        pipe: Any, prompt: str = "", prompt2: str | None = None, device: Any = None
    ) -> tuple[Any, ...]:
        second = len((prompt if prompt2 is None else prompt2) or "empty")  # as many tokens: it pads T5's text to none
        return torch.full((1, second, 32), second), torch.full((1, 32), len(prompt or "empty"))


if __name__ == "__main__":
    unittest.main()
