# SPDX-License-Identifier: MIT
"""A LoRA file's keys -> layers and their pieces, whichever trainer wrote them. Names of keys alone are read here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

# PEFT writes the adapter's name between a piece and its ending: lora_A.default.weight.
_ADAPTER = r"(?:\.[^.]+)?"


class Ending(NamedTuple):
    """What a key ends in, and which piece of its layer that is."""

    piece: str
    pattern: str


# Of kohya (lora_down), PEFT and diffusers (lora_A), diffusers before PEFT (lora.down, to_q_lora.down,
# lora_linear_layer), LyCORIS (hada, lokr, diff, norms), ComfyUI (diff_b, set_weight); the first that matches counts.
ENDINGS = (
    Ending("down", rf"\.(?:lora_down|lora_A|lora\.down|lora_linear_layer\.down){_ADAPTER}\.weight"),
    Ending("up", rf"\.(?:lora_up|lora_B|lora\.up|lora_linear_layer\.up){_ADAPTER}\.weight"),
    Ending("down", r"\.(?:lora_A|lora_down)"),
    Ending("up", r"\.(?:lora_B|lora_up)"),
    Ending("up_bias", rf"\.(?:lora_up|lora_B|lora\.up){_ADAPTER}\.bias"),
    Ending("mid", r"\.lora_mid\.weight"),
    Ending("alpha", r"\.(?:lora_)?alpha"),
    Ending("dora_scale", r"\.dora_scale"),
    Ending("magnitude", rf"\.lora_magnitude_vector{_ADAPTER}(?:\.weight)?"),
    Ending("embedding_down", rf"\.lora_embedding_A{_ADAPTER}"),
    Ending("embedding_up", rf"\.lora_embedding_B{_ADAPTER}"),
    *(Ending(name, rf"\.{name}{_ADAPTER}") for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")),
    *(Ending(name, rf"\.{name}{_ADAPTER}") for name in ("hada_t1", "hada_t2")),
    *(Ending(name, rf"\.{name}{_ADAPTER}") for name in ("lokr_w1", "lokr_w1_a", "lokr_w1_b")),
    *(Ending(name, rf"\.{name}{_ADAPTER}") for name in ("lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")),
    Ending("diff", r"\.(?:diff|w_norm)"),
    Ending("diff_b", r"\.(?:diff_b|b_norm)"),
    Ending("set", r"\.set_weight"),
    Ending("set_b", r"\.set_bias"),
    Ending("down", r"_lora\d*\.down\.weight"),
    Ending("up", r"_lora\d*\.up\.weight"),
    # A whole tensor of the model: what PEFT calls modules_to_save, and the norms of Flux's Control LoRAs.
    Ending("set", r"\.(?:weight|scale)"),
    Ending("set_b", r"\.bias"),
)
_COMPILED = tuple((ending.piece, re.compile(rf"(?P<layer>.+?){ending.pattern}")) for ending in ENDINGS)
_NUMBERED = re.compile(r".+?(?P<lora>_lora\d*)\.(?:down|up)\.weight")

# Kinds of adapters that are told by a piece and not served, as people call them.
FOREIGN = {
    r"^lora_controlnet$": "a Control-LoRA, a ControlNet's changes to a model,",
    r"\.(?:oft_blocks|oft_diag|oft_R|rescale)\b": "OFT or BOFT",
    r"\.(?:a1|a2|b1|b2|bm)\.weight$": "GLoRA",
    r"\.(?:ia3_l|on_input)\b": "IA3",
    r"\.vera_lambda_[bd]\b": "VeRA",
    r"\.(?:boft_R|boft_s)\b": "BOFT",
    r"\.(?:lora_ga|randlora|fourierft|hra|loha_w)": "another method of PEFT",
}
# Keys that belong to no layer of a model and have no effect here, with the reason.
IDLE = {
    r"(?:.*\.)?position_ids": "positions counted from 0",
    r"(?:.*[._])?logit_scale(?:\.alpha)?": "CLIP's temperature",
    r"(?:ss|sai|modelspec)_.*": "notes of the training",
    r"(?:.*\.)?(?:global_step|epoch|iteration|step)": "notes of the training",
}
# Words of a textual inversion that trainers save beside the LoRA.
_BUNDLED = re.compile(r"bundle_emb\.|.*\.string_to_param\b|emb_params$|(?:clip_[lg]|text_encoders_[01])$")


@dataclass(frozen=True)
class Sorted:
    """A file's keys in order: layer -> piece -> key, those that are idle, bundled embeddings, and the rest."""

    layers: Mapping[str, Mapping[str, str]]
    idle: tuple[str, ...] = ()
    bundled: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def sort(keys: Iterable[str], others: Iterable[str] = ()) -> Sorted:
    """The pieces of each layer of a LoRA by its keys' names. Of two keys that are one piece the later is unknown, as
    are ``others``, which can be no weights, but for those that are idle."""
    layers: dict[str, dict[str, str]] = {}
    idle: list[str] = []
    bundled: list[str] = []
    unknown: list[str] = []
    for key in others:
        (idle if is_idle(key) else unknown).append(key)
    for key in sorted(keys):
        layer, piece = _parted(key)
        if is_idle(key):
            idle.append(key)
        elif _BUNDLED.match(key):
            bundled.append(key)
        elif not piece or foreign_kind(key) or piece in layers.get(layer, {}):
            unknown.append(key)
        else:
            layers.setdefault(layer, {})[piece] = key
    return Sorted(layers, tuple(idle), tuple(bundled), tuple(unknown))


def _parted(key: str) -> tuple[str, str]:
    """The layer that the key is of and its piece, ("", "") where no ending is known."""
    for piece, pattern in _COMPILED:
        found = pattern.fullmatch(key)
        if found:
            return _layer(found["layer"], key), piece
    return "", ""


def _layer(layer: str, key: str) -> str:
    """The layer's name without what wraps it. A number after ``_lora`` is part of it: XLabs' two streams of Flux."""
    numbered = _NUMBERED.fullmatch(key)
    if numbered and numbered["lora"][-1].isdigit():
        layer += numbered["lora"]
    layer = layer.replace(".processor.", ".")
    return re.sub(r"\.(?:base_layer|modules_to_save(?:\.default)?)(?=\.|$)", "", layer)


def is_idle(key: str) -> bool:
    """Whether the key has no effect by its nature."""
    return any(re.fullmatch(pattern, key) for pattern in IDLE)


def foreign_kind(key: str) -> str:
    """The kind of adapter that the key is of where it is one that is not served, else ""."""
    return next((kind for pattern, kind in FOREIGN.items() if re.search(pattern, key)), "")
