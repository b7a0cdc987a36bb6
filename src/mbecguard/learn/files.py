# SPDX-License-Identifier: GPL-2.0-or-later
"""The two files that `learn write` makes: each line with its reason."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path
from typing import NoReturn

from mbecguard.learn.lessons import Late, Lessons
from mbecguard.values.errors import die
from mbecguard.values.files import replace_file

MODULES = "etc/modules-load.d/mbecguard.conf"
POLICY = "etc/mbecguard/mbecguard.toml.d/50-learned.toml"
OURS = "# Written by `mbecguard learn write`, which replaces it."


def files(lessons: Lessons, before: str = "") -> dict[str, str]:
    """Path below the root -> content. `before`: the list of modules that is there, of which nothing is dropped.

    What it made load early is not late any more, and must not be forgotten for that.
    """
    made = {MODULES: _modules(lessons, before), POLICY: _policy(lessons)}
    return {path: "".join(f"{line}\n" for line in lines) for path, lines in made.items()}


def listed_for(profile: str, text: str) -> bool:
    """Whether a list of modules serves a profile: one that was learned says for which, one by hand is believed."""
    return bool(text) and (not text.startswith(OURS) or _for(profile) in text)


def reason(late: Late, boots: int) -> str:
    """Why a module is wanted before the lock."""
    verb = "refused" if late.first.refused else "loaded"
    return f"{verb} {late.first.after:.1f} s after the lock point, {late.boots} of {boots} boots: {late.first.asker}"


def write(root: Path, contents: dict[str, str]) -> None:
    """Put the files in place; if one that is there is not ours, dies before anything is written."""
    for path in contents:
        file = root / path
        try:
            ours = not file.exists() or file.read_text(errors="replace").startswith(OURS)
        except OSError as error:
            die(f"{file} cannot be read: {error.strerror}", "run as root")
        if not ours:
            die(f"{file} was not written by `mbecguard learn`", "rename it; what it says stays in force under any name")
    for path, text in contents.items():
        file = root / path
        try:
            _make_folder(file.parent)
            replace_file(file, text.encode(), 0o644)
        except OSError as error:
            _unwritable(file, error)


def _unwritable(file: Path, error: OSError) -> NoReturn:
    """Die, with what to do about it; an image may be sealed."""
    hint = "run as root"
    if error.errno == errno.EROFS:
        hint = (
            "/etc is part of the image: put what `mbecguard learn write --dry-run --json` tells into it, or into what "
            "is laid over it (a systemd-confext, ignition, cloud-init's write_files); modules may also be named by "
            "modules_load= on the kernel command line"
        )
    die(f"{file} cannot be written: {error.strerror}", hint)


def _make_folder(folder: Path) -> None:
    """Make what is missing of it for everybody to read, whatever the umask: a loose one would stop every lock."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir()
        parent.chmod(0o755)


def _for(profile: str) -> str:
    return f"for the {profile} lock"


def _head(lessons: Lessons) -> Iterator[str]:
    yield OURS
    yield f"# Of {lessons.boots} watched boots, {_for(lessons.profile)}."
    yield from (f"# Incomplete: {remark}" for remark in lessons.remarks)


def _modules(lessons: Lessons, before: str) -> Iterator[str]:
    yield from _head(lessons)
    yield "# A module that is listed once stays; remove this file to begin anew."
    rows = dict(_rows(before)) if before.startswith(OURS) else {}
    rows |= {late.module: f"# {reason(late, lessons.boots)}" for late in lessons.late if late.loadable}
    for module, why in sorted(rows.items()):
        yield why
        yield module
    for late in lessons.late:
        if not late.loadable:
            yield f"# {reason(late, lessons.boots)}"
            yield f"# {late.module}: no module of that name is installed"


def _rows(text: str) -> Iterator[tuple[str, str]]:
    """Each module of a list of ours with the line before it, its reason."""
    lines = text.split("\n")
    return ((line, why) for why, line in pairwise(lines) if line and not line.startswith("#"))


def _policy(lessons: Lessons) -> Iterator[str]:
    yield from _head(lessons)
    if not lessons.needs:
        yield "# Nothing that this guest uses needs a setting other than the default."
    for section, needs in groupby(lessons.needs, lambda need: need.setting.partition(".")[0]):
        yield f"[{section}]"
        for need in needs:
            yield f"# {need.reason}"
            yield f"# risk: {need.risk}"
            yield f'{need.setting.partition(".")[2]} = "{need.value}"'
