# SPDX-License-Identifier: MIT
"""A ControlNet or T2I-Adapter of one file: its class follows its keys, its config the denoiser that it was made for.

Such a net is a copy of a part of its denoiser, whose config says most of its shape; the rest (how many layers, how many
kinds of control) is read from the file's own names and shapes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from localai_diffusers.checkpoint import fitting
from localai_diffusers.checkpoint.contents import Contents
from localai_diffusers.checkpoint.fitting import Fit, Target

_ADAPTER = "T2IAdapter"
Shapes = Mapping[str, tuple[int, ...]]


def fit(component: str, found: Contents, denoiser: Mapping[str, Any]) -> Fit | None:
    """The net that ``found`` is, for a model whose denoiser has the config ``denoiser``: of the classes the one that
    knows most of its names (a union ControlNet has all of a plain one's, and more); None where it is none."""
    fits = [one for wanted in _targets(component, found, denoiser) if (one := fitting.fit(wanted, found)) is not None]
    return max(fits, key=lambda one: (len(one.filled) + len(one.wrong), one.is_complete), default=None)


def _targets(component: str, found: Contents, denoiser: Mapping[str, Any]) -> Iterator[Target]:
    import diffusers

    shapes = {name: entry.shape for name, entry in found.entries.items()}
    names = [
        name for name in dir(diffusers) if re.fullmatch(r"\w*ControlNet(Union)?Model", name) and "Multi" not in name
    ]
    for name in names:
        cls = getattr(diffusers, name)
        yield from _made(component, cls, _config(cls, denoiser, shapes))
    for config in _adapter_configs(denoiser, shapes):
        yield from _made(component, getattr(diffusers, _ADAPTER), config)


def _made(component: str, cls: type, config: Mapping[str, Any]) -> Iterator[Target]:
    """The target, nothing for a class that cannot be built by such a config: it is of another family."""
    try:
        yield fitting.of_config(component, cls, {**config, "_class_name": cls.__name__})
    except Exception:  # noqa: BLE001 a class that is fed another family's config fails with anything
        return


def _config(cls: type[Any], denoiser: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """What the class's constructor shares with the denoiser's config, and what the file's own shapes say."""
    known = inspect.signature(cls.__init__).parameters
    shared = {name: value for name, value in denoiser.items() if name in known}
    told = {
        name: value for name, read in _TOLD.items() if name in known and (value := read(shapes, denoiser)) is not None
    }
    return shared | told


# --- what a file's shapes say ----------------------------------------------------------------------------------------


def _ending(shapes: Shapes, name: str) -> tuple[int, ...]:
    """The shape of the tensor of that name, whatever stands before it; () without one."""
    return next((shape for key, shape in shapes.items() if key == name or key.endswith("." + name)), ())


def _count(shapes: Shapes, blocks: str) -> int | None:
    numbers = {int(found[1]) for key in shapes if (found := re.search(rf"(?:^|\.){blocks}\.(\d+)\.", key))}
    return max(numbers) + 1 if numbers else None


def _rows(name: str) -> Callable[[Shapes, Mapping[str, Any]], int | None]:
    return lambda shapes, _denoiser: next(iter(_ending(shapes, name)), None)


def _embedding_channels(shapes: Shapes, _denoiser: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The channels of the layers that read the control picture: each second convolution widens."""
    first = _ending(shapes, "controlnet_cond_embedding.conv_in.weight")
    if not first:  # its authors count every layer of that row
        names = (f"input_hint_block.{number}.weight" for number in (0, 4, 8, 12))
        found = [shape[0] for name in names if (shape := _ending(shapes, name))]
        return tuple(found) or None
    count = _count(shapes, r"controlnet_cond_embedding\.blocks") or 0
    wider = [_ending(shapes, f"controlnet_cond_embedding.blocks.{number}.weight")[0] for number in range(1, count, 2)]
    return (first[0], *wider)


def _conditioning_channels(shapes: Shapes, _denoiser: Mapping[str, Any]) -> int | None:
    names = ("controlnet_cond_embedding.conv_in.weight", "input_hint_block.0.weight")
    return next((shape[1] for name in names if (shape := _ending(shapes, name))), None)


def _extra_channels(shapes: Shapes, denoiser: Mapping[str, Any]) -> int | None:
    shape = _ending(shapes, "pos_embed_input.proj.weight")
    return shape[1] - int(denoiser.get("in_channels") or 0) if shape else None


_TOLD: Mapping[str, Callable[[Shapes, Mapping[str, Any]], Any]] = {
    "num_layers": lambda shapes, _denoiser: _count(shapes, "transformer_blocks"),
    "num_single_layers": lambda shapes, _denoiser: _count(shapes, "single_transformer_blocks") or 0,
    "num_mode": _rows("controlnet_mode_embedder.weight"),
    "num_control_type": _rows("task_embedding"),
    "conditioning_embedding_out_channels": _embedding_channels,
    "conditioning_channels": _conditioning_channels,
    "extra_conditioning_channels": _extra_channels,
}


# --- T2I-Adapters ----------------------------------------------------------------------------------------------------


def _row(shapes: Shapes, groups: int) -> int:
    """Residual blocks of one width: numbered by themselves, or all of an adapter's in one row."""
    nested = _count(shapes, r"body\.\d+\.(?:resnets|body)")
    return nested or max(1, (_count(shapes, "body") or groups) // groups)


def _adapter_configs(denoiser: Mapping[str, Any], shapes: Shapes) -> Iterator[dict[str, Any]]:
    """The three kinds of T2I-Adapter, as wide as the U-Net that they feed."""
    channels = list(denoiser.get("block_out_channels") or ())
    first = _ending(shapes, "conv_in.weight") or _ending(shapes, "body.0.in_conv.weight")
    for kind, factor in (("full_adapter", 8), ("full_adapter_xl", 16), ("light_adapter", 8)) if first else ():
        if channels and first[1] % factor**2 == 0:
            yield {
                "adapter_type": kind,
                "channels": channels,
                "in_channels": first[1] // factor**2,
                "downscale_factor": factor,
                "num_res_blocks": _row(shapes, len(channels)),
            }
