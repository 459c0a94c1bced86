# SPDX-License-Identifier: MIT
"""Pictures out of UNets: Stable Diffusion and its kin, and the models before it."""

from __future__ import annotations

from typing import Any

from . import components as c
from .entry import Entry, entries
from .kit import from_config, model, resolve, scheduler

Parts = dict[str, Any]
SMALL = dict(height=64, width=64, num_inference_steps=2)


def sd() -> Parts:
    """Stable Diffusion 1: one CLIP text encoder, a four-channel UNet; no safety checker, as in many repos."""
    return dict(
        vae=c.vae(),
        unet=c.unet(),
        text_encoder=c.clip_text(),
        tokenizer=c.clip_tokenizer(),
        scheduler=c.ddim(),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )


def sd_controlnet() -> Parts:
    """Stable Diffusion with a ControlNet that has the UNet's encoder."""
    return {**sd(), "controlnet": controlnet()}


def controlnet(**more: Any) -> Any:
    """ControlNetModel to fit `components.unet()`; its zero layers are made to matter."""
    return model(
        "ControlNetModel",
        **{
            **dict(
                block_out_channels=[16, 32],
                layers_per_block=1,
                in_channels=4,
                cross_attention_dim=32,
                attention_head_dim=4,
                down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
                norm_num_groups=4,
                conditioning_embedding_out_channels=[8, 8, 8, 16],
            ),
            **more,
        },
    )


def sd_controlnet_xs() -> Parts:
    """ControlNet-XS: an adapter that is saved beside the UNet that it shares layers with."""
    unet = c.unet(use_linear_projection=True, attention_head_dim=[4, 4], layers_per_block=2)
    adapter = from_config(
        "ControlNetXSAdapter",
        lambda cls: cls.from_unet(
            unet, size_ratio=1.0, learn_time_embedding=True, conditioning_embedding_out_channels=(8, 8, 8, 16)
        ),
    )
    return {**sd(), "unet": unet, "controlnet": adapter}


def sd_adapter() -> Parts:
    """Stable Diffusion with a T2I adapter."""
    return {
        **sd(),
        "adapter": model("T2IAdapter", in_channels=3, channels=[16, 32], num_res_blocks=1, downscale_factor=8),
    }


def sd_inpaint() -> Parts:
    """The inpainting checkpoints: mask and masked picture beside the latents (9 channels)."""
    return {**sd(), "unet": c.unet(in_channels=9)}


def sd_pix2pix() -> Parts:
    """InstructPix2Pix: the picture's latents beside the noise (8 channels)."""
    return {**sd(), "unet": c.unet(in_channels=8)}


def sd_depth() -> Parts:
    """Depth2Img: one more channel, from a DPT depth estimator."""
    from transformers import DPTImageProcessor

    estimator = model(
        "DPTForDepthEstimation",
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        neck_hidden_sizes=[8, 8, 8, 8],
        backbone_out_indices=[0, 1, 2, 3],
        reassemble_factors=[4, 2, 1, 0.5],
        fusion_hidden_size=8,
    )
    sizes = DPTImageProcessor(size={"height": 32, "width": 32}, ensure_multiple_of=8)
    return {**sd(), "unet": c.unet(in_channels=5), "depth_estimator": estimator, "feature_extractor": sizes}


def sd_variation() -> Parts:
    """Image variations: a CLIP picture embedding in the prompt's place."""
    return {**sd(), "image_encoder": c.clip_vision(), "feature_extractor": c.clip_processor()}


def sd_gligen() -> Parts:
    """GLIGEN: boxes with phrases steer gated attention."""
    return {**sd(), "unet": c.unet(attention_type="gated", block_out_channels=[8, 16])}


def sd_ldm3d() -> Parts:
    """LDM3D: the autoencoder makes colors and depth (6 channels)."""
    return {**sd(), "vae": c.vae(in_channels=6, out_channels=6)}


def sd_lcm() -> Parts:
    """Latent consistency: guidance goes in as an embedding."""
    return {**sd(), "unet": c.unet(time_cond_proj_dim=32), "scheduler": scheduler("LCMScheduler", **c.ddpm_betas())}


def sd_diffedit() -> Parts:
    """DiffEdit and pix2pix-zero: an inverse scheduler, too."""
    inverse = scheduler("DDIMInverseScheduler", **c.ddpm_betas(clip_sample=False, set_alpha_to_zero=False))
    return {**sd(), "inverse_scheduler": inverse}


