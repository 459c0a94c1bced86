# SPDX-License-Identifier: MIT
"""Videos out of the newer transformers, of pipelines that work on latents or clips, and some of older families."""

from __future__ import annotations

import functools
from typing import Any

from . import components as c
from .entry import Entry, entries
from .image import Parts, sdxl
from .kit import model, scheduler
from .video import SHORT, anyflow, cogvideox, hunyuan_vae, hunyuan_video, ltx, ltx2, skyreels

LONG = dict(SHORT, num_frames=9)
LARGE = dict(LONG, height=64, width=64)


def anyflow_far() -> Parts:
    """AnyFlow FAR: frames in chunks, each after the last; three latent frames here."""
    transformer = model(
        "AnyFlowFARTransformer3DModel",
        patch_size=[1, 2, 2],
        compressed_patch_size=[1, 4, 4],
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=64,
        chunk_partition=[1, 2],
    )
    return {**anyflow(), "transformer": transformer}


def allegro() -> Parts:
    """Allegro: 8 in space, 4 in time, T5; its autoencoder decodes whole tiles of 24 x 128 x 128 alone."""
    vae = model(
        "AutoencoderKLAllegro",
        block_out_channels=[2, 2, 2, 2],
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=1,
        sample_size=128,
    )
    transformer = model(
        "AllegroTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        cross_attention_dim=24,
        sample_width=16,
        sample_height=16,
        sample_frames=6,
        caption_channels=32,
    )
    return dict(
        vae=vae,
        transformer=transformer,
        text_encoder=c.t5(),
        tokenizer=c.t5_tokenizer(),
        scheduler=scheduler("DDIMScheduler"),
    )


def consisid() -> Parts:
    """ConsisID without its face half, whose embeddings are of other models' making."""
    transformer = model(
        "ConsisIDTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=8,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=32,
        num_layers=1,
        sample_width=4,
        sample_height=4,
        sample_frames=9,
        patch_size=2,
        max_text_seq_length=16,
        use_rotary_positional_embeddings=True,
    )
    return {**cogvideox(8), "transformer": transformer, "scheduler": scheduler("CogVideoXDPMScheduler")}


def cosmos_transformer(channels: int, latents: int = 16, **more: Any) -> Any:
    """CosmosTransformer3DModel without the padding mask, for which it needs torchvision."""
    return model(
        "CosmosTransformer3DModel",
        **{
            **dict(
                in_channels=channels,
                out_channels=latents,
                num_attention_heads=2,
                attention_head_dim=16,
                num_layers=1,
                mlp_ratio=2,
                text_embed_dim=32,
                adaln_lora_dim=4,
                max_size=[8, 32, 32],
                patch_size=[1, 2, 2],
                concat_padding_mask=False,
            ),
            **more,
        },
    )


def cosmos(channels: int) -> Any:
    """Cosmos 1: T5, an autoencoder of its own; a channel more tells frames that are given."""

    def parts() -> Parts:
        vae = model(
            "AutoencoderKLCosmos",
            latent_channels=4,
            encoder_block_out_channels=[8, 8, 8, 8],
            decode_block_out_channels=[8, 8, 8, 8],
            attention_resolutions=[8],
            resolution=64,
            num_layers=1,
            patch_size=4,
            scaling_factor=1.0,
            spatial_compression_ratio=4,
            temporal_compression_ratio=4,
        )
        euler = scheduler(
            "EDMEulerScheduler",
            sigma_min=0.002,
            sigma_max=80,
            sigma_data=0.5,
            prediction_type="epsilon",
            final_sigmas_type="sigma_min",
        )
        return dict(
            transformer=cosmos_transformer(channels, 4),
            vae=vae,
            scheduler=euler,
            text_encoder=c.t5(),
            tokenizer=c.t5_tokenizer(),
        )

    return parts


def cosmos2(channels: int) -> Any:
    """Cosmos Predict 2: Wan's autoencoder."""
    return lambda: dict(
        transformer=cosmos_transformer(channels),
        vae=c.causal_vae(),
        text_encoder=c.t5(),
        tokenizer=c.t5_tokenizer(),
        scheduler=c.flow(use_karras_sigmas=True),
    )


def _flow_unipc() -> Any:
    return scheduler("UniPCMultistepScheduler", prediction_type="flow_prediction", use_flow_sigmas=True)


def cosmos25() -> Parts:
    """Cosmos Predict 2.5: all hidden states of Qwen2.5-VL, one beside the other."""
    return dict(
        transformer=cosmos_transformer(17, text_embed_dim=64),
        vae=c.causal_vae(),
        text_encoder=c.qwen_vl(),
        tokenizer=c.qwen_tokenizer(),
        scheduler=_flow_unipc(),
    )


