# SPDX-License-Identifier: MIT
"""Pictures out of what the other files lack: editors by inversion, ControlNets that inpaint, older families."""

from __future__ import annotations

import copy
from typing import Any

from . import components as c
from .entry import Entry, entries
from .image import SMALL, Parts, sd, sd_diffedit, sd_gligen, sdxl
from .image_dit import flux, flux_transformer, longcat_image, qwen_controlnet, qwen_edit, sd3_controlnet, z_image
from .image_recent import qwen3_vl, qwen3_vl_processor
from .kit import from_config, model, scheduler

_LATENTS = 16  # channels of Qwen-Image 2.1's autoencoder, each of which has a mean and a deviation


# ---- Stable Diffusion's kin
# ------------------------------------------------------------------------------------------------


def attentive(**more: Any) -> Any:
    """A UNet with attention at an eighth, a 16th and a 32nd of the size: editors look at the last."""
    return c.unet(
        block_out_channels=[8, 16, 16],
        down_block_types=["CrossAttnDownBlock2D"] * 3,
        up_block_types=["CrossAttnUpBlock2D"] * 3,
        **more,
    )


def sd_edit() -> Parts:
    """Editing by inversion needs a scheduler that LEDITS++ knows."""
    solver = scheduler(
        "DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++", solver_order=2, **c.ddpm_betas()
    )
    return {**sd(), "unet": attentive(), "scheduler": solver}


def sdxl_edit() -> Parts:
    """The same on SDXL."""
    return {**sdxl(), "scheduler": sd_edit()["scheduler"]}


def sd_checked() -> Parts:
    """Stable Diffusion with the safety checker that a class insists on."""
    return {**sd(), "safety_checker": c.safety_checker(), "feature_extractor": c.clip_processor()}


def sd_attention() -> Parts:
    """Attend-and-Excite looks at the attention at a 32nd of the size."""
    return {**sd(), "unet": attentive()}


def sd_gligen_pictures() -> Parts:
    """GLIGEN with pictures beside the phrases."""
    from transformers import CLIPProcessor

    processor = CLIPProcessor(image_processor=c.clip_processor(), tokenizer=c.clip_tokenizer())
    unet = c.unet(attention_type="gated-text-image", block_out_channels=[8, 16])
    return {
        **sd_gligen(),
        "unet": unet,
        "processor": processor,
        "image_encoder": c.clip_vision(),
        "image_project": model("CLIPImageProjection", hidden_size=32),
    }


def sdxl_controlnet_xs() -> Parts:
    """ControlNet-XS of the SDXL kind."""
    unet = c.unet_xl(attention_head_dim=[4, 4], layers_per_block=2)
    adapter = from_config(
        "ControlNetXSAdapter",
        lambda cls: cls.from_unet(
            unet, size_ratio=1.0, learn_time_embedding=True, conditioning_embedding_out_channels=(8, 8, 8, 16)
        ),
    )
    return {**sdxl(), "unet": unet, "controlnet": adapter}


# ---- older families
# ------------------------------------------------------------------------------------------------


def unidiffuser() -> Parts:
    """UniDiffuser: one U-ViT for text and pictures."""
    from transformers import GPT2TokenizerFast

    unet = model(
        "UniDiffuserModel",
        text_dim=16,
        clip_img_dim=32,
        num_text_tokens=77,
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu",
        num_embeds_ada_norm=1000,
        norm_type="layer_norm",
        block_type="unidiffuser",
        pre_layer_norm=False,
        norm_elementwise_affine=False,
        use_patch_pos_embed=False,
        ff_final_dropout=True,
        use_data_type_embedding=True,
    )
    words = c.roberta_tokenizer()
    tokens = GPT2TokenizerFast(
        vocab=words._vocab, merges=words._merges, eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )
    decoder = model(
        "UniDiffuserTextDecoder",
        prefix_length=77,
        prefix_inner_dim=32,
        prefix_hidden_dim=16,
        vocab_size=c.VOCABULARY,
        n_positions=160,
        n_embd=16,
        n_layer=1,
        n_head=2,
    )
    head, words_in = decoder.transformer.lm_head, decoder.transformer.transformer.wte
    if head.weight is words_in.weight:  # safetensors keeps no weight under two names
        head.weight = type(head.weight)(head.weight.detach().clone())
    return dict(
        vae=c.vae(),
        text_encoder=c.clip_text(),
        image_encoder=c.clip_vision(),
        clip_image_processor=c.clip_processor(),
        clip_tokenizer=c.clip_tokenizer(),
        text_decoder=decoder,
        text_tokenizer=tokens,
        unet=unet,
        scheduler=scheduler("DPMSolverMultistepScheduler", solver_order=3, **c.ddpm_betas()),
    )


