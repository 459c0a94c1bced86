# SPDX-License-Identifier: MIT
"""The one special path: ``pipeline_type: FluxTransformer2DModel``, a Flux transformer file quantized at load.

The file holds the transformer alone; the rest comes from BFL_REPO. A .safetensors transformer and its T5 are quantized
to 8-bit floats by optimum-quanto, which halves what a 24 GB card must hold; a .gguf keeps its own quantization.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers_dynamic_loader as loader
from localai_diffusers import paths
from localai_diffusers.checkpoint import artifacts, component_file, fitting, model_files
from localai_diffusers.checkpoint.artifacts import Wish
from localai_diffusers.checkpoint.fitting import Fit
from localai_diffusers.checkpoint.model_files import ModelFacts
from localai_diffusers.errors import LoadError
from localai_diffusers.loading import components, schedulers, words
from localai_diffusers.loading.adapters import adapters
from localai_diffusers.loading.files.skeletons import Skeletons
from localai_diffusers.loading.loaded_model import LoadedModel, Prepared, finish, model_defaults
from localai_diffusers.loading.placing import heap, placement, precision, quantizers
from localai_diffusers.settings import Settings
from localai_diffusers.wire.load_spec import LoadSpec
from localai_diffusers.wire.quantization import LARGE
from localai_diffusers.work.jobs import Job
from localai_diffusers.work.progress import watched_loading

log = logging.getLogger(__name__)

PIPELINE_TYPE = "FluxTransformer2DModel"
_PIPELINE = "FluxPipeline"
_DTYPE = "bfloat16"
_QUANTIZED, _WORD = ("transformer", "text_encoder_2"), "qfloat8"


def prepare(spec: LoadSpec, settings: Settings, job: Job[Any]) -> Prepared:
    """Check the transformer file and the base, and return what builds the pipeline.

    Raises LoadError naming what is missing. ``ModelFile`` may also be a folder with a ``transformer`` subfolder.
    """
    location = model_files.locate(spec.identity, spec.model_file, spec.model_path)
    if location.path is None:
        raise LoadError(
            f"Model {spec.identity!r}: {PIPELINE_TYPE} needs the transformer's own file (.safetensors or .gguf) "
            "or folder on this machine"
        )
    facts = model_files.file_facts(location.path) if location.kind == "file" else None
    if facts is None:
        _check_folder(location.path, artifacts.allows_pickle(spec, settings))
    base = paths.resolve(spec.options.base_model or settings.bfl_repo, spec.model_path, "option base_model")
    base_facts = _base_facts(base, artifacts.allows_pickle(spec, settings))
    fit, noted = _fit(location.path, base, artifacts.allows_pickle(spec, settings)) if facts else (None, [])
    if spec.scheduler:
        schedulers.check(spec.scheduler, base_facts.scheduler_config)
    dtype_spec = spec if spec.dtype else _with_dtype(spec)
    quantized = _words(spec, fit)
    where = placement.plan(dtype_spec, facts or base_facts, settings, quantized, frozenset({"none"}))
    quantizers.check(quantized, _classes(), where.device, where.offload)
    cls = loader.resolve_pipeline_class(class_name=_PIPELINE)
    skeletons = Skeletons(cls, base_facts, quantized=_QUANTIZED)
    planned = adapters.plan(spec, cls, settings, skeletons)
    said = words.sort(spec, cls, base_facts, settings)
    wanted = _others(components.wishes(spec, cls), components.left_out(spec, cls))
    parts = components.prepare(spec, base_facts, cls, wanted, settings)
    defaults = model_defaults(spec, cls, base_facts, settings, said)

    def build() -> LoadedModel:
        def how(reader: type, component: str = "") -> dict[str, Any]:
            dtype = where.torch_dtype_of(component)
            packed = quantizers.keywords(where.quantized.get(component), reader, dtype)
            return artifacts.weight_keywords(spec, settings, reader, dtype) | packed

        with watched_loading(job), heap.freed_at_once():
            heavy = {"transformer": _transformer(location.place, fit, how)}
            job.check()
            heavy["text_encoder_2"] = _text_encoder(base, quantized["text_encoder_2"], how)
            job.check()
            others = components.left_out(spec, cls) | components.load(parts, where)
            pipeline = loader.load_diffusers_pipeline(
                class_name=_PIPELINE, model_id=base, **{**how(cls), **said.constructor, **others, **heavy}
            )
        return finish(
            spec, pipeline, where, defaults, settings, planned, [*spec.notes, *noted, *said.notes, *where.notes]
        )

    size = precision.weight_bytes(facts or base_facts, spec, where.dtype, where.quantized)
    return Prepared(build, _PIPELINE, where, size, (*spec.notes, *noted, *said.notes, *where.notes))


def _others(wanted: Mapping[str, Wish], left_out: Collection[str]) -> Mapping[str, Wish]:
    """The components that the options bring. LoadError for one of the two that this path quantizes."""
    for name in _QUANTIZED:
        if name in wanted or name in left_out:
            raise LoadError(f"option {name}: {PIPELINE_TYPE} brings its own, quantized: load this model without it")
    return wanted


def _check_folder(path: Path, allow_pickle: bool) -> None:
    """Raise LoadError for a folder that is no Flux pipeline's, with its transformer whole."""
    folder = path / "transformer"
    known = model_files.read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if known.get("_class_name") != PIPELINE_TYPE:
        raise LoadError(f"{folder} is no {PIPELINE_TYPE} (by its config.json): load this model without a pipeline_type")
    model_files.check_weights(
        ModelFacts(path, files=components.weight_files("transformer", folder)), None, allow_pickle
    )


