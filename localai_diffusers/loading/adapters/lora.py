# SPDX-License-Identifier: MIT
"""LoRAs of every kind: judged from their headers before the earlier model goes, then put on the loaded pipeline.

What PEFT can take becomes layers of its own beside the model's; the rest is added to the weights. Either way each key
of the file is used, known to be idle, or named in a note; a LoRA that fits less than a tenth is refused.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers_dynamic_loader as loader
from localai_diffusers.checkpoint import artifacts
from localai_diffusers.checkpoint.lora import file, fit, names, pieces
from localai_diffusers.checkpoint.lora.file import LoraFile
from localai_diffusers.checkpoint.lora.fit import Fit
from localai_diffusers.checkpoint.lora.names import Layers
from localai_diffusers.checkpoint.model_files import Location
from localai_diffusers.errors import LoadError
from localai_diffusers.loading import components
from localai_diffusers.loading.adapters import lora_layers
from localai_diffusers.loading.files.skeletons import Loaded, Skeletons, Unknown
from localai_diffusers.settings import Settings
from localai_diffusers.wire.load_spec import LoadSpec

log = logging.getLogger(__name__)

_FIELD = "LoraAdapter"
_USUAL_NAMES = (
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "pytorch_lora_weights.bin",
    "adapter_model.bin",
)
_TARGETS = "option lora_targets"
# Which of two denoisers a file's name means, as a whole word of it: that of much noise comes first.
_HALF = re.compile(r"(?<![a-z])(high|low)(?:[^a-z]?noise)?(?![a-z])", re.IGNORECASE)
# Control LoRAs of Flux widen this layer to twice its inputs.
_EMBEDDER = "x_embedder"


@dataclass(frozen=True)
class Lora:
    """One LoRA: the name that its layers get, its file, its scale, and how the YAML called it.

    ``target`` is what ``lora_targets`` says for it; ``fit`` None where the model's modules are not known before it is
    loaded.
    """

    name: str
    file: LoraFile
    scale: float
    label: str
    target: str = ""
    fit: Fit | None = None
    notes: tuple[str, ...] = ()


def plan(spec: LoadSpec, cls: type, settings: Settings, model: Skeletons) -> tuple[Lora, ...]:
    """The LoRAs of ``spec``, each an intact file on this machine that fits the model as far as its configs tell.

    Raises LoadError for a file that is missing, broken or of another model, and for a class that takes none.
    """
    if not spec.loras:
        return ()
    if not _takes_lora(cls):
        raise LoadError(
            f"LoraAdapter(s) {', '.join(name for name, _scale in spec.loras)}: {cls.__name__} takes no LoRA"
        )
    _check_peft(spec)
    count = len(spec.loras)
    wanted = artifacts.weight_names(spec.options.lora_weight_name, "lora_weight_name", count, "LoRAs")
    targets = artifacts.weight_names(spec.options.lora_targets, "lora_targets", count, "LoRAs")
    loras = [
        _found(spec, index, name, scale, wanted[index], targets[index], settings)
        for index, (name, scale) in enumerate(spec.loras)
    ]
    if not model:
        return tuple(loras)
    return tuple(_fitted_before(one, cls, model) for one in loras)


def apply(pipeline: Any, loras: Sequence[Lora]) -> list[str]:
    """Put them on, before any offload is set up; notes on what of them is not used. Raises LoadError for what does not
    fit the loaded pipeline."""
    if not loras:
        return []
    if not _takes_lora(type(pipeline)):
        raise LoadError(f"{_FIELD} {loras[0].label!r}: {type(pipeline).__name__} takes no LoRA")
    model = Loaded(pipeline)
    loras = [one if one.fit and _is_here(one.fit, model) else _fitted(one, type(pipeline), model) for one in loras]
    for one in loras:
        assert one.fit is not None
        lora_layers.put_on(pipeline, one.name, one.label, one.scale, one.file, one.fit)
        parts = ", ".join(sorted({change.place.component for change in one.fit.changes}))
        log.info("LoRA %s on %s, scale %g", one.label, parts, one.scale)
    lora_layers.activate(pipeline, {one.name: one.scale for one in loras})
    return [note for one in loras for note in one.notes]


def _is_here(found: Fit, model: Mapping[str, Layers]) -> bool:
    """Whether the loaded pipeline has every module that its configs promised."""
    places = [change.place for change in found.changes]
    return all(place.component in model and model[place.component].keys() >= set(place.targets) for place in places)


# --- files -------------------------------------------------------------------------------------------------------


def _takes_lora(cls: type) -> bool:
    """By the mixin, or a denoiser beside a text encoder: PEFT needs no method of the pipeline (PixArt). The root class
    stands for a single file whose own class is known only when it is loaded."""
    parts = components.expected(cls)
    return (
        hasattr(cls, "load_lora_weights")
        or not hasattr(cls, "_optional_components")
        or cls.__name__ == "DiffusionPipeline"
        or ("text_encoder" in parts and not parts.isdisjoint(("transformer", "unet")))
    )


def _check_peft(spec: LoadSpec) -> None:
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise LoadError(f"{_FIELD} {spec.loras[0][0]!r} needs peft: {error}") from error


def _found(
    spec: LoadSpec, index: int, name: str, scale: float, weight_name: str, target: str, settings: Settings
) -> Lora:
    location = artifacts.find(spec, name, _FIELD)
    path = artifacts.weight_in(spec, location, _FIELD, weight_name, _USUAL_NAMES)
    _fetch_config(spec, location, path)
    artifacts.check_weights(path, spec, settings)
    found = file.read(path, artifacts.allows_pickle(spec, settings))
    # A torch module's name may hold no dot; the index keeps two files of one name apart.
    return Lora(f"{index}_{re.sub(r'[^A-Za-z0-9_-]', '_', path.stem)}", found, scale, name, target)


def _fetch_config(spec: LoadSpec, location: Location, path: Path) -> None:
    """PEFT's config beside a file from the Hub, where there is one."""
    if location.path is None and path.stem.startswith("adapter_model"):
        beside = str(Path(location.file).parent / file.PEFT_CONFIG) if location.file else file.PEFT_CONFIG
        artifacts.fetch(spec, replace(location, kind="repo", file=""), _FIELD, [beside])


