#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a merge changes in LocalAI's tree outside of backend/python/diffusers, done: scripts/merge_into_localai.py TREE

Each change finds its place by what stands there, not by line numbers, which move with every commit of LocalAI's. One
that is made already is left as it is; one whose place is not found is told, and nothing is written. docs/in-localai.md
says why each is made.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

_L4T12 = "nvidia-l4t-diffusers"  # the image for Jetson with CUDA 12, whose PyTorch is for Python 3.10
_IGNORED = ("torch", "torchvision", "diffusers", "transformers")
_METHODS = (
    "GenerateImage",
    "UpscaleImage",
    "GenerateVideo",
    "SoundGeneration",
    "Generate3D",
    "Depth",
)
_USECASES = ("Image", "Upscale", "Video", "SoundGeneration", "3D", "Depth")


class NotFound(Exception):
    """The place of a change is not there."""


def without_l4t12_row(text: str) -> str:
    """.github/backend-matrix.yml without the row that builds the image."""
    rows = re.split(r"(?m)^(?=  - build-type:)", text)
    if not any('backend: "diffusers"' in row for row in rows):
        raise NotFound('a row with backend: "diffusers"')
    return "".join(row for row in rows if f"tag-suffix: '-{_L4T12}'" not in row)


def without_l4t12_entries(text: str) -> str:
    """backend/index.yaml without the image's entries, and without the capabilities that mean it."""
    if "*diffusers" not in text:
        raise NotFound("entries made from *diffusers")
    entries = re.split(r"(?m)^(?=- )", text)
    kept = [entry for entry in entries if not re.search(rf'(?m)^  name: "{_L4T12}(-development)?"', entry)]
    return re.sub(rf'(?m)^ +nvidia-l4t[\w-]*: "{_L4T12}(-development)?"\n', "", "".join(kept))


def with_ignores(text: str) -> str:
    """.github/dependabot.yml: what is pinned together, or for one index, is moved by hand."""
    block = re.search(
        r'(?ms)^  - package-ecosystem: "pip"\n    directory: "/backend/python/diffusers"\n.*?(?=^  - |\Z)', text
    )
    if block is None:
        raise NotFound('the block of directory: "/backend/python/diffusers"')
    rest = re.sub(r"(?m)(?:^ +#.*\n)*^    ignore:\n(?:^    (?:- |  ).*\n?)*", "", block[0])
    lines = "".join(f'    - dependency-name: "{name}"\n' for name in _IGNORED)
    reason = (
        "    # torch and torchvision come from an accelerator's own index; diffusers and transformers move in step,\n"
        "    # with the tests (requirements.txt says why).\n"
    )
    return text[: block.start()] + f"{rest}{reason}    ignore:\n{lines}" + text[block.end() :]


def with_capabilities(text: str) -> str:
    """core/config/backend_capabilities.go: every kind of output that the backend serves."""
    block = re.search(r'(?ms)^\t"diffusers": \{\n.*?^\t\},\n', text)
    if block is None:
        raise NotFound('the entry "diffusers"')
    made = re.sub(r"GRPCMethod\{[^}]*\}", f"GRPCMethod{{{', '.join('Method' + name for name in _METHODS)}}}", block[0])
    usecases = ", ".join("Usecase" + name for name in _USECASES)
    made = re.sub(r"(PossibleUsecases: +\[\]string)\{[^}]*\}", rf"\g<1>{{{usecases}}}", made)
    described = "HuggingFace diffusers — images, videos, sound, 3D meshes and depth maps"
    made = re.sub(r'(Description: +)"[^"]*"', rf'\g<1>"{described}"', made)
    return text[: block.start()] + made + text[block.end() :]


CHANGES: Mapping[str, Callable[[str], str]] = {
    ".github/backend-matrix.yml": without_l4t12_row,
    "backend/index.yaml": without_l4t12_entries,
    ".github/dependabot.yml": with_ignores,
    "core/config/backend_capabilities.go": with_capabilities,
}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        sys.stderr.write("usage: scripts/merge_into_localai.py TREE\n")
        return 2
    tree, made, missing = Path(arguments[0]), {}, []
    for name, change in CHANGES.items():
        try:
            before = (tree / name).read_text(encoding="utf-8")
            made[name] = before, change(before)
        except (OSError, NotFound) as error:
            missing.append(f"{name}: {error}")
    if missing:
        sys.stderr.write("nothing was changed, for there is no\n" + "".join(f"  {line}\n" for line in missing))
        return 1
    for name, (before, after) in made.items():
        (tree / name).write_text(after, encoding="utf-8")
        sys.stdout.write(f"{name}: {'as it is' if before == after else 'changed'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
