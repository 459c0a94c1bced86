"""A file that holds one component alone, mostly the transformer: GGUF, or a transformer-only .safetensors.

The rest of the pipeline comes from a base (folder or repo), whose model_index.json says which component the file is and
of what class, and whose config of that component gives its shape.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from localai_diffusers.checkpoint import artifacts, model_files
from localai_diffusers.checkpoint.artifacts import Wish
from localai_diffusers.checkpoint.model_files import Location
from localai_diffusers.errors import LoadError, is_of_accelerator, is_out_of_memory
from localai_diffusers.patches import single_file_classes
from localai_diffusers.wire.load_spec import LoadSpec

log = logging.getLogger(__name__)

# Keys of checkpoints that bring more than a denoiser begin with one of these somewhere.
_WHOLE = re.compile(
    r"^(first_stage_model|cond_stage_model|conditioner|vae|text_encoders?|text_encoder_\d|text_model|"
    r"decoder|encoder|audio_vae|vocoder)\."
)
# Where a checkpoint's metadata may name the repo it was made from (GGUF: "General metadata" of the specification).
_BASE_KEYS = (
    "general.base_model.0.repo_url",
    "general.source.repo_url",
    "general.source.huggingface.repository",
    "base_model",
    "modelspec.base_model",
)
_REPO_URL = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)/?$")
# What other tools put before a transformer's keys.
_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "model.")


def base_of(spec: LoadSpec, path: Path) -> tuple[Location, dict[str, Wish]] | None:
    """Where the rest of the pipeline is, and the file as one of its components; None for a whole checkpoint.

    Raises LoadError naming ``options: base_model`` where neither that nor the file's metadata says it.
    """
    named = spec.options.base_model
    if not named and not _holds_one_component(path):
        return None
    if not named:
        named = _base_in_metadata(path)
        log.info("%s names its base %s in its metadata", path, named or "nowhere")
    if not named:
        raise LoadError(
            f"{path} holds a transformer alone: name the folder or repo with the rest of its pipeline, e.g. "
            "options: base_model:owner/name"
        )
    location = artifacts.find(spec, named, "option base_model")
    if location.kind not in ("folder", "repo"):
        raise LoadError(f"option base_model {named!r} must be a pipeline's folder or a Hub repo, not a file")
    return location, {_denoiser_of(spec, location, named): Wish("Model", str(path))}


def _denoiser_of(spec: LoadSpec, location: Location, named: str) -> str:
    """Name of the base's component that denoises, by its model_index.json."""
    folder = artifacts.fetch(spec, location, "option base_model", [model_files.INDEX_FILE])
    name = model_files.indexed_facts(folder / spec.options.subfolder).denoiser
    if not name:
        raise LoadError(f"option base_model {named!r} has no transformer, unet or prior that a file could replace")
    return name


def _holds_one_component(path: Path) -> bool:
    """A GGUF always does; a .safetensors when no key belongs to a VAE or a text encoder."""
    if path.suffix == ".gguf":
        return True
    return path.suffix == ".safetensors" and not any(_WHOLE.match(key) for key in _header(path))


def _header(path: Path) -> dict[str, Any]:
    """A .safetensors file's header: tensor names to entries, and its __metadata__."""
    model_files.check_intact(path, allow_pickle=False)
    with path.open("rb") as stream:
        return json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))


def _base_in_metadata(path: Path) -> str:
    metadata = gguf_texts(path) if path.suffix == ".gguf" else _header(path).get("__metadata__") or {}
    for key in _BASE_KEYS:
        text = str(metadata.get(key) or "")
        found = _REPO_URL.match(text)
        if found or re.fullmatch(r"[\w.-]+/[\w.-]+", text):
            return found[1] if found else text
    return ""


def gguf_texts(path: Path) -> Mapping[str, str]:
    """The text values in a GGUF's metadata. LoadError without the gguf package."""
    with _gguf_package():
        from gguf import GGUFReader, GGUFValueType
    fields = GGUFReader(path).fields.values()
    return {field.name: field.contents() for field in fields if field.types == [GGUFValueType.STRING]}


@contextlib.contextmanager
def _gguf_package() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise LoadError(f"a .gguf file needs the gguf package ({error}): pip install gguf") from error


