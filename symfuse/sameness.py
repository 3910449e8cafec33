"""Which files of a frozen view are the same image: groups of nodeids, in the order of the view.

A source is read once, however many links and hard links lead to it; and not at all where nothing can be its like.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from symfuse.identity.cache import Key
from symfuse.identity.verdict import DIGEST_BYTES, NO_DIGEST
from symfuse.identity.work import Job
from symfuse.names import is_image_name
from symfuse.pairs import IMAGE, PERHAPS, Roles
from symfuse.source import lasting, reader
from symfuse.source.identity import Identity
from symfuse.source.lasting import Volume
from symfuse.table import Trait, identity_of
from symfuse.view import PLACE_BITS, View

_FIELD = (1 << 64) - 1
#: The digests of some nodeids, one behind the other, DIGEST_BYTES each; NO_DIGEST for what could not be read.
Digests = Callable[[Sequence[int]], bytearray]


class Sources:
    """The distinct sources behind the files of a view that are compared, numbered in the order of the view.

    What has no image's name may be compared if its content is an image's: `settle` takes out what is none.

    Where inode numbers tell files apart, a source is known by its numbers, its size and its times: what changed while
    the view was frozen is another. Elsewhere it is known by its real path, and by numbers only for hard links.
    """

    def __init__(self, view: View, roles: Roles = lambda _number: lambda _place, _name: IMAGE) -> None:
        self._view = view
        self.nodeids = array("Q")  # the first file of each source
        self.sizes = array("q")  # bytes
        # The further files of a source hang on a chain of places in `_further`, the last one first; 0 ends it.
        self._chains = array("Q")  # by source
        self._further = array("Q", [0])
        self._links = array("Q", [0])  # from each place to the next
        self._roles = bytearray()  # by source: what its files are by their names
        self._unnamed: frozenset[int] = frozenset()  # files that are images by their content
        self._dropped: set[int] = set()  # sources that have no files left
        self._left: set[int] = set()  # files of the others that are not compared
        self._are_numbered: dict[int, bool] = {}  # by device
        self._volumes: dict[int, Volume] = {}  # by device
        self._born: set[tuple[int, int]] = set()  # numbers of open files that have a time of birth, where that counts
        numbers: defaultdict[int, dict[object, int]] = defaultdict(dict)  # device -> what names a source -> its number
        stamps = array("Q")  # a hash of size and times, by source
        images = 0  # counted here, for it is a million times
        for role, nodeid, trait, row in _chosen(view, roles):
            stamp = hash((row[1], row[3], row[4])) & _FIELD
            name: object = row[0]
            if not self._is_numbered(trait.dev, nodeid):
                name = self._name(nodeid, identity_of(trait, row))
            number = numbers[trait.dev].setdefault(name, len(self.nodeids))
            if number < len(self.nodeids) and stamps[number] != stamp:
                number = numbers[trait.dev].setdefault((name, stamp), len(self.nodeids))
            if number == len(self.nodeids):
                self.nodeids.append(nodeid)
                self.sizes.append(row[1])
                stamps.append(stamp)
                self._chains.append(0)
                self._roles.append(role)
            else:
                self._roles[number] |= role
                self._links.append(self._chains[number])
                self._chains[number] = len(self._further)
                self._further.append(nodeid)
            images += role == IMAGE
        #: Files that are compared.
        self.images = images

    def _is_numbered(self, device: int, nodeid: int) -> bool:
        """True when numbers tell files of this device apart; one of them is `nodeid`."""
        found = self._are_numbered.get(device)
        if found is None:
            found = self._are_numbered[device] = self._view.is_numbered(nodeid)
        return found

    def _name(self, nodeid: int, identity: Identity) -> object:
        """What names a source where numbers do not: where it lies, or, of several hard links, all that they share."""
        if identity.nlink > 1 and not identity.is_coarse:
            return identity
        return self._path(nodeid)

    def _path(self, nodeid: int) -> object:
        try:
            return self._view.source_path(nodeid)
        except OSError:
            return nodeid  # like no other; reading it will say why

    def keys(self, nodeids: Sequence[int]) -> list[Key]:
        """How the cache of verdicts knows sources: by their numbers, or by their paths where numbers mean little."""
        identities = self._view.identities(nodeids)
        return [self._key(nodeid, identity) for nodeid, identity in zip(nodeids, identities, strict=True)]

    def _key(self, nodeid: int, identity: Identity) -> Key:
        device, ino, size, mtime_ns, ctime_ns = identity[:5]
        if self._is_numbered(device, nodeid):
            volume = self._volumes.get(device) or self._volume(device, nodeid)
            return volume.number(ctime_ns), ino, size, mtime_ns, ctime_ns
        digest = hashlib.sha256(repr(self._path(nodeid)).encode()).digest()
        return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little"), size, mtime_ns, ctime_ns

    def found(self, fd: int) -> Identity:
        """What an open file is now. Errors: OSError."""
        found = reader.found(fd, self._view.dataset.volumes)
        volume = self._volumes.get(found.dev)
        if volume is not None and volume.has_birth_time(fd, found):
            self._born.add((found.dev, found.ino))
        return found

    def lasting(self, jobs: Sequence[Job], begun_ns: int) -> list[bool]:
        """See `identity.work.Files`: for files that were `found` just before."""
        is_there: dict[Volume, bool] = {}
        are_lasting = []
        for _index, nodeid, (_volume, _ino, _size, mtime_ns, ctime_ns), identity in jobs:
            volume = self._volume(identity.dev, nodeid)
            if volume not in is_there:
                is_there[volume] = volume.is_still_there()
            born = (identity.dev, identity.ino)
            is_settled = volume.is_settled(mtime_ns, ctime_ns, begun_ns, has_birth_time=born in self._born)
            self._born.discard(born)
            are_lasting.append(is_settled and is_there[volume])
        return are_lasting

    def _volume(self, device: int, nodeid: int) -> Volume:
        """What a device number stands for; `nodeid` is a file there."""
        found = self._volumes.get(device)
        if found is None:
            try:
                found = lasting.volume(device, self._view.source_path(nodeid), self._view.dataset.volumes)
            except OSError:
                found = lasting.UNKNOWN
            self._volumes[device] = found
        return found

    def files(self, number: int) -> Iterator[int]:
        """The nodeids of all files of a source that are compared."""
        return (nodeid for nodeid in self._all_files(number) if nodeid not in self._left)

    def _all_files(self, number: int) -> Iterator[int]:
        yield self.nodeids[number]
        place = self._chains[number]
        while place:
            yield self._further[place]
            place = self._links[place]

    def drop(self, number: int, nodeids: Iterable[int]) -> None:
        """Leave some files of a source out of all groups, and the source itself once it has no others."""
        self._left.update(nodeids)
        if next(self.files(number), None) is None:
            self._dropped.add(number)
            self._left.difference_update(self._all_files(number))

    def undecided(self, *, by_size: bool) -> array[int]:
        """The sources some of whose files are no images by their names.

        With `by_size` only those that may have their like: several files, or a size that others have. What is empty
        is no image.
        """
        if max(self._roles, default=IMAGE) < PERHAPS:
            return array("Q")
        sizes = Counter(self.sizes) if by_size else Counter[int]()
        return array(
            "Q",
            (
                number
                for number, roles in enumerate(self._roles)
                if roles & PERHAPS
                and self.sizes[number]
                and (not by_size or self._chains[number] or sizes[self.sizes[number]] > 1)
            ),
        )

    def settle(self, images: Iterable[int]) -> None:
        """Compare, of what has no image's name, these files alone. Numbers of sources are others after that."""
        if max(self._roles, default=IMAGE) < PERHAPS:
            return
        chosen = self._unnamed = frozenset(images)
        self.images += len(chosen)
        kept = array("Q")
        for number, roles in enumerate(self._roles):
            if roles & PERHAPS:
                files = [*self._all_files(number)]
                left = [nodeid for nodeid in files if nodeid not in chosen and not self.has_image_name(nodeid)]
                if len(left) == len(files):
                    continue
                self._left.update(left)
            kept.append(number)
        self.nodeids, self.sizes, self._chains, self._roles = (
            array("Q", map(self.nodeids.__getitem__, kept)),
            array("q", map(self.sizes.__getitem__, kept)),
            array("Q", map(self._chains.__getitem__, kept)),
            bytearray([IMAGE]) * len(kept),
        )

    def leave_unnamed(self) -> None:
        """Compare by their names alone."""
        self._left |= self._unnamed
        self.images -= len(self._unnamed)

    def has_image_name(self, nodeid: int) -> bool:
        """Whether a file is an image by its own name."""
        return is_image_name(self._view.entry(nodeid)[1])

    def groups(self, same: Iterable[list[int]] = ()) -> Iterator[list[int]]:
        """The files of each image that has several; `same` are numbers of sources that are one image."""
        merged = {numbers[0]: numbers for numbers in same}
        others = {number for numbers in merged.values() for number in numbers[1:]} | self._dropped
        for number in range(len(self.nodeids)):
            if (self._chains[number] or number in merged) and number not in others:
                files = [nodeid for each in merged.get(number, (number,)) for nodeid in self.files(each)]
                if len(files) > 1:
                    yield files

    def rest(self, found: Callable[[int], bool] = lambda _number: False) -> array[int]:
        """The sources that were not dropped, without those that are `found`."""
        return array("Q", (n for n in range(len(self.nodeids)) if n not in self._dropped and not found(n)))


