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

    def undo_last(self) -> None:
        """Take back the newest action."""
        what, undo = self._todo.pop()
        try:
            undo()
            self.stuck.discard(what)
        except Exception as error:  # whatever it is, the rest has to be undone as well
            self.stuck.add(what)
            self.failed(what, str(error))

    def undo_all(self) -> None:
        """Take back everything, the newest first."""
        while self._todo:
            self.undo_last()
