# SPDX-License-Identifier: MIT
"""Pictures: read whatever users send as 8-bit RGB (or a gray mask), write PNG, JPEG or WebP.

Only raster formats with a magic number are tried: Pillow would run Ghostscript for an EPS, and takes nearly
any bytes for a TGA. The number of pixels is checked from the header, before any of them is decoded.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from localai_diffusers.errors import BackendError, InvalidRequest, OutputError
from localai_diffusers.media import pixels
from localai_diffusers.media.comments import text_of
from localai_diffusers.media.files import (
    DEFAULT_MAX_BYTES,
    check_source,
    decode_reference,
    read_regular_file,
    shown,
    uncounted,
)
from localai_diffusers.patches import pillow_limit

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "QOI")
_BY_EXTENSION = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_MODES = {"PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), "JPEG": ("L", "RGB"), "WEBP": ("RGB", "RGBA")}
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {},
    # Not "optimize": Pillow sizes its buffer by the picture, and noise at full chroma overflows it.
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95, "method": 4},
}
_MAX_SIDE = {"PNG": 2**31 - 1, "JPEG": 65535, "WEBP": 16383}
# An EXIF segment of a JPEG holds 64 KiB, and the text is UTF-16 in it.
_MAX_EXIF_CHARACTERS = 30_000


def read_image(
    data: bytes | str | Path,
    field: str,
    *,
    max_pixels: int,
    mode: str = "RGB",
    max_bytes: int = DEFAULT_MAX_BYTES,
    take: Callable[[int], None] = uncounted,
) -> Image.Image:
    """The picture in ``data`` (bytes, or the path of a file) as 8-bit ``mode``, "RGB", "RGBA" or "L" (a mask).

    The first frame of an animation, as :func:`~localai_diffusers.media.pixels.as_shown` has it: upright, in sRGB,
    scaled, transparency on white for RGB, kept for RGBA, on black for a mask. Raises InvalidRequest naming ``field``
    (and the path) for what isn't a whole picture or has more than ``max_pixels`` pixels. ``take`` is told, before any
    pixel is decoded, how many bytes that will take at its peak, and may refuse it.
    """
    name = f"{field}: {shown(data)}" if isinstance(data, (str, Path)) else f"{field}: the payload"
    content = data if isinstance(data, bytes) else read_regular_file(data, field, max_bytes)
    try:
        image = _open(content)
        _check_pixels(image, name, max_pixels)
        take(_peak_bytes(image))
        image.load()
        _check_pixels(image, name, max_pixels)  # an ICO may hold more than its directory says
        return pixels.as_shown(image, mode, content)
    except (BackendError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise nearly anything on a broken file
        raise InvalidRequest(
            f"{name} isn't a picture that can be read ({_reason(error)}); "
            "send a whole PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF file"
        ) from error


# Formats whose frames follow one another in time; a TIFF's, an icon's and a stereo photo's lie beside one another.
_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")


def is_picture(value: Any) -> bool:
    """Whether it is one of Pillow's: tensors have a ``size`` and a ``resize`` too, and mean others."""
    return isinstance(value, Image.Image)


def is_animated(data: bytes) -> bool:
    """Whether ``data`` is a picture of several frames that follow one another."""
    try:
        return frame_count(_open(data)) > 1
    except (OSError, ValueError, SyntaxError):
        return False


def frame_count(image: Image.Image) -> int:
    """How many frames an open picture has that follow one another, 1 for a still."""
    return getattr(image, "n_frames", 1) if image.format in _ANIMATED else 1


def open_frames(data: bytes) -> Image.Image:
    """An open, undecoded picture; its ``n_frames`` and ``seek`` serve animations. Raises what Pillow
    raises.
    """
    return _open(data)


def _open(content: bytes) -> Image.Image:
    pillow_limit.lift()
    Image.init()
    return Image.open(io.BytesIO(content), formats=[name for name in _FORMATS if name in Image.OPEN])


