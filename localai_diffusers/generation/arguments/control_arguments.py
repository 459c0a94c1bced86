# SPDX-License-Identifier: MIT
"""What loaded ControlNets want of a call: a picture and a scale for each, and of a union of nets which of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from localai_diffusers.errors import InvalidRequest
from localai_diffusers.generation.arguments.asked import Asked, Part
from localai_diffusers.pipeline.controls import MODE, controls_of, modes_of, nets_of
from localai_diffusers.pipeline.profile import PipelineProfile
from localai_diffusers.pipeline.signatures import Parameters
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


def pictures(request: GenerationRequest, profile: PipelineProfile, said: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The request's last pictures, one for each ControlNet (or mode of a union, which ``said`` has), where these
    have an argument beside the source's; {} where not.

    They come first where there are too few, since a ControlNet is loaded to be used; but not before the main picture of
    a class that must start from one.
    """
    name = next((name for name in profile.inputs.images[1:] if name.startswith("control")), None)
    tasks = profile.tasks
    starts_from_one = request.is_inpainting or (tasks and not any(task.startswith("text-to-") for task in tasks))
    count = min(controls_of(profile.pipeline, said), len(request.images) - bool(starts_from_one))
    return {name: list(request.images[-count:])} if name and count > 0 else {}


def completed(asked: Asked, arguments: Mapping[str, Any]) -> Part:
    """Arguments to add for the ControlNets of a call that holds their pictures.

    Raises InvalidRequest for another number of pictures or scales than there are nets, and for a union of nets of which
    nothing says which is meant.
    """
    profile, parameters = asked.profile, asked.profile.parameters
    given = _given(arguments, profile)
    kind = next((kind for kind in _KINDS if kind.scale in parameters), _CONTROLNET)
    nets = nets_of(profile.pipeline, kind.component, kind.inside)
    if not nets or kind.scale not in parameters or (given is None and not _needs_picture(profile)):
        return Part({})
    _check_mode(nets, arguments, parameters)
    scale = arguments.get(kind.scale, parameters[kind.scale].default)
    count = len(given) if isinstance(given, list) else int(given is not None)
    if modes_of(nets[0]):
        _check_modes(count, arguments.get(MODE), parameters)
    else:
        _check_counts(nets, count, scale, kind)
    if count < 2 or not hasattr(getattr(profile.pipeline, kind.component), kind.inside):
        return Part({})
    # Some pipelines spread a number, some don't, and where one union stands for all, by the nets: the rest is dropped.
    spread = (kind.scale, *(_PARTS if len(nets) == 1 else ()))
    said = {name: arguments.get(name, parameters[name].default) for name in spread if name in parameters}
    return Part({name: [float(value)] * count for name, value in said.items() if isinstance(value, (int, float))})


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


def _given(arguments: Mapping[str, Any], profile: PipelineProfile) -> Any:
    """The control pictures among the arguments: by their own name, else the only picture that there is."""
    names = profile.inputs.images
    own = next((name for name in names if name.startswith("control")), None)
    return arguments.get(own or next(iter(names), ""))


def _needs_picture(profile: PipelineProfile) -> bool:
    """Whether the class is for control alone and takes pictures for it; a modular one does without as well."""
    return "controlnet" in profile.tasks and bool(profile.inputs.images)


def _check_mode(nets: list[Any], arguments: Mapping[str, Any], parameters: Parameters) -> None:
    count = modes_of(nets[0])
    if count and MODE in parameters and arguments.get(MODE) is None:
        raise InvalidRequest(
            f"the ControlNet is a union of {count}: say what the picture is by options: {MODE}:0 (0 to {count - 1}, "
            "see the net's own page)"
        )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