def vq_diffusion() -> Parts:
    """VQ-Diffusion: a codebook's entries are unmasked."""
    vqvae = model(
        "VQModel",
        block_out_channels=[8, 8, 8],
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        latent_channels=3,
        norm_num_groups=4,
        num_vq_embeddings=32,
        vq_embed_dim=3,
    )
    transformer = model(
        "Transformer2DModel",
        num_attention_heads=2,
        attention_head_dim=8,
        sample_size=16,
        num_vector_embeds=33,
        cross_attention_dim=32,
        num_layers=2,
        attention_bias=True,
        activation_fn="geglu-approximate",
        num_embeds_ada_norm=100,
        norm_num_groups=4,
    )
    free = model("LearnedClassifierFreeSamplingEmbeddings", learnable=True, hidden_size=32, length=77)
    return dict(
        vqvae=vqvae,
        text_encoder=c.clip_text(),
        tokenizer=c.clip_tokenizer(),
        transformer=transformer,
        learned_classifier_free_sampling_embeddings=free,
        scheduler=scheduler("VQDiffusionScheduler", num_vec_classes=33),
    )


def versatile() -> Parts:
    """Versatile Diffusion: text and pictures as context, a flat UNet for text; 257 tokens of a picture.

    Its classes exchange parts of the two UNets as they are built, so each gets its own.
    """
    widths = dict(
        block_out_channels=[16, 32],
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=4,
        in_channels=4,
        out_channels=4,
        sample_size=8,
    )
    flat = model(
        "UNetFlatConditionModel",
        down_block_types=["CrossAttnDownBlockFlat", "DownBlockFlat"],
        up_block_types=["UpBlockFlat", "CrossAttnUpBlockFlat"],
        **widths,
    )
    return dict(
        tokenizer=c.clip_tokenizer(),
        image_feature_extractor=c.clip_processor(),
        vae=c.vae(),
        text_encoder=c.clip_text(projected=True),
        image_encoder=c.clip_vision(patch=2),
        image_unet=copy.deepcopy(c.unet()),
        text_unet=copy.deepcopy(flat),
        scheduler=c.ddim(),
    )


# ---- diffusion transformers
# ------------------------------------------------------------------------------------------------


def visual_cloze() -> Parts:
    """VisualCloze on Flux Fill, its cells 64 pixels wide."""
    return {**flux(), "transformer": flux_transformer(in_channels=384, out_channels=64), "resolution": 64}


def sd3_controlnet_inpaint() -> Parts:
    """The inpainting ControlNet takes the masked picture and the mask."""
    net = model(
        "SD3ControlNetModel",
        sample_size=8,
        patch_size=2,
        in_channels=16,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=64,
        caption_projection_dim=64,
        pooled_projection_dim=64,
        out_channels=16,
        pos_embed_max_size=32,
        extra_conditioning_channels=1,
    )
    return {**sd3_controlnet(), "controlnet": net}


def qwen_controlnet_inpaint() -> Parts:
    """Qwen-Image's inpainting ControlNet takes the mask as one more channel."""
    net = model(
        "QwenImageControlNetModel",
        patch_size=2,
        in_channels=64,
        out_channels=16,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=[4, 6, 6],
        extra_condition_channels=4,
    )
    return {**qwen_controlnet(), "controlnet": net}


def coarse_vae(**more: Any) -> Any:
    """The causal autoencoder 32 times smaller and two channels wide: these editors work on megapixels."""
    return c.causal_vae(
        "AutoencoderKLQwenImage",
        **{
            **dict(base_dim=2, dim_mult=[1] * 6, temperal_downsample=[False] * 3 + [True] * 2, num_res_blocks=0),
            **more,
        },
    )


def qwen_edit_inpaint() -> Parts:
    """Qwen-Image-Edit with a mask."""
    return {**qwen_edit(), "vae": coarse_vae()}


def longcat_edit() -> Parts:
    """LongCat-Image-Edit, whose autoencoder is 32 times smaller here: it works on a megapixel."""
    vae = c.flow_vae(
        block_out_channels=[4] * 6,
        down_block_types=["DownEncoderBlock2D"] * 6,
        norm_num_groups=2,
        up_block_types=["UpDecoderBlock2D"] * 6,
        mid_block_add_attention=False,
    )
    return {**longcat_image(), "vae": vae}


def qwen_layered() -> Parts:
    """Qwen-Image-Layered: a picture as layers with transparency."""
    transformer = model(
        "QwenImageTransformer2DModel",
        patch_size=2,
        in_channels=64,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=[4, 6, 6],
        use_additional_t_cond=True,
        use_layer3d_rope=True,
    )
    return {**qwen_edit(), "transformer": transformer, "vae": coarse_vae(input_channels=4)}


