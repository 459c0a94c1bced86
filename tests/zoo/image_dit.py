# SPDX-License-Identifier: MIT
"""Pictures out of diffusion transformers."""

from __future__ import annotations

from typing import Any

from . import components as c
from .entry import Entry, entries
from .image import SMALL, Parts
from .kit import model, scheduler

# One of two steps: at more, both run from pure noise and the picture has no say.
HALF = dict(strength=0.5)


def sd3() -> Parts:
    """Stable Diffusion 3: two pooled CLIPs and a T5 for a joint transformer."""
    transformer = model(
        "SD3Transformer2DModel",
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=64,
        caption_projection_dim=64,
        pooled_projection_dim=64,
        pos_embed_max_size=32,
    )
    clip = c.clip_text(projected=True)
    return dict(
        transformer=transformer,
        vae=c.flow_vae(),
        text_encoder=clip,
        text_encoder_2=clip,
        text_encoder_3=c.t5(64),
        tokenizer=c.clip_tokenizer(),
        tokenizer_2=c.clip_tokenizer(),
        tokenizer_3=c.t5_tokenizer(),
        scheduler=c.flow(shift=3.0),
        image_encoder=None,
        feature_extractor=None,
    )


def flux_transformer(**more: Any) -> Any:
    """FluxTransformer2DModel; every linear layer is a multiple of 32 wide, as float8 quantization needs."""
    return model(
        "FluxTransformer2DModel",
        **{
            **dict(
                patch_size=1,
                in_channels=64,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=32,
                num_attention_heads=2,
                joint_attention_dim=32,
                pooled_projection_dim=32,
                axes_dims_rope=[8, 12, 12],
                guidance_embeds=True,
            ),
            **more,
        },
    )


def flux() -> Parts:
    """Flux 1 dev: CLIP pooled, T5 tokens, guidance as an input."""
    return dict(
        transformer=flux_transformer(),
        vae=c.flow_vae(),
        text_encoder=c.clip_text(),
        text_encoder_2=c.t5(),
        tokenizer=c.clip_tokenizer(),
        tokenizer_2=c.t5_tokenizer(),
        image_encoder=None,
        feature_extractor=None,
        scheduler=c.flow(shift=3.0, use_dynamic_shifting=True),
    )


def z_image() -> Parts:
    """Z-Image: the last layer but one of Qwen3."""
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
    )
    return dict(
        transformer=transformer,
        vae=c.flow_vae(),
        text_encoder=c.decoder_text("Qwen3Model"),
        tokenizer=c.qwen_tokenizer(),
        scheduler=c.flow(shift=3.0),
    )


def qwen_image(width: int = 8) -> Parts:
    """Qwen-Image: Qwen2.5-VL tokens and the causal autoencoder of the video models, `width` channels wide."""
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
    )
    return dict(
        transformer=transformer,
        vae=c.causal_vae("AutoencoderKLQwenImage", base_dim=width),
        text_encoder=c.qwen_vl(),
        tokenizer=c.qwen_tokenizer(),
        scheduler=c.flow(use_dynamic_shifting=True, shift_terminal=0.02),
    )


def sd3_controlnet() -> Parts:
    """Stable Diffusion 3 with a ControlNet of one layer."""
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
    )
    return {**sd3(), "controlnet": net}


def flux_fill() -> Parts:
    """Flux Fill: the masked picture's latents and the mask beside the noise."""
    return {**flux(), "transformer": flux_transformer(in_channels=384, out_channels=64)}


def flux_control() -> Parts:
    """Flux Control: the control picture's latents beside the noise."""
    return {**flux(), "transformer": flux_transformer(in_channels=128, out_channels=64)}


def flux_controlnet() -> Parts:
    """Flux with a ControlNet."""
    net = model(
        "FluxControlNetModel",
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[8, 12, 12],
        guidance_embeds=True,
    )
    return {**flux(), "controlnet": net}


