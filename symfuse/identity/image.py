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

import contextlib
import importlib
import io
import mmap
import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from blake3 import blake3
from PIL import Image

from symfuse.identity.verdict import DIGEST_BYTES, NO_DIGEST, Verdict, finding

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: The most pixels that Pillow's own loaders accept by default, at which `load_img` raises; a 150-megapixel photograph
#: passes. Twice as large as `Image.MAX_IMAGE_PIXELS`, from which on Pillow warns.
MAX_PIXELS = 2 * 89_478_485
#: Pixels that are converted and hashed at a time, so that no second copy of a large image is made.
STRIP_PIXELS = 1 << 20
#: Bytes read at a time where a file is read rather than decoded.
PIECE_BYTES = 1 << 20

#: Memory for each pixel that no decoder was seen to take more of (WebP).
BYTES_PER_PIXEL = 17
#: See `_examine_again`.
MAX_AGAIN_BYTES = 512 << 20
#: What decoders import only when they need it.
LATE_IMPORTS = (
    *("copy", "PIL.ImageChops", "PIL.ImageColor", "PIL.ImageOps", "PIL.ImageSequence", "PIL.TiffTags"),
    *("encodings.ascii", "encodings.latin_1", "encodings.cp1252", "encodings.utf_16", "encodings.utf_16_be"),
)

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
    for name in LATE_IMPORTS:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def examine(fd: int) -> bytes:
    """The finding on an open file. The descriptor stays open.

    What storage fails to read is UNKNOWN.

    Errors: MemoryError, so that a process with all its memory at hand can try again.
    """
    with open(fd, "rb", closefd=False) as source:
        verdict, digest = _examine(source, fd)
    if verdict in (Verdict.BROKEN, Verdict.NOT_AN_IMAGE):
        return _examine_again(fd, verdict)
    return finding(verdict, digest)


def _examine_again(fd: int, verdict: Verdict) -> bytes:
    """Decoders do not say whether storage was their trouble. So see to that, and believe only what comes of it then.

    A broken image is read into memory first, for some decoders read behind our back; not one beyond MAX_AGAIN_BYTES.
    Errors: MemoryError.
    """
    try:
        content = _content(fd) if verdict is Verdict.BROKEN else None
    except OSError:
        return finding(Verdict.UNKNOWN)
    if content is not None:
        return finding(*_examine(io.BytesIO(content), fd))
    file = _File(fd, closefd=False)
    with io.BufferedReader(file) as source:
        found = _examine(source, fd)
    return finding(Verdict.UNKNOWN) if file.has_failed else finding(*found)


class _File(io.FileIO):
    """A file that notes when its storage fails."""

    has_failed = False

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        """As of any file."""
        try:
            return super().readinto(buffer)
        except OSError:
            self.has_failed = True
            raise

    def readall(self) -> bytes:
        """As of any file."""
        try:
            return super().readall()
        except OSError:
            self.has_failed = True
            raise


def _content(fd: int) -> bytes | None:
    """All that a file holds, None if that is too much. Errors: OSError."""
    pieces, size = [], 0
    for piece in _pieces(fd):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_AGAIN_BYTES:
            return None
    return b"".join(pieces)


def _examine(source: BinaryIO, fd: int) -> tuple[Verdict, bytes]:
    """A verdict, and the pixels' digest. Errors: MemoryError."""
    try:
        return _decode(source, fd)
    except MemoryError:
        raise
    except Exception:  # decoders of broken files raise anything: OSError, SyntaxError, struct.error, zlib.error...
        return Verdict.BROKEN, NO_DIGEST


def _decode(file: BinaryIO, fd: int) -> tuple[Verdict, bytes]:
    """The verdict, and the pixels' digest if it loads. Errors: whatever the decoder of a broken image raises."""
    try:
        image = Image.open(file, formats=[name for name in CERTAIN_FORMATS if name in Image.OPEN])
    except (MemoryError, Image.DecompressionBombError):
        raise
    except Exception:
        return _decode_rare(file, fd)
    return Verdict.OK, _loaded_digest(image, fd)


def _decode_rare(file: BinaryIO, fd: int) -> tuple[Verdict, bytes]:
    """For what Pillow's other decoders take. They err about what is none of their files. Errors: MemoryError."""
    rare = [name for name in Image.ID if name not in FORBIDDEN_FORMATS and name not in CERTAIN_FORMATS]
    try:
        return Verdict.RARE, _loaded_digest(Image.open(file, formats=rare), fd)
    except MemoryError:
        raise
    except Exception:
        return Verdict.NOT_AN_IMAGE, NO_DIGEST


def _loaded_digest(image: Image.Image, fd: int) -> bytes:
    """Errors: whatever the decoder raises; MemoryError also where it has other words for that."""
    pixels = image.width * image.height
    with image:
        deep = _is_cut_to_8_bits(image)
        try:
            image.load()
        except Exception:
            _check_memory(pixels * BYTES_PER_PIXEL)
            raise
        return _contents_digest(fd) if deep else pixels_digest(image)


def _check_memory(size: int) -> None:
    """Errors: MemoryError when so many bytes are not to be had."""
    try:
        mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError as error:
        raise MemoryError from error


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


def _pieces(fd: int) -> Iterator[bytes]:
    offset = 0
    while piece := os.pread(fd, PIECE_BYTES, offset):
        offset += len(piece)
        yield piece
