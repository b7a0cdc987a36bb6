# SPDX-License-Identifier: GPL-2.0-or-later
"""An audit: what is claimed and whether it holds, the verdict, and that each one is kept."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mbecguard.audit.claims import CLAIMS, NOT_WANTED, Grounds, Knob
from mbecguard.audit.compare import Comparison
from mbecguard.audit.conclude import UNCOVERED, announce, conclude
from mbecguard.audit.kept import Audits, Kept, keep
from mbecguard.audit.locked import locked
from mbecguard.audit.value import Audit, Changed, Code, Result, Verdict
from mbecguard.host.base import HostMode, Outcome
from mbecguard.plan.policy import CodeKind, Level
from mbecguard.records.chain import ORIGIN, Entry
from mbecguard.records.ledger import Bounds
from mbecguard.records.mend import faults
from mbecguard.records.reasons import reason
from mbecguard.records.record import State
from mbecguard.records.store import Store
from mbecguard.switches import SWITCHES
from mbecguard.text.look import Spot, TextLook
from mbecguard.values.codec import decode, encode
from mbecguard.values.errors import Exit, UserError
from mbecguard.values.events import Event, message
from mbecguard.values.facts import Absent, Fact, Known, Unknown
from tests.plans import CLEAN, PLAN, TEXT, TEXT_VA, make_audit, make_evidence, make_plan, make_record, make_status

pytestmark = pytest.mark.usefixtures("fast_disk")

CODE = Code(0x32, 0x34, 0x32000, TEXT_VA, 2, CodeKind.BPF, "bpf", ".x", "a+0x1", writable=False, denied=True)
SPOT = Spot("kernel", TEXT_VA + 5, "vfs_read+0x5", "jump label", b"\x66\x90", b"\xcc\xc3")
SEAL = make_record(map_digest="cd" * 32, frozen=tuple(switch.knob for switch in SWITCHES))


def grounds(**changes: Any) -> Grounds:
    knobs = tuple(Knob(switch, "auto", switch.value) for switch in SWITCHES)
    whole = Grounds(make_status(map_digest="cd" * 32, simulated=False), SEAL, CLEAN, knobs, text=Known(TEXT))
    return replace(whole, **changes)


def audited(found: Grounds, error: UserError | None = None) -> Audit:
    entry = Entry(1, ORIGIN, found.seal, "ab" * 32) if found.seal else None
    return conclude(found, SEAL.identity, entry, locked(PLAN, {}), error=error)


def results(found: Grounds) -> dict[str, Result]:
    return {claim.id: claim.result for claim in audited(found).claims}


def test_a_clean_audit_claims_everything_and_all_of_it_holds() -> None:
    found = audited(grounds())
    assert (found.verdict, found.ok, found.exit) == (Verdict.PASS, True, Exit.OK)
    moot = [claim.id for claim in found.claims if claim.result is not Result.PASS]
    assert moot == ["text-held"]  # at level exec nobody claims it
    assert [claim.id for claim in found.claims][: len(CLAIMS)] == [promise.id for promise in CLAIMS]
    assert {claim.id for claim in found.claims[len(CLAIMS) :]} == {
        *("freeze-ftrace", "freeze-kprobes", "freeze-bpf-jit", "freeze-kexec", "freeze-modules")
    }
    assert all(claim.text and claim.evidence and not claim.action for claim in found.claims)
    assert (found.sealed, found.record_digest, found.plan_digest) == (SEAL.time, "ab" * 32, PLAN.digest)
    assert (found.subject, found.boot_id, found.level) == (SEAL.identity, "boot", "exec")
    assert found.uncovered == UNCOVERED[Level.EXEC]
    assert found.uncovered


SHOWN = make_evidence(CANARY_SEALED=Outcome.RAN)


@pytest.mark.parametrize(
    ("id_", "changes"),
    [
        ("host-enforces", {"status": make_status(State.DEGRADED, mode=HostMode.AUDIT)}),
        ("map-sealed", {"status": make_status(State.DEGRADED)}),
        ("map-as-sealed", {"status": make_status(State.DEGRADED, map_digest="ef" * 32)}),
        ("denied-code-faults", {"seal": SEAL._replace(evidence=SHOWN)}),
        ("cr-pinned", {"seal": SEAL._replace(pinned=False)}),
        ("cr-pinned", {"status": make_status(State.DEGRADED, reasons=(reason("unpinned"),))}),
        ("no-unknown-code", {"comparison": replace(CLEAN, new=(CODE,))}),
        ("no-unknown-code", {"comparison": replace(CLEAN, unexplained=(CODE,))}),
        ("no-writable-code", {"comparison": replace(CLEAN, writable=3)}),
        ("text-unchanged", {"text": Known(replace(TEXT, spots=(SPOT,), changed=1))}),
    ],
)
def test_each_claim_can_fail_and_then_the_audit_does(id_: str, changes: dict[str, Any]) -> None:
    found = audited(grounds(**changes))
    (claim,) = (claim for claim in found.claims if claim.id == id_)
    assert (claim.result, claim.running, bool(claim.action)) == (Result.FAIL, False, True)
    assert found.verdict is Verdict.FAIL
    assert found.exit is (Exit.NOT_ENFORCED if found.ok or found.state is State.DEGRADED else Exit.DRIFT)


@pytest.mark.parametrize(
    ("id_", "changes"),
    [
        ("no-stale-code", {"comparison": replace(CLEAN, stale=(CODE,))}),
        ("records-intact", {"damaged": True}),
        ("freeze-ftrace", {"knobs": (Knob(SWITCHES[0], "auto", "1"),)}),
    ],
)
def test_the_seal_holds_without_some_of_them(id_: str, changes: dict[str, Any]) -> None:
    found = audited(grounds(**changes))
    (claim,) = (claim for claim in found.claims if claim.id == id_)
    assert (claim.result, bool(claim.action)) == (Result.WARN, True)
    assert (found.verdict, found.exit) == (Verdict.PASS, Exit.OK)


@pytest.mark.parametrize(
    ("id_", "changes"),
    [
        ("map-as-sealed", {"status": make_status(map_digest=None)}),
        ("freeze-ftrace", {"knobs": (Knob(SWITCHES[0], "auto", None),)}),
        ("no-unknown-code", {"comparison": None}),
    ],
)
def test_what_nobody_can_tell_is_unknown(id_: str, changes: dict[str, Any]) -> None:
    (claim,) = (claim for claim in audited(grounds(**changes)).claims if claim.id == id_)
    assert (claim.result, claim.running) == (Result.UNKNOWN, None)


def test_a_switch_that_was_left_open_promises_nothing() -> None:
    seal = SEAL._replace(frozen=())
    found = grounds(seal=seal, knobs=(Knob(SWITCHES[0], "auto", "1"), Knob(SWITCHES[1], "off", SWITCHES[1].value)))
    assert results(found)["freeze-ftrace"] is Result.NOT_APPLICABLE
    assert results(found)["freeze-kprobes"] is Result.PASS  # somebody else has set it


def test_a_simulated_lock_sets_no_switch() -> None:
    found = results(grounds(status=make_status()))
    assert {found[f"freeze-{name}"] for name in ("ftrace", "kexec", "modules")} == {Result.NOT_APPLICABLE}


def test_of_an_open_guest_nothing_is_claimed() -> None:
    status = make_status(State.OPEN, reasons=(reason("map-gone"),), mode=HostMode.OFF)
    found = audited(grounds(status=status, seal=None, comparison=None))
    assert (found.verdict, found.ok, found.exit, found.sealed) == (Verdict.NOT_APPLICABLE, False, Exit.OPEN, "")
    assert {claim.result for claim in found.claims} == {Result.NOT_APPLICABLE, Result.PASS}
    assert [why.id for why in found.reasons] == ["audit-not-sealed", "map-gone"]
    audit_mode = make_status(State.APPLIED, mode=HostMode.AUDIT)
    assert audited(grounds(status=audit_mode, seal=None, comparison=None)).exit is Exit.AUDIT_MODE


def test_a_guest_that_cannot_be_compared_did_not_pass() -> None:
    found = audited(grounds(comparison=None), UserError("no file", "install it"))
    assert (found.verdict, found.exit) == (Verdict.ERROR, Exit.ERROR)
    assert [(why.id, why.hint) for why in found.reasons] == [("audit-impossible", "install it")]


def test_what_is_locked_by_kind_and_by_owner() -> None:
    found = locked(PLAN, {"owner40": "11" * 20})
    assert sum(share.pages for share in found.kinds) == sum(one.pages for one in found.owners) == PLAN.totals.keep_pages
    assert [share.pages for share in found.kinds] == sorted((share.pages for share in found.kinds), reverse=True)
    assert found.deny_pages == sum(map(len, PLAN.deny))


def modules(base: int, *names: str) -> Any:
    spans = [(base + 2 * number, base + 2 * number + 1) for number in range(len(names))]
    plan = make_plan(spans)
    return plan._replace(keep=tuple(k._replace(owner=name) for k, name in zip(plan.keep, names, strict=True)))


def test_the_content_digest_knows_no_addresses() -> None:
    ids = {"xfs": "11" * 20, "nft": "22" * 20}
    here, there = modules(4, "xfs", "nft"), modules(30, "nft", "xfs")
    assert here.digest != there.digest
    assert locked(here, ids).content_digest == locked(there, ids).content_digest
    others = [
        locked(here, {**ids, "nft": "33" * 20}),
        locked(modules(4, "xfs"), ids),
        locked(here._replace(kernel=here.kernel._replace(build_id="cc" * 20)), ids),
    ]
    assert len({locked(here, ids).content_digest, *(one.content_digest for one in others)}) == 4
    generated = here._replace(keep=(*here.keep, here.keep[0]._replace(start=50, end=51, kind=CodeKind.BPF)))
    assert locked(generated, ids).content_digest == locked(here, ids).content_digest


def test_an_audit_comes_back_equal() -> None:
    found = make_audit(unexplained=(CODE,))
    assert decode(Audit, json.loads(json.dumps(encode(found)))) == found
    with pytest.raises(ValueError, match=r"'mbecguard\.audit/1' is not 'mbecguard\.audit/2'"):
        decode(Audit, {**encode(found), "schema": "mbecguard.audit/1"})


def test_every_audit_is_kept_in_a_chain(tmp_path: Path) -> None:
    audits = Audits(Store(tmp_path))
    made = [make_audit(), make_audit(verdict=Verdict.FAIL), make_audit()]
    entries = [audits.add(one) for one in made]
    assert [entry.previous for entry in entries] == [ORIGIN, entries[0].digest, entries[1].digest]
    assert [entry.record for entry in audits.last(9)] == made[::-1]
    assert audits.last(2) == entries[:0:-1]
    assert audits.newest("boot") == entries[2]
    assert audits.newest("another") is None
    assert (audits.check(), audits.reasons()) == ((), ())


def test_audits_push_out_no_record_of_a_lock(tmp_path: Path) -> None:
    store = Store(tmp_path, Bounds(size=8192, days=1))
    seal = store.append(make_record(), PLAN)
    audits = Audits(store)
    for _ in range(5):
        audits.add(make_audit())
    assert len(audits.last(9)) == 1  # bounded
    assert store.last("boot") == seal


def chained(folder: Path, count: int = 3) -> dict[Path, bytes]:
    """A chain of small audits, and what is in its files: the head as well."""
    audits = Audits(Store(folder))
    for _ in range(count):
        audits.add(make_audit(claims=(), uncovered=(), locked=None))
    files = {path: path.read_bytes() for path in sorted(audits.folder.rglob("*.json"))}
    assert len(files) == count + 1
    return files


def test_a_change_of_any_byte_is_found(tmp_path: Path) -> None:
    """Each one, to another that JSON takes in its place where there is such a one."""
    ledger = Audits(Store(tmp_path)).ledger
    for path, data in chained(tmp_path, 2).items():
        for at, byte in enumerate(data):
            other = {*b"0", *b"a", *b" "} - {byte}
            path.write_bytes(data[:at] + bytes([min(other, key=lambda one: abs(one - byte))]) + data[at + 1 :])
            assert next(faults(ledger), None), (path.name, at)
        path.write_bytes(data)
    assert not list(faults(ledger))


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_done_to_the_files_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Bytes put in, cut out, replaced; files that take each other's place."""
    folder = tmp_path_factory.mktemp("chain")
    files = chained(folder)
    path = data.draw(st.sampled_from([*files]), "file")
    whole = files[path]
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 2), "cut"))
    inserted = data.draw(st.one_of(st.binary(max_size=40), st.sampled_from([*files.values()])), "put in")
    changed = whole[:start] + inserted + whole[end:]
    path.write_bytes(changed)
    assert bool(next(faults(Audits(Store(folder)).ledger), None)) is (changed != whole)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_audit_that_is_gone_is_found_and_told(tmp_path: Path, number: int) -> None:
    audits = Audits(Store(tmp_path))
    for _ in range(3):
        audits.add(make_audit())
    audits.ledger.chain.file(number).unlink()
    (loss,) = audits.check()
    assert "is gone" in loss.what
    assert audits.check() == ()  # it is known now
    (why,) = audits.reasons()
    assert (why.id, loss.what in why.text) == ("audits-damaged", True)
    audits.add(make_audit())  # and stops no other
    assert len(audits.last(9)) == 3


