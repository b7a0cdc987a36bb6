# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's children: what becomes of one that dies, hangs or fails, and what of them stays; when none is needed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import pytest

from mbecguard.host.shim import ShimHost
from mbecguard.records.boots import Boots
from mbecguard.service.daemon import Daemon, Seen, apart
from mbecguard.service.pulse import Rests
from mbecguard.service.stores import Stores
from mbecguard.service.violations import Violations
from mbecguard.service.watch import Watch
from mbecguard.values.errors import Exit, UserError, die
from tests.fakeshim import FakeShim, host_of
from tests.servicebench import BenchSession, Boot
from tests.unit.test_violations import Log

NEVER = Rests((), (), ())
SEEN = Seen("open: not locked", (("STEP", {"step": "x"}),), False, True, Rests((0, 9), ("/a",), ("/b",)), "memory")


def none_left() -> bool:
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    return True


def test_what_a_child_has_seen_comes_back_as_it_was() -> None:
    assert apart(lambda *_: SEEN, "", False) == SEEN
    assert apart(lambda memory, reload: SEEN._replace(memory=f"{memory} {reload}"), "x", True).memory == "x True"
    assert none_left()


def test_more_than_a_pipe_holds_comes_back() -> None:
    large = SEEN._replace(memory="x" * 1000000)
    assert apart(lambda *_: large, "", False) == large


def test_what_a_child_imports_is_gone_with_it() -> None:
    def look(*_: object) -> Seen:
        import colorsys

        return SEEN._replace(line=colorsys.__name__)

    assert apart(look, "", False).line == "colorsys"
    assert "colorsys" not in sys.modules


def test_what_a_child_dies_of_is_what_the_daemon_dies_of() -> None:
    def look(*_: object) -> NoReturn:
        die("no state folder", "make one", Exit.REFUSED)

    with pytest.raises(UserError, match="no state folder") as died:
        apart(look, "", False)
    assert (died.value.hint, died.value.status) == ("make one", Exit.REFUSED)
    assert none_left()


