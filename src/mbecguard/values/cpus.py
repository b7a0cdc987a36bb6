# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists of processors as sysfs writes them."""

from __future__ import annotations

import re

_PART = re.compile("([0-9]{1,5})(?:-([0-9]{1,5}))?")


def cpu_list(text: str) -> list[int]:
    """The numbers in a list such as `0-3,8` (lib/vsprintf.c bitmap_list_string()). Raises ValueError."""
    numbers: list[int] = []
    for part in text.strip().split(","):
        found = _PART.fullmatch(part)
        if not found or int(found[2] or found[1]) < int(found[1]):
            raise ValueError("it is no list of processors")
        numbers += range(int(found[1]), int(found[2] or found[1]) + 1)
    return numbers
