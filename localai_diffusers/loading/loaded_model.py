# SPDX-License-Identifier: MIT
"""The model that serves: a pipeline in its place, its siblings on the same weights, and what every call starts from."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from localai_diffusers.checkpoint import marks
from localai_diffusers.checkpoint.model_files import ModelFacts
from localai_diffusers.loading import schedulers
from localai_diffusers.loading.adapters import adapters
from localai_diffusers.loading.adapters.adapters import Adapters
from localai_diffusers.loading.placing import caches, placement, quantizers, switches
from localai_diffusers.loading.placing.cache_use import BlockCache
from localai_diffusers.loading.placing.placement import DevicePlan
from localai_diffusers.loading.placing.prompt_cache import PromptCache
from localai_diffusers.loading.words import Words
from localai_diffusers.pipeline import tasks
from localai_diffusers.pipeline.as_loaded import AsLoaded
from localai_diffusers.pipeline.defaults import ModelDefaults
from localai_diffusers.pipeline.guidance import distilled_name, guidance_of, is_distilled
from localai_diffusers.pipeline.profile import PipelineProfile, profile_of
from localai_diffusers.pipeline.signatures import parameters_of
from localai_diffusers.pipeline.sizes import FRAME_COUNTS, config_value
from localai_diffusers.settings import Settings
from localai_diffusers.wire import argument_limits
from localai_diffusers.wire.load_spec import LoadSpec

log = logging.getLogger(__name__)

_NO_LENGTH = 10**9  # transformers says 1e30 for a tokenizer of no length


@dataclass(frozen=True)
class Prepared:
    """A load of which all is checked: what it will be, and when it is called, the model itself.

    ``class_name``: of the pipeline. ``weight_bytes``: of its own weights as they will be. ``notes``: what was decided.
    """

    build: Callable[[], LoadedModel]
    class_name: str
    where: DevicePlan
    weight_bytes: int
    notes: tuple[str, ...] = ()

    def __call__(self) -> LoadedModel:
        return self.build()


@dataclass
class LoadedModel:
    """A pipeline in its place, its siblings on the same weights, and what every call of it starts from."""

    spec: LoadSpec
    pipeline: Any
    where: DevicePlan
    defaults: ModelDefaults
    settings: Settings
    notes: tuple[str, ...] = ()
    cache: BlockCache | None = None
    prompt_cache: PromptCache | None = None
    faithful: dict[Hashable, bool] = field(default_factory=dict)  # whether a kind of batch gives each its own picture
    told: set[str] = field(default_factory=set)  # notes that are told once a load
    _siblings: dict[type, Any] = field(default_factory=dict)
    _profiles: dict[type, PipelineProfile] = field(default_factory=dict)
    _active: Any = None
    _as_loaded: dict[type, AsLoaded] = field(default_factory=dict)

    def pipeline_as(self, cls: type) -> Any:
        """The loaded pipeline as class ``cls``, ready to run: itself, or a sibling that shares its components."""
        pipeline = self._made(cls)
        if self.where.offload == "model" and pipeline is not (self._active or self.pipeline):
            placement.place(pipeline, self.where)  # the hooks chain one pipeline's components in its order
            self._as_loaded.clear()  # those hooks are the components' own now
        if cls not in self._as_loaded:
            self._as_loaded[cls] = AsLoaded(pipeline)
        if self.prompt_cache is not None:
            self.prompt_cache.put_on(pipeline)
        self._active = pipeline
        return pipeline

    def _made(self, cls: type) -> Any:
        if type(self.pipeline) is cls:
            return self.pipeline
        if cls not in self._siblings:
            sibling = self._siblings[cls] = tasks.share_components(self.pipeline, cls)
            if self.spec.scheduler:  # as it was put into the loaded pipeline: after the constructor's corrections
                sibling.scheduler = copy.deepcopy(self.pipeline.scheduler)
            log.info("%s runs as %s on the same weights", type(self.pipeline).__name__, cls.__name__)
        return self._siblings[cls]

    @property
    def profile(self) -> PipelineProfile:
        """What the loaded pipeline takes and gives."""
        return self.profile_as(type(self.pipeline))

    def profile_as(self, cls: type) -> PipelineProfile:
        """The profile of :meth:`pipeline_as`, built at its first use."""
        if cls not in self._profiles:
            self._profiles[cls] = profile_of(self._made(cls))
        return self._profiles[cls]

    @contextlib.contextmanager
    def cached(self, pipeline: Any) -> Iterator[list[str]]:
        """While ``pipeline``, one of :meth:`pipeline_as`, is called: its denoiser's cache, of no request before.

        Yields what is to be told about the caches, whole when the call is over.
        """
        during: contextlib.AbstractContextManager[list[str]] = contextlib.nullcontext([])
        if self.cache is not None:
            during = self.cache.during(pipeline)
        with during as notes:
            yield notes
        notes += [] if self.prompt_cache is None else self.prompt_cache.notes()

    def restore(self) -> None:
        """Make every pipeline in use as it was after the load: what a request changed is the request's alone."""
        kept = self._as_loaded.get(type(self._active))
        changed = kept.restore() if kept is not None else []
        if changed:
            log.debug("set back after a request: %s", ", ".join(sorted(set(changed))))

    def summary(self) -> str:
        """Class, device, dtype, offload and size, for the log."""
        size = sum(self.memory().values()) / 2**20
        offload = "" if self.where.offload == "none" else f", offload {self.where.offload}"
        name = type(self.pipeline).__name__
        words = "".join(f", {component} {word}" for component, word in self.where.quantized.items())
        return f"{name} on {self.where.device} in {self.where.dtype}{words}{offload}, {size:,.0f} MiB"

    def facts(self) -> dict[str, Any]:
        """For whoever loads it: what it is, where it computes, what it makes and what a request may say."""
        profile, name = self.profile, type(self.pipeline).__name__
        steps = self.defaults.said.num_inference_steps or profile.default("num_inference_steps")
        facts = {
            "class": name,
            "device": self.where.device,
            "dtype": self.where.dtype,
            "offload": self.where.offload,
            "quantized": dict(self.where.quantized) or None,
            "makes": next((kind for kind in ("3d", "video", "audio", "image") if tasks.makes(profile.cls, kind)), ""),
            "takes": _taken(profile),
            "steps": steps if isinstance(steps, int) else None,
        }
        return {key: value for key, value in facts.items() if value is not None}

    def memory(self) -> dict[str, int]:
        """Bytes of parameters and buffers by component."""
        import torch

        parts = getattr(self.pipeline, "components", {})
        return {
            name: sum(quantizers.bytes_of(tensor) for tensor in (*part.parameters(), *part.buffers()))
            for name, part in parts.items()
            if isinstance(part, torch.nn.Module)
        }


