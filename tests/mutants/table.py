"""The checks that guard access, one by one: how each is taken out, and the tests that must notice."""

from __future__ import annotations

from tests.mutants.workshop import Mutant

KERNELMOUNT = "symfuse/fuse/kernelmount.py"
HELPER = "symfuse/fuse/helper.py"
LIBFUSE = "symfuse/fuse/libfuse.py"
FUSEPY = ("--backend", "fusepy")
STACK = ("--stack",)

PERMISSIONS = "tests/mounted/test_permissions.py"
NOEXEC = "tests/mounted/test_noexec.py"
CONTRACT = "tests/mounted/test_contract.py"
DENIED = f"{PERMISSIONS}::test_others_are_denied_what_the_owner_closed"

#: Over an overlay the kernel judges by itself: with --stack `default_permissions` guards nothing.
KERNEL_JUDGES = (
    Mutant(
        "root's mount without default_permissions",
        KERNELMOUNT,
        '        "default_permissions",\n',
        "",
        (f"{DENIED}[kernel-asked for by nobody]", f"{DENIED}[kernel-cached]"),
    ),
    Mutant(
        "an ordinary user's mount without default_permissions",
        HELPER,
        '        b"default_permissions",\n',
        "",
        (f"{PERMISSIONS}::test_an_ordinary_users_mount_is_as_restricted_as_roots[kernel]",),
    ),
    Mutant(
        "an ordinary user's mount for others without default_permissions",
        HELPER,
        '        b"default_permissions",\n',
        "",
        (f"{PERMISSIONS}::test_an_ordinary_users_mount_for_others_hands_out_nothing_closed[kernel]",),
    ),
    Mutant(
        "fusepy's mount without default_permissions",
        LIBFUSE,
        '            "default_permissions": True,\n',
        "",
        (f"{DENIED}[fusepy-asked for by nobody]",),
        FUSEPY,
    ),
    Mutant(
        "fusepy's mount of an ordinary user without default_permissions",
        LIBFUSE,
        '            "default_permissions": True,\n',
        "",
        (f"{PERMISSIONS}::test_an_ordinary_users_mount_for_others_hands_out_nothing_closed[fusepy]",),
        FUSEPY,
    ),
    Mutant(
        "a private stacked mount whose root is open",
        "symfuse/fuse/layers.py",
        "        if not self._is_private:\n",
        "        if True:\n",
        ("tests/mounted/test_stack.py::test_without_allow_other_nobody_else_may_look_in",),
        STACK,
    ),
    Mutant(
        "a private stacked mount that is not taken for one",
        "symfuse/fuse/device.py",
        "is_private=not options.allow_other",
        "is_private=False",
        ("tests/mounted/test_stack.py::test_without_allow_other_nobody_else_may_look_in",),
        STACK,
    ),
)

FLAGS = f"{CONTRACT}::test_the_mount_is_read_only_nosuid_and_nodev"
ORDINARY_FLAGS = f"{PERMISSIONS}::test_an_ordinary_users_mount_is_as_restricted_as_roots"
EROFS = "tests/mounted/test_posix.py::test_every_mutation_is_erofs_after_root_took_the_flag_away"
NOT_EXECUTED = f"{NOEXEC}::test_nothing_can_be_executed"
NOT_SETID = "tests/unit/test_view.py::test_no_mode_lets_anybody_write_or_become_somebody_else"

