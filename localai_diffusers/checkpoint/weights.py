# SPDX-License-Identifier: MIT
"""A file's weights: read, and accounted for. Nothing in a file goes unused without a word.

Each key is consumed (something of the model was made of it), idle (known to be of no use here, with the reason), or
left, which is told to the user.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from localai_diffusers.checkpoint import headers
from localai_diffusers.checkpoint.headers import Header


class Idle(NamedTuple):
    """Keys that are known to be of no use here: a pattern that matches the end of a key from a dot on, and why."""

    pattern: str
    reason: str


# Every row is a kind of key that published files carry; a key that no row matches is told.
IDLE = (
    Idle(r"(model_)?ema\..+|(.+\.)?ema\.(decay|num_updates)|model_ema\w*\..+", "a moving average beside the weights"),
    Idle(r"(.+\.)?position_ids", "positions counted from 0, which the library counts itself"),
    Idle(
        r"(model\.)?(betas|logvar|(log_one_minus_|sqrt_|sqrt_one_minus_|sqrt_recip_|sqrt_recipm1_)?alphas_cumprod(_prev)?"
        r"|posterior_(variance|log_variance_clipped|mean_coef1|mean_coef2)|lvlb_weights)",
        "the schedule of the training, which the scheduler's config says",
    ),
    Idle(r"(.+\.)?logit_(scale|bias)", "CLIP's temperature, of use in its training alone"),
    Idle(r"(.+\.)?num_batches_tracked", "a counter of the training"),
    Idle(r"(first_stage_model|vae)\.loss\..+|loss\..+", "the discriminator that the VAE was trained against"),
    Idle(r"(.+\.)?(inv_freq|rotary_emb\.freqs|rope\.freqs)", "angles, which the library computes"),
    Idle(
        r"global_step|epoch|pytorch-lightning_version|optimizer_states|lr_schedulers|callbacks|loops|hparams_name"
        r"|hyper_parameters|iteration|step",
        "notes of the training",
    ),
    Idle(r"(.+\.)?spiece_model", "a tokenizer, where the model brings its own"),
)


@dataclass(frozen=True)
class Account:
    """What became of each key of a file. ``idle`` has a reason for each of its keys; ``left`` is told to the user."""

    consumed: frozenset[str]
    idle: Mapping[str, str] = field(default_factory=dict)
    left: tuple[str, ...] = ()

    def note(self, what: str, at_most: int = 3) -> str:
        """One sentence on the keys of ``what`` that are not used, with their number; "" where all are."""
        if not self.left:
            return ""
        total = len(self.consumed) + len(self.idle) + len(self.left)
        named = ", ".join(self.left[:at_most]) + (" …" if len(self.left) > at_most else "")
        return f"{what}: {len(self.left)} of {total} keys are not of this model and have no effect ({named})"


def account(keys: Iterable[str], consumed: Collection[str], idle: Iterable[Idle] = IDLE) -> Account:
    """The account of ``keys``, of which ``consumed`` reached the model; ``idle`` says which of the rest may rest."""
    rows = [(re.compile(row.pattern), row.reason) for row in idle]
    rest = [key for key in keys if key not in consumed]
    resting = {key: reason for key in rest if (reason := _reason(key, rows))}
    return Account(frozenset(consumed), resting, tuple(sorted(key for key in rest if key not in resting)))


def _reason(key: str, rows: Iterable[tuple[re.Pattern[str], str]]) -> str:
    return next((reason for pattern, reason in rows if pattern.fullmatch(key)), "")


def tensors(header: Header, keys: Collection[str] | None = None) -> dict[str, Any]:
    """The file's tensors as they are (all, or those of ``keys``), mapped from the disk where its form allows it.

    Of a GGUF those in blocks are diffusers' GGUFParameter, still packed, but for those that ComfyUI flattened.
    """
    wanted = header.tensors.keys() if keys is None else [key for key in keys if key in header.tensors]
    if not wanted:
        return {}
    if header.form == headers.SAFETENSORS and not header.mapped:
        from safetensors.torch import load

        read = load(header.path.read_bytes())
        return {key: read[key] for key in wanted}
    if header.form == headers.SAFETENSORS:
        from safetensors import safe_open

        with safe_open(header.path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in wanted}
    found = _gguf_tensors(header) if header.form == headers.GGUF else headers.unpickled(header.path)
    return {key: found[key] for key in wanted}


def _gguf_tensors(header: Header) -> dict[str, Any]:
    with headers.gguf_package():
        import gguf  # noqa: F401
    from diffusers.models.model_loading_utils import load_gguf_checkpoint

    found = load_gguf_checkpoint(str(header.path))
    return {key: _of_its_shape(tensor, header.tensors[key].shape) for key, tensor in found.items()}


def _of_its_shape(tensor: Any, shape: tuple[int, ...]) -> Any:
    own = tuple(getattr(tensor, "quant_shape", tensor.shape))
    return tensor if own == shape else unpacked(tensor).reshape(shape)


def unpacked(tensor: Any) -> Any:
    """A tensor of GGUF's blocks as plain numbers; any other as it is."""
    import torch
    from diffusers.quantizers.gguf.utils import GGUFParameter, dequantize_gguf_tensor

    return dequantize_gguf_tensor(tensor).as_subclass(torch.Tensor) if isinstance(tensor, GGUFParameter) else tensor