def redux() -> Parts:
    """Flux Redux: a picture as prompt embeddings; makes no picture itself."""
    return {
        **flux(),
        "image_encoder": c.siglip_eyes(),
        "feature_extractor": c.siglip_processor(),
        "image_embedder": model("ReduxImageEncoder", redux_dim=32, txt_in_features=32),
    }


def chroma() -> Parts:
    """Chroma: Flux without CLIP; its modulations come from one small network."""
    transformer = model(
        "ChromaTransformer2DModel",
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=[8, 12, 12],
        approximator_hidden_dim=32,
        approximator_layers=1,
    )
    return {**flux(), "transformer": transformer, "text_encoder": c.t5(), "tokenizer": c.t5_tokenizer()}


def bria() -> Parts:
    """Bria 3: Flux's blocks over T5."""
    transformer = model(
        "BriaTransformer2DModel",
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=[4, 6, 6],
    )
    return {**chroma(), "transformer": transformer}


def ovis_image() -> Parts:
    """Ovis-Image: Flux's blocks over Qwen3."""
    transformer = model(
        "OvisImageTransformer2DModel",
        patch_size=1,
        in_channels=64,
        out_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=[4, 6, 6],
    )
    return {
        **flux(),
        "transformer": transformer,
        "text_encoder": c.decoder_text("Qwen3Model"),
        "tokenizer": c.qwen_tokenizer(),
    }


def flux2_klein() -> Parts:
    """Flux 2 Klein: three middle layers of a Qwen3 of 28, 128 packed channels."""
    vae = model(
        "AutoencoderKLFlux2",
        block_out_channels=[8, 8, 16, 16],
        layers_per_block=1,
        latent_channels=32,
        norm_num_groups=4,
        sample_size=64,
    )
    transformer = model(
        "Flux2Transformer2DModel",
        in_channels=128,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        guidance_embeds=False,
        timestep_guidance_channels=32,
        axes_dims_rope=[4, 4, 4, 4],
    )
    return dict(
        vae=vae,
        transformer=transformer,
        tokenizer=c.qwen_tokenizer(),
        is_distilled=False,
        text_encoder=c.decoder_text("Qwen3ForCausalLM", width=16, layers=28, intermediate_size=16),
        scheduler=c.flow(use_dynamic_shifting=True),
    )


def qwen_controlnet() -> Parts:
    """Qwen-Image with a ControlNet."""
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
    )
    return {**qwen_image(), "controlnet": net}


def qwen_edit() -> Parts:
    """Qwen-Image-Edit: the picture goes to Qwen2.5-VL and, as a megapixel, to a narrow autoencoder."""
    return {**qwen_image(4), "processor": c.qwen_vl_processor()}


def hidream() -> Parts:
    """HiDream-I1: two CLIPs, T5 and Llama over experts."""
    transformer = model(
        "HiDreamImageTransformer2DModel",
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_channels=[32, 32],
        text_emb_dim=64,
        num_routed_experts=2,
        num_activated_experts=1,
        axes_dims_rope=[8, 4, 4],
        max_resolution=[64, 64],
        llama_layers=[0, 1],
        force_inference_output=True,
    )
    clip = c.clip_text(projected=True, max_position_embeddings=248)
    return dict(
        transformer=transformer,
        vae=c.flow_vae(),
        text_encoder=clip,
        text_encoder_2=clip,
        text_encoder_3=c.t5(),
        text_encoder_4=c.decoder_text("LlamaForCausalLM"),
        tokenizer=c.clip_tokenizer(),
        tokenizer_2=c.clip_tokenizer(),
        tokenizer_3=c.t5_tokenizer(),
        tokenizer_4=c.llama_tokenizer(),
        scheduler=c.flow(shift=3.0),
    )


