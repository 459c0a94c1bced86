# SPDX-License-Identifier: MIT
"""Everything else: meshes, and depth and other predictions."""

from __future__ import annotations

from typing import Any

from . import components as c
from .entry import Entry, entries
from .image import SMALL, Parts, sd
from .kit import from_config, scheduler
from .shape import give_shape

MESH = dict(frame_size=16, num_inference_steps=2, output_type="mesh")


def shap_e(from_text: bool) -> Any:
    """Shap-E: a prior makes the weights of a small radiance field, from text or from a picture.

    The four matrices have eight rows each, so the prior speaks of 32 vectors.
    """

    def parts() -> Parts:
        norm = None if from_text else "layer"
        prior = c.prior(
            num_embeddings=32,
            embedding_dim=16,
            embedding_proj_dim=32,
            time_embed_dim=64,
            clip_embed_dim=32,
            additional_embeddings=0,
            time_embed_act_fn="gelu",
            norm_in_type="layer",
            added_emb_type=None,
            embedding_proj_norm_type=norm,
            encoder_hid_proj_type=None,
        )
        renderer = from_config(
            "ShapERenderer",
            lambda cls: give_shape(
                cls(param_shapes=((8, 93), (8, 8), (8, 8), (8, 8)), d_latent=16, d_hidden=8, background=(0.1, 0.1, 0.1))
            ),
        )
        heun = scheduler(
            "HeunDiscreteScheduler",
            beta_schedule="exp",
            num_train_timesteps=1024,
            use_karras_sigmas=True,
            prediction_type="sample",
            clip_sample=True,
            clip_sample_range=1.0,
        )
        return dict(
            prior=prior,
            shap_e_renderer=renderer,
            scheduler=heun,
            tokenizer=c.clip_tokenizer(),
            text_encoder=c.clip_text(projected=True),
            image_encoder=c.clip_eyes(),
            image_processor=c.clip_processor(),
        )

    return parts


def marigold(kind: str) -> Any:
    """Marigold on Stable Diffusion: the picture's latents beside the prediction's, an empty prompt."""

    def parts() -> Parts:
        targets = 2 if kind == "intrinsics" else 1
        unet = c.unet(in_channels=4 + 4 * targets, out_channels=4 * targets)
        named = {"target_names": ["albedo", "roughness", "metallicity"], "albedo": {"prediction_space": "srgb"}}
        return {
            **sd(),
            "unet": unet,
            "prediction_type": kind,
            "default_denoising_steps": 2,
            "default_processing_resolution": 64,
            "scheduler": c.ddim(prediction_type="v_prediction"),
            **({"target_properties": named} if kind == "intrinsics" else {}),
        }

    return parts


ENTRIES: dict[str, Entry] = {
    **entries("shap-e", shap_e(True), "mesh", MESH, ("ShapEPipeline", "prompt")),
    **entries("shap-e", shap_e(False), "mesh", MESH, ("ShapEImg2ImgPipeline", "image")),
    **entries("marigold", marigold("depth"), "depth", SMALL, ("MarigoldDepthPipeline", "image")),
    **entries("marigold", marigold("normals"), "normals", SMALL, ("MarigoldNormalsPipeline", "image")),
    **entries("marigold", marigold("intrinsics"), "intrinsics", SMALL, ("MarigoldIntrinsicsPipeline", "image")),
}
