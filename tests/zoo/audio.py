# SPDX-License-Identifier: MIT
"""Sound out: spectrogram diffusion with a vocoder, and waves straight from an autoencoder."""

from __future__ import annotations

from typing import Any

from . import components as c
from .entry import Entry, entries
from .image import Parts
from .kit import model, scheduler

SECONDS = dict(audio_length_in_s=0.5, num_inference_steps=2)


def clap(text_only: bool) -> Any:
    """CLAP: its text half with a projection, or both halves for the families that rank their waves."""
    text = dict(
        vocab_size=c.VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_attention_heads=2,
        num_hidden_layers=2,
        projection_dim=16,
        max_position_embeddings=90,
    )
    if text_only:
        return model("ClapTextModelWithProjection", **text)
    sound = dict(
        spec_size=64,
        window_size=4,
        num_mel_bins=64,
        depths=[1, 1],
        num_attention_heads=[2, 2],
        num_hidden_layers=2,
        hidden_size=32,
        projection_dim=16,
        patch_size=2,
        patch_stride=[2, 2],
        patch_embeds_hidden_size=16,
    )
    return model("ClapModel", text_config=text, audio_config=sound, projection_dim=16)


def mel_vae() -> Any:
    """AutoencoderKL over spectrograms, four times smaller."""
    return c.vae(latents=4, blocks=3, in_channels=1, out_channels=1)


def vocoder() -> Any:
    """SpeechT5HifiGan: 16 mel bands and 100 frames a second to 16 kHz."""
    return model(
        "SpeechT5HifiGan",
        model_in_dim=16,
        sampling_rate=16000,
        upsample_initial_channel=16,
        upsample_rates=[5, 4, 8],
        upsample_kernel_sizes=[9, 8, 16],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3]],
        normalize_before=False,
        initializer_range=0.15,
    )


def audioldm() -> Parts:
    """AudioLDM: CLAP's text embedding as a class of the UNet."""
    unet = c.unet(
        class_embed_type="simple_projection",
        class_embeddings_concat=True,
        cross_attention_dim=[16, 32],
        projection_class_embeddings_input_dim=16,
        attention_head_dim=4,
    )
    return dict(
        vae=mel_vae(),
        text_encoder=clap(True),
        tokenizer=c.roberta_tokenizer(),
        unet=unet,
        scheduler=c.ddim(),
        vocoder=vocoder(),
    )


def audioldm2() -> Parts:
    """AudioLDM 2: CLAP and T5 through a GPT-2 that makes the embeddings that the UNet sees."""
    from transformers import ClapFeatureExtractor

    unet = model(
        "AudioLDM2UNet2DConditionModel",
        block_out_channels=[16, 32],
        layers_per_block=1,
        sample_size=8,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        attention_head_dim=4,
        norm_num_groups=4,
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        cross_attention_dim=[[None, 16, 32]] * 2,
    )
    language = model(
        "GPT2LMHeadModel",
        n_embd=16,
        n_head=2,
        n_layer=2,
        vocab_size=64,
        n_positions=160,
        bos_token_id=0,
        eos_token_id=0,
        max_new_tokens=8,
    )
    bridge = model("AudioLDM2ProjectionModel", text_encoder_dim=16, text_encoder_1_dim=32, langauge_model_dim=16)
    return dict(
        vae=mel_vae(),
        text_encoder=clap(False),
        tokenizer=c.roberta_tokenizer(),
        text_encoder_2=c.t5(),
        tokenizer_2=c.t5_tokenizer(77),
        projection_model=bridge,
        language_model=language,
        unet=unet,
        feature_extractor=ClapFeatureExtractor(hop_length=7900),
        scheduler=c.ddim(),
        vocoder=vocoder(),
    )


def oobleck(channels: int, rate: int, ratios: tuple[int, ...] = (4, 8, 20)) -> Any:
    """AutoencoderOobleck, stereo; a latent frame is the product of `ratios` samples."""
    return model(
        "AutoencoderOobleck",
        encoder_hidden_size=2 * channels,
        downsampling_ratios=list(ratios),
        decoder_channels=8,
        channel_multiples=[1] * len(ratios),
        decoder_input_channels=channels,
        audio_channels=2,
        sampling_rate=rate,
    )


def stable_audio() -> Parts:
    """Stable Audio Open: 16 kHz here, a clip of up to 4 s."""
    transformer = model(
        "StableAudioDiTModel",
        sample_size=100,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_attention_heads=2,
        out_channels=4,
        time_proj_dim=8,
        cross_attention_dim=32,
        global_states_input_dim=64,
        cross_attention_input_dim=32,
    )
    projection = model(
        "StableAudioProjectionModel", text_encoder_dim=32, conditioning_dim=32, min_value=0, max_value=32
    )
    return dict(
        transformer=transformer,
        projection_model=projection,
        vae=oobleck(4, 16000),
        text_encoder=c.t5(),
        tokenizer=c.t5_tokenizer(128),
        scheduler=scheduler("EDMDPMSolverMultistepScheduler", solver_order=2, prediction_type="v_prediction"),
    )


