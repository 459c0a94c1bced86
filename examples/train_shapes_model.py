# SPDX-License-Identifier: MIT
"""Trains the small Stable Diffusion pipeline in `examples/shapes-model`, and measures one.

    python examples/train_shapes_model.py train --out examples/shapes-model --work shapes-work
    python examples/train_shapes_model.py evaluate --model examples/shapes-model --count 200
    python examples/train_shapes_model.py sheet --model examples/shapes-model --out sheet.png

All data is drawn here: one circle, square or triangle of one color on a background of another, at a random
place and size, 64x64 pixels, with a prompt such as "a red circle on a blue background". Training takes about
an hour on two CPU cores, and goes on from its last checkpoint in `--work` when it is started again.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextModel, CLIPTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from shapes_judge import PALETTE, judge  # noqa: E402

log = logging.getLogger("shapes")

SHAPES = ("circle", "square", "triangle")
COLORS = ("red", "green", "blue", "yellow")
BACKGROUNDS = ("white", "black", "blue", "yellow")
FIELDS = (SHAPES, COLORS, BACKGROUNDS)
# The first is the one that is measured; the others make the wording matter less.
TEMPLATES = (
    "a {color} {shape} on a {background} background",
    "{color} {shape} on {background}",
    "{color} {shape}, {background} background",
)
PIXELS, SUPERSAMPLE = 64, 4
MIN_EXTENT, MAX_EXTENT, MARGIN = 26, 42, 3
SCALING_FACTOR = 0.18215  # Stable Diffusion's; the latents are made to fit it
TOKENS, HIDDEN = 77, 64
# Of the sum over 256 latents. A twentieth of it restores pictures no better, and leaves latents that the UNet
# takes far longer to learn: of some 40 pictures 2% were right after 500 steps (EulerAncestral), against 38%.
KL_WEIGHT = 2e-3 / 256
EMA_DECAY = 0.998
EMPTY_PROMPTS = 0.1  # of a batch: what classifier-free guidance needs

SCHEDULERS = {
    "DDIM": ("DDIMScheduler", {}),
    "EulerAncestral": ("EulerAncestralDiscreteScheduler", {}),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "DPMSolverMultistepKarras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
}


@dataclass(frozen=True)
class Scene:
    """One drawing: what it shows, and where (top left corner and extent, in pixels)."""

    shape: str
    color: str
    background: str
    left: float
    top: float
    extent: float

    def labels(self) -> tuple[int, int, int]:
        return SHAPES.index(self.shape), COLORS.index(self.color), BACKGROUNDS.index(self.background)


# --- Data ------------------------------------------------------------------------------------------------


def combinations() -> list[tuple[str, str, str]]:
    """Every (shape, color, background) whose object can be seen."""
    return [c for c in itertools.product(*FIELDS) if c[1] != c[2]]


def prompt_of(combination: tuple[str, str, str], template: str = TEMPLATES[0]) -> str:
    shape, color, background = combination
    return template.format(shape=shape, color=color, background=background)


def random_scene(rng: random.Random) -> Scene:
    extent = rng.uniform(MIN_EXTENT, MAX_EXTENT)
    free = PIXELS - 2 * MARGIN - extent
    left, top = MARGIN + rng.random() * free, MARGIN + rng.random() * free
    return Scene(*rng.choice(combinations()), left, top, extent)


def draw(scene: Scene) -> Image.Image:
    """The scene as an anti-aliased 64x64 RGB picture."""
    side = PIXELS * SUPERSAMPLE
    image = Image.new("RGB", (side, side), PALETTE[scene.background])
    pen, fill = ImageDraw.Draw(image), PALETTE[scene.color]
    left, top, extent = (value * SUPERSAMPLE for value in (scene.left, scene.top, scene.extent))
    right, bottom = left + extent, top + extent
    if scene.shape == "circle":
        pen.ellipse((left, top, right, bottom), fill=fill)
    elif scene.shape == "square":
        pen.rectangle((left, top, right, bottom), fill=fill)
    else:
        pen.polygon([((left + right) / 2, top), (right, bottom), (left, bottom)], fill=fill)
    return image.resize((PIXELS, PIXELS), Image.Resampling.BOX)


def draw_batch(scenes: list[Scene]) -> torch.Tensor:
    """Scenes as a float tensor (n, 3, 64, 64) in -1..1."""
    pixels = np.stack([np.asarray(draw(scene)) for scene in scenes])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


# --- Tokenizer and text encoder --------------------------------------------------------------------------


def known_words() -> list[str]:
    words = {word for field in FIELDS for word in field} | {"a", "on", "background"}
    return sorted(words)


def make_tokenizer() -> CLIPTokenizer:
    """Byte-level BPE with one token for each known word; any other text falls into smaller pieces."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    alphabet = sorted(ByteLevel.alphabet())
    vocabulary = alphabet + [letter + "</w>" for letter in alphabet]
    merges: list[tuple[str, str]] = []
    for word in known_words():
        pieces = list(word[:-1]) + [word[-1] + "</w>"]
        while len(pieces) > 1:
            if (pieces[0], pieces[1]) not in merges:
                merges.append((pieces[0], pieces[1]))
            pieces[:2] = [pieces[0] + pieces[1]]
            vocabulary.append(pieces[0])
    vocabulary = list(dict.fromkeys(vocabulary)) + ["<|startoftext|>", "<|endoftext|>"]
    ids = {token: index for index, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=TOKENS)


