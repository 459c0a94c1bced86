# SPDX-License-Identifier: MIT
"""``demo``: the shipped model through a real server, six pictures on one sheet with their prompts."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from localai_diffusers.cli import server
from localai_diffusers.cli.terminal import say

MODEL = server.HOME / "examples" / "shapes-model"
PROMPTS = (
    "a red circle on a blue background",
    "a yellow square on a black background",
    "a green triangle on a white background",
    "a blue square on a yellow background",
    "a green circle on a black background",
    "a red triangle on a yellow background",
)
SIDE, STEPS, GUIDANCE = 64, 20, 3  # of its card
FIRST_SEED = 20  # of six in a row whose pictures are clean, in fp32 and in bf16


def add(commands: Any) -> None:
    parser = commands.add_parser("demo", help="load the shipped model and draw a sheet of pictures")
    parser.add_argument("-o", "--output", default="demo.png", help="the sheet (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    began = time.monotonic()
    with server.connected() as stub, tempfile.TemporaryDirectory() as folder:
        say(f"server up after {time.monotonic() - began:.1f} s")
        # One thread, since so small a model only waits for a second.
        fields = {"Model": str(MODEL), "ModelFile": str(MODEL), "Options": [f"guidance_scale:{GUIDANCE}"], "Threads": 1}
        server.load(stub, fields)
        start = time.monotonic()
        drawn = [_draw(stub, number, prompt, Path(folder)) for number, prompt in enumerate(PROMPTS, FIRST_SEED)]
        seconds = time.monotonic() - start
        sheet_of(drawn).save(options.output)
    say(f"{len(drawn)} pictures in {seconds:.1f} s ({seconds / len(drawn):.2f} s each, {STEPS} steps)")
    say(f"{options.output}: the sheet; {time.monotonic() - began:.1f} s in all")
    return 0


def _draw(stub: Any, seed: int, prompt: str, folder: Path) -> tuple[str, Path]:
    dst = folder / f"{seed}.png"
    fields = {"positive_prompt": prompt, "width": SIDE, "height": SIDE, "step": STEPS, "seed": seed, "dst": str(dst)}
    server.generate(stub, "GenerateImage", server.messages().GenerateImageRequest(**fields), STEPS)
    return prompt, dst


def sheet_of(drawn: list[tuple[str, Path]], scale: int = 3, columns: int = 3) -> Any:
    """The pictures in a grid, enlarged, each over its prompt."""
    from PIL import Image, ImageDraw

    side, margin, caption = SIDE * scale, 12, 28
    rows = -(-len(drawn) // columns)
    width, height = columns * (side + margin) + margin, rows * (side + caption + margin) + margin
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (prompt, path) in enumerate(drawn):
        left = margin + number % columns * (side + margin)
        top = margin + number // columns * (side + caption + margin)
        with Image.open(path) as picture:
            sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (left, top))
        pen.rectangle((left - 1, top - 1, left + side, top + side), outline="gray")
        pen.text((left, top + side + 4), prompt.replace(" on ", "\non "), fill="black", spacing=1)
    return sheet
