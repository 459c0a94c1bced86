# SPDX-License-Identifier: MIT
"""What each option of a YAML gains and costs on an accelerator, on full-size architectures with random weights.

Run: ``venv/bin/python benchmarks/gpu.py [--only ROW ...] [--models NAME ...] [--toy]``. Needs no file of a model: each
is built from its config in benchmarks/architectures with the same seed for every row, so that an option's result can be
held against the plain one. The options are applied by the backend's own rooms. Text encoders lie where the option puts
them and are not called: the prompt is random numbers. ``--toy`` runs the same rows at toy size on whatever there is, to
try this file. The table is written to benchmarks/results/gpu.json after each row; without an accelerator nothing is.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from benchmarks.common import HOME, accelerator, keep, machine, say, shown  # noqa: E402

MODELS = ("sd15", "sdxl", "flux", "wan")
# What the YAML says -> its options; low_vram is a key of its own.
ROWS: Mapping[str, tuple[str, ...]] = {
    "plain": (),
    "compile:true": ("compile:true",),
    "channels_last": ("channels_last:true", "vae_channels_last:true"),
    "fuse_qkv": ("fuse_qkv:true",),
    "layerwise_casting:fp8": ("layerwise_casting:fp8",),
    "cache:first_block": ("cache:first_block",),
    "cache:taylorseer": ("cache:taylorseer",),
    "cache:pyramid": ("cache:pyramid",),
    "cache:faster": ("cache:faster",),
    "vae_tiling": ("vae_tiling:true",),
    "text_encoder_offload": ("text_encoder_offload:true",),
    "offload:model": ("offload:model",),
    "offload:group": ("offload:group",),
    "offload:sequential": ("offload:sequential",),
    "low_vram": (),
}
_WARM_STEPS = 2
_SEED = 7


@dataclass(frozen=True)
class Row:
    """``seconds`` of a whole call, its ``peak`` in GiB, and ``error``: how far the result is from the plain one, in
    standard deviations of that. None is "not measured", and ``note`` says why."""

    model: str
    option: str
    seconds: float | None = None
    step_seconds: float | None = None
    peak: float | None = None
    error: float | None = None
    note: str = ""


def config_of(name: str, toy: bool) -> dict[str, Any]:
    """The file in benchmarks/architectures, at its own size or as a toy."""
    found = json.loads((HOME / "benchmarks" / "architectures" / f"{name}.json").read_text())
    small = found.pop("toy")
    if toy:
        parts = {part: {**config, **small["components"].get(part, {})} for part, config in found["components"].items()}
        found |= {"call": small["call"], "prompt": small["prompt"], "components": parts}
    return found


# --- one row -------------------------------------------------------------------------------------------------------


def built(config: Mapping[str, Any], device: str) -> Any:
    """The pipeline with random weights in bf16; made on ``device``, where that is faster, and moved to the host."""
    import diffusers
    import torch

    torch.manual_seed(_SEED)
    cls = getattr(diffusers, config["pipeline"])
    parts: dict[str, Any] = {"scheduler": getattr(diffusers, config["scheduler"])()}
    for name, values in config["components"].items():
        parts[name] = _component(cls, name, values, device).to("cpu").eval()
    taken = diffusers.DiffusionPipeline._get_signature_keys(cls)
    missing = dict.fromkeys({*taken[0], *taken[1]} - parts.keys())
    optional = {name: False for name in missing if name.startswith("requires_")}
    return cls(**parts, **{name: value for name, value in missing.items() if name in taken[0]}, **optional)


def _component(cls: Any, name: str, values: Mapping[str, Any], device: str) -> Any:
    import torch

    kind = _class_of(cls, name)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return kind(kind.config_class(**values)) if hasattr(kind, "config_class") else kind(**values)
    finally:
        torch.set_default_dtype(torch.float32)


def _class_of(cls: Any, name: str) -> Any:
    """What the constructor's annotation says of a component: of several, the first that can be made."""
    import typing

    hint = typing.get_type_hints(cls.__init__)[name]
    return next(kind for kind in (typing.get_args(hint) or (hint,)) if hasattr(kind, "from_pretrained"))