def encode(tokenizer: CLIPTokenizer, prompts: list[str]) -> torch.Tensor:
    """Token ids (n, 77)."""
    tokens = tokenizer(prompts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    return tokens.input_ids


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=HIDDEN,
            intermediate_size=2 * HIDDEN,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            projection_dim=HIDDEN,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def pretrain_text_encoder(tokenizer: CLIPTokenizer, encoder: CLIPTextModel, steps: int, device: str) -> None:
    """Linear heads on the end-of-text and padding tokens say what the prompt asks for.

    The encoder is then frozen: trained together with the UNet alone, one this small learns nothing.
    """
    heads = torch.nn.ModuleList(torch.nn.Linear(HIDDEN, len(field)) for field in FIELDS).to(device)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], lr=3e-3)
    choices = list(itertools.product(combinations(), TEMPLATES))
    for step in range(steps):
        picked = random.sample(choices, 32)
        ids = encode(tokenizer, [prompt_of(*choice) for choice in picked]).to(device)
        hidden = encoder(ids).last_hidden_state
        rows, columns = torch.nonzero(ids == tokenizer.eos_token_id, as_tuple=True)
        loss = torch.zeros((), device=device)
        for field, head in enumerate(heads):
            truth = torch.tensor([FIELDS[field].index(c[field]) for c, _ in picked], device=device)
            loss = loss + F.cross_entropy(head(hidden[rows, columns]), truth[rows])
        descend(optimizer, loss)
        if step % 50 == 0:
            log.info("text encoder %d/%d loss %.4f", step, steps, loss.item())
    encoder.requires_grad_(False).eval()


# --- VAE -------------------------------------------------------------------------------------------------


def make_vae() -> torch.nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16, 32, 48),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
        sample_size=PIXELS,
        scaling_factor=SCALING_FACTOR,
    )


def train_vae(vae: torch.nn.Module, steps: int, device: str, rng: random.Random) -> None:
    """L1 + MSE + a little KL on fresh drawings, learning rate 3e-3 falling to 0 by a cosine."""
    optimizer = torch.optim.AdamW(vae.parameters(), lr=3e-3, weight_decay=1e-4)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        pixels = draw_batch([random_scene(rng) for _ in range(16)]).to(device)
        posterior = vae.encode(pixels).latent_dist
        restored = vae.decode(posterior.sample()).sample
        loss = F.l1_loss(restored, pixels) + F.mse_loss(restored, pixels) + KL_WEIGHT * posterior.kl().mean()
        descend(optimizer, loss)
        decay.step()
        if step % 50 == 0:
            log.info("vae %d/%d loss %.4f", step, steps, loss.item())
    fold_latent_statistics(vae, draw_batch([random_scene(rng) for _ in range(512)]).to(device))


