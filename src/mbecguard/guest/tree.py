# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of a guest below one root: `/` for the running one, a folder for a captured one."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

from mbecguard.values.errors import die
from mbecguard.values.facts import Absent, Fact, Known, Unknown, told

FILE_LIMIT = 256 << 20  #: bytes of any one file, before and after decompression
_PIECE = 1 << 16
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
_UNPACK_MEMORY = 128 << 20  #: bytes the xz decoder may use; `xz -9` needs 65 MiB


class Tree(NamedTuple):
    """Reads files by their path below `root`; a captured file may also be there as `NAME.xz`.

    `unread` has what could not be read when a guest was captured; None: the capture does not tell, as older ones.
    """

    root: Path
    captured: bool = False
    unread: Mapping[str, Unknown] | None = None

    def fact(self, path: str, mount: str = "") -> Fact[str]:
        """A file that a kernel may lack. If nothing is mounted at `mount` of a running guest, it is unknown."""
        found = told(lambda: self.text(path))
        return self._missing(path, mount) if isinstance(found, Absent) else found

    def fact_of_names(self, folder: str) -> Fact[tuple[str, ...]]:
        """The names in a folder that a kernel may lack; none if it does."""
        found = told(lambda: tuple(self.names(folder)))
        if isinstance(found, Known) and not found.value:
            missing = self._missing(folder, "")
            return missing if isinstance(missing, Unknown) else found
        return found

    def _missing(self, path: str, mount: str) -> Absent | Unknown:
        if self.captured and self.unread is None:
            return Unknown(f"this capture was made without /{path}", "capture the guest again")
        if self.captured and self.unread:
            return self.unread.get(path, Absent())
        if mount and not self.captured and isinstance(told(lambda: self.names(mount) or None), Absent):
            return Unknown(
                f"nothing is mounted at /{mount}", f"mount it: systemctl start {mount.replace('/', '-')}.mount"
            )
        return Absent()

    def data(self, path: str) -> bytes | None:
        """Contents of a file, None if there is none. Dies where it exists but may not be read."""
        try:
            found = self._plain(path)
            return self._compressed(path) if found is None else found
        except PermissionError:
            _forbidden(path)
        except OSError as error:
            die(f"{self.root / path} cannot be read: {error.strerror}", "capture the guest again, or check the disk")

    def text(self, path: str) -> str | None:
        """The same as text; bytes that are not UTF-8 are replaced."""
        data = self.data(path)
        return None if data is None else data.decode(errors="replace")

    def names(self, folder: str) -> list[str]:
        """Sorted names in a folder (without `.xz`); empty if there is none."""
        try:
            with os.scandir(self._place(folder)) as entries:
                return sorted({entry.name.removesuffix(".xz") for entry in entries})
        except (FileNotFoundError, NotADirectoryError):
            return []
        except PermissionError:
            _forbidden(folder)
        except OSError as error:
            die(f"{self.root / folder} cannot be read: {error.strerror}", "capture the guest again, or check the disk")

    def _place(self, path: str) -> str:
        # A survey reads hundreds of small files; to make a `Path` of each would take longer than to read it.
        return f"{self.root}/{path}"

    def _plain(self, path: str) -> bytes | None:
        try:
            file = os.open(self._place(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except ValueError:  # no file has such a name
            return None
        except OSError as error:
            if error.errno in _NO_FILE:
                return None
            raise
        try:
            return _bounded(_content(file), path) if stat.S_ISREG(os.fstat(file).st_mode) else None
        finally:
            os.close(file)

    def _compressed(self, path: str) -> bytes | None:
        content = self._plain(f"{path}.xz")
        if content is None:
            return None
        import lzma

        packed = self.root / f"{path}.xz"
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_UNPACK_MEMORY)
        try:
            data = _bounded(unpacker.decompress(content, FILE_LIMIT + 1), path)
        except lzma.LZMAError as error:
            die(f"{packed} is damaged: {error}", "capture the guest again")
        if not unpacker.eof or unpacker.unused_data:
            die(f"{packed} is damaged: it is cut short, or something follows it", "capture the guest again")
        return data


def _content(file: int) -> bytes:
    """All of it, or what shows that it is too much.

    In pieces: for a sysctl the kernel allocates a buffer of the size that is asked for. A seq_file hands out a page at
    a time, whatever is asked for.
    """
    pieces, size = [], 0
    while size <= FILE_LIMIT and (piece := os.read(file, _PIECE)):
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def present(check: Callable[[], bool]) -> bool:
    """What `Path.is_file` or `Path.is_dir` says, False also where a folder above may not be searched."""
    try:
        return check()
    except OSError:
        return False


def _forbidden(path: str) -> NoReturn:
    die(f"/{path} may not be read", "run as root; lockdown=confidentiality also forbids some of these files")


def _bounded(data: bytes, path: str) -> bytes:
    if len(data) > FILE_LIMIT:
        die(f"{path} is larger than {FILE_LIMIT >> 20} MiB", "no kernel writes such a file")
    return data
