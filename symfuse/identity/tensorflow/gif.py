"""GIF, as giflib reads it for TensorFlow: every frame to its end, and no pixel outside of its colours.

What is damaged behind a whole frame is passed over: the frames before it are taken. Sources:
tensorflow/core/lib/gif/gif_io.cc; dgif_lib.c and gifalloc.c of giflib 5.2.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from symfuse.identity.tensorflow.refused import Refused, Undecided

#: What is unpacked here by Python, half a second for a megabyte (measured), within the CPU time that a worker has.
_MAX_BYTES = 64 << 20

_HEADER = struct.Struct("<6xHHBBB")
_IMAGE = struct.Struct("<HHHHB")
_HAS_COLOURS, _IS_INTERLACED = 0x80, 0x40
_IMAGE_RECORD, _EXTENSION_RECORD, _END_RECORD = b",", b"!", b";"
_GRAPHICS = 0xF9
_MOST = (1 << 31) - 1

#: LZW: the most bits of a code, and what stands for none.
_CODE_BITS = 12
_LAST_CODE = (1 << _CODE_BITS) - 1
_NO_CODE = 4098
_INTERLACE = ((0, 8), (4, 8), (2, 4), (1, 2))


class _Frame(NamedTuple):
    """One image: where it lies, how many colours it has (0: none of its own), its pixels, and the transparent one."""

    left: int
    top: int
    width: int
    height: int
    colours: int
    pixels: bytes
    transparent: int | None


class _Damaged(Exception):
    """giflib reads no further."""

    def __init__(self, words: str, *, is_cut: bool = False) -> None:
        super().__init__(words)
        self.is_cut = is_cut


def check(content: bytes) -> None:
    """Errors: Refused; Undecided; MemoryError."""
    if len(content) > _MAX_BYTES:
        raise Undecided
    reader = _Reader(content)
    try:
        reader.run()
    except _Damaged as error:
        if not reader.frames:
            raise Refused(f"a GIF {error}", is_cut=error.is_cut) from None
    if not reader.frames:
        raise Refused("a GIF without an image")
    width = max(frame.width for frame in reader.frames)
    height = max(frame.height for frame in reader.frames)
    for number, frame in enumerate(reader.frames, 1):
        colours = frame.colours or reader.colours
        if not colours:
            raise Refused(f"a GIF whose image {number} has no colours")
        if _has_strange_pixels(frame, colours, width, height):
            raise Refused(f"a GIF whose image {number} has pixels that are none of its colours")


def _has_strange_pixels(frame: _Frame, colours: int, width: int, height: int) -> bool:
    """Whether a pixel on the canvas is neither one of the colours nor transparent."""
    known = bytes(range(colours)) + bytes([] if frame.transparent is None else [frame.transparent])
    if not frame.pixels.translate(None, known):
        return False
    right, bottom = min(frame.width, width - frame.left), min(frame.height, height - frame.top)
    starts = range(0, bottom * frame.width, frame.width)
    rows = (frame.pixels[start : start + max(right, 0)] for start in starts)
    return any(row.translate(None, known) for row in rows)


class _Reader:
    """The file from its header on, as `DGifSlurp` reads it, with the frames that it has by then."""

    def __init__(self, content: bytes) -> None:
        self._content = memoryview(content)
        self._at = 0
        self.colours = 0
        self.frames: list[_Frame] = []
        self._transparent: int | None = None
        self._has_graphics = False

    def run(self) -> None:
        """Errors: _Damaged."""
        *_size, flags, _background, _aspect = _HEADER.unpack(self._take(_HEADER.size))
        self.colours = self._colours(flags)
        while (kind := bytes(self._take(1))) != _END_RECORD:
            if kind == _IMAGE_RECORD:
                self._image()
            elif kind == _EXTENSION_RECORD:
                self._extension()
            else:
                raise _Damaged("with a part of no known kind")

    def _take(self, count: int) -> memoryview:
        taken = self._content[self._at : self._at + count]
        self._at += count
        if len(taken) < count:
            raise _Damaged("that ends too early", is_cut=True)
        return taken

    def _colours(self, flags: int) -> int:
        """Pass over a table of colours, if one comes; how many it has."""
        if not flags & _HAS_COLOURS:
            return 0
        colours = 2 << (flags & 7)
        self._take(3 * colours)
        return colours

    def _extension(self) -> None:
        """Of several that say which colour is transparent, the first for an image counts."""
        kind = self._take(1)[0]
        first = self._block()
        if kind == _GRAPHICS and first is not None and not self._has_graphics:
            self._has_graphics = True
            if len(first) == 4 and first[0] & 1:
                self._transparent = first[3]
        if first is not None:
            while self._block() is not None:
                pass

    def _block(self) -> memoryview | None:
        """The next block of data, None for the empty one that ends them."""
        size = self._take(1)[0]
        return self._take(size) if size else None

    def _image(self) -> None:
        left, top, width, height, flags = _IMAGE.unpack(self._take(_IMAGE.size))
        colours = self._colours(flags)
        bits = self._take(1)[0]
        if bits > 8:
            raise _Damaged(f"with pixels of {bits} bits")
        if not width or not height or width * height > _MOST:
            raise _Damaged(f"with an image of {width} x {height} pixels")
        pixels = self._pixels(bits, width * height)
        while self._block() is not None:
            pass
        transparent, self._transparent, self._has_graphics = self._transparent, None, False
        self.frames.append(
            _Frame(left, top, width, height, colours, _in_rows(pixels, width, height, flags), transparent)
        )

    def _pixels(self, bits: int, count: int) -> bytes:
        """The first `count` pixels. Errors: _Damaged; MemoryError."""
        lzw, found, missing = _Lzw(bits), [], count
        while missing > 0:
            block = self._block()
            if block is None:
                raise _Damaged("with an image that ends too early", is_cut=True)
            pixels = lzw.unpacked(block, missing)
            missing -= len(pixels)
            found.append(pixels)
        return b"".join(found)[:count]


class _Lzw:
    """LZW as `DGifDecompressLine` unpacks it, with what it makes of codes that stand for nothing yet."""

    def __init__(self, bits: int) -> None:
        self._clear = 1 << bits
        self._end = self._clear + 1
        self._first_bits = bits + 1
        self._rest, self._rest_bits = 0, 0
        self._forget()

    def _forget(self) -> None:
        self._prefixes: list[int | None] = [None] * (_LAST_CODE + 1)
        self._suffixes = bytearray(_LAST_CODE + 1)
        self._known: list[bytes | None] = [bytes([code]) for code in range(self._clear)]
        self._known += [None] * (_LAST_CODE + 1 - self._clear)
        self._next = self._end + 1
        self._bits = self._first_bits
        self._last: int | None = None

    def unpacked(self, block: memoryview, missing: int) -> bytes:
        """What the codes in some bytes stand for, until no pixels are missing. Errors: _Damaged."""
        found = []
        for byte in block:
            self._rest |= byte << self._rest_bits
            self._rest_bits += 8
            while self._rest_bits >= self._bits:
                code = self._rest & ((1 << self._bits) - 1)
                self._rest >>= self._bits
                self._rest_bits -= self._bits
                if self._next < _LAST_CODE + 2:
                    self._next += 1
                    if self._next > 1 << self._bits and self._bits < _CODE_BITS:
                        self._bits += 1
                if code == self._clear:
                    self._forget()
                    continue
                if code == self._end:
                    raise _Damaged("with an image that ends too early", is_cut=True)
                string = self._quickly(code) or self._string(code)
                found.append(string)
                missing -= len(string)
                if missing <= 0:
                    return b"".join(found)
        return b"".join(found)

    def _quickly(self, code: int) -> bytes | None:
        """As `_string`, where there is nothing odd about a code."""
        new, last, found = self._next - 2, self._last, self._known[code]
        if last is None or new > _LAST_CODE or self._prefixes[new] is not None:
            return None
        before = self._known[last]
        if before is None or (found is None and code != new) or len(before) == _LAST_CODE:
            return None
        if found is None:
            found = before + before[:1]
        self._prefixes[new], self._suffixes[new] = last, found[0]
        self._known[new] = before + found[:1]
        self._last = code
        return found

    def _string(self, code: int) -> bytes:
        new = self._next - 2  # what this code and the last one define
        found = self._known[code]
        if found is None and self._is_new(code):
            suffix = self._first(self._last if code == new else code)
            self._suffixes[new] = suffix
            self._known[new] = None
            found = self._traced(self._last) + bytes([suffix])
        elif found is None:
            found = self._known[code] = self._traced(code)
        if len(found) > _LAST_CODE:
            raise _Damaged("with an image that is damaged")
        if self._last is not None and new <= _LAST_CODE and self._prefixes[new] is None:
            self._prefixes[new] = self._last
            self._suffixes[new] = self._first(self._last if code == new else code)
            before = self._known[self._last]
            if before is not None:
                self._known[new] = before + self._suffixes[new : new + 1]
        self._last = code
        return found

    def _is_new(self, code: int) -> bool:
        return self._prefixes[code] is None

    def _first(self, code: int | None) -> int:
        """The first pixel that a code stands for, as `DGifGetPrefixChar` finds it."""
        steps = 0
        while code is not None and code > self._clear and steps <= _LAST_CODE:
            code = self._prefixes[code]
            steps += 1
        return (_NO_CODE if code is None else code) & 0xFF

    def _traced(self, code: int | None) -> bytes:
        """What a code stands for, by what it is made of. Errors: _Damaged when that is nothing."""
        found = bytearray()
        while code is not None and code > self._clear and len(found) < _LAST_CODE:
            found.append(self._suffixes[code])
            code = self._prefixes[code]
        if code is None or len(found) >= _LAST_CODE:
            raise _Damaged("with an image that is damaged")
        found.append(code & 0xFF)
        found.reverse()
        return bytes(found)


def _in_rows(pixels: bytes, width: int, height: int, flags: int) -> bytes:
    """The pixels row by row from above, also of an interlaced image."""
    if not flags & _IS_INTERLACED:
        return pixels
    order = [row for first, step in _INTERLACE for row in range(first, height, step)]
    rows = {row: pixels[place * width : (place + 1) * width] for place, row in enumerate(order)}
    return b"".join(rows[row] for row in range(height))
