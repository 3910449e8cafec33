"""Images of all modes, depths and formats: pairs that must be the same to `--dedup pixels`, and some that must not."""

from __future__ import annotations

import contextlib
import io
import itertools
import struct
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import ExifTags, Image, PngImagePlugin
from skimage import data

from tests.support.encoding import chunk, encoded, png

RGB = Image.fromarray(data.astronaut()[100:164, 180:260])  # type: ignore[no-untyped-call]
GREY = Image.fromarray(data.camera()[200:264, 200:280])  # type: ignore[no-untyped-call]
RGBA = Image.merge("RGBA", (*RGB.split(), GREY.rotate(180)))
OPAQUE = RGB.convert("RGBA")
LA = Image.merge("LA", (GREY, GREY.rotate(180)))
CMYK = RGB.convert("CMYK")
DEEP = Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257 + 3)
DEEP_RGB = np.asarray(RGB).astype(np.uint16) * 257 + 3
FLOAT = Image.fromarray(np.asarray(GREY).astype(np.float32) / 7)
TWO_COLOURS = GREY.convert("1")
FEW_COLOURS = RGB.quantize(16)
SEE_THROUGH = FEW_COLOURS.copy()
SEE_THROUGH.info["transparency"] = 3
KEYED = RGB.copy()
KEYED.info["transparency"] = RGB.getpixel((0, 0))
BLACK = Image.new("L", (8, 4))

ON_ITS_SIDE = Image.Exif()
ON_ITS_SIDE[ExifTags.Base.Orientation] = 6
UPRIGHT = Image.Exif()
UPRIGHT[ExifTags.Base.Orientation] = 1

JPEG = encoded(RGB, "JPEG", quality=80)


def tiff(pixels: Any, **options: Any) -> bytes:
    """As tifffile writes it, without a description unless one is given."""
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **{"photometric": "rgb" if pixels.shape[-1] in {3, 4} else None, **options})
    return file.getvalue()


def mask(indices: list[int], colours: list[int]) -> Image.Image:
    """A palette image of one row."""
    picture = Image.frombytes("P", (len(indices), 1), bytes(indices))
    picture.putpalette(colours)
    return picture