def test_a_child_that_fails_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="ended with status 1"):
        apart(lambda *_: SEEN._replace(line=str(1 // 0)), "", False)
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert none_left()


def test_a_child_that_is_killed_is_no_look() -> None:
    def look(*_: object) -> Seen:
        os.kill(os.getpid(), signal.SIGKILL)
        return SEEN

    with pytest.raises(RuntimeError, match="ended with status -9"):
        apart(look, "", False)
    assert none_left()


@dataclass
class Played:
    """A daemon whose looks, waits and host are played; the looks run in children, as they do."""

    looks: Callable[[str], Seen]
    answers: dict[int, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.daemon = Daemon(self._look, lambda name, *_: self.told.append(name), self._ask, self.notes.append, 0.05)

    def _look(self, memory: str, _reload: bool) -> Seen:
        return self.looks(memory)

    def _ask(self, word: int) -> int:
        return self.answers[word] if word in self.answers else die("no host", "")

    def looked(self) -> bool:
        """Whether the next wake-up has a child look."""
        before = len(self.told)
        self.daemon._report()
        assert self.notes[-1] == "STATUS=sealed\nWATCHDOG=1"
        return len(self.told) > before


def test_a_child_that_hangs_leaves_no_sign_of_life() -> None:
    def looks(memory: str) -> Seen:
        time.sleep(0 if memory < "xx" else 600)
        return Seen("sealed", (), False, False, None, memory + "x")

    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        played = Played(looks)
        played.daemon.notify = lambda _text: print("!", end="", file=os.fdopen(os.dup(writable), "w"))
        os.setpgid(0, 0)
        played.daemon.run()
    time.sleep(1.0)
    os.killpg(child, signal.SIGKILL)  # as systemd does when the watchdog's time is over
    os.waitpid(child, 0)
    os.close(writable)
    with os.fdopen(readable, "rb") as said:
        assert said.read() == b"!!"


def test_no_child_looks_while_nothing_has_moved(tmp_path: Path) -> None:
    switch, record = tmp_path / "switch", tmp_path / "record"
    switch.write_text("0")
    rests = Rests((0, 9), (str(switch), str(tmp_path / "none")), (str(record),))
    played = Played(lambda _memory: Seen("sealed", (("STEP", {}),), False, False, rests, ""), {0: 5, 9: 1})
    looked = played.looked
    assert [looked(), looked(), looked(), looked()] == [True, True, False, False]  # the second: what it rests on is new
    acts: list[Callable[[], object]] = [
        lambda: played.answers.update({9: 2}),
        lambda: played.answers.pop(0),
        lambda: played.answers.update({0: 5}),
        lambda: switch.write_text("1"),
        lambda: record.write_text("{}"),
        lambda: record.write_text("[]"),
        record.unlink,
        lambda: (tmp_path / "none").write_text(""),
    ]
    for act in acts:
        act()
        assert (looked(), looked()) == (True, False)


def test_what_moves_during_a_look_is_looked_at_again(tmp_path: Path) -> None:
    record, moving = tmp_path / "record", [False]
    rests = Rests((), (), (str(record),))

    def looks(_memory: str) -> Seen:
        if moving[0]:
            record.write_text("new")
        return Seen("sealed", (("STEP", {}),), False, False, rests, "")

    played = Played(looks)
    assert [played.looked(), played.looked(), played.looked()] == [True, True, False]
    moving[0] = True
    record.write_text("old")
    assert played.looked()
    moving[0] = False
    assert (played.looked(), played.looked()) == (True, False)


def test_a_look_that_rests_on_nothing_is_taken_each_time() -> None:
    played = Played(lambda _memory: Seen("sealed", (("STEP", {}),), False, False, None, ""))
    assert [played.looked() for _ in range(4)] == [True] * 4


@dataclass(frozen=True)
class ShimSession(BenchSession):
    """A guest whose host answers through the shim."""

    shim: FakeShim = field(default_factory=FakeShim)
    simulated = False

    @cached_property
    def host(self) -> ShimHost:
        return host_of(self.shim)


class Open:
    """An open guest whose daemon has come to rest."""

    def __init__(self, folder: Path) -> None:
        self.boot = Boot(folder)
        old = self.boot.session
        self.session = ShimSession(old.settings, old.places, bench=old.bench)
        self.log = Log()
        self.watch = Watch(self.session, self.boot.tell, Violations(self.log), Stores())

    def rests(self) -> Rests:
        self.watch.look()
        assert self.watch.rests
        return self.watch.rests


@pytest.fixture
def guest(tmp_path: Path, cpus: object) -> Open:
    return Open(tmp_path)


def test_all_that_a_look_could_tell_moves_what_it_rests_on(guest: Open) -> None:
    shim = guest.session.shim.hypervisor
    rests = guest.rests()

    def now() -> tuple[object, ...]:
        return rests.now(guest.session.host._device.query)

    before = now()
    assert before == now()
    shim.ept.generation += 1
    assert now() != before
    shim.ept.generation -= 1
    assert now() == before
    shim.violations += 1
    assert now() != before
    shim.violations -= 1
    guest.session.boot_file.folder.mkdir()
    guest.session.boot_file.write(Boots())
    assert now() != before


def test_words_of_text_are_asked_only_where_text_is_held(guest: Open) -> None:
    assert guest.rests().words == (0, 9)
    assert guest.watch.stores
    guest.watch.stores.held = True
    assert guest.watch._rests(guest.session.host.query()).words == (0, 9, 17)  # type: ignore[union-attr]


def test_a_host_that_tells_no_count_is_looked_at_each_time(guest: Open) -> None:
    assert guest.rests()
    guest.session.shim.answer = 0  # a Heki host
    guest.watch.look()
    assert guest.watch.rests is None