@torch.no_grad()
def fold_latent_statistics(vae: torch.nn.Module, pixels: torch.Tensor) -> None:
    """Moves the latents' mean and deviation into the quant convolutions: times 0.18215 they become normal.

    Encoding then adds no noise: latents that the decoder hardly reads have a wide posterior, and scaled up with the
    others its noise would drown the picture that image-to-image and inpainting start from.
    """
    means = torch.cat([vae.encode(part).latent_dist.mean for part in pixels.split(64)])
    mean, scale = means.mean((0, 2, 3)), means.std((0, 2, 3)) * SCALING_FACTOR
    into, out = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    into.bias[:channels] = (into.bias[:channels] - mean) / scale
    into.weight[:channels] /= scale[:, None, None, None]
    into.weight[channels:] = 0
    into.bias[channels:] = -20
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= scale[None, :, None, None]


# --- UNet ------------------------------------------------------------------------------------------------


def make_unet() -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=PIXELS // 8,
        block_out_channels=(40, 80),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=HIDDEN,
        attention_head_dim=4,
    )


def make_scheduler() -> DDIMScheduler:
    """Stable Diffusion's own noise levels.

    With linear betas from 1e-4 to 0.02 so little signal is left at the first step that strong guidance spoils
    the colors: at 7.5, 67% of 42 pictures were right with EulerAncestral, against 95% after 500
    steps more with these.
    `clip_sample` must be written out as false: from a config without it DDIM clips latents to -1..1.
    """
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@dataclass(frozen=True)
class Latents:
    """Encoded drawings, scaled (n, 4, 8, 8), and which combination each shows (n)."""

    mean: torch.Tensor
    combination: torch.Tensor


