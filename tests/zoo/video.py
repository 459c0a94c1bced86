# SPDX-License-Identifier: MIT
"""Videos out, with sound where the family makes it."""

from __future__ import annotations

from typing import Any

from . import components as c
from .entry import Entry, entries
from .image import Parts, controlnet, sd, sdxl
from .image_dit import kandinsky5_transformer
from .kit import model, scheduler

SHORT = dict(height=32, width=32, num_frames=5, num_inference_steps=2)


# ---- UNets
# -----------------------------------------------------------------------------------------------------


def svd() -> Parts:
    """Stable Video Diffusion: a picture, no text; frames decoded over time. CLIP sees 224 pixels."""
    vae = model(
        "AutoencoderKLTemporalDecoder",
        block_out_channels=[32, 32, 32, 32],
        latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * 4,
        layers_per_block=1,
    )
    unet = model(
        "UNetSpatioTemporalConditionModel",
        block_out_channels=[32],
        sample_size=8,
        in_channels=8,
        out_channels=4,
        layers_per_block=1,
        num_attention_heads=[2],
        cross_attention_dim=32,
        down_block_types=["CrossAttnDownBlockSpatioTemporal"],
        up_block_types=["CrossAttnUpBlockSpatioTemporal"],
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        num_frames=5,
    )
    euler = scheduler(
        "EulerDiscreteScheduler",
        prediction_type="v_prediction",
        use_karras_sigmas=True,
        **c.ddpm_betas(),
        sigma_min=0.002,
        sigma_max=700.0,
        timestep_type="continuous",
    )
    return dict(
        vae=vae,
        unet=unet,
        scheduler=euler,
        image_encoder=c.clip_vision(size=224, patch=56),
        feature_extractor=c.clip_processor(224),
    )


def text_to_video() -> Parts:
    """ModelScope's text to video: Stable Diffusion's parts around a three-dimensional UNet."""
    unet = model(
        "UNet3DConditionModel",
        block_out_channels=[8, 16],
        layers_per_block=1,
        sample_size=4,
        in_channels=4,
        out_channels=4,
        down_block_types=["CrossAttnDownBlock3D", "DownBlock3D"],
        norm_num_groups=4,
        up_block_types=["UpBlock3D", "CrossAttnUpBlock3D"],
        cross_attention_dim=32,
        attention_head_dim=4,
    )
    return {**sd(), "unet": unet}


def zero() -> Parts:
    """Text2Video-Zero on Stable Diffusion: the one class that insists on a safety checker."""
    return {**sd(), "safety_checker": c.safety_checker(), "feature_extractor": c.clip_processor()}


def i2vgen() -> Parts:
    """I2VGen-XL: a picture and a prompt."""
    unet = model(
        "I2VGenXLUNet",
        block_out_channels=[8, 16],
        layers_per_block=1,
        sample_size=4,
        in_channels=4,
        out_channels=4,
        down_block_types=["CrossAttnDownBlock3D", "DownBlock3D"],
        norm_num_groups=4,
        up_block_types=["UpBlock3D", "CrossAttnUpBlock3D"],
        cross_attention_dim=32,
        attention_head_dim=4,
    )
    return {**sd(), "unet": unet, "image_encoder": c.clip_vision(), "feature_extractor": c.clip_processor()}


def motion_adapter(**more: Any) -> Any:
    """MotionAdapter to fit `components.unet()`."""
    return model(
        "MotionAdapter",
        **{
            **dict(
                block_out_channels=[16, 32],
                motion_layers_per_block=1,
                motion_norm_num_groups=4,
                motion_num_attention_heads=2,
            ),
            **more,
        },
    )


def animatediff() -> Parts:
    """AnimateDiff: Stable Diffusion with a motion adapter and, where the class has it, a ControlNet."""
    return {**sd(), "motion_adapter": motion_adapter(), "controlnet": controlnet()}


def animatediff_xl() -> Parts:
    """AnimateDiff for SDXL."""
    return {**sdxl(), "motion_adapter": motion_adapter()}


