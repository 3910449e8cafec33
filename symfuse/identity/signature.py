"""Whether a file begins as an image does, whatever its name. docs/semantics.md has the same list."""

from __future__ import annotations

#: Counted up whenever another file begins as an image does.
REVISION = 1
#: So many first bytes decide it.
HEAD_BYTES = 32

#: What no other file begins with by chance. Sources: JPEG, ISO/IEC 10918-1 B.1.1 (SOI, then a marker); PNG, W3C PNG
#: 5.2; GIF, the 87a and 89a specifications; TIFF, TIFF 6.0 section 2, and BigTIFF (libtiff, 43 and offsets of 8 bytes),
#: in both byte orders; JPEG 2000, ISO/IEC 15444-1 I.5.1 (signature box) and A.4.1 (SOC, then SIZ).
_BEGINNINGS = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    *(b"GIF87a", b"GIF89a"),
    *(b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0"),
    *(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
)
#: What follows `RIFF` and a size, and what follows that. Source: RFC 9649 (WebP), section 2.4.
_WEBP, _WEBP_CHUNKS = b"WEBP", (b"VP8 ", b"VP8L", b"VP8X")
#: Major brands of images in an ISO base media file. Sources: ISO/IEC 14496-12, 4.3 (`ftyp`); ISO/IEC 23008-12, annex B
#: (HEIF, HEVC, and sequences of each); AV1 Image File Format, section 6.
AVIF_BRANDS = (b"avif", b"avis")
HEIF_BRANDS = (
    *(b"mif1", b"msf1", b"mif2"),
    *(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"),
)
#: The sizes of a BMP's second header. Source: wingdi.h (BITMAPCOREHEADER to BITMAPV5HEADER), and OS/2's of 16 and 64.
_BMP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
_BMP_FIRST_HEADER = 14
#: Netpbm's formats, P1 to P7; white space must follow. Source: the manual pages pbm(5) to pam(5).
_PNM_DIGITS, _WHITE_SPACE = b"1234567", b" \t\n\v\f\r"


def begins_as_image(head: bytes) -> bool:
    """Whether these are the first bytes of an image: HEAD_BYTES of them, or all that the file has."""
    return head.startswith(_BEGINNINGS) or _is_webp(head) or _is_iso_media(head) or _is_bmp(head) or _is_pnm(head)


def _is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == _WEBP and head[12:16] in _WEBP_CHUNKS


def _is_iso_media(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in AVIF_BRANDS + HEIF_BRANDS


def _is_bmp(head: bytes) -> bool:
    """Two letters alone begin many a text: the pixels must lie behind the headers, and the second have a known size."""
    if head[:2] != b"BM" or len(head) < _BMP_FIRST_HEADER + 4:
        return False
    pixels_at, second = (int.from_bytes(head[at : at + 4], "little") for at in (10, _BMP_FIRST_HEADER))
    return second in _BMP_HEADERS and pixels_at >= _BMP_FIRST_HEADER + second


def _is_pnm(head: bytes) -> bool:
    return len(head) > 2 and head[0] == ord("P") and head[1] in _PNM_DIGITS and head[2] in _WHITE_SPACE
