"""When two images are the same to `--dedup pixels`: digests that are equal only where every reader gets the same.

Two images are the same when Pillow decodes them to the same mode, width, height and pixels, and when palette,
transparency and orientation are equal, too. No mode is ever equal to another: grey is not RGB, and RGB with an opaque
alpha channel is not RGB, for there are readers that tell them apart. What a file says of colour profile, gamma,
resolution, or in words, does not count. Other readers must not tell apart what is called the same, so

- across formats only plain images are compared: grey and RGB without anything else, and 16 bits of grey. What readers
  make of palettes, alpha and bitmaps is not the same from one format to the next;
- JPEGs are compared by what is decoded, their headers and scans, and not by pixels, on which decoders disagree. Of
  small JPEGs that were saved again at quality 75 to 100, 663 were equal to the one before in Pillow, and 639 of these
  not in TensorFlow;
- whatever Pillow may not see all of is compared by its bytes: `traits` knows what it sees, and all else is not trusted.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from blake3 import blake3
from PIL import Image

from symfuse.identity.verdict import DIGEST_BYTES

if TYPE_CHECKING:
    from PIL import ImageFile

#: Pixels that are hashed at a time, so that no second copy of a large image is made.
STRIP_PIXELS = 1 << 20
#: Bytes read at a time where a file is read rather than decoded.
PIECE_BYTES = 1 << 20

#: What every reader takes for the same from whatever format.
_PLAIN_MODES = {"L", "RGB", "I;16"}
#: 16 bits of grey in whatever order of bytes.
_GREY_16_MODES = {"I;16", "I;16L", "I;16B", "I;16N"}
_ORIENTATION = 274
_UPRIGHT = 1


def traits(image: ImageFile.ImageFile, fd: int) -> str | None:
    """What must be equal beside pixels and what is said of them; None where Pillow may not see all of the file.

    To be asked before the image is loaded. Errors: MemoryError.
    """
    describe = _FORMATS.get(image.format or "")
    try:
        return describe(image, fd) if describe else None
    except MemoryError:
        raise
    except Exception:  # a header with values that nobody expects
        return None


def image_digest(image: ImageFile.ImageFile, seen: str | None, fd: int) -> bytes:
    """Equal for the same images. `seen` is what `traits` said before the image was loaded.

    Errors: OSError, MemoryError.
    """
    if seen is None:
        return contents_digest(fd)
    try:
        said = _orientation(image), image.info.get("transparency")
        if image.format == "JPEG":
            return _jpeg_digest(image, said, fd)
    except (MemoryError, OSError):
        raise
    except Exception:  # Exif or segments that nobody understands
        return contents_digest(fd)
    return _pixels_digest(image, seen, said)


def _pixels_digest(image: Image.Image, seen: str, said: tuple[object, object]) -> bytes:
    mode = "I;16" if image.mode in _GREY_16_MODES else image.mode
    is_plain = mode in _PLAIN_MODES and not seen and said == (_UPRIGHT, None)
    family = "any format" if is_plain else image.format
    hasher = blake3(f"pixels {mode} {image.width} {image.height} {family} {seen!r} {said!r} ".encode())
    if mode == "P":
        hasher.update(repr(image.getpalette()).encode())
    for strip in _strips(image, "I" if mode == "I;16" else mode):
        hasher.update(strip.tobytes())
    return hasher.digest(DIGEST_BYTES)


def _strips(image: Image.Image, mode: str) -> Iterator[Image.Image]:
    """The image in another mode, a few rows at a time."""
    width, height = image.size
    rows = max(1, STRIP_PIXELS // max(1, width))
    for top in range(0, height, rows):
        strip = image if rows >= height else image.crop((0, top, width, min(top + rows, height)))
        yield strip if strip.mode == mode else strip.convert(mode)


def _orientation(image: Image.Image) -> object:
    """By Exif or XMP."""
    return image.getexif().get(_ORIENTATION, _UPRIGHT)


def contents_digest(fd: int) -> bytes:
    """Equal for files of the same bytes, and never equal to any other digest. Errors: OSError."""
    hasher = blake3(b"file ")
    for piece in pieces(fd):
        hasher.update(piece)
    return hasher.digest(DIGEST_BYTES)


def pieces(fd: int, offset: int = 0) -> Iterator[bytes]:
    """All that a file holds from there on, up to PIECE_BYTES at a time. Errors: OSError."""
    while piece := os.pread(fd, PIECE_BYTES, offset):
        offset += len(piece)
        yield piece


# -- what Pillow sees all of, format by format -------------------------------------------------------------------------


def _tile(image: ImageFile.ImageFile) -> tuple[str, int, tuple[Any, ...]]:
    """How it is stored: the codec, where its data begins, and the codec's arguments, of which the raw mode is first.

    Errors: ValueError unless it is one piece that covers all of the image.
    """
    ((codec, extents, offset, args),) = image.tile
    if extents != (0, 0, *image.size):
        raise ValueError(extents)
    return codec, offset, args if isinstance(args, tuple) else (args,)


_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_PNG_GREY_BELOW_8_BITS = {"1", "L;2", "L;4"}
_PNG_MODES = {"L", "I;16B", "LA", "RGB", "RGBA", "P;1", "P;2", "P;4", "P", *_PNG_GREY_BELOW_8_BITS}


def _png(image: ImageFile.ImageFile, fd: int) -> str | None:
    """Not of several frames, nor of 16 bits of colour. Grey of few bits is scaled up by some readers alone.

    Nor without an end, which Pillow does not miss.
    """
    _codec, _offset, (raw_mode,) = _tile(image)
    is_animated = getattr(image, "n_frames", 1) != 1 or getattr(image, "custom_mimetype", None) == "image/apng"
    end = os.pread(fd, len(_PNG_END), os.fstat(fd).st_size - len(_PNG_END))
    if is_animated or raw_mode not in _PNG_MODES or end != _PNG_END:
        return None
    if raw_mode not in _PNG_GREY_BELOW_8_BITS:
        return ""
    return None if "transparency" in image.info else str(raw_mode)


#: Bits per pixel of the raw modes. With 16 or 32 bits Pillow widens or drops some of them.
_BMP_BITS = {"BGR": 24, "L": 8, "P": 8}
#: How many colours a header names where the palette has 256. Pillow takes a grey one for none, even if it is shorter.
_BMP_WHOLE_PALETTE = (0, 256)


def _bmp(image: ImageFile.ImageFile, fd: int) -> str | None:
    codec, _offset, args = _tile(image)
    if codec != "raw" or args[0] not in _BMP_BITS:
        return None
    bits = _BMP_BITS[args[0]]
    if args[1] != (image.width * bits + 31) // 32 * 4:
        return None
    if args[0] != "L":
        return ""
    header_size, colours = struct.unpack("<I28xI", os.pread(fd, 36, 14))
    is_whole = header_size >= 40 and colours in _BMP_WHOLE_PALETTE
    return "" if is_whole else None


#: Bits per pixel of the raw modes.
_PPM_BITS = {"1;I": 1, "L": 8, "RGB": 24}


def _ppm(image: ImageFile.ImageFile, fd: int) -> str | None:
    """Not what Pillow scales to 8 or 16 bits, and no file with a further image behind the first."""
    codec, offset, args = _tile(image)
    if codec != "raw" or args[0] not in _PPM_BITS:
        return None
    row = (image.width * _PPM_BITS[args[0]] + 7) // 8
    return "" if os.fstat(fd).st_size == offset + row * image.height else None


def _gif(image: ImageFile.ImageFile, fd: int) -> str | None:
    """A single frame that fills the screen. Even grey GIFs are arrays of other shapes to TensorFlow and OpenCV.

    OpenCV gives what is transparent the colour of the background.
    """
    _tile(image)
    screen = struct.unpack("<HH", os.pread(fd, 4, 6))
    if screen != image.size or getattr(image, "is_animated", True):
        return None
    return f"background {image.info.get('background')}"


def _webp(image: ImageFile.ImageFile, fd: int) -> str | None:
    """Only what is lossless: of the other, pixels depend on the decoder. To TensorFlow each is an animation."""
    if getattr(image, "n_frames", 0) != 1:
        return None
    offset = 12
    for _ in range(3):
        name, size = struct.unpack("<4sI", os.pread(fd, 8, offset))
        if name == b"VP8L":
            return "WEBP"
        if name not in {b"VP8X", b"ICCP"}:
            return None
        offset += 8 + size + size % 2
    return None


_SUBFILE_TYPE, _WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_FILL_ORDER, _SAMPLES, _PLANES, _EXTRA, _FORMAT = 266, 277, 284, 338, 339
_STRIPS, _ROWS, _STRIP_SIZES, _TILE_WIDTH, _TILE_LENGTH, _TILES, _TILE_SIZES = 273, 278, 279, 322, 323, 324, 325
#: Rows of a strip that is the only one.
_ALL_ROWS = 0xFFFF_FFFF
_TIFF_NEEDED = {_WIDTH, _LENGTH, _COMPRESSION, _PHOTOMETRIC}
#: Tags that change no reader's mind but in ways that are looked at here. Any other may stand for more images, or for
#: another meaning of this one: SubIFDs, colour maps, masks, Photoshop's layers; ImageJ and tifffile say in the
#: description how many images lie behind the first. By numbers: make, model, resolution, software, date, artist, host,
#: predictor, XMP, copyright, IPTC, Exif, ICC, GPS.
_TIFF_TAGS = {
    *_TIFF_NEEDED,
    *(_SUBFILE_TYPE, _BITS, _FILL_ORDER, _SAMPLES, _PLANES, _EXTRA, _FORMAT, _ORIENTATION),
    *(_STRIPS, _ROWS, _STRIP_SIZES, _TILE_WIDTH, _TILE_LENGTH, _TILES, _TILE_SIZES),
    *(271, 272, 282, 283, 296, 305, 306, 315, 316, 317, 700, 33432, 33723, 34665, 34675, 34853),
}
#: None, CCITT (3), LZW, deflate (2), PackBits, LZMA, zstd: what loses nothing.
_TIFF_LOSSLESS = {1, 2, 3, 4, 5, 8, 32946, 32773, 34925, 50000}
#: Photometric interpretation, bits of each sample, meaning of extra samples, format of samples (1: unsigned, 3: float).
_TIFF_LAYOUTS = {
    *((1, (1,), (), 1), (1, (8,), (), 1), (1, (16,), (), 1), (1, (32,), (), 3), (1, (8, 8), (2,), 1)),
    *((2, (8, 8, 8), (), 1), (2, (8, 8, 8, 8), (2,), 1), (5, (8, 8, 8, 8), (), 1)),
}


def _tiff(image: ImageFile.ImageFile, _fd: int) -> str | None:
    """Orientation, which Pillow applies."""
    tags: dict[int, Any] = dict(getattr(image, "tag_v2", {}))
    if getattr(image, "is_animated", True) or not _TIFF_NEEDED <= tags.keys() <= _TIFF_TAGS:
        return None
    bits, formats = tags.get(_BITS, (1,)), set(tags.get(_FORMAT, (1,)))
    is_simple = (
        (tags[_PHOTOMETRIC], bits, tags.get(_EXTRA, ()), *formats) in _TIFF_LAYOUTS
        and tags[_COMPRESSION] in _TIFF_LOSSLESS
        and tags.get(_SAMPLES, 1) == len(bits)
        and tags.get(_PLANES, 1 if len(bits) == 1 else None) == 1
        and tags.get(_SUBFILE_TYPE, 0) == 0
        and tags.get(_FILL_ORDER, 1) == 1
        and _are_pieces_whole(tags, sum(bits))
    )
    if not is_simple:
        return None
    orientation = _orientation(image)
    return "" if orientation == _UPRIGHT else f"orientation {orientation}"


def _are_pieces_whole(tags: dict[int, Any], bits: int) -> bool:
    """Whether strips or tiles are as many and as long as they must be. Each reader takes others in its own way."""
    width, height = tags[_WIDTH], tags[_LENGTH]
    if _STRIPS in tags:
        rows = tags.get(_ROWS, _ALL_ROWS)
        if height < rows < _ALL_ROWS:
            return False
        count = -(-height // rows)
        size = (width * bits + 7) // 8 * height
        is_long_enough = tags[_COMPRESSION] != 1 or sum(tags[_STRIP_SIZES]) == size
        return bool(is_long_enough and len(tags[_STRIPS]) == len(tags[_STRIP_SIZES]) == count)
    count = -(-width // tags[_TILE_WIDTH]) * -(-height // tags[_TILE_LENGTH])
    return bool(len(tags[_TILES]) == len(tags[_TILE_SIZES]) == count)


# -- JPEG --------------------------------------------------------------------------------------------------------------

_SOS, _APP0, _COM = 0xDA, 0xE0, 0xFE
#: Markers of segments that have a length.
_SEGMENTS = {*range(0xC0, 0xD0), *range(0xDA, 0xFF)}
#: Application segments that say nothing of pixels: how they begin. JFIF is looked at; any other may be a part of the
#: image, as Adobe's colour transform and the residuals of JPEG XT are, or an index of more of them.
_METADATA = (b"Exif\0", b"http", b"ICC_PROFILE\0", b"Photoshop", b"Ducky", b"JFXX\0")


def _jpeg(_image: ImageFile.ImageFile, _fd: int) -> str | None:
    return ""


def _jpeg_digest(image: Image.Image, said: tuple[object, object], fd: int) -> bytes:
    """Errors: OSError; ValueError unless it begins with segments."""
    hasher = blake3(f"JPEG {image.mode} {image.width} {image.height} {said!r} ".encode())
    for part in _jpeg_parts(fd):
        hasher.update(part)
    return hasher.digest(DIGEST_BYTES)


def _jpeg_parts(fd: int) -> Iterator[bytes]:
    """All but comments and metadata, up to the end of the file. Errors: OSError, ValueError."""
    offset = 2
    while True:
        start, marker, size = struct.unpack(">BBH", os.pread(fd, 4, offset).ljust(4, b"\0"))
        if start != 0xFF or marker not in _SEGMENTS or size < 2:
            raise ValueError(f"no segment at {offset}")
        if marker == _SOS:
            break
        segment = os.pread(fd, 2 + size, offset)
        if marker == _APP0 and segment[4:9] == b"JFIF\0":
            yield b"JFIF"
        elif marker != _COM and not (marker >= _APP0 and segment[4:].startswith(_METADATA)):
            yield segment
        offset += 2 + size
    yield from pieces(fd, offset)


_FORMATS: dict[str, Callable[[ImageFile.ImageFile, int], str | None]] = {
    "BMP": _bmp,
    "GIF": _gif,
    "JPEG": _jpeg,
    "PNG": _png,
    "PPM": _ppm,
    "TIFF": _tiff,
    "WEBP": _webp,
}