def _check_pixels(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise InvalidRequest(f"{name} has {width}x{height} pixels, the limit is {max_pixels}; send a smaller picture")
    if not width or not height:
        raise InvalidRequest(f"{name} has no pixels; send a picture of at least 1x1")


def picture_bytes(image: Image.Image) -> int:
    """What the decoded picture takes: Pillow holds a gray pixel in one byte, one of any colors in four."""
    return image.width * image.height * (1 if image.mode in ("1", "L", "P") else 4)


def _peak_bytes(image: Image.Image) -> int:
    """What reading it takes: the picture and its copy in our mode, one more to convert its colors, and two more to put
    transparency on paper."""
    copies = 2 if image.mode in ("1", "L", "RGB", "CMYK", "YCbCr") and not image.has_transparency_data else 4
    return image.width * image.height * 4 * (copies + ("icc_profile" in image.info))


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no known picture format"
    return " ".join(str(error).split()) or type(error).__name__


def read_inpaint_json(
    path: str | Path,
    field: str,
    *,
    max_pixels: int,
    max_bytes: int = DEFAULT_MAX_BYTES,
    take: Callable[[int], None] = uncounted,
) -> tuple[Image.Image, Image.Image] | None:
    """(picture RGB, mask L) of the core's inpainting file, or None where ``path`` holds something else.

    LocalAI's /v1/images/inpainting sends as ``src`` a JSON file ``{"image": base64, "mask_image": base64}``;
    it is known by its first byte, since file staging drops the extension. White in the mask means: repaint.
    """
    with open(check_source(path, field, max_bytes), "rb") as file:
        if not file.read(256).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
            return None
    content = _parse_json(path, field, max_bytes, take)
    parts = []
    for key, mode in (("image", "RGB"), ("mask_image", "L")):
        value = content.get(key)
        if not isinstance(value, str) or not value:
            raise InvalidRequest(
                f"{field}: {shown(path)} has no {key!r}; the JSON must hold image and mask_image as base64"
            )
        payload = decode_reference(
            value if value.startswith("data:") else f"data:;base64,{value}", f"{field}.{key}", max_bytes
        )
        parts.append(read_image(payload, f"{field}.{key}", max_pixels=max_pixels, mode=mode, take=take))
    return parts[0], parts[1]


def _parse_json(path: str | Path, field: str, max_bytes: int, take: Callable[[int], None]) -> dict[str, Any]:
    try:
        content = json.loads(read_regular_file(path, field, max_bytes, take).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InvalidRequest):
            raise
        raise InvalidRequest(
            f"{field}: {shown(path)} begins like JSON but isn't ({error}); send a picture, or "
            'the JSON {"image": base64, "mask_image": base64}'
        ) from error
    return content


def image_format(dst: str) -> str:
    """Pillow's name of the format that ``dst`` asks for: PNG whatever the extension, save .jpg, .jpeg,
    .webp.
    """
    return _BY_EXTENSION.get(Path(dst).suffix.lower(), "PNG")


def save_image(image: Image.Image, path: Path, format: str, metadata: dict[str, str] | None = None) -> None:
    """Write ``image`` to ``path`` as ``format`` ("PNG", "JPEG" or "WEBP"), whatever the path's suffix.

    ``metadata``: PNG text chunks by key; in JPEG and WebP the text of "parameters" (else all, a line each)
    goes into the EXIF UserComment, where A1111's readers look. Raises OutputError if the format can't hold
    the size.
    """
    limit = _MAX_SIDE[format]
    if max(image.size) > limit:
        raise OutputError(
            f"dst: {format} holds at most {limit} pixels a side, the picture has {image.width}x"
            f"{image.height}; give a dst that ends in .png"
        )
    if image.mode not in _MODES[format]:
        image = _storable(image, format)
    extra = _text_chunks(metadata) if format == "PNG" else _exif_comment(metadata)
    buffer = io.BytesIO()  # Pillow's JPEG writer says nothing of why a write to a file failed
    image.save(buffer, format=format, **_SAVE_OPTIONS[format], **extra)
    path.write_bytes(buffer.getbuffer())


def _storable(image: Image.Image, format: str) -> Image.Image:
    if format != "JPEG" and image.has_transparency_data:
        return image.convert("RGBA")
    return pixels.flat(pixels.eight_bits(image), "RGB")


def _text_chunks(metadata: dict[str, str] | None) -> dict[str, Any]:
    chunks = PngImagePlugin.PngInfo()
    for key, text in (metadata or {}).items():
        chunks.add_text(key, text.replace("\0", " "))  # iTXt by itself where Latin-1 can't hold the text
    return {"pnginfo": chunks}


def _exif_comment(metadata: dict[str, str] | None) -> dict[str, Any]:
    if not metadata:
        return {}
    text = text_of(metadata)
    exif = Image.Exif()
    comment = b"UNICODE\0" + text[:_MAX_EXIF_CHARACTERS].encode("utf-16-be", errors="replace")
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    return {"exif": exif}
