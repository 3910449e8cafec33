"""JPEG: what libjpeg decodes to the end of its last scan, for TensorFlow and Pillow alike.

Sources: `UncompressLow` in tensorflow/core/lib/jpeg/jpeg_mem.cc; jdmarker.c of libjpeg-turbo. Damaged data in a scan is
a warning to both. Pillow looks at the header with its own eyes before; so does this module where that stood in the way.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from PIL import Image

from symfuse.identity.tensorflow.refused import Refused

#: Bytes of the decoded image, with as many components as the file has.
_MAX_SIZE = 1 << 29
#: A marker is preceded by any number of fill bytes; a zero behind those makes data of them. Of fill bytes the last one
#: alone is looked for: a file may be full of them, and a search from each to the end of all would take for ever.
_MARKER = re.compile(rb"\xff([^\x00\xff])")
_END = 0xD9
#: Those without parameters: the start, and restarts. What is below the first of all frames is no marker; libjpeg passes
#: it over where it looks for a restart, and refuses the file where it does not.
_ALONE = frozenset({0xD8, *range(0xD0, 0xD8), *range(0xC0)})
#: Frames that libjpeg knows: baseline, extended, progressive, and the latter two in arithmetic coding.
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
#: Components: what Pillow's codec is to decode to.
_MODES = {1: ("L", "L"), 3: ("RGB", "RGB"), 4: ("CMYK", "CMYK;I")}
_FRAME = struct.Struct(">HBHHB")


def check(content: bytes, *, is_pillows: bool) -> None:
    """`is_pillows` says that Pillow decodes it. Errors: Refused; MemoryError."""
    frame = None
    for marker, at in _markers(content):
        if marker in _FRAMES and frame is None and len(content) >= at + _FRAME.size:
            _length, _bits, height, width, components = _FRAME.unpack_from(content, at)
            frame = width, height, components
    if frame is None:
        raise Refused("a JPEG without a header of its image")
    width, height, components = frame
    is_sized = 0 < width * height * components < _MAX_SIZE
    if not is_sized or components not in _MODES:
        raise Refused(f"a JPEG of {width} x {height} pixels and {components} components")
    if not is_pillows:
        _decode(content, width, height, components)


def _markers(content: bytes) -> Iterator[tuple[int, int]]:
    """Each marker up to the end's, and where its parameters begin, as `next_marker` finds them.

    Pillow does without the end's; TensorFlow looks for it when all pixels are there. Errors: Refused if it is missing.
    """
    at = 0
    while found := _MARKER.search(content, at):
        marker, at = found[1][0], found.end()
        yield marker, at
        if marker == _END:
            return
        if marker not in _ALONE:
            at += int.from_bytes(content[at : at + 2], "big")
    raise Refused("a JPEG that ends too early", is_cut=True)


def _decode(content: bytes, width: int, height: int, components: int) -> None:
    """Errors: Refused; MemoryError."""
    mode, raw_mode = _MODES[components]
    image = Image.new(mode, (width, height)).im
    decoder = Image._getdecoder(mode, "jpeg", (raw_mode, ""))
    decoder.setimage(image, (0, 0, width, height))
    consumed, code = decoder.decode(content)
    if consumed >= 0:
        raise Refused("a JPEG that ends too early", is_cut=True)
    if code < 0:
        raise Refused("a JPEG whose data is damaged")
