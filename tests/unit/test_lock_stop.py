# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals to stop, sent to a real process at each step of a lock: before the seal it is undone, after it completed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mbecguard.host.simulated.ept import Ept
from mbecguard.lock.stop import SIGNALS, Stop, StoppedError
from mbecguard.plan.policy import Policy
from mbecguard.records.record import SEALED_STEPS, State, Step
from mbecguard.values.errors import Exit, UserError
from tests.lockbench import STEPS, Bench
from tests.lockchecks import ALL, assert_open, assert_recovers, assert_sealed
from tests.plans import kept
from tests.unit.test_lock_kill import FORK

pytestmark = pytest.mark.usefixtures("fast_disk")


class Agent:
    """A process that locks, and stops where it is told until it has got a signal."""

    def __init__(self, folder: Path, at: Callable[[Bench, Callable[[], None]], object]) -> None:
        self.here, there = os.pipe()
        back, self.go = os.pipe()

        def wait() -> None:
            os.write(there, b"x")
            os.read(back, 1)

        def run() -> None:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            try:
                at(Bench(folder), wait)
            except UserError as error:
                (folder / "said").write_text(error.message)
                os._exit(error.status)
            os._exit(0)

        self.process = FORK.Process(target=run)
        self.process.start()
        os.close(there)  # else nobody would notice that it died

    def waits(self) -> None:
        """Returns when it has come where it waits for a signal."""
        assert os.read(self.here, 1) == b"x", "it ended before"

    def ends(self, *signals: int) -> int | None:
        """Wait until it is there, send the signals, let it go on; returns how it ended."""
        self.waits()
        assert self.process.pid
        for number in signals:
            os.kill(self.process.pid, number)
        os.write(self.go, b"x")
        self.process.join(20)
        return self.process.exitcode


def at_step(step: Step) -> Callable[[Bench, Callable[[], None]], object]:
    return lambda bench, wait: bench.lock(reach=lambda reached: wait() if reached is step else None)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("step", STEPS)
def test_a_signal_at_a_step(tmp_path: Path, step: Step, number: signal.Signals) -> None:
    ended = Agent(tmp_path, at_step(step)).ends(number)
    bench = Bench(tmp_path)
    # The seal follows at once when its step has begun, and then there is nothing to go back to.
    if step is Step.SEAL or step in SEALED_STEPS:
        assert ended == Exit.OK
        assert_sealed(bench, kept(bench.store)[-1])
        return
    assert (ended, (tmp_path / "said").read_text()) == (Exit.ERROR, f"not locked: stopped by {number.name}")
    assert_open(bench)
    assert_recovers(bench)


@pytest.mark.parametrize("look", [1, 2, 3, 4])
def test_a_signal_ends_a_survey_at_once(tmp_path: Path, look: int) -> None:
    def lock(bench: Bench, wait: Callable[[], None]) -> None:
        transaction, looks = bench.transaction(), []

        def slow(_policy: object) -> object:
            looks.append(1)
            if len(looks) == look:
                wait()
                signal.pause()  # for ever
            return bench.look(Policy())

        transaction.look = slow  # type: ignore[assignment]
        transaction.run()

    agent = Agent(tmp_path, lock)
    agent.waits()
    assert agent.process.pid
    os.kill(agent.process.pid, signal.SIGTERM)
    agent.process.join(20)
    assert agent.process.exitcode == Exit.ERROR
    assert_open(Bench(tmp_path))


@pytest.mark.parametrize("seconds", [1, 2])
def test_a_signal_ends_a_wait_at_once(tmp_path: Path, seconds: int) -> None:
    def lock(bench: Bench, wait: Callable[[], None]) -> None:
        def sleep(_seconds: float) -> None:
            wait()
            signal.pause()

        transaction = bench.transaction()
        transaction.sleep = sleep
        transaction.run()

    agent = Agent(tmp_path, lock)
    assert agent.ends(*[signal.SIGHUP] * seconds) == Exit.ERROR
    assert_open(Bench(tmp_path))


def test_a_second_signal_does_not_disturb_the_rollback(tmp_path: Path) -> None:
    def lock(bench: Bench, wait: Callable[[], None]) -> None:
        put = type(bench.knobs).put

        def slow(knobs: object, name: str, value: str) -> None:
            if value == "1" and name == "kernel.ftrace_enabled":
                wait()  # in the midst of the rollback
            put(bench.knobs, name, value)

        transaction = bench.transaction()
        transaction.knobs = type("Slow", (), {"get": staticmethod(bench.knobs.get), "put": slow})()
        transaction.reach = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step is Step.SETTLE else None
        transaction.run()

    assert Agent(tmp_path, lock).ends(signal.SIGINT, signal.SIGHUP, signal.SIGTERM) == Exit.ERROR
    assert (tmp_path / "said").read_text() == "not locked: stopped by SIGTERM"
    assert_open(Bench(tmp_path))


def test_a_signal_while_a_seal_is_completed_changes_nothing(tmp_path: Path) -> None:
    Bench(tmp_path).lock()
    assert Agent(tmp_path, at_step(Step.FREEZE)).ends(signal.SIGTERM) == Exit.OK
    bench = Bench(tmp_path)
    assert bench.status().state is State.SEALED
    assert len(kept(bench.store)) == 2


def test_what_was_ignored_stays_ignored(tmp_path: Path) -> None:
    def nohup(bench: Bench, wait: Callable[[], None]) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        at_step(Step.PROVE)(bench, wait)

    assert Agent(tmp_path, nohup).ends(signal.SIGHUP) == Exit.OK
    assert Bench(tmp_path).frames(Ept.XS) != ALL


def interrupt_myself() -> None:
    with Stop() as stop, stop.interrupted():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception as error:
            raise AssertionError("swallowed") from error


def test_no_handler_of_errors_takes_a_signal_for_one() -> None:
    assert not issubclass(StoppedError, Exception)
    with pytest.raises(StoppedError, match="SIGTERM"):
        interrupt_myself()


def test_a_signal_that_came_before_ends_what_may_be_interrupted() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StoppedError), stop.interrupted():
            raise AssertionError("never begun")
        with pytest.raises(StoppedError):
            stop.check()
    assert [signal.getsignal(number) for number in SIGNALS] == before
    Stop().check()
