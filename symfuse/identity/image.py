"""One open file, decoded: whether it is an image that loads, and which pixels a loader sees (digest.py).

This module and digest.py alone import Pillow, and only worker processes import them: see worker.py.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import mmap
import warnings
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image

from symfuse.identity.digest import contents_digest, is_cut_to_8_bits, pieces, pixels_digest
from symfuse.identity.verdict import NO_DIGEST, Verdict, finding

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: The most pixels that Pillow's own loaders accept by default, at which `load_img` raises; a 150-megapixel photograph
#: passes. Twice as large as `Image.MAX_IMAGE_PIXELS`, from which on Pillow warns.
MAX_PIXELS = 2 * 89_478_485

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
    content, size = [], 0
    for piece in pieces(fd):
        content.append(piece)
        size += len(piece)
        if size > MAX_AGAIN_BYTES:
            return None
    return b"".join(content)


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
        deep = is_cut_to_8_bits(image)
        try:
            image.load()
        except Exception:
            _check_memory(pixels * BYTES_PER_PIXEL)
            raise
        return contents_digest(fd) if deep else pixels_digest(image)


def _check_memory(size: int) -> None:
    """Errors: MemoryError when so many bytes are not to be had."""
    try:
        mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError as error:
        raise MemoryError from error
