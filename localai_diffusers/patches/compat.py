"""Gaps between the pinned diffusers and transformers, closed in one place, each with its reason.

Look here first when a pin moves: what is no longer needed can go.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from localai_diffusers.checkpoint.model_files import variant_of
from localai_diffusers.patches.singular_covariance import singular_covariance


def settle_transformers() -> None:
    """Before any pipeline is imported: what diffusers' packages add to transformers must stay.

    transformers 5.23 runs its ``__init__`` a second time, and puts another module in its place, when its
    ``processing_utils`` is first imported. PRX's package has set ``transformers.T5GemmaEncoder`` by then, which its
    text encoder is loaded by: where it is the first pipeline of the process, the class would be gone.
    """
    importlib.import_module("transformers.processing_utils")


def during_calls() -> AbstractContextManager[Any]:
    """All that holds while a pipeline is called."""
    gaps = (
        clip_text_model,
        clap_text_features,
        absent_flags,
        dual_attention,
        numbers_for_numpy,
        glm_image_rows,
        singular_covariance,
    )
    closed = contextlib.ExitStack()
    for gap in gaps:
        closed.enter_context(gap())
    return closed


def clip_text_model() -> AbstractContextManager[None]:
    """``CLIPTextModel.text_model`` is the model itself.

    transformers 5.6 took the inner ``text_model`` out of CLIPTextModel (its parts are the model's own now). diffusers
    0.42.1 still asks for ``text_encoder.text_model.final_layer_norm`` in some thirty pipelines as soon as clip_skip is
    set, and fails with "CLIPTextModel has no attribute text_model". Only while a call runs: its loaders tell the two
    layouts apart by that very attribute. A property is no submodule: weights and hooks stay as they are.
    """
    from transformers import CLIPTextModel

    return _replaced(CLIPTextModel, text_model=property(_itself))


def clap_text_features() -> AbstractContextManager[None]:
    """``ClapModel.get_text_features`` returns the features themselves, a tensor.

    transformers 5 wraps them in an output object. AudioLDM 2 knows both forms; MusicLDM of diffusers 0.42.1 knows the
    tensor alone, and fails: "'BaseModelOutputWithPooling' object has no attribute 'to'".
    """
    from transformers import ClapModel

    theirs: Any = ClapModel.get_text_features

    @functools.wraps(theirs)
    def features(model: Any, *args: Any, **named: Any) -> Any:
        found = theirs(model, *args, **named)
        return getattr(found, "pooler_output", found)

    return _replaced(ClapModel, get_text_features=features)


def absent_flags() -> AbstractContextManager[None]:
    """A component's config answers None for a flag of other models that it lacks.

    ChromaInpaintPipeline of diffusers 0.42.1, copied from Flux's, asks its transformer's config for
    ``guidance_embeds``, which ChromaTransformer2DModel has not, and fails: "'FrozenDict' object has no attribute
    'guidance_embeds'". An entry of a config is an attribute of its own and comes first.
    """
    from diffusers.configuration_utils import FrozenDict

    return _replaced(FrozenDict, guidance_embeds=None)


def dual_attention() -> AbstractContextManager[None]:
    """DualTransformer2DModel takes the attention mask of the text that it is handed.

    diffusers 0.42.1 hands its UNets' attention blocks an ``encoder_attention_mask`` (None in these pipelines), and this
    one's ``forward`` has no such parameter: Versatile Diffusion's dual guidance fails with a TypeError.
    """
    from diffusers.models.transformers.dual_transformer_2d import DualTransformer2DModel

    theirs: Any = DualTransformer2DModel.forward

    def forward(model: Any, *args: Any, encoder_attention_mask: Any = None, **kwargs: Any) -> Any:
        return theirs(model, *args, **kwargs)

    return _replaced(DualTransformer2DModel, forward=forward)


def glm_image_rows() -> AbstractContextManager[None]:
    """GLM-Image's features of pictures are rows, (patches, channels) a picture.

    So its pipeline of diffusers 0.42.1 joins them; transformers 5.23 gives (channels, height, width), and the pictures
    to edit fail with "expected input[1, 1, 2, 2] to have 16 channels". The tokens are made patch by patch: any form
    will do.
    """
    module: Any = sys.modules.get("transformers.models.glm_image.modeling_glm_image")
    if module is None:  # not loaded, so not called
        return contextlib.nullcontext()
    features, tokens = module.GlmImageModel.get_image_features, module.GlmImageModel.get_image_tokens

    @functools.wraps(features)
    def rows(model: Any, *args: Any, **named: Any) -> Any:
        found = features(model, *args, **named)
        found.pooler_output = [picture.flatten(1).T for picture in found.pooler_output]
        return found

    @functools.wraps(tokens)
    def of_rows(model: Any, pictures: Any, *args: Any) -> Any:
        parts = pictures if isinstance(pictures, list) else [pictures]
        return tokens(model, [part.T[:, :, None] for part in parts], *args)

    return _replaced(module.GlmImageModel, get_image_features=rows, get_image_tokens=of_rows)


def numbers_for_numpy() -> AbstractContextManager[None]:
    """A bf16 tensor becomes a numpy array of fp32.

    numpy has no bf16, and the older pipelines (DDPM, VQ-Diffusion) hand it their output as it is: "Got unsupported
    ScalarType BFloat16".
    """
    import torch

    theirs: Any = torch.Tensor.numpy

    def numpy(tensor: Any, **how: Any) -> Any:
        return theirs(tensor.float() if tensor.dtype is torch.bfloat16 else tensor, **how)

    return _replaced(torch.Tensor, numpy=numpy)


def named_variants() -> AbstractContextManager[None]:
    """While a pipeline is loaded, a file without a dot in its name (LICENSE) beside a component's weights does no harm.

    diffusers 0.42.1 looks for a variant's files by ``name.split(".")[1]``, an IndexError for such a name.
    """
    from diffusers.pipelines import pipeline_utils

    return _replaced(pipeline_utils, _identify_model_variants=_variants_by_component)


@contextlib.contextmanager
def _replaced(owner: Any, **attributes: Any) -> Iterator[None]:
    """``owner`` with other attributes inside the block; afterwards with its own again,
    and without those it only inherits."""
    own = {name: vars(owner)[name] for name in attributes if name in vars(owner)}
    for name, value in attributes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name in attributes.keys() - own.keys():
            delattr(owner, name)
        for name, value in own.items():
            setattr(owner, name, value)


def _variants_by_component(folder: str, variant: str | None, config: dict[str, Any]) -> dict[str, str]:
    """Component -> ``variant``, for those that have files of it."""
    parts = [part for part in Path(folder).iterdir() if variant and part.is_dir() and part.name in config]
    return {part.name: variant for part in parts if any(variant_of(file.name) == variant for file in part.iterdir())}


def _itself(model: Any) -> Any:
    """The inner model where there still is one (older transformers), else the model."""
    return model._modules.get("text_model", model)