@contextlib.contextmanager
def placed(pipeline: Any, option: str, device: str) -> Iterator[Any]:
    """The pipeline as the backend would have it with this option, and its cache around each call."""
    from localai_diffusers.loading.placing import caches, placement, switches
    from localai_diffusers.loading.placing.placement import DevicePlan
    from localai_diffusers.wire import load_spec

    options = load_spec.from_model_options(_message(option)).options
    switches.switch_on(pipeline, options)
    cache = caches.enabled(pipeline, options)
    mode = _offload(pipeline, option, options) if device != "cpu" else "none"
    placement.place(pipeline, DevicePlan(device, "bfloat16", offload=mode))
    yield lambda: cache.during(pipeline) if cache else contextlib.nullcontext()


def _message(option: str) -> Any:
    import backend_pb2

    return backend_pb2.ModelOptions(Model="benchmark", Options=list(ROWS[option]))


def _offload(pipeline: Any, option: str, options: Any) -> str:
    from localai_diffusers.loading.placing import memory_plan

    if option == "low_vram":
        parts = {name: part for name, part in pipeline.components.items() if hasattr(part, "parameters")}
        sizes = {name: sum(one.numel() * 2 for one in part.parameters()) for name, part in parts.items()}
        return memory_plan.sparing(memory_plan.Weights(sizes), frozenset(memory_plan.LADDER))
    return "text_encoders" if options.text_encoder_offload else options.offload or "none"


def measured(name: str, option: str, config: Mapping[str, Any], device: str, plain: Any) -> tuple[Row, Any]:
    """The row of one option, and what was made."""
    import torch

    pipeline = built(config, device)
    pipeline.set_progress_bar_config(disable=True)
    with placed(pipeline, option, device) as cached:
        draw = _drawing(pipeline, config, device, cached)
        draw(_WARM_STEPS)  # compiles, and fills the allocator
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        steps = config["call"]["step"]
        short, _ = _timed(draw, _WARM_STEPS, device)
        seconds, result = _timed(draw, steps, device)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device != "cpu" else None
    error = float((result - plain).abs().mean() / plain.std()) if plain is not None else None
    return Row(name, option, seconds, (seconds - short) / (steps - _WARM_STEPS), peak, error), result


def _drawing(pipeline: Any, config: Mapping[str, Any], device: str, cached: Any) -> Any:
    import torch

    numbers = torch.Generator("cpu").manual_seed(_SEED)
    prompt = {
        name: torch.randn(shape, generator=numbers).to(device, torch.bfloat16)
        for name, shape in config["prompt"].items()
    }
    call = {key: value for key, value in config["call"].items() if key != "step"}

    def draw(steps: int) -> Any:
        generator = torch.Generator("cpu").manual_seed(_SEED)
        with cached(), torch.inference_mode():
            made = pipeline(
                **prompt, **call, num_inference_steps=steps, generator=generator, output_type="pt", return_dict=False
            )
        return made[0].float().cpu()

    return draw


def _timed(draw: Any, steps: int, device: str) -> tuple[float, Any]:
    import torch

    wait = torch.cuda.synchronize if device != "cpu" else lambda: None
    wait()
    began = time.perf_counter()
    result = draw(steps)
    wait()
    return time.perf_counter() - began, result


# --- all ------------------------------------------------------------------------------------------------------------


def rows(models: list[str], options: list[str], toy: bool, device: str) -> Iterator[Row]:
    """A row for each model and option, plain first; one that fails, or that the backend refuses, says why."""
    import torch

    for name in models:
        config, plain = config_of(name, toy), None
        for option in ["plain", *(option for option in options if option != "plain")]:
            try:
                row, result = measured(name, option, config, device, plain)
                plain = result if option == "plain" else plain
            except Exception as error:  # noqa: BLE001 - the other rows are still to be measured
                row = Row(name, option, note=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
            yield row
            gc.collect()
            torch.compiler.reset()
            if device != "cpu":
                torch.cuda.empty_cache()


def _line(row: Row) -> str:
    figures = [shown(value) for value in (row.seconds, row.step_seconds, row.peak, row.error)]
    return f"{row.model:6} {row.option:24} " + " ".join(f"{figure:>9}" for figure in figures) + f"  {row.note}"


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--toy", action="store_true", help="toy sizes: to try this file, on a CPU too; keeps nothing")
    asked = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not asked.toy:
        sys.exit("there is no accelerator here: --toy tries this file on the CPU")
    found: list[Row] = []
    say(_line(Row("model", "option")).replace("-", " ")[:31] + "   seconds   a step  peak GiB     error")
    for row in rows(asked.models, asked.only, asked.toy, device):
        found.append(row)
        say(_line(row))
        if not asked.toy:
            keep("gpu", {"machine": machine(), "card": accelerator(), "rows": [asdict(one) for one in found]})


if __name__ == "__main__":
    main()
