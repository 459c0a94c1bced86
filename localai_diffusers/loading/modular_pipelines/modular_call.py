# SPDX-License-Identifier: MIT
"""What a modular pipeline's blocks take, as the call of a class of its own.

The rest of the house reads a pipeline's class: signature, name, progress bar, offload. A modular pipeline has these on
the instance, in its blocks.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from localai_diffusers.patches import modular_log
from localai_diffusers.work import progress

_CONTROLNET, _CONTROL = "controlnet", "control_image"


def described(pipeline: Any) -> type:
    """A class like the pipeline's own that tells its components and their types, its configs and what its blocks take
    as a classic pipeline's class does."""
    types: dict[str, tuple[Any, ...]] = {name: () for name in pipeline.pretrained_component_names}
    for block in _blocks(pipeline.blocks):
        for part in block.expected_components:
            if part.name in types and part.type_hint not in types[part.name]:
                types[part.name] += (part.type_hint,)
    ways = {
        "_optional_components": list(types),
        "_get_signature_keys": classmethod(lambda _cls, _obj: (set(types), set())),
        "_get_signature_types": classmethod(lambda _cls: types),
        "__call__": _signed(
            type(pipeline).__call__, {entry.name: _parameter(entry) for entry in _named(pipeline.blocks)}
        ),
        "plain_parameters": {
            part.name: _keyword(part.name, part.default)
            for block in _blocks(pipeline.blocks)
            for part in block.expected_configs
        },
    }
    own = type(pipeline)
    return type(own.__name__, (_Served, own), ways)


def served(pipeline: Any) -> Any:
    """``pipeline`` as one of a class for it alone: its own, with a call that has a signature,
    and a classic pipeline's ways."""
    own, results = type(pipeline), [output.name for output in pipeline.blocks.outputs]
    parameters = {parameter.name: parameter for parameter in _parameters(pipeline)}
    taken = {entry.name for entry in pipeline.blocks.inputs}

    def call(self: Any, **arguments: Any) -> Any:
        if "guidance_scale" in parameters and "guidance_scale" not in taken:
            self.guider = _at_scale(self.guider, arguments.get("guidance_scale", parameters["guidance_scale"].default))
        with modular_log.applied():
            return own.__call__(self, output=results, **{name: arguments[name] for name in arguments if name in taken})

    pipeline._blocks = pipeline.blocks  # a copy: some blocks are instances that every pipeline of the class shares
    for block in _blocks(pipeline._blocks):
        if hasattr(block, "progress_bar"):  # a loop's own bar writes carriage returns
            block.progress_bar = lambda *arguments, **options: pipeline.progress_bar(*arguments, **options)
    pipeline.__class__ = type(own.__name__, (described(pipeline),), {"__call__": _signed(call, parameters)})
    return pipeline


def _signed(function: Callable[..., Any], parameters: Mapping[str, inspect.Parameter]) -> Callable[..., Any]:
    """``function`` with these parameters to be read from it."""

    @functools.wraps(function)
    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        return function(self, *arguments, **keywords)

    call.__signature__ = inspect.Signature([_keyword("self"), *parameters.values()])  # type: ignore[attr-defined]
    return call


def _named(blocks: Any) -> Iterator[Any]:
    return (entry for entry in blocks.inputs if entry.name)


def _parameter(entry: Any, required: bool = False) -> inspect.Parameter:
    return _keyword(
        entry.name,
        inspect.Parameter.empty if required else entry.default,
        inspect.Parameter.empty if entry.type_hint is None else entry.type_hint,
    )


def _parameters(pipeline: Any) -> Iterator[inspect.Parameter]:
    """The blocks' inputs that a caller may give. Tensors that another block makes are none.

    ``required`` is said of one block: what an earlier block makes is not required of the caller.
    """
    blocks = pipeline.blocks
    made = {output.name for output in blocks.intermediate_outputs}
    controlled, asked = getattr(pipeline, _CONTROLNET, None) is not None, _asked_for(pipeline)
    for entry in _named(blocks):
        if entry.name == _CONTROL and not controlled:
            continue
        hint = "" if entry.type_hint is None else str(entry.type_hint)
        if not (entry.name in made and "Tensor" in hint):
            required = (entry.required or entry.name in asked) and entry.default is None and entry.name not in made
            yield _parameter(entry, required)
    scale = getattr(getattr(getattr(pipeline, "guider", None), "config", None), "guidance_scale", None)
    if scale is not None and "guidance_scale" not in blocks.input_names:
        yield _keyword("guidance_scale", scale, float)


def _asked_for(pipeline: Any) -> set[str]:
    """Inputs that the blocks for the loaded ControlNet require, its picture aside: without one they do not run."""
    kind = type(getattr(pipeline, _CONTROLNET, None))
    blocks = [
        block
        for block in _blocks(pipeline.blocks)
        if any(part.name == _CONTROLNET and part.type_hint is kind for part in block.expected_components)
        and not getattr(block, "sub_blocks", None)
    ]
    return {entry.name for block in blocks for entry in block.inputs if entry.required} - {_CONTROL}


def _at_scale(guider: Any, scale: float) -> Any:
    """The guider itself, or its like with that scale: what it knows of a run is of that one alone."""
    return guider if guider.config.guidance_scale == scale else guider.new(guidance_scale=scale)


def _keyword(
    name: str, default: Any = inspect.Parameter.empty, annotation: Any = inspect.Parameter.empty
) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _blocks(block: Any) -> Iterator[Any]:
    yield block
    for part in (getattr(block, "sub_blocks", None) or {}).values():
        yield from _blocks(part)


class _Served:
    """What a classic pipeline has beside its call."""

    _components_manager: Any

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:
        return progress.step_bar(None, iterable, total)

    def maybe_free_model_hooks(self) -> None:
        """The components' manager keeps its hooks between calls."""

    def enable_model_cpu_offload(self, device: str) -> None:
        self._components_manager.enable_auto_cpu_offload(device=device)
