"""Many files examined by real workers: digests, verdicts, what the cache keeps, and what happens in between."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from skimage import data

from symfuse.errors import SymfuseError
from symfuse.identity import pixels
from symfuse.identity.cache import Key, VerdictCache
from symfuse.identity.decoder import COMMAND, WINDOW
from symfuse.identity.pixels import Findings
from symfuse.identity.verdict import DIGEST_BYTES, NO_DIGEST, Verdict
from symfuse.identity.work import Job, OnProgress
from symfuse.names import is_image_name
from symfuse.source.identity import Identity
from tests.support.mounting import children

PICTURE = Image.fromarray(data.astronaut()[100:164, 180:260])  # type: ignore[no-untyped-call]

#: In place of a worker, where none must be needed.
NO_WORKER = (sys.executable, "-c", "raise SystemExit(1)")


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


PNG, JPEG = encoded(PICTURE), encoded(PICTURE, "JPEG")


class Folder:
    """Files in a directory; their nodeids count them in the order of the literal that they were made from."""

    def __init__(self, directory: Path, contents: dict[str, bytes]) -> None:
        self.paths = [directory / name for name in contents]
        for path, content in zip(self.paths, contents.values(), strict=True):
            path.write_bytes(content)
        self._identities = [Identity.of(path.stat()) for path in self.paths]
        self.nodeids = range(len(self.paths))
        self.opened: list[int] = []

    def keys(self, nodeids: Sequence[int]) -> list[Key]:
        return [(key.dev, key.ino, key.size, key.mtime_ns, key.ctime_ns) for key in self.identities(nodeids)]

    def identities(self, nodeids: Sequence[int]) -> list[Identity]:
        return [self._identities[nodeid] for nodeid in nodeids]

    def found(self, fd: int) -> Identity:
        return Identity.of(os.fstat(fd))

    def open(self, nodeid: int) -> int:
        self.opened.append(nodeid)
        return os.open(self.paths[nodeid], os.O_RDONLY)

    def lasting(self, jobs: Sequence[Job], begun_ns: int) -> list[bool]:
        return [True] * len(jobs)

    def forgotten(self, nodeids: Iterable[int]) -> None:
        assert not list(nodeids)

    def is_image(self, nodeid: int) -> bool:
        return is_image_name(os.fsencode(self.paths[nodeid].name))


Examine = Callable[..., Findings]


def held(cache: Path) -> list[str]:
    """What this process has open, but for the files of the cache."""
    with os.scandir("/proc/self/fd") as entries:
        targets = [os.readlink(entry.path) for entry in entries]
    return sorted(target for target in targets if not target.startswith((str(cache), "/proc/")))


@pytest.fixture
def examine(tmp_path: Path) -> Iterator[Examine]:
    """`pixels.examine` with one cache. After each call no worker is left and no file open.

    Files count as settled at once, where users have to leave them alone for a moment.
    """
    with contextlib.closing(VerdictCache.open(str(tmp_path / "cache"))) as cache:

        def examine(
            folder: Folder,
            on_progress: OnProgress = lambda _files, _bytes: None,
            stop: threading.Event | None = None,
            command: Sequence[str] = COMMAND,
        ) -> Findings:
            others, before = children(), held(tmp_path / "cache")
            try:
                found = pixels.examine(
                    folder.nodeids,
                    folder,
                    cache,
                    on_progress=on_progress,
                    stop=stop or threading.Event(),
                    command=command,
                )
                found.name_images(folder.is_image)
                return found
            finally:
                assert children() <= others
                assert held(tmp_path / "cache") == before

        yield examine


def digests(findings: Findings) -> list[bytes]:
    """One for each file."""
    packed = bytes(findings.digests)
    return [packed[start : start + DIGEST_BYTES] for start in range(0, len(packed), DIGEST_BYTES)]


def test_the_same_images_have_one_digest(examine: Examine, tmp_path: Path) -> None:
    contents = {
        "a.png": PNG,
        "b.jpg": JPEG,
        "a.bmp": encoded(PICTURE, "BMP"),
        "a.ppm": encoded(PICTURE, "PPM"),
        "a.tif": encoded(PICTURE, "TIFF", compression="tiff_lzw"),
        "c.png": encoded(Image.open(io.BytesIO(JPEG))),
    }
    found = examine(Folder(tmp_path, contents))
    assert bytes(found.verdicts) == bytes([Verdict.OK] * 6)
    a, b, *others, c = digests(found)
    assert others == [a, a, a]
    assert len({a, b, c}) == 3


def test_where_contents_leave_it_open_the_name_says_what_is_an_image(examine: Examine, tmp_path: Path) -> None:
    expected = {
        "whole.png": (PNG, Verdict.OK),
        "whole, by another name": (PNG, Verdict.OK),
        "cut.png": (PNG[:-100], Verdict.BROKEN),
        "cut, by another name": (PNG[:-100], Verdict.BROKEN),
        "empty.JPG": (b"", Verdict.NOT_AN_IMAGE),
        "empty": (b"", Verdict.NOT_AN_IMAGE),
        "a page.jpeg": (b"<html>404</html>", Verdict.NOT_AN_IMAGE),
        "labels.txt": (b"cat dog", Verdict.NOT_AN_IMAGE),
        "header of a.jpg": (JPEG[:15], Verdict.NOT_AN_IMAGE),
        "rare.jpg": (encoded(PICTURE, "TGA"), Verdict.OK),
        "rare.tga": (encoded(PICTURE, "TGA"), Verdict.OK),
        "rare, by another name": (encoded(PICTURE, "TGA"), Verdict.NOT_AN_IMAGE),
        "postscript.png": (encoded(PICTURE, "EPS"), Verdict.NOT_AN_IMAGE),
    }
    found = examine(Folder(tmp_path, {name: content for name, (content, _verdict) in expected.items()}))
    assert {name: Verdict(byte) for name, byte in zip(expected, found.verdicts, strict=True)} == {
        name: verdict for name, (_content, verdict) in expected.items()
    }
    for verdict, digest in zip(found.verdicts, digests(found), strict=True):
        assert (verdict == Verdict.OK) == (digest != NO_DIGEST)


def test_every_format_can_be_decoded_in_confinement(examine: Examine, tmp_path: Path) -> None:
    """What a decoder imports late, or threads that it starts, could be denied."""
    forms = ["BMP", "DIB", "GIF", "ICNS", "ICO", "JPEG", "JPEG2000", "MPO", "MSP", "PCX", "PNG", "PPM", "SGI"]
    forms += ["SPIDER", "TGA", "TIFF", "WEBP", "XBM", "DDS"]
    if "AVIF" in Image.registered_extensions().values():  # in Pillow's own packages, not in all distributions'
        forms.append("AVIF")
    modes = {"MSP": "1", "XBM": "1", "SPIDER": "F"}
    whole = {f"{form}.jpg": encoded(PICTURE.convert(modes.get(form, "RGB")), form) for form in forms}
    whole |= {
        f"{compression}.tif": encoded(
            PICTURE.convert("1") if "group" in compression else PICTURE, "TIFF", compression=compression
        )
        for compression in ("jpeg", "tiff_lzw", "packbits", "tiff_adobe_deflate", "group4")
    }
    whole["animated.webp"] = encoded(PICTURE, "WEBP", save_all=True, append_images=[PICTURE.rotate(90)])
    whole["stereo.jpg"] = encoded(PICTURE, "MPO", save_all=True, append_images=[PICTURE.rotate(90)])
    found = examine(Folder(tmp_path, whole))
    assert {name: Verdict(byte) for name, byte in zip(whole, found.verdicts, strict=True)} == dict.fromkeys(
        whole, Verdict.OK
    )


def test_the_cache_answers_without_a_worker_and_without_reading(examine: Examine, tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"a.png": PNG, "cut.png": PNG[:-100], "labels.txt": b"cat dog"})
    first = examine(folder)
    assert sorted(folder.opened) == [0, 1, 2]
    again = examine(folder, command=NO_WORKER)
    assert len(folder.opened) == 3
    assert (again.verdicts, again.digests) == (first.verdicts, first.digests)
    assert [again.reason(index) for index in (1, 2)] == [first.reason(index) for index in (1, 2)]
    assert "truncated" in again.reason(1)


def test_builds_of_one_pillow_do_not_share_verdicts(tmp_path: Path) -> None:
    """One may lack the decoder for what another takes."""
    builds = {"complete": ("_imaging.so", "_webp.so"), "poor": ("_imaging.so",), "copy": ("_imaging.so", "_webp.so")}
    for build, modules in builds.items():
        (tmp_path / build).mkdir()
        for module in modules:
            (tmp_path / build / module).write_bytes(b"code")
    complete, poor, copy = (pixels.kind_of(str(tmp_path / build)) for build in builds)
    assert complete == copy != poor
    (tmp_path / "copy" / "_imaging.so").write_bytes(b"other code")
    assert pixels.kind_of(str(tmp_path / "copy")) not in {complete, poor}


def test_a_verdict_is_on_contents_so_that_a_new_name_needs_no_reading(examine: Examine, tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"image": encoded(PICTURE, "TGA")})
    assert bytes(examine(folder).verdicts) == bytes([Verdict.NOT_AN_IMAGE])
    folder.paths = [folder.paths[0].rename(tmp_path / "image.tga")]
    assert bytes(examine(folder, command=NO_WORKER).verdicts) == bytes([Verdict.OK])


def test_what_was_replaced_vanished_or_is_closed_to_us_is_unknown(examine: Examine, tmp_path: Path) -> None:
    contents = dict.fromkeys(("a.png", "other.png", "longer.png", "gone.png", "b.png"), PNG)
    folder = Folder(tmp_path, contents)
    folder.paths[1].unlink()
    folder.paths[1].write_bytes(PNG)
    with folder.paths[2].open("ab") as file:
        file.write(b"more")
    folder.paths[3].unlink()
    found = examine(folder)
    unknown, ok = Verdict.UNKNOWN, Verdict.OK
    assert bytes(found.verdicts) == bytes([ok, unknown, unknown, unknown, ok])
    assert digests(found)[1:4] == [NO_DIGEST] * 3


def test_what_changes_while_it_is_decoded_is_unknown_and_not_remembered(examine: Examine, tmp_path: Path) -> None:
    class Changing(Folder):
        def open(self, nodeid: int) -> int:
            fd = super().open(nodeid)
            os.utime(self.paths[nodeid], ns=(0, len(self.opened)))
            return fd

    folder = Changing(tmp_path, {"a.png": PNG})
    assert bytes(examine(folder).verdicts) == bytes([Verdict.UNKNOWN])
    assert bytes(examine(folder).verdicts) == bytes([Verdict.UNKNOWN])
    assert folder.opened == [0, 0]


def test_stopping_leaves_the_rest_unknown_and_keeps_what_was_found(examine: Examine, tmp_path: Path) -> None:
    stop = threading.Event()

    class Stopping(Folder):
        def open(self, nodeid: int) -> int:
            if len(self.opened) == 150:
                stop.set()
            return super().open(nodeid)

    folder = Stopping(tmp_path, {f"{number}.png": PNG for number in range(300)})
    found = examine(folder, stop=stop)
    done = found.verdicts.count(Verdict.OK)
    assert 100 < done <= 150
    assert found.verdicts.count(Verdict.UNKNOWN) == 300 - done
    assert examine(folder).verdicts.count(Verdict.OK) == 300
    assert len(folder.opened) <= 151 + 300 - done + 8  # none again that was done


def test_an_error_of_whoever_listens_ends_the_workers(examine: Examine, tmp_path: Path) -> None:
    def on_progress(files: int, size: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine(Folder(tmp_path, {f"{number}.png": PNG for number in range(300)}), on_progress=on_progress)


def test_progress_ends_with_all_files_and_their_bytes(examine: Examine, tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"a.png": PNG, "b.jpg": JPEG, "labels.txt": b"cat dog"})
    for _cached in (False, True):
        told: list[tuple[int, int]] = []
        examine(folder, on_progress=lambda *done, told=told: told.append(done))
        assert told[-1] == (3, len(PNG) + len(JPEG) + 7)
        assert told == sorted(told)


def test_nothing_to_do_needs_no_worker(examine: Examine, tmp_path: Path) -> None:
    found = examine(Folder(tmp_path, {}), command=NO_WORKER)
    assert not found.verdicts + found.digests


def test_workers_that_do_not_start_are_an_error_and_leave_nothing(examine: Examine, tmp_path: Path) -> None:
    with pytest.raises(SymfuseError, match="does not start"):
        examine(Folder(tmp_path, {f"{number}.png": PNG for number in range(20)}), command=NO_WORKER)


def test_workers_are_few_enough_for_the_descriptors_that_a_process_may_have(
    examine: Examine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many cores there are."""
    assert pixels.MAX_WORKERS * (2 + WINDOW) < 1000
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(1000)))
    monkeypatch.setattr(pixels, "MAX_WORKERS", 3)
    workers: list[int] = []
    others = children()

    class Counting(Folder):
        def open(self, nodeid: int) -> int:
            workers.append(len(children() - others))
            return super().open(nodeid)

    found = examine(Counting(tmp_path, {f"{number}.png": PNG for number in range(60)}))
    assert found.verdicts.count(Verdict.OK) == 60
    assert 1 <= max(workers) <= 3


def test_a_bomb_and_its_neighbours(examine: Examine, tmp_path: Path) -> None:
    """400 million black pixels in a file of 400 KB."""
    bomb = encoded(Image.new("1", (20_000, 20_000)))
    found = examine(Folder(tmp_path, {"a.png": PNG, "bomb.png": bomb, "b.png": PNG}))
    assert bytes(found.verdicts) == bytes([Verdict.OK, Verdict.BROKEN, Verdict.OK])