def gif(indices: list[int], colours: list[int]) -> bytes:
    """One row of at most four colours, each pixel compressed by itself: codes of 3 bits, 4 to begin, 5 to end."""
    codes = [code for index in indices for code in (4, index)] + [5]
    packed = sum(code << 3 * place for place, code in enumerate(codes)).to_bytes((3 * len(codes) + 7) // 8, "little")
    screen, image = struct.pack("<HHBBB", len(indices), 1, 0x81, 0, 0), struct.pack("<HHHHB", 0, 0, len(indices), 1, 0)
    return b"GIF89a" + screen + bytes(colours) + b"," + image + bytes([2, len(packed)]) + packed + b"\0;"


def transparent_gif(background: int) -> bytes:
    """Two transparent pixels and one black, on a background of this colour."""
    plain = gif([1, 1, 0], [0, 0, 0, 9, 9, 9, 200, 200, 200, 0, 0, 0])
    control = b"!\xf9\4\1\0\0\1\0"
    return plain[:11] + bytes([background]) + plain[12:25] + control + plain[25:]


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    """A JPEG with a segment more in front."""
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content + jpeg[2:]


def with_text(text: str) -> PngImagePlugin.PngInfo:
    """As Pillow puts it into a PNG."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", text)
    return info


def with_comment(jpeg: bytes, text: bytes) -> bytes:
    """A JPEG with a comment more."""
    return with_segment(jpeg, 0xFE, text)


def grey_png(depth: int, value: int, extra: bytes = b"") -> bytes:
    """8 grey pixels of few bits."""
    bits = "".join(f"{value:0{depth}b}" for _ in range(8))
    return png(8, 1, depth=depth, colour=0, rows=b"\0" + int(bits, 2).to_bytes(depth, "big"), extra=extra)


def bmp_32(fourth: int) -> bytes:
    """One pixel of 32 bits, of which Pillow drops the fourth byte."""
    return (
        b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 58, 0, 0, 54, 40, 1, 1, 1, 32, 0, 4, 0, 0, 0, 0)
        + bytes([1, 2, 3, fourth])
    )


def upside_down(bmp: bytes) -> bytes:
    """A BMP with its rows from top to bottom, which is another image."""
    height = struct.unpack_from("<i", bmp, 22)[0]
    return bmp[:22] + struct.pack("<i", -height) + bmp[26:]


def stack(form: str, first: Image.Image, *others: Image.Image, **options: Any) -> bytes:
    """Several frames in one file."""
    # Pillow leaves its options for JPEG at the image, and then takes them for TIFF's.
    return encoded(first.copy(), form, save_all=True, append_images=[other.copy() for other in others], **options)


def pages(*pictures: Image.Image) -> bytes:
    """A TIFF of several pages, without anything that is particular to a writer."""
    return stack("TIFF", *pictures)


def with_image_below(picture: Image.Image, other: Image.Image) -> bytes:
    """A TIFF that has the other one in a SubIFD."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(np.asarray(picture), subifds=1, metadata=None)
        writer.write(np.asarray(other), metadata=None)
    return file.getvalue()


def by_opencv(ending: str, pixels: Any, *options: int) -> bytes:
    """What OpenCV writes of an array, which it takes for BGR."""
    done, content = cv2.imencode(ending, pixels, options)
    assert done
    return content.tobytes()


def icons(*sizes: int) -> bytes:
    """An ICO of several sizes."""
    return encoded(RGB.resize((64, 64)), "ICO", sizes=[(size, size) for size in sizes])


ARRAY = np.asarray(RGB)
DEEP_ARRAY = np.asarray(DEEP)
SLICES = np.stack([np.asarray(GREY), np.asarray(GREY)])
OTHER_SLICES = np.stack([np.asarray(GREY), np.asarray(GREY.rotate(180))])

SAME = {
    "PNG as it is and hardly compressed": (encoded(RGB), encoded(RGB, compress_level=0)),
    "PNG and interlaced PNG": (
        png(2, 2, depth=8, colour=0, rows=b"\0\1\2\0\3\4"),
        # Adam7: the first pass has one pixel, the sixth the next, the last the row below
        png(2, 2, depth=8, colour=0, rows=b"\0\1" + b"\0\2" + b"\0\3\4").replace(
            chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0)),
            chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 1)),
        ),
    ),
    "PNG and BMP": (encoded(RGB), encoded(RGB, "BMP")),
    "BMP from the bottom and from the top": (
        encoded(RGB, "BMP"),
        upside_down(encoded(RGB.transpose(Image.Transpose.FLIP_TOP_BOTTOM), "BMP")),
    ),
    "grey PNG and BMP": (encoded(GREY), encoded(GREY, "BMP")),
    "each lossless WebP": (
        encoded(RGB, "WEBP", lossless=True, method=0),
        encoded(RGB, "WEBP", lossless=True, method=6),
    ),
    "PNG and TIFF": (encoded(RGB), encoded(RGB, "TIFF")),
    "TIFF in LZW and deflate": (
        encoded(RGB, "TIFF", compression="tiff_lzw"),
        encoded(RGB, "TIFF", compression="tiff_adobe_deflate"),
    ),
    "TIFF plain and PackBits": (encoded(RGB, "TIFF"), encoded(RGB, "TIFF", compression="packbits")),
    "TIFF of each byte order": (tiff(ARRAY, byteorder="<", metadata=None), tiff(ARRAY, byteorder=">", metadata=None)),
    "TIFF in tiles and in strips": (tiff(ARRAY, tile=(16, 16), metadata=None), tiff(ARRAY, metadata=None)),
    "TIFF and BigTIFF": (tiff(ARRAY, bigtiff=True, metadata=None), tiff(ARRAY, metadata=None)),
    "PNG and PPM": (encoded(RGB), encoded(RGB, "PPM")),
    "grey PNG and PGM": (encoded(GREY), encoded(GREY, "PPM")),
    "1 bit in each PNG": (encoded(TWO_COLOURS), encoded(TWO_COLOURS, compress_level=0)),
    "1 bit in each TIFF": (encoded(TWO_COLOURS, "TIFF"), encoded(TWO_COLOURS, "TIFF", compression="group4")),
    "2 bits in each PNG": (grey_png(2, 2), grey_png(2, 2, extra=chunk(b"tEXt", b"Comment\0another"))),
    "palette in each PNG": (encoded(FEW_COLOURS), encoded(FEW_COLOURS, compress_level=0)),
    "palette in 4 bits and in 8": (
        png(2, 1, depth=4, colour=3, rows=b"\0\x12", extra=chunk(b"PLTE", bytes(range(9)))),
        png(2, 1, depth=8, colour=3, rows=b"\0\1\2", extra=chunk(b"PLTE", bytes(range(9)))),
    ),
    "palette in each GIF": (encoded(FEW_COLOURS, "GIF"), encoded(FEW_COLOURS, "GIF", comment=b"another")),
    "palette in each BMP": (encoded(FEW_COLOURS, "BMP"), encoded(FEW_COLOURS, "BMP", dpi=(300, 300))),
    "palette with transparency": (encoded(SEE_THROUGH), encoded(SEE_THROUGH, compress_level=0)),
    "a transparent colour": (encoded(KEYED), encoded(KEYED, compress_level=0)),
    "alpha in each PNG": (encoded(RGBA), encoded(RGBA, compress_level=0)),
    "alpha beside grey in each PNG": (encoded(LA), encoded(LA, compress_level=0)),
    "alpha in each TIFF": (encoded(RGBA, "TIFF"), encoded(RGBA, "TIFF", compression="tiff_lzw")),
    "alpha in each lossless WebP": (
        encoded(RGBA, "WEBP", lossless=True, exact=True, method=0),
        encoded(RGBA, "WEBP", lossless=True, exact=True, method=6),
    ),
    "16 bits of grey in PNG and in TIFF": (encoded(DEEP), encoded(DEEP, "TIFF")),
    "16 bits of grey in each byte order": (
        tiff(DEEP_ARRAY, byteorder="<", metadata=None),
        tiff(DEEP_ARRAY, byteorder=">", metadata=None),
    ),
    "floating point in each TIFF": (encoded(FLOAT, "TIFF"), encoded(FLOAT, "TIFF", compression="tiff_lzw")),
    "CMYK in each TIFF": (encoded(CMYK, "TIFF"), encoded(CMYK, "TIFF", compression="tiff_lzw")),
    "JPEG with a comment and without": (JPEG, with_comment(JPEG, b"another")),
    "JPEG with a colour profile and without": (JPEG, encoded(RGB, "JPEG", quality=80, icc_profile=b"not read")),
    "JPEG with another resolution": (JPEG, encoded(RGB, "JPEG", quality=80, dpi=(300, 300))),
    "JPEG with a thumbnail and without": (JPEG, with_segment(JPEG, 0xE0, b"JFXX\0\x13\1\1\0\0\0")),
    "JPEG that is said to stand upright": (JPEG, encoded(RGB, "JPEG", quality=80, exif=UPRIGHT)),
    "PNG that is said to stand upright": (encoded(RGB), encoded(RGB, exif=UPRIGHT)),
    "PNG on its side": (encoded(RGB, exif=ON_ITS_SIDE), encoded(RGB, exif=ON_ITS_SIDE, compress_level=0)),
    "PNG with a text and without": (encoded(RGB), encoded(RGB, pnginfo=with_text("another"))),
    "PNG with a colour profile and without": (encoded(RGB), encoded(RGB, icc_profile=b"not read, not applied")),
    "PNG with another gamma": (grey_png(8, 9), grey_png(8, 9, extra=chunk(b"gAMA", struct.pack(">I", 100_000)))),
    "TIFF with another resolution": (encoded(RGB, "TIFF"), encoded(RGB, "TIFF", dpi=(300, 300))),
}  # fmt: skip