def cosmos3() -> Parts:
    """Cosmos 3: one transformer for text and frames, the guard switched off in its config."""
    transformer = model(
        "Cosmos3OmniTransformer",
        head_dim=12,
        hidden_size=24,
        intermediate_size=24,
        latent_channel=16,
        num_attention_heads=2,
        num_hidden_layers=1,
        num_key_value_heads=2,
        patch_latent_dim=64,
        rope_axes_dim=[2, 2, 2],
        vocab_size=c.VOCABULARY,
    )
    return dict(
        transformer=transformer,
        text_tokenizer=c.qwen_tokenizer(),
        vae=c.causal_vae(),
        scheduler=_flow_unipc(),
        enable_safety_checker=False,
    )


def easyanimate(channels: int) -> Any:
    """EasyAnimate: Qwen2-VL's text; `channels` counts the latents, and the mask's, that go in."""

    def parts() -> Parts:
        vae = model(
            "AutoencoderKLMagvit",
            latent_channels=4,
            block_out_channels=[8, 8, 8, 8],
            layers_per_block=1,
            norm_num_groups=4,
        )
        vae.register_to_config(cache_mag_vae=True)  # of the published configs; the class has no such argument
        transformer = model(
            "EasyAnimateTransformer3DModel",
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=channels,
            out_channels=4,
            patch_size=2,
            sample_width=8,
            sample_height=8,
            num_layers=1,
            mmdit_layers=1,
            time_embed_dim=8,
            text_embed_dim=32,
            add_norm_text_encoder=True,
            norm_eps=1e-5,
        )
        text = dict(
            vocab_size=c.VOCABULARY,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        )
        vision = dict(depth=1, embed_dim=32, hidden_size=32, num_heads=2, patch_size=14)
        encoder = model("Qwen2VLForConditionalGeneration", text_config=text, vision_config=vision)
        return dict(
            vae=vae, transformer=transformer, text_encoder=encoder, tokenizer=c.qwen_tokenizer(), scheduler=c.flow()
        )

    return parts


def helios(stages: int) -> Any:
    """Helios: chunks of nine latent frames after a history; in `stages` sizes."""

    def parts() -> Parts:
        transformer = model(
            "HeliosTransformer3DModel",
            num_attention_heads=2,
            attention_head_dim=12,
            text_dim=32,
            freq_dim=32,
            ffn_dim=32,
            num_layers=1,
            rope_dim=[4, 4, 4],
        )
        staged = dict(stages=1, stage_range=[0, 1]) if stages == 1 else {}
        return dict(
            transformer=transformer,
            vae=c.causal_vae(),
            text_encoder=c.t5(name="UMT5EncoderModel"),
            tokenizer=c.t5_tokenizer(),
            scheduler=scheduler("HeliosScheduler", use_dynamic_shifting=True, **staged),
        )

    return parts


@functools.cache
def picture_tokenizer() -> Any:
    """LlamaTokenizer that knows a picture's place in a prompt."""
    from transformers import LlamaTokenizerFast

    own = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>")
    vocabulary, merges = c._pieces("<pad>", "<s>", "</s>", "<unk>", *own)
    return LlamaTokenizerFast(
        vocab=vocabulary,
        merges=merges,
        pad_token="<pad>",
        model_max_length=8192,
        add_bos_token=True,
        additional_special_tokens=list(own),
    )


def hunyuan_image() -> Parts:
    """HunyuanVideo from a picture, which Llava sees as 576 tokens and the first latent frame holds."""
    text = dict(
        model_type="llama",
        vocab_size=c.VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=8192,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    vision = dict(
        model_type="clip_vision_model",
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=336,
        patch_size=14,
        projection_dim=16,
    )
    tokenizer = picture_tokenizer()
    encoder = model(
        "LlavaForConditionalGeneration",
        text_config=text,
        vision_config=vision,
        pad_token_id=0,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="default",
    )
    return {
        **hunyuan_video(image_condition_type="token_replace"),
        "text_encoder": encoder,
        "tokenizer": tokenizer,
        "image_processor": c.clip_processor(336),
    }


def kandinsky6() -> Parts:
    """Kandinsky 6: Kandinsky 5's parts, and sound of 16 kHz by MMAudio's decoder and vocoder."""
    transformer = model(
        "Kandinsky6Transformer3DModel",
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=32,
        in_text_dim2=32,
        time_dim=16,
        patch_size=[1, 2, 2],
        model_dim=12,
        ff_dim=24,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=[2, 1, 1],
        visual_cond=True,
        in_audio_dim=4,
        out_audio_dim=4,
        visual_token_type_num_embeddings=2,
    )
    audio = model(
        "MMAudioVAE",
        mel_bins=8,
        latent_channels=4,
        hidden_channels=8,
        channel_multipliers=[1, 2],
        layers_per_block=1,
        sample_rate=16000,
        n_fft=512,
        hop_length=400,
    )
    vocoder = model(
        "MMAudioVocoder",
        num_mels=8,
        upsample_initial_channel=16,
        upsample_rates=[10, 8, 5],
        upsample_kernel_sizes=[20, 16, 10],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3]],
    )
    return dict(
        transformer=transformer,
        vae=hunyuan_vae(),
        text_encoder=c.qwen_vl(),
        tokenizer=c.qwen_vl_processor(),
        text_encoder_2=c.clip_text(),
        tokenizer_2=c.clip_tokenizer(),
        scheduler=c.flow(shift=7.0),
        audio_vae=audio,
        vocoder=vocoder,
    )


