# SPDX-License-Identifier: GPL-2.0-or-later
"""What binutils says about an ELF file: the tests' second opinion."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_LINE = re.compile(
    r"^ *\[ *\d+\] (\S+) +\S+ +([0-9a-f]{16}) [0-9a-f]+ ([0-9a-f]+) [0-9a-f]+ +([A-Za-z]*) +\d+ +\d+ +(\d+)$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Header:
    """One section header; `va`, `bytes` and `align` in bytes."""

    name: str
    va: int
    bytes: int
    flags: str
    align: int


def sections(file: Path) -> list[Header]:
    """Section headers in file order."""
    output = subprocess.run(["readelf", "-SW", file], capture_output=True, text=True, check=True).stdout
    return [Header(n, int(va, 16), int(size, 16), flags, int(a)) for n, va, size, flags, a in _LINE.findall(output)]


def build_id(file: Path) -> str:
    """Build-id in hex."""
    output = subprocess.run(["readelf", "-nW", file], capture_output=True, text=True, check=True).stdout
    match = re.search(r"Build ID: ([0-9a-f]+)", output)
    return match[1] if match else ""