#: What fusermount3 and libfuse add by themselves, `nosuid` and `nodev`, no test could miss.
RESTRICTIONS = (
    Mutant(
        "a writable mount",
        KERNELMOUNT,
        "return MS_RDONLY | MS_NOSUID",
        "return MS_NOSUID",
        (f"{FLAGS}[kernel]",),
        by_root=True,
    ),
    Mutant(
        "a mount with setuid programs",
        KERNELMOUNT,
        "return MS_RDONLY | MS_NOSUID | MS_NODEV",
        "return MS_RDONLY | MS_NODEV",
        (f"{FLAGS}[kernel]",),
        by_root=True,
    ),
    Mutant(
        "a mount with devices",
        KERNELMOUNT,
        "return MS_RDONLY | MS_NOSUID | MS_NODEV",
        "return MS_RDONLY | MS_NOSUID",
        (f"{FLAGS}[kernel]",),
        by_root=True,
    ),
    Mutant(
        "a stacked mount without restrictions",
        KERNELMOUNT,
        'b"overlay", _flags(noexec=noexec)',
        'b"overlay", 0',
        (f"{FLAGS}[stacked]",),
        STACK,
    ),
    Mutant("an ordinary user's writable mount", HELPER, '        b"ro",\n', "", (f"{ORDINARY_FLAGS}[kernel]",)),
    Mutant("fusepy's writable mount", LIBFUSE, '            "ro": True,\n', "", (f"{FLAGS}[fusepy]",), FUSEPY),
    Mutant(
        "a mount that forgets noexec",
        KERNELMOUNT,
        "(MS_NOEXEC if noexec else 0)",
        "0",
        (f"{NOT_EXECUTED}[kernel-options0]",),
        ("--noexec",),
        by_root=True,
    ),
    Mutant(
        "a stacked mount that forgets noexec",
        "symfuse/mounts/stack.py",
        "[view, empty], noexec=noexec",
        "[view, empty], noexec=False",
        (f"{NOT_EXECUTED}[stacked-options0]",),
        ("--noexec", *STACK),
    ),
    Mutant(
        "an ordinary user's mount that forgets noexec",
        HELPER,
        'wanted.append(b"noexec")',
        "pass",
        (f"{NOEXEC}::test_an_ordinary_users_mount_keeps_it_too[kernel]",),
    ),
    Mutant(
        "fusepy's mount that forgets noexec",
        LIBFUSE,
        '            "noexec": self._options.noexec,\n',
        "",
        (f"{NOT_EXECUTED}[fusepy-options0]",),
        ("--noexec", *FUSEPY),
    ),
    Mutant(
        "fstab's user without noexec",
        "symfuse/cli/options.py",
        '"user": True, "users": True',
        '"user": False, "users": False',
        (f"{NOT_EXECUTED}[kernel-options1]",),
    ),
    Mutant(
        "a server that takes writes",
        "symfuse/fuse/server.py",
        "dict.fromkeys(_MUTATING, _refuse_to_write)",
        "dict.fromkeys(_MUTATING, _unknown)",
        (f"{EROFS}[kernel]",),
    ),
    Mutant(
        "a fusepy server that takes writes",
        LIBFUSE,
        "            return _read_only\n",
        "            return _not_needed\n",
        (f"{EROFS}[fusepy]",),
        FUSEPY,
    ),
    Mutant(
        "a source passed through for writing",
        "symfuse/fuse/passthrough.py",
        "if flags & (os.O_ACCMODE | os.O_TRUNC):",
        "if False:",
        ("tests/protocol/test_passthrough.py::test_nothing_is_passed_through_for_writing",),
    ),
    Mutant(
        "setuid that is shown",
        "symfuse/table.py",
        "HIDDEN_MODE_BITS = 0o6222",
        "HIDDEN_MODE_BITS = 0o2222",
        (NOT_SETID,),
    ),
    Mutant(
        "setgid that is shown",
        "symfuse/table.py",
        "HIDDEN_MODE_BITS = 0o6222",
        "HIDDEN_MODE_BITS = 0o4222",
        (NOT_SETID,),
    ),
    Mutant(
        "the root's setgid that is shown",
        "symfuse/view.py",
        "self._root_mode & ~HIDDEN_MODE_BITS",
        "self._root_mode",
        (NOT_SETID,),
    ),
)

ASKED = f"{PERMISSIONS}::test_only_root_and_the_owner_get_an_answer"
ASKED_BY_SOCKET = "tests/unit/test_stack.py::test_who_asks_through_the_socket_is_told_by_the_kernel"

QUESTIONS = (
    Mutant(
        "a server that answers everybody",
        "symfuse/control.py",
        "if uid not in (0, self._uid):",
        "if False:",
        (f"{ASKED}[kernel]", f"{ASKED}[fusepy]", ASKED_BY_SOCKET),
    ),
    Mutant("an ioctl of nobody's", "symfuse/fuse/server.py", "uid=request.uid)", "uid=0)", (f"{ASKED}[kernel]",)),
    Mutant("an ioctl of nobody's through fusepy", LIBFUSE, "uid=self._caller().uid)", "uid=0)", (f"{ASKED}[fusepy]",)),
    Mutant(
        "a socket that asks nobody who they are",
        "symfuse/mounts/channel.py",
        "self._answer(question, uid)",
        "self._answer(question, 0)",
        (ASKED_BY_SOCKET,),
    ),
)

GRANTS = "symfuse/access/grants.py"
WAYS = "symfuse/access/ways.py"
READERS = "tests/mounted/test_readers.py"
LISTS = f"{READERS}::test_what_an_access_list_denies_is_denied_and_what_it_grants_is_said[kernel]"
ON_THE_WAY = f"{READERS}::test_a_directory_on_the_way_to_a_target_counts[kernel]"
BEHIND_A_ROOT = f"{READERS}::test_directories_count_from_an_allowed_root_on[kernel]"
TAKEN_AWAY = f"{READERS}::test_permissions_that_are_taken_away_later"
GRANTS_TESTS = "tests/unit/test_grants.py"
GRANTED = f"{GRANTS_TESTS}::test_a_class_is_shown_what_all_of_it_are_granted"
IDENTITY = (
    "tests/unit/test_identity.py::"
    "test_where_others_may_look_a_file_of_equal_times_and_size_is_another_if_its_permissions_are"
)
OTHERS_MAY_LOOK = "tests/unit/test_view.py::test_where_others_may_look"
REPLACED = "tests/unit/test_view.py::test_where_others_may_look_no_directory_is_listed_under_the_mode_of_another"

