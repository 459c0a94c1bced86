# SPDX-License-Identifier: MIT
"""Pictures made in stages: priors and decoders, pixels enlarged step by step, and discrete tokens."""

from __future__ import annotations

from typing import Any

from . import components as c
from .entry import Entry, entries
from .image import SMALL, Parts
from .kit import model, scheduler

TWICE = dict(SMALL, prior_num_inference_steps=2)
WIDER = dict(TWICE, height=128, width=128)  # three cells of 42.67 pixels: the smallest even latents


# ---- Kandinsky
# -------------------------------------------------------------------------------------------------


def kandinsky_unet(**more: Any) -> Any:
    """UNet2DConditionModel of Kandinsky 2.2: a picture embedding in, variance learned."""
    return c.unet(
        **{
            **dict(
                out_channels=8,
                addition_embed_type="image",
                encoder_hid_dim=32,
                encoder_hid_dim_type="image_proj",
                down_block_types=["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
                attention_head_dim=4,
                up_block_types=["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
                mid_block_type="UNetMidBlock2DSimpleCrossAttn",
                resnet_time_scale_shift="scale_shift",
            ),
            **more,
        }
    )


def movq(blocks: int = 3) -> Any:
    """VQModel of the Kandinsky kind: spatial norms have 32 groups, so 32 channels; four times smaller."""
    return model(
        "VQModel",
        block_out_channels=[32] * blocks,
        latent_channels=4,
        num_vq_embeddings=12,
        norm_num_groups=8,
        norm_type="spatial",
        vq_embed_dim=4,
        layers_per_block=1,
        in_channels=3,
        down_block_types=["DownEncoderBlock2D"] * (blocks - 1) + ["AttnDownEncoderBlock2D"],
        up_block_types=["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * (blocks - 1),
    )


def kandinsky_prior() -> Parts:
    """The prior of Kandinsky 2: a CLIP picture embedding out of a text."""
    unclip = scheduler(
        "UnCLIPScheduler",
        variance_type="fixed_small_log",
        prediction_type="sample",
        clip_sample=True,
        clip_sample_range=10.0,
        num_train_timesteps=1000,
    )
    return dict(
        prior=c.prior(),
        image_encoder=c.clip_vision(),
        text_encoder=c.clip_text(projected=True),
        tokenizer=c.clip_tokenizer(),
        scheduler=unclip,
        image_processor=c.clip_processor(),
    )


def kandinsky_decoder(**unet: Any) -> Parts:
    """The decoder of Kandinsky 2.2: pixels out of a picture embedding."""
    ddpm = scheduler("DDPMScheduler", beta_schedule="linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)
    return dict(unet=kandinsky_unet(**unet), scheduler=ddpm, movq=movq())


def kandinsky_combined() -> Parts:
    """Prior and decoder in one; the prior's parts by the names that the combined classes give them."""
    return {**kandinsky_decoder(), **{f"prior_{key}": part for key, part in kandinsky_prior().items()}}


def kandinsky_inpaint() -> Parts:
    """The inpainting decoder takes nine channels."""
    return {**kandinsky_combined(), "unet": kandinsky_unet(in_channels=9)}


def kandinsky_hint() -> Parts:
    """The depth-guided decoder takes a hint, eight channels, and works at an eighth of the size."""
    return {**kandinsky_decoder(in_channels=8, addition_embed_type="image_hint"), "movq": movq(4)}


def kandinsky21(**unet: Any) -> Parts:
    """Kandinsky 2.1: the text once more beside the picture embedding, by a multilingual CLIP; prior and decoder."""
    text = model(
        "MultilingualCLIP",
        transformerDimSize=32,
        imageDimSize=32,
        vocab_size=c.VOCABULARY,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        pad_token_id=1,
    )
    decoder = kandinsky_unet(addition_embed_type="text_image", encoder_hid_dim_type="text_image_proj", **unet)
    ddim = scheduler(
        "DDIMScheduler",
        beta_schedule="linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
        thresholding=False,
    )
    return {
        **kandinsky_combined(),
        "unet": decoder,
        "scheduler": ddim,
        "text_encoder": text,
        "tokenizer": c.xlm_roberta_tokenizer(),
    }


def kandinsky3() -> Parts:
    """Kandinsky 3: T5 straight into a UNet, no prior."""
    unet = model(
        "Kandinsky3UNet",
        in_channels=4,
        time_embedding_dim=4,
        groups=2,
        attention_head_dim=4,
        layers_per_block=3,
        block_out_channels=[8, 16],
        cross_attention_dim=4,
        encoder_hid_dim=32,
    )
    ddpm = scheduler("DDPMScheduler", beta_start=0.00085, beta_end=0.02, beta_schedule="squaredcos_cap_v2")
    return dict(unet=unet, scheduler=ddpm, movq=movq(4), text_encoder=c.t5(), tokenizer=c.t5_tokenizer(128))


# ---- DeepFloyd IF
# ----------------------------------------------------------------------------------------------


def floyd_unet(**more: Any) -> Any:
    """UNet2DConditionModel of DeepFloyd IF: pixels, T5 pooled beside the tokens, variance learned."""
    return c.unet(
        **{
            **dict(
                sample_size=32,
                block_out_channels=[8, 16],
                in_channels=3,
                out_channels=6,
                encoder_hid_dim=32,
                down_block_types=["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
                act_fn="gelu",
                up_block_types=["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
                addition_embed_type="text",
                mid_block_type="UNetMidBlock2DSimpleCrossAttn",
                addition_embed_type_num_heads=2,
                cross_attention_norm="group_norm",
                resnet_time_scale_shift="scale_shift",
                attention_head_dim=4,
            ),
            **more,
        }
    )


def floyd(super_resolution: bool = False) -> Any:
    """DeepFloyd IF: the first stage, or one that enlarges (the small picture beside the noise)."""

    def parts() -> Parts:
        ddpm = scheduler(
            "DDPMScheduler",
            beta_schedule="squaredcos_cap_v2",
            thresholding=True,
            sample_max_value=1.0,
            dynamic_thresholding_ratio=0.95,
            variance_type="learned_range",
        )
        noising = scheduler("DDPMScheduler", beta_schedule="squaredcos_cap_v2")
        unet = floyd_unet(in_channels=6, class_embed_type="timestep") if super_resolution else floyd_unet()
        return dict(
            unet=unet,
            scheduler=ddpm,
            image_noising_scheduler=noising,
            text_encoder=c.t5(),
            tokenizer=c.t5_tokenizer(77),
            safety_checker=None,
            feature_extractor=None,
            watermarker=model("IFWatermarker"),
            requires_safety_checker=False,
        )

    return parts


# ---- unCLIP
# ----------------------------------------------------------------------------------------------------


def unclip() -> Parts:
    """unCLIP (Karlo): prior, a decoder in pixels, two enlargers."""

    def enlarger(size: int) -> Any:
        return model(
            "UNet2DModel",
            sample_size=size,
            layers_per_block=1,
            block_out_channels=[8, 16],
            in_channels=6,
            out_channels=3,
            down_block_types=["ResnetDownsampleBlock2D"] * 2,
            norm_num_groups=4,
            up_block_types=["ResnetUpsampleBlock2D"] * 2,
            attention_head_dim=4,
        )

    decoder = c.unet(
        sample_size=16,
        in_channels=3,
        out_channels=6,
        class_embed_type="identity",
        down_block_types=["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
        up_block_types=["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
        attention_head_dim=4,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        resnet_time_scale_shift="scale_shift",
    )
    projection = model("UnCLIPTextProjModel", clip_embeddings_dim=32, time_embed_dim=64, cross_attention_dim=32)
    sampled = scheduler("UnCLIPScheduler", variance_type="fixed_small_log", prediction_type="sample")
    learned = scheduler("UnCLIPScheduler", variance_type="learned_range", prediction_type="epsilon")
    return dict(
        prior=c.prior(),
        prior_scheduler=sampled,
        decoder=decoder,
        decoder_scheduler=learned,
        text_proj=projection,
        super_res_first=enlarger(32),
        super_res_last=enlarger(32),
        super_res_scheduler=scheduler("UnCLIPScheduler", variance_type="fixed_small_log"),
        text_encoder=c.clip_text(projected=True),
        tokenizer=c.clip_tokenizer(),
        image_encoder=c.clip_vision(),
        feature_extractor=c.clip_processor(),
    )


# ---- Wuerstchen and Stable Cascade
# -----------------------------------------------------------------------------


def paella() -> Any:
    """PaellaVQModel: four times smaller, the last stage of both families."""
    return model("PaellaVQModel", bottleneck_blocks=1, embed_dim=16, latent_channels=4, num_vq_embeddings=64)


def with_prior(decoder: Parts, prior: Parts) -> Parts:
    """The parts of the decoder and of the combined class, which calls the prior's by prefix."""
    return {**decoder, "prior": prior["prior"], **{f"prior_{key}": part for key, part in prior.items()}}


def wuerstchen() -> Parts:
    """Wuerstchen: a prior over very small latents, a decoder, a VQ model."""
    text = c.clip_text()
    steps = scheduler("DDPMWuerstchenScheduler")
    prior = dict(
        prior=model("WuerstchenPrior", c_in=16, c=16, depth=2, c_cond=32, c_r=8, nhead=2),
        scheduler=steps,
        text_encoder=text,
        tokenizer=c.clip_tokenizer(),
    )
    decoder = model(
        "WuerstchenDiffNeXt",
        c_cond=32,
        c_hidden=[32],
        nhead=[2],
        blocks=[1],
        level_config=["CTA"],
        clip_embd=32,
        effnet_embd=16,
        inject_effnet=[True],
    )
    return with_prior(
        dict(decoder=decoder, scheduler=steps, text_encoder=text, tokenizer=c.clip_tokenizer(), vqgan=paella()), prior
    )


def cascade() -> Parts:
    """Stable Cascade: the same three stages with UNets of one kind."""
    text = c.clip_text(projected=True)
    steps = scheduler("DDPMWuerstchenScheduler")
    prior = model(
        "StableCascadeUNet",
        conditioning_dim=32,
        block_out_channels=[32, 32],
        num_attention_heads=[2, 2],
        down_num_layers_per_block=[1, 1],
        up_num_layers_per_block=[1, 1],
        switch_level=[False],
        clip_image_in_channels=32,
        clip_text_in_channels=32,
        clip_text_pooled_in_channels=32,
        dropout=[0.0, 0.0],
    )
    blocks = [["SDCascadeResBlock", "SDCascadeTimestepBlock"]] + [
        ["SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"]
    ]
    decoder = model(
        "StableCascadeUNet",
        in_channels=4,
        out_channels=4,
        conditioning_dim=32,
        effnet_in_channels=16,
        block_out_channels=[16, 32],
        num_attention_heads=[-1, 2],
        down_num_layers_per_block=[1, 1],
        up_num_layers_per_block=[1, 1],
        down_blocks_repeat_mappers=[1, 1],
        patch_size=2,
        up_blocks_repeat_mappers=[1, 1],
        block_types_per_layer=blocks,
        switch_level=None,
        clip_text_pooled_in_channels=32,
        dropout=[0.0, 0.0],
        timestep_conditioning_type=["sca"],
    )
    tokens = c.clip_tokenizer()
    return with_prior(
        dict(decoder=decoder, scheduler=steps, text_encoder=text, tokenizer=tokens, vqgan=paella()),
        dict(
            prior=prior,
            scheduler=steps,
            text_encoder=text,
            tokenizer=tokens,
            image_encoder=c.clip_vision(),
            feature_extractor=c.clip_processor(),
        ),
    )


def only_prior(parts: Any) -> Any:
    """The parts that a prior's own class takes."""

    def chosen() -> Parts:
        return {key.removeprefix("prior_"): part for key, part in parts().items() if key.startswith("prior_")}

    return chosen


# ---- discrete tokens
# -------------------------------------------------------------------------------------------


def amused() -> Parts:
    """aMUSEd: masked tokens filled in; a codebook instead of a diffusion."""
    transformer = model(
        "UVit2DModel",
        hidden_size=16,
        cond_embed_dim=32,
        micro_cond_encode_dim=2,
        vocab_size=33,
        micro_cond_embed_dim=10,
        encoder_hidden_size=32,
        codebook_size=32,
        in_channels=16,
        block_out_channels=16,
        num_res_blocks=1,
        downsample=True,
        upsample=True,
        block_num_heads=1,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=16,
        sample_size=32,
    )
    vqvae = model(
        "VQModel",
        block_out_channels=[8, 8, 8],
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        latent_channels=8,
        num_vq_embeddings=32,
        vq_embed_dim=8,
        norm_num_groups=4,
        layers_per_block=1,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
    )
    return dict(
        transformer=transformer,
        vqvae=vqvae,
        text_encoder=c.clip_text(projected=True),
        tokenizer=c.clip_tokenizer(),
        scheduler=scheduler("AmusedScheduler", mask_token_id=32),
    )


ENTRIES: dict[str, Entry] = {
    **entries(
        "kandinsky-2.2",
        kandinsky_prior,
        "embeds",
        SMALL,
        ("KandinskyV22PriorPipeline", "prompt"),
        ("KandinskyPriorPipeline", "prompt"),
        ("KandinskyV22PriorEmb2EmbPipeline", "prompt image", dict(strength=0.8)),
    ),
    **entries(
        "kandinsky-2.2",
        kandinsky_decoder,
        "image",
        SMALL,
        ("KandinskyV22Pipeline", "image_embeds negative_image_embeds"),
        ("KandinskyV22Img2ImgPipeline", "image_embeds negative_image_embeds image", dict(strength=0.8)),
    ),
    **entries(
        "kandinsky-2.2",
        kandinsky_hint,
        "image",
        SMALL,
        ("KandinskyV22ControlnetPipeline", "image_embeds negative_image_embeds hint"),
    ),
    **entries(
        "kandinsky-2.2",
        kandinsky_combined,
        "image",
        TWICE,
        ("KandinskyV22CombinedPipeline", "prompt"),
        ("KandinskyV22Img2ImgCombinedPipeline", "prompt image", dict(strength=0.8)),
    ),
    **entries(
        "kandinsky-2.2",
        kandinsky_inpaint,
        "image",
        TWICE,
        ("KandinskyV22InpaintCombinedPipeline", "prompt image mask_image"),
    ),
    **entries(
        "kandinsky-2.2",
        kandinsky_inpaint,
        "image",
        SMALL,
        ("KandinskyV22InpaintPipeline", "image_embeds negative_image_embeds image mask_image"),
    ),
    **entries(
        "kandinsky-2.2",
        kandinsky_hint,
        "image",
        SMALL,
        ("KandinskyV22ControlnetImg2ImgPipeline", "image_embeds negative_image_embeds image hint", dict(strength=0.8)),
    ),
    **entries(
        "kandinsky-2.1",
        kandinsky21,
        "image",
        TWICE,
        ("KandinskyCombinedPipeline", "prompt"),
        ("KandinskyImg2ImgCombinedPipeline", "prompt image", dict(strength=0.8)),
        ("KandinskyPipeline", "prompt image_embeds negative_image_embeds"),
        ("KandinskyImg2ImgPipeline", "prompt image_embeds negative_image_embeds image", dict(strength=0.8)),
    ),
    **entries(
        "kandinsky-2.1",
        lambda: kandinsky21(in_channels=9),
        "image",
        TWICE,
        ("KandinskyInpaintCombinedPipeline", "prompt image mask_image"),
        ("KandinskyInpaintPipeline", "prompt image_embeds negative_image_embeds image mask_image"),
    ),
    **entries(
        "kandinsky-3",
        kandinsky3,
        "image",
        SMALL,
        ("Kandinsky3Pipeline", "prompt"),
        ("Kandinsky3Img2ImgPipeline", "prompt image", dict(strength=0.8)),
    ),
    **entries(
        "deepfloyd-if",
        floyd(),
        "image",
        SMALL,
        ("IFPipeline", "prompt"),
        ("IFImg2ImgPipeline", "prompt image"),
        ("IFInpaintingPipeline", "prompt image mask_image"),
    ),
    **entries(
        "deepfloyd-if",
        floyd(True),
        "image",
        SMALL,
        ("IFSuperResolutionPipeline", "prompt image"),
        ("IFImg2ImgSuperResolutionPipeline", "prompt image original_image"),
        ("IFInpaintingSuperResolutionPipeline", "prompt image original_image mask_image"),
    ),
    **entries(
        "unclip",
        unclip,
        "image",
        dict(SMALL, prior_num_inference_steps=2, decoder_num_inference_steps=2, super_res_num_inference_steps=2),
        ("UnCLIPPipeline", "prompt"),
        ("UnCLIPImageVariationPipeline", "image"),
    ),
    **entries(
        "wuerstchen",
        wuerstchen,
        "image",
        WIDER,
        ("WuerstchenCombinedPipeline", "prompt"),
        ("WuerstchenDecoderPipeline", "prompt image_embeddings"),
    ),
    **entries("wuerstchen", only_prior(wuerstchen), "embeds", WIDER, ("WuerstchenPriorPipeline", "prompt")),
    **entries(
        "stable-cascade",
        cascade,
        "image",
        WIDER,
        ("StableCascadeCombinedPipeline", "prompt"),
        ("StableCascadeDecoderPipeline", "prompt image_embeddings"),
    ),
    **entries("stable-cascade", only_prior(cascade), "embeds", WIDER, ("StableCascadePriorPipeline", "prompt")),
    **entries(
        "amused",
        amused,
        "image",
        SMALL,
        ("AmusedPipeline", "prompt"),
        ("AmusedImg2ImgPipeline", "prompt image"),
        ("AmusedInpaintPipeline", "prompt image mask_image"),
    ),
}
