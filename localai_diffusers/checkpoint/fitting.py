# SPDX-License-Identifier: MIT
"""Which weights of a component a file fills: found out from headers, under whatever names and prefixes the file has
them.

A component of a pipeline (:class:`Target`) says by its class and config which tensors it is made of. A file's names are
brought to these by what fits: the library's own names (with or without the levels that versions of it add or drop), a
converter of diffusers, CLIP in open_clip's layout. All of it runs on tensors without data (:mod:`.tracing`), and
:meth:`Fit.state` does the same with the real ones.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from localai_diffusers.checkpoint import headers, layouts
from localai_diffusers.checkpoint.contents import Contents
from localai_diffusers.checkpoint.layouts import Names
from localai_diffusers.checkpoint.weights import IDLE, Account, Idle, account

# What tools put before the keys of one component.
_PREFIX = re.compile(
    r"(?:model\.diffusion_model|diffusion_model|first_stage_model|cond_stage_model(?:\.(?:transformer|model))?"
    r"|conditioner\.embedders\.\d(?:\.(?:transformer|model))?|text_encoders?(?:_\d)?(?:\.\w+)?(?:\.transformer)?"
    r"|(?:audio_)?vae(?:\.\w*vae)?|vocoder|model|net|unet|transformer(?:_\d)?|prior|decoder|controlnet|control_model"
    r"|adapter|module|text_model)\."
)
# For which component (by the beginning of its name) a prefix is tried first.
_USUAL = {
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0.", "text_encoders.clip_l.", "text_encoder."),
    "text_encoder_2": (
        "conditioner.embedders.1.",
        "conditioner.embedders.0.",
        "text_encoders.clip_g.",
        "text_encoder_2.",
    ),
    "text_encoder_3": ("text_encoders.t5xxl.", "text_encoder_3."),
    "controlnet": ("control_model.", "controlnet."),
    "adapter": ("adapter.",),
}
_USUAL_DENOISER = ("model.diffusion_model.", "diffusion_model.", "transformer.", "unet.")


@dataclass(frozen=True)
class Target:
    """A component that a file may fill. ``config`` is a dict (diffusers) or a config of transformers; ``shapes`` are
    those of its state dict; of a group in ``tied`` one name is enough."""

    component: str
    cls: type[Any]
    config: Any
    shapes: Mapping[str, tuple[int, ...]]
    tied: tuple[frozenset[str], ...] = ()

    @property
    def is_transformers(self) -> bool:
        """Whether transformers reads it, not diffusers."""
        return self.cls.__module__.startswith("transformers.")


@dataclass(frozen=True)
class Fit:
    """How far a file fills a component, and how.

    ``filled`` are the component's names that the file has in the right shape, ``missing`` those that it lacks,
    ``wrong`` those of another shape (the file's, the component's), ``made`` those that a converter makes up;
    ``keys`` are the keys of the file that count in it.
    """

    target: Target
    contents: Contents
    prefix: str
    names: Names
    filled: frozenset[str]
    missing: tuple[str, ...]
    wrong: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    made: frozenset[str]
    used: frozenset[str]

    @property
    def is_complete(self) -> bool:
        """Whether each tensor of the component gets its values."""
        return not self.missing and not self.wrong

    @property
    def stays_packed(self) -> bool:
        """Whether linear layers compute on GGUF's blocks: not in an autoencoder, which is small and mostly
        convolutions, nor in a model of transformers."""
        is_gguf = any(header.form == headers.GGUF for header in self.contents.headers)
        return is_gguf and not self.target.is_transformers and ".autoencoders." not in self.target.cls.__module__

    @property
    def is_known_to_library(self) -> bool:
        """Whether transformers finds the names itself: but for levels that its versions add or drop they are its
        own."""
        return not set(self.prefix.split(".")[:-1]) - layouts.LEVELS and not self.contents.is_scaled

    @property
    def keys(self) -> frozenset[str]:
        """The keys of the file, those of scales too, that something of the component is made of."""
        return frozenset().union(*(self.contents.entries[name].keys for name in self.used))

    @property
    def says(self) -> str:
        """What is not as it should be, in a few words."""
        if self.wrong:
            name, (own, wanted) = next(iter(sorted(self.wrong.items())))
            return f"{len(self.wrong)} of other shapes, such as {name} {list(own)} for {list(wanted)}"
        return f"{len(self.missing)} of {len(self.target.shapes)}, such as {', '.join(self.missing[:2])}"

    def state(self, dtype: Any, packed: bool = False) -> dict[str, Any]:
        """The component's state dict, read from the file; GGUF's blocks stay as they are where ``packed``."""
        part = _under(self.contents, self.prefix)
        stored = self.contents.read([self.prefix + name for name in part if self.prefix + name in self.used], dtype)
        given = {name.removeprefix(self.prefix): _plain(tensor, packed) for name, tensor in stored.items()}
        made = self.names(given)
        return {
            name: _shaped(made[name], shape) for name, shape in self.target.shapes.items() if made.get(name) is not None
        }


def _plain(tensor: Any, packed: bool) -> Any:
    from localai_diffusers.checkpoint.weights import unpacked

    return tensor if packed else unpacked(tensor)


def _shaped(tensor: Any, shape: tuple[int, ...]) -> Any:
    """A 1x1 convolution is a linear layer of the same numbers, whichever of both the model has."""
    own = tuple(getattr(tensor, "quant_shape", tensor.shape))
    return tensor.reshape(shape) if own != shape and _same_numbers(own, shape) else tensor


def _same_numbers(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    short, long = sorted((one, other), key=len)
    return long[: len(short)] == short and set(long[len(short) :]) <= {1}


# --- what a component is made of -----------------------------------------------------------------------------------


def target(component: str, cls: type[Any], root: str, subfolder: str) -> Target:
    """The component of class ``cls`` by its config in ``root/subfolder``; raises what the library raises for it."""
    if cls.__module__.startswith("transformers."):
        return of_config(component, cls, cls.config_class.from_pretrained(root, subfolder=subfolder))
    return of_config(component, cls, cls.load_config(root, subfolder=subfolder))


def of_config(component: str, cls: type[Any], config: Any) -> Target:
    """The component of class ``cls`` by its config; nothing is allocated."""
    of_transformers = cls.__module__.startswith("transformers.")
    written = config.to_json_string(use_diff=False) if of_transformers else json.dumps(config, default=str)
    return Target(component, cls, config, *_made_of(_Form(cls, written, config)))


@dataclass(frozen=True)
class _Form:
    """A class and its config; two are equal whose configs are ``written`` alike."""

    cls: type[Any]
    written: str
    config: Any = field(compare=False)


@functools.lru_cache(maxsize=64)
def _made_of(form: _Form) -> tuple[Mapping[str, tuple[int, ...]], tuple[frozenset[str], ...]]:
    """Shapes by name, and groups of tied names. Kept: the same models are loaded again and again."""
    import torch

    with torch.device("meta"):
        of_transformers = form.cls.__module__.startswith("transformers.")
        model = form.cls(form.config) if of_transformers else form.cls.from_config(form.config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    return shapes, tuple(frozenset(pair) for pair in tied.items())


# --- fitting -------------------------------------------------------------------------------------------------------


def fit(wanted: Target, found: Contents, claimed: Collection[str] = ()) -> Fit | None:
    """The best way in which ``found`` fills ``wanted``, None where it fills nothing of it.

    ``claimed`` are names that other components were made of already.
    """
    best: Fit | None = None
    for prefix in _prefixes(wanted, found):
        part = {name: entry for name, entry in _under(found, prefix).items() if prefix + name not in claimed}
        for names in layouts.ways(wanted, found) if part else ():
            made = _try(wanted, found, prefix, part, names)
            if made is not None and (best is None or len(made.filled) > len(best.filled)):
                best = made
            if best is not None and best.is_complete and not best.made:
                return best
    return best if best is not None and best.used and best.filled else None


def _under(found: Contents, prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): entry for name, entry in found.entries.items() if name.startswith(prefix)}


def _prefixes(wanted: Target, found: Contents) -> list[str]:
    """The prefixes that the file's names have, those that are usual for the component first, none at all last."""
    every = {f"{wanted.component}.", *_by_own_names(wanted, found)}
    for name in found.entries:
        match, place = _PREFIX.match(name), 0
        while match:
            every.add(name[: match.end()])
            every |= {name[: match.start() + len(part)] for part in _heads(match[0])}
            place = match.end()
            match = _PREFIX.match(name, place)
    if wanted.is_transformers:  # its levels are no prefix: beside them may stand what belongs to the model
        every = {layouts.LAST_LEVELS.sub("", prefix) for prefix in every}
    usual = _USUAL.get(wanted.component, _USUAL["vae"] if "vae" in wanted.component else _USUAL_DENOISER)

    def rank(prefix: str) -> tuple[int, int, str]:
        place = next((number for number, known in enumerate(usual) if prefix.startswith(known)), len(usual))
        return (place if prefix else len(usual) + 1, -len(prefix), prefix)

    return [
        prefix for prefix in sorted({*every, ""}, key=rank) if any(name.startswith(prefix) for name in found.entries)
    ]


