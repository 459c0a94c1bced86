# SPDX-License-Identifier: MIT
"""IP-Adapters: a picture as a prompt. ``options: ip_adapter:`` names the weights,
a request's last pictures feed them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from localai_diffusers.checkpoint import artifacts, headers
from localai_diffusers.checkpoint.artifacts import Wish
from localai_diffusers.checkpoint.model_files import ModelFacts
from localai_diffusers.discovery.words import DENOISERS
from localai_diffusers.errors import InvalidRequest, LoadError
from localai_diffusers.loading import components
from localai_diffusers.loading.files.skeletons import Skeletons
from localai_diffusers.pipeline.profile import PipelineProfile
from localai_diffusers.settings import Settings
from localai_diffusers.wire.load_spec import LoadSpec
from localai_diffusers.wire.requests import GenerationRequest

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
    """The files of weights, and how strongly the pictures count: 1 as the text, 0 not at all; a scale by block
    (``{"up": {"block_0": [0, 1, 0]}}``: the style alone); a list of these, one for each file."""

    files: tuple[Path, ...]
    scale: Any


def plan(spec: LoadSpec, cls: type, settings: Settings) -> IPAdapter | None:
    """The IP-Adapters of ``spec``, their files intact and on this machine; None without any.

    Raises LoadError for a missing or foreign file, one that is fed by faces, and for a pipeline class that takes none.
    """
    names = names_of(spec)
    if not names:
        return None
    if not hasattr(cls, "load_ip_adapter"):
        raise LoadError(f"{_FIELD} {', '.join(names)}: {cls.__name__} takes no IP-Adapter")
    wanted = artifacts.weight_names(
        spec.options.ip_adapter_weight_name, "ip_adapter_weight_name", len(names), "IP-Adapters"
    )
    files = tuple(_checked(spec, name, weight, settings) for name, weight in zip(names, wanted, strict=True))
    return IPAdapter(files, scale_of(spec))


def names_of(spec: LoadSpec) -> list[str]:
    """What ``options: ip_adapter:`` names: one, a comma-separated list, or a JSON list."""
    return [name for name in spec.options.ip_adapter if name]


def scale_of(spec: LoadSpec) -> Any:
    """``options: ip_adapter_scale:`` in the form that diffusers takes. Raises LoadError for what is no scale."""
    scale, count = spec.options.ip_adapter_scale, len(names_of(spec))
    several = scale if isinstance(scale, list) else [scale] * count
    if len(several) != count:
        raise LoadError(f"option ip_adapter_scale:{scale!r} holds {len(several)} scales for {count} IP-Adapters")
    for one in several:
        if isinstance(one, bool) or not isinstance(one, (int, float, dict)):
            raise LoadError(f"option ip_adapter_scale:{scale!r} must be a number or a JSON object of blocks, or a list")
    return several if count > 1 else several[0]


def _checked(spec: LoadSpec, name: str, weight_name: str, settings: Settings) -> Path:
    file = _file(spec, name, weight_name)
    artifacts.check_weights(file, spec, settings)
    keys = headers.read(file, artifacts.allows_pickle(spec, settings)).tensors
    if not keys:  # a pickle of nested dicts, which diffusers knows
        return file
    if not any(key.startswith(_PREFIXES) for key in keys):
        raise LoadError(f"{_FIELD} {name!r} is no IP-Adapter: no weight of it begins with image_proj or ip_adapter")
    if any(key.startswith("image_proj.perceiver_resampler.") for key in keys) or {
        "image_proj.proj.0.weight",
        "image_proj.norm.weight",
    } <= set(keys):
        raise _fed_by_faces(name)
    return file


def _fed_by_faces(name: str) -> LoadError:
    return LoadError(
        f"{_FIELD} {name!r} is a FaceID adapter: it is fed by the embedding of a face (from insightface), which this "
        "backend does not make. Take a plus-face or full-face adapter, which look at the picture itself"
    )


def _file(spec: LoadSpec, name: str, weight_name: str) -> Path:
    """The weights, with the image encoder's folder beside them where the repo has one there."""
    location = artifacts.find(spec, name, _FIELD)
    if location.kind == "repo_file":
        folder = str(Path(location.file).parent)
        wanted = [location.file, f"{folder}/{_ENCODER}/*" if folder != "." else f"{_ENCODER}/*"]
        root = artifacts.fetch(spec, replace(location, kind="repo", file=""), _FIELD, wanted)
        return root / location.file
    return artifacts.weight_in(spec, location, _FIELD, weight_name, _USUAL_NAMES)


def wishes(spec: LoadSpec, cls: type, settings: Settings) -> dict[str, Wish]:
    """The image encoder (and its feature extractor) beside the weights, as components of a pipeline that has a place
    for them. ``options: image_encoder:`` names another one."""
    adapter = plan(spec, cls, settings)
    if adapter is None:
        return {}
    folders = [file.parent / _ENCODER for file in adapter.files]
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    parts = {_ENCODER: "config.json", "feature_extractor": "preprocessor_config.json"}
    return {
        name: Wish(_FIELD, str(folder))
        for name, needed in parts.items()
        if name in components.expected(cls) and (folder / needed).is_file()
    }


# What a projection's first layer reads of the image encoder, by the end of its name -> the entry of the encoder's
# config that says how wide that is. Plus adapters and those of whole faces look at the layer before the last.
_READS = (
    (".proj_in.weight", "hidden_size"),
    (".proj.0.weight", "hidden_size"),
    (".proj.weight", "projection_dim"),
)


