# SPDX-License-Identifier: GPL-2.0-or-later
"""Damage to a history: found, kept aside, and noted as lost, so that what is appended next goes on.

A lock looks at what it needs: the head, the entries at both ends, and that of its boot. An audit looks at everything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from mbecguard.records.chain import ORIGIN, CutError, Head
from mbecguard.records.damage import ASIDE, DamagedError, Loss, keep_aside
from mbecguard.records.history import History
from mbecguard.records.ledger import Ledger

TAKEN_UP = 64  #: entries beyond the head; a crash leaves one


def faults(history: Ledger[Any]) -> Iterator[Loss]:
    """All that is wrong with the history and not known yet; reads all of it, and changes nothing."""
    yield from (Loss.of(number, error) for number, error in _faults(history))


def known(history: Ledger[Any]) -> tuple[Loss, ...]:
    """What was found lost, until a person has taken the folder of damaged things away. Raises DamagedError."""
    return history.head().lost if os.path.lexists(history.folder / ASIDE) else ()


def _faults(history: Ledger[Any]) -> Iterator[tuple[int, DamagedError]]:
    try:
        head = history.head()
    except DamagedError as error:
        yield 0, error
        return
    for number, found in history.chain.walk(head):
        if isinstance(found, DamagedError):
            yield number, found
        elif not head.lacks(number):
            try:
                history.require(found)
            except DamagedError as error:
                yield number, error


class Mender:
    """Keeps aside what is damaged. Wants no other writer beside it; raises OSError where it cannot write."""

    def __init__(self, history: Ledger[Any]) -> None:
        self.history = history
        self.found: list[Loss] = []
        self._head = Head()

    def mend(
        self, boot_id: str = "", damaged: Iterable[DamagedError] = (), *, everything: bool = False
    ) -> tuple[Loss, ...]:
        """Look at what a lock of a boot needs, or at everything; `damaged` is other damage that is known already.

        Returns what is found damaged now.
        """
        self._folders()
        written = self._head = self._begin()
        for error in damaged:
            self._lose(0, error)
        self._take_up()
        if isinstance(self.history, History):
            self._boot(self.history, boot_id)
        self._ends()
        if self._head != written or self.found:
            self.history.write(self._head)
        if everything and (more := list(_faults(self.history))):
            for number, error in more:
                self._lose(number, error)
            self.history.write(self._head)
        return tuple(self.found)

    def _folders(self) -> None:
        for name in self.history.folders:
            folder = self.history.folder / name
            if os.path.lexists(folder) and not folder.is_dir():
                self._lose(0, DamagedError(folder, "it is no folder"))

    def _begin(self) -> Head:
        try:
            return self.history.head().without(*self.found)
        except DamagedError as error:
            self._lose(0, error)
            return self._rebuilt().without(*self.found)

    def _rebuilt(self) -> Head:
        """A head by what is there. What came before is not known then."""
        numbers = sorted(self.history.numbers())
        if not numbers:
            return Head()
        chain, link = self.history.chain, ""
        try:
            link = chain.entry(numbers[-1]).digest
        except DamagedError as error:
            self._lose(numbers[-1], error)
        return Head(numbers[0], ORIGIN if numbers[0] == 1 else "", numbers[-1], link, self.history.size())

    def _take_up(self) -> None:
        """Entries that a crash has kept the head from."""
        for _ in range(TAKEN_UP):
            head, chain = self._head, self.history.chain
            if not os.path.lexists(chain.file(head.newest + 1)):
                return
            try:
                entry = chain.entry(head.newest + 1)
                if head.link and entry.previous != head.link:
                    raise DamagedError(chain.file(entry.number), "it does not follow the newest record")
            except DamagedError as error:
                self._lose(0, error)
                return
            size = head.size + self.history.tie(entry)
            self._head = head._replace(newest=entry.number, link=entry.digest, size=size)

    def _boot(self, history: History, boot_id: str) -> None:
        number, pointer = 0, history.pointer(boot_id)
        try:
            number = history.pointed(pointer) or 0
            entry = history.newest_of(boot_id)
            if entry:
                history.require(entry)
        except DamagedError as error:
            self._lose(number, error)
            if not os.path.lexists(history.chain.file(number)):
                pointer.unlink(missing_ok=True)

    def _ends(self) -> None:
        ends = {self._head.oldest, self._head.newest} if self._head.newest else ()
        for number in sorted(ends):
            found = self.history.chain.end(self._head, number)
            if isinstance(found, DamagedError):
                self._lose(number, found)

    def _lose(self, number: int, error: DamagedError) -> None:
        keep_aside(self.history.folder, error.path)
        if isinstance(error, CutError):
            self._head, number = self._head._replace(anchor=""), 0
        loss = Loss.of(number, error)
        self.found.append(loss)
        self._head = self._head.without(loss)