#: What other users may read where a mode does not tell.
ACCESS = (
    Mutant(
        "an access list that nobody reads",
        WAYS,
        "return os.getxattr(file, _ACL)",
        'return b""',
        (LISTS,),
    ),
    Mutant(
        "an access list that cannot be read and is taken for none",
        WAYS,
        "else grants.UNKNOWN",
        'else b""',
        (f"{GRANTS_TESTS}::test_only_a_file_system_that_says_so_has_no_list",),
    ),
    Mutant(
        "directories on the way that do not count",
        GRANTS,
        ", *(_rule(guard, SEARCH) for guard in way)]",
        "]",
        (ON_THE_WAY,),
    ),
    Mutant(
        "directories above a target that do not count",
        WAYS,
        "            way |= kept.way\n",
        "",
        (ON_THE_WAY, BEHIND_A_ROOT),
    ),
    Mutant(
        "directories above that one that do not count",
        WAYS,
        "guards += [source.guard, *source.way]",
        "guards += [source.guard, *source.way] if above == path else []",
        (f"{GRANTS_TESTS}::test_every_directory_above_a_target_counts",),
    ),
    Mutant(
        "a directory that links may lead into and that does not count itself",
        WAYS,
        "chain[: chain.index(root) + (root != self.view)]",
        "chain[: chain.index(root)]",
        (f"{READERS}::test_an_allowed_root_that_is_closed_itself_is_closed[kernel]",),
    ),
    Mutant(
        "directories that are left again and do not count",
        WAYS,
        "way = FREE.union(*(self._directory(detour).way for detour in detours))",
        "way = FREE",
        (ON_THE_WAY,),
    ),
    Mutant(
        "a directory above that was replaced",
        WAYS,
        "        if not os.path.samestat(os.fstat(fd), os.fstat(self._come_by[self._passed[path]])):\n",
        "        if False:\n",
        ("tests/unit/test_view.py::test_where_others_may_look_a_directory_on_the_way_cannot_be_exchanged",),
    ),
    Mutant(
        "sticky directories that everybody follows links in",
        WAYS,
        "        if kept.sticky_owner is None:\n",
        "        if True:\n",
        (f"{READERS}::test_links_in_a_sticky_directory_are_followed_by_their_owner_alone[kernel]",),
    ),
    Mutant(
        "a private file system that others may see",
        WAYS,
        "return FREE if user is None else",
        "return FREE if True else",
        (f"{READERS}::test_a_file_system_for_one_user_alone_is_not_for_others[kernel]",),
    ),
    Mutant("an owner who is let in where nobody is", GRANTS, "mode &= ~(bit << _OWNER)", "pass", (GRANTED,)),
    Mutant("a group that is let in where nobody is", GRANTS, "mode &= ~(bit << _GROUP_CLASS)", "pass", (GRANTED,)),
    Mutant("others who are let in where nobody is", GRANTS, "mode &= ~(bit << _OTHERS)", "pass", (GRANTED, LISTS)),
    Mutant(
        "a list whose mask does not count for users",
        GRANTS,
        "users[named] = is_granted and bool(mask & bit)",
        "users[named] = is_granted",
        (GRANTED,),
    ),
    Mutant(
        "a list whose mask does not count for groups",
        GRANTS,
        "or (is_granted and bool(mask & bit))",
        "or is_granted",
        (GRANTED,),
    ),
    Mutant(
        "a list that cannot be read and grants the group",
        GRANTS,
        "return _Rule(guard.uid, owner, {}, {guard.gid: False}, False)",
        "return _Rule(guard.uid, owner, {}, {guard.gid: group}, others)",
        (GRANTED,),
    ),
    Mutant(
        "the root of a view that is not judged",
        "symfuse/dataset.py",
        "return self._entry_for_all(Source(status, guard_of(fd, status), keepers(self.volumes, status.st_dev)))",
        "return Entry(status)",
        (f"{READERS}::test_the_root_of_the_view_is_judged_as_everything_else[kernel]",),
    ),
    Mutant(
        "a file whose permissions were taken away",
        "symfuse/source/identity.py",
        """super().change(found) or ("" if self._has_permissions_of(found) else "owner or mode")""",
        "super().change(found)",
        (f"{IDENTITY}[change0]",),
    ),
    Mutant(
        "a directory of other permissions",
        "symfuse/source/identity.py",
        "self._has_permissions_of(found) and super().is_directory(found)",
        "super().is_directory(found)",
        (f"{IDENTITY}[change0]",),
    ),
    Mutant(
        "sources that are compared as if nobody else looked",
        "symfuse/dataset.py",
        "return Guarded.by(found, shown_mode) if self.is_shared else found",
        "return found",
        (f"{TAKEN_AWAY}[kernel-chmod]",),
    ),
    Mutant(
        "a directory that was replaced and is judged by the old mode",
        "symfuse/dataset.py",
        """                    if isinstance(was, Guarded):
                        proof.check(""",
        """                    if False:
                        proof.check(""",
        (REPLACED,),
    ),
    Mutant(
        "a file that nobody proves to be the one that is shown",
        "symfuse/dataset.py",
        """            if isinstance(was, Guarded):
                try:""",
        """            if False:
                try:""",
        (f"{OTHERS_MAY_LOOK}_a_link_leads_to_no_twin_in_a_closed_directory",),
    ),
    Mutant(
        "inode numbers that prove nothing",
        "symfuse/access/proof.py",
        "if found.ino != was.ino or was.dev in volumes.movable:",
        "if was.dev in volumes.movable:",
        (f"{OTHERS_MAY_LOOK}_a_link_leads_to_no_twin_in_a_closed_directory[True]",),
    ),
    Mutant(
        "a FUSE server that is believed of another file system",
        "symfuse/access/proof.py",
        "if found.ino != was.ino or was.dev in volumes.movable:",
        "if found.ino != was.ino:",
        (f"{OTHERS_MAY_LOOK}_no_file_system_lies_about_another",),
    ),
    Mutant(
        "a way that is not looked at again where numbers may move",
        "symfuse/dataset.py",
        "        proof.require_covered(was, entry.mode or 0)\n",
        "",
        (f"{OTHERS_MAY_LOOK}_a_link_leads_to_no_twin_in_a_closed_directory[False]",),
    ),
    Mutant(
        "an access list that came later",
        "symfuse/access/proof.py",
        "if was.shown & ~mode & READING:",
        "if False:",
        (f"{OTHERS_MAY_LOOK}_an_access_list_that_came_later_counts",),
    ),
    Mutant(
        "ways to allowed directories that are open for what lies beside them",
        WAYS,
        "        root = self.innermost(path)\n",
        "        root = None\n",
        (f"{OTHERS_MAY_LOOK}_what_is_named_opens_the_way_to_itself_alone",),
    ),
    Mutant(
        "what whoever mounts may not read, and sees",
        "symfuse/dataset.py",
        "if not may_all(need, name if target is None else target, fd):",
        "if False:",
        (f"{GRANTS_TESTS}::test_where_a_server_decides_each_file_is_asked_for",),
    ),
    Mutant(
        "capabilities that open everything",
        "symfuse/access/mounter.py",
        " and self._volumes.is_local(device, path)",
        "",
        (f"{GRANTS_TESTS}::test_where_a_server_decides_each_file_is_asked_for",),
    ),
    Mutant(
        "a `..` in a directory that is closed to whoever mounts",
        "symfuse/links.py",
        "elif not os.access(directory, os.X_OK, effective_ids=True):",
        "elif False:",
        (f"{GRANTS_TESTS}::test_a_link_that_leaves_a_closed_directory_again_is_not_followed",),
    ),
)

