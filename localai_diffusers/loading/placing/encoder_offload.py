# SPDX-License-Identifier: MIT
"""Text encoders that are on the accelerator only while they read the prompt, by accelerate's own hooks."""

from __future__ import annotations

from typing import Any

from localai_diffusers.loading.placing.switches import denoisers

_NAME = "text_encoder"


def put_on(pipeline: Any, device: str) -> None:
    """Let each text encoder of ``pipeline``, whose other parts are on ``device``, come there when it is called, and
    leave when what denoises is called."""
    from accelerate import cpu_offload_with_hook

    hooks = {encoder: cpu_offload_with_hook(encoder, device)[1] for encoder in text_encoders(pipeline)}
    there = set(hooks)

    def come(encoder: Any, _call: Any) -> None:
        there.add(encoder)

    def leave(*_call: Any) -> None:
        while there:
            hooks[there.pop()].offload()

    leave()
    for encoder in hooks:
        encoder.register_forward_pre_hook(come)
    for denoiser in denoisers(pipeline):
        denoiser.register_forward_pre_hook(leave)


def text_encoders(pipeline: Any) -> list[Any]:
    """The models of transformers that read the prompt."""
    from transformers import PreTrainedModel

    parts = pipeline.components.items()
    return [part for name, part in parts if name.startswith(_NAME) and isinstance(part, PreTrainedModel)]


def is_text_encoder(name: str, kind: tuple[str, str]) -> bool:
    """The same, asked of a component's name, library and class."""
    return kind[0] == "transformers" and name.startswith(_NAME)
