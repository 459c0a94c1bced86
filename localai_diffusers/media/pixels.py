# SPDX-License-Identifier: MIT
"""What a decoded picture shows: upright, in sRGB, in 8 bits a channel, on paper where it is transparent.

Every reader ends here, of stills and of the frames of clips: a phone's photo, a camera's 12 bits and a palette with a
hole are pictures to whoever sends them.
"""

from __future__ import annotations

import contextlib
import functools
import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps

# What transparent pixels show: paper for a picture, "don't repaint" for a mask (white strokes on nothing).
_BACKGROUND = {"RGB": (255, 255, 255), "L": (0, 0, 0)}
# Depths of the samples that cameras and scanners put into the 16 bits of a TIFF, which as a rule says nothing of it.
_SAMPLE_BITS = (8, 10, 12, 14, 16)
_MAX_SAMPLE_VALUE, _BITS_PER_SAMPLE = 281, 258  # tags of TIFF 6.0, section 8


def as_shown(image: Image.Image, mode: str, content: bytes = b"") -> Image.Image:
    """The current frame of ``image`` as a viewer shows it, as 8-bit ``mode`` without transparency.

    ``mode``: "RGB", "RGBA" (transparency stays where there is some, else it is RGB) or "L", a mask, whose samples are
    data and are not converted by a color profile. ``content``: the file that it was opened from, for samples that
    Pillow does not read whole. Raises what Pillow raises for broken data.
    """
    image = upright(eight_bits(image, content))
    if mode != "L":
        image = in_srgb(image)
    return flat(image, mode)


def upright(image: Image.Image) -> Image.Image:
    """``image`` turned as its EXIF orientation says; itself where that says nothing, or is broken."""
    with contextlib.suppress(Exception):
        if image.getexif().get(0x0112, 1) != 1:
            return ImageOps.exif_transpose(image)
    return image


def flat(image: Image.Image, mode: str) -> Image.Image:
    """8-bit ``image`` as ``mode``, what is transparent on paper; "RGBA" keeps transparency where there is some."""
    if mode == "RGBA":
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, (*_BACKGROUND.get(mode, _BACKGROUND["RGB"]), 255))
        image = Image.alpha_composite(paper, image)
    elif image.mode in ("LAB", "HSV", "YCbCr"):
        image = image.convert("RGB")
    return image.convert(mode)


# --- color profiles ------------------------------------------------------------------------------------------------


def in_srgb(image: Image.Image) -> Image.Image:
    """8-bit ``image`` with its embedded profile's colors as sRGB: Display P3 of phones, Adobe RGB of cameras,
    CMYK of print.

    One that is broken, or of another kind than the pixels, is ignored, as viewers do. Transparency stays.
    """
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    from PIL import ImageCms

    colors = _colors(image)
    try:
        converted = ImageCms.profileToProfile(
            colors, ImageCms.ImageCmsProfile(io.BytesIO(profile)), _srgb(), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    if converted is None:  # where it works in place
        return image
    if image.has_transparency_data:
        converted.putalpha(image.convert("RGBA").getchannel("A"))
    return converted


def _colors(image: Image.Image) -> Image.Image:
    """``image`` in the channels that its profile speaks of: gray ones stay, a palette's are looked up."""
    gray = image.mode in ("1", "L", "LA") and bytes(image.info["icc_profile"][16:20]) == b"GRAY"
    return image if image.mode in ("CMYK", "LAB") else image.convert("L" if gray else "RGB")


@functools.cache
def _srgb() -> Any:
    from PIL import ImageCms

    return ImageCms.createProfile("sRGB")


# --- deep samples --------------------------------------------------------------------------------------------------


def eight_bits(image: Image.Image, content: bytes = b"") -> Image.Image:
    """Samples of more than 8 bits, or float, scaled to 8.

    Pillow's own ``convert`` clips gray ones at 255, and of colors it reads the upper byte alone, which leaves 16 levels
    of a camera's 12 bits.
    """
    if image.mode.startswith(("I", "F")):
        samples = np.nan_to_num(np.asarray(image, dtype=np.float32))
        return _carrying(image, Image.fromarray(_scaled(samples, _full_scale(samples, image))))
    colors = _deep_colors(image, content)
    if colors is None or (full := _full_scale(colors, image)) >= 65535:
        return image
    return _carrying(image, Image.fromarray(_scaled(colors, full)))


def _scaled(samples: np.ndarray, full: float) -> np.ndarray:
    return np.clip(samples * np.float32(255.0 / full) + 0.5, 0, 255).astype(np.uint8)


def _carrying(image: Image.Image, made: Image.Image) -> Image.Image:
    """``made`` with what the original says of orientation and color."""
    made.info = {key: image.info[key] for key in ("icc_profile",) if key in image.info}
    made.getexif()[0x0112] = image.getexif().get(0x0112, 1)
    return made


def _full_scale(samples: np.ndarray, image: Image.Image) -> float:
    """The sample that stands for white: of floats 1, 255 or 65535; of a TIFF what it says, else the largest value of
    the least depth that holds them all; of others 65535."""
    peak = float(samples.max(initial=0.0))
    if image.mode == "F":
        return next((scale for scale in (1.0, 255.0, 65535.0) if peak <= scale), peak)
    if image.format != "TIFF":
        return max(65535.0, peak)
    told = image.tag_v2.get(_MAX_SAMPLE_VALUE)  # type: ignore[attr-defined]
    told = max(told) if isinstance(told, tuple) else told
    if isinstance(told, int) and told >= max(peak, 1):
        return float(told)
    return next((float(2**bits - 1) for bits in _SAMPLE_BITS if peak < 2**bits), peak)


def _deep_colors(image: Image.Image, content: bytes) -> np.ndarray | None:
    """The samples, uint16 (height, width, 3 or 4), of a TIFF of colors with 16 bits each; None for any other picture,
    and for one that libav does not read."""
    if not content or image.format != "TIFF" or image.mode not in ("RGB", "RGBA"):
        return None
    if set(image.tag_v2.get(_BITS_PER_SAMPLE, ())) != {16}:  # type: ignore[attr-defined]
        return None
    import av

    with contextlib.suppress(OSError, ValueError, StopIteration):  # av.error.FFmpegError is one of the first two
        with av.open(io.BytesIO(content), "r", format="tiff_pipe") as source:
            frame = next(source.decode(video=0))
            samples = frame.to_ndarray(format="rgb48le" if image.mode == "RGB" else "rgba64le")
        return samples if samples.shape[:2] == (image.height, image.width) else None
    return None