IMPOSTORS = "tests/mounted/test_impostors.py"
NOT_ASKED = (
    f"{IMPOSTORS}::test_no_command_of_root_or_of_another_user_asks_it[another's process]",
    "tests/unit/test_places.py::test_who_is_asked",
)
NOT_BELIEVED = "tests/unit/test_stack.py::test_a_place_or_a_socket_of_another_users_is_not_believed"
PROBE = "symfuse/mounts/probe.py"
MOUNTINFO = "symfuse/mountinfo.py"

MOUNTS_OF_OTHERS = (
    Mutant(
        "a question to another user's mount",
        "symfuse/mounts/channel.py",
        "if not table.is_trusted(mount):",
        "if False:",
        (NOT_ASKED[0], "tests/unit/test_places.py::test_a_mount_of_another_user_is_not_asked_not_even_by_root"),
    ),
    Mutant("another user's mount that root trusts", MOUNTINFO, "if owner(mount) == 0:", "if True:", NOT_ASKED),
    Mutant(
        "a number of another user namespace",
        MOUNTINFO,
        "is_own(mount) and not (mount.is_open and not owners.everybody_has_a_number())",
        "is_own(mount)",
        NOT_ASKED[1:],
    ),
    Mutant(
        "a place of another user's", PROBE, "os.fstat(fd).st_uid not in trusted", "False", (NOT_BELIEVED,), by_root=True
    ),
    Mutant(
        "a socket of another user's",
        PROBE,
        "if CREDENTIALS.unpack(credentials)[1] not in trusted:",
        "if False:",
        (NOT_BELIEVED,),
        by_root=True,
    ),
    Mutant(
        "an answer of any shape",
        "symfuse/control.py",
        "if not fits(told, ANSWERS.get(command, dict)):",
        "if False:",
        ("tests/unit/test_shape.py::test_every_field_must_be_there_and_of_its_type",),
    ),
    Mutant(
        "a process that only an answer vouches for",
        "symfuse/mounts/unmount.py",
        " or not is_server(pid, table.owner(mount))",
        "",
        (f"{IMPOSTORS}::test_a_process_that_it_names_is_not_waited_for",),
        by_root=True,
    ),
    Mutant(
        "a mountpoint below another user's FUSE mount",
        "symfuse/mounts/preflight.py",
        "    _check_not_on_strangers(request.mountpoint)\n",
        "",
        NOT_ASKED[:1],
        by_root=True,
    ),
)