def load(component: type, file: Path, root: str | None, name: str, dtype: Any) -> Any:
    """``file`` as a ``component``, its shape from ``root``'s config of the component ``name``.

    Raises LoadError for a file that lacks some of the model's weights, and for GGUF without its package.
    """
    if component.__module__.startswith("transformers."):
        return _load_transformers(component, file, root, name, dtype)
    options: dict[str, Any] = {"dtype": dtype}
    if root is not None:
        options |= {"config": root, "subfolder": name}
    if file.suffix == ".gguf":
        with _gguf_package():
            import diffusers
            import gguf  # noqa: F401

        options["quantization_config"] = diffusers.GGUFQuantizationConfig(compute_dtype=dtype)
    from diffusers.loaders.single_file_model import FromOriginalModelMixin

    try:
        with single_file_classes.applied(component, _plain_keys):
            model = FromOriginalModelMixin.from_single_file.__func__(
                component, _checkpoint(component, file, root, name), **options
            )
    except NotImplementedError as error:  # a weight stayed on the meta device: the file did not have it
        raise _incomplete(component, file) from error
    except (MemoryError, OSError, ImportError):
        raise
    except Exception as error:  # converters of foreign formats fail with anything on a file they don't know
        if is_out_of_memory(error) or is_of_accelerator(error):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise LoadError(f"{file} is no file that diffusers can read as a {component.__name__} ({reason})") from error
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        raise _incomplete(component, file)
    if file.suffix == ".gguf":
        _dequantize_others(model, dtype)
    return model


def _checkpoint(component: type, file: Path, root: str | None, name: str) -> Any:
    """What diffusers is given to read: the file's path, or its weights where only a prefix parts them from the model's
    own names, which diffusers' converters of original formats do not expect."""
    if file.suffix != ".safetensors" or root is None:
        return str(file)
    keys = [key for key in _header(file) if key != "__metadata__"]
    prefix = _common_prefix(keys)
    if not prefix or {key.removeprefix(prefix) for key in keys} != _own_names(component, root, name):
        return str(file)
    from safetensors.torch import load_file

    return _plain_keys(load_file(file))


def _own_names(component: Any, root: str, name: str) -> set[str]:
    """Names of the weights of a ``component`` by ``root``'s config of it; nothing is allocated."""
    import torch

    with torch.device("meta"):
        return set(component.from_config(component.load_config(root, subfolder=name)).state_dict())


def _common_prefix(keys: Collection[str]) -> str:
    return next((prefix for prefix in _PREFIXES if keys and all(key.startswith(prefix) for key in keys)), "")


def _dequantize_others(model: Any, dtype: Any) -> None:
    """Only linear layers compute on GGUF's blocks: any other quantized parameter (a table, a convolution)
    is unpacked."""
    import torch
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter, dequantize_gguf_tensor

    for module in model.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if isinstance(tensor, GGUFParameter) and not (isinstance(module, GGUFLinear) and name == "weight"):
                plain = dequantize_gguf_tensor(tensor).as_subclass(torch.Tensor).to(dtype)
                is_buffer = name in module._buffers
                setattr(module, name, plain if is_buffer else torch.nn.Parameter(plain, requires_grad=False))


def _plain_keys(checkpoint: Mapping[str, Any], **_: Any) -> dict[str, Any]:
    """The weights without the prefix that other tools put before all of a transformer's keys."""
    prefix = _common_prefix(checkpoint.keys())
    return {key.removeprefix(prefix): value for key, value in checkpoint.items()}


def _load_transformers(component: type, file: Path, root: str | None, name: str, dtype: Any) -> Any:
    """A transformers model: GGUF by its own reader, .safetensors by the keys that its config's model has.

    transformers makes up what a file lacks, so it is asked what that was.
    """
    options: dict[str, Any] = {"dtype": dtype, "output_loading_info": True}
    if file.suffix == ".gguf":
        model, said = component.from_pretrained(str(file.parent), gguf_file=file.name, **options)
    elif root is None:
        raise LoadError(f"{file} has no config.json beside it: give the folder of the component {name}")
    else:
        from safetensors.torch import load_file

        config = component.config_class.from_pretrained(root, subfolder=name)
        weights = _plain_keys(load_file(file))
        model, said = component.from_pretrained(None, config=config, state_dict=weights, **options)
    if said["missing_keys"]:
        raise _incomplete(component, file)
    return model


def _incomplete(component: type, file: Path) -> LoadError:
    return LoadError(
        f"{file} lacks some of the weights of a {component.__name__}: it is a file of another model, or it is cut short"
    )