def _heads(prefix: str) -> Iterator[str]:
    """``a.b.`` -> ``a.``: where a prefix has several levels."""
    parts = prefix.split(".")[:-1]
    return (".".join(parts[:number]) + "." for number in range(1, len(parts)))


def _by_own_names(wanted: Target, found: Contents) -> set[str]:
    """What stands before a few of the component's own names, of which the longest tell most."""
    samples = sorted(wanted.shapes, key=lambda name: (-len(name), name))[:3]
    return {name.removesuffix(sample) for name in found.entries for sample in samples if name.endswith("." + sample)}


def _try(wanted: Target, found: Contents, prefix: str, part: Mapping[str, Any], names: Names) -> Fit | None:
    from localai_diffusers.checkpoint import tracing

    shapes = {name: (entry.shape, headers.torch_dtype(entry.dtype)) for name, entry in part.items()}

    def real(keys: list[str]) -> dict[str, Any]:
        tensors = found.read([prefix + key for key in keys])
        return {key: _plain(tensors[prefix + key], packed=False) for key in keys}

    try:
        traced = tracing.trace(names, shapes, real)
    except Exception:  # noqa: BLE001 a converter that does not know these names fails with anything
        return None
    outputs = {name: output for name, output in traced.outputs.items() if name in wanted.shapes}
    fits = {name for name, output in outputs.items() if _same_numbers(output.shape, wanted.shapes[name])}
    made = frozenset(name for name in fits if not outputs[name].keys)
    wrong = {name: (output.shape, wanted.shapes[name]) for name, output in outputs.items() if name not in fits}
    spare = frozenset().union(*(group for group in wanted.tied if group & fits))
    missing = tuple(sorted(wanted.shapes.keys() - outputs.keys() - spare))
    used = frozenset().union(*(outputs[name].keys for name in fits), traced.read)
    filled, keys = frozenset(fits) - made, frozenset(prefix + key for key in used)
    return Fit(wanted, found, prefix, names, filled, missing, wrong, made, keys)


