# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that outlive a crash: written whole or not at all, and read only if nobody else can have made them."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from mbecguard.values.codec import canonical, digest
from mbecguard.values.errors import die

CHANGED = "it is not as it was written"
LIMIT = 64 << 20  #: bytes of any one file that is read


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file so that a crash leaves the old or the new content, never a mixture. One writer. Raises OSError.

    It has that mode, whatever the umask.
    """
    fresh = _fresh(path)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def replace_link(path: Path, target: str) -> None:
    """The same for a symbolic link. Raises OSError."""
    fresh = _fresh(path)
    fresh.symlink_to(target)
    fresh.replace(path)


def _fresh(path: Path) -> Path:
    """The name of what will replace a file; a crash may have left one, and it may be a link."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    return fresh


def sync_folder(folder: Path) -> None:
    """Make new names in a folder durable. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def unwritable(path: Path, error: OSError) -> NoReturn:
    """Die because the state folder, or a file in it, cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "make room on its disk" if full else "run as root, or give --state-dir"
    die(f"{path} cannot be written: {error.strerror}", hint)


def read_own(path: Path, last: int = LIMIT + 1) -> bytes:
    """A file of this user's or root's own, or the `last` bytes of it.

    Raises OSError, and ValueError for what is no file, too large, or could be somebody else's work.
    """
    with _opened(path) as file:
        found = os.fstat(file.fileno())
        if found.st_uid not in (0, os.geteuid()):
            raise ValueError(f"it belongs to user {found.st_uid}")
        file.seek(max(0, found.st_size - last))
        return _within(file.read(last), LIMIT)


def read_sent(path: Path, limit: int) -> bytes:
    """A file that others sent, whoever they are. Raises OSError, and ValueError for what is no file, or too large."""
    with _opened(path) as file:
        return _within(file.read(limit + 1), limit)


def _opened(path: Path) -> BinaryIO:
    # O_NONBLOCK: opening a FIFO must not wait for a writer.
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("it is no file")
    return file


def _within(data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise ValueError(f"it is larger than {limit >> 20} MiB")
    return data


def signed(data: dict[str, Any]) -> bytes:
    """JSON of an object with its own digest, by which every change of the file is noticed."""
    return canonical({**data, "digest": digest(data)}) + b"\n"


def verified(data: bytes) -> dict[str, Any]:
    """The inverse of `signed`, digest included. Raises ValueError unless every byte is as it was written."""
    try:
        found = json.loads(data)
        content = {key: value for key, value in found.items() if key != "digest"}
        written = signed(content)
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(CHANGED) from error
    if data != written:
        raise ValueError(CHANGED)
    return dict(found)
