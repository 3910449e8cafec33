"""What a file's owner, group, mode and access control list grant, and how much of that a plain mode can say.

The kernel judges whoever reads a mount by owner, group and mode alone. What else stands between a reader and a source
(an access control list, directories on the way to a link's target) is a *guard*. `shown_mode` finds the largest mode
that lets nobody in whom a guard keeps out, whatever groups people are in. Touches no file.

Source: acl(5), ACCESS CHECK ALGORITHM; posix_acl_permission() in fs/posix_acl.c; linux/posix_acl_xattr.h.
"""

from __future__ import annotations

import functools
import stat
import struct
from typing import NamedTuple

READ, SEARCH = 4, 1

#: `struct posix_acl_xattr_header` and `_entry`: a version; tag, permissions, id.
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_VERSION = 2
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
#: An access control list that nobody can read: then it grants its owner alone what the mode says.
UNKNOWN = b"?"
#: Bits of a mode that are a class's, by how far they are shifted.
_OWNER, _GROUP_CLASS, _OTHERS = 6, 3, 0


class Guard(NamedTuple):
    """What lets users pass, or keeps them out. `mode` is st_mode, `acl` the extended attribute, empty for none."""

    mode: int
    uid: int
    gid: int
    acl: bytes = b""


#: All that stands between whoever has come to a directory and a source.
Way = frozenset[Guard]
FREE: Way = frozenset()


def only(uid: int) -> Guard:
    """Lets one user pass and nobody else."""
    return Guard(0o700, uid, 0)


class _Rule(NamedTuple):
    """Who is granted one permission. Of the groups that somebody is in, one that is granted it is enough."""

    owner: int
    is_owner_granted: bool
    users: dict[int, bool]
    groups: dict[int, bool]
    are_others_granted: bool

    def grants_strangers(self, but: int | None = None) -> bool:
        """Whether it is granted to all that are not named, in whichever of its groups they are but `but`."""
        return self.are_others_granted and all(is_granted for gid, is_granted in self.groups.items() if gid != but)

    def grants_others_than(self, uid: int) -> bool:
        """Whether it is granted to all that are named but `uid`."""
        named = {**self.users, self.owner: self.is_owner_granted}
        return all(is_granted for user, is_granted in named.items() if user != uid)

    def grants_owner(self, uid: int) -> bool:
        """Whether it is granted to this user, whatever groups they are in."""
        if uid == self.owner:
            return self.is_owner_granted
        return self.users[uid] if uid in self.users else self.grants_strangers()

    def grants_group(self, uid: int, gid: int) -> bool:
        """Whether it is granted to all of this group but `uid`."""
        return self.grants_others_than(uid) and (self.groups[gid] if gid in self.groups else self.grants_strangers())

    def grants_rest(self, uid: int, gid: int) -> bool:
        """Whether it is granted to all but `uid` and this group."""
        return self.grants_others_than(uid) and self.grants_strangers(but=gid)


@functools.lru_cache(maxsize=4096)
def shown_mode(source: Guard, way: Way) -> int:
    """The mode to show of a source behind a way, file type and all: the source's, less whatever grants too much.

    What its owner, its group and all others may read (and search or execute) is each taken away unless every user of
    that class may at the source. Bits for writing stay as they are.
    """
    mode = source.mode
    for bit in (READ, SEARCH):
        # Whoever may not search a directory on the way can neither read nor execute what lies behind it.
        rules = [_rule(source, bit), *(_rule(guard, SEARCH) for guard in way)]
        uid, gid = source.uid, source.gid
        if not all(rule.grants_owner(uid) for rule in rules):
            mode &= ~(bit << _OWNER)
        if not all(rule.grants_group(uid, gid) for rule in rules):
            mode &= ~(bit << _GROUP_CLASS)
        if not all(rule.grants_rest(uid, gid) for rule in rules):
            mode &= ~(bit << _OTHERS)
    return mode


@functools.lru_cache(maxsize=4096)
def is_narrowed(source: Guard, way: Way) -> bool:
    """True when somebody may not read (or search) what is shown with `shown_mode`, and may at the source."""
    shown = shown_mode(source, way)
    if (source.mode & ~shown) & 0o777:
        return True
    bits = (READ, SEARCH) if stat.S_ISDIR(source.mode) else (READ,)
    return any(_loses_names(_rule(source, bit), source.gid, shown & bit << _GROUP_CLASS, shown & bit) for bit in bits)


def _loses_names(rule: _Rule, gid: int, group: int, others: int) -> bool:
    """Whether somebody whom the list names is granted what a class that they may be of is not."""
    named = [*rule.users.values(), *(is_granted for each, is_granted in rule.groups.items() if each != gid)]
    return any(named) and not (group and others)


def _rule(guard: Guard, bit: int) -> _Rule:
    """What a guard says of one permission."""
    mode = guard.mode
    owner, group, others = (bool(mode & bit << shift) for shift in (_OWNER, _GROUP_CLASS, _OTHERS))
    if not guard.acl:
        return _Rule(guard.uid, owner, {}, {guard.gid: group}, others)
    entries = _entries(guard.acl)
    if entries is None:
        return _Rule(guard.uid, owner, {}, {guard.gid: False}, False)
    mask = next((granted for tag, granted, _id in entries if tag == _MASK), 0o7)
    users: dict[int, bool] = {}
    groups: dict[int, bool] = {}
    for tag, granted, named in entries:
        is_granted = bool(granted & bit)
        if tag == _USER_OBJ:
            owner = is_granted
        elif tag == _OTHER:
            others = is_granted
        elif tag == _USER:
            users[named] = is_granted and bool(mask & bit)
        elif tag in (_GROUP_OBJ, _GROUP):
            gid = guard.gid if tag == _GROUP_OBJ else named
            groups[gid] = groups.get(gid, False) or (is_granted and bool(mask & bit))
    return _Rule(guard.uid, owner, users, groups, others)


def _entries(acl: bytes) -> list[tuple[int, int, int]] | None:
    """Tag, permissions and id of each entry; None for what is no access control list."""
    if (len(acl) - _HEADER.size) % _ENTRY.size or len(acl) < _HEADER.size or _HEADER.unpack_from(acl) != (_VERSION,):
        return None
    return list(_ENTRY.iter_unpack(acl[_HEADER.size :]))