DIRECTORIES = "symfuse/directories.py"
HOMES = "tests/unit/test_directories.py"
OWN_GROUP = f"{HOMES}::test_a_group_of_ones_own_may_write"

HOME = (
    Mutant(
        "a home of another user's",
        DIRECTORIES,
        "if status.st_uid not in owners.possible_uids():",
        "if False:",
        (f"{HOMES}::test_what_belongs_to_another_user_is_refused_and_nothing_is_made_there",),
        by_root=True,
    ),
    Mutant(
        "a directory of the overflow user's",
        DIRECTORIES,
        "if status.st_uid not in owners.trusted_uids():",
        "if False:",
        (f"{HOMES}::test_in_a_user_namespace_roots_directories_may_stand_above_and_never_be_ours",),
    ),
    Mutant(
        "a way that others can change",
        DIRECTORIES,
        "if not status.st_mode & stat.S_ISVTX and not is_open and _is_open_to_others(path, status):",
        "if False:",
        (f"{HOMES}::test_a_directory_that_others_may_write_to_is_refused_with_the_cure",),
    ),
    Mutant(
        "a directory that others can change",
        DIRECTORIES,
        "    if _is_open_to_others(real, status):\n",
        "    if False:\n",
        (f"{HOMES}::test_only_what_lies_above_may_be_sticky",),
    ),
    Mutant(
        "a group of others that is taken for one's own",
        DIRECTORIES,
        "return not _is_ours_alone(status.st_gid)",
        "return False",
        (OWN_GROUP,),
    ),
    Mutant(
        "members of one's own group who do not count",
        DIRECTORIES,
        " or {*group.gr_mem} - {user.pw_name}",
        "",
        (OWN_GROUP,),
    ),
    Mutant(
        "users whose own group is one's own and who do not count",
        DIRECTORIES,
        "return all(each.pw_uid == uid for each in pwd.getpwall() if each.pw_gid == gid)",
        "return True",
        (OWN_GROUP,),
    ),
    Mutant(
        "root's group that is taken for root's alone",
        DIRECTORIES,
        "    uid = os.geteuid()\n    if uid == 0:\n        return False\n",
        "    uid = os.geteuid()\n",
        (f"{HOMES}::test_roots_group_is_never_roots_alone",),
        by_root=True,
    ),
    Mutant(
        "an access list that lets others write",
        DIRECTORIES,
        "        return True  # the list may name anybody",
        "        pass",
        (OWN_GROUP,),
    ),
    Mutant(
        "a journal that somebody left in the cache",
        "symfuse/identity/cachefile.py",
        "if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_MAY_WRITE:",
        "if False:",
        ("tests/unit/test_cache.py::test_what_belongs_to_another_user_is_not_trusted",),
        by_root=True,
    ),
)

REALPATHS = "symfuse/source/realpaths.py"
DATASET = "tests/unit/test_dataset.py"
REAL = "tests/unit/test_realpaths.py"
STRICT = f"{REAL}::test_strict_ones_see_nothing_through_a_link[openat2]"

