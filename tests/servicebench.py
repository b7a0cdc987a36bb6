# SPDX-License-Identifier: GPL-2.0-or-later
"""A bench for the service: boots of one guest on a simulated host, with nothing but the disk between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from mbecguard.guest.live import KcoreSource
from mbecguard.guest.source import Guest
from mbecguard.guest.tree import Tree
from mbecguard.host.base import Host
from mbecguard.host.simulated.host import SimulatedHost
from mbecguard.lock.transaction import Transaction
from mbecguard.records.boots import Attempt, BootFile
from mbecguard.records.record import State
from mbecguard.records.store import Store
from mbecguard.service.boot import Service
from mbecguard.session import Places, Session
from mbecguard.settings.load import load as load_settings
from mbecguard.values.errors import UserError
from mbecguard.values.events import Event, Tell, message
from tests.lockbench import Bench
from tests.plans import CANARY

NOTHING = "nothing to confirm: the service did not lock this boot, or it is confirmed already\n"
KERNEL = "6.12.0-test"
BOOTS = [f"{number}1111111-2222-3333-4444-555555555555" for number in range(9)]


@dataclass(frozen=True)
class BenchSession(Session):
    """A session whose guest and host are a bench's; as in the product, `replace` makes one that remembers nothing."""

    bench: Bench = field(kw_only=True)

    @property
    def guest(self) -> Guest:
        files = {"proc/sys/kernel/random/boot_id": self.bench.boot_id, "proc/sys/kernel/osrelease": KERNEL}
        root = self.bench.folder / "root"
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text + "\n")
        return Guest(Tree(root), KcoreSource(), (), (), live=False)

    @property
    def store(self) -> Store:
        """The bench's own: its simulator stands for a real host."""
        return Store(self.places.state)

    def _simulator(self) -> Host:
        return SimulatedHost(self.bench.options, CANARY, self.bench.folder / "host.json", self.bench.boot_id)

    def transaction(self, tell: Tell) -> Transaction:
        made = self.bench.transaction(self.host)
        made.mode, made.tell = self.settings.text("lock.mode"), tell
        return made


@dataclass
class Boot:
    """One boot of the guest in a folder; the next one has another number."""

    folder: Path
    number: int = 0
    options: tuple[str, ...] = ()
    told: list[tuple[Event, dict[str, str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bench = Bench(self.folder, boot_id=BOOTS[self.number])

    def tell(self, event: Event, facts: dict[str, str]) -> None:
        assert message(event, facts)
        self.told.append((event, facts))

    @property
    def session(self) -> BenchSession:
        return BenchSession(
            settings=load_settings(overrides=["lock.host=simulator", *self.options]),
            places=Places(self.folder / "state", self.folder / "cache"),
            bench=self.bench,
        )

    @property
    def service(self) -> Service:
        return Service(self.session, self.tell)

    @property
    def file(self) -> BootFile:
        return self.session.boot_file

    @property
    def attempt(self) -> Attempt | None:
        return self.file.read().attempt

    @property
    def host(self) -> SimulatedHost:
        """As it is now."""
        return cast(SimulatedHost, self.session.host)

    def events(self) -> list[Event]:
        return [event for event, _ in self.told]


def fails(action: Callable[[], object]) -> UserError:
    with pytest.raises(UserError) as caught:
        action()
    return caught.value


def locked(boot: Boot) -> bool:
    return boot.session.status().state is State.SEALED


def untouched(boot: Boot) -> bool:
    answer = boot.host.query()
    return not (answer.restricted or answer.sealed or boot.host.modules_held or answer.generation)