def sparse_control() -> Parts:
    """AnimateDiff with SparseCtrl: a few frames steer all."""
    net = model(
        "SparseControlNetModel",
        block_out_channels=[16, 32],
        layers_per_block=1,
        cross_attention_dim=32,
        down_block_types=["CrossAttnDownBlockMotion", "DownBlockMotion"],
        attention_head_dim=4,
        norm_num_groups=4,
        motion_num_attention_heads=2,
        conditioning_embedding_out_channels=[8, 8, 8, 16],
    )
    return {**animatediff(), "controlnet": net}


def pia() -> Parts:
    """PIA: a picture brought to life; nine channels in."""
    return {**sd(), "motion_adapter": motion_adapter(conv_in_channels=9)}


# ---- transformers over a T5
# ------------------------------------------------------------------------------------


def wan_transformer(name: str = "WanTransformer3DModel", **more: Any) -> Any:
    """WanTransformer3DModel or a kin of it, 24 wide."""
    return model(
        name,
        **{
            **dict(
                patch_size=[1, 2, 2],
                num_attention_heads=2,
                attention_head_dim=12,
                in_channels=16,
                out_channels=16,
                text_dim=32,
                freq_dim=32,
                ffn_dim=32,
                num_layers=2,
                rope_max_seq_len=64,
            ),
            **more,
        },
    )


