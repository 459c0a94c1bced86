# SPDX-License-Identifier: MIT
"""``generate --like FILE``: what a file says of how it was made, as the arguments that make it again."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localai_diffusers.cli import environment, model_yaml
from localai_diffusers.cli.terminal import WRONG, Fault, tell
from localai_diffusers.media import comments

_FACT = re.compile(r'([A-Z][A-Za-z ]*): ("(?:[^"\\]|\\.)*"|[^,\n]*)(?:, |$)')
_NEGATIVE = "Negative prompt: "


@dataclass(frozen=True)
class Recipe:
    """``facts``: the text's last line, by name. ``prompt`` is None in a file whose server was not told to keep it."""

    facts: Mapping[str, str]
    prompt: str | None = None
    negative: str = ""

    @property
    def load(self) -> dict[str, Any] | None:
        """The fields of ModelOptions, where the file has them."""
        return json.loads(self.facts["Load"]) if "Load" in self.facts else None


def read(text: str) -> Recipe:
    """The recipe in the text of a file's metadata."""
    *words, line = text.split("\n")
    facts = {name: json.loads(value) if value.startswith('"') else value.strip() for name, value in _FACT.findall(line)}
    if not words:
        return Recipe(facts)
    at = next((number for number, word in enumerate(words) if word.startswith(_NEGATIVE)), len(words))
    return Recipe(facts, "\n".join(words[:at]), "\n".join(words[at:]).removeprefix(_NEGATIVE))


def of_file(name: str) -> Recipe:
    """The recipe of a file. Raises Fault for one that is not there, or says nothing of how it was made."""
    path = Path(name).expanduser()
    if not path.is_file():
        raise Fault(f"--like: there is no file {name}. {model_yaml.nearest(path)}".rstrip(), WRONG)
    recipe = read(comments.read(path) or "")
    if not {"Seed", "Model"} <= recipe.facts.keys():
        raise Fault(f"--like: {name} does not say how it was made: it is not of this backend, or without metadata")
    return recipe


def with_recipe(options: argparse.Namespace, recipe: Recipe) -> argparse.Namespace:
    """The arguments with what the file says for those that are not said. Raises Fault for what it does not hold: the
    model, the prompt, the pictures that it was made from."""
    words, facts = list(options.words), recipe.facts
    model = options.model or (words.pop(0) if words else "")
    prompt = options.prompt or (words.pop(0) if words else recipe.prompt)
    if not model and recipe.load is None:
        raise Fault(f"{options.like} names its model {facts['Model']!r} without its place: --like FILE MODEL", WRONG)
    if prompt is None:
        raise Fault(
            f"{options.like} does not hold its prompt, since its server was not told to keep it "
            "(LOCALAI_DIFFUSERS_METADATA=full): --like FILE --prompt PROMPT",
            WRONG,
        )
    given = len(options.image) + len(options.control) + bool(options.mask)
    if given < int(facts.get("Pictures", 0)):
        raise Fault(
            f"{options.like} was made from {facts['Pictures']} picture(s), which it does not hold: name all by "
            "--image, --mask and --control",
            WRONG,
        )
    _tell_versions(facts.get("Versions", ""))
    if model:
        _tell_unheld(model, facts)
    return argparse.Namespace(
        **{
            **vars(options),
            "words": words,
            "model": model,
            "prompt": prompt,
            "negative": options.negative or recipe.negative,
            "seed": _unless(options.seed, facts.get("Seed"), int),
            "steps": _unless(options.steps, facts.get("Steps"), int),
            "size": _unless(options.size, facts.get("Size"), _size),
            "frames": _unless(options.frames, facts.get("Frames"), int),
            "fps": _unless(options.fps, facts.get("FPS"), lambda text: int(float(text))),
            "guidance": options.guidance if recipe.load and not options.model else _guidance(options, facts),
        }
    )


def _unless(said: Any, fact: str | None, kind: Any) -> Any:
    return kind(fact) if said is None and fact is not None else said


def _size(text: str) -> tuple[int, int]:
    width, height = text.split("x")
    return int(width), int(height)


def _guidance(options: argparse.Namespace, facts: Mapping[str, str]) -> Any:
    """By the call's own value, where the load's options are not in the file."""
    return _unless(options.guidance, facts.get("CFG scale"), float)


def _tell_unheld(model: str, facts: Mapping[str, str]) -> None:
    """A line on what was loaded then and is not loaded again: of a model that is named, its own counts."""
    made_by = [f"{name} {facts[name]}" for name in ("Sampler", "True CFG scale", "LoRA", "ControlNet") if name in facts]
    if made_by:
        tell(f"note: it was made with {'; '.join(made_by)}: what {model} and the arguments say counts")


def _tell_versions(made_with: str) -> None:
    """A line where other versions made it, for those decide what a seed becomes."""
    made = dict(pair.rsplit(" ", 1) for pair in made_with.split(", ") if " " in pair)
    other = {name: here for name in made if (here := environment.version_of(name)) != made[name]}
    if other:
        here = ", ".join(f"{name} {version}" for name, version in other.items())
        tell(f"note: it was made with {made_with}, and here is {here}: the picture may differ")