#: No two of them are one image, though many are to Pillow.
DIFFERENT = {
    "colour": encoded(RGB),
    "colour, opaque": encoded(OPAQUE),
    "colour, opaque, in TIFF": encoded(OPAQUE, "TIFF"),
    "colour in a JPEG": JPEG,
    "what that JPEG decodes to": encoded(Image.open(io.BytesIO(JPEG))),
    "colour in a JPEG on its side": encoded(RGB, "JPEG", quality=80, exif=ON_ITS_SIDE),
    "colour in a JPEG, its colours as they are": with_segment(JPEG, 0xEE, b"Adobe\0\x64\0\0\0\0\0"),
    "colour in a JPEG, with what JPEG XT adds": with_segment(JPEG, 0xEB, b"JP\0\1\0\0\0\1\0\0\0\x08SPEC"),
    "colour in a progressive JPEG": encoded(RGB, "JPEG", quality=80, progressive=True),
    "colour in another quality": encoded(RGB, "JPEG", quality=81),
    "colour, on its side": encoded(RGB, exif=ON_ITS_SIDE),
    "colour in TIFF, on its side": encoded(RGB, "TIFF", exif=ON_ITS_SIDE),
    "colour in TIFF, turned": encoded(RGB.transpose(Image.Transpose.ROTATE_270), "TIFF"),
    "its grey": encoded(RGB.convert("L")),
    "its grey as colours": encoded(RGB.convert("L").convert("RGB")),
    "its grey in GIF": encoded(RGB.convert("L"), "GIF"),
    "its lowest bits changed": encoded(Image.fromarray(ARRAY ^ 1)),
    "turned": encoded(RGB.rotate(180)),
    "with alpha": encoded(RGBA),
    "with alpha, in WebP": encoded(RGBA, "WEBP", lossless=True, exact=True),
    "with other alpha": encoded(Image.merge("RGBA", (*RGB.split(), GREY))),
    "grey with alpha": encoded(LA),
    "a transparent colour": encoded(KEYED),
    "a transparent colour, as alpha": encoded(KEYED.convert("RGBA")),
    "few colours": encoded(FEW_COLOURS),
    "few colours, in GIF": encoded(FEW_COLOURS, "GIF"),
    "few colours, in BMP": encoded(FEW_COLOURS, "BMP"),
    "few colours, in TIFF": encoded(FEW_COLOURS, "TIFF"),
    "few colours, without palette": encoded(FEW_COLOURS.convert("RGB")),
    "few colours, one of them transparent": encoded(SEE_THROUGH),
    "few colours, one of them transparent, in GIF": encoded(SEE_THROUGH, "GIF"),
    "lossless WebP": encoded(RGB, "WEBP", lossless=True),
    "lossy WebP": encoded(RGB, "WEBP", quality=80),
    "what that WebP decodes to": encoded(Image.open(io.BytesIO(encoded(RGB, "WEBP", quality=80)))),
    "lossless JPEG 2000": encoded(RGB, "JPEG2000"),
    "AVIF": encoded(RGB, "AVIF", quality=80),
    "CMYK": encoded(CMYK, "TIFF"),
    "LAB": encoded(Image.merge("LAB", RGB.split()), "TIFF"),
    "8 bits of grey": encoded(GREY),
    "8 bits of grey, the darker the higher, in TIFF": tiff(
        255 - np.asarray(GREY), photometric="miniswhite", metadata=None
    ),
    "16 bits of grey": encoded(DEEP),
    "16 bits of grey, in PGM": b"P5 80 64 65535 " + DEEP_ARRAY.astype(">u2").tobytes(),
    "16 bits of grey, with signs": tiff(DEEP_ARRAY.astype(np.int16), metadata=None),
    "16 bits of grey, in JPEG 2000": encoded(DEEP, "JPEG2000"),
    "16 bits of grey, the lowest changed": encoded(Image.fromarray(DEEP_ARRAY ^ 1)),
    "32 bits": tiff(DEEP_ARRAY.astype(np.uint32), metadata=None),
    "32 bits, with signs": tiff(DEEP_ARRAY.astype(np.int32), metadata=None),
    "floating point": encoded(FLOAT, "TIFF"),
    "floating point, a little more": encoded(Image.fromarray(np.asarray(FLOAT) * np.float32(1.0001)), "TIFF"),
    "floating point, equal to the grey": encoded(Image.fromarray(np.asarray(GREY).astype(np.float32)), "TIFF"),
    "black": encoded(BLACK),
    "black, upright": encoded(BLACK.rotate(90, expand=True)),
    "black, all in one row": encoded(BLACK.resize((32, 1))),
    "black, transparent": encoded(Image.new("LA", (8, 4))),
    "black, 1 bit": encoded(BLACK.convert("1")),
    "black, 1 bit, in TIFF": encoded(BLACK.convert("1"), "TIFF"),
    "black, 1 bit, in PBM": encoded(BLACK.convert("1"), "PPM"),
    "mask of index 1": encoded(mask([1, 1, 0], [0, 0, 0, 9, 9, 9, 9, 9, 9])),
    "mask of index 2 of the same colour": encoded(mask([2, 2, 0], [0, 0, 0, 9, 9, 9, 9, 9, 9])),
    "mask of index 1 of another colour": encoded(mask([1, 1, 0], [0, 0, 0, 8, 8, 8, 9, 9, 9])),
    "mask of index 1, in GIF": encoded(mask([1, 1, 0], [0, 0, 0, 9, 9, 9, 9, 9, 9]), "GIF"),
    "mask of index 1, in BMP": encoded(mask([1, 1, 0], [0, 0, 0, 9, 9, 9, 9, 9, 9]), "BMP"),
    "1 bit of grey, white": grey_png(1, 1),
    "2 bits of grey, white": grey_png(2, 3),
    "4 bits of grey, white": grey_png(4, 15),
    "4 bits of grey, a transparent one": grey_png(4, 15, extra=chunk(b"tRNS", b"\0\x0f")),
    "8 bits of grey, white": grey_png(8, 255),
    "32-bit BMP": bmp_32(0),
    "32-bit BMP, the fourth byte changed": bmp_32(255),
    "BMP from top to bottom": upside_down(encoded(RGB, "BMP")),
    "PPM of a maximum below 255": b"P6 1 1 15 \1\2\3",
    "PPM of another maximum": b"P6 1 1 30 \2\4\6",
    "PPM of what these are scaled to": b"P6 1 1 255 \21\42\63",
    "PPM of two images": b"P6 1 1 255 \21\42\63P6 1 1 255 \21\42\63",
    "TIFF that says it is a stack": tiff(
        np.zeros((4, 8), np.uint8), description="ImageJ=1.11a\nimages=2\n", metadata=None
    ),
    "TIFF with a description": encoded(Image.new("L", (8, 4)), "TIFF", description="words"),
    "TIFF of a thumbnail": tiff(np.zeros((4, 8), np.uint8), subfiletype=1, metadata=None),
    "TIFF of a JPEG": encoded(RGB, "TIFF", compression="jpeg"),
}  # fmt: skip