def wan() -> Parts:
    """Wan 2.1: UMT5 text, a causal autoencoder (8 in space, 4 in time)."""
    return dict(
        transformer=wan_transformer(),
        vae=c.causal_vae(),
        text_encoder=c.t5(name="UMT5EncoderModel"),
        tokenizer=c.t5_tokenizer(),
        image_encoder=None,
        image_processor=None,
        scheduler=c.flow(
            name="UniPCMultistepScheduler", prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


def wan_image() -> Parts:
    """Wan 2.1 from a picture: its latents and a mask beside the noise, CLIP features in attention."""
    transformer = wan_transformer(in_channels=36, image_dim=32, added_kv_proj_dim=24, pos_embed_seq_len=None)
    return {**wan(), "transformer": transformer, "image_encoder": c.clip_eyes(), "image_processor": c.clip_processor()}


def wan_lucy() -> Parts:
    """Lucy Edit: the video's latents beside the noise."""
    return {**wan(), "transformer": wan_transformer(in_channels=32)}


def wan_vace() -> Parts:
    """Wan VACE: videos, masks and reference pictures through blocks of their own."""
    return {**wan(), "transformer": wan_transformer("WanVACETransformer3DModel", vace_layers=[0], vace_in_channels=96)}


def wan_animate() -> Parts:
    """Wan Animate: a person's picture, moved by videos of a pose and of a face."""
    transformer = wan_transformer(
        "WanAnimateTransformer3DModel",
        in_channels=36,
        latent_channels=16,
        image_dim=32,
        motion_encoder_channel_sizes={"4": 16, "8": 16, "16": 16},
        motion_encoder_size=16,
        motion_style_dim=8,
        motion_dim=4,
        motion_encoder_dim=16,
        face_encoder_num_heads=2,
        face_encoder_hidden_dim=16,
        inject_face_latents_blocks=2,
        added_kv_proj_dim=24,
    )
    return {**wan_image(), "transformer": transformer}


def chrono_edit() -> Parts:
    """ChronoEdit: an edit as a short video from the picture to its edited form."""
    transformer = wan_transformer("ChronoEditTransformer3DModel", in_channels=36, image_dim=32, added_kv_proj_dim=24)
    return {**wan_image(), "transformer": transformer}


def anyflow() -> Parts:
    """AnyFlow: Wan's parts, distilled to any number of steps."""
    transformer = model(
        "AnyFlowTransformer3DModel",
        patch_size=[1, 2, 2],
        num_attention_heads=2,
        text_dim=32,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=64,
    )
    return {**wan(), "transformer": transformer, "scheduler": scheduler("FlowMapEulerDiscreteScheduler")}


def sana_video() -> Parts:
    """Sana Video: Gemma 2, Wan's autoencoder, linear attention."""
    transformer = model(
        "SanaVideoTransformer3DModel",
        in_channels=16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=32,
        sample_size=8,
        patch_size=[1, 2, 2],
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )
    return dict(
        transformer=transformer,
        vae=c.causal_vae(),
        text_encoder=c.decoder_text("Gemma2Model"),
        tokenizer=c.gemma_tokenizer(),
        scheduler=c.flow(shift=3.0),
    )


def skyreels_image() -> Parts:
    """SkyReels V2 from a picture."""
    transformer = wan_transformer("SkyReelsV2Transformer3DModel", in_channels=36, image_dim=32, added_kv_proj_dim=24)
    return {**wan_image(), "transformer": transformer, "image_encoder": c.clip_vision()}


def skyreels() -> Parts:
    """SkyReels V2: Wan's parts and its own transformer."""
    return {**wan(), "transformer": wan_transformer("SkyReelsV2Transformer3DModel")}


def cogvideox_vae() -> Any:
    """AutoencoderKLCogVideoX: 8 in space, 4 in time."""
    return model(
        "AutoencoderKLCogVideoX",
        block_out_channels=[8, 8, 8, 8],
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
        sample_height=32,
        sample_width=32,
    )


def cogvideox(channels: int = 4) -> Parts:
    """CogVideoX; `channels` counts the latents that go in."""
    transformer = model(
        "CogVideoXTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=16,
        out_channels=4,
        in_channels=channels,
        time_embed_dim=8,
        text_embed_dim=32,
        num_layers=1,
        sample_width=4,
        sample_height=4,
        sample_frames=9,
        patch_size=2,
        max_text_seq_length=16,
        use_rotary_positional_embeddings=True,
    )
    return dict(
        transformer=transformer,
        vae=cogvideox_vae(),
        text_encoder=c.t5(),
        tokenizer=c.t5_tokenizer(16),
        scheduler=scheduler("CogVideoXDDIMScheduler"),
    )


def mochi() -> Parts:
    """Mochi: 8 in space, 6 in time."""
    vae = model(
        "AutoencoderKLMochi",
        latent_channels=12,
        out_channels=3,
        encoder_block_out_channels=[32, 32, 32, 32],
        decoder_block_out_channels=[32, 32, 32, 32],
        layers_per_block=[1, 1, 1, 1, 1],
        temporal_expansions=[1, 2, 3],
        spatial_expansions=[2, 2, 2],
    )
    transformer = model(
        "MochiTransformer3DModel",
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=12,
        text_embed_dim=32,
        time_embed_dim=4,
        max_sequence_length=16,
    )
    return dict(
        transformer=transformer,
        vae=vae,
        text_encoder=c.t5(),
        tokenizer=c.t5_tokenizer(),
        scheduler=c.flow(shift=1.0, invert_sigmas=True),
    )


def latte() -> Parts:
    """Latte: frames through a picture autoencoder."""
    transformer = model(
        "LatteTransformer3DModel",
        sample_size=4,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        video_length=16,
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
    )
    return dict(
        transformer=transformer,
        vae=c.vae(),
        text_encoder=c.t5(),
        tokenizer=c.t5_tokenizer(),
        scheduler=scheduler("DDIMScheduler"),
    )


def ltx() -> Parts:
    """LTX-Video: 32 in space, 8 in time."""
    vae = model(
        "AutoencoderKLLTXVideo",
        latent_channels=8,
        block_out_channels=[8, 8, 8, 8],
        decoder_block_out_channels=[8, 8, 8, 8],
        layers_per_block=[1, 1, 1, 1, 1],
        decoder_layers_per_block=[1, 1, 1, 1, 1],
    )
    transformer = model(
        "LTXVideoTransformer3DModel",
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=32,
    )
    return dict(
        transformer=transformer,
        vae=vae,
        text_encoder=c.t5(),
        tokenizer=c.t5_tokenizer(),
        scheduler=c.flow(use_dynamic_shifting=True),
    )


def ltx_condition() -> Parts:
    """LTX-Video 0.9.7: its classes give the noise levels themselves, so no shifting."""
    return {**ltx(), "scheduler": c.flow()}


# ---- transformers over a language model
# ------------------------------------------------------------------------


def hunyuan_vae() -> Any:
    """AutoencoderKLHunyuanVideo: 8 in space, 4 in time."""
    return model(
        "AutoencoderKLHunyuanVideo",
        latent_channels=4,
        block_out_channels=[8, 8, 8, 8],
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=True,
    )


def hunyuan_video(channels: int = 4, **more: Any) -> Parts:
    """HunyuanVideo: Llama's tokens, CLIP's pooled vector."""
    transformer = model(
        "HunyuanVideoTransformer3DModel",
        **{
            **dict(
                in_channels=channels,
                out_channels=4,
                num_attention_heads=2,
                attention_head_dim=12,
                num_layers=1,
                num_single_layers=1,
                num_refiner_layers=1,
                patch_size=2,
                patch_size_t=1,
                text_embed_dim=32,
                pooled_projection_dim=32,
                rope_axes_dim=[2, 4, 6],
            ),
            **more,
        },
    )
    return dict(
        transformer=transformer,
        vae=hunyuan_vae(),
        text_encoder=c.decoder_text("LlamaModel", layers=4),
        tokenizer=c.llama_tokenizer(),
        text_encoder_2=c.clip_text(),
        tokenizer_2=c.clip_tokenizer(),
        scheduler=c.flow(shift=7.0),
    )


def framepack() -> Parts:
    """FramePack: HunyuanVideo section by section, a SigLIP look at the first picture."""
    transformer = model(
        "HunyuanVideoFramepackTransformer3DModel",
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=12,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=2,
        patch_size_t=1,
        text_embed_dim=32,
        pooled_projection_dim=32,
        rope_axes_dim=[2, 4, 6],
        has_image_proj=True,
        image_proj_dim=32,
        has_clean_x_embedder=True,
    )
    return {
        **hunyuan_video(),
        "transformer": transformer,
        "image_encoder": c.siglip_eyes(),
        "feature_extractor": c.siglip_processor(),
    }


def hunyuan_video15(from_image: bool) -> Any:
    """HunyuanVideo 1.5: Qwen2.5-VL and ByT5, an autoencoder 16 times smaller, guidance as a component."""

    def parts() -> Parts:
        vae = model("AutoencoderKLHunyuanVideo15", latent_channels=4, block_out_channels=[8] * 5, layers_per_block=1)
        transformer = model(
            "HunyuanVideo15Transformer3DModel",
            in_channels=9,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=2,
            num_refiner_layers=1,
            text_embed_dim=32,
            text_embed_2_dim=32,
            image_embed_dim=32,
            rope_axes_dim=[4, 6, 6],
            target_size=64,
            task_type="i2v" if from_image else "t2v",
        )
        return dict(
            vae=vae,
            transformer=transformer,
            text_encoder=qwen_text(),
            tokenizer=c.qwen_tokenizer(),
            text_encoder_2=c.t5(vocab_size=384),
            tokenizer_2=c.byt5_tokenizer(),
            scheduler=c.flow(shift=7.0),
            guider=scheduler("ClassifierFreeGuidance"),
            image_encoder=c.siglip_eyes(),
            feature_extractor=c.siglip_processor(),
        )

    return parts


def qwen_text() -> Any:
    """The language half of Qwen2.5-VL."""
    return model(
        "Qwen2_5_VLTextModel",
        vocab_size=c.VOCABULARY,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 2, 2]},
    )


