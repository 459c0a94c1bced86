# SPDX-License-Identifier: MIT
"""A component out of a file of weights: checked by headers before a load, then built of the file's own numbers.

Its shape comes from a config (of the model that it goes into, or of the folder beside it); which of the file's keys are
its weights is found by what fits (:mod:`.fitting`).
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from localai_diffusers.checkpoint import contents, fitting, headers
from localai_diffusers.checkpoint.contents import Contents
from localai_diffusers.checkpoint.fitting import Fit, Target
from localai_diffusers.checkpoint.model_files import WeightFile
from localai_diffusers.errors import LoadError, is_of_accelerator, is_out_of_memory
from localai_diffusers.patches import fresh_weights, single_file_classes

_LONG_CLIP = 248  # positions


def contents_of(files: Iterable[Path], allow_pickle: bool, mapped: bool = True) -> Contents:
    """What the files hold together; ``mapped``: their weights are mapped from the disk. Raises LoadError for broken
    ones, untrusted pickles and packings not read here."""
    return contents.contents(replace(headers.read(file, allow_pickle), mapped=mapped) for file in files)


def fitted(wanted: Target, found: Contents, what: str) -> Fit:
    """How ``found`` fills ``wanted``. Raises LoadError, which begins with ``what``, where it does not fill all of
    it."""
    best = fitting.fit(wanted, found)
    if best is None or not best.is_complete:
        raise refused(wanted, best, what)
    return best


def refused(wanted: Target, best: Fit | None, what: str) -> LoadError:
    """Why ``what`` is no whole ``wanted``: what it lacks, or what is of another shape."""
    name = wanted.cls.__name__
    if best is None:
        return LoadError(f"{what} is no file that can be read as a {name}: no weight of such a model is in it")
    positions = next((own for key, (own, _) in best.wrong.items() if key.endswith("position_embedding.weight")), (0,))
    if positions[0] == _LONG_CLIP:
        return LoadError(
            f"{what} is a LongCLIP, which reads {_LONG_CLIP} tokens: the pipeline's tokenizer and prompts are made for "
            "the 77 of CLIP, so it cannot stand for it"
        )
    return LoadError(
        f"{what} lacks some of the weights of a {name} ({best.says}): it is a file of another model, or it is cut short"
    )


def share_of(fit: Fit) -> WeightFile:
    """What the component takes of its file: bytes, and the dtype of most of them."""
    sizes: dict[str, int] = {}
    for name in fit.used:
        entry = fit.contents.entries[name]
        sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.header.tensors[entry.key].size
    main = max(sizes, key=sizes.__getitem__, default="")
    return WeightFile(fit.target.component, fit.contents.headers[0].path, sum(sizes.values()), main)


def load(fit: Fit, dtype: Any, **how: Any) -> Any:
    """The component with the file's weights in ``dtype``, a torch dtype; GGUF's linear layers stay in blocks.

    ``how``: other keywords of the library's reader, for weights that do not stay packed.

    Raises LoadError for what the library does not make a model of.
    """
    try:
        return (_of_transformers if fit.target.is_transformers else _of_diffusers)(fit, dtype, how)
    except (MemoryError, ImportError, LoadError):
        raise
    except Exception as error:
        if is_out_of_memory(error) or is_of_accelerator(error):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        name = fit.target.cls.__name__
        raise LoadError(f"{fit.contents.label} is no file that can be read as a {name} ({reason})") from error


def _of_transformers(fit: Fit, dtype: Any, how: Mapping[str, Any]) -> Any:
    """transformers makes up what a file lacks, so it is asked what that was."""
    state = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in fit.state(dtype).items()
    }
    model, said = fit.target.cls.from_pretrained(
        None, config=fit.target.config, state_dict=state, dtype=dtype, output_loading_info=True, **how
    )
    if said["missing_keys"]:
        raise refused(fit.target, fit, fit.contents.label)
    return model


def _of_diffusers(fit: Fit, dtype: Any, how: Mapping[str, Any]) -> Any:
    """By diffusers' own reader of single files, which is given weights that have the model's names already."""
    from diffusers.loaders.single_file_model import FromOriginalModelMixin

    cls, options = fit.target.cls, {"dtype": dtype, **how}
    packed = fit.stays_packed
    if packed:
        import diffusers

        options["quantization_config"] = diffusers.GGUFQuantizationConfig(compute_dtype=dtype)
    with tempfile.TemporaryDirectory(prefix="component-") as folder:
        (Path(folder) / "config.json").write_text(json.dumps(dict(fit.target.config)))
        plain = fresh_weights.applied() if how else contextlib.nullcontext()
        with single_file_classes.applied(cls, _as_they_are), plain:
            state = fit.state(dtype, packed)
            model = FromOriginalModelMixin.from_single_file.__func__(cls, state, config=folder, **options)
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        raise refused(fit.target, fit, fit.contents.label)
    if packed:
        _dequantize_others(model, dtype)
    return model


def _dequantize_others(model: Any, dtype: Any) -> None:
    """Only linear layers compute on GGUF's blocks: any other quantized parameter (a table, a convolution) is
    unpacked."""
    import torch
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter, dequantize_gguf_tensor

    for module in model.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if isinstance(tensor, GGUFParameter) and not (isinstance(module, GGUFLinear) and name == "weight"):
                plain = dequantize_gguf_tensor(tensor).as_subclass(torch.Tensor).to(dtype)
                is_buffer = name in module._buffers
                setattr(module, name, plain if is_buffer else torch.nn.Parameter(plain, requires_grad=False))


def _as_they_are(checkpoint: Any, **_: Any) -> Any:
    return checkpoint
