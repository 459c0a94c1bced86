# SPDX-License-Identifier: MIT
"""Pillow has no limit of its own on a picture's pixels.

For: Pillow 12 and 13. Its limit is a number of the process that only warns at first, then raises, whatever the user's
limit is; ours is LOCALAI_DIFFUSERS_MAX_PIXELS, held by every reader on the header, before anything is decoded.
May go: when ``Image.open`` takes a limit.
"""

from __future__ import annotations


def lift() -> None:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