def finish(
    spec: LoadSpec,
    pipeline: Any,
    where: DevicePlan,
    defaults: ModelDefaults,
    settings: Settings,
    planned: Adapters,
    notes: Iterable[str] = (),
) -> LoadedModel:
    """Adapters, scheduler, switches and place for a freshly loaded pipeline; the LoadedModel around it."""
    said = [*notes, *adapters.apply(pipeline, planned), *marks.applied(pipeline, marks.of_options(spec))]
    if spec.scheduler:
        said += _set_scheduler(pipeline, spec.scheduler)
    _bound_tokenizers(pipeline)
    if spec.options.compile is not None:
        switches.keep_compiled(spec.model_path)
    said += switches.switch_on(pipeline, spec.options)
    cache = caches.enabled(pipeline, spec.options)
    said += placement.place(pipeline, where)
    said += _distilled_note(spec, pipeline, defaults) + _idle_wait(spec)
    for note in said:
        log.warning("%s: %s", spec.identity, note)
    kept = PromptCache(spec.options.prompt_cache) if spec.options.prompt_cache else None
    model = LoadedModel(spec, pipeline, where, defaults, settings, tuple(said), cache, kept)
    model.profile_as(type(pipeline))
    return model


def _taken(profile: PipelineProfile) -> list[str]:
    """Which words of a request have a meaning for the pipeline."""
    names = profile.parameters.keys()
    guided = profile.guidance.by_guider or bool(profile.guidance.arguments(1.0, False))
    taken = {
        "prompt": any("prompt" in name or name in ("text", "lyrics", "caption") for name in names),
        "negative_prompt": any(name.startswith("negative_prompt") for name in names),
        "size": bool({"width", "height", "resolution", "size"} & names),
        "steps": any(name.startswith("num_") and "steps" in name for name in names),
        "frames": any(name in names for name in FRAME_COUNTS),
        "guidance": guided,
    }
    return [name for name, is_taken in taken.items() if is_taken]


