# SPDX-License-Identifier: GPL-2.0-or-later
"""What takes time, told while it does."""

from __future__ import annotations

from collections.abc import Callable

Note = Callable[[str], None]  #: told what is read, where that takes time


def unnoted(_what: str) -> None:
    """Nobody wants to know."""
