# SPDX-License-Identifier: GPL-2.0-or-later
"""What the history costs a lock and a status: the same after 3000 boots as after one.

Counted, not timed: files opened below the state folder and their bytes, folders listed, and calls of Python. The hooks
are the interpreter's own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import pytest

from mbecguard.records.status import status
from mbecguard.records.store import Store
from mbecguard.service.watch import Watch
from tests.lockbench import BOOT, Bench
from tests.plans import PLAN, SPANS, make_plan, make_record
from tests.servicebench import Boot

BOOTS = 3000
SLACK = 0.02  #: of the calls: numbers have more digits, and a folder of files another block


@dataclass
class Cost:
    """What was done below one folder."""

    folder: Path
    opened: int = 0
    read: int = 0
    listed: int = 0
    calls: int = 0


_costs: list[Cost] = []


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if not _costs or event not in ("open", "os.listdir", "os.scandir"):
        return
    cost, path = _costs[-1], str(arguments[0])
    if not path.startswith(str(cost.folder)):
        return
    if event == "open":
        cost.opened += 1
        cost.read += os.stat(path).st_size if os.path.isfile(path) else 0  # noqa: PTH113, PTH116
    else:
        cost.listed += 1


sys.addaudithook(_audit)


def cost_of(act: Callable[[], object], folder: Path) -> Cost:
    cost = Cost(folder)

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        cost.calls += event in ("call", "c_call")

    act()  # what is imported and cached at the first time is none of the history's
    _costs.append(cost)
    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(None)
        _costs.pop()
    return cost


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Guests after so many locked boots; each boot had a plan of its own."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _fd: None)
        for boots in (1, BOOTS):
            made[boots] = folder = tmp_path_factory.mktemp(f"boots{boots}")
            store = Store(folder / "state")
            for number in range(boots):
                plan = PLAN if number % 2 else make_plan((*SPANS, (50 + number % 10, 51 + number % 10)))
                record = make_record(boot_id=f"{number:08}-2222-3333-4444-555555555555", plan_digest=plan.digest)
                store.append(record._replace(generation=number), plan)
    return made


def sealed(folder: Path) -> Boot:
    boot = Boot(folder, 1)
    boot.bench.lock()
    return boot


ACTS: dict[str, Callable[[Path], Callable[[], object]]] = {
    "lock": lambda folder: lambda: fresh(folder).lock(),
    "lock again": lambda folder: lambda: Bench(folder, boot_id=sealed(folder).bench.boot_id).lock(),
    "status": lambda folder: sealed(folder).session.status,
    "status of an open boot": lambda folder: lambda: status(Bench(folder).host, Store(folder / "state"), BOOT),
    "boot": lambda folder: sealed(folder).service.lock,
    "a look of the daemon": lambda folder: look(sealed(folder)),
    "report": lambda folder: sealed(folder).session.report,
    "report of an open boot": lambda folder: Boot(folder, 2).session.report,
}


def fresh(folder: Path) -> Bench:
    """A guest that was just reset."""
    (folder / "host.json").unlink(missing_ok=True)
    for name, value in Bench(folder).values().items():
        Bench(folder).knob_file(name).write_text("0" if name.startswith("kernel.") else str(value))
    return Bench(folder)


def look(boot: Boot) -> Callable[[], object]:
    return lambda: Watch(boot.session, boot.tell).look()


@pytest.mark.parametrize("name", ACTS)
def test_it_costs_the_same_after_3000_boots(folders: dict[int, Path], name: str) -> None:
    few, many = (cost_of(ACTS[name](folders[boots]), folders[boots] / "state") for boots in (1, BOOTS))
    print(f"{name}: after 1 boot {few}, after {BOOTS} {many}")
    assert (many.opened, many.listed) == (few.opened, few.listed)
    assert many.read < few.read + 200
    assert many.calls < few.calls * (1 + SLACK)
    assert few.calls > 100


def test_a_look_at_everything_does_grow(folders: dict[int, Path]) -> None:
    """The measure can tell."""
    few, many = (
        cost_of(lambda folder=folder: Store(folder / "state").check(BOOT), folder / "state")  # type: ignore[misc]
        for folder in (folders[1], folders[BOOTS])
    )
    assert many.opened > BOOTS > 100 * few.opened
