# SPDX-License-Identifier: MIT
"""Which of a LoRA's layers fit a model, judged by names and shapes, with an account of every key of the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from localai_diffusers.checkpoint.lora import differences, names
from localai_diffusers.checkpoint.lora.names import Layer, Layers, Nowhere, Place
from localai_diffusers.checkpoint.lora.pieces import Sorted

# Below this part of its layers a file is one of another model.
LEAST = 0.1
# Kinds of modules that can be given a bias where they have none: they look at it in each call.
_BIASABLE = ("linear", "conv")
# What trainers call the pieces, where one is missing.
_CALLED = {"down": "lora_down (or lora_A)", "up": "lora_up (or lora_B)"}


@dataclass(frozen=True)
class Change:
    """One layer of the file, and the modules whose weights it changes. ``pieces``: piece -> the file's key."""

    layer: str
    place: Place
    pieces: Mapping[str, str]


@dataclass(frozen=True)
class Fit:
    """What of a file fits the model, and what does not, by layer: ``absent`` with the component that its name means,
    ``misfits`` with both shapes, ``torn`` with what it lacks, ``twice`` those that other layers of the file say too."""

    changes: tuple[Change, ...]
    absent: Mapping[str, str]
    misfits: Mapping[str, str]
    torn: Mapping[str, str]
    twice: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def fitting(self) -> int:
        """How many layers of the file have a place."""
        return len({change.layer for change in self.changes})

    @property
    def total(self) -> int:
        """How many layers the file has; keys of no known kind count as a layer for each name."""
        unknown = {key.rpartition(".")[0] for key in self.unknown}
        return self.fitting + len(self.absent) + len(self.misfits) + len(self.torn) + len(self.twice) + len(unknown)

    @property
    def is_of_another_model(self) -> bool:
        """Whether so little fits that the file was made for something else."""
        return self.fitting < LEAST * max(1, self.total)


def fit(
    found: Sorted,
    shapes: Mapping[str, Sequence[int]],
    components: Mapping[str, Layers],
    denoisers: Sequence[str],
) -> Fit:
    """Judge the layers of a file. ``shapes``: key -> shape; ``components``: the modules of each part of the pipeline,
    which may be built when they are asked for; ``denoisers``: those of them that the file is for."""
    torn = {
        layer: ", ".join(_CALLED.get(piece, piece) for piece in missing)
        for layer, pieces in found.layers.items()
        if (missing := differences.lacking(pieces))
    }
    whole = [layer for layer in found.layers if layer not in torn]
    places = names.resolve(whole, components, denoisers)
    absent = {layer: place.role for layer, place in places.items() if isinstance(place, Nowhere)}
    changes, misfits = [], {}
    for layer in whole:
        pieces = found.layers[layer]
        its_shapes = {piece: tuple(shapes[key]) for piece, key in pieces.items()}
        found_places = places[layer]
        for place in () if isinstance(found_places, Nowhere) else found_places:
            wrong = misfit(its_shapes, [components[place.component][target] for target in place.targets])
            if wrong:
                misfits[layer] = wrong
            else:
                changes.append(Change(layer, place, pieces))
    twice = _said_twice(changes)
    kept = tuple(change for change in changes if change.layer not in twice)
    fitting = {change.layer for change in kept}
    misfits = {layer: wrong for layer, wrong in misfits.items() if layer not in fitting}
    return Fit(kept, absent, misfits, torn, tuple(twice), (*found.unknown, *found.bundled))


def misfit(shapes: Mapping[str, Sequence[int]], targets: Sequence[Layer]) -> str:
    """Why pieces of these shapes cannot change modules of those, "" where they can."""
    rows, columns = sum(_rows(layer) for layer in targets), {_columns(layer) for layer in targets}
    wanted = [(rows, column) for column in columns]
    for size in differences.sizes(shapes):
        same = len(targets) == 1 and targets[0].kind == "parameter" and size[0] * size[1] == rows * wanted[0][1]
        if size not in wanted and not same:
            return f"{_by(size)}, the model's {_by(wanted[0])}"
    if len(columns) > 1:
        return "parts of unequal widths"
    for piece in ("diff_b", "set_b", "up_bias", "magnitude"):
        if piece in shapes and _count(shapes[piece]) != rows:
            return f"a {piece} of {_count(shapes[piece])}, the model's {rows} rows"
    if differences.BIASES & shapes.keys() and not all(one.has_bias or one.kind in _BIASABLE for one in targets):
        return "a bias, where the model's has none"
    if "dora_scale" in shapes and not _is_magnitude(tuple(shapes["dora_scale"]), rows, targets[0].shape):
        return f"a dora_scale of {_by(shapes['dora_scale'])}, the model's {_by(wanted[0])}"
    if "alpha" in shapes and _count(shapes["alpha"]) != 1:
        return "an alpha that is no number"
    return ""


def _is_magnitude(shape: tuple[int, ...], rows: int, weight: Sequence[int]) -> bool:
    """A vector or column of as many as the rows, or a row of as many as the inputs."""
    if len(shape) < 2 or shape[0] == rows:
        return _count(shape) == rows
    return len(weight) > 1 and shape[0] == 1 and _count(shape) == weight[1]


def _said_twice(changes: Iterable[Change]) -> dict[str, None]:
    """Layers of several modules each of which another layer changes alone: some trainers save a joined projection
    and its parts; and of two names of one module the later."""
    by_target: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        for target in change.place.targets:
            by_target.setdefault((change.place.component, target), []).append(change)
    twice: dict[str, None] = {}
    for several in by_target.values():
        same = [one for one in several if _is_weight(one)]
        for change in sorted(same, key=lambda one: len(one.place.targets))[1:]:
            twice[change.layer] = None
    return twice


def _is_weight(change: Change) -> bool:
    return bool(differences.kinds(change.pieces))


def _rows(layer: Layer) -> int:
    return layer.shape[0] if layer.shape else 1


def _columns(layer: Layer) -> int:
    return _count(layer.shape[1:])


def _count(shape: Sequence[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def _by(size: Sequence[int]) -> str:
    return "x".join(map(str, size)) or "no shape"
