# SPDX-License-Identifier: GPL-2.0-or-later
"""Names that others gave: a symbol, a module or a process can be called anything."""

from __future__ import annotations


def escaped(text: str) -> str:
    """`text` in one line that changes no terminal: what cannot be printed is told as an escape, as Python has it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
