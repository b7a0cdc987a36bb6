# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals that ask the agent to stop: taken where nothing is half done, noted everywhere else."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Self

from mbecguard.values.errors import UserError

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class StoppedError(BaseException):
    """A signal asked to stop. It derives from BaseException, as no handler of errors may take it for one."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")

    @property
    def error(self) -> UserError:
        """The same for people, once what was begun is undone."""
        return UserError(str(self), "try again; if a unit's time limit ended it, raise that (TimeoutStartSec=)")


@dataclass(slots=True)
class Stop:
    """While it is entered, signals end nothing by themselves: they wait for `check`, or for what may be `interrupted`.

    So neither an undo nor a record is ever cut short, and an error that is being handled is handled to the end.
    Signals that were ignored before, as under nohup(1), stay ignored.
    """

    _noted: int | None = field(default=None, init=False)
    _open: bool = field(default=False, init=False)
    _before: dict[int, Any] = field(default_factory=dict, init=False)

    def __enter__(self) -> Self:
        self._noted = None
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, *_: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        self._noted = self._noted or number
        if self._open:
            self._open = False  # a second one must not disturb what handles the first
            raise StoppedError(self._noted)

    def check(self) -> None:
        """Raises StoppedError if a signal has come."""
        if self._noted:
            raise StoppedError(self._noted)

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """Something that takes long and changes nothing: a signal ends it at once, by StoppedError."""
        self._open = True
        try:
            self.check()
            yield
        finally:
            self._open = False