#: What is opened of a dataset, and where its links lead.
SOURCES = (
    Mutant(
        "links that are followed on the way",
        REALPATHS,
        "_NO_LINKS = 0x02 | 0x04",
        "_NO_LINKS = 0x02",
        (f"{REAL}::test_a_link_on_the_way_is_refused[openat2-to directory/sub]",),
    ),
    Mutant(
        "links that are followed step by step",
        REALPATHS,
        "deeper = os.open(each, LOOK_INTO, dir_fd=fd)",
        "deeper = os.open(each, os.O_PATH, dir_fd=fd)",
        (f"{REAL}::test_a_link_on_the_way_is_refused[step by step-to directory/sub]",),
    ),
    Mutant(
        "links that are followed at the end",
        REALPATHS,
        "        flags |= os.O_NOFOLLOW\n",
        "",
        (f"{REAL}::test_a_directory_is_not_opened_through_a_link[step by step-to directory]",),
    ),
    Mutant(
        "attributes of what a link leads to by now",
        REALPATHS,
        "return self.strict_lstat(path) if self._strict else",
        "return",
        (STRICT,),
    ),
    Mutant(
        "the text of a link elsewhere",
        REALPATHS,
        "        if not self._strict:\n            text =",
        "        if True:\n            text =",
        (STRICT,),
    ),
    Mutant(
        "confined links that are looked at anywhere",
        "symfuse/links.py",
        "RealPaths(strict=allowed is not None)",
        "RealPaths()",
        (f"{DATASET}::test_a_directory_that_gives_way_to_a_link_opens_no_way_out[outside hide]",),
    ),
    Mutant(
        "a linked directory whose path is not real",
        "symfuse/links.py",
        "                status = self.paths.strict_lstat(path)\n",
        "                pass\n",
        (f"{DATASET}::test_a_linked_directory_is_known_by_its_real_path_whatever_took_the_place_of_one_above",),
    ),
    Mutant(
        "links that lead out of the dataset",
        "symfuse/links.py",
        "if not self.may_show(path):",
        "if False:",
        (f"{DATASET}::test_links_that_leave_the_dataset_are_hidden_where_that_is_asked_or_others_may_look[confined]",),
    ),
    Mutant(
        "a mount for others that is not confined",
        "symfuse/mounts/prepare.py",
        "confined=request.allow_other",
        "confined=False",
        (f"{CONTRACT}::test_a_mount_for_others_follows_outside_links_only_into_allowed_roots[kernel]",),
    ),
    Mutant(
        "a FIFO that is opened",
        "symfuse/dataset.py",
        "            if not stat.S_ISREG(status.st_mode):\n                if",
        "            if False:\n                if",
        (f"{DATASET}::test_a_source_that_is_gone_or_is_no_file_any_more_is_stale[replace1-False]",),
    ),
    Mutant(
        "a file of the kernel's that is opened",
        "symfuse/dataset.py",
        "if self.volumes.has_pseudo(found, status.st_dev):",
        "if False:",
        (f"{DATASET}::test_a_link_that_leads_to_the_kernels_files_by_now_has_none_of_them_opened[True]",),
    ),
    Mutant(
        "a file of the kernel's that is shown",
        "symfuse/dataset.py",
        "if need == os.R_OK and self.volumes.is_pseudo(",
        "if False and self.volumes.is_pseudo(",
        (f"{DATASET}::test_a_file_that_the_kernel_makes_up_is_hidden_and_not_opened[False]",),
    ),
    Mutant(
        "a source that is waited for",
        REALPATHS,
        "os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY",
        "os.O_RDONLY | os.O_NOCTTY",
        (f"{REAL}::test_nobodys_lease_is_waited_for",),
        hangs=True,
    ),
)

CONFINE = "symfuse/identity/confine.py"
WORKER = "symfuse/identity/worker.py"
ATTACKS = "tests/unit/test_confine.py::test_nothing_that_a_decoder_has_no_use_for_succeeds"
SHARED = "tests/unit/test_confine.py::test_what_others_share_with_each_other_is_out_of_reach"
DECODER = "symfuse/identity/decoder.py"
REASON = "symfuse/identity/reason.py"
NEEDS = "tests/unit/test_decoder.py::test_a_worker_has_what_it_needs_and_no_more"
ANSWERS = "tests/unit/test_decoder.py::test_a_file_that_ends_its_worker_costs_its_own_verdict_only"
OWN_USER = "tests/unit/test_confine.py::test_roots_decoders_are_each_a_user_that_nobody_else_is"

