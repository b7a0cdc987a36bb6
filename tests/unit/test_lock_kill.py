# SPDX-License-Identifier: GPL-2.0-or-later
"""kill -9 of the agent anywhere: the next process finds out the truth, and a rerun completes the lock."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mbecguard.host.base import Host
from mbecguard.host.simulated.ept import Ept
from mbecguard.records.record import State, Step
from mbecguard.records.store import Store
from mbecguard.values.errors import Exit
from mbecguard.values.events import Event
from tests.lockbench import AFTER, BEFORE, FROZEN, Bench, WrappedHost
from tests.lockchecks import EXEC_EXPECTED
from tests.plans import BLOCKER, CANARY, PFNS, kept, kept_frames, make_plan

FORK = multiprocessing.get_context("fork")
ALL = set(range(PFNS))
OTHER_BOOT = "99999999-2222-3333-4444-555555555555"


def die_now() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(folder: Path, step: Step) -> None:
    """An agent that is killed when it reaches a step."""
    killed(lambda: Bench(folder).lock(reach=lambda reached: die_now() if reached is step else None))


def killed(agent: Callable[[], object]) -> None:
    process = FORK.Process(target=agent)
    process.start()
    process.join(timeout=20)
    assert process.exitcode == -signal.SIGKILL


def assert_completes(folder: Path, boot_id: str | None = None) -> None:
    bench = Bench(folder, boot_id=boot_id) if boot_id else Bench(folder)
    record = bench.lock()
    assert record.state is State.SEALED
    assert {e.probe: e.outcome for e in record.evidence} == EXEC_EXPECTED
    assert bench.frames(Ept.XS) == kept_frames(make_plan()) - {CANARY}
    assert set(record.frozen) == set(AFTER)
    assert bench.host.modules_held
    status = bench.status()
    assert (status.state, status.interrupted, status.reasons) == (State.SEALED, None, ())


STATES = {
    Step.CHECK: State.OPEN,
    Step.HOLD: State.OPEN,
    Step.SURVEY: State.OPEN,
    Step.APPLY: State.OPEN,
    Step.RESURVEY: State.APPLIED,
    Step.PROVE: State.APPLIED,
    Step.FREEZE: State.PROVEN,
    Step.SETTLE: State.PROVEN,
    Step.LAST_SURVEY: State.PROVEN,
    Step.PIN: State.PROVEN,
    Step.SEAL: State.PROVEN,
    Step.ONE_WAY: State.SEALED,
    Step.RECORD: State.SEALED,
}


@pytest.mark.parametrize(("step", "state"), STATES.items())
def test_killed_at_a_step(tmp_path: Path, step: Step, state: State) -> None:
    kill_at(tmp_path, step)
    bench = Bench(tmp_path)
    status = bench.status()
    assert (status.state, status.interrupted) == (state, step)
    assert any(f"stopped at step {step}" in reason.text for reason in status.reasons)
    assert bench.host.query().restricted == (state is not State.OPEN)
    assert_completes(tmp_path)


class KilledAfter(WrappedHost):
    """The agent dies when a call has been carried out, before it can note anything."""

    def __init__(self, inner: Host, call: str, number: int) -> None:
        super().__init__(inner, self._count)
        self._call, self._left = call, number

    def _count(self, call: str) -> None:
        if self._left == 0:
            die_now()
        if call == self._call:
            self._left -= 1


@pytest.mark.parametrize(
    ("call", "number", "step", "state"),
    [
        ("protect", 1, Step.PROVE, State.APPLIED),
        ("protect", 2, Step.TIGHTEN, State.PROVEN),
        ("protect", 3, Step.SEAL, State.SEALED),
    ],
)
def test_killed_between_a_request_and_the_next_probe(
    tmp_path: Path, call: str, number: int, step: Step, state: State
) -> None:
    def agent() -> None:
        bench = Bench(tmp_path)
        bench.lock(KilledAfter(bench.host, call, number))

    killed(agent)
    status = Bench(tmp_path).status()
    assert (status.state, status.interrupted) == (state, step)
    assert_completes(tmp_path)


def test_killed_between_the_map_and_the_next_note(tmp_path: Path) -> None:
    def agent() -> None:
        bench = Bench(tmp_path)
        transaction = bench.transaction()
        transaction.tell = lambda event, _facts: die_now() if event is Event.APPLIED else None
        transaction.run()

    killed(agent)
    status = Bench(tmp_path).status()
    assert (status.state, status.interrupted) == (State.APPLIED, Step.APPLY)
    assert_completes(tmp_path)


def test_killed_twice_in_a_row(tmp_path: Path) -> None:
    kill_at(tmp_path, Step.PIN)
    kill_at(tmp_path, Step.CHECK)
    assert Bench(tmp_path).status().interrupted is Step.CHECK
    assert Bench(tmp_path).values() == FROZEN
    assert_completes(tmp_path)


def test_killed_twice_after_the_seal(tmp_path: Path) -> None:
    kill_at(tmp_path, Step.RECORD)
    kill_at(tmp_path, Step.HOLD)
    status = Bench(tmp_path).status()
    assert (status.state, status.interrupted) == (State.SEALED, Step.HOLD)
    assert_completes(tmp_path)


def test_a_rerun_that_is_refused_undoes_what_the_killed_agent_did(tmp_path: Path) -> None:
    kill_at(tmp_path, Step.SEAL)
    bench = Bench(tmp_path, plans=[make_plan(findings=(BLOCKER,))])
    assert bench.fails().status is Exit.REFUSED
    assert Event.INTERRUPTED in bench.events()
    assert bench.frames(Ept.XS) == ALL
    assert not bench.host.modules_held
    assert bench.values() == BEFORE
    assert (bench.status().state, bench.status().interrupted) == (State.OPEN, None)
    assert_completes(tmp_path)


def test_the_next_boot_starts_open(tmp_path: Path) -> None:
    kill_at(tmp_path, Step.RECORD)
    bench = Bench(tmp_path, boot_id=OTHER_BOOT)
    status = bench.status()
    assert (status.state, status.reasons, status.interrupted, status.record) == (State.OPEN, (), None, None)
    assert_completes(tmp_path, OTHER_BOOT)
    assert len(kept(Store(tmp_path / "state"))) == 1


def test_a_killed_agent_leaves_no_lock_on_the_folder(tmp_path: Path) -> None:
    def agent() -> None:
        with Store(tmp_path / "state").exclusive():
            die_now()

    killed(agent)
    assert_completes(tmp_path)
