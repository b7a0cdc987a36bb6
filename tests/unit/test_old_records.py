# SPDX-License-Identifier: GPL-2.0-or-later
"""An upgrade from mbecguard 0.1, which kept whole plans in one file: a sealed guest stays sealed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mbecguard.plan.findings import finding
from mbecguard.plan.value import Plan
from mbecguard.records.damage import DamagedError
from mbecguard.records.record import State
from mbecguard.records.store import Store
from tests.lockbench import Bench
from tests.lockchecks import assert_sealed
from tests.plans import kept, make_plan

pytestmark = pytest.mark.usefixtures("fast_disk")

NUMBERS = ("start", "end", "va", "pfn", "text_va", "text_pa")


def canonical(data: object) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


def sha256(data: object) -> str:
    return hashlib.sha256(canonical(data)).hexdigest()


def in_numbers(value: Any) -> Any:
    """Addresses and page frames as 0.1 had them."""
    if isinstance(value, list):
        return [in_numbers(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {k: int(v, 16) if k in NUMBERS and isinstance(v, str) else in_numbers(v) for k, v in value.items()}


def plan_1(plan: Plan) -> dict[str, Any]:
    data: dict[str, Any] = in_numbers(plan.to_json())
    data["schema"] = "mbecguard.plan/1"
    for one in data["findings"]:
        del one["facts"]
    del data["digest"]
    return {**data, "digest": sha256(data)}


def record_1(entry: dict[str, Any], plan: Plan) -> dict[str, Any]:
    record: dict[str, Any] = in_numbers(entry["record"])
    identity = record.pop("identity")
    for name in ("plan_digest", "totals"):
        del record[name]
    return {
        **record,
        "boot_id": identity["boot_id"],
        "agent": "0.1.0",
        "plan": plan_1(plan),
        "reasons": ["a note"],
        "schema": "mbecguard.record/1",
    }


def lines(*records: dict[str, Any]) -> bytes:
    previous, made = "0" * 64, []
    for record in records:
        body = {"previous": previous, "record": record}
        previous = sha256(body)
        made.append(canonical({**body, "digest": previous}) + b"\n")
    return b"".join(made)


def downgrade(bench: Bench, plan: Plan, boot_id: str | None = None) -> bytes:
    """Have the state folder as 0.1 would have left it."""
    state = bench.folder / "state"
    entry = json.loads((state / "records/00000001.json").read_bytes())
    mine = record_1(entry, plan) | ({"boot_id": boot_id} if boot_id else {})
    other = {**mine, "boot_id": "99999999-2222-3333-4444-555555555555"}
    for folder in ("records", "boots", "plans"):
        for path in (state / folder).iterdir():
            path.unlink()
        (state / folder).rmdir()
    (state / "history.json").unlink()
    (state / "records.jsonl").write_bytes(lines(other, mine))
    return (state / "records.jsonl").read_bytes()


def test_a_sealed_guest_stays_sealed(bench: Bench) -> None:
    bench.lock()
    old = downgrade(bench, make_plan())
    status = bench.status()
    assert (status.state, [str(why) for why in status.reasons]) == (State.SEALED, ["a note"])
    entry = bench.store.last(bench.boot_id)
    assert entry
    assert (entry.number, entry.digest) == (0, json.loads(old.splitlines()[1])["digest"])
    assert bench.store.plan(entry.record) == make_plan()
    assert (entry.record.identity.agent, entry.record.identity.release) == ("0.1.0", "6.12.0-test")


def test_a_rerun_completes_it_and_retires_the_file(bench: Bench) -> None:
    bench.lock()
    old = downgrade(bench, make_plan())
    later = bench.again()
    assert_sealed(later, later.lock())
    assert (bench.folder / "state/records.jsonl.old").read_bytes() == old
    assert not (bench.folder / "state/records.jsonl").exists()
    assert len(kept(later.store)) == 1


def test_what_it_denied_as_unexplained_is_still_known(bench: Bench) -> None:
    denied = finding(
        "unexplained-denied", pages=2, va=0xFFFFC90000123000, pa=0x1E000, whose="near x", owner="", symbol="x"
    )
    bench.lock()
    downgrade(bench, make_plan(findings=(denied,)))
    entry = bench.store.last(bench.boot_id)
    assert entry
    (found,) = bench.store.plan(entry.record).findings
    assert (found.facts["va"], found.facts["pa"], found.facts["pages"]) == ("0xffffc90000123000", "0x1e000", 2)


def test_the_next_boot_has_nothing_of_it(bench: Bench) -> None:
    bench.lock()
    downgrade(bench, make_plan(), boot_id="88888888-2222-3333-4444-555555555555")
    assert bench.store.last(bench.boot_id) is None
    assert bench.status().record is None


Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "record altered": lambda data: data.replace(b'"pinned":true', b'"pinned":false'),
    "plan altered": lambda data: data.replace(b'"start":2,', b'"start":1,'),
    "white space": lambda data: data.replace(b":", b": "),
    "not JSON": lambda data: b"\xff" * 100 + b"\n",
    "no object": lambda _data: b"[1]\n",
    "no record": lambda _data: b"{}\n",
    "deep": lambda _data: b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_no_evidence_and_stops_no_lock(bench: Bench, damage: Damage) -> None:
    bench.lock()
    path = bench.folder / "state/records.jsonl"
    path.write_bytes(damage(downgrade(bench, make_plan())))
    with pytest.raises(DamagedError):
        bench.store.last(bench.boot_id)
    assert bench.status().state is State.DEGRADED
    (bench.folder / "host.json").unlink()
    later = bench.again()
    assert later.lock().state is State.SEALED
    assert later.status().state is State.SEALED


def test_a_line_that_a_crash_cut_off_is_no_record(bench: Bench) -> None:
    bench.lock()
    path = bench.folder / "state/records.jsonl"
    path.write_bytes(downgrade(bench, make_plan()) + b'{"previous"')
    assert bench.status().state is State.SEALED
    path.write_bytes(b'{"previous"')
    assert bench.store.last(bench.boot_id) is None


def test_without_the_file_nothing_is_read(tmp_path: Path) -> None:
    assert Store(tmp_path).last("boot") is None
