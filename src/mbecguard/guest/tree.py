# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of a guest below one root: `/` for the running one, a folder for a recorded one."""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mbecguard.errors import die

FILE_LIMIT = 256 << 20  #: bytes of any one file, after decompression
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Tree:
    """Reads files by their path below `root`; a recorded file may also be there as `NAME.xz`."""

    root: Path

    def data(self, path: str) -> bytes | None:
        """Contents of a file, None if there is none. Dies where it exists but may not be read."""
        try:
            return self._plain(path) if (self.root / path).exists() else self._compressed(path)
        except PermissionError:
            die(
                f"/{path} may not be read",
                "run as root; lockdown=confidentiality also forbids some of these files",
            )
        except OSError as error:
            die(f"{self.root / path} cannot be read: {error.strerror}")

    def text(self, path: str) -> str | None:
        """The same as text; bytes that are not UTF-8 are replaced."""
        data = self.data(path)
        return None if data is None else data.decode(errors="replace")

    def names(self, folder: str) -> list[str]:
        """Sorted names in a folder (without `.xz`); empty if there is none."""
        try:
            return sorted({entry.name.removesuffix(".xz") for entry in (self.root / folder).iterdir()})
        except OSError:
            return []

    def _plain(self, path: str) -> bytes:
        # In pieces: for a sysctl the kernel allocates a buffer of the size that is asked for.
        with (self.root / path).open("rb", buffering=0) as file:
            pieces = iter(lambda: file.read(_PIECE), b"")
            return _bounded(b"".join(islice(pieces, FILE_LIMIT // _PIECE + 1)), path)

    def _compressed(self, path: str) -> bytes | None:
        packed = self.root / f"{path}.xz"
        if not packed.exists():
            return None
        try:
            return _bounded(lzma.LZMADecompressor().decompress(packed.read_bytes(), FILE_LIMIT + 1), path)
        except lzma.LZMAError as error:
            die(f"{packed} is damaged: {error}", "record the guest again")


def _bounded(data: bytes, path: str) -> bytes:
    if len(data) > FILE_LIMIT:
        die(f"{path} is larger than {FILE_LIMIT >> 20} MiB", "no kernel writes such a file")
    return data