def ace_step() -> Parts:
    """ACE-Step 1.5: lyrics and a caption; 25 latent frames a second."""
    attention = dict(
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=16,
    )
    transformer = model(
        "AceStepTransformer1DModel", num_hidden_layers=2, in_channels=24, audio_acoustic_hidden_dim=8, **attention
    )
    condition = model(
        "AceStepConditionEncoder",
        text_hidden_dim=32,
        timbre_hidden_dim=8,
        num_lyric_encoder_hidden_layers=1,
        num_timbre_encoder_hidden_layers=1,
        **attention,
    )
    return dict(
        transformer=transformer,
        condition_encoder=condition,
        vae=oobleck(8, 16000),
        text_encoder=c.decoder_text("Qwen3Model"),
        tokenizer=c.qwen_tokenizer(),
        scheduler=c.flow(num_train_timesteps=1, shift=1.0),
    )


def dance_diffusion() -> Parts:
    """Dance Diffusion: waves out of a one-dimensional UNet, unconditional."""
    unet = model(
        "UNet1DModel",
        block_out_channels=[32, 32, 64],
        extra_in_channels=64,
        sample_size=2048,
        sample_rate=16000,
        in_channels=2,
        out_channels=2,
        flip_sin_to_cos=True,
        use_timestep_embedding=False,
        time_embedding_type="fourier",
        mid_block_type="UNetMidBlock1D",
    )
    return dict(unet=unet, scheduler=scheduler("IPNDMScheduler"))


def longcat_audio() -> Parts:
    """LongCat AudioDiT: UMT5 text, waves at 16 kHz."""
    vae = model(
        "LongCatAudioDiTVae",
        channels=8,
        c_mults=[1, 2],
        strides=[4, 8],
        latent_dim=8,
        encoder_latent_dim=16,
        downsampling_ratio=32,
        sample_rate=16000,
    )
    transformer = model(
        "LongCatAudioDiTTransformer", dit_dim=32, dit_depth=2, dit_heads=4, dit_text_dim=32, latent_dim=8
    )
    return dict(
        vae=vae,
        text_encoder=c.t5(name="UMT5EncoderModel"),
        tokenizer=c.t5_tokenizer(),
        transformer=transformer,
        scheduler=c.flow(shift=1.0),
    )


def musicldm() -> Parts:
    """MusicLDM: AudioLDM with both halves of CLAP."""
    from transformers import ClapFeatureExtractor

    return {**audioldm(), "text_encoder": clap(False), "feature_extractor": ClapFeatureExtractor(hop_length=7900)}


def stable_audio_3() -> Parts:
    """Stable Audio 3: T5Gemma's text, a transformer autoencoder, 16 kHz here."""
    half = dict(
        vocab_size=c.VOCABULARY,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=256,
        sliding_window=64,
        layer_types=["full_attention"],
    )
    encoder = model("T5GemmaEncoderModel", encoder=half, decoder=half, is_encoder_decoder=False)
    vae = model(
        "AutoencoderSAME",
        audio_channels=2,
        patch_size=8,
        encoder_channels=8,
        encoder_c_mults=[2],
        encoder_strides=[4],
        encoder_transformer_depths=[1],
        latent_dim=8,
        dim_heads=4,
        ff_mult=2,
        use_differential_attention=False,
        sampling_rate=16000,
    )
    transformer = model(
        "StableAudio3DiTModel",
        io_channels=8,
        embed_dim=32,
        depth=1,
        num_heads=4,
        cond_token_dim=32,
        global_cond_dim=32,
        local_add_cond_dim=9,
        ff_mult=2,
        timestep_features_dim=16,
        num_memory_tokens=3,
        use_differential_attention=False,
    )
    return dict(
        transformer=transformer,
        vae=vae,
        text_encoder=encoder,
        tokenizer=c.gemma_tokenizer(64),
        duration_embedder=model("StableAudio3DurationEmbedder", output_dim=32, fourier_dim=16),
        scheduler=c.flow(stochastic_sampling=True),
    )


ENTRIES: dict[str, Entry] = {
    **entries("audioldm", audioldm, "audio", SECONDS, ("AudioLDMPipeline", "prompt")),
    **entries("audioldm2", audioldm2, "audio", dict(SECONDS, max_new_tokens=8), ("AudioLDM2Pipeline", "prompt")),
    **entries(
        "stable-audio",
        stable_audio,
        "audio",
        dict(audio_end_in_s=0.5, num_inference_steps=2),
        ("StableAudioPipeline", "prompt"),
    ),
    **entries(
        "ace-step",
        ace_step,
        "audio",
        dict(audio_duration=0.5, num_inference_steps=2),
        ("AceStepPipeline", "prompt lyrics"),
    ),
    **entries("dance-diffusion", dance_diffusion, "audio", SECONDS, ("DanceDiffusionPipeline", "")),
    **entries(
        "longcat-audio",
        longcat_audio,
        "audio",
        dict(audio_duration_s=0.5, num_inference_steps=2),
        ("LongCatAudioDiTPipeline", "prompt"),
    ),
    **entries("musicldm", musicldm, "audio", SECONDS, ("MusicLDMPipeline", "prompt")),
    **entries(
        "stable-audio-3",
        stable_audio_3,
        "audio",
        dict(duration=0.5, num_inference_steps=2),
        ("StableAudio3Pipeline", "prompt"),
        ("StableAudio3AudioToAudioPipeline", "prompt audio"),
        ("StableAudio3InpaintPipeline", "prompt audio", dict(mask_start_seconds=0.1, mask_end_seconds=0.3)),
    ),
}
