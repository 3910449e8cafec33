"""One open file, decoded: whether it is an image that loads, and which pixels a loader sees.

This is the only module that imports Pillow, and only worker processes import it: see worker.py.

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

import itertools
import os
import warnings
from collections.abc import Iterator
from typing import BinaryIO

from blake3 import blake3
from PIL import Image

from symfuse.identity.verdict import DIGEST_BYTES, NO_DIGEST, Verdict, finding

#: The most pixels that Pillow's own loaders accept by default, at which `load_img` raises; a 150-megapixel photograph
#: passes. Twice as large as `Image.MAX_IMAGE_PIXELS`, from which on Pillow warns.
MAX_PIXELS = 2 * 89_478_485
#: Pixels that are converted and hashed at a time, so that no second copy of a large image is made.
STRIP_PIXELS = 1 << 20
#: Bytes read at a time where a file is read rather than decoded.
PIECE_BYTES = 1 << 20

#: Formats by which a file is an image whatever its name: each begins with a signature that no other file has by chance.
#: Pillow would take nearly any bytes for TGA or PCD.
CERTAIN_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")

#: Pillow would run Ghostscript.
FORBIDDEN_FORMATS = {"EPS"}

_INTEGER_MODES = {"I", "I;16", "I;16L", "I;16B", "I;16N"}
_COLOUR_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa"}


def prepare() -> None:
    """Load every decoder now: a worker cannot open further files once it is confined."""
    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
    Image.init()


def examine(fd: int) -> bytes:
    """The finding on an open file. The descriptor stays open.

    Errors: MemoryError, so that a process with all its memory at hand can try again.
    """
    try:
        with open(fd, "rb", closefd=False) as file:
            verdict, digest = _decode(file)
    except MemoryError:
        raise
    except Exception:  # decoders of broken files raise anything: OSError, SyntaxError, struct.error, zlib.error...
        verdict, digest = Verdict.BROKEN, NO_DIGEST
    # What is no image is known by its head, and can be of any size.
    looked_at = {Verdict.BROKEN: None, Verdict.NOT_AN_IMAGE: 1}
    if verdict in looked_at and not _is_readable(fd, pieces=looked_at[verdict]):
        verdict = Verdict.UNKNOWN  # not the file is broken, but the storage
    return finding(verdict, digest)


def _decode(file: BinaryIO) -> tuple[Verdict, bytes]:
    """The verdict, and the pixels' digest if it loads. Errors: whatever the decoder of a broken image raises."""
    try:
        image = Image.open(file, formats=[name for name in CERTAIN_FORMATS if name in Image.OPEN])
    except (MemoryError, Image.DecompressionBombError):
        raise
    except Exception:
        return _decode_rare(file)
    return Verdict.OK, _loaded_digest(image, file)


def _decode_rare(file: BinaryIO) -> tuple[Verdict, bytes]:
    """For what Pillow's other decoders take. They err about what is none of their files. Errors: MemoryError."""
    rare = [name for name in Image.ID if name not in FORBIDDEN_FORMATS and name not in CERTAIN_FORMATS]
    try:
        return Verdict.RARE, _loaded_digest(Image.open(file, formats=rare), file)
    except MemoryError:
        raise
    except Exception:
        return Verdict.NOT_AN_IMAGE, NO_DIGEST


def _loaded_digest(image: Image.Image, file: BinaryIO) -> bytes:
    """Errors: whatever the decoder raises."""
    with image:
        deep = _is_cut_to_8_bits(image)
        image.load()
        return _contents_digest(file.fileno()) if deep else pixels_digest(image)


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


def _is_cut_to_8_bits(image: Image.Image) -> bool:
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


def _contents_digest(fd: int) -> bytes:
    hasher = blake3(b"file ")
    for piece in _pieces(fd):
        hasher.update(piece)
    return hasher.digest(DIGEST_BYTES)


def _is_readable(fd: int, *, pieces: int | None) -> bool:
    """Whether some pieces, or all, can be read."""
    try:
        for _ in itertools.islice(_pieces(fd), pieces):
            pass
    except OSError:
        return False
    return True


def _pieces(fd: int) -> Iterator[bytes]:
    offset = 0
    while piece := os.pread(fd, PIECE_BYTES, offset):
        offset += len(piece)
        yield piece
