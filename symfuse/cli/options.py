"""The options that mount, run and `-o` share: one declaration each."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from symfuse.mounts.request import ANY, PROBLEM_WORDS
from symfuse.pattern import AUTO
from symfuse.policy import (
    SPLIT_ORDER,
    Backend,
    BrokenImages,
    Conflicts,
    DirLinks,
    DotEntries,
    Io,
    Judge,
    NameRule,
    NonUtf8,
    Outside,
    SameBy,
    Scope,
    SideFiles,
)  # fmt: skip

Function = TypeVar("Function", bound=Callable[..., Any])

#: Where a context keeps the rules that `-o` gives.
_RULES = "symfuse.name_rules"

#: What mount(8) and fstab may add and a read-only view may ignore: it restricts nothing, or what holds anyhow (`ro`,
#: `nosuid`, `nodev`, `nosymfollow`). `rw`, `suid` and `dev` ask for what no mount of ours gives. Source: mount(8),
#: mount.fuse3(8).
IGNORED = frozenset(
    {
        *("rw", "ro", "defaults", "default_permissions", "comment", "silent", "loud"),
        *("auto", "noauto", "nofail", "_netdev", "nouser", "owner", "group"),
        *("dev", "nodev", "suid", "nosuid", "nosymfollow"),
        *("async", "sync", "dirsync", "mand", "nomand", "iversion", "noiversion", "lazytime", "nolazytime"),
        *("atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime"),
    }
)
IGNORED_PREFIXES = ("x-", "X-")
#: What says, beside `noexec` itself, whether files may be executed; the last one counts. Source: mount(8).
SAYS_NOEXEC = {"exec": False, "user": True, "users": True}
FLAGS = ("allow_other", "eager", "foreground", "noexec", "stack")
VALUES = (
    *("backend", "io", "outside", "dir_links", "dot_entries", "non_utf8"),
    *("dedup", "dedup_scope", "layout", "split_order", "conflicts", "broken_images", "judge", "side_files"),
)
LISTS = ("fail_on", "allow_root", "prefer")
#: Of these the order counts, also among each other.
RULES = ("hide", "show")


def as_path(text: str) -> bytes:
    """A path as the bytes it is. What it names is looked at later, where a mount that hangs is reckoned with.

    Errors: click.BadParameter for the empty path.
    """
    if not text:
        raise click.BadParameter("an empty path names nothing")
    return os.fsencode(text)


def split_options(text: str) -> list[tuple[str, str | None]]:
    r"""`a,b=c` as pairs of name and value; `\` before a character takes it as it is."""
    pairs: list[tuple[str, str | None]] = []
    for item in re.findall(r"(?:\\.|[^\\,])+", text, re.DOTALL):
        name, equals, value = item.partition("=")
        pairs.append((name, re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL) if equals else None))
    return pairs


def _take_mount_options(ctx: click.Context, _param: click.Parameter, texts: tuple[str, ...]) -> None:
    """Make what `-o` says the defaults of the options of the same names, so that all of it is checked alike."""
    said: dict[str, Any] = {}
    known = {param.name for param in ctx.command.params}
    for name, value in (pair for text in texts for pair in split_options(text)):
        if name in IGNORED or name.startswith(IGNORED_PREFIXES):
            continue
        if name in SAYS_NOEXEC:
            said["noexec"] = SAYS_NOEXEC[name]
            continue
        if name not in (*FLAGS, *VALUES, *LISTS, *RULES) or name not in known:
            raise click.UsageError(f"unknown mount option {name!r}", ctx)
        if (value is None) is not (name in FLAGS):
            raise click.UsageError(f"mount option {name!r} takes {'no' if name in FLAGS else 'a'} value", ctx)
        if name in RULES:
            ctx.meta.setdefault(_RULES, []).append(_name_rule(name, value or ""))
        elif name in LISTS:
            said.setdefault(name, []).append(value)
        else:
            said[name] = True if value is None else value
    ctx.default_map = {**(ctx.default_map or {}), **said}


def _name_rule(option: str, glob: str) -> NameRule:
    return NameRule(hides=option == "hide", glob=os.fsencode(glob))


class InOrder(click.Command):
    """A command whose `--hide` and `--show` become `name_rules`: those of `-o`, then the others, in their order."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Errors: click.UsageError."""
        _values, _rest, given = self.make_parser(ctx).parse_args(list(args))
        rest = super().parse_args(ctx, args)
        globs = {name: iter(ctx.params.pop(name) or ()) for name in RULES}
        said = [_name_rule(param.name, next(globs[param.name])) for param in given if param.name in globs]
        ctx.params["name_rules"] = [*ctx.meta.get(_RULES, ()), *said]
        return rest


def _split_kinds(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> list[str]:
    """Commas separate kinds, and colons do where a comma would end a mount option."""
    return [word for value in values for word in re.split("[,:]", value) if word]


def _split_names(_ctx: click.Context, _param: click.Parameter, value: str) -> list[str]:
    """As `_split_kinds`."""
    return [name for name in re.split("[,:]", value) if name]


_DECORATORS = (
    click.option(
        "-o",
        "mount_options",
        metavar="OPTION,…",
        multiple=True,
        is_eager=True,
        expose_value=False,
        callback=_take_mount_options,
        help="The options below as mount(8) and fstab write them: backend=fusepy,fail_on=dangling:loop,allow_other.",
    ),
    click.option(
        "--backend",
        type=click.Choice([str(backend) for backend in Backend]),
        default=str(Backend.KERNEL),
        show_default=True,
        help="The way to the kernel: the FUSE protocol itself, or fusepy and libfuse 2.",
    ),
    click.option(
        "--io",
        type=click.Choice([str(choice) for choice in Io]),
        default=str(Io.AUTO),
        show_default=True,
        help="How content is read: cached by the mount (small files), straight from the source (large files, as root), "
        "or whichever suits the dataset.",
    ),
    click.option(
        "--stack",
        is_flag=True,
        help="Put a kernel overlay over the mount (root only): opening a cached file then asks nothing at all.",
    ),
    click.option(
        "--fail-on",
        metavar="KIND,…",
        multiple=True,
        callback=_split_kinds,
        help=f"Refuse a dataset that has such problems: {', '.join(PROBLEM_WORDS)}, or {ANY} problem.",
    ),
    click.option(
        "--outside",
        type=click.Choice([str(choice) for choice in Outside]),
        help="Links that leave the dataset: follow them (default), or hide those that lead into no --allow-root.",
    ),
    click.option(
        "--allow-root",
        type=as_path,
        metavar="DIR",
        multiple=True,
        help="A directory outside the dataset that links may always lead into (repeatable).",
    ),
    click.option(
        "--dir-links",
        type=click.Choice([str(choice) for choice in DirLinks]),
        default=str(DirLinks.FOLLOW),
        show_default=True,
        help="Show links to directories as directories, or hide them.",
    ),
    click.option(
        "--dot-entries",
        type=click.Choice([str(choice) for choice in DotEntries]),
        default=str(DotEntries.HIDE),
        show_default=True,
        help="Hide entries whose name begins with a dot, or show them.",
    ),
    click.option(
        "--non-utf8",
        type=click.Choice([str(choice) for choice in NonUtf8]),
        default=str(NonUtf8.SHOW),
        show_default=True,
        help="Entries whose name is not UTF-8, which many loaders fail at: show them with a warning, or hide them.",
    ),
    click.option(
        "--hide",
        metavar="GLOB",
        multiple=True,
        help="Hide entries whose name matches, or whose path in the view where GLOB has a slash; directories only "
        "where it ends with one. Repeatable: of all --hide and --show that match, the last decides.",
    ),
    click.option(
        "--show",
        metavar="GLOB",
        multiple=True,
        help="Show entries that match, though they begin with a dot or are called as systems and tools call what they "
        "leave behind (__MACOSX, lost+found, Thumbs.db).",
    ),
    click.option(
        "--dedup",
        type=click.Choice([str(choice) for choice in SameBy]),
        default=str(SameBy.OFF),
        show_default=True,
        help="Show the same image once: the same file behind links, equal bytes, or equal pixels.",
    ),
    click.option(
        "--dedup-scope",
        type=click.Choice([str(choice) for choice in Scope]),
        default=str(Scope.CLASS),
        show_default=True,
        help="Once in each class directory, in each split, or in all of the dataset.",
    ),
    click.option(
        "--layout",
        metavar="PATTERN",
        default=AUTO,
        show_default=True,
        help="What the directories above a file mean: class, split/class, or a path with {split} and {class} in it, "
        "such as images/{split} or */{split}/{class}; auto knows splits by names such as train, val and test.",
    ),
    click.option(
        "--prefer",
        metavar="GLOB",
        multiple=True,
        help="Of the same images, show one whose path in the view matches (repeatable; the first counts most).",
    ),
    click.option(
        "--split-order",
        metavar="SPLIT,…",
        default=os.fsdecode(b",".join(SPLIT_ORDER)),
        show_default=True,
        callback=_split_names,
        help="Of the same images in several splits, show the one in the first of these.",
    ),
    click.option(
        "--conflicts",
        type=click.Choice([str(choice) for choice in Conflicts]),
        default=str(Conflicts.FIRST),
        show_default=True,
        help="An image under several classes of one split: show the first, keep all, drop all, or refuse the mount.",
    ),
    click.option(
        "--broken-images",
        type=click.Choice([str(choice) for choice in BrokenImages]),
        default=str(BrokenImages.SHOW),
        show_default=True,
        help="Images that cannot be decoded: show them, or decode all of them first and hide those.",
    ),
    click.option(
        "--judge",
        type=click.Choice([str(choice) for choice in Judge]),
        default=str(Judge.PILLOW),
        show_default=True,
        help="Whose decoder an image must pass with --broken-images hide: Pillow's (Keras' load_img, torchvision), "
        "TensorFlow's (tf.io.decode_image), or both.",
    ),
    click.option(
        "--side-files",
        type=click.Choice([str(choice) for choice in SideFiles]),
        default=str(SideFiles.FOLLOW),
        show_default=True,
        help="Labels, masks and captions of images that are hidden: hide them as well, or keep them.",
    ),
    click.option(
        "--allow-other",
        is_flag=True,
        help="Let other users in. Links that leave the dataset are then followed only into --allow-root.",
    ),
    click.option("--noexec", is_flag=True, help="Let nobody execute files on the mount."),
    click.option("--eager", is_flag=True, help="Read the whole dataset before mounting, and say what is hidden."),
)


def mount_options(function: Function) -> Function:
    """Declare the shared options on a command."""
    for decorate in reversed(_DECORATORS):
        function = decorate(function)
    return function
