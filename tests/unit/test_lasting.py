"""What may be remembered of a file's content: never where another content could have the same numbers and times."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from symfuse.source import lasting
from symfuse.source.identity import Identity
from symfuse.source.lasting import COARSE_SETTLED_NS, SETTLED_NS, Image, Stamps, Volume
from symfuse.source.volumes import Volumes

SECOND_NS = 1_000_000_000
HOUR_NS = 3600 * SECOND_NS
CTIME_NS = 1_700_000_000_123_456_789
WHOLE_NS = 1_700_000_000_000_000_000
IMAGE = Image(Identity(2049, 12, 1 << 20, CTIME_NS, CTIME_NS, 0o100644, 0, 0, 1), 0)


def is_settled(
    volume: Volume, *, ctime_ns: int = CTIME_NS, mtime_ns: int = 5, age_ns: int = HOUR_NS, birth: bool = False
) -> bool:
    """Whether the verdict on a file is kept that was changed `age_ns` before it was read."""
    return volume.is_settled(mtime_ns, ctime_ns, ctime_ns + age_ns, has_birth_time=birth)


def test_a_file_left_alone_for_long_is_remembered_whatever_its_modification_time() -> None:
    disk = Volume(2049, Stamps.KERNEL, fsid=1)
    for mtime_ns in (5, CTIME_NS, CTIME_NS + 10 * HOUR_NS):
        assert is_settled(disk, mtime_ns=mtime_ns)


@pytest.mark.parametrize("age_ns", [0, SETTLED_NS, -HOUR_NS])
def test_a_file_changed_just_before_it_was_read_or_in_the_future_may_change_again_unnoticed(age_ns: int) -> None:
    assert not is_settled(Volume(2049, Stamps.KERNEL, fsid=1), age_ns=age_ns)


@pytest.mark.parametrize("stamps", [Stamps.KERNEL, Stamps.SERVER])
def test_whole_seconds_are_remembered_after_some_seconds(stamps: Stamps) -> None:
    disk = Volume(2049, stamps, fsid=1)
    assert is_settled(disk, ctime_ns=WHOLE_NS, age_ns=COARSE_SETTLED_NS + 1)
    assert not is_settled(disk, ctime_ns=WHOLE_NS, age_ns=2 * SECOND_NS), "FAT has steps of two"


def test_whole_seconds_prove_nothing_where_no_id_tells_file_systems_apart() -> None:
    assert not is_settled(Volume(2049, Stamps.KERNEL), ctime_ns=WHOLE_NS)
    assert is_settled(Volume(2049, Stamps.KERNEL))


def test_the_clock_of_a_server_may_be_another() -> None:
    server = Volume(40, Stamps.SERVER)
    assert not is_settled(server, age_ns=SECOND_NS)
    assert is_settled(server, age_ns=COARSE_SETTLED_NS + 1)


@pytest.mark.parametrize("stamps", [Stamps.BENEATH, Stamps.LAYER])
def test_where_it_depends_on_what_lies_beneath_a_change_time_of_its_own_counts(stamps: Stamps) -> None:
    union = Volume(40, stamps)
    assert is_settled(union)
    assert not is_settled(union, mtime_ns=CTIME_NS), "rclone shows the time of writing"
    assert not is_settled(union, ctime_ns=WHOLE_NS), "sshfs has whole seconds"
    assert is_settled(union, mtime_ns=CTIME_NS, birth=True)
    assert not is_settled(union, ctime_ns=WHOLE_NS, birth=True)


def test_nothing_is_remembered_of_what_has_no_change_time() -> None:
    assert not is_settled(Volume(40, Stamps.NOBODY, fsid=1))
    assert not is_settled(lasting.UNKNOWN)


def test_of_an_image_everything_is_remembered_once_the_image_was_left_alone() -> None:
    image = Volume(1792, Stamps.IMAGE, image=IMAGE)
    made_ns = IMAGE.file.ctime_ns
    for ctime_ns in (0, WHOLE_NS, CTIME_NS + HOUR_NS):
        assert image.is_settled(ctime_ns, ctime_ns, made_ns + COARSE_SETTLED_NS + 1)
        assert not image.is_settled(ctime_ns, ctime_ns, made_ns + COARSE_SETTLED_NS)


def test_images_are_told_apart_by_the_file_that_holds_them_whatever_device_they_have() -> None:
    numbers = {
        Volume(device, Stamps.IMAGE, image=image).number(WHOLE_NS)
        for device in (1792, 1793)
        for image in (
            IMAGE,
            IMAGE._replace(offset=512),
            IMAGE._replace(file=IMAGE.file._replace(ctime_ns=CTIME_NS + 1)),
            IMAGE._replace(file=IMAGE.file._replace(ino=13)),
        )
    }
    assert len(numbers) == 4


def test_disks_of_whole_seconds_are_told_apart_by_their_ids_and_others_by_their_devices() -> None:
    one, other = Volume(1792, Stamps.KERNEL, fsid=1), Volume(1792, Stamps.KERNEL, fsid=2)
    assert one.number(WHOLE_NS) != other.number(WHOLE_NS)
    assert one.number(CTIME_NS) == other.number(CTIME_NS) == 1792


def test_what_is_no_loop_device_holds_no_image_that_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Volumes, "type_at", lambda *_: b"squashfs")
    assert lasting.volume(os.stat(tmp_path).st_dev, os.fsencode(tmp_path), Volumes()) is lasting.UNKNOWN
