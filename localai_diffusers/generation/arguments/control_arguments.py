"""What loaded ControlNets want of a call: a picture and a scale for each, and of a union of nets which of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from localai_diffusers.errors import InvalidRequest
from localai_diffusers.pipeline.signatures import Parameters, image_parameters, parameters_of
from localai_diffusers.pipeline.tasks import tasks_of
from localai_diffusers.wire.requests import GenerationRequest

_MODE = "control_mode"


class _Kind(NamedTuple):
    """What diffusers calls the component, the nets inside its Multi form, and the argument for their scales."""

    component: str
    inside: str
    scale: str
    label: str


_CONTROLNET = _Kind("controlnet", "nets", "controlnet_conditioning_scale", "ControlNet")
_KINDS = (_CONTROLNET, _Kind("adapter", "adapters", "adapter_conditioning_scale", "T2I-Adapter"))


def _nets_of(pipeline: Any, kind: _Kind = _CONTROLNET) -> list[Any]:
    """The loaded ControlNets, [] where there are none (or the pipeline has no place for them)."""
    net = getattr(pipeline, kind.component, None)
    return [] if net is None else list(getattr(net, kind.inside, [net]))


def pictures(request: GenerationRequest, parameters: Parameters, pipeline: Any) -> dict[str, list[Any]]:
    """The request's last pictures, one for each ControlNet, where these have an argument beside the source's; {} where
    not.

    They come first where there are too few, since a ControlNet is loaded to be used; but not before the main picture of
    a class that must start from one.
    """
    name = next((name for name in image_parameters(parameters)[1:] if name.startswith("control")), None)
    tasks = tasks_of(type(pipeline))
    starts_from_one = request.is_inpainting or (tasks and not any(task.startswith("text-to-") for task in tasks))
    count = min(len(_nets_of(pipeline)), len(request.images) - bool(starts_from_one))
    return {name: list(request.images[-count:])} if name and count > 0 else {}


def completed(arguments: Mapping[str, Any], pipeline: Any) -> dict[str, Any]:
    """Arguments to add for the ControlNets of a call that holds their pictures.

    Raises InvalidRequest for another number of pictures or scales than there are nets, and for a union of nets of which
    nothing says which is meant.
    """
    parameters = parameters_of(pipeline)
    given = _given(arguments, parameters)
    kind = next((kind for kind in _KINDS if kind.scale in parameters), _CONTROLNET)
    nets = _nets_of(pipeline, kind)
    if not nets or kind.scale not in parameters or (given is None and not _needs_picture(pipeline)):
        return {}
    _check_mode(nets, arguments, parameters)
    scale = arguments.get(kind.scale, parameters[kind.scale].default)
    if not _is_union(nets[0]):
        _check_counts(nets, given, scale, kind)
    if len(nets) > 1 and isinstance(scale, (int, float)):  # some pipelines spread one scale, some don't
        return {kind.scale: [float(scale)] * len(nets)}
    return {}


def _check_counts(nets: list[Any], given: Any, scale: Any, kind: _Kind) -> None:
    count = len(given) if isinstance(given, list) else int(given is not None)
    if count != len(nets):
        raise InvalidRequest(
            f"the model has {_counted(len(nets), kind.label)} and the request brings {_counted(count, 'picture')} for "
            "control: send one for each, after the source (and the mask) where there is one"
        )
    if isinstance(scale, list) and len(scale) != len(nets):
        raise InvalidRequest(
            f"option {kind.scale}:{scale} holds {_counted(len(scale), 'scale')} for {_counted(len(nets), kind.label)}"
        )


def _given(arguments: Mapping[str, Any], parameters: Parameters) -> Any:
    """The control pictures among the arguments: by their own name, else the only picture that there is."""
    names = image_parameters(parameters)
    own = next((name for name in names if name.startswith("control")), None)
    return arguments.get(own or next(iter(names), ""))


def _needs_picture(pipeline: Any) -> bool:
    """Whether the class is for control alone and takes pictures for it; a modular one does without as well."""
    return "controlnet" in tasks_of(type(pipeline)) and bool(image_parameters(parameters_of(pipeline)))


def _is_union(net: Any) -> bool:
    """Whether the net is several in one, told apart by a mode."""
    return _modes(net) is not None


def _modes(net: Any) -> int | None:
    config = getattr(net, "config", {})
    return config.get("num_control_type") or config.get("num_mode")


def _check_mode(nets: list[Any], arguments: Mapping[str, Any], parameters: Parameters) -> None:
    count = _modes(nets[0])
    if count and _MODE in parameters and arguments.get(_MODE) is None:
        raise InvalidRequest(
            f"the ControlNet is a union of {count}: say what the picture is by options: {_MODE}:0 (0 to {count - 1}, "
            "see the net's own page)"
        )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