#: Pairs that Pillow decodes to the same pixels, of its first frame or of the higher bits, and other readers do not.
TOLD_APART = {
    "16 bits a colour in PNG": tuple(
        png(1, 1, depth=16, colour=2, rows=b"\0" + bytes([1, 2, 3, 4, 5, lowest])) for lowest in (6, 7)
    ),
    "16 bits a colour with alpha in PNG": tuple(
        png(1, 1, depth=16, colour=6, rows=b"\0" + bytes([1, 2, 3, 4, 5, lowest, 7, 8])) for lowest in (6, 7)
    ),
    "16 bits of grey with alpha in PNG": tuple(
        png(1, 1, depth=16, colour=4, rows=b"\0" + bytes([1, lowest, 7, 8])) for lowest in (6, 7)
    ),
    "16 bits a colour in PPM": tuple(b"P6 1 1 65535 " + bytes([1, 2, 3, 4, 5, lowest]) for lowest in (6, 7)),
    "16 bits a colour in TIFF": (tiff(DEEP_RGB), tiff(DEEP_RGB ^ 1)),
    "16 bits a colour in TIFF, deflated": (tiff(DEEP_RGB, compression="zlib"), tiff(DEEP_RGB ^ 1, compression="zlib")),
    # Pillow takes these for planes of 8 bits, and so sees the upper half of them.
    "16 bits a colour in planes of a TIFF": tuple(
        tiff(np.moveaxis(pixels, -1, 0), planarconfig="separate", photometric="rgb")
        for pixels in (DEEP_RGB, np.vstack([DEEP_RGB[:32], DEEP_RGB[32:] ^ 0x0F0F]))
    ),
    "16 bits a colour in compressed planes of a TIFF": tuple(
        tiff(np.moveaxis(DEEP_RGB ^ lowest, -1, 0), planarconfig="separate", photometric="rgb", compression="zlib")
        for lowest in (0, 1)
    ),
    "a sample that Pillow drops in TIFF": tuple(
        tiff(np.dstack([ARRAY, np.full((64, 80), fourth, np.uint8)]), extrasamples=[0]) for fourth in (0, 1)
    ),
    "palette masks in PNG": tuple(
        encoded(mask([index, index, 0], [0, 0, 0, 9, 9, 9, 9, 9, 9])) for index in (1, 2)
    ),
    "palette masks in GIF": tuple(
        gif([index, index, 0], [0, 0, 0, 9, 9, 9, 9, 9, 9, 0, 0, 0]) for index in (1, 2)
    ),
    "an animated GIF": (stack("GIF", FEW_COLOURS, GREY), stack("GIF", FEW_COLOURS, TWO_COLOURS)),
    "an animated GIF and its first frame": (stack("GIF", FEW_COLOURS, GREY), encoded(FEW_COLOURS, "GIF")),
    "an animated PNG": (stack("PNG", RGB, RGB.rotate(180)), stack("PNG", RGB, RGB.rotate(90))),
    "an animated PNG and its first frame": (stack("PNG", RGB, RGB.rotate(180)), encoded(RGB)),
    "an animated PNG with an image beside": (
        stack("PNG", RGB, RGB.rotate(180), RGB.rotate(90), default_image=True), encoded(RGB)
    ),
    "an animated WebP": (
        stack("WEBP", RGB, RGB.rotate(180), lossless=True), stack("WEBP", RGB, RGB.rotate(90), lossless=True)
    ),
    "pages of a TIFF": (pages(RGB, RGB.rotate(180)), pages(RGB, RGB.rotate(90))),
    "pages of a TIFF and the first": (pages(RGB, RGB.rotate(180)), encoded(RGB, "TIFF")),
    "a stack of slices": (tiff(SLICES), tiff(OTHER_SLICES)),
    "the background of a GIF": (transparent_gif(0), transparent_gif(2)),
    "slices behind the one frame of a TIFF": (tiff(SLICES, truncate=True), tiff(OTHER_SLICES, truncate=True)),
    "slices behind the one frame of ImageJ's": (
        tiff(SLICES, truncate=True, imagej=True), tiff(OTHER_SLICES, truncate=True, imagej=True)
    ),
    "an image below the one in a TIFF": (with_image_below(GREY, GREY), with_image_below(GREY, GREY.rotate(180))),
    "several pictures in a JPEG": (stack("MPO", RGB, RGB.rotate(180)), stack("MPO", RGB, RGB.rotate(90))),
    "several sizes in an icon": (icons(64), icons(16, 64)),
    "orientation in a JPEG": (JPEG, encoded(RGB, "JPEG", quality=80, exif=ON_ITS_SIDE)),
    "orientation in a PNG": (encoded(RGB), encoded(RGB, exif=ON_ITS_SIDE)),
    "alpha that is opaque": (encoded(RGB), encoded(OPAQUE)),
    "the fourth byte in a BMP": (bmp_32(0), bmp_32(255)),
    "grey and RGB": (encoded(GREY), encoded(GREY.convert("RGB"))),
    "a palette and its colours": (encoded(FEW_COLOURS), encoded(FEW_COLOURS.convert("RGB"))),
    "1 bit and grey": (encoded(TWO_COLOURS), encoded(TWO_COLOURS.convert("L"))),
    "PPM of several maxima": (b"P6 1 1 15 \1\2\3", b"P6 1 1 30 \2\4\6"),
    "16 bits a colour in JPEG 2000": tuple(
        by_opencv(".jp2", DEEP_RGB ^ lowest, cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000) for lowest in (0, 1)
    ),
    "12 bits a colour in AVIF": tuple(
        by_opencv(".avif", (DEEP_RGB >> 4) ^ lowest, cv2.IMWRITE_AVIF_DEPTH, 12, cv2.IMWRITE_AVIF_QUALITY, 100)
        for lowest in (0, 1)
    ),
}  # fmt: skip