def pixart() -> Parts:
    """PixArt: T5 over a transformer that learns its variance."""
    transformer = model(
        "PixArtTransformer2DModel",
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=32,
        out_channels=8,
        use_additional_conditions=False,
    )
    return dict(
        transformer=transformer,
        vae=c.vae(),
        text_encoder=c.t5(),
        tokenizer=c.t5_tokenizer(),
        scheduler=scheduler("DPMSolverMultistepScheduler"),
    )


def sana(**more: Any) -> Parts:
    """Sana: Gemma 2, an autoencoder that is 32 times smaller, linear attention."""
    vae = model(
        "AutoencoderDC",
        latent_channels=8,
        attention_head_dim=2,
        scaling_factor=0.41,
        encoder_block_types=["ResBlock"] * 5 + ["EfficientViTBlock"],
        encoder_layers_per_block=[1] * 6,
        decoder_block_types=["ResBlock"] * 5 + ["EfficientViTBlock"],
        decoder_layers_per_block=[1] * 6,
        encoder_block_out_channels=[8] * 6,
        decoder_block_out_channels=[8] * 6,
        encoder_qkv_multiscales=[[], [], [], [], [], [5]],
        decoder_qkv_multiscales=[[], [], [], [], [], [5]],
        downsample_block_type="conv",
        upsample_block_type="interpolate",
    )
    transformer = model(
        "SanaTransformer2DModel",
        **{
            **dict(
                patch_size=1,
                in_channels=8,
                out_channels=8,
                num_layers=2,
                num_attention_heads=2,
                attention_head_dim=16,
                num_cross_attention_heads=2,
                cross_attention_head_dim=16,
                cross_attention_dim=32,
                caption_channels=32,
                sample_size=32,
            ),
            **more,
        },
    )
    return dict(
        transformer=transformer,
        vae=vae,
        text_encoder=c.decoder_text("Gemma2Model"),
        tokenizer=c.gemma_tokenizer(),
        scheduler=c.flow(shift=3.0),
    )


def sana_sprint() -> Parts:
    """Sana Sprint: distilled to two steps, guidance embedded."""
    parts = sana(guidance_embeds=True, qk_norm="rms_norm_across_heads")
    return {**parts, "scheduler": scheduler("SCMScheduler")}


def sana_controlnet() -> Parts:
    """Sana with a ControlNet."""
    net = model(
        "SanaControlNetModel",
        patch_size=1,
        in_channels=8,
        out_channels=8,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=16,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=32,
        sample_size=32,
    )
    return {**sana(), "controlnet": net}


def lumina() -> Parts:
    """Lumina-Next: Gemma's last layer but one."""
    transformer = model(
        "LuminaNextDiT2DModel",
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        num_layers=2,
        num_attention_heads=2,
        num_kv_heads=2,
        multiple_of=16,
        cross_attention_dim=32,
    )
    return dict(
        transformer=transformer,
        vae=c.vae(),
        text_encoder=c.decoder_text("GemmaModel"),
        tokenizer=c.gemma_tokenizer(),
        scheduler=c.flow(),
    )


def lumina2() -> Parts:
    """Lumina 2: Gemma 2 tokens beside the picture's."""
    transformer = model(
        "Lumina2Transformer2DModel",
        sample_size=8,
        patch_size=2,
        in_channels=16,
        hidden_size=24,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=[4, 4, 4],
        axes_lens=[512, 64, 64],
        cap_feat_dim=32,
    )
    return dict(
        transformer=transformer,
        vae=c.flow_vae(),
        text_encoder=c.decoder_text("Gemma2Model"),
        tokenizer=c.gemma_tokenizer(),
        scheduler=c.flow(shift=6.0),
    )


def aura_flow() -> Parts:
    """AuraFlow: UMT5, four latent channels."""
    transformer = model(
        "AuraFlowTransformer2DModel",
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=256,
    )
    return dict(
        transformer=transformer,
        vae=c.vae(),
        text_encoder=c.t5(name="UMT5EncoderModel"),
        tokenizer=c.t5_tokenizer(),
        scheduler=c.flow(shift=1.73),
    )


