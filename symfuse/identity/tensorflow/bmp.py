"""BMP, as TensorFlow reads it itself: eight, 24 or 32 bits a pixel, uncompressed, and not a byte behind the pixels.

Source: `DecodeImageV2Op::DecodeBmpV2` in tensorflow/core/kernels/image/decode_image_op.cc.
"""

from __future__ import annotations

import struct

from symfuse.identity.tensorflow.refused import Refused

_HEADER_BYTES = 32
_HEADER_WITH_COMPRESSION = 40
_COMPRESSIONS = {1: "RLE8", 2: "RLE4", 4: "JPEG", 5: "PNG"}
_MAX_PIXELS = ((1 << 31) - 1) // 8
#: What follows `BM`: offset of the pixels at 10, width and height at 18 and 22, bits a pixel at 28.
_FIELDS = struct.Struct("<10xi4xii2xh")


def check(content: bytes) -> None:
    """Errors: Refused.

    The compression that the header names is not looked at: a file that is compressed has not the size it should.
    """
    if len(content) < _HEADER_BYTES:
        raise Refused(f"a BMP of {len(content)} bytes", is_cut=True)
    pixels_at, width, height, bits = _FIELDS.unpack_from(content)
    channels = int(bits / 8)  # towards zero, as in C
    if channels not in (1, 3, 4):
        raise Refused(f"a BMP of {bits} bit{'s' * (bits != 1)} per pixel")
    if width <= 0 or height == 0 or pixels_at < 0 or width * abs(height) >= _MAX_PIXELS:
        raise Refused(f"a BMP of {width} x {height} pixels")
    size = pixels_at + (channels * width + 3) // 4 * 4 * abs(height)
    # Sizes are compared as 32-bit numbers; then the last pixel must lie in the file.
    if (len(content) - size) % (1 << 32) or size > len(content) + 3:
        if _compression(content) in _COMPRESSIONS:
            raise Refused(f"a BMP in {_COMPRESSIONS[_compression(content)]} compression")
        is_cut = size > len(content)
        raise Refused(f"a BMP that should have {size} bytes and has {len(content)}", is_cut=is_cut)


def _compression(content: bytes) -> int:
    return int.from_bytes(content[30:34], "little") if content[14] >= _HEADER_WITH_COMPRESSION else 0