def _chosen(view: View, roles: Roles) -> Iterator[tuple[int, int, Trait, tuple[int, ...]]]:
    """Role, nodeid, trait and the fields of a `Row` of every file that may be compared."""
    for number in view.frozen_directories():
        role_of = roles(number)
        if role_of is None:
            continue
        for place, name, nodeid, _ino, trait, row in view.rows(number):
            if nodeid >> PLACE_BITS and (role := role_of(place, name)):
                yield role, nodeid, trait, row


def same_bytes(sources: Sources, numbers: Sequence[int], digests: Digests) -> Iterator[list[int]]:
    """Those of some sources that have equal content. What has a size of its own is not read."""
    sizes = Counter(sources.sizes[number] for number in numbers)
    alike = array("Q", (number for number in numbers if sizes[sources.sizes[number]] > 1))
    return equal(alike, digests(array("Q", (sources.nodeids[number] for number in alike))))


def has_digest(digests: bytearray, index: int) -> bool:
    """False for what could not be read."""
    return _digest(digests, index) != NO_DIGEST


def _digest(digests: bytearray, index: int) -> bytes:
    return bytes(digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES])


def equal(numbers: Sequence[int], digests: bytearray) -> Iterator[list[int]]:
    """The numbers that share a digest with another; `digests` has one for each. What has none is like nothing."""
    # Part by part, so that there is no object for each of a million files at once.
    parts = [array("Q") for _ in range(256)]
    for index in range(len(numbers)):
        parts[digests[index * DIGEST_BYTES]].append(index)
    for part in parts:
        found: defaultdict[bytes, list[int]] = defaultdict(list)
        for index in part:
            found[_digest(digests, index)].append(numbers[index])
        found.pop(NO_DIGEST, None)
        yield from (same for same in found.values() if len(same) > 1)