DECODERS = (
    Mutant(
        "a decoder with its user's rights",
        WORKER,
        "steps = [confine.change_user()]",
        "steps: list[str] = []",
        (OWN_USER,),
    ),
    Mutant("a decoder with its user's groups", CONFINE, "os.setgroups([])", "pass", (OWN_USER,)),
    Mutant(
        "a decoder whose user others have, too", CONFINE, "(FIRST_UID + os.getpid(), NOBODY)", "(NOBODY,)", (OWN_USER,)
    ),
    Mutant(
        "a decoder with capabilities",
        CONFINE,
        'libc.call("capset", struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24))',
        "pass",
        ("tests/unit/test_confine.py::test_a_namespace_without_such_users_costs_that_step_only",),
    ),
    Mutant(
        "a decoder that may gain privileges",
        CONFINE,
        "_prctl(_PR_SET_NO_NEW_PRIVS, 1)",
        "None",
        (OWN_USER, f"{ATTACKS}[user]"),
    ),
    Mutant(
        "a decoder that can be debugged",
        CONFINE,
        "_prctl(_PR_SET_DUMPABLE, 0)",
        "None",
        ("tests/unit/test_confine.py::test_not_even_its_own_user_looks_into_a_decoder",),
    ),
    Mutant(
        "a decoder without Landlock",
        CONFINE,
        '("Landlock", _restrict_with_landlock)',
        '("Landlock", lambda: None)',
        ("tests/unit/test_confine.py::test_landlock_alone_keeps_an_ordinary_user_from_files_and_others",),
    ),
    Mutant(
        "a decoder without seccomp",
        CONFINE,
        '("seccomp", _filter_system_calls)',
        '("seccomp", lambda: None)',
        (f"{ATTACKS}[root]",),
    ),
    Mutant(
        "a decoder that may use what others share",
        CONFINE,
        "shmget 29 194       shmat 30 196          shmctl 31 195          shmdt 67 197\n",
        "shmget 29 194\n",
        (f"{SHARED}[root]", f"{SHARED}[user]"),
    ),
    Mutant(
        "a decoder that may remove queues",
        CONFINE,
        "mq_unlink 241 181 ",
        "",
        (f"{SHARED}[user]",),
    ),
    Mutant(
        "a decoder that may do what was not known yet",
        CONFINE,
        "    yield from _if(_AT_LEAST, _UNKNOWN, [_denied(errno.ENOSYS)])  # as an older kernel says\n",
        "",
        ("tests/unit/test_confine.py::test_the_filter_refuses_what_nobody_has_judged",),
    ),
    Mutant("a decoder with the variables of its user", DECODER, "return kept |", "return dict(os.environ) |", (NEEDS,)),
    Mutant("a decoder in its user's directory", DECODER, 'cwd="/"', "cwd=None", (NEEDS,)),
    Mutant(
        "a decoder that may open many files",
        WORKER,
        "        (resource.RLIMIT_NOFILE, MAX_FILES),\n",
        "",
        (NEEDS,),
    ),
    Mutant("a decoder that may write files", WORKER, "        (resource.RLIMIT_FSIZE, 0),\n", "", (NEEDS,)),
    Mutant("a decoder that may dump its memory", WORKER, "        (resource.RLIMIT_CORE, 0),\n", "", (NEEDS,)),
    Mutant("a decoder with all memory", WORKER, "        (resource.RLIMIT_AS, memory_bytes),\n", "", (NEEDS,)),
    Mutant(
        "a decoder that outlives its parent",
        WORKER,
        "    _die_with_parent()  # as",
        "    # as",
        ("tests/unit/test_decoder.py::test_a_worker_dies_with_its_parent_in_the_middle_of_a_file[sleep]",),
    ),
    Mutant(
        "an answer of any length",
        REASON,
        "len(said) <= FINDING_BYTES + MAX_WORDS_BYTES and ",
        "",
        (f"{ANSWERS}[words without end-0]",),
    ),
    Mutant(
        "words behind an answer that has none",
        REASON,
        "return is_bounded and said[0] in (Verdict.BROKEN, Verdict.NOT_AN_IMAGE) and said[1] in _WITH_WORDS",
        "return is_bounded",
        (f"{ANSWERS}[longer-0]",),
    ),
    Mutant(
        "words that do not print",
        REASON,
        " and _PRINTABLE.issuperset(said[FINDING_BYTES:])",
        "",
        (f"{ANSWERS}[words that do not print-0]",),
    ),
    Mutant(
        "an answer to no question",
        DECODER,
        "and number == self._numbers[0]",
        "and self._numbers",
        ("tests/unit/test_decoder.py::test_a_reply_that_comes_after_the_last_one_counts_for_no_other_file",),
    ),
    Mutant(
        "an answer that is no verdict",
        REASON,
        " or said[0] not in _VERDICTS",
        "",
        (f"{ANSWERS}[a verdict that there is not-0]",),
    ),
)

CHILD = "symfuse/child.py"
CHILDREN = "tests/mounted/test_children.py"

