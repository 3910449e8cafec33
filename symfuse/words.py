"""What the words of a directory's or file's name say: images, labels, or a split."""

from __future__ import annotations

import re
import string
from itertools import chain, pairwise


def _set(text: str) -> frozenset[bytes]:
    return frozenset(text.encode().split())


IMAGE_WORDS = _set(
    "image images img imgs photo photos picture pictures jpegimages pngimages jpeg jpg png rgb input inputs data"
)
#: What makes a directory one for labels; no words that classes are called by.
LABEL_WORDS = _set(
    """label labels labelmap labelmaps mask masks annotation annotations annos anno annot annots ann anns gt groundtruth
    segmentation segmentations seg segmentationclass segmentationobject panoptic semantic caption captions bbox bboxes
    trimap trimaps keypoints landmarks polygons alpha manual"""
)
#: Words for labels behind the stem of an image beside it.
STEM_LABEL_WORDS = LABEL_WORDS | _set("box boxes target targets depth truth ground xml")
#: The words of splits, by what they mean: those of one line stand for each other in `--split-order`.
SPLIT_MEANINGS = (
    (b"train", b"training"),
    (b"val", b"valid", b"validation", b"dev"),
    (b"test", b"testing"),
)
FOLD = b"fold"
#: With FOLD and a number behind it, all words that make a name a split's.
SPLIT_WORDS = frozenset({*chain(*SPLIT_MEANINGS), b"trainval", b"eval", b"query", b"gallery"})
#: Words that say nothing of which directories belong together; the numbering of ISIC's archives, among others.
FILLERS = IMAGE_WORDS | _set("set split part task bounding box v st nd")

_RUN = re.compile(rb"[A-Za-z]+|[0-9]+")
_CUT = re.compile(rb"(?<=[a-z])(?=[A-Z])")
_KNOWN = IMAGE_WORDS | STEM_LABEL_WORDS | SPLIT_WORDS
#: `trainannot`, as CamVid has it.
_SPLIT_AND_LABEL = re.compile(b"(%s)(%s)" % tuple(b"|".join(sorted(each)) for each in (SPLIT_WORDS, LABEL_WORDS)))


def words(name: bytes) -> list[bytes]:
    """The runs of letters a to z of a name, in small letters, cut where a capital one follows a small one.

    A run that is a known word as a whole (`GroundTruth`, `SegmentationClass`) is not cut; `ground` and `truth` in a row
    are one word.
    """
    return [word for word in _words_and_numbers(name) if not word.isdigit()]


def numbers(name: bytes) -> tuple[int, ...]:
    """The numbers in a name, in their order: `case_07_img_2` has 7 and 2."""
    return tuple(int(word) for word in _words_and_numbers(name) if word.isdigit())


def _words_and_numbers(name: bytes) -> list[bytes]:
    found: list[bytes] = []
    for run in _RUN.findall(name):
        lower = run.lower()
        if lower in _KNOWN:
            found.append(lower)
        elif (both := _SPLIT_AND_LABEL.fullmatch(lower)) is not None:
            found += both.groups()
        else:
            found += (word.lower() for word in _CUT.split(run))
    if b"truth" in found:
        return _with_ground_truth(found)
    return found


def _with_ground_truth(found: list[bytes]) -> list[bytes]:
    joined: list[bytes] = []
    for word in found:
        if word == b"truth" and joined and joined[-1] == b"ground":
            joined[-1] = b"groundtruth"
        else:
            joined.append(word)
    return joined


def has_label_word(name: bytes) -> bool:
    """Whether a directory may be one for labels by its name."""
    return not LABEL_WORDS.isdisjoint(words(name))


def has_image_word(name: bytes) -> bool:
    """Whether a name has a word for images, whatever else."""
    return not IMAGE_WORDS.isdisjoint(words(name))


#: Signs are ASCII.
_LETTERS = string.ascii_letters.encode()
_NO_LETTERS = bytes(code for code in range(0x80) if not chr(code).isalpha())
_SIGNS = bytes(code for code in _NO_LETTERS if not chr(code).isdigit())
_SIGN = re.compile(rb"[^A-Za-z0-9\x80-\xff]")
#: One of these ends whatever ends in a word for labels.
_LABEL_ENDINGS = tuple(word for word in STEM_LABEL_WORDS if not word.endswith(tuple(STEM_LABEL_WORDS - {word})))
_LONGEST_ENDING = max(map(len, _LABEL_ENDINGS))


def stems_before_labels(stem: bytes) -> list[bytes]:
    """What is left of a stem without words for labels behind it: `a_mask_1` gives `a` and `a_`; the longest come first.

    Such a word comes at once, or after signs, and nothing follows it but such words, digits and signs.
    """
    found: list[bytes] = []
    rest = stem.rstrip(_NO_LETTERS)
    while rest[-_LONGEST_ENDING:].lower().endswith(_LABEL_ENDINGS):  # of nearly all this is asked once
        for word in reversed(_cut(rest[len(rest.rstrip(_LETTERS)) :])):
            if word.lower() not in STEM_LABEL_WORDS:
                return found
            rest = rest[: -len(word)]
            shortest = max(len(rest.rstrip(_SIGNS)), 1)
            found += [rest[:end] for end in range(len(rest), shortest - 1, -1)]
        rest = rest.rstrip(_NO_LETTERS)
    return found


def stems_before_signs(stem: bytes) -> list[bytes]:
    """What stands before each sign of a stem, the longest first: `0001_c1-good` gives `0001_c1` and `0001`."""
    return [stem[: match.start()] for match in reversed([*_SIGN.finditer(stem)]) if match.start()]


def _cut(run: bytes) -> list[bytes]:
    """The words of a run of letters, as they are written."""
    return [run] if run.lower() in _KNOWN else _CUT.split(run)


def is_for_images(name: bytes) -> bool:
    """Whether a name has words for images and no others."""
    found = words(name)
    return bool(found) and IMAGE_WORDS.issuperset(found)


def split_words(name: bytes) -> set[bytes]:
    """The words of splits in a name; a fold has its number."""
    found = _words_and_numbers(name)
    folds = {b"%s%d" % (FOLD, int(n)) for word, n in pairwise(found) if word == FOLD and n.isdigit()}
    return folds | SPLIT_WORDS.intersection(found)


def split_of(name: bytes) -> bytes | None:
    """The split that a name stands for: the one word of a split that it has, a fold with its number; else None."""
    found = split_words(name)
    return found.pop() if len(found) == 1 else None


def rest_of_split(name: bytes) -> frozenset[bytes]:
    """The other words of a split's name, without those that say nothing: splits of one kind have the same."""
    return frozenset(words(name)) - SPLIT_WORDS - FILLERS - LABEL_WORDS - {FOLD}
