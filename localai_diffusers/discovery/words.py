# SPDX-License-Identifier: MIT
"""Tables of words: tasks with their aliases and their words in class names. No pipeline is named here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """Other names of a task (Hub pipeline tags among them), and words of class names that stand for it."""

    aliases: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


TASKS: Mapping[str, Task] = {
    "text-to-image": Task(
        ("txt2img", "text2image", "text2img", "t2i"), ("TextToImage", "Text2Image", "Text2Img", "T2I")
    ),
    "image-to-image": Task(
        ("img2img", "image2image", "i2i", "image-text-to-image", "image-variation"),
        ("ImageToImage", "Image2Image", "Img2Img", "I2I"),
    ),
    "inpainting": Task(("inpaint", "image-inpainting"), ("Inpainting", "Inpaint")),
    "text-to-video": Task(
        ("txt2vid", "text2video", "text2vid", "txt2video", "t2v"), ("TextToVideo", "Text2Video", "TextToWorld", "T2V")
    ),
    "image-to-video": Task(
        ("img2vid", "image2video", "img2video", "i2v", "image-text-to-video"),
        ("ImageToVideo", "Image2Video", "Img2Vid", "I2V"),
    ),
    "video-to-video": Task(("vid2vid", "video2video", "v2v"), ("VideoToVideo", "Video2Video", "VideoToWorld", "V2V")),
    "text-to-audio": Task(("txt2audio", "text2audio", "text-to-music", "text-to-speech"), ("TextToAudio",)),
    "audio-to-audio": Task(("audio2audio",), ("AudioToAudio",)),
    "unconditional-audio-generation": Task(("unconditional-audio",)),
    "text-to-3d": Task(("txt-to-3d", "text23d"), ("TextTo3D",)),
    "image-to-3d": Task(("img-to-3d", "image23d"), ("ImageTo3D",)),
    "controlnet": Task(("control-net",), ("ControlNet", "Controlnet")),
    "depth-to-image": Task(("depth2img", "depth2image"), ("Depth2Img", "DepthToImage")),
    "depth-estimation": Task(("monocular-depth-estimation",)),
    "normals-estimation": Task(("normal-estimation", "surface-normal-estimation")),
    "intrinsics-estimation": Task(("intrinsic-image-decomposition",)),
    "upscaling": Task(
        ("super-resolution", "upscale", "upscaler", "image-upscaling"),
        ("LatentUpscale", "Upscale", "LatentUpsample", "SuperResolution", "SR"),
    ),
    "unconditional-image-generation": Task(("unconditional", "unconditional-image")),
    "text-generation": Task(),
    "image-text-to-text": Task(("image-to-text",)),
    "any-to-any": Task(("any2any",)),
}


# Tasks whose weights are never those of another class: no sibling can be made from a model at hand.
OWN_WEIGHTS = frozenset({"upscaling", "depth-to-image", "depth-estimation", "text-to-3d", "image-to-3d"})


# Components that the caller brings along with a task, so a model need not hold them.
BROUGHT = {"controlnet": frozenset({"controlnet", "adapter"})}


# Words of a class name that make a variant of its own, not a task of the same family.
FAMILY_KEEPS = frozenset({"controlnet", "depth-to-image"})


# Import name -> name on the package registry, where they differ.
PIP_NAMES: Mapping[str, str] = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "note_seq": "note-seq",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "bs4": "beautifulsoup4",
    "yaml": "pyyaml",
    "google": "protobuf",
}

# Components that denoise, the main one of a pipeline first.
DENOISERS = ("transformer", "unet", "prior", "decoder", "dit", "transformer_2")
