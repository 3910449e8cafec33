"""Digests of an image's pixels, and which pixels those are: when two images are the same to `--dedup pixels`.

Two images are the same when Pillow decodes them to the same width, height and pixels. What a file says beside its
pixels (orientation, colour profile, resolution, text) does not count, because Keras' `load_img` does not apply it. Of
several frames the first counts. Pixels are compared in one of these forms:

- bitmaps, grey and palettes are compared as RGB, with an alpha channel where any pixel is not opaque;
- 16 and 32 bits of grey as 32-bit integers, never rounded to 8 bits; floating point as it is;
- any other mode (CMYK, LAB...) as it is, so never equal to RGB.

Pillow cuts 16-bit *colour* to 8 bits. Such a file is compared by its bytes instead: nothing is called the same that
another decoder can tell apart.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from blake3 import blake3
from PIL import Image

from symfuse.identity.verdict import DIGEST_BYTES

#: Pixels that are converted and hashed at a time, so that no second copy of a large image is made.
STRIP_PIXELS = 1 << 20
#: Bytes read at a time where a file is read rather than decoded.
PIECE_BYTES = 1 << 20

_INTEGER_MODES = {"I", "I;16", "I;16L", "I;16B", "I;16N"}
_COLOUR_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa"}


def pixels_digest(image: Image.Image) -> bytes:
    """Equal for images that load as the same pixels. Errors: MemoryError."""
    if image.mode in _INTEGER_MODES:
        return _digest(image, "I")
    if image.mode not in _COLOUR_MODES:
        return _digest(image, image.mode)
    return _digest_with_alpha(image) if image.has_transparency_data else _digest(image, "RGB")


def _digest(image: Image.Image, mode: str) -> bytes:
    hasher = _hasher(image, mode)
    for strip in _strips(image, mode):
        hasher.update(strip.tobytes())
    return hasher.digest(DIGEST_BYTES)


def _digest_with_alpha(image: Image.Image) -> bytes:
    """As without alpha, if every pixel turns out to be opaque."""
    colours, alphas = _hasher(image, "RGB"), blake3()
    opaque = True
    for strip in _strips(image, "RGBA"):
        alpha = strip.getchannel("A")
        opaque = opaque and alpha.getextrema() == (255, 255)
        colours.update(strip.convert("RGB").tobytes())
        alphas.update(alpha.tobytes())
    if not opaque:
        colours.update(b"alpha" + alphas.digest())
    return colours.digest(DIGEST_BYTES)


def _hasher(image: Image.Image, mode: str) -> blake3:
    return blake3(f"{mode} {image.width} {image.height} ".encode())


def _strips(image: Image.Image, mode: str) -> Iterator[Image.Image]:
    """The image in another mode, a few rows at a time."""
    width, height = image.size
    rows = max(1, STRIP_PIXELS // max(1, width))
    for top in range(0, height, rows):
        strip = image if rows >= height else image.crop((0, top, width, min(top + rows, height)))
        yield strip if strip.mode == mode else strip.convert(mode)


def is_cut_to_8_bits(image: Image.Image) -> bool:
    """Whether the file has more bits for a colour than Pillow will give. To be asked before the image is loaded."""
    if image.mode not in _COLOUR_MODES:
        return False
    return any(_is_deep(codec, args) for codec, _extents, _offset, args in getattr(image, "tile", None) or ())


def _is_deep(codec: str, args: object) -> bool:
    """Whether a codec is told to unpack 16 bits: by the name of its raw mode or, in PPM, by the highest value."""
    several = args if isinstance(args, tuple) else (args,)
    if codec in {"ppm", "ppm_plain"}:
        return bool(several[-1] > 255)
    return any(isinstance(arg, str) and ";16" in arg for arg in several)


def contents_digest(fd: int) -> bytes:
    """Equal for files of the same bytes, and never equal to a digest of pixels. Errors: OSError."""
    hasher = blake3(b"file ")
    for piece in pieces(fd):
        hasher.update(piece)
    return hasher.digest(DIGEST_BYTES)


def pieces(fd: int) -> Iterator[bytes]:
    """All that a file holds, up to PIECE_BYTES at a time. Errors: OSError."""
    offset = 0
    while piece := os.pread(fd, PIECE_BYTES, offset):
        offset += len(piece)
        yield piece