def test_one_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    audits = Audits(Store(tmp_path))
    with audits.store.exclusive():
        kept = keep(make_audit(), audits)
    assert (kept.digest, kept.audit.verdict) == ("", Verdict.PASS)
    assert kept.audit.reasons[-1].id == "audit-unkept"
    assert "another mbecguard is at work" in kept.audit.reasons[-1].text


def told(audit: Audit) -> list[tuple[Event, dict[str, str]]]:
    events: list[tuple[Event, dict[str, str]]] = []
    announce(Kept(audit, "ef" * 32), lambda event, facts: events.append((event, facts)))
    return events


def test_each_verdict_is_announced_with_the_digest_of_the_audit() -> None:
    ((event, facts),) = told(make_audit())
    assert (event, facts["audit"], facts["record"]) == (Event.AUDIT_PASSED, "ef" * 32, "ab" * 32)
    assert f"{PLAN.totals.keep_pages} pages are executable, as sealed" in message(event, facts)
    drift = audited(grounds(comparison=Comparison((CODE,), (), (), 0, (reason("audit-new", ranges=1),))))
    assert [event for event, _ in told(drift)] == [Event.DRIFT, Event.AUDIT_FAILED]
    ((event, facts),) = told(audited(grounds(comparison=None), UserError("no file")))
    assert (event, facts["verdict"]) == (Event.AUDIT_FAILED, "error")
    assert told(make_audit(verdict=Verdict.NOT_APPLICABLE)) == []


