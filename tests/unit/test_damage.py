# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agent does and says when its state folder is damaged: locks go on, and nothing is sealed on bad evidence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mbecguard.host.simulated.ept import Ept
from mbecguard.records.record import State, Step
from mbecguard.values.errors import Exit
from mbecguard.values.events import Event
from tests.lockbench import BEFORE, Bench
from tests.lockchecks import ALL, MORE, assert_sealed, refusing
from tests.plans import BLOCKER, kept, make_plan

pytestmark = pytest.mark.usefixtures("fast_disk")

OTHERS = [f"{number}2222222-2222-3333-4444-555555555555" for number in range(3)]


def locked(folder: Path, *boots: str) -> Bench:
    """A guest that was locked in some boots, and in the newest."""
    for boot_id in boots:
        shutil.rmtree(folder / "root", ignore_errors=True)
        Bench(folder, boot_id=boot_id).lock()
    shutil.rmtree(folder / "root", ignore_errors=True)
    bench = Bench(folder)
    bench.lock()
    return bench


def garble(path: Path) -> bytes:
    data = path.read_bytes()
    path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    return path.read_bytes()


def ids(bench: Bench) -> list[str]:
    return [reason.id for reason in bench.status().reasons]


def told(bench: Bench) -> list[str]:
    return [facts["what"] for event, facts in bench.told if event is Event.HISTORY_DAMAGED]


def mine(bench: Bench) -> Path:
    """The file of this boot's newest record."""
    return (bench.store.history.pointer(bench.boot_id)).resolve()


def test_the_record_of_a_sealed_boot_that_is_damaged_anywhere_is_no_evidence(tmp_path: Path) -> None:
    bench = locked(tmp_path)
    path = mine(bench)
    data = path.read_bytes()
    for at in range(0, len(data), 41):
        for wrong in (data[:at], data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]):
            path.write_bytes(wrong)
            status = bench.status()
            assert (status.state, status.record) == (State.DEGRADED, None)
            assert status.reasons[0].id == "record-damaged"
            assert "00000001.json: " in status.reasons[0].text
    path.write_bytes(data)
    assert bench.status().state is State.SEALED


def test_a_sealed_boot_whose_record_is_damaged_stays_degraded_and_says_so(tmp_path: Path) -> None:
    bench = locked(tmp_path, OTHERS[0])
    wrong = garble(mine(bench))
    later = bench.again()
    failed = later.fails()
    assert (failed.status, "nobody here saw a proof" in failed.message) == (Exit.NOT_ENFORCED, True)
    assert "reset the guest" in failed.hint
    assert told(later) == ["00000002.json: it is not as it was written"]
    assert (tmp_path / "state/damaged/00000002.json").read_bytes() == wrong
    assert later.status().state is State.DEGRADED
    assert ids(later) == ["seal-unproven", "history-damaged"]
    assert [record.state for record in kept(later.store)] == [State.SEALED, State.DEGRADED]


def test_an_open_boot_whose_record_is_damaged_is_degraded_until_it_is_locked(tmp_path: Path) -> None:
    bench = locked(tmp_path)
    garble(mine(bench))
    (tmp_path / "host.json").unlink()
    shutil.rmtree(tmp_path / "root")
    later = bench.again()
    assert later.status().state is State.DEGRADED
    assert ids(later) == ["record-damaged"]
    assert_sealed(later, later.lock())
    assert ids(later) == ["history-damaged"]
    assert "00000001.json: it is not as it was written" in later.status().reasons[0].text
    assert str(tmp_path / "state/damaged") in later.status().reasons[0].hint


PAST: dict[str, Callable[[Path], object]] = {
    "the record before": lambda state: garble(state / "records/00000003.json"),
    "it is gone": lambda state: (state / "records/00000003.json").unlink(),
    "the oldest record": lambda state: garble(state / "records/00000001.json"),
    "the head": lambda state: garble(state / "history.json"),
    "no head": lambda state: (state / "history.json").unlink(),
    "an empty head": lambda state: (state / "history.json").write_bytes(b""),
    "no records": lambda state: shutil.rmtree(state / "records"),
}


