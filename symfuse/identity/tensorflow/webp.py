"""WebP, as libwebp reads it for TensorFlow: a still image whatever stands behind it, or all frames.

Sources: tensorflow/core/lib/webp/webp_io.cc and `DecodeWebP` in tensorflow/core/kernels/image/decode_image_op.cc;
`ParseHeadersInternal` in src/dec/webp_dec.c of libwebp. The pixels themselves are left to Pillow's libwebp.
"""

from __future__ import annotations

import struct

from symfuse.identity.tensorflow.refused import Refused

try:
    from PIL import _webp
except ImportError:  # a Pillow without WebP
    _webp = None  # type: ignore[assignment]

_CHUNK = struct.Struct("<4sI")
_RIFF_BYTES, _EXTENDED_BYTES = 12, 10
_MAX_PAYLOAD = (1 << 32) - 10
_MAX_AREA = 1 << 32
_HAS_ALPHA, _IS_ANIMATED = 0x10, 0x02
_LOSSY, _LOSSLESS, _EXTENDED, _ALPHA = b"VP8 ", b"VP8L", b"VP8X", b"ALPH"
_LOSSY_HEADER_BYTES, _LOSSLESS_HEADER_BYTES = 10, 5


def check(content: bytes) -> None:
    """Errors: Refused; MemoryError."""
    riff_size = int.from_bytes(content[4:8], "little")
    if not 4 + _CHUNK.size <= riff_size <= _MAX_PAYLOAD:
        raise Refused("a WebP with a header that is none")
    flags, canvas, at = _extended(content)
    if flags is not None and flags & _IS_ANIMATED:
        _check_animation(content, has_alpha=bool(flags & _HAS_ALPHA))
    else:
        _check_still(content, riff_size, canvas, at, flags)


def _extended(content: bytes) -> tuple[int | None, tuple[int, int] | None, int]:
    """Flags and canvas of an extended file, and where its chunks begin. Errors: Refused."""
    kind, size = _chunk(content, _RIFF_BYTES)
    if kind != _EXTENDED:
        return None, None, _RIFF_BYTES
    body = content[_RIFF_BYTES + _CHUNK.size :][:_EXTENDED_BYTES]
    if size != _EXTENDED_BYTES or len(body) < _EXTENDED_BYTES:
        raise Refused("a WebP with a header that is none")
    width, height = (1 + int.from_bytes(body[at : at + 3], "little") for at in (4, 7))
    if width * height >= _MAX_AREA:
        raise Refused(f"a WebP of {width} x {height} pixels")
    return int.from_bytes(body[:4], "little"), (width, height), _RIFF_BYTES + _CHUNK.size + _EXTENDED_BYTES


def _chunk(content: bytes, at: int) -> tuple[bytes, int]:
    """Name and size. Errors: Refused."""
    if len(content) < at + _CHUNK.size:
        raise Refused("a WebP that ends too early", is_cut=True)
    kind, size = _CHUNK.unpack_from(content, at)
    if size > _MAX_PAYLOAD:
        raise Refused("a WebP with a chunk of more bytes than can be")
    return kind, size


def _check_animation(content: bytes, *, has_alpha: bool) -> None:
    """Errors: Refused; MemoryError."""
    if not has_alpha:
        # DecodeWebP makes room for three channels and is given four: it writes beyond, and may end the process.
        raise Refused("an animated WebP without alpha, at which it writes beyond its memory")
    _decode(content)


def _check_still(content: bytes, riff_size: int, canvas: tuple[int, int] | None, at: int, flags: int | None) -> None:
    """Errors: Refused; MemoryError."""
    if riff_size > len(content) - _CHUNK.size:
        raise Refused("a WebP that ends too early", is_cut=True)
    alpha = b""
    passed = at
    kind, size = _chunk(content, at)
    while flags is not None:
        passed += _CHUNK.size + size + size % 2
        if passed - 8 > riff_size:
            raise Refused("a WebP with more in it than its header says")
        if kind in (_LOSSY, _LOSSLESS):
            break
        if passed > len(content):
            raise Refused("a WebP that ends too early", is_cut=True)
        if kind == _ALPHA:
            alpha = content[at + _CHUNK.size : at + _CHUNK.size + size]
        at = passed
        kind, size = _chunk(content, at)
    data = content[at:]
    if kind in (_LOSSY, _LOSSLESS):
        if size > riff_size - 4 - _CHUNK.size:
            raise Refused("a WebP with more in it than its header says")
        if size > len(data) - _CHUNK.size:
            raise Refused("a WebP that ends too early", is_cut=True)
        data = data[_CHUNK.size :]
    else:  # the image itself, without a chunk
        size = len(data)
        kind = _LOSSLESS if data[:1] == b"\x2f" else _LOSSY
    found = _size_of(data, size, is_lossless=kind == _LOSSLESS)
    if canvas is not None and canvas != found:
        raise Refused("a WebP whose image is not of the size that its header says")
    if alpha and kind == _LOSSY:
        data = _packed(_ALPHA, alpha) + _CHUNK.pack(kind, len(data)) + data
    _decode(data)  # libwebp takes an image without the file around it, too, and reads no byte beyond its end


def _size_of(data: bytes, size: int, *, is_lossless: bool) -> tuple[int, int]:
    """Width and height by the image itself, as `VP8GetInfo` and `VP8LGetInfo` find them. Errors: Refused."""
    if is_lossless:
        if len(data) < _LOSSLESS_HEADER_BYTES:
            raise Refused("a WebP that ends too early", is_cut=True)
        bits = int.from_bytes(data[1:5], "little")
        if data[0] != 0x2F or bits >> 29:
            raise Refused("a WebP with a header that is none")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if len(data) < _LOSSY_HEADER_BYTES:
        raise Refused("a WebP that ends too early", is_cut=True)
    bits = int.from_bytes(data[:3], "little")
    is_sound = data[3:6] == b"\x9d\x01\x2a" and not bits & 1 and bits >> 1 & 7 <= 3 and bits >> 4 & 1
    width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    if not is_sound or bits >> 5 >= size or not width or not height:
        raise Refused("a WebP with a header that is none")
    return width, height


def _packed(kind: bytes, data: bytes) -> bytes:
    return _CHUNK.pack(kind, len(data)) + data + bytes(len(data) % 2)


def _decode(content: bytes) -> bytes:
    """The pixels of the last image. Errors: Refused; MemoryError."""
    if _webp is None:
        raise Refused("a WebP, which this Pillow cannot try")
    pixels = b""
    try:
        decoder = _webp.WebPAnimDecoder(content)
        for number in range(1, 1 + decoder.get_info()[3]):
            found = decoder.get_next()
            if found is None:
                raise Refused(f"a WebP whose image {number} is damaged")
            pixels = found[0]
    except (OSError, RuntimeError):
        raise Refused("a WebP whose data is damaged") from None
    return pixels