#: What each image is stored as, and how: the options of Pillow, in which a mode, size or pixel never changes.
PICTURES = {
    "colour": RGB,
    "colour of one pixel": RGB.crop((0, 0, 1, 1)),
    "colour of odd width": RGB.crop((0, 0, 13, 7)),
    "grey": GREY,
    "grey of odd width": GREY.crop((0, 0, 13, 7)),
    "grey, as colour": GREY.convert("RGB"),
    "colour with alpha": RGBA,
    "colour with opaque alpha": OPAQUE,
    "grey with alpha": LA,
    "two colours": TWO_COLOURS,
    "two colours of odd width": TWO_COLOURS.crop((0, 0, 13, 7)),
    "few colours": FEW_COLOURS,
    "few colours, one of them transparent": SEE_THROUGH,
    "a transparent colour": KEYED,
    "black": BLACK,
    "black mask": mask([0] * 8, [0, 0, 0, 255, 255, 255]),
    "grey palette": mask(list(range(8)), [value for value in range(256) for _ in range(3)]),
    "short grey palette": mask(list(range(8)), [value for value in range(8) for _ in range(3)]),
    "16 bits": DEEP,
    "32 bits": DEEP.convert("I"),
    "floating point": FLOAT,
    "CMYK": CMYK,
    "LAB": Image.merge("LAB", RGB.split()),
    "YCbCr": RGB.convert("YCbCr"),
}
WAYS: dict[str, list[dict[str, Any]]] = {
    "PNG": [{}, {"compress_level": 0}, {"exif": UPRIGHT}, {"exif": ON_ITS_SIDE}, {"pnginfo": with_text("words")}],
    "BMP": [{}, {"dpi": (300, 300)}],
    "PPM": [{}],
    "GIF": [{}, {"comment": b"words"}, {"interlace": 0}],
    "WEBP": [{"lossless": True, "exact": True, "method": 0}, {"lossless": True, "exact": True, "method": 6}, {}],
    "JPEG": [{}, {"progressive": True}, {"comment": b"words"}, {"dpi": (300, 300)}, {"quality": 100}],
    "JPEG2000": [{}, {"num_resolutions": 2}],
    "TIFF": [
        {}, {"dpi": (300, 300)}, {"exif": ON_ITS_SIDE}, {"description": "words"}, {"big_tiff": True},
        *({"compression": name} for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma")),
    ],
}  # fmt: skip


#: What OpenCV writes, and how.
ENDINGS = (".png", ".bmp", ".tiff", ".ppm", ".pgm", ".webp", ".jpg", ".jp2", ".gif", ".avif")
#: Formats of samples, for tifffile, and how it writes them.
SAMPLES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64")
TIFF_WAYS: list[dict[str, Any]] = [
    *({}, {"metadata": None}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True}, {"bigtiff": True}),
    *(
        {"byteorder": ">", "metadata": None},
        {"tile": (16, 16), "metadata": None},
        {"rowsperstrip": 5, "metadata": None},
    ),
    *({"planarconfig": "separate"}, {"photometric": "miniswhite"}, {"description": "words"}, {"imagej": True}),
]
#: Bits and kinds of PNGs (grey, RGB, palette, grey with alpha, RGBA), and how many samples these have.
PNG_KINDS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
#: How long each chunk is by kind, and whether it stands before the palette.
PNG_EXTRAS = {
    b"tEXt": ({0: 8, 2: 8, 3: 8, 4: 8, 6: 8}, False),
    b"tRNS": ({0: 2, 2: 6, 3: 2}, False),
    b"gAMA": ({0: 4, 2: 4, 3: 4, 4: 4, 6: 4}, True),
    b"sBIT": ({0: 1, 2: 3, 3: 3, 4: 2, 6: 4}, True),
    b"bKGD": ({0: 2, 2: 6, 3: 1, 4: 2, 6: 6}, False),
}


