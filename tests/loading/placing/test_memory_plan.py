# SPDX-License-Identifier: MIT
"""The plan that nobody wrote: the fastest way to run a model in what a card has free, from its figures alone."""

from __future__ import annotations

import unittest

from localai_diffusers.loading.placing.memory_plan import GIB, LADDER, Weights, choose, sparing

WAYS = frozenset(LADDER)
# Free GiB of cards that have 8, 12, 24, 32 and 80 GB, with a desktop or a driver on them.
CARDS = (7.5, 11.5, 23.4, 31.0, 79.0)
# GiB by component as their repos have them; the last column is the way on each of the cards.
_CLIP_L, _CLIP_G, _T5 = 0.23, 1.3, 8.9
MODELS = {
    "SD 1.5": ({"unet": 1.6, "text_encoder": _CLIP_L, "vae": 0.16}, "none none none none none"),
    "SDXL": (
        {"unet": 4.8, "text_encoder": _CLIP_L, "text_encoder_2": _CLIP_G, "vae": 0.16},
        "model none none none none",
    ),
    "SD 3.5 large": (
        {"transformer": 15.2, "text_encoder": _CLIP_L, "text_encoder_2": _CLIP_G, "text_encoder_3": _T5, "vae": 0.16},
        "group group model text_encoders none",
    ),
    "FLUX.1": (
        {"transformer": 22.2, "text_encoder": _CLIP_L, "text_encoder_2": _T5, "vae": 0.16},
        "group group group model none",
    ),
    "Wan 2.1 1.3B": ({"transformer": 2.6, "text_encoder": 10.6, "vae": 0.47}, "group group none none none"),
    "Wan 2.1 14B": ({"transformer": 26.6, "text_encoder": 10.6, "vae": 0.47}, "group group group model none"),
    "Qwen-Image": ({"transformer": 38.1, "text_encoder": 15.4, "vae": 0.24}, "group group group group none"),
}


def weights(sizes: dict[str, float]) -> Weights:
    encoders = frozenset(name for name in sizes if name.startswith("text_encoder"))
    return Weights({name: int(size * GIB) for name, size in sizes.items()}, encoders)


def ways(sizes: dict[str, float], can_halve: bool = False) -> str:
    found = [choose(weights(sizes), int(free * GIB), "cuda:0", WAYS, can_halve) for free in CARDS]
    return " ".join(choice.offload + ("/half" if choice.halved else "") for choice in found)


class TableTest(unittest.TestCase):
    def test_each_model_on_each_card(self) -> None:
        for name, (sizes, expected) in MODELS.items():
            with self.subTest(name):
                self.assertEqual(ways(sizes), expected)

    def test_what_is_chosen_fits_and_what_is_faster_does_not(self) -> None:
        order = list(LADDER)
        for sizes, _ in MODELS.values():
            for free in CARDS:
                model = weights(sizes)
                at = order.index(choose(model, int(free * GIB), "cuda:0", WAYS, False).offload)
                needed = [LADDER[way](model) <= free * GIB for way in order[: at + 1]]
                self.assertEqual(needed, [False] * at + [True])

    def test_fp32_is_halved_before_anything_waits_on_the_host(self) -> None:
        sizes = {"unet": 9.6, "text_encoder": 0.46, "text_encoder_2": 2.6, "vae": 0.31}
        self.assertEqual(ways(sizes, can_halve=True), "model/half none/half none none none")
        self.assertEqual(ways(sizes), "group group none none none")


class ChoiceTest(unittest.TestCase):
    flux = weights(MODELS["FLUX.1"][0])

    def test_a_way_that_the_model_cannot_take_is_left_out(self) -> None:
        for known, expected in (({"none", "model"}, "model"), ({"none"}, "none"), ({"none", "group"}, "group")):
            self.assertEqual(choose(self.flux, 8 * GIB, "cuda:0", frozenset(known), False).offload, expected)

    def test_the_line_names_the_figures_and_what_would_be_faster(self) -> None:
        why = choose(self.flux, 23 * GIB, "cuda:0", WAYS, False).why
        self.assertIn("31.5 GiB (transformer 22.2, text_encoder_2 8.9) and cuda:0 has 23.0 GiB free", why)
        self.assertIn("quantization:int8 would need less memory; 40 GiB free would hold all as it is", why)

    def test_where_all_fits_there_is_nothing_to_say_and_no_tiles(self) -> None:
        found = choose(self.flux, 79 * GIB, "cuda:0", WAYS, False)
        self.assertEqual((found.why, found.tiling), ("", False))
        self.assertTrue(choose(self.flux, 8 * GIB, "cuda:0", WAYS, False).tiling)

    def test_low_vram_halves_what_lies_on_the_card(self) -> None:
        for sizes, _ in MODELS.values():
            model = weights(sizes)
            most = model.largest if sparing(model, WAYS) == "model" else 0
            self.assertLessEqual(most * 2, model.total)
        even = Weights({"transformer": GIB, "text_encoder": GIB})
        self.assertEqual(sparing(even, WAYS), "model")
        self.assertEqual(sparing(self.flux, frozenset({"none", "model"})), "model")
        self.assertEqual(sparing(even, frozenset({"none", "group"})), "group")


if __name__ == "__main__":
    unittest.main()