# --- judging -----------------------------------------------------------------------------------------------------


def _fitted_before(lora: Lora, cls: type, model: Skeletons) -> Lora:
    """The LoRA judged by the model's configs; as it is where those do not tell."""
    try:
        found = _fitted(lora, cls, model)
    except Unknown:
        return lora
    assert found.fit is not None
    for component in {change.place.component for change in found.fit.changes}:
        if model.is_quantized(component):
            lora_layers.check_plain(lora.label, component, found.fit, model[component])
    return found


def _fitted(lora: Lora, cls: type, model: Mapping[str, Layers]) -> Lora:
    """The LoRA with what of it fits ``model`` and notes on the rest. Raises LoadError for one of another model."""
    _refuse_whole(lora)
    denoisers, notes = _denoisers(lora, list(model))
    shapes = lora.file.shapes
    seen = _Widened(model, denoisers, lora.file, _takes_control(cls))
    found = fit.fit(lora.file.sorted, shapes, seen, denoisers)
    _refuse_control(lora, found, cls)
    _refuse_foreign(lora, found, cls)
    if all(change.place.component not in denoisers for change in found.changes):
        notes = []
    return replace(lora, fit=found, notes=(*notes, *_notes(lora, found, set(model))))


def _denoisers(lora: Lora, parts: list[str]) -> tuple[list[str], list[str]]:
    """The denoisers that the file is for, of those that the pipeline has, and a note where nothing says which."""
    have = [name for name in parts if re.fullmatch(r"(transformer|unet)(_\w+)?", name)]
    have = have or [name for name in parts if name in ("prior", "decoder")]
    if lora.target:
        return _targets(lora, have), []
    own = {way.role for layer in lora.file.sorted.layers for way in names.spellings(layer, parts)}
    if len(have) < 2 or own.intersection(have[1:]):
        return have[:1], []
    halves = {half.lower() for half in _HALF.findall(lora.file.header.path.stem)}
    if len(halves) == 1:
        return [have[0] if halves == {"high"} else have[1]], []
    said = (
        f"LoRA {lora.label}: it is put on {have[0]} alone, of {' and '.join(have)}; options: lora_targets: says which"
    )
    return have[:1], [said]


