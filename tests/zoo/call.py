# SPDX-License-Identifier: MIT
"""Calls a checkpoint straight through diffusers, to know that it runs before the product is blamed."""

from __future__ import annotations

from typing import Any

from localai_diffusers.pipeline.signatures import has_call, parameters_of

from . import ENTRIES, checkpoint

EMBEDDINGS = (16, 3, 3)  # what the priors of Wuerstchen and Stable Cascade make for 128 pixels
SIZE = 64  # pixels of every input picture


def picture(size: int = SIZE, seed: int = 0) -> Any:
    """A PIL picture: a gradient with a square, so that nothing in it is constant."""
    import numpy
    from PIL import Image

    row, column = numpy.mgrid[0:size, 0:size]
    pixels = numpy.stack([row * 255 // size, column * 255 // size, (row + column + 40 * seed) % 256], axis=-1)
    pixels[size // 4 : size // 2, size // 4 : size // 2] = (255, 40, 40)
    return Image.fromarray(pixels.astype("uint8"))


def mask(size: int = SIZE) -> Any:
    """A PIL mask, white in the right half."""
    from PIL import Image

    drawn = Image.new("L", (size, size), 0)
    drawn.paste(255, (size // 2, 0, size, size))
    return drawn


def frames(count: int = 9, size: int = 32) -> list[Any]:
    """A video as PIL pictures."""
    return [picture(size, seed) for seed in range(count)]


def _normal(*shape: int) -> Any:
    """Seeded noise for the inputs that only another model could make."""
    import torch

    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(1))


INPUTS = {
    "prompt": lambda: "a red circle on a blue background",
    "image": picture,
    "images": lambda: [picture()],
    "mask_image": mask,
    "control_mask": mask,
    "task_prompt": lambda: "each row shows a picture and what becomes of it",
    "content_prompt": lambda: "a red circle on a blue background",
    "control_image": lambda: picture(seed=2),
    "example_image": lambda: picture(seed=3),
    "video": frames,
    "control_video": frames,
    "pose_video": frames,
    "face_video": frames,
    "conditioning_frames": frames,
    "source_prompt": lambda: "a blue circle",
    "editing_prompt": lambda: ["a green square"],
    "token_indices": lambda: [2],
    "class_labels": lambda: [1],
    "audio": lambda: _normal(2, 8000) * 0.1,
    "cond_image": picture,
    "lyrics": lambda: "[verse] the sun and the moon",
    "image_embeds": lambda: _normal(1, 32),
    "negative_image_embeds": lambda: _normal(1, 32),
    "original_image": picture,
    "image_embeddings": lambda: _normal(1, *EMBEDDINGS),
    "hint": lambda: _normal(1, 3, SIZE, SIZE),
    "gligen_phrases": lambda: ["a red circle"],
    "gligen_boxes": lambda: [[0.1, 0.1, 0.6, 0.6]],
}


def arguments(name: str) -> dict[str, Any]:
    """The call of entry `name`, with inputs made up for it and without the settings that its class doesn't
    take."""
    import torch

    from .kit import resolve

    entry = ENTRIES[name]
    known = parameters_of(resolve(entry.pipeline))
    settings = {**entry.arguments, "generator": torch.Generator("cpu").manual_seed(0)}
    inputs = {need: INPUTS[need]() for need in entry.needs}
    return {**inputs, **{key: value for key, value in settings.items() if key in known}}


def run(name: str) -> Any:
    """Load entry `name` from its folder and call it on one thread."""
    import torch
    from diffusers import DiffusionPipeline

    from .kit import restore_moved, silent

    silent()
    torch.set_num_threads(1)
    restore_moved(checkpoint(name))
    pipe = DiffusionPipeline.from_pretrained(checkpoint(name), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    given = arguments(name)
    if not has_call(type(pipe)):
        return pipe.text_to_image(**given)
    if given.keys() - parameters_of(pipe):  # a picture that is inverted before the call
        inversion = pipe.invert(**{key: given.pop(key) for key in given.keys() - parameters_of(pipe)})
        given |= {"image_latents": inversion.latents} if "image_latents" in parameters_of(pipe) else {}
    return pipe(**given)


def describe(output: Any) -> str:
    """One line: each field of the output with its type, shape and spread."""
    fields = dict(output) if hasattr(output, "keys") else {"output": output}
    return ", ".join(f"{key}={_describe(value)}" for key, value in fields.items() if value is not None)


def _describe(value: Any) -> str:
    import numpy

    if isinstance(value, (list, tuple)) and value:
        return f"[{len(value)} x {_describe(value[0])}]"
    if hasattr(value, "getbands"):
        array = numpy.asarray(value)
        return f"PIL {value.mode} {value.size} deviation {array.std():.1f}"
    if hasattr(value, "shape"):
        array = numpy.asarray(value.detach().cpu().float() if hasattr(value, "detach") else value)
        return f"{type(value).__name__} {tuple(array.shape)} deviation {array.std():.3f}"
    return type(value).__name__
