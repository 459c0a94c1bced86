"""What loaded ControlNets want of a call: a picture and a scale for each, and of a union of nets which of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from localai_diffusers.errors import InvalidRequest
from localai_diffusers.pipeline.controls import MODE, controls_of, modes_of, nets_of
from localai_diffusers.pipeline.signatures import Parameters, image_parameters, parameters_of
from localai_diffusers.pipeline.tasks import tasks_of
from localai_diffusers.wire.requests import GenerationRequest


class _Kind(NamedTuple):
    """What diffusers calls the component, the nets inside its Multi form, and the argument for their scales."""

    component: str
    inside: str
    scale: str
    label: str


_CONTROLNET = _Kind("controlnet", "nets", "controlnet_conditioning_scale", "ControlNet")
# Of the steps, the part that a control counts in.
_PARTS = ("control_guidance_start", "control_guidance_end")
_KINDS = (_CONTROLNET, _Kind("adapter", "adapters", "adapter_conditioning_scale", "T2I-Adapter"))


def pictures(
    request: GenerationRequest, parameters: Parameters, pipeline: Any, said: Mapping[str, Any]
) -> dict[str, list[Any]]:
    """The request's last pictures, one for each ControlNet (or mode of a union, which ``said`` has), where these
    have an argument beside the source's; {} where not.

    They come first where there are too few, since a ControlNet is loaded to be used; but not before the main picture of
    a class that must start from one.
    """
    name = next((name for name in image_parameters(parameters)[1:] if name.startswith("control")), None)
    tasks = tasks_of(type(pipeline))
    starts_from_one = request.is_inpainting or (tasks and not any(task.startswith("text-to-") for task in tasks))
    count = min(controls_of(pipeline, said), len(request.images) - bool(starts_from_one))
    return {name: list(request.images[-count:])} if name and count > 0 else {}


def completed(arguments: Mapping[str, Any], pipeline: Any) -> dict[str, Any]:
    """Arguments to add for the ControlNets of a call that holds their pictures.

    Raises InvalidRequest for another number of pictures or scales than there are nets, and for a union of nets of which
    nothing says which is meant.
    """
    parameters = parameters_of(pipeline)
    given = _given(arguments, parameters)
    kind = next((kind for kind in _KINDS if kind.scale in parameters), _CONTROLNET)
    nets = nets_of(pipeline, kind.component, kind.inside)
    if not nets or kind.scale not in parameters or (given is None and not _needs_picture(pipeline)):
        return {}
    _check_mode(nets, arguments, parameters)
    scale = arguments.get(kind.scale, parameters[kind.scale].default)
    count = len(given) if isinstance(given, list) else int(given is not None)
    if modes_of(nets[0]):
        _check_modes(count, arguments.get(MODE), parameters)
    else:
        _check_counts(nets, count, scale, kind)
    if count < 2 or not hasattr(getattr(pipeline, kind.component), kind.inside):
        return {}
    # Some pipelines spread a number, some don't, and where one union stands for all, by the nets: the rest is dropped.
    spread = (kind.scale, *(_PARTS if len(nets) == 1 else ()))
    said = {name: arguments.get(name, parameters[name].default) for name in spread if name in parameters}
    return {name: [float(value)] * count for name, value in said.items() if isinstance(value, (int, float))}


def _check_modes(count: int, modes: Any, parameters: Parameters) -> None:
    """Of a union: a mode for each picture."""
    said = len(modes) if isinstance(modes, list) else 1
    if MODE in parameters and count != said:
        raise InvalidRequest(
            f"{MODE} says {_counted(said, 'mode')} and the request brings {_counted(count, 'picture')} for control: "
            "send one for each, after the source (and the mask) where there is one"
        )


def _check_counts(nets: list[Any], count: int, scale: Any, kind: _Kind) -> None:
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


def _check_mode(nets: list[Any], arguments: Mapping[str, Any], parameters: Parameters) -> None:
    count = modes_of(nets[0])
    if count and MODE in parameters and arguments.get(MODE) is None:
        raise InvalidRequest(
            f"the ControlNet is a union of {count}: say what the picture is by options: {MODE}:0 (0 to {count - 1}, "
            "see the net's own page)"
        )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
