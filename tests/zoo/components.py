# SPDX-License-Identifier: MIT
"""Tiny components: tokenizers, text and image encoders, autoencoders and UNets, 8 to 64 wide."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

from .kit import model, scheduler
from .words import WORDS, corpus

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN_SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<think>",
    "</think>",
)
QWEN_IDS = {token: index for index, token in enumerate(QWEN_SPECIALS)}
VOCABULARY = 1024  # room for every tokenizer below: each model embeds this many tokens


# ---- tokenizers
# ------------------------------------------------------------------------------------------------


def _bpe(specials: tuple[str, ...], pre_tokenizer: Any, alphabet: list[str], suffix: str = "") -> tuple[dict, list]:
    """(vocabulary, merges) of a byte pair encoding of at most VOCABULARY tokens, from the zoo's corpus."""
    from tokenizers import Tokenizer, models, trainers

    ending = {"end_of_word_suffix": suffix} if suffix else {}
    tokenizer = Tokenizer(models.BPE(**ending))
    tokenizer.pre_tokenizer = pre_tokenizer
    size = VOCABULARY - 24 - (len(alphabet) if suffix else 0)
    tokenizer.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False, **ending
        ),
    )
    found = json.loads(tokenizer.to_str())["model"]
    vocabulary = dict(found["vocab"])
    for letter in alphabet:  # a lone last letter must encode too
        vocabulary.setdefault(letter + suffix, len(vocabulary))
    return vocabulary, [tuple(pair) for pair in found["merges"]]


def _byte_level() -> tuple[Any, list[str]]:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.ByteLevel(add_prefix_space=False), sorted(pre_tokenizers.ByteLevel.alphabet())


@functools.cache
def clip_tokenizer() -> Any:
    """CLIPTokenizer, 77 tokens long; any text encodes."""
    from transformers import CLIPTokenizer

    before, alphabet = _byte_level()
    vocabulary, merges = _bpe(("<|startoftext|>", "<|endoftext|>"), before, alphabet, "</w>")
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


@functools.cache
def t5_tokenizer(length: int = 512) -> Any:
    """T5Tokenizer (unigram): whole words of the corpus, else single characters."""
    from transformers import T5TokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [(chr(code), -8.0) for code in range(33, 127)]
    pieces += [("\u2581" + word, -4.0) for word in dict.fromkeys(WORDS)]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=length)


@functools.cache
def qwen_tokenizer() -> Any:
    """Qwen2Tokenizer with the chat and vision tokens and a ChatML template."""
    from transformers import Qwen2Tokenizer

    vocabulary, merges = _bpe(QWEN_SPECIALS, *_byte_level())
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary, merges=merges, model_max_length=8192, additional_special_tokens=list(QWEN_SPECIALS[1:8])
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def _pieces(*specials: str) -> tuple[dict, list]:
    """(vocabulary, merges) as sentencepiece has them: marked spaces, bytes for what is missing."""
    from tokenizers import pre_tokenizers

    raw = tuple(f"<0x{byte:02X}>" for byte in range(256))
    letters = ["\u2581", *(chr(code) for code in range(33, 127))]
    return _bpe((*specials, *raw), pre_tokenizers.Metaspace(prepend_scheme="always"), letters)


@functools.cache
def llama_tokenizer(length: int = 8192) -> Any:
    """LlamaTokenizer with the header tokens of Llama 3, which chat templates of video models spell out."""
    from transformers import LlamaTokenizerFast

    headers = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    vocabulary, merges = _pieces("<pad>", "<s>", "</s>", "<unk>", *headers)
    return LlamaTokenizerFast(
        vocab=vocabulary,
        merges=merges,
        pad_token="<pad>",
        model_max_length=length,
        add_bos_token=True,
        additional_special_tokens=list(headers),
    )