def variants() -> dict[str, bytes]:
    """Every picture, and it turned, in every way that takes it, as far as Pillow reads what came of it."""
    files = {**_by_pillow(), **_by_opencv(), **_by_tifffile(), **_by_hand()}
    return {name: content for name, content in files.items() if _loads(content)}


def _loads(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def _by_pillow() -> dict[str, bytes]:
    found = {}
    for (name, picture), (form, ways) in itertools.product(PICTURES.items(), WAYS.items()):
        for place, turned in itertools.product(range(len(ways)), (False, True)):
            copied = picture.transpose(Image.Transpose.ROTATE_90) if turned else picture.copy()
            with contextlib.suppress(OSError, ValueError, KeyError, RuntimeError):  # a mode that this format lacks
                content = encoded(copied, form, **ways[place])
                found[f"{name}{' turned' * turned} in {form}, {place}"] = content
    return found


def _by_opencv() -> dict[str, bytes]:
    found = {}
    for (name, picture), ending in itertools.product(PICTURES.items(), ENDINGS):
        with contextlib.suppress(cv2.error, AssertionError):
            found[f"{name} in {ending} by OpenCV"] = by_opencv(ending, np.asarray(picture))
    return found


def _by_tifffile() -> dict[str, bytes]:
    found = {}
    for samples, place in itertools.product(SAMPLES, range(len(TIFF_WAYS))):
        for name in ("grey", "colour", "colour with alpha"):
            with contextlib.suppress(ValueError, KeyError, TypeError, ImportError, tifffile.TiffFileError):
                pixels = (np.asarray(PICTURES[name]) // 2).astype(samples)
                found[f"{name} as {samples} in TIFF by tifffile, {place}"] = tiff(pixels, **TIFF_WAYS[place])
    return found


def _by_hand() -> dict[str, bytes]:
    found = {}
    for depth, (colour, samples), seed in itertools.product((1, 2, 4, 8, 16), PNG_KINDS.items(), (0, 1)):
        row = b"\0" + bytes((place * (seed + 1) + 1) % 256 for place in range(depth * samples))  # 8 pixels
        palette = chunk(b"PLTE", bytes(range(3 << min(depth, 6)))) if colour == 3 else b""
        for kind, (lengths, is_first) in PNG_EXTRAS.items():
            values = b"\1" * 8 if kind == b"sBIT" else b"\0\1" * 4
            extra = chunk(kind, values[-lengths[colour] :]) if colour in lengths else b""
            parts = extra + palette if is_first else palette + extra
            content = png(8, 1, depth=depth, colour=colour, rows=row, extra=parts)
            found[f"PNG of {depth} bits, kind {colour}, {seed}, {kind!r}"] = content
    return found
