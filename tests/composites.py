# SPDX-License-Identifier: MIT
"""Composites by hand, for the tests: every pixel's distance to every white one."""

from __future__ import annotations

from typing import Any

import numpy
from PIL import Image


def laid_over(made: Image.Image, source: Image.Image, mask: Image.Image, reach: float) -> Any:
    """float (height, width, 3): ``made`` in the white of ``mask``, ``source`` from ``reach`` pixels outward, the share
    falling evenly between."""
    white = numpy.argwhere(numpy.asarray(mask.convert("L")) >= 128).astype(numpy.float32)
    rows, columns = numpy.mgrid[0 : source.height, 0 : source.width]
    share = numpy.zeros((source.height, source.width))
    for row, column in white:
        distance = numpy.hypot(rows - row, columns - column)
        share = numpy.maximum(share, numpy.clip(1 - distance / reach, 0, 1) if reach > 0 else distance == 0)
    painting, below = (numpy.asarray(picture.convert("RGB"), float) for picture in (made, source))
    return painting * share[..., None] + below * (1 - share[..., None])
