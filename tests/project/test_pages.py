# SPDX-License-Identifier: MIT
"""What the pages tell people to copy is right: YAMLs without a fault, commands that the terminal's parser takes."""

from __future__ import annotations

import re
import shlex
import unittest
from pathlib import Path

import yaml

import backend_pb2
from localai_diffusers.cli import model_yaml
from localai_diffusers.cli.__main__ import parser_of
from localai_diffusers.wire.load_spec import from_model_options
from tests.support import HOME

PAGES = (HOME / "README.md", *sorted((HOME / "docs").glob("*.md")))
YAMLS = sorted((HOME / "examples").glob("*.yaml"))
NEEDS = {"LocalAI", "the Hub", "a GPU"}
# What LocalAI's web UI knows (core/config/model_config.go, core/config/meta).
USECASES = {"image", "video", "sound_generation", "3d", "depth"}
MODALITIES = {"text", "image", "audio", "video"}


def blocks(language: str) -> list[tuple[str, str]]:
    """Each fenced block of a language in the pages, with the page's name."""
    fence = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(page.name, text) for page in PAGES for text in fence.findall(page.read_text(encoding="utf-8"))]


def configs() -> list[tuple[str, dict[str, object]]]:
    texts = blocks("yaml") + [(path.name, path.read_text(encoding="utf-8")) for path in YAMLS]
    return [(name, yaml.safe_load(text)) for name, text in texts]


class PagesTest(unittest.TestCase):
    def test_every_yaml_is_without_fault(self) -> None:
        self.assertGreater(len(configs()), 15)
        for name, config in configs():
            named = model_yaml.of_config(config, Path("/models"))
            faults = [fault for fault in named.faults if "there is no file" not in fault]  # a model folder's own
            self.assertEqual((faults, named.notes), ([], ()), f"{name}: {config['name']}")
            spec = from_model_options(backend_pb2.ModelOptions(**named.fields))
            self.assertEqual(spec.identity, config["parameters"]["model"])  # type: ignore[index]

    def test_every_yaml_is_listed_by_the_web_ui(self) -> None:
        for name, config in configs():
            where = f"{name}: {config['name']}"
            self.assertTrue(config["known_usecases"] and set(config["known_usecases"]) <= USECASES, where)  # type: ignore[arg-type, call-overload]
            for key in ("known_input_modalities", "known_output_modalities"):
                self.assertLessEqual(set(config.get(key, ())), MODALITIES, where)  # type: ignore[call-overload]

    def test_every_command_is_taken_by_the_terminal(self) -> None:
        said = [text.replace("\\\n", " ") for _, text in blocks("bash")]
        commands = re.findall(r"^\S*python -m localai_diffusers (.+)$", "\n".join(said), re.MULTILINE)
        self.assertGreater(len(commands), 6)
        for command in commands:
            _, rest = parser_of([]).parse_known_args(shlex.split(command, comments=True))
            self.assertEqual([word for word in rest if word.startswith("-")], [], command)

    def test_a_block_says_what_it_needs_in_known_words(self) -> None:
        for page in PAGES:
            for words in re.findall(r"<!-- needs: (.*?) -->\n```", page.read_text(encoding="utf-8")):
                self.assertIn(words, NEEDS, page.name)

    def test_the_readme_leads_to_every_page(self) -> None:
        readme = PAGES[0].read_text(encoding="utf-8")
        for page in PAGES[1:]:
            self.assertIn(f"(docs/{page.name})", readme)


if __name__ == "__main__":
    unittest.main()