def _targets(lora: Lora, have: list[str]) -> list[str]:
    """The denoisers that ``lora_targets`` names: by the component's name, high, low, or several joined by +."""
    words = {"high": have[:1], "low": have[1:2], "both": have[:2], **{name: [name] for name in have}}
    chosen = [name for word in lora.target.split("+") for name in words.get(word.strip().lower(), [""])]
    if not chosen or "" in chosen:
        raise LoadError(
            f"{_TARGETS}:{lora.target}: this model has {', '.join(have) or 'no denoiser'} (high, low and both are "
            "the first, the second and the two of them)"
        )
    return list(dict.fromkeys(chosen))


class _Widened(Mapping[str, Layers]):
    """The model's modules with the one that takes the latents as wide as the file has it, where that can be: a Control
    pipeline widens the layer, and a LoRA of the plain model counts for the first inputs of a wider one."""

    def __init__(self, model: Mapping[str, Layers], denoisers: list[str], lora: LoraFile, control: bool) -> None:
        self._model, self._denoisers, self._control = model, denoisers, control
        self._width = _embedder_width(lora)
        self._seen: dict[str, Layers] = {}

    def __iter__(self) -> Any:
        return iter(self._model)

    def __len__(self) -> int:
        return len(self._model)

    def __getitem__(self, name: str) -> Layers:
        if name not in self._seen:
            self._seen[name] = self._widened(name)
        return self._seen[name]

    def _widened(self, name: str) -> Layers:
        layers, width = self._model[name], self._width
        embedder = layers.get(_EMBEDDER)
        if name not in self._denoisers or embedder is None or not width or embedder.kind != "linear":
            return layers
        rows, columns = embedder.shape
        if width < columns or (self._control and width == 2 * columns):
            return {**layers, _EMBEDDER: replace(embedder, shape=(rows, width))}
        return layers


def _embedder_width(lora: LoraFile) -> int:
    """The inputs of the layer that takes the latents, 0 where the file has no low-rank pair of it."""
    for layer, its in lora.sorted.layers.items():
        if re.search(rf"(?:{_EMBEDDER}|img_in)$", layer) and "down" in its and len(lora.shapes[its["down"]]) == 2:
            return lora.shapes[its["down"]][1]
    return 0


def _takes_control(cls: type) -> bool:
    """Whether the pipeline hands a control picture to its denoiser, beside the latents, by its call and constructor."""
    takes = "control_image" in inspect.signature(cls.__call__).parameters
    return takes and "controlnet" not in components.expected(cls)


def _refuse_control(lora: Lora, found: Fit, cls: type) -> None:
    """Raise LoadError for a Control LoRA on a pipeline that takes no control picture."""
    wide = [layer for layer in found.misfits if re.search(rf"(?:{_EMBEDDER}|img_in)$", layer)]
    stem = re.split(r"Img2Img|Inpaint|Fill|Kontext|Pipeline", cls.__name__)[0]
    control = f"{stem}ControlPipeline"
    if wide and not _takes_control(cls) and control in loader.get_available_pipelines():
        raise LoadError(
            f"{_FIELD} {lora.label!r} is a Control LoRA ({wide[0]} has {found.misfits[wide[0]]}), and "
            f"{cls.__name__} takes no control picture: use pipeline_type: {control}"
        )


