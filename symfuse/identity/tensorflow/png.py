"""PNG, as libpng reads it for TensorFlow: row by row, to the end of IEND.

Sources: `DecodePngV2` in tensorflow/core/kernels/image/decode_image_op.cc, tensorflow/core/lib/png/png_io.cc;
pngread.c, pngrutil.c, pngrread.c, pngset.c and png.c of libpng 1.6. What libpng merely warns of is passed over here.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from symfuse.identity.tensorflow.refused import Refused

_MAX_CHUNK = (1 << 31) - 1
#: PNG_USER_CHUNK_MALLOC_MAX: of other chunks than IDAT.
_MAX_OTHER_CHUNK = 8_000_000
#: PNG_USER_WIDTH_MAX, and the limit of TensorFlow.
_MAX_SIDE = 1_000_000
_MAX_PIXELS = 1 << 29
_PALETTE = 3
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_LAST_FILTER = 4
#: Adam7: first column and row of each pass, and the steps between them.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_HEADER = struct.Struct(">IIBBBBB")
#: Unpacked at a time.
_PIECE_BYTES = 1 << 20
#: PNG_IDAT_READ_SIZE and PNG_INFLATE_BUF_SIZE.
_READ_BYTES, _SPARE_BYTES = 8192, 1024


def check(content: bytes) -> None:
    """Errors: Refused."""
    _Reader(content).run()


class _Reader:
    """The file chunk by chunk. `_at` is where it is in the content, `_size` and `_sum` are those of the chunk."""

    def __init__(self, content: bytes) -> None:
        self._content = memoryview(content)
        self._at = 8
        self._header: tuple[int, ...] | None = None
        self._has_palette = False

    def run(self) -> None:
        """Errors: Refused."""
        while (kind := self._chunk()) != b"IDAT":
            self._before_image(kind)
            self._skip(kind)
        if self._header is None:
            raise Refused("a PNG without its header")
        if self._header[3] == _PALETTE and not self._has_palette:
            raise Refused("a PNG without its palette")
        self._read_image()
        while self._chunk() != b"IEND":
            self._after_image()
        self._skip(b"IEND")

    # -- chunks --------------------------------------------------------------------------------------------------

    def _chunk(self) -> bytes:
        """Go to the next chunk; its name. Errors: Refused."""
        head = self._take(8)
        self._size, kind = int.from_bytes(head[:4], "big"), bytes(head[4:])
        if self._size > _MAX_CHUNK:
            raise Refused("a PNG with a chunk of more bytes than can be")
        if not (kind.isalpha() and kind.isascii()):
            raise Refused(f"a PNG with a chunk {kind!r}")
        if kind != b"IDAT" and self._size > _MAX_OTHER_CHUNK:
            raise Refused(f"a PNG with a chunk {kind!r} of {self._size} bytes")
        self._sum = zlib.crc32(kind)
        self._kind = kind
        return kind

    def _take(self, count: int) -> memoryview:
        """Errors: Refused when there are not so many bytes."""
        taken = self._content[self._at : self._at + count]
        self._at += count
        if len(taken) < count:
            raise Refused("a PNG that ends too early", is_cut=True)
        return taken

    def _data(self, count: int) -> memoryview:
        """Some bytes of this chunk. Errors: Refused."""
        taken = self._take(count)
        self._sum = zlib.crc32(taken, self._sum)
        self._size -= count
        return taken

    def _skip(self, kind: bytes) -> None:
        """The rest of this chunk. The sum of one that may be left out does not count. Errors: Refused."""
        self._data(self._size)
        is_wrong = self._sum != int.from_bytes(self._take(4), "big")
        if is_wrong and not kind[0] & 0x20 and not (kind == b"PLTE" and not self._needs_palette()):
            raise Refused(f"a PNG with a wrong sum of its chunk {kind!r}")

    def _needs_palette(self) -> bool:
        return self._header is not None and self._header[3] == _PALETTE

    def _before_image(self, kind: bytes) -> None:
        if kind == b"IHDR":
            self._read_header()
        elif kind == b"PLTE":
            self._read_palette()
        elif kind == b"IEND":
            raise Refused("a PNG without an image")
        elif self._header is None:
            raise Refused(f"a PNG with a chunk {kind!r} before its header")
        elif not kind[0] & 0x20:
            raise Refused(f"a PNG with a chunk {kind!r}")

    def _after_image(self) -> None:
        kind = self._kind
        if kind == b"IHDR" or (kind not in (b"IDAT", b"PLTE") and not kind[0] & 0x20):
            raise Refused(f"a PNG with a chunk {kind!r} behind its image")
        self._skip(kind)

    def _read_header(self) -> None:
        if self._header is not None or self._size != _HEADER.size:
            raise Refused("a PNG with a header that is none")
        width, height, depth, colour, compression, filtering, interlace = header = _HEADER.unpack(self._data(13))
        is_sized = 0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE and width * height < _MAX_PIXELS
        if not is_sized:
            raise Refused(f"a PNG of {width} x {height} pixels")
        if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
            raise Refused(f"a PNG of {depth} bits and colour type {colour}")
        self._header = header

    def _read_palette(self) -> None:
        if self._header is None or self._has_palette:
            raise Refused("a PNG with a palette where none belongs")
        self._has_palette = True
        if self._needs_palette() and (self._size > 3 * 256 or self._size % 3 or not self._size):
            raise Refused(f"a PNG with a palette of {self._size} bytes")

    # -- the image -----------------------------------------------------------------------------------------------

    def _read_image(self) -> None:
        """All rows, and the end of their chunk. Errors: Refused."""
        rows = _Rows(self._passes())
        inflate = zlib.decompressobj(wbits=0)  # the window that the stream itself names, as libpng has it
        fed: bytes | memoryview = b""
        while rows.missing:
            fed = fed or self._more()
            try:
                got = inflate.decompress(fed, min(rows.missing, _PIECE_BYTES))
            except zlib.error as error:
                raise Refused(f"a PNG whose image is damaged: {_words(error)}") from None
            fed = inflate.unconsumed_tail
            rows.add(got)
            if inflate.eof and rows.missing:
                raise Refused("a PNG with less than its image", is_cut=True)
        if not inflate.eof:
            self._finish(inflate, fed)
        self._skip(b"IDAT")

    def _finish(self, inflate: zlib._Decompress, fed: bytes | memoryview) -> None:
        """What follows the last row. If there are further pixels, they are unpacked to their end or to any damage."""
        has_more = False
        while True:
            fed = fed or self._more()
            try:
                got = inflate.decompress(fed, _SPARE_BYTES)
            except zlib.error:
                return
            fed = inflate.unconsumed_tail
            has_more = has_more or bool(got)
            if inflate.eof or not has_more:
                return

    def _more(self) -> memoryview:
        """Compressed bytes, from the next chunk when this one has no more. Errors: Refused."""
        while not self._size:
            self._skip(b"IDAT")
            if self._chunk() != b"IDAT":
                raise Refused("a PNG with less than its image", is_cut=True)
        return self._data(min(self._size, _READ_BYTES))

    def _passes(self) -> Iterator[tuple[int, int]]:
        """How many rows of how many bytes each pass has, the byte of their filter included."""
        assert self._header is not None
        width, height, depth, colour, _compression, _filtering, interlace = self._header
        for left, top, right, down in _PASSES if interlace else ((0, 0, 1, 1),):
            columns, rows = -(-(width - left) // right), -(-(height - top) // down)
            if columns > 0 and rows > 0:
                yield rows, 1 + (columns * depth * _CHANNELS[colour] + 7) // 8


class _Rows:
    """Rows as they come, whose filters must be such as there are."""

    def __init__(self, passes: Iterator[tuple[int, int]]) -> None:
        self._passes = list(passes)
        self.missing = sum(rows * stride for rows, stride in self._passes)  # bytes
        self._position = 0  # in the first of the passes

    def add(self, got: bytes) -> None:
        """Errors: Refused."""
        self.missing -= len(got)
        while got:
            rows, stride = self._passes[0]
            part = got[: rows * stride - self._position]
            if max(part[-self._position % stride :: stride], default=0) > _LAST_FILTER:
                raise Refused("a PNG with a filter that there is not")
            self._position += len(part)
            got = got[len(part) :]
            if self._position == rows * stride:
                del self._passes[0]
                self._position = 0


def _words(error: zlib.error) -> str:
    """`invalid distance too far back`, of what zlib says."""
    return str(error).rpartition(": ")[2]
