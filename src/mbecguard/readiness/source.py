# SPDX-License-Identifier: GPL-2.0-or-later
"""What a host says of itself: files below `/`, or below a folder that holds them as a host has them."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from mbecguard.values.errors import plainly
from mbecguard.values.facts import Absent, Fact, Known, Unknown, known

LIMIT = 16 << 20  #: bytes of any one file
PIECE = 1 << 16  #: bytes; for a sysctl the kernel allocates as many as are asked for
MSRS = "dev/cpu/0/msr"
AS_ROOT = "run as root"


@dataclass(frozen=True, slots=True)
class Source:
    """Reads by path below `root`. What may not be read is unknown, and not absent."""

    root: Path = Path("/")

    def data(self, path: str) -> Fact[bytes]:
        """The content of a file."""
        try:
            data = bytearray()
            with (self.root / path).open("rb", buffering=0) as file:
                while len(data) < LIMIT and (piece := file.read(PIECE)):
                    data += piece
            return Known(bytes(data))
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
            return Absent()
        except OSError as error:
            return _unread(path, error)

    def text(self, path: str) -> Fact[str]:
        """The same as text; bytes that are not UTF-8 are replaced."""
        data = self.data(path)
        return Known(data.value.decode(errors="replace").strip()) if isinstance(data, Known) else data

    def names(self, folder: str) -> Fact[tuple[str, ...]]:
        """The sorted names in a folder."""
        try:
            return Known(tuple(sorted(entry.name for entry in (self.root / folder).iterdir())))
        except (FileNotFoundError, NotADirectoryError):
            return Absent()
        except OSError as error:
            return _unread(folder, error)

    def there(self, path: str) -> bool:
        """Whether there is something of that name, as far as one can see."""
        try:
            return (self.root / path).exists()
        except OSError:
            return False

    def msr(self, number: int) -> Fact[int]:
        """A model-specific register. A folder has them as lines "NUMBER VALUE" in the file of that name."""
        try:
            with (self.root / MSRS).open("rb", buffering=0) as file:
                if stat.S_ISCHR(os.fstat(file.fileno()).st_mode):
                    return Known(int.from_bytes(os.pread(file.fileno(), 8, number), "little"))
        except FileNotFoundError:
            return Unknown(f"there is no /{MSRS}", "modprobe msr")
        except OSError as error:
            return _unread(MSRS, error)
        listed = re.findall(r"^(\w+) (\w+)$", known(self.text(MSRS), ""), re.MULTILINE)
        values = {int(name, 16): int(value, 16) for name, value in listed}
        return Known(values[number]) if number in values else Unknown(f"/{MSRS} has no {number:#x}", "modprobe msr")


def _unread(path: str, error: OSError) -> Unknown:
    return Unknown(f"/{path} cannot be read: {plainly(error)}", AS_ROOT if isinstance(error, PermissionError) else "")
