# SPDX-License-Identifier: MIT
"""Pictures out of the transformers of 2025 and 2026, most of them over a large language model that sees."""

from __future__ import annotations

import functools
from typing import Any

from . import components as c
from .entry import Entry, entries
from .image import SMALL, Parts
from .image_dit import chroma, flux, flux2_klein, flux_transformer
from .kit import model

# ---- encoders
# -------------------------------------------------------------------------------------------------


def qwen3_vl(layers: int = 2, width: int = 32, name: str = "Qwen3VLForConditionalGeneration") -> Any:
    """Qwen3-VL; the rotary sections fill half a head, the vision tower feeds the first layer."""
    text = dict(
        vocab_size=c.VOCABULARY,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 2, 2]},
    )
    vision = dict(
        depth=2,
        hidden_size=width,
        intermediate_size=width,
        num_heads=2,
        out_hidden_size=width,
        patch_size=14,
        num_position_embeddings=16,
        deepstack_visual_indexes=[0],
    )
    return model(
        name,
        text_config=text,
        vision_config=vision,
        image_token_id=c.QWEN_IDS["<|image_pad|>"],
        video_token_id=c.QWEN_IDS["<|video_pad|>"],
        vision_start_token_id=c.QWEN_IDS["<|vision_start|>"],
        vision_end_token_id=c.QWEN_IDS["<|vision_end|>"],
    )


