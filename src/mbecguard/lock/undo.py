# SPDX-License-Identifier: GPL-2.0-or-later
"""What was done and how to take it back, in reverse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Action = Callable[[], None]


@dataclass(slots=True)
class UndoStack:
    """Undoes everything it can; `failed` is told what it cannot, and why."""

    failed: Callable[[str, str], None]
    stuck: set[str] = field(default_factory=set)  #: what could not be undone
    _todo: list[tuple[str, Action]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self._todo)

    def do(self, what: str, action: Action, undo: Action) -> None:
        """Carry out an action. Its undo is registered first: one that fails half-way is undone as well."""
        self.add(what, undo)
        action()

    def add(self, what: str, undo: Action) -> None:
        """Something that was done already."""
        self._todo.append((what, undo))

    @property
    def depth(self) -> int:
        """How much there is to undo."""
        return len(self._todo)

    def undo_to(self, depth: int) -> None:
        """Take back what was done since there was that much, the newest first; what cannot be stays to be undone."""
        failed: list[tuple[str, Action]] = []
        while len(self._todo) > depth:
            what, undo = self._todo.pop()
            if not self._undone(what, undo):
                failed.insert(0, (what, undo))
        self._todo += failed

    def undo_all(self) -> None:
        """Take back everything, once."""
        self.undo_to(0)
        self._todo.clear()

    def _undone(self, what: str, undo: Action) -> bool:
        try:
            undo()
        except Exception as error:  # whatever it is, the rest has to be undone as well
            self.stuck.add(what)
            self.failed(what, str(error))
            return False
        self.stuck.discard(what)
        return True