@pytest.mark.parametrize("damage", PAST.values(), ids=PAST)
def test_damage_to_the_past_is_told_and_stops_no_lock(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    locked(tmp_path, *OTHERS[:2])
    damage(tmp_path / "state")
    shutil.rmtree(tmp_path / "root")
    bench = Bench(tmp_path, boot_id=OTHERS[2])
    assert bench.status().state is State.OPEN
    record = bench.lock()
    assert record.state is State.SEALED
    assert len(told(bench)) >= 1
    assert bench.status().state is State.SEALED
    assert ids(bench) == ["history-damaged"]
    assert kept(bench.store)[-1] == record
    shutil.rmtree(tmp_path / "state/damaged")
    assert ids(bench) == []


def test_damage_in_the_middle_of_the_past_is_found_by_a_look_at_everything(tmp_path: Path) -> None:
    bench = locked(tmp_path, *OTHERS)
    wrong = garble(tmp_path / "state/records/00000002.json")
    again = bench.again()
    assert_sealed(again, again.lock())
    assert (told(again), ids(again)) == ([], [])
    assert [loss.what for loss in bench.store.check(bench.boot_id)] == ["00000002.json: it is not as it was written"]
    assert (tmp_path / "state/damaged/00000002.json").read_bytes() == wrong
    assert bench.status().state is State.SEALED
    assert ids(bench) == ["history-damaged"]


def test_a_seal_without_its_plan_is_degraded_and_made_good_by_the_same_plan(tmp_path: Path) -> None:
    bench = locked(tmp_path)
    (plan,) = bench.store.history.plans.files()
    for damage in (garble, Path.unlink):
        damage(plan)
        assert bench.status().state is State.DEGRADED
        assert ids(bench)[0] == "plan-damaged"
        later = bench.again()
        assert_sealed(later, later.lock())
        assert later.store.plan(kept(later.store)[-1]) == make_plan()


def test_a_seal_without_its_plan_on_a_guest_that_has_changed_stays_degraded(tmp_path: Path) -> None:
    bench = locked(tmp_path)
    (plan,) = bench.store.history.plans.files()
    garble(plan)
    later = bench.again()
    later.plans = [MORE]
    failed = later.fails()
    assert (failed.status, "the plan of the seal" in failed.message) == (Exit.NOT_ENFORCED, True)
    assert later.status().state is State.DEGRADED
    assert (tmp_path / "state/damaged" / plan.name).exists()


def interrupted(bench: Bench, step: Step) -> Path:
    """A lock that a bug ended after the seal; the journal that it left."""
    with pytest.raises(SystemExit):
        bench.lock(reach=refusing(step, SystemExit()))
    return bench.folder / "state/journal.json"


def test_a_seal_whose_journal_is_damaged_is_unproven(bench: Bench) -> None:
    garble(interrupted(bench, Step.RECORD))
    assert bench.status().state is State.DEGRADED
    assert ids(bench) == ["seal-unproven", "journal-damaged"]
    later = bench.again()
    assert later.fails().status is Exit.NOT_ENFORCED
    assert told(later) == ["journal.json: it is not as it was written"]
    assert later.status().state is State.DEGRADED


def test_an_open_guest_whose_journal_is_damaged_is_locked(bench: Bench) -> None:
    bench.store.note(None)
    bench.folder.joinpath("state/journal.json").write_text("{}")
    assert (bench.status().state, ids(bench)) == (State.OPEN, ["journal-damaged"])
    assert_sealed(bench, bench.lock())
    assert told(bench) == ["journal.json: it is not as it was written"]
    assert ids(bench) == ["history-damaged"]


def test_a_rerun_that_is_refused_lets_modules_in_again_though_nobody_knows_who_held_them(bench: Bench) -> None:
    bench.host.hold_modules(True)
    (bench.folder / "state").mkdir()
    (bench.folder / "state/journal.json").write_text("{}")
    later = Bench(bench.folder, plans=[make_plan(findings=(BLOCKER,))])
    assert later.fails().status is Exit.REFUSED
    assert not later.host.modules_held
    assert later.frames(Ept.XS) == ALL
    assert later.values() == BEFORE