def check_base(adapter: IPAdapter | None, model: Skeletons) -> None:
    """Raise LoadError for a quantized denoiser: diffusers casts it when it puts an IP-Adapter on, which such a one
    refuses."""
    packed = [name for name in DENOISERS if name in model and model.is_quantized(name)]
    if adapter is not None and packed:
        raise LoadError(
            f"{_FIELD} {', '.join(file.name for file in adapter.files)}: {packed[0]} is quantized, and an IP-Adapter "
            f"goes onto plain weights alone: load it unquantized (quantization: can name others than {packed[0]})"
        )


def check_encoder(spec: LoadSpec, facts: ModelFacts, adapter: IPAdapter | None, encoder: Mapping[str, Any]) -> None:
    """Raise LoadError for an IP-Adapter without an image encoder, where the model's components are known, and for one
    that was made for another one than that of the config ``encoder``."""
    if names_of(spec) and facts.components and _ENCODER not in facts.components:
        raise _no_encoder(", ".join(names_of(spec)))
    text = facts.config(facts.denoiser).get("cross_attention_dim") if facts.denoiser else None
    for file in adapter.files if adapter else ():
        _check_width(file, encoder)
        _check_family(file, text)


def _check_family(file: Path, width: Any) -> None:
    """Raise LoadError for layers of another width than the text's that this model's U-Net attends to."""
    for name, tensor in headers.read(file, allow_pickle=True).tensors.items():
        if isinstance(width, int) and name.endswith("to_k_ip.weight") and tensor.shape[1:] != (width,):
            raise LoadError(
                f"{_FIELD} {file.name!r} attends to {tensor.shape[-1]} numbers, and this model's denoiser to {width}: "
                "it was made for another model family"
            )


def _check_width(file: Path, encoder: Mapping[str, Any]) -> None:
    for name, tensor in headers.read(file, allow_pickle=True).tensors.items():
        reads = next((entry for end, entry in _READS if f".{name}".endswith(end) and "image_proj" in name), "")
        width = encoder.get(reads) if len(tensor.shape) == 2 else None
        if isinstance(width, int) and width != tensor.shape[1]:
            raise LoadError(
                f"{_FIELD} {file.name!r} reads {tensor.shape[1]} numbers of an image encoder, and this one has {reads} "
                f"{width}: name the encoder that it was trained with by options: {_ENCODER}:folder-or-repo"
            )


def _no_encoder(name: str) -> LoadError:
    return LoadError(
        f"{_FIELD} {name!r} needs an image encoder: there is no folder {_ENCODER} beside it, so name one with "
        f"options: {_ENCODER}:folder-or-repo"
    )


def apply(pipeline: Any, adapter: IPAdapter | None) -> None:
    """Put the adapter's layers on the denoiser. Raises LoadError for one that does not fit,
    or without an image encoder."""
    if adapter is None:
        return
    if getattr(pipeline, _ENCODER, None) is None:
        raise _no_encoder(adapter.files[0].name)
    folders, names = [str(file.parent) for file in adapter.files], [file.name for file in adapter.files]
    one = len(names) == 1  # not every pipeline takes lists
    try:
        pipeline.load_ip_adapter(folders[0] if one else folders, subfolder="", weight_name=names[0] if one else names)
        pipeline.set_ip_adapter_scale(adapter.scale)
    except (LookupError, RuntimeError, ValueError, AttributeError, TypeError) as error:
        raise LoadError(
            f"{_FIELD} {', '.join(names)} (scale {adapter.scale}) does not fit {type(pipeline).__name__}: "
            f"{str(error)[:400]}"
        ) from error
    if any("FaceID" in type(module).__name__ for module in _denoiser(pipeline).modules()):
        raise _fed_by_faces(", ".join(names))
    log.info("IP-Adapter %s, scale %s", ", ".join(names), adapter.scale)


def _denoiser(pipeline: Any) -> Any:
    return getattr(pipeline, "unet", None) or pipeline.transformer


def split(
    spec: LoadSpec, profile: PipelineProfile, request: GenerationRequest
) -> tuple[GenerationRequest, dict[str, Any]]:
    """The request without the pictures that feed the adapters, and these as an argument for a call that takes it.

    They are the last ones, one for each adapter, unless the only picture is one that the pipeline itself takes. Without
    them the adapters count nothing. Raises InvalidRequest for some, but not one for each.
    """
    count, pipeline = len(names_of(spec)), profile.pipeline
    if not count:
        return request, {}
    starts_from_one = bool(profile.inputs.images) and not hasattr(pipeline, "blocks")
    own = int(request.is_inpainting or starts_from_one)  # a modular pipeline starts from text as well
    spare = len(request.images) - own
    if 0 < spare < count:
        raise InvalidRequest(
            f"the model has {count} IP-Adapters, and the request brings {spare} picture(s) for them: send one for "
            "each, last, or none"
        )
    if spare > 0:
        pipeline.set_ip_adapter_scale(scale_of(spec))
        pictures = list(request.images[-count:])
        return replace(request, images=request.images[:-count]), {_ARGUMENT: pictures if count > 1 else pictures[0]}
    from PIL import Image

    pipeline.set_ip_adapter_scale([0.0] * count if count > 1 else 0.0)
    blank = [Image.new("RGB", (224, 224))] * count
    return request, {_ARGUMENT: blank if count > 1 else blank[0]}
