# SPDX-License-Identifier: MIT
"""The table of options: every word of a model's ``options:`` that is not the pipeline's own.

A new option is one row in :class:`Options` and one function:

1. The row is a field: its name is the option's, its type and default what the code reads, and ``load``, ``placement``
   or ``call`` say its parser, one sentence for the documentation, the default, and other spellings. ``None`` or ``""``
   mean "not said".
2. What it does is a function that reads ``spec.options.NAME`` (in the call, ``defaults.said.NAME``), or one under that
   name in ``loading.placing.switches``, if all there is to do is to switch something on in a loaded pipeline.
3. ``python -m localai_diffusers.wire.options > docs/options.md`` writes the documentation. tests/wire/test_options.py
   compares the file with the table, and the table's names with those that the code reads: neither has one alone.

The parsers are ``option_values``'s. Any other name of ``options:`` is an argument of the pipeline's call or
constructor, or one of its components.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from localai_diffusers.errors import InvalidRequest
from localai_diffusers.wire.argument_limits import MAX_BATCH, MAX_BATCH_WAIT_MS, MAX_FPS, MAX_GUIDANCE
from localai_diffusers.wire.option_values import (
    Named,
    byte_count,
    choices_of,
    mapping,
    named,
    number,
    one_of,
    ranks,
    size,
    switch,
    switch_with,
    text,
    texts,
    typed,
    whole,
)
from localai_diffusers.wire.quantization import quantization as quantized

T = TypeVar("T")
Group = Literal["load", "placement", "call"]


@dataclass(frozen=True)
class Option:
    """One row: what the option is called, how its value is read, what it belongs to, and what it means."""

    name: str
    aliases: tuple[str, ...]
    parse: Callable[[Any], Any]
    group: Group
    default: Any
    doc: str

    def read(self, value: Any, written: str) -> Any:
        """The typed value; the default for ``null``, ``none`` and an empty text, which say nothing.

        ``written``: the name that the YAML has. Raises InvalidRequest naming the option, its value and what is taken.
        """
        silent = ("", "null") if "none" in choices_of(self.parse) else ("", "null", "none")
        if value is None or (isinstance(value, str) and value.strip().lower() in silent):
            return self.default
        try:
            return self.parse(value)
        except ValueError as error:
            raise InvalidRequest(f"option {written}:{value} must be {error}") from None


# --- rows ------------------------------------------------------------------------------------------------------------


def _row(group: Group, parse: Callable[[Any], Any], doc: str, default: T, aliases: tuple[str, ...]) -> T:
    about = {"group": group, "parse": parse, "doc": doc, "aliases": aliases}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=about)  # type: ignore[return-value]
    return dataclasses.field(default=default, metadata=about)


def load(parse: Callable[[Any], Any], doc: str, default: T, *aliases: str) -> T:
    """A row that says what to load, and how."""
    return _row("load", parse, doc, default, aliases)


def placement(parse: Callable[[Any], Any], doc: str, default: T, *aliases: str) -> T:
    """A row that says where and in what form the loaded weights compute."""
    return _row("placement", parse, doc, default, aliases)


def call(parse: Callable[[Any], Any], doc: str, default: T, *aliases: str) -> T:
    """A row that says something of every request."""
    return _row("call", parse, doc, default, aliases)


@dataclass(frozen=True)
class Options:
    """What ``options:`` says, typed; one field a row, in the order of the documentation."""

    torch_dtype: str = load(text, "dtype of the weights: bf16, fp16, fp32 (or auto)", "", "dtype")
    variant: str = load(text, "weight variant, e.g. fp16", "")
    revision: str = load(text, "branch, tag or commit of a Hub repo", "")
    subfolder: str = load(text, "folder inside the model that holds the pipeline", "")
    use_safetensors: bool | None = load(
        switch, "true insists on safetensors, false allows pickles, which can carry code", None
    )
    local_files_only: bool = load(switch, "true never asks the Hub", False)
    config: str = load(text, "folder or repo with the configs of a single-file checkpoint", "")
    original_config: str = load(text, "original YAML config of a single-file checkpoint", "")
    prediction_type: str = load(
        one_of("epsilon", "v_prediction", "sample", "flow_prediction"),
        "what the model was trained to predict, where its file does not say: epsilon, v_prediction, sample",
        "",
    )
    rescale_betas_zero_snr: bool | None = load(
        switch, "the model was trained with zero terminal SNR (most v_prediction models are)", None
    )
    custom_pipeline: str = load(text, "community pipeline (needs trust_remote_code: true)", "")
    base_model: str = load(text, "folder or repo with everything but the transformer of a transformer-only file", "")
    safety_checker: bool | None = load(
        switch,
        "true loads the pipeline's safety checker; false also switches off a guard that is built in (Cosmos 3)",
        None,
    )
    clip_model: str = load(text, "text encoder that replaces the model's own", "")
    vae: str = load(text, "VAE that replaces the model's own", "")
    controlnet_config: str = load(text, "folder or repo with the config.json of a single-file ControlNet", "")
    ip_adapter: tuple[str, ...] = load(
        texts, "IP-Adapter weights: file, folder, or owner/repo/path/to/file, or a list", ()
    )
    ip_adapter_scale: Any = load(
        typed, "how much the IP-Adapter's picture counts (1), or a JSON object by blocks; a list for several", 1.0
    )
    ip_adapter_weight_name: tuple[str, ...] = load(
        texts, "file in an IP-Adapter's folder or repo (one for all, or a comma-separated list)", ()
    )
    textual_inversion: tuple[str, ...] = load(
        texts, "embeddings for new words of the prompt: file, folder or repo, or a list", ()
    )
    lora_weight_name: tuple[str, ...] = load(
        texts, "file in a LoRA's folder or repo (one for all, or a comma-separated list)", ()
    )
    lora_targets: tuple[str, ...] = load(
        texts,
        "which of two denoisers a LoRA is for: transformer, transformer_2, high, low or both (or a list)",
        (),
    )
    low_cpu_mem_usage: bool | None = load(switch, "passed to from_pretrained", None)
    disable_mmap: bool | None = load(switch, "passed to from_pretrained", None)
    max_memory: Mapping[str, Any] = load(mapping, "JSON object, passed to from_pretrained with device_map", {})
    offload_folder: str = load(text, "folder under ModelPath, passed to from_pretrained with device_map", "")

    device: str = placement(text, "cpu, cuda, cuda:1, xpu, mps", "")
    offload: str = placement(
        one_of("none", "model", "sequential", "group", true="model", false="none"),
        "none, model, sequential or group",
        "",
        "cpu_offload",
    )
    group_offload: Mapping[str, Any] | None = placement(
        switch_with(
            "offload_type",
            "num_blocks_per_group",
            "non_blocking",
            "use_stream",
            "record_stream",
            "low_cpu_mem_usage",
            "offload_to_disk_path",
        ),
        "offload:group with diffusers' own arguments, as JSON; offload_to_disk_path, a folder under ModelPath, keeps "
        "the layers on the disk while the model is loaded",
        None,
    )
    text_encoder_offload: bool = placement(
        switch, "text encoders wait on the host once the prompt is read: their room is free for the steps", False
    )
    prompt_cache: int = placement(
        byte_count(2**26),
        "bytes for prompts that are kept as the text encoders read them, and not read again: true is 64MB (KB, MB, GB)",
        0,
    )
    auto: bool | None = placement(
        switch,
        "false: nothing is chosen by the model's size and this machine (half precision, offload, tiling, bf16 on a CPU "
        "that has it) where nothing is said",
        None,
    )
    device_map: str = placement(one_of("balanced"), "balanced spreads the components over several GPUs", "")
    parallel: Mapping[str, int] = placement(
        ranks,
        "context=2, ring=2 or tensor=2: as many GPUs of this host compute each picture together, a process each",
        {},
    )
    vae_tiling: bool | None = placement(switch, "decode in tiles: less memory", None)
    vae_slicing: bool = placement(switch, "decode one picture at a time: less memory", False)
    attention_slicing: bool = placement(switch, "attention in slices: less memory, slower", False)
    attention_backend: str = placement(text, "diffusers attention backend, e.g. native, flash, sage", "")
    compile: Mapping[str, Any] | None = placement(
        switch_with("mode", "fullgraph", "dynamic", "backend"),
        "torch.compile of the denoiser's repeated blocks (else of the whole): true, or its arguments as JSON; first "
        "pictures take long",
        None,
    )
    warmup: bool = placement(
        switch, "the load ends with a call of two steps at the model's own size, which compiles what is compiled", False
    )
    layerwise_casting: str = placement(
        one_of("fp8", "fp8_e5m2"),
        "the denoiser's weights lie in 8-bit floats and are cast layer by layer: half the memory, a little slower",
        "",
    )
    quantization: Mapping[str, str] = placement(
        quantized,
        "linear layers in fewer bits, quantized while they are read: int8, fp8, int4 (torchao), nf4, bnb_int8 "
        "(bitsandbytes), qfloat8, qint8, qint4 (optimum-quanto) for the large components, or one each: "
        "transformer:nf4,text_encoder:int8",
        {},
    )
    channels_last: bool = placement(switch, "channels-last memory format for UNets", False)
    vae_channels_last: bool = placement(switch, "channels-last memory format for the VAE", False)
    cache: Named | None = placement(
        named("first_block", "taylorseer", "pyramid", "faster", "mag"),
        "what a denoiser made at one step is used again at the next where it changes little: first_block, taylorseer, "
        "pyramid, faster or mag, with parameters as in first_block(threshold=0.08); far fewer blocks are computed, the "
        "picture is a little another, and memory holds what is kept",
        None,
    )
    tf32: bool = placement(
        switch, "fp32 matrices are multiplied in TF32 on an NVIDIA GPU: faster, with 10 bits of each number", False
    )
    fuse_qkv: bool = placement(switch, "fuse the attention projections", False)
    max_batch: int = placement(
        whole(1, MAX_BATCH),
        "queued requests of equal shape, of a text or of one picture to repaint, that may run as one call (1)",
        1,
    )
    batch_wait_ms: int = placement(
        whole(0, MAX_BATCH_WAIT_MS),
        "milliseconds that a request waits for others to run with, where max_batch lets it and nothing else waits (0)",
        0,
    )
    generator_device: str = placement(text, "device of the random generator: cpu (default) or the model's", "")

    default_size: tuple[int, int] | None = call(
        size, "what a picture's 512x512 means, which LocalAI's core sends where a request names no size", None
    )
    guidance_scale: float | None = call(
        number(0, MAX_GUIDANCE), "how much the prompt counts; 0 is a real 0 here", None, "cfg_scale"
    )
    fps: float | None = call(
        number(0, MAX_FPS),
        "frames a second of a video, and of the pipeline's own argument; else the model's published rate",
        None,
        "frame_rate",
        "target_fps",
    )
    num_inference_steps: int | None = call(
        whole(1, 2**31 - 1), "steps, where a request names none", None, "steps", "step"
    )
    composite: bool = call(
        switch, "after inpainting the source's own pixels are laid over what the mask leaves; false: not", True
    )
    mask_blur: float | None = call(
        number(0, 1024),
        "the fade around an inpainting mask ends at twice these pixels (4 at 512, in proportion at other sizes)",
        None,
    )


OPTIONS: Mapping[str, Option] = {
    row.name: Option(
        row.name,
        row.metadata["aliases"],
        row.metadata["parse"],
        row.metadata["group"],
        row.default if row.default is not dataclasses.MISSING else {},
        row.metadata["doc"],
    )
    for row in dataclasses.fields(Options)
}
_BY_SPELLING: Mapping[str, Option] = {
    spelling: row for row in OPTIONS.values() for spelling in (row.name, *row.aliases)
}


def option_of(name: str) -> Option | None:
    """The row of an option by its name or another spelling, None for a name that is not the table's."""
    return _BY_SPELLING.get(name)


def documentation() -> str:
    """The table as Markdown: docs/options.md."""
    lines = [
        "# Options",
        "",
        "Written by `python -m localai_diffusers.wire.options`. `options:` of a YAML is a list of `name:value`,",
        "split at the first colon. Any name that is not here is an argument of the pipeline's call or constructor",
        "(`strength`, `max_sequence_length`, `boundary_ratio`), or one of its components (`text_encoder_2:path`).",
    ]
    titles = {
        "load": "What is loaded",
        "placement": "Where and in what form it computes",
        "call": "What every request gets",
    }
    for group, title in titles.items():
        lines += ["", f"## {title}", "", "| option | default | meaning |", "|---|---|---|"]
        lines += [_documented(row) for row in OPTIONS.values() if row.group == group]
    return "\n".join(lines) + "\n"


def _documented(row: Option) -> str:
    names = ", ".join(f"`{name}`" for name in (row.name, *row.aliases))
    default = row.default if isinstance(row.default, (int, float)) and not isinstance(row.default, bool) else ""
    return f"| {names} | {default} | {row.doc} |"


if __name__ == "__main__":
    sys.stdout.write(documentation())
