"""What a file's name says of it: `symfuse.names`."""

from __future__ import annotations

import os

import pytest

from symfuse.names import is_image_name


@pytest.mark.parametrize(
    "name",
    [
        *("a.jpg", "A.JPEG", "a.jfif", "a.jpe", "x.tar.png", "\udcff.webp", ".gif", "a.TIF", "dir/a.bmp", "a.dib"),
        *("a.jp2", "a.j2k", "a.jpx", "a.avif", "a.heic", "a.heif", "a.pbm", "a.pnm", "a.ico", "a.tga"),
    ],
)
def test_names_of_images(name: str) -> None:
    assert is_image_name(os.fsencode(name))


@pytest.mark.parametrize("name", ["jpg", "a.txt", "a.jpg.part", "a.mp4", "a.npy", "a.jpg/", "a.psd"])
def test_names_of_other_files(name: str) -> None:
    assert not is_image_name(os.fsencode(name))
