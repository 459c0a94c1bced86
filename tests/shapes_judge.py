# SPDX-License-Identifier: MIT
"""A rule-based judge of the shipped shapes model's pictures: numpy and Pillow, nothing learned.

The background is the palette color nearest to the border's median, the object is what differs from it, its
color the palette color nearest to the object's median, and its shape the one whose ideal outline, drawn
into the object's bounding box, overlaps the object best. Whatever is too far from every palette color, too
small, too large or of no known outline is `unclear`, so that noise is never right by chance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

UNCLEAR = "unclear"

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 40),
    "green": (30, 160, 60),
    "blue": (40, 70, 220),
    "yellow": (245, 215, 40),
    "white": (250, 250, 250),
    "black": (10, 10, 10),
}

MAX_COLOR_DISTANCE = 80.0  # half the smallest distance between two palette colors (green and black: 159)
MIN_AREA, MAX_AREA = 0.04, 0.75  # of the picture
MIN_OVERLAP = 0.8  # intersection over union; a square's with a circle in its box is 0.785
MAX_ASPECT = 1.45
TIP = 0.15  # of a triangle's width: how wide its apex is, which a small decoder rounds off


@dataclass(frozen=True)
class Verdict:
    """What a picture shows; each field may be `unclear`."""

    shape: str
    color: str
    background: str

    def prompt(self) -> str:
        """The prompt that asks for this picture."""
        return f"a {self.color} {self.shape} on a {self.background} background"


def judge(image: Image.Image) -> Verdict:
    """Shape, color and background of a picture of one object, of any size and mode."""
    pixels = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BOX), dtype=np.float32)
    ground = _border_color(pixels)
    background = nearest_color(ground)
    mask = _object_mask(pixels, ground)
    if not MIN_AREA <= mask.mean() <= MAX_AREA:
        return Verdict(UNCLEAR, UNCLEAR, background)
    color = nearest_color(np.median(pixels[mask], axis=0))
    return Verdict(_shape_of(mask), color, background)


def nearest_color(rgb: np.ndarray) -> str:
    """The palette's name for an RGB triple in 0..255, or `unclear` when none is near."""
    distances = {name: float(np.linalg.norm(rgb - np.array(value))) for name, value in PALETTE.items()}
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] <= MAX_COLOR_DISTANCE else UNCLEAR


def _border_color(pixels: np.ndarray) -> np.ndarray:
    """Median RGB of the outermost three rows and columns: the object leaves most of them free."""
    ring = np.ones(pixels.shape[:2], dtype=bool)
    ring[3:-3, 3:-3] = False
    return np.median(pixels[ring], axis=0)


def _object_mask(pixels: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Pixels nearer to the object's color than to the ground's, stray ones removed by a 3x3 majority."""
    distance = np.linalg.norm(pixels - ground, axis=-1)
    contrast = np.percentile(distance, 97)
    mask = distance > max(contrast / 2, 40.0)
    padded = np.pad(mask, 1).astype(np.int32)
    height, width = mask.shape
    votes = sum(padded[dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3))
    return votes >= 5


def _shape_of(mask: np.ndarray) -> str:
    """The name in OUTLINES that overlaps the mask best within its bounding box."""
    rows, columns = np.flatnonzero(mask.sum(1) >= 2), np.flatnonzero(mask.sum(0) >= 2)
    if len(rows) == 0 or len(columns) == 0:
        return UNCLEAR
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = box.shape
    if max(height, width) > MAX_ASPECT * min(height, width):
        return UNCLEAR
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = (x + 0.5) / width * 2 - 1, (y + 0.5) / height * 2 - 1
    overlaps = {name: _overlap(box, outline(x, y)) for name, outline in OUTLINES.items()}
    best = max(overlaps, key=overlaps.__getitem__)
    return best if overlaps[best] >= MIN_OVERLAP else UNCLEAR


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks of the same size."""
    return float((one & other).sum() / max(1, (one | other).sum()))


# Each takes coordinates from -1 to 1 within the bounding box, y downwards, and says what lies inside.
OUTLINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda x, y: x * x + y * y <= 1,
    "square": lambda x, y: np.ones_like(x, dtype=bool),
    "triangle": lambda x, y: np.abs(x) <= TIP + (1 - TIP) * (y + 1) / 2,
}