def z_image_controlnet(channels: int = 16) -> Any:
    """Z-Image with a ControlNet over `channels` of control."""

    def parts() -> Parts:
        net = model(
            "ZImageControlNetModel",
            control_layers_places=[0],
            control_in_dim=channels,
            dim=32,
            control_refiner_layers_places=[0],
            add_control_noise_refiner="control_noise_refiner",
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
        )
        return {**z_image(), "controlnet": net}

    return parts


def z_image_omni() -> Parts:
    """Z-Image Omni: SigLIP 2 sees the pictures."""
    from transformers import Siglip2ImageProcessor

    transformer = model(
        "ZImageTransformer2DModel",
        in_channels=16,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=32,
        axes_dims=[4, 6, 6],
        axes_lens=[1024, 128, 128],
        siglip_feat_dim=32,
    )
    siglip = model(
        "Siglip2VisionModel",
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_patches=64,
        patch_size=16,
    )
    return {
        **z_image(),
        "transformer": transformer,
        "siglip": siglip,
        "siglip_processor": Siglip2ImageProcessor(patch_size=16, max_num_patches=64),
    }


def _t5_gemma(**config: Any) -> Any:
    """T5GemmaEncoder with the configuration of encoder and decoder, as the repositories have it.

    transformers does not export the class: diffusers' package of PRX does.
    """
    import transformers
    from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

    whole = transformers.T5GemmaConfig(**config)
    encoder = from_config("T5GemmaConfig", lambda _config: T5GemmaEncoder(whole.encoder))
    encoder.config = whole
    return encoder


def prx() -> Parts:
    """PRX: T5Gemma's encoder over a transformer that attends to text and picture at once."""
    encoder = dict(
        vocab_size=c.VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        query_pre_attn_scalar=16,
        max_position_embeddings=512,
    )
    text = _t5_gemma(encoder=encoder, decoder=encoder, vocab_size=c.VOCABULARY)
    transformer = model(
        "PRXTransformer2DModel",
        in_channels=16,
        patch_size=2,
        context_in_dim=32,
        hidden_size=32,
        mlp_ratio=2.0,
        num_heads=2,
        depth=2,
        axes_dim=[8, 8],
    )
    return dict(
        transformer=transformer,
        scheduler=c.flow(shift=3.0),
        text_encoder=text,
        tokenizer=c.gemma_tokenizer(256),
        vae=c.flow_vae(),
        default_sample_size=256,
    )


def prx_pixel() -> Parts:
    """PRX in pixels: no autoencoder, Qwen3-VL's language model."""
    transformer = model(
        "PRXTransformer2DModel",
        in_channels=3,
        patch_size=16,
        context_in_dim=32,
        hidden_size=32,
        mlp_ratio=2.0,
        num_heads=2,
        depth=2,
        axes_dim=[8, 8],
        bottleneck_size=16,
        resolution_embeds=True,
    )
    return dict(
        transformer=transformer,
        scheduler=c.flow(shift=3.0),
        text_encoder=c.decoder_text("Qwen3Model"),
        tokenizer=c.qwen_tokenizer(),
        default_sample_size=1024,
        prompt_max_tokens=32,
        noise_scale=2.0,
    )