def hunyuan_dit() -> Parts:
    """HunyuanDiT: BERT and T5."""
    transformer = model(
        "HunyuanDiT2DModel",
        sample_size=16,
        num_layers=4,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        in_channels=4,
        cross_attention_dim=32,
        cross_attention_dim_t5=32,
        pooled_projection_dim=16,
        hidden_size=24,
        activation_fn="gelu-approximate",
    )
    bert = model(
        "BertModel",
        vocab_size=c.VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=77,
    )
    return dict(
        transformer=transformer,
        vae=c.vae(),
        text_encoder=bert,
        tokenizer=c.bert_tokenizer(),
        text_encoder_2=c.t5(),
        tokenizer_2=c.t5_tokenizer(256),
        scheduler=scheduler("DDPMScheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def cogview3() -> Parts:
    """CogView 3 Plus: T5."""
    transformer = model(
        "CogView3PlusTransformer2DModel",
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        out_channels=4,
        text_embed_dim=32,
        time_embed_dim=8,
        condition_dim=4,
        pos_embed_max_size=32,
        sample_size=8,
    )
    return dict(
        transformer=transformer,
        vae=c.vae(),
        text_encoder=c.t5(),
        tokenizer=c.t5_tokenizer(16),
        scheduler=scheduler("CogVideoXDDIMScheduler"),
    )


def cogview4(channels: int = 4) -> Parts:
    """CogView 4: GLM's last layer but one; `channels` counts the latents that go in."""
    transformer = model(
        "CogView4Transformer2DModel",
        patch_size=2,
        in_channels=channels,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        out_channels=4,
        text_embed_dim=32,
        time_embed_dim=8,
        condition_dim=4,
    )
    return dict(
        transformer=transformer,
        vae=c.vae(),
        text_encoder=c.decoder_text("GlmModel"),
        tokenizer=c.llama_tokenizer(),
        scheduler=c.flow(use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, base_image_seq_len=256),
    )


def hunyuan_dit_controlnet() -> Parts:
    """HunyuanDiT with a ControlNet."""
    net = model(
        "HunyuanDiT2DControlNetModel",
        sample_size=16,
        transformer_num_layers=4,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        in_channels=4,
        cross_attention_dim=32,
        cross_attention_dim_t5=32,
        pooled_projection_dim=16,
        hidden_size=24,
    )
    return {**hunyuan_dit(), "controlnet": net}


def longcat_image() -> Parts:
    """LongCat-Image: Flux's blocks over Qwen2.5-VL; may rewrite the prompt first."""
    transformer = model(
        "LongCatImageTransformer2DModel",
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 6, 6],
    )
    return {
        **flux(),
        "transformer": transformer,
        "text_encoder": c.qwen_vl(),
        "tokenizer": c.qwen_tokenizer(),
        "text_processor": c.qwen_vl_processor(),
    }


def hunyuan_image() -> Parts:
    """HunyuanImage 2.1: Qwen2.5-VL, ByT5 for text in quotes, guidance as a component."""
    vae = model(
        "AutoencoderKLHunyuanImage",
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        layers_per_block=1,
        block_out_channels=[32, 32, 32, 32],
        spatial_compression_ratio=8,
        sample_size=64,
        scaling_factor=0.75,
    )
    transformer = model(
        "HunyuanImageTransformer2DModel",
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=[1, 1],
        text_embed_dim=32,
        rope_axes_dim=[8, 8],
    )
    return dict(
        vae=vae,
        transformer=transformer,
        text_encoder=c.qwen_vl(layers=3),
        tokenizer=c.qwen_tokenizer(),
        text_encoder_2=c.t5(vocab_size=384),
        tokenizer_2=c.byt5_tokenizer(),
        scheduler=c.flow(shift=5.0),
        guider=guider(),
        ocr_guider=guider(),
    )


def guider() -> Any:
    """Guidance as a component of the pipeline."""
    return scheduler("AdaptiveProjectedMixGuidance", guidance_scale=3.0)


def kandinsky5(conditioned: bool) -> Any:
    """Kandinsky 5 Image: Qwen2.5-VL and CLIP, a video transformer on one frame."""

    def parts() -> Parts:
        return dict(
            transformer=kandinsky5_transformer(conditioned),
            vae=c.flow_vae(),
            text_encoder=c.qwen_vl(),
            tokenizer=c.qwen_vl_processor(),
            text_encoder_2=c.clip_text(),
            tokenizer_2=c.clip_tokenizer(),
            scheduler=c.flow(shift=5.0),
        )

    return parts


def kandinsky5_transformer(conditioned: bool, channels: int = 16) -> Any:
    """Kandinsky5Transformer3DModel; `conditioned` makes room for a picture's latents and a mask."""
    return model(
        "Kandinsky5Transformer3DModel",
        in_visual_dim=channels,
        in_text_dim=32,
        in_text_dim2=32,
        time_dim=32,
        out_visual_dim=channels,
        patch_size=[1, 2, 2],
        model_dim=32,
        ff_dim=64,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=[4, 6, 6],
        visual_cond=conditioned,
    )


ENTRIES: dict[str, Entry] = {
    **entries(
        "stable-diffusion-3",
        sd3,
        "image",
        SMALL,
        ("StableDiffusion3Pipeline", "prompt"),
        ("StableDiffusion3Img2ImgPipeline", "prompt image", HALF),
        ("StableDiffusion3InpaintPipeline", "prompt image mask_image"),
        ("StableDiffusion3PAGPipeline", "prompt"),
        ("StableDiffusion3PAGImg2ImgPipeline", "prompt image", HALF),
    ),
    **entries(
        "stable-diffusion-3",
        sd3_controlnet,
        "image",
        SMALL,
        ("StableDiffusion3ControlNetPipeline", "prompt control_image"),
    ),
    **entries(
        "flux",
        flux,
        "image",
        SMALL,
        ("FluxPipeline", "prompt"),
        ("FluxImg2ImgPipeline", "prompt image", HALF),
        ("FluxInpaintPipeline", "prompt image mask_image"),
        ("FluxKontextPipeline", "prompt image", dict(max_area=64 * 64)),
    ),
    **entries("flux", flux_fill, "image", SMALL, ("FluxFillPipeline", "prompt image mask_image")),
    **entries(
        "flux",
        flux_control,
        "image",
        SMALL,
        ("FluxControlPipeline", "prompt control_image"),
        ("FluxControlImg2ImgPipeline", "prompt image control_image", HALF),
        ("FluxControlInpaintPipeline", "prompt image mask_image control_image"),
    ),
    **entries(
        "flux",
        flux_controlnet,
        "image",
        SMALL,
        ("FluxControlNetPipeline", "prompt control_image"),
        ("FluxControlNetImg2ImgPipeline", "prompt image control_image", HALF),
        ("FluxControlNetInpaintPipeline", "prompt image mask_image control_image"),
    ),
    **entries("flux", redux, "embeds", SMALL, ("FluxPriorReduxPipeline", "prompt image")),
    **entries(
        "chroma", chroma, "image", SMALL, ("ChromaPipeline", "prompt"), ("ChromaImg2ImgPipeline", "prompt image", HALF)
    ),
    **entries("bria", bria, "image", SMALL, ("BriaPipeline", "prompt")),
    **entries("ovis-image", ovis_image, "image", SMALL, ("OvisImagePipeline", "prompt")),
    **entries("flux-2", flux2_klein, "image", SMALL, ("Flux2KleinPipeline", "prompt")),
    **entries(
        "z-image",
        z_image,
        "image",
        SMALL,
        ("ZImagePipeline", "prompt"),
        ("ZImageImg2ImgPipeline", "prompt image", HALF),
        ("ZImageInpaintPipeline", "prompt image mask_image"),
    ),
    **entries(
        "qwen-image",
        qwen_image,
        "image",
        SMALL,
        ("QwenImagePipeline", "prompt"),
        ("QwenImageImg2ImgPipeline", "prompt image", HALF),
        ("QwenImageInpaintPipeline", "prompt image mask_image"),
    ),
    **entries("qwen-image", qwen_controlnet, "image", SMALL, ("QwenImageControlNetPipeline", "prompt control_image")),
    **entries(
        "qwen-image",
        qwen_edit,
        "image",
        SMALL,
        ("QwenImageEditPipeline", "prompt image"),
        ("QwenImageEditPlusPipeline", "prompt image"),
    ),
    **entries("hidream", hidream, "image", SMALL, ("HiDreamImagePipeline", "prompt")),
    **entries(
        "pixart",
        pixart,
        "image",
        dict(SMALL, use_resolution_binning=False),
        ("PixArtAlphaPipeline", "prompt"),
        ("PixArtSigmaPipeline", "prompt"),
        ("PixArtSigmaPAGPipeline", "prompt"),
    ),
    **entries(
        "sana",
        sana,
        "image",
        dict(SMALL, use_resolution_binning=False, complex_human_instruction=None),
        ("SanaPipeline", "prompt"),
        ("SanaPAGPipeline", "prompt"),
    ),
    **entries(
        "sana",
        sana_sprint,
        "image",
        dict(SMALL, use_resolution_binning=False, complex_human_instruction=None),
        ("SanaSprintPipeline", "prompt"),
        ("SanaSprintImg2ImgPipeline", "prompt image"),
    ),
    **entries(
        "sana",
        sana_controlnet,
        "image",
        dict(SMALL, use_resolution_binning=False),
        ("SanaControlNetPipeline", "prompt control_image"),
    ),
    **entries("lumina", lumina, "image", SMALL, ("LuminaPipeline", "prompt")),
    **entries("lumina-2", lumina2, "image", SMALL, ("Lumina2Pipeline", "prompt")),
    **entries("aura-flow", aura_flow, "image", SMALL, ("AuraFlowPipeline", "prompt")),
    **entries(
        "hunyuan-dit",
        hunyuan_dit,
        "image",
        dict(SMALL, use_resolution_binning=False),
        ("HunyuanDiTPipeline", "prompt"),
        ("HunyuanDiTPAGPipeline", "prompt"),
    ),
    **entries("cogview-3", cogview3, "image", dict(SMALL, max_sequence_length=16), ("CogView3PlusPipeline", "prompt")),
    **entries("cogview-4", cogview4, "image", SMALL, ("CogView4Pipeline", "prompt")),
    **entries("cogview-4", lambda: cogview4(8), "image", SMALL, ("CogView4ControlPipeline", "prompt control_image")),
    **entries(
        "hunyuan-dit",
        hunyuan_dit_controlnet,
        "image",
        dict(SMALL, use_resolution_binning=False),
        ("HunyuanDiTControlNetPipeline", "prompt control_image"),
    ),
    **entries(
        "longcat-image",
        longcat_image,
        "image",
        dict(SMALL, enable_prompt_rewrite=False),
        ("LongCatImagePipeline", "prompt"),
    ),
    **entries("hunyuan-image", hunyuan_image, "image", SMALL, ("HunyuanImagePipeline", "prompt")),
    **entries("kandinsky-5", kandinsky5(False), "image", SMALL, ("Kandinsky5T2IPipeline", "prompt")),
    **entries("kandinsky-5", kandinsky5(True), "image", SMALL, ("Kandinsky5I2IPipeline", "prompt image")),
    **entries("flux-2", flux2_klein, "image", SMALL, ("Flux2KleinInpaintPipeline", "prompt image mask_image")),
}
