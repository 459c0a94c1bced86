# SPDX-License-Identifier: MIT
"""A repainted picture laid over its source: where the mask is white the painting counts, far from it the source's
pixels.

Here: pictures and masks of Pillow, as numbers. Not here: which picture is a source and which its mask.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

# The least level that is white. diffusers' mask processors draw the line there (VaeImageProcessor.binarize, 0.5).
WHITE = 128
# The default of the fade: 4 pixels beyond the mask in a picture whose shorter side is 512, in proportion in others.
_BLUR, _AT = 4.0, 512


def is_white_anywhere(mask: Image.Image) -> bool:
    """Whether anything is to be repainted."""
    return bool(mask.convert("L").point(lambda level: level >= WHITE).getbbox())


def grown(mask: Image.Image, cell: int) -> Image.Image:
    """``mask`` (L) with every cell of ``cell`` x ``cell`` pixels, counted from the top left, at its largest value.

    Pipelines take one sample of each latent's cell, as a rule that of its corner: a thin line falls between them.
    """
    if cell <= 1:
        return mask
    levels = np.asarray(mask)
    height, width = levels.shape
    padded = np.pad(levels, ((0, -height % cell), (0, -width % cell)))
    largest = padded.reshape(padded.shape[0] // cell, cell, -1, cell).max(axis=(1, 3))
    return Image.fromarray(largest.repeat(cell, 0).repeat(cell, 1)[:height, :width])


def fitted(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """``mask`` (L) at ``size``, each pixel the largest of those that it stands for: white of any width stays."""
    levels = np.asarray(mask)
    for axis, side in ((0, size[1]), (1, size[0])):
        levels = np.maximum.reduceat(levels, np.arange(side) * levels.shape[axis] // side, axis=axis)
    return Image.fromarray(levels)


def padded(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """``picture`` on a canvas of at least its own size: a mask goes on in black, a picture's last column and row go
    on."""
    if picture.size == size:
        return picture
    pixels = np.asarray(picture)
    missing = [(0, size[1] - picture.height), (0, size[0] - picture.width), (0, 0)][: pixels.ndim]
    return Image.fromarray(np.pad(pixels, missing, mode="constant" if picture.mode == "L" else "edge"))


def laid_over(made: Image.Image, source: Image.Image, mask: Image.Image, blur: float | None = None) -> Image.Image:
    """``made`` where ``mask`` is white, ``source`` beyond the fade; all of one size, ``source`` RGB.

    The fade lies outside alone: from the white outward the painting's share falls evenly to nothing at twice ``blur``
    pixels; None for the default, 0 for a hard edge.
    """
    blur = _BLUR * min(source.size) / _AT if blur is None else blur
    share = _share(np.asarray(mask.convert("L")) >= WHITE, 2 * blur)[..., None]
    painting, below = (np.asarray(picture.convert("RGB"), np.float32) for picture in (made, source))
    return Image.fromarray(np.rint(below + (painting - below) * share).astype(np.uint8))


def colors_of(picture: Image.Image) -> Image.Image:
    """``picture`` as RGB; what is wholly transparent takes the color of the nearest pixel that is seen, so that an edge
    mixes with nothing that nobody sees."""
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    pixels = np.asarray(picture)
    hidden = pixels[..., 3] == 0
    if not hidden.any() or hidden.all():
        return picture.convert("RGB")
    from scipy import ndimage

    rows, columns = ndimage.distance_transform_edt(hidden, return_distances=False, return_indices=True)
    return Image.fromarray(np.ascontiguousarray(pixels[rows, columns, :3]))


def _share(white: np.ndarray, reach: float) -> np.ndarray:
    """1 in the white, falling to 0 at ``reach`` pixels from it."""
    if not white.any() or reach <= 1:  # the next pixel is one away
        return white.astype(np.float32)
    from scipy import ndimage

    distance: Any = ndimage.distance_transform_edt(~white)
    return np.clip(1 - distance / reach, 0, 1).astype(np.float32)