def _base_facts(base: str, allow_pickle: bool) -> ModelFacts:
    """Facts of a base folder, its weights (but the transformer's, which come from the file) checked; of a repo none."""
    if not Path(base).is_dir():
        if os.path.isabs(base):
            raise LoadError(
                f"BFL_REPO (or option base_model) {base!r} is missing: it must be a Flux pipeline's folder or Hub repo"
            )
        return ModelFacts(Path(base))
    facts = model_files.folder_facts(Path(base))
    rest = {name: kind for name, kind in facts.components.items() if name != "transformer"}
    files = tuple(weights for weights in facts.files if weights.component in rest)
    model_files.check_weights(replace(facts, components=rest, files=files), None, allow_pickle)
    return facts


def _with_dtype(spec: LoadSpec) -> LoadSpec:
    """bf16 whatever F16Memory says: Flux overflows in fp16, and 8-bit weights compute in bf16."""
    return replace(spec, dtype=_DTYPE)


def _fit(path: Path, base: str, allow_pickle: bool) -> tuple[Fit, list[str]]:
    """How the file fills the transformer of the base's config; a note on keys that it has no use for."""
    from diffusers import FluxTransformer2DModel

    wanted = fitting.target("transformer", FluxTransformer2DModel, base, "transformer")
    found = component_file.contents_of([path], allow_pickle)
    fit = component_file.fitted(wanted, found, str(path))
    note = fitting.account_of(found, [fit], one_part=True).note(path.name)
    return fit, [note] if note else []


def _words(spec: LoadSpec, fit: Fit | None) -> dict[str, str]:
    """8-bit floats for the two, unless ``options: quantization:`` has other words; a GGUF keeps its own."""
    asked = spec.options.quantization
    packed = fit is not None and fit.stays_packed
    for name in asked.keys() - {LARGE}:
        if name not in _QUANTIZED or (packed and name == "transformer"):
            why = "is a GGUF, quantized already" if name in _QUANTIZED else f"is not of {' and '.join(_QUANTIZED)}"
            raise LoadError(f"option quantization: {name} {why}, which {PIPELINE_TYPE} quantizes")
    words = {name: asked.get(name) or asked.get(LARGE) or _WORD for name in _QUANTIZED}
    return {name: word for name, word in words.items() if name != "transformer" or not packed}


def _classes() -> dict[str, type]:
    from diffusers import FluxTransformer2DModel
    from transformers import T5EncoderModel

    return dict(zip(_QUANTIZED, (FluxTransformer2DModel, T5EncoderModel), strict=True))


def _transformer(path: Path, fit: Fit | None, how: Callable[[type, str], dict[str, Any]]) -> Any:
    """The transformer, quantized while it is read; one in GGUF's blocks stays in them."""
    from diffusers import FluxTransformer2DModel

    keywords = how(FluxTransformer2DModel, "transformer")
    if fit is None:
        return FluxTransformer2DModel.from_pretrained(str(path), subfolder="transformer", **keywords)
    packed = {name: value for name, value in keywords.items() if name == "quantization_config"}
    return component_file.load(fit, keywords["dtype"], **packed)


def _text_encoder(base: str, word: str, how: Callable[..., dict[str, Any]]) -> Any:
    """The T5, with optimum-quanto all of it: transformers would leave a fifth, its layers ``wo``, as they are."""
    from optimum import quanto
    from transformers import T5EncoderModel

    kind = getattr(quanto, word, None)
    keywords = how(T5EncoderModel, "" if kind else "text_encoder_2")
    model = T5EncoderModel.from_pretrained(base, subfolder="text_encoder_2", **keywords)
    if kind:
        quanto.quantize(model, weights=kind)
        quanto.freeze(model)
    return model