@functools.cache
def gemma_tokenizer(length: int = 8192) -> Any:
    """GemmaTokenizer."""
    from transformers import GemmaTokenizerFast

    vocabulary, merges = _pieces("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    return GemmaTokenizerFast(vocab=vocabulary, merges=merges, model_max_length=length, add_bos_token=True)


@functools.cache
def byt5_tokenizer() -> Any:
    """ByT5Tokenizer: bytes, so nothing to train."""
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer(model_max_length=128)


@functools.cache
def roberta_tokenizer() -> Any:
    """RobertaTokenizer, 77 tokens long, as CLAP has it."""
    from transformers import RobertaTokenizerFast

    vocabulary, merges = _bpe(("<s>", "<pad>", "</s>", "<unk>", "<mask>"), *_byte_level())
    return RobertaTokenizerFast(vocab=vocabulary, merges=merges, model_max_length=77)


@functools.cache
def xlm_roberta_tokenizer() -> Any:
    """XLMRobertaTokenizer (unigram), 77 tokens long: whole words of the corpus, else single characters."""
    from transformers import XLMRobertaTokenizerFast

    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [(chr(code), -8.0) for code in range(33, 127)]
    pieces += [("\u2581" + word, -4.0) for word in dict.fromkeys(WORDS)]
    return XLMRobertaTokenizerFast(vocab=[*pieces, ("<mask>", 0.0)], model_max_length=77)


@functools.cache
def chatglm_tokenizer() -> Any:
    """ChatGLMTokenizer, which reads a sentencepiece model: one of the corpus and of single bytes."""
    import io

    import sentencepiece

    from .kit import resolve

    learned = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=learned,
        model_type="bpe",
        vocab_size=512,
        byte_fallback=True,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    folder = tempfile.TemporaryDirectory(prefix="zoo-chatglm-")
    file = Path(folder.name) / "tokenizer.model"
    file.write_bytes(learned.getvalue())
    tokenizer = resolve("ChatGLMTokenizer")(str(file), model_max_length=256)
    tokenizer.folder = folder  # it copies the file when it is saved, so the folder stays as long as it does
    return tokenizer


@functools.cache
def bert_tokenizer() -> Any:
    """BertTokenizer: whole words of the corpus, else pieces of one character."""
    from transformers import BertTokenizer

    letters = [chr(code) for code in range(33, 127)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + letter for letter in letters), *WORDS]
    return BertTokenizer(vocab={piece: index for index, piece in enumerate(dict.fromkeys(pieces))}, model_max_length=77)


# ---- text and image encoders
# -----------------------------------------------------------------------------------


def clip_text(width: int = 32, projected: bool = False, layers: int = 2, **more: Any) -> Any:
    """CLIPTextModel, or with projection for the families that pool."""
    name = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
    return model(
        name,
        **{
            **dict(
                vocab_size=VOCABULARY,
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=layers,
                num_attention_heads=4,
                max_position_embeddings=77,
                projection_dim=width,
                hidden_act="gelu",
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            ),
            **more,
        },
    )


def clip_vision(width: int = 32, size: int = 32, patch: int = 16, projection: int | None = None, **more: Any) -> Any:
    """CLIPVisionModelWithProjection for `size` pixels square."""
    return model(
        "CLIPVisionModelWithProjection",
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=size,
        patch_size=patch,
        projection_dim=projection or width,
        **more,
    )


def clip_eyes() -> Any:
    """CLIPVisionModel (no projection) for 32 pixels square."""
    return model(
        "CLIPVisionModel",
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        image_size=32,
        num_attention_heads=4,
        patch_size=16,
    )


def siglip_eyes() -> Any:
    """SiglipVisionModel for 32 pixels square."""
    return model(
        "SiglipVisionModel",
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=16,
    )


def siglip_processor() -> Any:
    """SiglipImageProcessor to 32 pixels square."""
    from transformers import SiglipImageProcessor

    return SiglipImageProcessor(size={"height": 32, "width": 32})


def clip_processor(size: int = 32) -> Any:
    """CLIPImageProcessor that resizes and crops to `size` pixels square."""
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def safety_checker() -> Any:
    """StableDiffusionSafetyChecker whose thresholds of one are never passed."""
    vision = dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, image_size=32, patch_size=16
    )
    return model("StableDiffusionSafetyChecker", projection_dim=32, vision_config=vision)


def t5(width: int = 32, name: str = "T5EncoderModel", **more: Any) -> Any:
    """T5EncoderModel or a kin of it."""
    return model(
        name,
        **{
            **dict(
                vocab_size=VOCABULARY,
                d_model=width,
                d_kv=8,
                d_ff=2 * width,
                num_layers=2,
                num_heads=4,
                feed_forward_proj="gated-gelu",
                relative_attention_num_buckets=8,
                relative_attention_max_distance=32,
                decoder_start_token_id=0,
            ),
            **more,
        },
    )


def decoder_text(name: str, width: int = 32, layers: int = 2, **more: Any) -> Any:
    """A decoder-only language model (Qwen2, Qwen3, Llama, Gemma, Mistral, ...) used as a text encoder."""
    return model(
        name,
        **{
            **dict(
                vocab_size=VOCABULARY,
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=layers,
                num_attention_heads=2,
                num_key_value_heads=2,
                head_dim=width // 2,
                max_position_embeddings=8192,
                bos_token_id=0,
                eos_token_id=0,
                pad_token_id=0,
            ),
            **more,
        },
    )