@pytest.mark.parametrize(
    ("text", "result", "told"),
    [
        (Absent(), Result.NOT_APPLICABLE, "in the running guest only"),
        (NOT_WANTED, Result.NOT_APPLICABLE, "audit.text is off"),
        (Unknown("/proc/kcore does not exist", "a remedy"), Result.UNKNOWN, r"/proc/kcore does not exist \(a remedy\)"),
        (Known(replace(TEXT, problems=("xfs: no file of it was found", "b: c"))), Result.UNKNOWN, "xfs: .* and 1 more"),
        (Known(replace(TEXT, untold=4)), Result.PASS, "of 4 bytes nobody can tell"),
    ],
)
def test_what_nobody_can_see_of_text_is_not_passed(text: Fact[TextLook], result: Result, told: str) -> None:
    found = audited(grounds(text=text))
    (claim,) = (claim for claim in found.claims if claim.id == "text-unchanged")
    assert claim.result is result
    assert re.search(told, claim.evidence)
    assert found.verdict is Verdict.PASS
    assert not found.changed


@pytest.mark.parametrize("state", [State.SEALED, State.OPEN])
def test_changed_text_is_told_of_any_guest(state: State) -> None:
    text = Known(replace(TEXT, spots=(SPOT,), changed=7, problems=("xfs: no file of it was found",)))
    sealed = state is State.SEALED
    found = audited(
        grounds(status=make_status(state, simulated=False), text=text, **({} if sealed else {"seal": None}))
    )
    (claim,) = (claim for claim in found.claims if claim.id == "text-unchanged")
    assert claim.result is Result.FAIL
    assert "7 places differ" in claim.evidence
    assert "vfs_read+0x5 (kernel, 0xffffffff81000005): 66 90 is cc c3" in claim.evidence
    assert found.reasons[0].id == "audit-text"
    assert found.changed == (Changed("kernel", TEXT_VA + 5, "vfs_read+0x5", "jump label", "6690", "ccc3"),)
    assert found.exit is (Exit.NOT_ENFORCED if sealed else Exit.OPEN)
    assert decode(Audit, json.loads(json.dumps(encode(found)))) == found