def _refuse_foreign(lora: Lora, found: Fit, cls: type) -> None:
    """Raise LoadError for a file of which less than a tenth fits."""
    if not found.is_of_another_model:
        return
    how = "fits no layer" if not found.fitting else f"fits {found.fitting} of {found.total} layers"
    why = _what_it_is(lora, found)
    told = [f"{layer} has {wrong}" for layer, wrong in found.misfits.items()]
    told += [f"{layer} lacks {piece}" for layer, piece in found.torn.items()]
    first = next(iter([*told, *found.absent, *found.unknown]), "")
    raise LoadError(
        f"{_FIELD} {lora.label!r} ({lora.file.header.path.name}) {how} of {cls.__name__}: {why}"
        + (f" ({first[:200]})" if first else "")
    )


def _what_it_is(lora: Lora, found: Fit) -> str:
    kinds = {kind for key in found.unknown if (kind := pieces.foreign_kind(key))}
    if kinds:
        return f"it is {', '.join(sorted(kinds))}, which is not served"
    if lora.file.sorted.bundled and not lora.file.sorted.layers:
        return "it is a textual inversion: give it as options: textual_inversion:"
    return "it was made for another model"


def _refuse_whole(lora: Lora) -> None:
    """Raise LoadError for a file of nothing but whole weights: it would replace the model's own without a word."""
    found = lora.file.sorted
    whole = [key for its in found.layers.values() for piece, key in its.items() if piece in ("set", "set_b")]
    said = any(key.endswith(("set_weight", "set_bias")) for key in whole)
    if whole and not said and len(whole) == sum(len(its) for its in found.layers.values()):
        raise LoadError(
            f"{_FIELD} {lora.label!r} ({lora.file.header.path.name}) holds whole weights and no LoRA: give it as "
            "model:, or as the component that it is (options: vae:, unet:, transformer: …)"
        )


def _notes(lora: Lora, found: Fit, parts: set[str]) -> list[str]:
    """What of the file is not used, with counts."""
    count = f"LoRA {lora.label}: {{}} of {found.total} layers"
    notes, left_out = [], f": {_FIELD} counts without them"
    if found.absent:
        elsewhere = sorted(set(found.absent.values()) - parts - {"", names.DENOISER, names.ANY_TEXT})
        none = f", as it has no {' or '.join(elsewhere)}" if elsewhere else ""
        notes.append(f"{count.format(len(found.absent))} are not in this model{none} ({_some(found.absent)}){left_out}")
    if found.misfits:
        told = _some(f"{layer}: {wrong}" for layer, wrong in found.misfits.items())
        notes.append(f"{count.format(len(found.misfits))} have another shape than this model's ({told}){left_out}")
    if found.torn:
        told = _some(f"{layer} has no {lack}" for layer, lack in found.torn.items())
        notes.append(f"{count.format(len(found.torn))} lack a half of a pair ({told}){left_out}")
    if found.twice:
        notes.append(f"{count.format(len(found.twice))} are said twice, of which one counts ({_some(found.twice)})")
    return notes + _unknown_notes(lora, found)


def _unknown_notes(lora: Lora, found: Fit) -> list[str]:
    bundled = set(lora.file.sorted.bundled)
    unknown = [key for key in found.unknown if key not in bundled]
    others = [*unknown, *(name for name in lora.file.header.others if not pieces.is_idle(name))]
    notes = [f"LoRA {lora.label}: {len(others)} keys of an unknown kind have no effect ({_some(others)})"]
    notes = notes if others else []
    if bundled:
        notes.append(
            f"LoRA {lora.label}: it brings embeddings of new words ({_some(sorted(bundled))}), which have no effect: "
            "give them as a file of their own by options: textual_inversion:"
        )
    return notes


def _some(texts: Iterable[str], most: int = 3) -> str:
    listed = list(texts)
    return ", ".join(listed[:most]) + (" …" if len(listed) > most else "")