def gemma3(width: int = 32, layers: int = 2) -> Any:
    """Gemma3ForConditionalGeneration with the smallest vision tower that its constructor takes."""
    text = dict(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=width // 2,
        query_pre_attn_scalar=width // 2,
        max_position_embeddings=8192,
    )
    vision = dict(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    return model(
        "Gemma3ForConditionalGeneration",
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        boi_token_index=1001,
        eoi_token_index=1002,
        image_token_index=1003,
    )


def qwen_vl(width: int = 32, layers: int = 2) -> Any:
    """Qwen2_5_VLForConditionalGeneration; the rotary sections fill half a head."""
    sections = [width // 4 - 2 * (width // 12), width // 12, width // 12]
    text = dict(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
    )
    vision = dict(
        depth=2,
        hidden_size=width,
        intermediate_size=width,
        num_heads=2,
        out_hidden_size=width,
        fullatt_block_indexes=[1],
        window_size=112,
        patch_size=14,
    )
    return model(
        "Qwen2_5_VLForConditionalGeneration",
        text_config=text,
        vision_config=vision,
        image_token_id=QWEN_IDS["<|image_pad|>"],
        video_token_id=QWEN_IDS["<|video_pad|>"],
        vision_start_token_id=QWEN_IDS["<|vision_start|>"],
        vision_end_token_id=QWEN_IDS["<|vision_end|>"],
    )


@functools.cache
def qwen_vl_processor() -> Any:
    """Text and pictures to Qwen2.5-VL's inputs: Qwen2VLProcessor where torchvision is, else its like.

    Qwen2VLProcessor cannot be made without torchvision, for a video half that pictures don't need.
    PaddleOCR-VL's processor takes the same call and gives the same fields.
    """
    import transformers

    tokenizer, size = qwen_tokenizer(), {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
    images = transformers.Qwen2VLImageProcessor(size=size)
    if transformers.utils.is_torchvision_available():
        videos = transformers.Qwen2VLVideoProcessor()
        return transformers.Qwen2VLProcessor(images, tokenizer, videos, chat_template=CHATML)
    marked = tokenizer.__class__(
        vocab=tokenizer._vocab,
        merges=tokenizer._merges,
        model_max_length=8192,
        extra_special_tokens={"image_token": "<|image_pad|>"},
    )
    return transformers.PaddleOCRVLProcessor(images, marked, chat_template=CHATML)


# ---- autoencoders
# ----------------------------------------------------------------------------------------------


def vae(latents: int = 4, blocks: int = 4, **more: Any) -> Any:
    """AutoencoderKL, compression 2 ** (blocks - 1)."""
    widths = [8, 8, 16, 16][4 - blocks :]
    return model(
        "AutoencoderKL",
        **{
            **dict(
                block_out_channels=widths,
                down_block_types=["DownEncoderBlock2D"] * blocks,
                up_block_types=["UpDecoderBlock2D"] * blocks,
                latent_channels=latents,
                norm_num_groups=4,
                layers_per_block=1,
                sample_size=64,
            ),
            **more,
        },
    )


def flow_vae(latents: int = 16, **more: Any) -> Any:
    """AutoencoderKL as the flow models have it: shifted, no quantization convolutions."""
    return vae(
        latents,
        **{**dict(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5), **more},
    )


def causal_vae(name: str = "AutoencoderKLWan", **more: Any) -> Any:
    """The Wan family of video autoencoders: 8 times in space, 4 times in time, 16 channels."""
    return model(
        name,
        **{
            **dict(
                base_dim=4, z_dim=16, dim_mult=[1, 1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True, True]
            ),
            **more,
        },
    )


# ---- denoisers
# -------------------------------------------------------------------------------------------------


def unet(**more: Any) -> Any:
    """UNet2DConditionModel of the Stable Diffusion kind for 64-pixel pictures (8x8 latents)."""
    return model(
        "UNet2DConditionModel",
        **{
            **dict(
                block_out_channels=[16, 32],
                layers_per_block=1,
                sample_size=8,
                in_channels=4,
                out_channels=4,
                down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
                up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
                cross_attention_dim=32,
                attention_head_dim=4,
                norm_num_groups=4,
            ),
            **more,
        },
    )


def unet_xl(**more: Any) -> Any:
    """UNet2DConditionModel of the SDXL kind: pooled text and six time ids beside the prompt."""
    return unet(
        **{
            **dict(
                attention_head_dim=[2, 4],
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                transformer_layers_per_block=[1, 1],
                projection_class_embeddings_input_dim=80,
                down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
                up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
                cross_attention_dim=64,
            ),
            **more,
        }
    )


def prior(**more: Any) -> Any:
    """PriorTransformer: a CLIP picture embedding, 32 wide, out of a CLIP text."""
    return model(
        "PriorTransformer",
        **{**dict(num_attention_heads=2, attention_head_dim=16, embedding_dim=32, num_layers=1), **more},
    )


def ddpm_betas(**more: Any) -> dict[str, Any]:
    """Stable Diffusion's noise schedule."""
    return dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000) | more


def ddim(**more: Any) -> Any:
    """DDIMScheduler as Stable Diffusion has it."""
    return scheduler("DDIMScheduler", **ddpm_betas(clip_sample=False, set_alpha_to_one=False, steps_offset=1) | more)


def flow(**more: Any) -> Any:
    """FlowMatchEulerDiscreteScheduler, or another named by `name`."""
    name = more.pop("name", "FlowMatchEulerDiscreteScheduler")
    return scheduler(name, **more)
