"""IP-Adapters: a picture as a prompt. ``options: ip_adapter:`` names the weights, a request's last picture feeds them."""

from __future__ import annotations

import json
import logging
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import artifacts, components
from .artifacts import Wish
from .errors import LoadError
from .load_spec import LoadSpec
from .model_files import ModelFacts
from .requests import GenerationRequest
from .settings import Settings
from .signatures import image_parameters, parameters_of

log = logging.getLogger(__name__)

_FIELD = "option ip_adapter"
_USUAL_NAMES = (
    "ip-adapter.safetensors",
    "ip_adapter.safetensors",
    "ip-adapter_sd15.safetensors",
    "ip-adapter_sdxl.safetensors",
)
_PREFIXES = ("image_proj.", "ip_adapter.", "ip_adapter_proj_model.", "double_blocks.")
_ENCODER = "image_encoder"
_ARGUMENT = "ip_adapter_image"


@dataclass(frozen=True)
class IPAdapter:
    """The weights' file, and how strongly the picture counts (1: as the text, 0: not at all)."""

    file: Path
    scale: float


def plan(spec: LoadSpec, cls: type, settings: Settings) -> IPAdapter | None:
    """The IP-Adapter of ``spec``, its file intact and on this machine; None without one.

    Raises LoadError for a missing or foreign file, and for a pipeline class that takes none.
    """
    name = spec.load_options.get("ip_adapter")
    if not name:
        return None
    if not hasattr(cls, "load_ip_adapter"):
        raise LoadError(f"{_FIELD} {name!r}: {cls.__name__} takes no IP-Adapter")
    file = _file(spec, str(name))
    artifacts.check_weights(file, spec, settings)
    if file.suffix == ".safetensors" and not any(key.startswith(_PREFIXES) for key in _keys(file)):
        raise LoadError(f"{_FIELD} {name!r} is no IP-Adapter: no weight of it begins with image_proj or ip_adapter")
    return IPAdapter(file, scale_of(spec))


def scale_of(spec: LoadSpec) -> float:
    scale = spec.load_options.get("ip_adapter_scale", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise LoadError(f"option ip_adapter_scale:{scale!r} must be a number")
    return float(scale)


def _file(spec: LoadSpec, name: str) -> Path:
    """The weights, with the image encoder's folder beside them where the repo has one there."""
    location = artifacts.find(spec, name, _FIELD)
    if location.kind == "repo_file":
        folder = str(Path(location.file).parent)
        wanted = [location.file, f"{folder}/{_ENCODER}/*" if folder != "." else f"{_ENCODER}/*"]
        root = artifacts.fetch(spec, replace(location, kind="repo", file=""), _FIELD, wanted)
        return root / location.file
    weight_name = str(spec.load_options.get("ip_adapter_weight_name") or "")
    return artifacts.weight_in(spec, location, _FIELD, weight_name, _USUAL_NAMES)


def _keys(file: Path) -> list[str]:
    with file.open("rb") as stream:
        return list(json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0])))


def wishes(spec: LoadSpec, cls: type, settings: Settings) -> dict[str, Wish]:
    """The image encoder (and its feature extractor) beside the weights, as components of a pipeline that has a place for
    them. ``options: image_encoder:`` names another one."""
    adapter = plan(spec, cls, settings)
    if adapter is None:
        return {}
    folder = adapter.file.parent / _ENCODER
    parts = {_ENCODER: "config.json", "feature_extractor": "preprocessor_config.json"}
    return {
        name: Wish(_FIELD, str(folder))
        for name, needed in parts.items()
        if name in components.expected(cls) and (folder / needed).is_file()
    }


def check_encoder(spec: LoadSpec, facts: ModelFacts) -> None:
    """Raise LoadError for an IP-Adapter without an image encoder, where the model's components are known."""
    if spec.load_options.get("ip_adapter") and facts.components and _ENCODER not in facts.components:
        raise _no_encoder(str(spec.load_options["ip_adapter"]))


def _no_encoder(name: str) -> LoadError:
    return LoadError(
        f"{_FIELD} {name!r} needs an image encoder: there is no folder {_ENCODER} beside it, so name one with "
        f"options: {_ENCODER}:folder-or-repo"
    )


def apply(pipeline: Any, adapter: IPAdapter | None) -> None:
    """Put the adapter's layers on the denoiser. Raises LoadError for one that does not fit, or without an image encoder."""
    if adapter is None:
        return
    if getattr(pipeline, _ENCODER, None) is None:
        raise _no_encoder(adapter.file.name)
    try:
        pipeline.load_ip_adapter(str(adapter.file.parent), subfolder="", weight_name=adapter.file.name)
        pipeline.set_ip_adapter_scale(adapter.scale)
    except (KeyError, RuntimeError, ValueError, AttributeError, IndexError) as error:
        raise LoadError(
            f"{_FIELD} {adapter.file.name!r} does not fit {type(pipeline).__name__}: {str(error)[:400]}"
        ) from error
    log.info("IP-Adapter %s, scale %g", adapter.file.name, adapter.scale)


def split(spec: LoadSpec, pipeline: Any, request: GenerationRequest) -> tuple[GenerationRequest, dict[str, Any]]:
    """The request without the picture that feeds the adapter, and that picture as a call argument.

    It is the last one, unless that is the only one and the pipeline itself takes a picture. Without one the adapter
    counts nothing.
    """
    if not spec.load_options.get("ip_adapter"):
        return request, {}
    own = 1 if request.is_inpainting or image_parameters(parameters_of(pipeline)) else 0
    if len(request.images) > own:
        pipeline.set_ip_adapter_scale(scale_of(spec))
        return replace(request, images=request.images[:-1]), {_ARGUMENT: request.images[-1]}
    from PIL import Image

    pipeline.set_ip_adapter_scale(0.0)
    return request, {_ARGUMENT: Image.new("RGB", (224, 224))}


def add(arguments: dict[str, Any], extra: dict[str, Any], pipeline: Any) -> None:
    """Put the picture among a call's arguments where the signature has it."""
    parameters = parameters_of(pipeline)
    arguments.update({name: value for name, value in extra.items() if name in parameters})