def _names(spec: LoadSpec) -> list[str]:
    """What the model is called: the last parts of its name and of its file's."""
    return [os.path.basename(name.rstrip("/")) for name in (spec.identity, spec.model_file)]


def _distilled_note(spec: LoadSpec, pipeline: Any, defaults: ModelDefaults) -> list[str]:
    """That the model's name sets its guidance, where it does."""
    name = distilled_name(_names(spec))
    if not name or defaults.guidance is not None or not guidance_of(pipeline).arguments(None, defaults.distilled):
        return []
    return [f"guidance is 0, for the name {name} is one of a distilled model: cfg_scale in the YAML sets another"]


def _idle_wait(spec: LoadSpec) -> list[str]:
    """That requests wait for none, where the YAML lets none join."""
    wait = spec.options.batch_wait_ms
    if not wait or spec.options.max_batch > 1:
        return []
    return [f"option batch_wait_ms:{wait} has nothing to do without max_batch above 1 and is ignored"]


def _bound_tokenizers(pipeline: Any) -> None:
    """A tokenizer whose config names no length pads to 1e30 tokens: give it its text encoder's."""
    for name, tokenizer in getattr(pipeline, "components", {}).items():
        if name.startswith("tokenizer") and (getattr(tokenizer, "model_max_length", None) or 0) > _NO_LENGTH:
            most = config_value(
                getattr(pipeline, name.replace("tokenizer", "text_encoder"), None), "max_position_embeddings"
            )
            if isinstance(most, int):
                tokenizer.model_max_length = most


def _set_scheduler(pipeline: Any, name: str) -> list[str]:
    current = getattr(pipeline, "scheduler", None)
    if current is None:
        return [f"SchedulerType {name!r}: {type(pipeline).__name__} has no scheduler, it is ignored"]
    pipeline.scheduler, notes = schedulers.make(
        name, current, getattr(pipeline, "vae", None) is not None, type(pipeline)
    )
    return notes


def model_defaults(spec: LoadSpec, cls: type, facts: ModelFacts, settings: Settings, said: Words) -> ModelDefaults:
    """What every call of the pipeline starts from. ``said``: its options that are no rows of the table.

    Raises InvalidRequest for a number out of its range.
    """
    steps, scale = _steps(spec.options.num_inference_steps, cls), spec.options.guidance_scale
    argument_limits.check(steps, settings, "option {}")
    return ModelDefaults(
        options={**_default_frames(settings.frames or spec.default_frames, cls), **steps, **said.call},
        guidance=spec.guidance if scale is None else float(scale),
        distilled=is_distilled(_names(spec), {**facts.index, **said.constructor}),
        clip_skip=spec.clip_skip,
        use_clip_skip=settings.clip_skip,
        chunk_size=settings.chunk_size,
        said=spec.options,
        generator_device=spec.options.generator_device or "cpu",
    )


def _steps(count: int | None, cls: type) -> dict[str, int]:
    """The number of steps by the name that the signature has for it."""
    plain, short = "num_inference_steps", "steps"
    known = parameters_of(cls)
    return {} if count is None else {short if short in known and plain not in known else plain: count}


def _default_frames(frames: int | None, cls: type) -> dict[str, int]:
    """``frames`` under the name that the signature has for a frame count, nothing where it has none."""
    name = next((name for name in FRAME_COUNTS if name in parameters_of(cls)), None)
    return {name: frames} if name and frames else {}