def sd_parallel() -> Parts:
    """ParaDiGMS steps many timesteps at once: it needs a scheduler of the parallel kind."""
    return {**sd(), "scheduler": scheduler("DDIMParallelScheduler", **c.ddpm_betas(clip_sample=False))}


def sd_unclip() -> Parts:
    """Stable unCLIP: a noisy CLIP picture embedding as the class; a prior makes one from text."""
    noising = dict(beta_schedule="squaredcos_cap_v2")
    prior = scheduler(
        "DDPMScheduler",
        variance_type="fixed_small_log",
        prediction_type="sample",
        clip_sample=True,
        clip_sample_range=5.0,
        **noising,
    )
    unet = c.unet(class_embed_type="projection", projection_class_embeddings_input_dim=64)
    return {
        **sd(),
        "unet": unet,
        "scheduler": c.ddim(prediction_type="v_prediction"),
        "prior": c.prior(),
        "prior_text_encoder": c.clip_text(projected=True),
        "prior_tokenizer": c.clip_tokenizer(),
        "prior_scheduler": prior,
        "image_normalizer": model("StableUnCLIPImageNormalizer", embedding_dim=32),
        "image_noising_scheduler": scheduler("DDPMScheduler", **noising),
        "image_encoder": c.clip_vision(),
        "feature_extractor": c.clip_processor(),
    }


def paint_by_example() -> Parts:
    """An example picture says what to paint into the mask."""
    encoder = model(
        "PaintByExampleImageEncoder",
        config_class="CLIPVisionConfig",
        hidden_size=32,
        projection_dim=32,
        intermediate_size=64,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=32,
        patch_size=16,
    )
    return {**sd_inpaint(), "image_encoder": encoder, "feature_extractor": c.clip_processor()}


def sd_upscale() -> Parts:
    """The x4 upscaler: latents beside the small picture (7 channels), a noise level as class, factor 4."""
    unet = c.unet(in_channels=7, num_class_embeds=1000, only_cross_attention=[True, False])
    return {
        **sd(),
        "unet": unet,
        "vae": c.vae(blocks=3),
        "low_res_scheduler": scheduler("DDPMScheduler"),
        "scheduler": c.ddim(prediction_type="v_prediction"),
        "watermarker": None,
    }


def sd_latent_upscale() -> Parts:
    """The x2 latent upscaler of the k-diffusion kind; its blocks tell their place by their widths."""
    unet = c.unet(
        act_fn="gelu",
        norm_num_groups=None,
        block_out_channels=[32, 32, 64, 64],
        time_cond_proj_dim=160,
        conv_in_kernel=1,
        conv_out_kernel=1,
        in_channels=8,
        out_channels=5,
        mid_block_type=None,
        down_block_types=["KDownBlock2D"] + ["KCrossAttnDownBlock2D"] * 3,
        attention_head_dim=8,
        up_block_types=["KCrossAttnUpBlock2D"] * 3 + ["KUpBlock2D"],
        timestep_post_act="gelu",
        resnet_time_scale_shift="scale_shift",
        time_embedding_type="fourier",
    )
    return {**sd(), "unet": unet, "scheduler": scheduler("EulerDiscreteScheduler", prediction_type="sample")}