#: The first lets nobody in: symfuse has a package `fuse` of its own, which hides fusepy's.
PROCESSES = (
    Mutant(
        "a child that looks for modules in our package first",
        CHILD,
        '"-P", "-s"',
        '"-s"',
        (f"{NOT_EXECUTED}[fusepy-options1]",),
    ),
    Mutant(
        "a child that runs what the user's own packages have run",
        CHILD,
        '"-s", "-S"',
        '"-S"',
        (f"{CHILDREN}::test_what_the_user_has_every_python_run_is_run_in_none_of_our_processes[hook.pth]",),
    ),
    Mutant(
        "a child that needs no packages and has them",
        CHILD,
        '"-s", "-S"',
        '"-s"',
        (f"{CHILDREN}::test_what_this_python_is_set_up_to_run_is_not_run_in_processes_that_need_no_packages",),
    ),
    Mutant(
        "a child with the user's PYTHONPATH",
        CHILD,
        " if not _is_pythons(name)}",
        "}",
        (f"{CHILDREN}::test_what_lies_in_pythonpath_is_run_in_none_of_our_processes[sitecustomize]",),
    ),
    Mutant(
        "a child that finds the project's modules first",
        CHILD,
        "return sorted(paths, key=_own_directories().__contains__)",
        "return paths",
        (f"{CHILDREN}::test_modules_beside_the_script_are_not_taken_for_the_standard_librarys",),
    ),
)

CLAIM = "symfuse/mounts/claim.py"
PLACES = "tests/unit/test_places.py"

PLACE = (
    Mutant(
        "a place that others can claim, too",
        CLAIM,
        "if not _lock(self._fd, timeout_s=CLAIM_TIMEOUT_S):",
        "if False:",
        (f"{PLACES}::test_a_claimed_place_is_refused_until_it_is_released",),
    ),
    Mutant(
        "a place that is not looked at again",
        CLAIM,
        "if not is_same:",
        "if False:",
        (f"{PLACES}::test_a_place_that_changes_is_not_confirmed",),
    ),
    Mutant(
        "a mount that stays on top of another",
        CLAIM,
        "if not self.holds(mount):",
        "if False:",
        (f"{PLACES}::test_a_mount_that_lies_on_another_gives_up",),
    ),
    Mutant(
        "the place of a live server that is cleared away",
        "symfuse/mounts/stack.py",
        "lock = _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "lock = os.open(path, os.O_RDONLY)",
        ("tests/unit/test_stack.py::test_the_place_of_a_live_server_stays_and_a_dead_ones_is_cleared",),
        STACK,
    ),
)

#: What is opened beside the dataset: no link is followed at the end of any such path.
FILES = (
    Mutant(
        "a log that is a link",
        "symfuse/mounts/launch.py",
        "os.O_APPEND | os.O_NOFOLLOW |",
        "os.O_APPEND |",
        ("tests/unit/test_mounts.py::test_no_log_is_written_through_a_link",),
    ),
    Mutant(
        "a lock of the cache that is a link",
        "symfuse/identity/cachefile.py",
        "os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK",
        "os.O_CREAT | os.O_NONBLOCK",
        ("tests/unit/test_cache.py::test_a_link_in_the_place_of_the_lock_is_not_followed",),
    ),
    Mutant(
        "a mountpoint that became a link",
        CLAIM,
        "self._fd = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW |",
        "self._fd = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY |",
        (f"{PLACES}::test_a_link_is_no_place",),
    ),
    Mutant(
        "a place of a stacked mount that is a link",
        "symfuse/mounts/probe.py",
        "return os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW |",
        "return os.open(directory, os.O_PATH | os.O_DIRECTORY |",
        ("tests/unit/test_stack.py::test_a_place_that_is_a_link_is_not_followed",),
    ),
)

MOUNTING = "tests/support/mounting.py"
LOGS = "tests/unit/test_support.py::test_a_log_that_warns_fails_the_test"

#: The tests' own guards.
TESTS = (
    Mutant("a log that nobody reads", MOUNTING, "        self._check_log()\n", "", (LOGS,)),
    Mutant("a warning that is no matter", MOUNTING, "(WARNING|ERROR|CRITICAL)", "(ERROR|CRITICAL)", (LOGS,)),
    Mutant("a traceback that is no matter", MOUNTING, r"|^Traceback", "", (LOGS,)),
    Mutant(
        "a warning that was expected and did not come",
        MOUNTING,
        "assert re.search(pattern, text)",
        "assert True",
        ("tests/unit/test_support.py::test_a_log_that_lacks_what_is_expected_fails_the_test",),
    ),
)

MUTANTS = (
    *KERNEL_JUDGES,
    *RESTRICTIONS,
    *QUESTIONS,
    *ACCESS,
    *SOURCES,
    *MOUNTS_OF_OTHERS,
    *HOME,
    *DECODERS,
    *PROCESSES,
    *PLACE,
    *FILES,
    *TESTS,
)
