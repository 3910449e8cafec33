"""What `tf.io.decode_image` takes, decided without TensorFlow.

The rules are those of TensorFlow 2.21 (tensorflow/core/kernels/image/decode_image_op.cc) and of the libraries that it
decodes with. tests/keras/test_judge.py holds them against the real one, on thousands of damaged files.
"""

from __future__ import annotations

from symfuse.identity.tensorflow import bmp, gif, jpeg, png, webp
from symfuse.identity.tensorflow.refused import Refused, Unread

#: `DecodeImageV2Op::Compute` takes no more.
MAX_BYTES = (1 << 31) - 1
#: So many first bytes say what the format is.
HEAD_BYTES = 13

_JPEG, _PNG, _GIF, _BMP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM"
#: A bare codestream, and a container.
_JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")


def knows(head: bytes) -> bool:
    """Whether a file that begins so is of a format that TensorFlow knows."""
    return head.startswith((_JPEG, _PNG, _GIF, _BMP, *_JPEG_XL)) or _is_webp(head)


def _is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP" and len(head) >= HEAD_BYTES


def check(content: bytes, *, is_pillows: bool) -> None:
    """Nothing, for what is taken. `is_pillows` says that Pillow decodes it, which answers much of the question.

    Errors: Unread for what is of no format that TensorFlow knows; Refused; Undecided; MemoryError.
    """
    if content.startswith(_JPEG):
        jpeg.check(content, is_pillows=is_pillows)
    elif content.startswith(_PNG):
        png.check(content)
    elif content.startswith(_GIF):
        gif.check(content)
    elif content.startswith(_BMP):
        bmp.check(content)
    elif _is_webp(content):
        webp.check(content)
    elif content.startswith(_JPEG_XL):
        raise Refused("JPEG XL: whether it takes this cannot be told here")
    else:
        raise Unread