@torch.no_grad()
def encode_drawings(vae: torch.nn.Module, count: int, device: str, rng: random.Random) -> Latents:
    """Drawn and encoded once, since the VAE is fixed while the UNet learns."""
    names = combinations()
    means, labels = [], []
    for _ in range(count // 64):
        scenes = [random_scene(rng) for _ in range(64)]
        means.append(vae.encode(draw_batch(scenes).to(device)).latent_dist.mean * SCALING_FACTOR)
        labels += [names.index((s.shape, s.color, s.background)) for s in scenes]
    return Latents(torch.cat(means), torch.tensor(labels, device=device))


@torch.no_grad()
def prompt_table(tokenizer: CLIPTokenizer, encoder: CLIPTextModel, device: str) -> torch.Tensor:
    """Hidden states (combinations x templates + 1, 77, 64); the last row is the empty prompt's."""
    prompts = [prompt_of(c, t) for c in combinations() for t in TEMPLATES] + [""]
    return encoder(encode(tokenizer, prompts).to(device)).last_hidden_state


def batches(latents: Latents, table: torch.Tensor, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (latents, hidden states); half the prompts in the first wording, a tenth of them empty."""
    count, device = len(latents.combination), latents.mean.device
    while True:
        rows = torch.randint(count, (size,), device=device)
        reworded = torch.rand(size, device=device) < 0.5
        wording = torch.randint(len(TEMPLATES), (size,), device=device) * reworded
        prompt = latents.combination[rows] * len(TEMPLATES) + wording
        prompt[torch.rand(size, device=device) < EMPTY_PROMPTS] = len(table) - 1
        yield latents.mean[rows], table[prompt]


@dataclass
class UNetRun:
    """What a checkpoint holds: the weights in training, their moving average, the optimizer and the step."""

    unet: torch.nn.Module
    average: torch.nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0

    def save(self, path: Path) -> None:
        torch.save(
            {
                "unet": self.unet.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
            },
            path,
        )

    def restore(self, path: Path) -> None:
        state = torch.load(path, weights_only=True, map_location="cpu")
        self.unet.load_state_dict(state["unet"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    @torch.no_grad()
    def follow(self) -> None:
        """Moves the average towards the weights, faster at the start."""
        keep = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        for slow, fast in zip(self.average.parameters(), self.unet.parameters(), strict=True):
            slow.lerp_(fast, 1 - keep)


def start_unet(device: str) -> UNetRun:
    unet, average = make_unet().to(device), make_unet().to(device).requires_grad_(False)
    average.load_state_dict(unet.state_dict())
    return UNetRun(unet, average, torch.optim.AdamW(unet.parameters(), lr=2e-3, weight_decay=1e-4))


def learning_rate(step: int, steps: int, peak: float = 2e-3) -> float:
    """100 steps of warm-up, then a cosine to nearly 0."""
    falling = (1 + math.cos(math.pi * min(1.0, step / steps))) / 2
    return peak * min(1.0, (step + 1) / 100) * (0.01 + 0.99 * falling)


def train_unet(run: UNetRun, data: Iterator[tuple[torch.Tensor, torch.Tensor]], steps: int) -> Iterator[int]:
    """Learns to predict the noise; yields after every step, so that the caller may save."""
    scheduler, started = make_scheduler(), time.monotonic()
    first = run.step
    for run.step in range(first + 1, steps + 1):
        clean, hidden = next(data)
        noise = torch.randn_like(clean)
        times = torch.randint(scheduler.config.num_train_timesteps, (len(clean),), device=clean.device)
        guess = run.unet(scheduler.add_noise(clean, noise, times), times, hidden).sample
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(run.step, steps)
        loss = F.mse_loss(guess, noise)
        descend(run.optimizer, loss)
        run.follow()
        if run.step % 50 == 0:
            rate = (time.monotonic() - started) / (run.step - first)
            log.info("unet %d/%d loss %.4f, %.3f s a step", run.step, steps, loss.item(), rate)
        yield run.step


def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One step down, gradients bounded to norm 1."""
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()


# --- The whole -------------------------------------------------------------------------------------------


def save_pipeline(out: Path, tokenizer: CLIPTokenizer, *parts: torch.nn.Module) -> None:
    """The diffusers folder of text encoder, VAE and UNet, weights in fp16; training goes on in fp32."""
    import copy

    from diffusers import StableDiffusionPipeline

    encoder, vae, unet = (copy.deepcopy(part).half().cpu() for part in parts)
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(out)
    for weights in out.glob("*/*.safetensors"):
        weights.chmod(0o644)  # written for the owner alone


def stage(path: Path, module: torch.nn.Module, train: Callable[[], None]) -> None:
    """Loads the module's weights from `path`, or trains them and puts them there."""
    if path.exists():
        module.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    else:
        train()
        torch.save(module.state_dict(), path)
    module.requires_grad_(False).eval()


def train(args: argparse.Namespace) -> None:
    """All stages; a stage whose checkpoint is in `--work` is not done again."""
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    rng, device, work = random.Random(args.seed), args.device, args.work
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    encoder, vae = make_text_encoder(tokenizer).to(device), make_vae().to(device)
    stage(work / "text.pt", encoder, lambda: pretrain_text_encoder(tokenizer, encoder, args.text_steps, device))
    stage(work / "vae.pt", vae, lambda: train_vae(vae, args.vae_steps, device, rng))
    latents = encode_drawings(vae, args.drawings, device, rng)
    data = batches(latents, prompt_table(tokenizer, encoder, device), args.batch)
    run, checkpoint = start_unet(device), work / "unet.pt"
    if checkpoint.exists():
        run.restore(checkpoint)
    for step in train_unet(run, data, args.unet_steps):
        if step % args.save_every == 0 or step == args.unet_steps:
            run.save(checkpoint)
            save_pipeline(args.out, tokenizer, encoder, vae, run.average)


# --- Measuring -------------------------------------------------------------------------------------------


def load(folder: Path, device: str) -> StableDiffusionPipeline:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def use_scheduler(pipeline: StableDiffusionPipeline, name: str, folder: Path) -> None:
    """A scheduler of SCHEDULERS with the settings that the model's folder holds."""
    import diffusers

    class_name, extra = SCHEDULERS[name]
    config = diffusers.DDIMScheduler.load_config(folder / "scheduler")
    pipeline.scheduler = getattr(diffusers, class_name).from_config(config, **extra)


def generate(
    pipeline: StableDiffusionPipeline, prompts: list[str], first_seed: int, args: argparse.Namespace
) -> list[Image.Image]:
    """One picture a prompt, with seeds counted from `first_seed`."""
    generators = [torch.Generator("cpu").manual_seed(first_seed + i) for i in range(len(prompts))]
    return pipeline(
        prompts,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance,
        generator=generators,
        height=PIXELS,
        width=PIXELS,
    ).images


def measure(pipeline: StableDiffusionPipeline, args: argparse.Namespace) -> Counter[str]:
    """How many of `--count` pictures are right: prompts in turn, seeds counted from `--first-seed`."""
    names, right = combinations(), Counter()
    wanted = [names[i % len(names)] for i in range(args.count)]
    for start in range(0, args.count, 20):
        part = wanted[start : start + 20]
        images = generate(pipeline, [prompt_of(c) for c in part], args.first_seed + start, args)
        for (shape, color, background), image in zip(part, images, strict=True):
            verdict = judge(image)
            hits = (verdict.shape == shape, verdict.color == color, verdict.background == background)
            right.update(dict(zip(("shape", "color", "background", "all"), (*hits, all(hits)), strict=True)))
    return right


def evaluate(args: argparse.Namespace) -> None:
    pipeline = load(args.model, args.device)
    for name in args.schedulers or SCHEDULERS:
        use_scheduler(pipeline, name, args.model)
        started = time.monotonic()
        right = measure(pipeline, args)
        keys = ("all", "shape", "color", "background")
        rates = ", ".join(f"{key} {100 * right[key] / args.count:.1f}%" for key in keys)
        log.info(
            "%s: %s of %d; %d steps, guidance %g, %.2f s a picture",
            name,
            rates,
            args.count,
            args.steps,
            args.guidance,
            (time.monotonic() - started) / args.count,
        )


def sheet(args: argparse.Namespace) -> None:
    """One picture of every combination, the rows in the order of `combinations()`."""
    pipeline = load(args.model, args.device)
    use_scheduler(pipeline, (args.schedulers or ["DDIM"])[0], args.model)
    images = generate(pipeline, [prompt_of(c) for c in combinations()], args.first_seed, args)
    columns = len(images) // len(SHAPES)
    page = Image.new("RGB", (columns * (PIXELS + 4), len(SHAPES) * (PIXELS + 4)), (128, 128, 128))
    for index, image in enumerate(images):
        page.paste(image, (index % columns * (PIXELS + 4) + 2, index // columns * (PIXELS + 4) + 2))
    page.save(args.out)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    learn, check, show = (commands.add_parser(name) for name in ("train", "evaluate", "sheet"))
    for command in (learn, check, show):
        command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        command.add_argument("--threads", type=int, default=None, help="of torch; its choice by default")
    learn.set_defaults(run=train)
    learn.add_argument("--out", type=Path, required=True, help="the diffusers folder to write")
    learn.add_argument("--work", type=Path, required=True, help="checkpoints")
    for name, default in (
        ("seed", 0),
        ("text-steps", 300),
        ("vae-steps", 1800),
        ("unet-steps", 4500),
        ("drawings", 20480),
        ("batch", 48),
        ("save-every", 500),
    ):
        learn.add_argument(f"--{name}", type=int, default=default)
    for command, run in ((check, evaluate), (show, sheet)):
        command.set_defaults(run=run)
        command.add_argument("--model", type=Path, required=True)
        command.add_argument("--schedulers", nargs="*", choices=sorted(SCHEDULERS))
        command.add_argument("--steps", type=int, default=20)
        command.add_argument("--first-seed", type=int, default=1000)
        command.add_argument("--guidance", type=float, default=5.0)
    check.add_argument("--count", type=int, default=200)
    show.add_argument("--out", type=Path, required=True)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    args.run(args)


if __name__ == "__main__":
    main()
