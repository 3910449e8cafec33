"""What a file that is no image seems to be, by its first bytes."""

from __future__ import annotations

import re

from symfuse.identity.reason import Reason
from symfuse.identity.signature import AVIF_BRANDS, HEIF_BRANDS
from symfuse.names import is_image_name

#: How much of a file is looked at.
HEAD_BYTES = 4096
#: Longer than a git-lfs pointer. Source: docs/spec.md in git-lfs.
_LFS_BYTES = 1024
_LFS = b"version https://git-lfs.github.com/spec/"

_BRANDS = {**dict.fromkeys(HEIF_BRANDS, "HEIC"), **dict.fromkeys(AVIF_BRANDS, "AVIF")}
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "BigTIFF"),
    (b"MM\0+", "BigTIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"8BPS", "PSD"),
    (b"\0\0\1\0", "ICO"),
    (b"v/1\1", "OpenEXR"),
    (b"DDS ", "DDS"),
    (b"qoif", "QOI"),
    (b"%PDF-", "PDF"),
    (b"%!PS", "PostScript"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"BM", "BMP"),
)
_PNM = re.compile(rb"P[1-7][ \t\r\n]")
#: Comments, each to its first end and no further, whatever follows: there are 2^n ways to take n of them for fewer.
#: Nor is white space ever given back, for there are n ways to share it between two.
_COMMENTS = rb"(?>\s*+<!--.*?-->)*+\s*+"
_SVG = re.compile(rb"\s*+(<\?xml[^>]*+>)?+" + _COMMENTS + rb"(<!DOCTYPE svg|<svg)", re.DOTALL)
_WEB_PAGE = re.compile(_COMMENTS + rb"<(!doctype html|html|head|body)", re.DOTALL | re.IGNORECASE)
_CONTROL = re.compile(rb"[\0-\x08\x0e-\x1f\x7f]")


def format_of(head: bytes) -> str | None:
    """The format that a signature says, whether or not anything comes of it."""
    if head[4:8] == b"ftyp" and head[8:12] in _BRANDS:
        return _BRANDS[head[8:12]]
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if _PNM.match(head):
        return "PPM"
    if _SVG.match(head):
        return "SVG"
    return next((found for signature, found in _SIGNATURES if head.startswith(signature)), None)


def what_else(head: bytes, size: int) -> Reason:
    """What a file of so many bytes is that has no format of an image; `head` are its first HEAD_BYTES."""
    if not size:
        return Reason.EMPTY
    if size <= _LFS_BYTES and head.startswith(_LFS):
        return Reason.LFS_POINTER
    if _WEB_PAGE.match(head):
        return Reason.WEB_PAGE
    if not is_text(head):
        return Reason.NO_IMAGE
    return Reason.LINK_TEXT if size == len(head) and _is_path(head) else Reason.TEXT


def is_text(head: bytes) -> bool:
    """Whether the first HEAD_BYTES of a file are UTF-8 without control characters."""
    if _CONTROL.search(head):
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4 and len(head) == HEAD_BYTES  # a character may be cut there
    return True


def _is_path(text: bytes) -> bool:
    """Whether this is a link's text: a path on one line, as git and unzip write it where they make no links."""
    line = text.removesuffix(b"\n")
    if not line or line.strip() != line or b"\n" in line or b"\t" in line or b"://" in line:
        return False
    return b"/" in line.strip(b"/") or line.startswith((b"/", b"./", b"../")) or is_image_name(line)