def mistral3(layers: int, name: str = "Mistral3ForConditionalGeneration") -> Any:
    """Mistral 3 with the smallest Pixtral tower; used for its text alone."""
    text = dict(
        model_type="mistral",
        vocab_size=c.VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=8192,
    )
    vision = dict(
        model_type="pixtral",
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    return model(name, text_config=text, vision_config=vision, image_token_index=1003)


@functools.cache
def chat_tokenizer() -> Any:
    """The zoo's Llama tokenizer with a chat template: Flux 2 asks its PixtralProcessor, which cannot be made without
    torchvision, for the template's tokens alone."""
    plain = c.llama_tokenizer()
    tokenizer = plain.__class__(
        vocab=plain._vocab, merges=plain._merges, pad_token="<pad>", model_max_length=8192, add_bos_token=True
    )
    tokenizer.chat_template = c.CHATML
    return tokenizer


@functools.cache
def qwen3_vl_processor() -> Any:
    """Text and pictures to Qwen3-VL's inputs: as Qwen2.5-VL's, see there."""
    import transformers

    if not transformers.utils.is_torchvision_available():
        return c.qwen_vl_processor()
    size = {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
    images, videos = transformers.Qwen2VLImageProcessor(size=size), transformers.Qwen3VLVideoProcessor()
    return transformers.Qwen3VLProcessor(images, c.qwen_tokenizer(), videos, chat_template=c.CHATML)


# ---- Flux
# -------------------------------------------------------------------------------------------------


def flux2() -> Parts:
    """Flux 2 dev: three middle layers of Mistral 3, guidance as an input."""
    parts = flux2_klein()
    transformer = model(
        "Flux2Transformer2DModel",
        in_channels=128,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        timestep_guidance_channels=32,
        axes_dims_rope=[4, 4, 4, 4],
    )
    del parts["is_distilled"]
    return {**parts, "transformer": transformer, "text_encoder": mistral3(30), "tokenizer": chat_tokenizer()}


def kontext() -> Parts:
    """Flux Kontext: the reference's latents beside the noise, in the sequence."""
    return {**flux(), "transformer": flux_transformer()}


# ---- Bria
# -------------------------------------------------------------------------------------------------


def wan_vae(**more: Any) -> Any:
    """AutoencoderKLWan that is sixteen times smaller, as Wan 2.2 and Bria Fibo have it."""
    return model(
        "AutoencoderKLWan",
        **{
            **dict(
                base_dim=4,
                decoder_base_dim=4,
                z_dim=16,
                dim_mult=[1, 1, 2, 2],
                num_res_blocks=1,
                in_channels=12,
                out_channels=12,
                patch_size=2,
                scale_factor_spatial=16,
                temperal_downsample=[False, True, True],
            ),
            **more,
        },
    )


def fibo() -> Parts:
    """Bria Fibo: every layer of SmolLM3, whose first token's number is written in the code."""
    text = model(
        "SmolLM3ForCausalLM",
        vocab_size=128008,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
    )
    transformer = model(
        "BriaFiboTransformer2DModel",
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        text_encoder_dim=8,
        axes_dims_rope=[4, 6, 6],
    )
    return dict(
        transformer=transformer,
        vae=wan_vae(),
        text_encoder=text,
        tokenizer=c.llama_tokenizer(),
        scheduler=c.flow(use_dynamic_shifting=True),
    )


def fibo2() -> Parts:
    """Bria Fibo 2: three layers of Qwen3-VL at a time, of 36, into five places of the transformer."""
    transformer = model(
        "BriaFibo2Transformer2DModel",
        in_channels=32,
        patch_size=2,
        dim=32,
        n_layers=6,
        n_refiner_layers=1,
        n_heads=2,
        cap_feat_dim=48,
        injection_layer_ids=[1, 2, 3, 4, 5],
        perceiver_num_layers=1,
        min_num_gist_tokens=4,
        max_num_gist_tokens=8,
        gist_step=4,
        gist_min_text_len=4,
        gist_max_text_len=8,
        axes_dims=[4, 6, 6],
        axes_lens=[2048, 128, 128],
    )
    return dict(
        transformer=transformer,
        vae=flux2_klein()["vae"],
        text_encoder=qwen3_vl(36, 16),
        processor=qwen3_vl_processor(),
        scheduler=c.flow(use_dynamic_shifting=True),
    )


# ---- HunyuanImage
# -------------------------------------------------------------------------------------------------


def refiner() -> Parts:
    """HunyuanImage's refiner: the picture's latents beside the noise."""
    vae = model(
        "AutoencoderKLHunyuanImageRefiner", latent_channels=4, block_out_channels=[8, 8, 8, 8, 8], layers_per_block=1
    )
    transformer = model(
        "HunyuanImageTransformer2DModel",
        in_channels=16,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=24,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=[1, 1, 1],
        text_embed_dim=32,
        rope_axes_dim=[8, 8, 8],
        guidance_embeds=True,
    )
    return dict(
        vae=vae,
        transformer=transformer,
        text_encoder=c.qwen_vl(layers=3),
        tokenizer=c.qwen_tokenizer(),
        scheduler=c.flow(shift=5.0),
        guider=None,
    )


# ---- others
# -------------------------------------------------------------------------------------------------


def ernie() -> Parts:
    """ERNIE-Image: Mistral 3's last layer but one, packed latents; no model that rewrites prompts."""
    transformer = model(
        "ErnieImageTransformer2DModel",
        hidden_size=32,
        num_attention_heads=2,
        num_layers=1,
        ffn_hidden_size=32,
        in_channels=128,
        out_channels=128,
        text_in_dim=16,
        rope_axes_dim=[4, 6, 6],
    )
    return dict(
        transformer=transformer,
        vae=flux2_klein()["vae"],
        text_encoder=mistral3(2, "Mistral3Model"),
        tokenizer=c.llama_tokenizer(),
        scheduler=c.flow(shift=3.0),
    )


def joy(name: str) -> Any:
    """JoyImage Edit: pictures of a megapixel to Qwen3-VL and to a narrow autoencoder."""

    def parts() -> Parts:
        transformer = model(
            name,
            patch_size=[1, 2, 2],
            in_channels=16,
            hidden_size=32,
            num_attention_heads=2,
            text_dim=32,
            num_layers=1,
            rope_dim_list=[4, 6, 6],
        )
        vae = wan_vae(
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=0,
            in_channels=48,
            out_channels=48,
            patch_size=4,
            scale_factor_spatial=32,
        )
        return dict(
            transformer=transformer,
            vae=vae,
            text_encoder=qwen3_vl(),
            tokenizer=c.qwen_tokenizer(),
            processor=qwen3_vl_processor(),
            scheduler=c.flow(shift=1.5),
        )

    return parts


def krea2() -> Parts:
    """Krea 2: a stack of Qwen3-VL's layers, latents of the video models."""
    transformer = model(
        "Krea2Transformer2DModel",
        in_channels=64,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        timestep_embed_dim=32,
        text_hidden_dim=32,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=32,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=[4, 6, 6],
    )
    return dict(
        transformer=transformer,
        vae=c.causal_vae("AutoencoderKLQwenImage"),
        text_encoder=qwen3_vl(3, name="Qwen3VLModel"),
        tokenizer=c.qwen_tokenizer(),
        text_encoder_select_layers=[1, 2, 3],
        scheduler=c.flow(use_dynamic_shifting=True),
    )


def dreamlite() -> Parts:
    """DreamLite: a small UNet over noise and picture side by side, a tiny autoencoder."""
    unet = model(
        "DreamLiteUNetModel",
        sample_size=8,
        block_out_channels=[16, 32, 32],
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=4,
        addition_embed_type="time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16,
        ff_mult=2,
    )
    vae = model(
        "AutoencoderTiny",
        encoder_block_out_channels=[8] * 4,
        decoder_block_out_channels=[8] * 4,
        num_encoder_blocks=[1] * 4,
        num_decoder_blocks=[1] * 4,
    )
    return dict(
        unet=unet,
        vae=vae,
        text_encoder=qwen3_vl(),
        tokenizer=c.qwen_tokenizer(),
        processor=qwen3_vl_processor(),
        scheduler=c.flow(use_dynamic_shifting=True),
    )


def ideogram4() -> Parts:
    """Ideogram 4: 13 of Qwen3-VL's 36 layers, and a transformer of its own for the guidance's other half."""

    def transformer(depth: int) -> Any:
        return model(
            "Ideogram4Transformer2DModel",
            in_channels=128,
            num_layers=depth,
            attention_head_dim=16,
            num_attention_heads=2,
            intermediate_size=32,
            adaln_dim=16,
            llm_features_dim=13 * 16,
            mrope_section=[4, 2, 2],
        )

    return dict(
        transformer=transformer(2),
        unconditional_transformer=transformer(1),
        vae=flux2_klein()["vae"],
        text_encoder=qwen3_vl(36, 16, "Qwen3VLModel"),
        tokenizer=c.qwen_tokenizer(),
        scheduler=c.flow(),
        prompt_enhancer_head=None,
    )


@functools.cache
def glm_tokenizer() -> Any:
    """The zoo's Llama tokenizer with GLM-Image's markers: a picture's place, begin and end, and those of its size."""
    plain = c.llama_tokenizer()
    markers = dict(image_token="<|image|>", grid_bos_token="<sop>", grid_eos_token="<eop>")
    tokenizer = plain.__class__(
        vocab=plain._vocab,
        merges=plain._merges,
        pad_token="<pad>",
        model_max_length=8192,
        add_bos_token=False,
        extra_special_tokens=markers,
    )
    tokenizer.chat_template = c.CHATML.replace("<|vision_start|><|image_pad|><|vision_end|>", "<s><|image|></s>")
    return tokenizer


def glm_image() -> Parts:
    """GLM-Image: a language model draws tokens of a picture, a transformer the picture of them."""
    import transformers

    tokenizer = glm_tokenizer()
    size = {"shortest_edge": 32 * 32, "longest_edge": 2048 * 2048}
    images = transformers.GlmImageImageProcessorPil(size=size, patch_size=16, merge_size=1, temporal_patch_size=1)
    processor = transformers.GlmImageProcessor(images, tokenizer, chat_template=tokenizer.chat_template)
    text = dict(
        vocab_size=c.VOCABULARY + 8,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vision_vocab_size=40,
        eos_token_id=1000,
        pad_token_id=0,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
    )
    vision = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, image_size=64, patch_size=16)
    seer = model(
        "GlmImageForConditionalGeneration",
        text_config=text,
        vision_config=vision,
        vq_config=dict(embed_dim=8, num_embeddings=32, latent_channels=16),
        image_start_token_id=1,
        image_end_token_id=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image|>"),
    )
    transformer = model(
        "GlmImageTransformer2DModel",
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=16,
        time_embed_dim=16,
        condition_dim=8,
        prior_vq_quantizer_codebook_size=40,
    )
    vae = c.flow_vae(latents_mean=[0.0] * 16, latents_std=[1.0] * 16)
    return dict(
        transformer=transformer,
        vae=vae,
        vision_language_encoder=seer,
        processor=processor,
        text_encoder=c.t5(16, vocab_size=384),
        tokenizer=c.byt5_tokenizer(),
        scheduler=c.flow(use_dynamic_shifting=True),
    )


ENTRIES: dict[str, Entry] = {
    **entries("flux-2", flux2, "image", SMALL, ("Flux2Pipeline", "prompt")),
    **entries("flux-2", flux2_klein, "image", SMALL, ("Flux2KleinKVPipeline", "prompt image")),
    **entries(
        "flux",
        kontext,
        "image",
        SMALL,
        ("FluxKontextInpaintPipeline", "prompt image mask_image", dict(max_area=64 * 64, _auto_resize=False)),
    ),
    **entries("chroma", chroma, "image", SMALL, ("ChromaInpaintPipeline", "prompt image mask_image")),
    **entries(
        "bria-fibo", fibo, "image", SMALL, ("BriaFiboPipeline", "prompt"), ("BriaFiboEditPipeline", "prompt image")
    ),
    **entries("bria-fibo-2", fibo2, "image", SMALL, ("BriaFibo2Pipeline", "prompt")),
    **entries("hunyuan-image", refiner, "image", SMALL, ("HunyuanImageRefinerPipeline", "prompt image")),
    **entries("ernie-image", ernie, "image", SMALL, ("ErnieImagePipeline", "prompt")),
    **entries(
        "joy-image",
        joy("JoyImageEditPlusTransformer3DModel"),
        "image",
        SMALL,
        ("JoyImageEditPlusPipeline", "prompt images"),
    ),
    **entries(
        "joy-image", joy("JoyImageEditTransformer3DModel"), "image", SMALL, ("JoyImageEditPipeline", "prompt image")
    ),
    **entries("krea-2", krea2, "image", SMALL, ("Krea2Pipeline", "prompt")),
    **entries(
        "dreamlite",
        dreamlite,
        "image",
        SMALL,
        ("DreamLitePipeline", "prompt"),
        ("DreamLiteMobilePipeline", "prompt image"),
    ),
    **entries("ideogram-4", ideogram4, "image", SMALL, ("Ideogram4Pipeline", "prompt", dict(max_sequence_length=64))),
    **entries("glm-image", glm_image, "image", SMALL, ("GlmImagePipeline", "prompt image")),
}
