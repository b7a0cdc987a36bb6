# SPDX-License-Identifier: GPL-2.0-or-later
"""What tells a file from what it was, without reading it.

No program can set a file's change time (ctime): whoever writes to a file, or puts another in its place with the same
size and modification time, changes it. Whoever can forge it all the same, as root, can write the cache as well.
"""

from __future__ import annotations

import time
from pathlib import Path

SETTLED = 2 * 10**9  #: nanoseconds after a change in which the next one may leave the same times; FAT counts so


def stamp(file: Path) -> str:
    """Device, inode, size and times of a file; "" if it has none, or was changed a moment ago."""
    try:
        found = file.stat()
    except OSError:
        return ""
    if found.st_ctime_ns > time.time_ns() - SETTLED:
        return ""
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"