def kandinsky6_upscaler() -> Parts:
    """Kandinsky 6's super-resolution: tiles of a video, upscaled as latents and refined."""
    transformer = model(
        "Kandinsky6SRTransformer3DModel",
        in_visual_dim=4,
        out_visual_dim=4,
        time_dim=16,
        patch_size=[1, 1, 1],
        model_dim=24,
        ff_dim=32,
        num_visual_blocks=1,
        axes_dims=[4, 4, 4],
        tile_sizes=[[32, 32], [32, 64], [64, 32], [64, 64]],
    )
    vae = model(
        "Kandinsky6SRVAE",
        latent_channels=4,
        encoder_block_out_channels=[4, 8, 8],
        decoder_block_out_channels=[4, 8, 8],
        layers_per_block=1,
        temporal_compression_ratio=4,
        temporal_compression_start_level=0,
    )
    upscaler = model(
        "Kandinsky6SRLatentUpscalerBank",
        in_channels=4,
        stage_channels=[8, 8, 4],
        scales=[2],
        num_pre_blocks=1,
        num_mid_blocks=1,
        num_post_blocks=1,
        num_x2_adapter_blocks=1,
    )
    return dict(transformer=transformer, vae=vae, scheduler=c.flow(shift=3.5), latent_upscaler=upscaler)


def ltx_upsampler() -> Parts:
    """LTX-Video's upsampler of latents to twice the size."""
    upsampler = model("LTXLatentUpsamplerModel", in_channels=8, mid_channels=32, num_blocks_per_stage=1)
    return {**ltx(), "latent_upsampler": upsampler}


def ltx_long() -> Parts:
    """LTX-Video over windows of a long video."""
    return {**ltx(), "scheduler": scheduler("LTXEulerAncestralRFScheduler")}


def ltx2_upsampler(**more: Any) -> Any:
    """LTX-2's upsampler of latents, to twice the size unless told otherwise."""
    return model("LTX2LatentUpsamplerModel", in_channels=4, mid_channels=32, num_blocks_per_stage=1, **more)


def ltx2_keyframes() -> Parts:
    """LTX-2.5, whose transformer knows keyframes."""
    transformer = model(
        "LTX2VideoTransformer3DModel",
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=2,
        caption_channels=32,
        rope_type="split",
        rope_double_precision=False,
        use_keyframes_abs_pos_embedding=True,
    )
    return {**ltx2(), "transformer": transformer, "scheduler": c.flow()}