def sdxl() -> Parts:
    """SDXL: two CLIP text encoders side by side, six time ids."""
    return dict(
        vae=c.vae(),
        unet=c.unet_xl(),
        text_encoder=c.clip_text(),
        text_encoder_2=c.clip_text(projected=True),
        tokenizer=c.clip_tokenizer(),
        tokenizer_2=c.clip_tokenizer(),
        image_encoder=None,
        feature_extractor=None,
        scheduler=c.ddim(timestep_spacing="leading"),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def sdxl_controlnet() -> Parts:
    """SDXL with a ControlNet."""
    net = controlnet(
        attention_head_dim=[2, 4],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=[1, 1],
        cross_attention_dim=64,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        projection_class_embeddings_input_dim=80,
    )
    return {**sdxl(), "controlnet": net}


def sdxl_union() -> Parts:
    """SDXL with a ControlNet for six kinds of control at once."""
    net = model(
        "ControlNetUnionModel",
        block_out_channels=[16, 32],
        layers_per_block=1,
        cross_attention_dim=64,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        attention_head_dim=[2, 4],
        norm_num_groups=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=[1, 1],
        projection_class_embeddings_input_dim=80,
        num_proj_channel=16,
        conditioning_embedding_out_channels=[8, 8, 8, 16],
        num_trans_channel=16,
        num_trans_head=2,
    )
    return {**sdxl(), "controlnet": net}


def sdxl_adapter() -> Parts:
    """SDXL with a T2I adapter; the XL kind starts at a sixteenth of the size."""
    return {
        **sdxl(),
        "adapter": model(
            "T2IAdapter",
            in_channels=3,
            channels=[16, 32],
            num_res_blocks=1,
            downscale_factor=16,
            adapter_type="full_adapter_xl",
        ),
    }


def sdxl_pix2pix() -> Parts:
    """SDXL InstructPix2Pix."""
    return {**sdxl(), "unet": c.unet_xl(in_channels=8)}


def kolors() -> Parts:
    """Kolors: SDXL's UNet over ChatGLM, whose tokens are projected and whose last is the pooled text."""
    config = dict(
        num_layers=2,
        padded_vocab_size=c.VOCABULARY,
        hidden_size=16,
        ffn_hidden_size=16,
        kv_channels=8,
        num_attention_heads=2,
        seq_length=256,
        multi_query_attention=True,
        multi_query_group_num=1,
        add_qkv_bias=True,
        original_rope=True,
    )
    text = from_config("ChatGLMModel", lambda cls: _filled(cls(resolve("ChatGLMConfig")(**config))))
    unet = c.unet_xl(encoder_hid_dim=16, encoder_hid_dim_type="text_proj", projection_class_embeddings_input_dim=64)
    return {
        **sdxl(),
        "unet": unet,
        "text_encoder": text,
        "tokenizer": c.chatglm_tokenizer(),
        "scheduler": c.ddim(timestep_spacing="leading"),
        "force_zeros_for_empty_prompt": False,
    }


def _filled(module: Any) -> Any:
    """The module with every weight set: ChatGLM's constructors leave the memory as they find it."""
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5)
            else:
                parameter.fill_(1.0)
    return module