def qwen_image_21() -> Parts:
    """Qwen-Image 2.1: Qwen3-VL reads text and pictures, an autoencoder with transparency, 16 times smaller."""
    vae = model(
        "AutoencoderKLQwenImage21",
        base_dim=8,
        decoder_base_dim=8,
        z_dim=_LATENTS,
        num_res_blocks=1,
        dim_mult=[1, 1, 1, 1, 1],
        latents_mean=[0.0] * _LATENTS,
        latents_std=[1.0] * _LATENTS,
    )
    transformer = model(
        "QwenImage21Transformer2DModel",
        in_channels=_LATENTS,
        out_channels=_LATENTS,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=32,
        axes_dims_rope=[4, 6, 6],
    )
    return dict(
        scheduler=c.flow(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=qwen3_vl(),
        processor=qwen3_vl_processor(),
        transformer=transformer,
    )


def _noise(shape: Any) -> Any:
    """Seeded values for a weight that its constructor does not fill."""
    import numpy

    return numpy.random.default_rng(0).normal(0.0, 0.1, tuple(shape))


def nucleus() -> Parts:
    """NucleusMoE-Image: experts over Qwen3-VL's tokens."""
    transformer = model(
        "NucleusMoEImageTransformer2DModel",
        patch_size=2,
        in_channels=64,
        out_channels=16,
        num_layers=5,
        attention_head_dim=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=[4, 6, 6],
        mlp_ratio=4.0,
        moe_enabled=True,
        num_experts=2,
        moe_intermediate_dim=16,
        capacity_factors=2.0,
    )
    for name, weight in transformer.named_parameters():
        if "experts." in name:  # its constructor leaves the memory as it finds it
            weight.data = weight.data.new_tensor(_noise(weight.shape))
    return dict(
        transformer=transformer,
        scheduler=c.flow(shift=3.0),
        vae=c.causal_vae("AutoencoderKLQwenImage"),
        text_encoder=qwen3_vl(layers=9),
        processor=qwen3_vl_processor(),
    )


ENTRIES: dict[str, Entry] = {
    **entries(
        "qwen-image", qwen_edit_inpaint, "image", SMALL, ("QwenImageEditInpaintPipeline", "prompt image mask_image")
    ),
    **entries("qwen-image", qwen_layered, "image", dict(SMALL, layers=2), ("QwenImageLayeredPipeline", "prompt image")),
    **entries(
        "qwen-image",
        qwen_controlnet_inpaint,
        "image",
        SMALL,
        ("QwenImageControlNetInpaintPipeline", "prompt control_image control_mask"),
    ),
    **entries(
        "qwen-image-2.1", qwen_image_21, "image", dict(SMALL, output_resolution=64), ("QwenImage21Pipeline", "prompt")
    ),
    **entries(
        "stable-diffusion-3",
        sd3_controlnet_inpaint,
        "image",
        SMALL,
        ("StableDiffusion3ControlNetInpaintingPipeline", "prompt control_image control_mask"),
    ),
    **entries("z-image", z_image_controlnet(16), "image", SMALL, ("ZImageControlNetPipeline", "prompt control_image")),
    **entries(
        "z-image",
        z_image_controlnet(33),
        "image",
        SMALL,
        ("ZImageControlNetInpaintPipeline", "prompt image mask_image control_image"),
    ),
    **entries("z-image", z_image_omni, "image", SMALL, ("ZImageOmniPipeline", "prompt")),
    **entries("prx", prx, "image", dict(SMALL, use_resolution_binning=False), ("PRXPipeline", "prompt")),
    **entries("prx", prx_pixel, "image", dict(SMALL, use_resolution_binning=False), ("PRXPixelPipeline", "prompt")),
    **entries("longcat-image", longcat_edit, "image", SMALL, ("LongCatImageEditPipeline", "prompt image")),
    **entries("diffedit", sd_diffedit, "image", SMALL, ("StableDiffusionDiffEditPipeline", "prompt image mask_image")),
    **entries(
        "visual-cloze",
        visual_cloze,
        "image",
        SMALL,
        ("VisualClozePipeline", "task_prompt content_prompt image"),
        ("VisualClozeGenerationPipeline", "task_prompt content_prompt image"),
    ),
    **entries(
        "controlnet-xs", sdxl_controlnet_xs, "image", SMALL, ("StableDiffusionXLControlNetXSPipeline", "prompt image")
    ),
    **entries(
        "versatile-diffusion",
        versatile,
        "image",
        SMALL,
        ("VersatileDiffusionTextToImagePipeline", "prompt"),
        ("VersatileDiffusionImageVariationPipeline", "image"),
        ("VersatileDiffusionDualGuidedPipeline", "prompt image"),
        ("VersatileDiffusionPipeline", "prompt"),
    ),
    **entries("unidiffuser", unidiffuser, "image", SMALL, ("UniDiffuserPipeline", "prompt")),
    **entries("vq-diffusion", vq_diffusion, "image", SMALL, ("VQDiffusionPipeline", "prompt")),
    **entries(
        "ledits",
        sd_edit,
        "image",
        dict(SMALL, num_inversion_steps=4),
        ("LEditsPPPipelineStableDiffusion", "editing_prompt image"),
    ),
    **entries(
        "ledits",
        sdxl_edit,
        "image",
        dict(SMALL, num_inversion_steps=4),
        ("LEditsPPPipelineStableDiffusionXL", "editing_prompt image"),
    ),
    **entries("nucleus-image", nucleus, "image", SMALL, ("NucleusMoEImagePipeline", "prompt")),
    **entries(
        "stable-diffusion",
        sd_attention,
        "image",
        SMALL,
        ("StableDiffusionAttendAndExcitePipeline", "prompt token_indices"),
    ),
    **entries(
        "gligen",
        sd_gligen_pictures,
        "image",
        SMALL,
        ("StableDiffusionGLIGENTextImagePipeline", "prompt gligen_phrases gligen_boxes"),
    ),
    **entries("stable-diffusion", sd, "image", SMALL, ("StableDiffusionModelEditingPipeline", "prompt")),
    **entries(
        "stable-diffusion",
        sd_checked,
        "image",
        SMALL,
        ("StableDiffusionInpaintPipelineLegacy", "prompt image mask_image"),
    ),
}
