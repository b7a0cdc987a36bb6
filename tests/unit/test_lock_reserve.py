# SPDX-License-Identifier: GPL-2.0-or-later
"""A lock of a guest that goes on compiling BPF programs: room is made, and given back if the lock fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mbecguard.host.base import HostMode
from mbecguard.lock.reserve import LIMIT
from mbecguard.plan.policy import CodeKind, Policy
from mbecguard.records.record import SEALED_STEPS, State, Step
from mbecguard.switches import SWITCHES, Use
from mbecguard.switches.decisions import Decision
from mbecguard.values.errors import Exit, UserError, die
from mbecguard.values.pages import PageSet
from tests.lockbench import OPTIONS, Bench, nothing
from tests.lockchecks import refusing
from tests.unit.test_lock_kill import killed

pytestmark = pytest.mark.usefixtures("fast_disk")

JIT = "net.core.bpf_jit_enable"
ALLOWED, BEFORE = 65536, "264241152"
REASON = "BPF programs, which could not run without the JIT"


@dataclass
class Room:
    """Room that is a file: it outlives the agent that made it."""

    file: Path
    obstacle: str = ""
    fails: bool = False
    dispatchers: int = 0

    def dispatch(self) -> None:
        self.dispatchers += 1

    def make(self, packs: int, used: PageSet) -> int:
        assert not self.file.exists()
        self.file.write_text(f"{packs} {used.pages}")
        if self.fails:
            die("no room", "", Exit.REFUSED)
        return ALLOWED

    def give_back(self) -> None:
        self.file.unlink(missing_ok=True)


def compiling(folder: Path, use: Use | None = None, **options: object) -> Bench:
    """A bench whose guest has no interpreter, or leaves the switch alone."""
    choice = "auto" if use else "off"
    decisions = (Decision(s, choice, use) if s.knob == JIT else Decision(s, "auto", None) for s in SWITCHES)
    bench = Bench(folder, decisions=tuple(decisions), room=Room(folder / "room"), **options)  # type: ignore[arg-type]
    if not (file := bench.knob_file(LIMIT)).exists():
        file.write_text(BEFORE)
    return bench


def kept(bench: Bench) -> tuple[bool, str | None]:
    """Whether there is room, and what users may have compiled."""
    return (bench.folder / "room").exists(), bench.knobs.get(LIMIT)


def test_room_is_made_before_the_first_map_and_stays(tmp_path: Path) -> None:
    bench, steps = compiling(tmp_path), []
    seen: dict[Step, tuple[bool, str | None]] = {}

    def reach(step: Step) -> None:
        steps.append(step)
        seen[step] = kept(bench)

    record = bench.lock(reach=reach)
    assert steps == [step for step in Step if step not in (Step.TEXT, Step.MODULES)]
    assert record.state is State.SEALED
    assert (tmp_path / "room").read_text() == "8 0"
    assert seen[Step.RESERVE] == (False, BEFORE)
    assert all(seen[step] == (True, str(ALLOWED)) for step in steps[steps.index(Step.SURVEY) :])
    assert bench.knobs.get(JIT) == "1"
    assert not record.reasons


@pytest.mark.parametrize("before", [str(ALLOWED), "4096"])
def test_the_limit_is_never_raised(tmp_path: Path, before: str) -> None:
    bench = compiling(tmp_path)
    bench.knobs.put(LIMIT, before)
    bench.lock()
    assert kept(bench) == (True, before)


@pytest.mark.parametrize("step", [step for step in Step if step not in (*SEALED_STEPS, Step.TEXT)])
def test_room_is_given_back_where_the_lock_fails(tmp_path: Path, step: Step) -> None:
    bench = compiling(tmp_path)
    bench.fails(reach=refusing(step, UserError("boom")))
    assert kept(bench) == (False, BEFORE)
    assert bench.status().state is State.OPEN
    assert compiling(tmp_path).lock().state is State.SEALED


@pytest.mark.parametrize("step", [Step.RESERVE, Step.SURVEY, Step.FREEZE, Step.SEAL, Step.RECORD])
def test_killed_at_a_step(tmp_path: Path, step: Step) -> None:
    def agent() -> None:
        compiling(tmp_path).lock(reach=lambda at: os.kill(os.getpid(), signal.SIGKILL) if at is step else nothing(at))

    killed(agent)
    bench = compiling(tmp_path)
    assert bench.lock().state is State.SEALED
    assert kept(bench) == (True, str(ALLOWED))


@pytest.mark.parametrize(
    ("mode", "dropped", "made"), [("enforce", (), 1), ("audit", (), 0), ("enforce", (CodeKind.BPF,), 0)]
)
def test_what_calls_xdp_programs_is_there_before_the_first_map(
    tmp_path: Path, mode: str, dropped: tuple[CodeKind, ...], made: int
) -> None:
    room, options = Room(tmp_path / "room"), replace(OPTIONS, mode=HostMode(mode))
    bench = Bench(tmp_path, options, room=room, mode=mode, policy=Policy(dropped=dropped))
    seen: dict[Step, int] = {}

    def reach(step: Step) -> None:
        seen.setdefault(step, room.dispatchers)

    bench.lock(reach=reach)
    assert seen[Step.SURVEY] == room.dispatchers == made


def test_room_that_cannot_be_made_refuses_the_lock(tmp_path: Path) -> None:
    bench = compiling(tmp_path)
    bench.room = Room(tmp_path / "room", fails=True)
    failed = bench.fails()
    assert (failed.message, failed.status) == ("not locked: no room", Exit.REFUSED)
    assert kept(bench) == (False, BEFORE)
    bench.room = Room(tmp_path / "room", obstacle="nothing is mounted")
    failed = bench.fails()
    assert "nothing is mounted" in failed.message
    assert failed.status is Exit.REFUSED
    assert bench.store.journal(bench.boot_id) is None
    bench.packs = 0
    assert [reason.id for reason in bench.lock().reasons] == ["bpf-unreserved"]
    assert kept(bench) == (False, BEFORE)


def test_a_kernel_that_does_not_limit_users(tmp_path: Path) -> None:
    bench = compiling(tmp_path)
    bench.knob_file(LIMIT).unlink()
    failed = bench.fails()
    assert LIMIT in failed.message
    assert "lock.bpf_packs = 0" in failed.hint
    assert not (tmp_path / "room").exists()


def interpreted(bench: Bench) -> None:
    bench.decisions = tuple(Decision(switch, "auto", None) for switch in SWITCHES)


def not_compiled(bench: Bench) -> None:
    bench.knobs.put(JIT, "0")


def no_compiler(bench: Bench) -> None:
    bench.knob_file(JIT).unlink()


def no_bpf(bench: Bench) -> None:
    bench.policy = Policy(dropped=(CodeKind.BPF,))


@pytest.mark.parametrize("change", [interpreted, not_compiled, no_compiler, no_bpf])
def test_no_room_where_nothing_is_compiled(tmp_path: Path, change: Callable[[Bench], None]) -> None:
    bench = compiling(tmp_path, packs=0)
    change(bench)
    assert not bench.lock().reasons
    bench = compiling(tmp_path / "other")
    change(bench)
    assert bench.lock().state is State.SEALED
    assert kept(bench) == (False, BEFORE)


def test_no_room_in_audit_mode(tmp_path: Path) -> None:
    bench = compiling(tmp_path, options=replace(OPTIONS, mode=HostMode.AUDIT), mode="audit")
    assert bench.lock().state is State.APPLIED
    assert kept(bench) == (False, BEFORE)


def test_a_kernel_without_an_interpreter_locks(tmp_path: Path) -> None:
    bench = compiling(tmp_path, Use(REASON, bar=True))
    assert [reason.id for reason in bench.lock().reasons] == ["freeze-left-open"]
    assert kept(bench) == (True, str(ALLOWED))