def motif() -> Parts:
    """Motif-Video: T5Gemma 2 for text and picture, guidance as a component."""
    text = dict(
        vocab_size=c.VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        dropout_rate=0.0,
    )
    vision = dict(
        hidden_size=4, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    encoder = model("T5Gemma2Encoder", text_config=text, vision_config=vision)
    transformer = model(
        "MotifVideoTransformer3DModel",
        in_channels=33,
        out_channels=16,
        patch_size=1,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_single_layers=1,
        patch_size_t=1,
        text_embed_dim=32,
        image_embed_dim=4,
        rope_axes_dim=[4, 4, 4],
    )
    return dict(
        transformer=transformer,
        vae=c.causal_vae(),
        text_encoder=encoder,
        tokenizer=c.t5_tokenizer(),
        scheduler=c.flow(shift=7.0),
        guider=scheduler("AdaptiveProjectedGuidance"),
        feature_extractor=c.siglip_processor(),
    )


def sana_world() -> Parts:
    """Sana-WM: a picture and a camera's path through it."""
    transformer = model(
        "SanaWMTransformer3DModel",
        in_channels=4,
        num_layers=2,
        hidden_size=32,
        num_attention_heads=2,
        linear_head_dim=16,
        softmax_every_n=2,
        caption_channels=32,
        chunk_plucker_post_attn_blocks=2,
    )
    return dict(
        transformer=transformer,
        vae=ltx2()["vae"],
        text_encoder=c.decoder_text("Gemma2Model"),
        tokenizer=c.gemma_tokenizer(),
        scheduler=c.flow(shift=3.0),
    )


_STEPS = dict(num_inference_steps=2)

ENTRIES: dict[str, Entry] = {
    **entries(
        "skyreels-v2",
        skyreels,
        "video",
        dict(LONG, base_num_frames=9, overlap_history=5),
        ("SkyReelsV2DiffusionForcingVideoToVideoPipeline", "prompt video"),
    ),
    **entries("anyflow", anyflow_far, "video", LONG, ("AnyFlowFARPipeline", "prompt")),
    **entries(
        "allegro",
        allegro,
        "video",
        dict(height=128, width=128, num_frames=24, num_inference_steps=1),
        ("AllegroPipeline", "prompt"),
    ),
    **entries("consisid", consisid, "video", LONG, ("ConsisIDPipeline", "prompt image")),
    **entries("cosmos", cosmos(4), "video", LONG, ("CosmosTextToWorldPipeline", "prompt")),
    **entries("cosmos", cosmos(5), "video", LONG, ("CosmosVideoToWorldPipeline", "prompt image")),
    **entries("cosmos-2", cosmos2(16), "image", SHORT, ("Cosmos2TextToImagePipeline", "prompt")),
    **entries("cosmos-2", cosmos2(17), "video", SHORT, ("Cosmos2VideoToWorldPipeline", "prompt image")),
    **entries("cosmos-2.5", cosmos25, "video", SHORT, ("Cosmos2_5_PredictBasePipeline", "prompt")),
    **entries("cosmos-3", cosmos3, "video", SHORT, ("Cosmos3OmniPipeline", "prompt")),
    **entries("easyanimate", easyanimate(4), "video", SHORT, ("EasyAnimatePipeline", "prompt")),
    **entries("easyanimate", easyanimate(9), "video", SHORT, ("EasyAnimateInpaintPipeline", "prompt")),
    **entries("helios", helios(1), "video", dict(SHORT, num_frames=33), ("HeliosPipeline", "prompt")),
    **entries(
        "helios",
        helios(3),
        "video",
        dict(height=64, width=64, num_frames=33, pyramid_num_inference_steps_list=[1, 1, 1]),
        ("HeliosPyramidPipeline", "prompt"),
    ),
    **entries("hunyuan-video", hunyuan_image, "video", SHORT, ("HunyuanVideoImageToVideoPipeline", "prompt image")),
    **entries("kandinsky-6", kandinsky6, "video+audio", LONG, ("Kandinsky6TI2VAPipeline", "prompt image")),
    **entries(
        "kandinsky-6", kandinsky6_upscaler, "video", dict(_STEPS, resolution_scale=2), ("Kandinsky6SRPipeline", "video")
    ),
    **entries("ltx-video", ltx_upsampler, "video", {}, ("LTXLatentUpsamplePipeline", "video")),
    **entries(
        "ltx-video",
        ltx_long,
        "video",
        dict(LARGE, decode_horizontal_tiles=1, decode_vertical_tiles=1),
        ("LTXI2VLongMultiPromptPipeline", "prompt cond_image"),
    ),
    **entries(
        "ltx-2", ltx2, "video+audio", LARGE, ("LTX2ConditionPipeline", "prompt"), ("LTX2InContextPipeline", "prompt")
    ),
    **entries("ltx-2", ltx2, "video", LARGE, ("LTX2HDRPipeline", "prompt")),
    **entries("ltx-2", ltx2_keyframes, "video+audio", LARGE, ("LTX2DFRPipeline", "prompt")),
    **entries(
        "ltx-2",
        lambda: {**ltx2(), "latent_upsampler": ltx2_upsampler()},
        "video",
        {},
        ("LTX2LatentUpsamplePipeline", "video"),
    ),
    **entries(
        "motif-video",
        motif,
        "video",
        SHORT,
        ("MotifVideoPipeline", "prompt"),
        ("MotifVideoImage2VideoPipeline", "prompt image"),
    ),
    **entries(
        "sana-wm",
        sana_world,
        "video",
        dict(LARGE, action="w-8", intrinsics=[40.0, 40.0, 32.0, 32.0]),
        ("SanaWMPipeline", "prompt image"),
    ),
    **entries(
        "text-to-video-zero",
        sdxl,
        "video",
        dict(SHORT, video_length=5, t0=0, t1=1),
        ("TextToVideoZeroSDXLPipeline", "prompt"),
    ),
}