def alt_diffusion() -> Parts:
    """AltDiffusion: Stable Diffusion over a multilingual Roberta."""
    text = model(
        "RobertaSeriesModelWithTransformation",
        vocab_size=c.VOCABULARY,
        hidden_size=32,
        project_dim=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    return {**sd(), "text_encoder": text, "tokenizer": c.xlm_roberta_tokenizer()}


def pixels(**more: Any) -> Any:
    """UNet2DModel over 32-pixel pictures."""
    return model(
        "UNet2DModel",
        **{
            **dict(
                sample_size=32,
                in_channels=3,
                out_channels=3,
                block_out_channels=[8, 16],
                layers_per_block=1,
                norm_num_groups=4,
                attention_head_dim=4,
                down_block_types=["DownBlock2D", "AttnDownBlock2D"],
                up_block_types=["AttnUpBlock2D", "UpBlock2D"],
            ),
            **more,
        },
    )


def ddpm() -> Parts:
    """No text: pixels from noise."""
    return dict(unet=pixels(), scheduler=scheduler("DDPMScheduler"))


def unconditional(name: str, **more: Any) -> Any:
    """The parts of a class that differs from DDPM in its scheduler only."""
    return lambda: dict(unet=pixels(), scheduler=scheduler(name, **more))


def vq() -> Any:
    """VQModel, 3 channels, for the latent diffusion models before Stable Diffusion; four times smaller."""
    return model(
        "VQModel",
        block_out_channels=[8, 8, 16],
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        latent_channels=3,
        norm_num_groups=4,
        num_vq_embeddings=64,
    )


def ldm() -> Parts:
    """Latent diffusion: unconditional, and super-resolution by four (6 channels)."""
    return dict(vqvae=vq(), unet=pixels(sample_size=8), scheduler=c.ddim())


def ldm_upscale() -> Parts:
    """Latent diffusion super-resolution: the small picture beside the latents."""
    return {**ldm(), "unet": pixels(in_channels=6)}


def ldm_text() -> Parts:
    """Latent diffusion from text: its own BERT."""
    bert = model(
        "LDMBertModel",
        vocab_size=c.VOCABULARY,
        max_position_embeddings=77,
        encoder_layers=1,
        encoder_ffn_dim=32,
        encoder_attention_heads=4,
        head_dim=8,
        d_model=32,
        pad_token_id=0,
    )
    return dict(vqvae=c.vae(), bert=bert, tokenizer=c.bert_tokenizer(), unet=c.unet(), scheduler=c.ddim())


def dit() -> Parts:
    """DiT: ImageNet classes instead of text."""
    transformer = model(
        "DiTTransformer2DModel",
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=4,
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=1000,
    )
    labels = {"0": "tench", "1": "goldfish", "207": "golden retriever"}
    return dict(transformer=transformer, vae=c.vae(), scheduler=scheduler("DDIMScheduler"), id2label=labels)


ENTRIES: dict[str, Entry] = {
    **entries(
        "stable-diffusion",
        sd,
        "image",
        SMALL,
        ("StableDiffusionPipeline", "prompt"),
        ("StableDiffusionImg2ImgPipeline", "prompt image"),
        ("StableDiffusionPAGPipeline", "prompt"),
        ("StableDiffusionPAGImg2ImgPipeline", "prompt image"),
        ("StableDiffusionPAGInpaintPipeline", "prompt image mask_image"),
        ("StableDiffusionSAGPipeline", "prompt"),
        ("StableDiffusionPanoramaPipeline", "prompt"),
        ("SemanticStableDiffusionPipeline", "prompt"),
        ("CycleDiffusionPipeline", "prompt source_prompt image"),
        ("StableDiffusionPipelineSafe", "prompt"),
    ),
    **entries("stable-diffusion", sd_parallel, "image", SMALL, ("StableDiffusionParadigmsPipeline", "prompt")),
    **entries(
        "stable-diffusion", sd_inpaint, "image", SMALL, ("StableDiffusionInpaintPipeline", "prompt image mask_image")
    ),
    **entries(
        "controlnet",
        sd_controlnet,
        "image",
        SMALL,
        ("StableDiffusionControlNetPipeline", "prompt image"),
        ("StableDiffusionControlNetImg2ImgPipeline", "prompt image control_image"),
        ("StableDiffusionControlNetInpaintPipeline", "prompt image mask_image control_image"),
        ("StableDiffusionControlNetPAGPipeline", "prompt image"),
        ("StableDiffusionControlNetPAGInpaintPipeline", "prompt image mask_image control_image"),
    ),
    **entries(
        "controlnet-xs", sd_controlnet_xs, "image", SMALL, ("StableDiffusionControlNetXSPipeline", "prompt image")
    ),
    **entries("t2i-adapter", sd_adapter, "image", SMALL, ("StableDiffusionAdapterPipeline", "prompt image")),
    **entries(
        "instruct-pix2pix", sd_pix2pix, "image", SMALL, ("StableDiffusionInstructPix2PixPipeline", "prompt image")
    ),
    **entries("stable-diffusion-depth", sd_depth, "image", SMALL, ("StableDiffusionDepth2ImgPipeline", "prompt image")),
    **entries(
        "stable-diffusion-variation", sd_variation, "image", SMALL, ("StableDiffusionImageVariationPipeline", "image")
    ),
    **entries(
        "gligen", sd_gligen, "image", SMALL, ("StableDiffusionGLIGENPipeline", "prompt gligen_phrases gligen_boxes")
    ),
    **entries("ldm3d", sd_ldm3d, "image", SMALL, ("StableDiffusionLDM3DPipeline", "prompt", dict(output_type="np"))),
    **entries(
        "latent-consistency",
        sd_lcm,
        "image",
        SMALL,
        ("LatentConsistencyModelPipeline", "prompt"),
        ("LatentConsistencyModelImg2ImgPipeline", "prompt image"),
    ),
    **entries(
        "stable-unclip",
        sd_unclip,
        "image",
        SMALL,
        ("StableUnCLIPPipeline", "prompt", dict(prior_num_inference_steps=2)),
        ("StableUnCLIPImg2ImgPipeline", "prompt image"),
    ),
    **entries(
        "paint-by-example",
        paint_by_example,
        "image",
        SMALL,
        ("PaintByExamplePipeline", "example_image image mask_image"),
    ),
    **entries(
        "stable-diffusion-upscale", sd_upscale, "image", SMALL, ("StableDiffusionUpscalePipeline", "prompt image")
    ),
    **entries(
        "latent-upscale", sd_latent_upscale, "image", SMALL, ("StableDiffusionLatentUpscalePipeline", "prompt image")
    ),
    **entries(
        "stable-diffusion-xl",
        sdxl,
        "image",
        SMALL,
        ("StableDiffusionXLPipeline", "prompt"),
        ("StableDiffusionXLImg2ImgPipeline", "prompt image", dict(strength=0.8)),
        ("StableDiffusionXLInpaintPipeline", "prompt image mask_image"),
        ("StableDiffusionXLPAGPipeline", "prompt"),
        ("StableDiffusionXLPAGImg2ImgPipeline", "prompt image", dict(strength=0.8)),
        ("StableDiffusionXLPAGInpaintPipeline", "prompt image mask_image"),
    ),
    **entries(
        "controlnet-xl",
        sdxl_controlnet,
        "image",
        SMALL,
        ("StableDiffusionXLControlNetPipeline", "prompt image"),
        ("StableDiffusionXLControlNetImg2ImgPipeline", "prompt image control_image"),
        ("StableDiffusionXLControlNetInpaintPipeline", "prompt image mask_image control_image"),
        ("StableDiffusionXLControlNetPAGPipeline", "prompt image"),
        ("StableDiffusionXLControlNetPAGImg2ImgPipeline", "prompt image control_image"),
    ),
    **entries("t2i-adapter-xl", sdxl_adapter, "image", SMALL, ("StableDiffusionXLAdapterPipeline", "prompt image")),
    **entries(
        "instruct-pix2pix-xl",
        sdxl_pix2pix,
        "image",
        SMALL,
        ("StableDiffusionXLInstructPix2PixPipeline", "prompt image"),
    ),
    **entries("ddpm", ddpm, "image", SMALL, ("DDPMPipeline", "")),
    **entries("ddim", unconditional("DDIMScheduler"), "image", SMALL, ("DDIMPipeline", "")),
    **entries(
        "pndm", unconditional("PNDMScheduler"), "image", SMALL, ("PNDMPipeline", "", dict(num_inference_steps=4))
    ),
    **entries(
        "repaint",
        unconditional("RePaintScheduler"),
        "image",
        SMALL,
        ("RePaintPipeline", "image mask_image", dict(jump_length=1, jump_n_sample=1)),
    ),
    **entries("score-sde-ve", unconditional("ScoreSdeVeScheduler"), "image", SMALL, ("ScoreSdeVePipeline", "")),
    **entries(
        "consistency-models",
        unconditional("CMStochasticIterativeScheduler", num_train_timesteps=40),
        "image",
        SMALL,
        ("ConsistencyModelPipeline", ""),
    ),
    **entries("latent-diffusion", ldm, "image", SMALL, ("LDMPipeline", "")),
    **entries("latent-diffusion", ldm_upscale, "image", SMALL, ("LDMSuperResolutionPipeline", "image")),
    **entries("latent-diffusion", ldm_text, "image", SMALL, ("LDMTextToImagePipeline", "prompt")),
    **entries(
        "kolors",
        kolors,
        "image",
        SMALL,
        ("KolorsPipeline", "prompt"),
        ("KolorsImg2ImgPipeline", "prompt image", dict(strength=0.8)),
        ("KolorsPAGPipeline", "prompt"),
    ),
    **entries(
        "alt-diffusion",
        alt_diffusion,
        "image",
        SMALL,
        ("AltDiffusionPipeline", "prompt"),
        ("AltDiffusionImg2ImgPipeline", "prompt image"),
    ),
    **entries("karras-ve", unconditional("KarrasVeScheduler"), "image", SMALL, ("KarrasVePipeline", "")),
    **entries("dit", dit, "image", SMALL, ("DiTPipeline", "class_labels")),
    **entries(
        "controlnet-xl",
        sdxl_union,
        "image",
        dict(SMALL, control_mode=[0]),
        ("StableDiffusionXLControlNetUnionPipeline", "prompt control_image"),
        ("StableDiffusionXLControlNetUnionImg2ImgPipeline", "prompt image control_image"),
        ("StableDiffusionXLControlNetUnionInpaintPipeline", "prompt image mask_image control_image"),
    ),
}