def kandinsky5_video(conditioned: bool) -> Any:
    """Kandinsky 5 Video: Qwen2.5-VL and CLIP, HunyuanVideo's autoencoder."""

    def parts() -> Parts:
        return dict(
            transformer=kandinsky5_transformer(conditioned, 4),
            vae=hunyuan_vae(),
            text_encoder=c.qwen_vl(),
            tokenizer=c.qwen_vl_processor(),
            text_encoder_2=c.clip_text(),
            tokenizer_2=c.clip_tokenizer(),
            scheduler=c.flow(shift=5.0),
        )

    return parts


def ltx2_audio() -> Parts:
    """The sound half of LTX-2: mel latents to a 16 kHz stereo wave."""
    audio_vae = model(
        "AutoencoderKLLTX2Audio",
        base_channels=4,
        output_channels=2,
        ch_mult=[1],
        num_res_blocks=1,
        in_channels=2,
        resolution=32,
        latent_channels=2,
        sample_rate=16000,
        mel_hop_length=160,
        mel_bins=8,
    )
    vocoder = model(
        "LTX2Vocoder",
        in_channels=16,
        hidden_channels=32,
        out_channels=2,
        resnet_kernel_sizes=[3],
        upsample_kernel_sizes=[16, 20, 4],
        upsample_factors=[8, 10, 2],
        output_sampling_rate=16000,
        resnet_dilations=[[1, 3, 5]],
    )
    return dict(audio_vae=audio_vae, vocoder=vocoder)


