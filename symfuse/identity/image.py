"""One open file, decoded: whether it is an image that loads, and which pixels a loader sees (digest.py).

This module and digest.py alone import Pillow, and only worker processes import them: see worker.py.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import mmap
import os
import re
import warnings
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image, UnidentifiedImageError

from symfuse.identity.digest import image_digest, pieces, traits
from symfuse.identity.reason import Reason, refusal
from symfuse.identity.signature import begins_as_image
from symfuse.identity.sniff import HEAD_BYTES, format_of, is_text, what_else
from symfuse.identity.verdict import Verdict, finding

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from PIL import ImageFile

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

#: Formats that Pillow may read and we have a signature of: how both call them.
PILLOWS_NAMES = {
    **{name: name for name in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "AVIF", "PSD", "ICO", "DDS", "QOI")},
    "WebP": "WEBP",
    "JPEG 2000": "JPEG2000",
}
#: What Pillow says of a file that ends too early.
WORDS_OF_CUT_FILES = ("truncated", "not enough", "unexpected end", "premature end")


def prepare() -> None:
    """Load every decoder now: a worker cannot open further files once it is confined."""
    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
    Image.init()
    for name in LATE_IMPORTS:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def examine(fd: int) -> bytes:
    """The finding on an open file, and what its decoder says (reason.py). The descriptor stays open.

    What storage fails to read is UNKNOWN.

    Errors: MemoryError, so that a process with all its memory at hand can try again.
    """
    with open(fd, "rb", closefd=False) as source:
        found = _examine(source, fd)
    return _examine_again(fd, found) if found[0] in (Verdict.BROKEN, Verdict.NOT_AN_IMAGE) else found


def _examine_again(fd: int, found: bytes) -> bytes:
    """Decoders do not say whether storage was their trouble. So see to that, and believe only what comes of it then.

    A broken image is read into memory first, for some decoders read behind our back; not one beyond MAX_AGAIN_BYTES.
    Errors: MemoryError.
    """
    try:
        content = _content(fd) if found[0] == Verdict.BROKEN else None
    except OSError:
        return finding(Verdict.UNKNOWN)
    if content is not None:
        return _examine(io.BytesIO(content), fd)
    file = _File(fd, closefd=False)
    with io.BufferedReader(file) as source:
        found = _examine(source, fd)
    return finding(Verdict.UNKNOWN) if file.has_failed else found


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


def _examine(source: BinaryIO, fd: int) -> bytes:
    """Errors: MemoryError."""
    try:
        image = Image.open(source, formats=[name for name in CERTAIN_FORMATS if name in Image.OPEN])
    except (MemoryError, Image.DecompressionBombError) as error:
        return _broken(error)
    except Exception:
        return _examine_rare(source, fd)
    try:
        return finding(Verdict.OK, _loaded_digest(image, fd))
    except Exception as error:  # decoders of broken files raise anything: OSError, SyntaxError, struct.error...
        return _broken(error)


def _examine_rare(source: BinaryIO, fd: int) -> bytes:
    """For what Pillow's other decoders take. They err about what is none of their files. Errors: MemoryError."""
    rare = [name for name in Image.ID if name not in FORBIDDEN_FORMATS and name not in CERTAIN_FORMATS]
    try:
        return finding(Verdict.RARE, _loaded_digest(Image.open(source, formats=rare), fd))
    except MemoryError:
        raise
    except Exception as error:
        return _no_image(source, error)


def format_name(fd: int) -> str | None:
    """What Pillow calls the format of an open file that it decodes."""
    with open(fd, "rb", closefd=False) as source, contextlib.suppress(Exception):
        return Image.open(source, formats=[name for name in Image.ID if name not in FORBIDDEN_FORMATS]).format
    return None


def _broken(error: Exception, verdict: Verdict = Verdict.BROKEN) -> bytes:
    """What a decoder said of a file that is broken. Errors: MemoryError."""
    if isinstance(error, MemoryError):
        raise error
    words = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        pixels = re.search(r"\d+", words)
        return refusal(verdict, Reason.TOO_LARGE, pixels=int(pixels[0]) if pixels else 0, most=MAX_PIXELS)
    is_cut = isinstance(error, EOFError) or any(word in words.lower() for word in WORDS_OF_CUT_FILES)
    return refusal(verdict, Reason.TRUNCATED if is_cut else Reason.SAID, words=words)


def _no_image(source: BinaryIO, error: Exception) -> bytes:
    """What a file is of which Pillow knows nothing, as it says in an `error`. Errors: MemoryError."""
    try:
        head, size = _head(source)
    except OSError:
        return refusal(Verdict.NOT_AN_IMAGE, Reason.UNKNOWN)
    form = format_of(head)
    if form is None or (form == "BMP" and is_text(head)):
        return refusal(Verdict.NOT_AN_IMAGE, what_else(head, size))
    if form not in PILLOWS_NAMES or PILLOWS_NAMES[form] not in Image.OPEN:
        verdict = Verdict.BROKEN if begins_as_image(head) else Verdict.NOT_AN_IMAGE
        return refusal(verdict, Reason.UNREAD_FORMAT, words=form)
    if form == "WebP" and int.from_bytes(head[4:8], "little") + 8 > size:
        return refusal(Verdict.NOT_AN_IMAGE, Reason.TRUNCATED)
    if not isinstance(error, UnidentifiedImageError):
        return _broken(error, Verdict.NOT_AN_IMAGE)
    return refusal(Verdict.NOT_AN_IMAGE, Reason.SAID, words=f"the header of this {form} is damaged or cut")


def _head(source: BinaryIO) -> tuple[bytes, int]:
    """The first bytes of a file, and how many it has. Errors: OSError."""
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    return source.read(HEAD_BYTES), size


def _loaded_digest(image: ImageFile.ImageFile, fd: int) -> bytes:
    """Errors: whatever the decoder raises; MemoryError also where it has other words for that."""
    pixels = image.width * image.height
    with image:
        seen = traits(image, fd)
        try:
            image.load()
        except Exception:
            _check_memory(pixels * BYTES_PER_PIXEL)
            raise
        return image_digest(image, seen, fd)


def _check_memory(size: int) -> None:
    """Errors: MemoryError when so many bytes are not to be had."""
    try:
        mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError as error:
        raise MemoryError from error
