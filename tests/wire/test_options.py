# SPDX-License-Identifier: MIT
"""The table of options: every row has its reader and its documentation, every value its type or a refusal by name."""

from __future__ import annotations

import ast
import unittest
from collections.abc import Iterator
from typing import Any

from localai_diffusers.errors import InvalidRequest
from localai_diffusers.loading.placing.switches import SWITCHES
from localai_diffusers.wire import options
from localai_diffusers.wire.options import OPTIONS, option_of
from tests.support import HOME
from tests.wire.test_load_spec import spec

# What the code calls an Options that it reads from: spec.options.NAME, defaults.said.NAME.
_HOLDERS = ("options", "said")


def _names_read() -> Iterator[str]:
    """Attributes that the code reads of an Options, in all rooms but the table's own."""
    for path in (HOME / "localai_diffusers").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and path.name != "options.py":
                holder = getattr(node.value, "attr", getattr(node.value, "id", ""))
                if holder in _HOLDERS:
                    yield node.attr


def said(*texts: str, **fields: Any) -> Any:
    return spec(*texts, **fields).options


class TableTest(unittest.TestCase):
    def test_every_row_is_read_or_switched_on_somewhere(self) -> None:
        self.assertEqual(OPTIONS.keys() - {*_names_read(), *SWITCHES}, set())

    def test_every_switch_is_a_row_of_the_placement(self) -> None:
        rows = {name for name, row in OPTIONS.items() if row.group == "placement"}
        self.assertLessEqual(SWITCHES.keys(), rows)

    def test_no_spelling_means_two_options(self) -> None:
        spellings = [name for row in OPTIONS.values() for name in (row.name, *row.aliases)]
        self.assertEqual(len(spellings), len(set(spellings)))
        for row in OPTIONS.values():
            self.assertTrue(all(option_of(name) is row for name in (row.name, *row.aliases)))

    def test_the_documentation_is_what_the_table_says(self) -> None:
        written = (HOME / "docs" / "options.md").read_text()
        self.assertEqual(written, options.documentation(), "python -m localai_diffusers.wire.options > docs/options.md")

    def test_every_row_has_a_sentence(self) -> None:
        for row in OPTIONS.values():
            self.assertRegex(row.doc, r"\w", row.name)
            self.assertNotIn("|", row.doc, row.name)


class ValuesTest(unittest.TestCase):
    def test_nothing_said_is_the_default(self) -> None:
        for text in ("variant:", "variant:null", "variant: none "):
            self.assertEqual(said(text), said(), text)
        self.assertEqual(said("offload:none").offload, "none")
        self.assertEqual(said("offload:").offload, "")

    def test_a_text_stays_what_was_written(self) -> None:
        for text in ("0012", "1e5", "true", "'12'", "a:b"):
            self.assertEqual(said(f"revision:{text}").revision, text.strip("'"), text)

    def test_a_switch_is_on_or_off_and_nothing_else(self) -> None:
        """``off`` is text, and text would switch it on."""
        self.assertIs(said("vae_tiling:true").vae_tiling, True)
        self.assertIs(said("use_safetensors:false").use_safetensors, False)
        self.assertIsNone(said().use_safetensors)
        for text in ("vae_tiling:off", "fuse_qkv:no", "safety_checker:maybe", "low_cpu_mem_usage:[]"):
            with self.assertRaisesRegex(InvalidRequest, f"option {text} must be true or false".replace("[", r"\[")):
                said(text)

    def test_one_of_several_words_in_any_case(self) -> None:
        for text, expected in (("Model", "model"), ("true", "model"), ("false", "none"), ("group", "group")):
            self.assertEqual(said(f"offload:{text}").offload, expected)
        with self.assertRaisesRegex(InvalidRequest, "option cpu_offload:half must be one of none, model, sequential"):
            said("cpu_offload:half")

    def test_a_number_has_its_bounds(self) -> None:
        self.assertEqual((said("max_batch:4").max_batch, said("cfg_scale:0").guidance_scale), (4, 0))
        for text in ("max_batch:0", "max_batch:65", "max_batch:1.5", "max_batch:true", "cfg_scale:x", "cfg_scale:101"):
            with self.assertRaisesRegex(InvalidRequest, f"option {text} must be a .*number between"):
                said(text)

    def test_several_texts_come_with_commas_or_as_a_list(self) -> None:
        for text in ("a, b", '["a", "b"]'):
            self.assertEqual(said(f"ip_adapter:{text}").ip_adapter, ("a", "b"))
        self.assertEqual(said("lora_weight_name:a,,b").lora_weight_name, ("a", "", "b"))

    def test_engine_args_bring_values_of_json(self) -> None:
        found = said(EngineArgs='{"max_memory": {"0": "10GiB"}, "vae_tiling": true, "variant": null, "max_batch": 2}')
        self.assertEqual((found.max_memory, found.vae_tiling, found.variant), ({"0": "10GiB"}, True, ""))
        with self.assertRaisesRegex(InvalidRequest, "max_memory:10 must be a JSON object"):
            said(EngineArgs='{"max_memory": 10}')


if __name__ == "__main__":
    unittest.main()
