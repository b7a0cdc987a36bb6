# SPDX-License-Identifier: GPL-2.0-or-later
"""A fleet: where each guest stands, what stands out among all, and that no file does harm or is dropped in silence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mbecguard.fleet.findings import CATALOGUE
from mbecguard.fleet.judge import judge
from mbecguard.fleet.read import LIMIT, collect
from mbecguard.fleet.value import Fleet, Guest, Standing
from mbecguard.values.codec import decode, encode
from mbecguard.values.errors import Exit, UserError
from mbecguard.values.files import signed
from mbecguard.values.findings import Severity
from mbecguard.witness.agree import Agreement
from tests.fleetmaker import MODULES, NOW, Made, ago, degraded, failing, uuid

#: What a guest of one of our hosts was told.
WITNESS: dict[str, Any] = {
    "mode": "enforce",
    "generation": 7,
    "map_digest": "cd" * 32,
    "denied": 2,
    "refused": 0,
}
NASTY = "<b>x</b>\x1b[31m\n=1+1\u202e"
#: For each finding a fact as only that finding has it.
SEEN: set[str] = set()


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def look(made: Made, *listed: str, stale_after: int = 48) -> Fleet:
    fleet = judge(collect(made.folder), made.folder, listed, NOW, stale_after)
    assert decode(Fleet, json.loads(json.dumps(encode(fleet)))) == fleet
    return fleet


def only(made: Made, *listed: str) -> Guest:
    (guest,) = look(made, *listed).guests
    return guest


def ids(found: Fleet | Guest) -> list[str]:
    return [one.id for one in found.findings]


def test_a_guest_that_is_sealed_and_audited_passes(made: Made) -> None:
    audit = made.put("web1")
    fleet = look(made)
    (guest,) = fleet.guests
    assert (guest.name, guest.standing, guest.findings, guest.audits) == ("web1", Standing.PASS, (), 1)
    assert (fleet.ok, fleet.exit, fleet.files) == (True, Exit.OK, 1)
    assert fleet.totals == {standing.value: int(standing is Standing.PASS) for standing in Standing}
    assert guest.audit
    assert guest.audit.content_digest == audit["locked"]["content_digest"]
    assert guest.audit.subject.vm_uuid == audit["subject"]["vm_uuid"]


@pytest.mark.parametrize(
    ("changes", "standing", "id_"),
    [
        (failing("cr-pinned"), Standing.FAIL, "audit-failed"),
        ({"verdict": "error", "locked": None, "ok": False}, Standing.FAIL, "audit-failed"),
        (degraded(), Standing.DEGRADED, "guest-degraded"),
        ({"verdict": "not_applicable", "state": "open", "locked": None}, Standing.OPEN, "guest-open"),
        ({"simulated": True}, Standing.OPEN, "guest-simulated"),
        ({"time": ago(hours=49)}, Standing.STALE, "audit-stale"),
        ({"time": ago(hours=-1)}, Standing.STALE, "audit-ahead"),
        ({"state": "open"}, Standing.FAIL, "audit-contradicts"),
        ({"ok": False}, Standing.FAIL, "audit-contradicts"),
        ({"new": [{}]}, Standing.FAIL, "audit-contradicts"),
        ({"locked": None}, Standing.FAIL, "audit-contradicts"),
        ({"claims": failing("map-sealed")["claims"]}, Standing.FAIL, "audit-contradicts"),
    ],
)
def test_what_keeps_a_guest_from_passing(made: Made, changes: dict[str, Any], standing: Standing, id_: str) -> None:
    made.put("web1", **changes)
    fleet = look(made)
    (guest,) = fleet.guests
    assert (guest.standing, ids(guest)) == (standing, [id_])
    assert (fleet.exit, fleet.totals[standing]) == (Exit.DRIFT, 1)
    assert "web1" in guest.findings[0].text


def test_the_worst_counts_and_all_is_told(made: Made) -> None:
    made.put("web1", **degraded(), time=ago(days=9))
    assert (only(made).standing, ids(only(made))) == (Standing.DEGRADED, ["audit-stale", "guest-degraded"])


def test_the_edges_of_time(made: Made) -> None:
    made.put("a", time=ago(hours=48))
    made.put("b", time=ago(minutes=-10))
    assert look(made).ok
    assert not look(made, stale_after=47).ok


def test_the_newest_audit_counts_whatever_the_files_are_called(made: Made) -> None:
    made.put("web1", file="z", **failing("cr-pinned"), time=ago(hours=30))
    made.put("web1", file="folder/a", time="2026-03-04T09:00:00+05:00")  # 04:00 UTC
    made.put("web1", file="m", time=ago(hours=2))
    guest = only(made)
    assert (guest.standing, guest.audits) == (Standing.PASS, 3)
    assert guest.audit
    assert guest.audit.file == "folder/a.json"


def test_the_inventory_names_guests_by_whatever_they_are_called(made: Made) -> None:
    for name in ("web1", "web2", "web3"):
        made.put(name)
    listed = ("WEB1", uuid(sum(map(ord, "web2"))).upper(), f"{sum(map(ord, 'web3')):032x}")
    assert look(made, *listed).findings == ()
    fleet = look(made, *listed[:2], "db1", "db1")
    assert [(one.name, one.standing, ids(one)) for one in fleet.guests if one.findings] == [
        ("db1", Standing.NEVER, ["guest-never"]),
        ("web3", Standing.PASS, ["guest-unlisted"]),
    ]
    assert fleet.exit is Exit.DRIFT
    assert fleet.totals["never"] == 1


def test_clones_that_share_a_machine_id_stand_out(made: Made) -> None:
    for name in ("web1", "web2", "web3"):
        made.put(name, subject={"machine_id": "ef" * 16} if name != "web3" else {})
    fleet = look(made)
    assert {one.name: ids(one) for one in fleet.guests} == {
        "web1": ["duplicate-machine-id"],
        "web2": ["duplicate-machine-id"],
        "web3": [],
    }
    (found,) = fleet.findings
    assert (found.facts["count"], found.facts["guests"], found.facts["id"]) == (2, "web1, web2", "ef" * 16)
    assert fleet.totals["fail"] == 2


def test_a_uuid_that_two_guests_claim(made: Made) -> None:
    made.put("web1", subject={"vm_uuid": uuid(7)})
    made.put("web2", subject={"vm_uuid": uuid(7).upper()})
    assert ids(look(made)) == ["duplicate-uuid"]


def test_a_guest_that_was_started_again_is_one_and_two_at_once_are_told(made: Made) -> None:
    made.put("web1", file="1", time=ago(hours=5), boot_id="one")
    made.put("web1", file="2", time=ago(hours=4), boot_id="one")
    made.put("web1", file="3", time=ago(hours=3), boot_id="two")
    assert ids(only(made)) == []
    made.put("web1", file="4", time=ago(hours=2), boot_id="one")
    assert ids(only(made)) == ["two-at-once"]
    assert only(made).standing is Standing.FAIL


def test_a_microvm_without_a_uuid_is_known_by_machine_id_and_name(made: Made) -> None:
    made.put("web1", subject={"vm_uuid": None})
    made.put("web2", subject={"vm_uuid": None})
    assert look(made).findings == ()
    made.put("web2", subject={"vm_uuid": None, "machine_id": f"{sum(map(ord, 'web1')):032x}"})
    assert ids(look(made)) == ["duplicate-machine-id"]


def test_two_guests_without_any_identity_are_not_taken_for_one(made: Made) -> None:
    nobody = {"vm_uuid": None, "machine_id": None, "hostname": None}
    made.put("a", subject=nobody)
    made.put("b", subject=nobody)
    fleet = look(made)
    assert [(one.name, ids(one)) for one in fleet.guests] == [
        ("a.json", ["guest-nameless"]),
        ("b.json", ["guest-nameless"]),
    ]


def test_among_guests_of_one_kernel_the_few_with_other_modules_stand_out(made: Made) -> None:
    for name in ("web1", "web2", "web3"):
        made.put(name)
    made.put("web4", modules=(*MODULES[1:], "rootkit"))
    made.put("other", modules=("own",), subject={"build_id": "cd" * 20})
    fleet = look(made)
    (found,) = fleet.findings
    assert (found.id, found.severity, fleet.exit) == ("modules-differ", Severity.WARNING, Exit.OK)
    assert (found.facts["guest"], found.facts["others"]) == ("web4", 3)
    assert found.facts["difference"] == "only here: rootkit; missing: ext4"


def test_a_module_with_other_code_than_under_that_name_elsewhere_is_a_failure(made: Made) -> None:
    """Whatever else each guest has loaded: here no two have the same modules."""
    for name in ("web1", "web2", "web3"):
        made.put(name, modules=(*MODULES, name))
    made.put("odd", modules=(*MODULES[1:], "odd"), files={"virtio_net": "ef" * 20})
    made.put("other", files={"virtio_net": "ef" * 20}, subject={"build_id": "cd" * 20})
    fleet = look(made)
    assert {one.name for one in fleet.guests if one.standing is Standing.FAIL} == {"odd"}
    (found,) = (one for one in fleet.findings if one.severity is Severity.BLOCKER)
    assert (found.id, found.facts["guest"], found.facts["modules"]) == ("content-differs", "odd", "virtio_net")
    assert fleet.exit is Exit.DRIFT


def test_of_two_guests_with_other_code_nobody_knows_which_is_right(made: Made) -> None:
    made.put("web1")
    made.put("web2", files={"ext4": "ef" * 20})
    assert [(guest.standing, ids(guest)) for guest in look(made).guests] == [(Standing.FAIL, ["content-differs"])] * 2


def test_a_module_whose_build_id_nobody_knows_differs_from_none(made: Made) -> None:
    made.put("web1")
    made.put("web2", files={"ext4": None})
    assert look(made).findings == ()


def test_without_a_majority_nobody_is_called_different(made: Made) -> None:
    made.put("web1")
    made.put("web2", modules=("own",))
    fleet = look(made)
    assert ids(fleet) == ["content-split"]
    assert [ids(guest) for guest in fleet.guests] == [["content-split"]] * 2


def test_fields_that_later_versions_add_change_nothing(made: Made) -> None:
    audit = made.put("web1")
    before = look(made)
    for place in (audit, audit["subject"], audit["witness"], audit["locked"], *audit["claims"]):
        place["new_field"] = {"x": [1]}
    made.write("web1.json", audit)
    assert look(made) == before


def entry(audit: dict[str, Any]) -> bytes:
    """As a guest keeps it, in its state folder."""
    return signed({"number": 1, "previous": "0" * 64, "record": audit, "schema": "mbecguard.entry/1"})


def test_audits_as_a_guest_keeps_them_are_read_and_one_that_was_changed_is_told(made: Made) -> None:
    data = entry(made.put("web1"))
    (made.folder / "web1.json").write_bytes(data)
    assert only(made).standing is Standing.PASS
    (made.folder / "web1.json").write_bytes(data.replace(b'"sealed":"', b'"sealed":"3'))
    assert ids(look(made)) == ["file-unfit", "nothing-collected"]


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not JSON"),
    "text": (b"hello", "not JSON"),
    "binary": (b"\xff\xfe\x00", "not JSON"),
    "list": (b"[]", "list"),
    "deep": (b"[" * 200_000, "nested"),
    "no schema": (b"{}", "schema"),
    "old": (b'{"schema": "mbecguard.audit/1"}', "mbecguard.audit/1"),
    "odd schema": (b'{"schema": ["mbecguard.audit/2"]}', "schema"),
    "nothing in it": (b'{"schema": "mbecguard.audit/2"}', "missing"),
    "large": (b" " * (LIMIT + 1), "larger"),
    "number": (b'{"schema": ' + b"9" * 5000 + b"}", ""),
    "entry of nothing": (entry({}), "schema"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_audit_is_a_finding(made: Made, name: str) -> None:
    made.put("web1")
    data, problem = BAD[name]
    (made.folder / "bad.json").write_bytes(data)
    fleet = look(made)
    (found,) = fleet.findings
    assert (found.id, found.facts["file"], fleet.exit) == ("file-unfit", "bad.json", Exit.DRIFT)
    assert problem in str(found.facts["problem"])
    assert fleet.files == 2
    assert fleet.totals["pass"] == 1


def test_an_audit_that_is_cut_off_anywhere_is_a_finding(made: Made) -> None:
    made.put("web1")
    data = (made.folder / "web1.json").read_bytes()
    for size in range(0, len(data) - 1, 97):
        (made.folder / "web1.json").write_bytes(data[:size])
        assert ids(look(made)) == ["file-unfit", "nothing-collected"]


def spoiled(value: Any) -> list[tuple[list[str | int], Any]]:
    """Each place of a JSON value."""
    found: list[tuple[list[str | int], Any]] = []
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in pairs:
        found.append(([key], part))
        found += [([key, *rest], inner) for rest, inner in spoiled(part)]
    return found


@pytest.mark.parametrize("junk", [None, 7, "x", [], {}, [[]], {"a": 1}, True, -1.5, "9" * 50], ids=str)
def test_whatever_stands_in_any_place_of_an_audit_ends_in_no_traceback(made: Made, junk: Any) -> None:
    """It is read, or it is a finding."""
    audit = made.put("web1")
    for path, _ in spoiled({key: audit[key] for key in audit if key not in ("uncovered", "reasons")}):
        changed = json.loads(json.dumps(audit))
        place = changed
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = junk
        made.write("web1.json", changed)
        fleet = look(made)
        assert fleet.guests or ids(fleet) == ["file-unfit", "nothing-collected"]


def test_what_is_no_file_is_not_opened(made: Made) -> None:
    made.put("web1")
    os.mkfifo(made.folder / "fifo.json")
    (made.folder / "link.json").symlink_to("/dev/zero")
    (made.folder / "gone.json").symlink_to("nowhere")
    (made.folder / "web1.html").touch()
    fleet = look(made)
    assert [found.facts.get("file") for found in fleet.findings if found.severity is Severity.BLOCKER] == [
        "fifo.json",
        "gone.json",
        "link.json",
    ]
    (other,) = (found for found in fleet.findings if found.severity is Severity.INFO)
    assert (other.id, other.facts["count"]) == ("files-ignored", 1)


def test_an_empty_folder_is_no_fleet_that_passes(made: Made) -> None:
    assert ids(look(made)) == ["nothing-collected"]
    with pytest.raises(UserError, match="no folder"):
        collect(made.folder / "nowhere")


def test_names_change_no_terminal_and_no_line(made: Made) -> None:
    made.put("web1", file="x\x1b[2J\udc80", subject={"hostname": NASTY, "vm_uuid": NASTY}, **failing("cr-pinned"))
    fleet = look(made, "a\x1b[1mb")
    told = [guest.name for guest in fleet.guests] + [part for one in fleet.findings for part in (one.text, one.hint)]
    assert all(text.isprintable() for text in told)


def test_hosts_that_agree(made: Made) -> None:
    made.host(
        made.put("web1", witness=WITNESS),
        made.put("db1", subject={"vm_uuid": None}, witness={**WITNESS, "generation": 8}),
    )
    fleet = look(made)
    assert (fleet.ok, fleet.hosts, fleet.files) == (True, 1, 3)
    assert [guest.host and guest.host.agreement for guest in fleet.guests] == [Agreement.AGREES] * 2


def test_without_a_witness_no_host_is_asked(made: Made) -> None:
    made.put("web1")
    assert (only(made).host, look(made).hosts) == (None, 0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"state": "open"}, "is sealed, but vm1 on rack1"),
        ({"map_digest": "00" * 32}, "the map is 0000000000000000"),
        ({"generation": 5}, "generation 5, and not 7"),
        ({"mode": "audit"}, "mode audit"),
    ],
)
def test_a_guest_that_says_what_its_host_does_not(made: Made, changes: dict[str, Any], says: str) -> None:
    made.host(made.put("web1", witness=WITNESS), **changes)
    guest = only(made)
    assert (guest.standing, ids(guest)) == (Standing.FAIL, ["host-differs"])
    assert says in guest.findings[0].text
    assert look(made).exit is Exit.DRIFT


def test_a_guest_that_no_host_knows(made: Made) -> None:
    made.host(made.put("web1", witness=WITNESS))
    made.put("db1", witness=WITNESS)
    assert [(guest.name, ids(guest)) for guest in look(made).guests] == [("db1", ["host-unseen"]), ("web1", [])]


def test_what_one_guest_was_told_and_two_repeat(made: Made) -> None:
    subject = {"vm_uuid": None}
    made.host(made.put("micro1", subject=subject, witness=WITNESS))
    made.put("micro2", subject=subject, witness=WITNESS)
    assert [ids(guest) for guest in look(made).guests] == [["host-twice"]] * 2


def test_an_older_witness_does_not_count(made: Made) -> None:
    audit = made.put("web1", witness=WITNESS)
    made.host(audit, hours=0.5)
    made.host(audit, hours=0.9, state="open")
    assert look(made).ok
    made.host(audit, hours=0.1, state="open")
    assert ids(only(made)) == ["host-differs"]


def test_a_witness_that_is_none(made: Made) -> None:
    made.host(made.put("web1"), name="rack1", state="molten")
    made.host(made.put("db1"), name="rack2", generation="7")
    assert ids(look(made)) == ["file-unfit", "file-unfit"]


def test_every_finding_is_told_somewhere_here() -> None:
    text = Path(__file__).read_text()
    assert not [id_ for id_ in CATALOGUE if f'"{id_}"' not in text and id_ != "file-unreadable"]


def test_a_folder_that_cannot_be_read_is_a_finding(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    made.put("web1")
    made.put("db1")

    def denied(path: Path, _limit: int) -> bytes:
        if path.name == "db1.json":
            raise PermissionError(13, "Permission denied", str(path))
        return path.read_bytes()

    monkeypatch.setattr("mbecguard.fleet.read.read_sent", denied)
    (found,) = look(made).findings
    assert (found.id, found.facts) == ("file-unreadable", {"file": "db1.json", "problem": "Permission denied"})