def ltx2() -> Parts:
    """LTX-2: one transformer for video and sound over all of Gemma's layers."""
    vae = model(
        "AutoencoderKLLTX2Video",
        latent_channels=4,
        block_out_channels=[8, 8, 8, 8],
        patch_size=4,
        decoder_block_out_channels=[8, 16, 32],
        layers_per_block=[1, 1, 1, 1, 1],
        decoder_layers_per_block=[1, 1, 1, 1],
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )
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
        rope_double_precision=False,
        rope_type="split",
    )
    head = dict(num_attention_heads=4, attention_head_dim=8, num_layers=1, num_learnable_registers=None)
    sizes = {f"{kind}_connector_{key}": value for kind in ("video", "audio") for key, value in head.items()}
    connectors = model(
        "LTX2TextConnectors",
        caption_channels=32,
        text_proj_in_factor=3,
        rope_type="split",
        connector_rope_base_seq_len=32,
        rope_double_precision=False,
        **sizes,
    )
    return dict(
        transformer=transformer,
        vae=vae,
        text_encoder=c.gemma3(),
        tokenizer=c.gemma_tokenizer(1024),
        connectors=connectors,
        scheduler=c.flow(use_dynamic_shifting=True),
        **ltx2_audio(),
    )


ENTRIES: dict[str, Entry] = {
    **entries(
        "stable-video-diffusion",
        svd,
        "video",
        dict(SHORT, decode_chunk_size=5),
        ("StableVideoDiffusionPipeline", "image"),
    ),
    **entries(
        "text-to-video",
        text_to_video,
        "video",
        SHORT,
        ("TextToVideoSDPipeline", "prompt"),
        ("VideoToVideoSDPipeline", "prompt video"),
    ),
    **entries(
        "text-to-video-zero",
        zero,
        "video",
        dict(SHORT, video_length=5, t0=0, t1=1),
        ("TextToVideoZeroPipeline", "prompt"),
    ),
    **entries("i2vgen-xl", i2vgen, "video", SHORT, ("I2VGenXLPipeline", "prompt image", dict(clip_skip=None))),
    **entries(
        "animatediff",
        animatediff,
        "video",
        SHORT,
        ("AnimateDiffPipeline", "prompt"),
        ("AnimateDiffPAGPipeline", "prompt"),
        ("AnimateDiffControlNetPipeline", "prompt conditioning_frames", dict(num_frames=9)),
        ("AnimateDiffVideoToVideoPipeline", "prompt video"),
        ("AnimateDiffVideoToVideoControlNetPipeline", "prompt video conditioning_frames"),
    ),
    **entries("animatediff-xl", animatediff_xl, "video", SHORT, ("AnimateDiffSDXLPipeline", "prompt")),
    **entries(
        "sparse-control",
        sparse_control,
        "video",
        SHORT,
        ("AnimateDiffSparseControlNetPipeline", "prompt conditioning_frames", dict(controlnet_frame_indices=[0])),
    ),
    **entries("pia", pia, "video", SHORT, ("PIAPipeline", "prompt image")),
    **entries("wan", wan, "video", SHORT, ("WanPipeline", "prompt"), ("WanVideoToVideoPipeline", "prompt video")),
    **entries("wan", wan_image, "video", SHORT, ("WanImageToVideoPipeline", "prompt image")),
    **entries("wan", wan_vace, "video", SHORT, ("WanVACEPipeline", "prompt")),
    **entries("lucy", wan_lucy, "video", SHORT, ("LucyEditPipeline", "prompt video")),
    **entries("skyreels-v2", skyreels, "video", SHORT, ("SkyReelsV2Pipeline", "prompt")),
    **entries(
        "cogvideox",
        cogvideox,
        "video",
        SHORT,
        ("CogVideoXPipeline", "prompt"),
        ("CogVideoXVideoToVideoPipeline", "prompt video"),
    ),
    **entries(
        "cogvideox",
        lambda: cogvideox(8),
        "video",
        SHORT,
        ("CogVideoXImageToVideoPipeline", "prompt image"),
        ("CogVideoXFunControlPipeline", "prompt control_video"),
    ),
    **entries("mochi", mochi, "video", dict(SHORT, num_frames=7, max_sequence_length=16), ("MochiPipeline", "prompt")),
    **entries("latte", latte, "video", dict(SHORT, video_length=16), ("LattePipeline", "prompt")),
    **entries(
        "ltx-video",
        ltx,
        "video",
        dict(SHORT, num_frames=9),
        ("LTXPipeline", "prompt"),
        ("LTXImageToVideoPipeline", "prompt image"),
    ),
    **entries("ltx-video", ltx_condition, "video", dict(SHORT, num_frames=9), ("LTXConditionPipeline", "prompt image")),
    **entries(
        "ltx-2",
        ltx2,
        "video+audio",
        dict(SHORT, num_frames=9, height=64, width=64),
        ("LTX2Pipeline", "prompt"),
        ("LTX2ImageToVideoPipeline", "prompt image"),
    ),
    **entries("hunyuan-video", hunyuan_video, "video", SHORT, ("HunyuanVideoPipeline", "prompt")),
    **entries(
        "hunyuan-video",
        lambda: hunyuan_video(8),
        "video",
        SHORT,
        ("HunyuanSkyreelsImageToVideoPipeline", "prompt image"),
    ),
    **entries(
        "wan",
        wan_animate,
        "video",
        dict(SHORT, segment_frame_length=9, height=64, width=64),
        ("WanAnimatePipeline", "prompt image pose_video face_video"),
    ),
    **entries("chrono-edit", chrono_edit, "video", SHORT, ("ChronoEditPipeline", "prompt image")),
    **entries("anyflow", anyflow, "video", SHORT, ("AnyFlowPipeline", "prompt")),
    **entries(
        "sana-video",
        sana_video,
        "video",
        dict(SHORT, frames=5, use_resolution_binning=False, complex_human_instruction=[]),
        ("SanaVideoPipeline", "prompt"),
        ("SanaImageToVideoPipeline", "prompt image"),
    ),
    **entries("skyreels-v2", skyreels_image, "video", SHORT, ("SkyReelsV2ImageToVideoPipeline", "prompt image")),
    **entries(
        "skyreels-v2",
        skyreels,
        "video",
        dict(SHORT, num_frames=9, base_num_frames=9),
        ("SkyReelsV2DiffusionForcingPipeline", "prompt"),
        ("SkyReelsV2DiffusionForcingImageToVideoPipeline", "prompt image"),
    ),
    **entries(
        "hunyuan-video",
        framepack,
        "video",
        dict(SHORT, latent_window_size=3),
        ("HunyuanVideoFramepackPipeline", "prompt image"),
    ),
    **entries("hunyuan-video-1.5", hunyuan_video15(False), "video", SHORT, ("HunyuanVideo15Pipeline", "prompt")),
    **entries(
        "hunyuan-video-1.5",
        hunyuan_video15(True),
        "video",
        SHORT,
        ("HunyuanVideo15ImageToVideoPipeline", "prompt image"),
    ),
    **entries("kandinsky-5", kandinsky5_video(False), "video", SHORT, ("Kandinsky5T2VPipeline", "prompt")),
    **entries(
        "kandinsky-5",
        kandinsky5_video(True),
        "video",
        dict(SHORT, num_frames=21),
        ("Kandinsky5I2VPipeline", "prompt image"),
    ),
}