# --- the account ---------------------------------------------------------------------------------------------------


def account_of(found: Contents, fits: Collection[Fit], one_part: bool = False) -> Account:
    """What became of each key of ``found``, of which ``fits`` were made; ``one_part``: of a file that may be a whole
    checkpoint one component was asked for."""
    used = frozenset().union(*(one.keys for one in fits))
    beside = _other_parts(fits) if one_part else ()
    resting = {key: reason for key, reason in found.aside.items() if key not in used}
    told = account([key for key in found.keys if key not in resting], used, (*IDLE, *beside, *_idle_beside(fits)))
    return Account(told.consumed, {**told.idle, **resting}, told.left)


# The parts of a whole checkpoint, of which one may be asked for alone.
_WHOLE = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.", "text_encoders.", "vae.")


def _other_parts(fits: Collection[Fit]) -> tuple[Idle, ...]:
    """The rest of a whole checkpoint, where one component of it was asked for."""
    own = next(iter(fits)).prefix
    if not own.startswith(_WHOLE):
        return ()
    others = [re.escape(part) for part in _WHOLE if not own.startswith(part)]
    return (Idle(f"(?:{'|'.join(others)}).+", "another part of a whole checkpoint"),)


# Parts that a class borrows from another component at run time, and that its files may hold a copy of.
_BORROWED = {
    "ZImageControlNetModel": r"(?:all_x_embedder|cap_embedder|t_embedder|noise_refiner|context_refiner)\..+"
    r"|[xc]\w*_pad_token",
}


def _idle_beside(fits: Collection[Fit]) -> Iterator[Idle]:
    """Keys of a whole text model beside those of the part of it that a pipeline has."""
    for one in fits:
        before = re.escape(one.prefix)
        if one.target.is_transformers:
            layers = getattr(one.target.config, "num_hidden_layers", 0)
            for pattern in getattr(one.target.cls, "_keys_to_ignore_on_load_unexpected", None) or ():
                yield Idle(f"{before}.*(?:{pattern}).*", "a part of the whole model that the pipeline does not have")
            yield Idle(
                f"{before}(.+\\.)?(text_projection(\\.weight)?|visual_projection\\.weight|logit_scale)",
                "CLIP's projections",
            )
            yield Idle(
                f"{before}(vision_model|visual|vision_tower|multi_modal_projector)\\..+", "the part that sees pictures"
            )
            yield Idle(f"{before}(decoder\\..+|lm_head\\.weight)", "the part that writes text")
            if layers:
                yield Idle(f"{before}(.+\\.)?(layers|resblocks)\\.{layers}\\..+", "a layer after the last that is read")
        else:
            if one.target.cls.__name__ in _BORROWED:
                yield Idle(f"{before}(?:{_BORROWED[one.target.cls.__name__]})", "borrowed from the transformer")
            for pattern in getattr(one.target.cls, "_keys_to_ignore_on_load_unexpected", None) or ():
                yield Idle(f"{before}.*(?:{pattern}).*", "a part that this class does without")
