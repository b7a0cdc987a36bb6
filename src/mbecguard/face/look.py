# SPDX-License-Identifier: GPL-2.0-or-later
"""What all views for people have in common: colour, width, rows, findings. Nothing here prints."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from mbecguard.values.escaped import escaped

if TYPE_CHECKING:  # who announces something has none
    from mbecguard.values.findings import Finding

NARROWEST = 20  #: columns that text gets on any terminal

_ESCAPE = re.compile("\x1b\\[[0-9]*m")
_COLOURS = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "bold": 1, "dim": 2}
_SEVERITY = {"blocker": "red", "warning": "yellow", "info": "blue"}
_COUNTED = {"blocker": "blocker", "warning": "warning", "info": "note"}


class Look(NamedTuple):
    """Renders values as lines; `colour` says whether to use ANSI escapes.

    `width` has the columns of the terminal. Elsewhere it is 0, and each thing stays in one line.
    """

    colour: bool = False
    width: int = 0

    def paint(self, text: str, colour: str) -> str:
        """`text` in a colour, if colours are on."""
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self.colour else text

    def fill(self, first: str, text: str, indent: int, *, colour: str = "", tail: str = "") -> Iterator[str]:
        """`text` behind `first`, on a terminal in as many lines as it needs, each further one indented.

        Words are never broken: a digest or a path can be taken up by the mouse. `colour` is that of the text; `tail`,
        its last word, is dim.
        """
        lead, text = len(_ESCAPE.sub("", first)), escaped(text)
        for number, line in enumerate(self._lines(f"{text} {tail}" if tail else text, lead, indent)):
            body = line.removesuffix(tail)
            painted = self.paint(body, colour) if colour else body
            yield f"{' ' * indent if number else first}{painted}{self.paint(tail, 'dim') if body != line else ''}"

    def _lines(self, text: str, lead: int, indent: int) -> list[str]:
        if not self.width:
            return [text]
        lines = textwrap.wrap(
            text,
            max(self.width, max(lead, indent) + NARROWEST),
            initial_indent=" " * lead,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        return [line.lstrip() for line in lines] or [""]

    def hint(self, hint: str, indent: int) -> Iterator[str]:
        """What to do; nothing if there is nothing to do."""
        if hint:
            yield from self.fill(" " * indent + self.paint("hint: ", "dim"), hint, indent + len("hint: "), colour="dim")

    def findings(self, findings: Iterable[Finding]) -> Iterator[str]:
        """Findings in their order, which is worst first, each with its hint."""
        for item in findings:
            label = self.paint(f"{item.severity:>8}", _SEVERITY[item.severity])
            yield from self.fill(f"{label}  ", item.text, 10, tail=f"[{item.id}]")
            yield from self.hint(item.hint, 10)

    def row(self, name: str, value: str, colour: str = "") -> Iterator[str]:
        """One fact with its name."""
        yield from self.fill(f"  {name:<12} ", value, 15, colour=colour)


def plural(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def totals(findings: Iterable[Finding]) -> str:
    """How many there are of each severity, the worst first."""
    counts = Counter(str(item.severity) for item in findings)
    told = ", ".join(plural(counts[kind], _COUNTED[kind]) for kind in _COUNTED if counts[kind])
    return told or "nothing stands in the way"
