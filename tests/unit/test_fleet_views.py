# SPDX-License-Identifier: GPL-2.0-or-later
"""A fleet as text, page, table and events: all say the same, and no name in them is anything but text."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from mbecguard.face import cli
from mbecguard.fleet import ocsf
from mbecguard.fleet.judge import judge
from mbecguard.fleet.read import collect
from mbecguard.fleet.table import COLUMNS, table
from mbecguard.fleet.value import Fleet, Standing
from mbecguard.reports.fleet_page import page
from mbecguard.values.codec import encode
from mbecguard.values.errors import Exit
from tests.dossiers import NASTY
from tests.fleetmaker import NOW, Made, ago, failing, looked, mixed
from tests.guestmaker import SCATTERED
from tests.unit.test_page import Seen, valid

py_ocsf = pytest.importorskip("py_ocsf_models.events.findings.compliance_finding", reason="run tools/setup.sh")

EVENT = py_ocsf.ComplianceFinding


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return mixed(tmp_path / "audits")


@pytest.fixture
def fleet(made: Made) -> Fleet:
    return looked(made)


STANDINGS = {
    **dict.fromkeys(("failed", "clone1", "clone2"), "fail"),
    **dict.fromkeys(("db1", "cut"), "never"),
    "lost": "degraded",
    "open": "open",
    "old": "stale",
    "odd": "pass",
    **{f"web{number}": "pass" for number in range(4)},
}


def test_the_table_has_each_guest_and_each_file_that_cannot_be_used(fleet: Fleet) -> None:
    text = table(fleet)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == COLUMNS
    assert {row["guest"]: row["standing"] for row in rows if row["guest"]} == STANDINGS
    assert [(row["file"], row["findings"]) for row in rows if row["standing"] == "unread"] == [
        ("cut.json", "file-unfit")
    ]
    (failed,) = (row for row in rows if row["guest"] == "failed")
    assert (failed["failed"], failed["unknown_ranges"]) == ("cr-pinned no-unknown-code", "3")
    (odd,) = (row for row in rows if row["guest"] == "odd")
    assert odd["findings"] == "modules-differ"


def test_a_spreadsheet_finds_no_formula(made: Made) -> None:
    for number, name in enumerate(("=1+1", "+1", "-1", "@x", 'a,b\n"c')):
        made.put(f"x{number}", subject={"hostname": name})
    rows = list(csv.DictReader(io.StringIO(table(judge(collect(made.folder), made.folder, (), NOW, 48)))))
    names = {row["guest"] for row in rows}
    assert {"'=1+1", "'+1", "'-1", "'@x", 'a,b\\n"c'} <= names
    assert not [cell for row in rows for cell in row.values() if cell[:1] in ("=", "+", "-", "@")]


def test_the_page_is_valid_needs_nothing_and_has_every_guest(fleet: Fleet) -> None:
    text = valid(page(fleet))
    seen = Seen(text)
    assert len(seen.ids) == len(set(seen.ids))
    assert seen.refers <= set(seen.ids)
    assert not seen.tags & {"script", "link", "img", "iframe", "object", "form", "a"}
    assert not [name for name in seen.attributes if name.startswith("on") or name in ("src", "href", "style")]
    for name, standing in STANDINGS.items():
        row = text.partition(f'<th scope="row">{name}</th>')[2].partition("</tr>")[0]
        assert f">{standing}</span>" in row
    assert "NOT PASSED: 8 of 13 guests" in text
    assert text.index("lost") < text.index("web0")
    assert "cut.json" in text


def test_a_page_of_a_fleet_that_passes_and_one_of_nothing(tmp_path: Path) -> None:
    made = Made(tmp_path)
    tmp_path.joinpath("x").mkdir()
    assert "NOT PASSED" in valid(page(judge(collect(made.folder), made.folder, (), NOW, 48)))
    made.put("web1")
    assert "Passed: every guest" in valid(page(judge(collect(made.folder), made.folder, (), NOW, 48)))


def test_names_on_the_page_are_text(made: Made) -> None:
    who = {"hostname": NASTY, "release": NASTY, "machine_id": NASTY, "vm_uuid": NASTY, "build_id": NASTY}
    made.put("nasty", subject=who, modules=(NASTY,), **failing("cr-pinned"))
    made.write(f"{'<b>'}.json", {"schema": NASTY})
    text = valid(page(judge(collect(made.folder), made.folder, ("<i>x",), NOW, 48)))
    assert not Seen(text).tags & {"script", "b", "i"}
    assert text.isascii() or not [c for c in text if ord(c) > 126 and c not in "–\ufffd"]


def events(fleet: Fleet) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ocsf.events(fleet).splitlines()]


def test_events_are_what_the_schema_s_models_take(fleet: Fleet) -> None:
    """What ocsf-schema requires: `compliance` of the class, `finding_info`, `metadata` and more of its bases."""
    for event in events(fleet):
        taken = EVENT.model_validate(event, strict=False)
        assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"] == taken.type_uid.value
        assert (event["class_uid"], event["category_uid"]) == (int(taken.class_uid), int(taken.category_uid))
        assert taken.severity_id.name == event["severity"]
        assert taken.activity_id.name == event["activity_name"]
        assert taken.compliance.status_id.name == event["compliance"]["status"]
        assert event["compliance"]["standards"]
        assert {"uid", "title"} <= event["finding_info"].keys()
        assert {"name", "vendor_name", "version"} <= event["metadata"]["product"].keys()


def test_each_guest_is_an_event_and_so_is_a_file_that_cannot_be_used(fleet: Fleet) -> None:
    found = events(fleet)
    guests = {event["resources"][0]["name"]: event for event in found if "resources" in event}
    assert guests.keys() == STANDINGS.keys()
    status = {"pass": "Pass", "stale": "Warning", "never": "Warning"}
    assert {name: event["compliance"]["status"] for name, event in guests.items()} == {
        name: status.get(standing, "Fail") for name, standing in STANDINGS.items()
    }
    (other,) = (event for event in found if "resources" not in event)
    assert other["finding_info"]["types"] == ["file-unfit"]
    assert "cut.json" in other["message"]
    assert len({event["finding_info"]["uid"] for event in found}) == len(found)
    web = guests["web1"]
    assert web["time"] == int(datetime.fromisoformat(ago(hours=1)).timestamp()) * 1000
    assert "cr-pinned" in guests["failed"]["finding_info"]["desc"]


@pytest.mark.parametrize("form", ["text", "json", "html", "csv", "ocsf"])
def test_the_command_shows_it_in_each_form(
    tmp_path: Path, made: Made, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    listed = tmp_path / "guests"
    listed.write_text("# all\nweb1  # the first\n\nnobody\n")
    words = ["fleet", str(made.folder), "--inventory", str(listed), "--format", form]
    assert cli.main(words) == Exit.DRIFT
    out, err = capsys.readouterr()
    assert (err, "nobody" in out, "lost" in out, "cut.json" in out) == ("", True, True, True)
    assert cli.main([*words, "-o", str(tmp_path / "out")]) == Exit.DRIFT
    assert (tmp_path / "out").stat().st_size > len(out) * 0.9


def test_json_is_the_value_and_text_ends_with_the_verdict(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fleet", str(made.folder), "--json", "--stale-after", "99999999"]) == Exit.DRIFT
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["stale_after"]) == ("mbecguard.fleet/1", 99999999)
    assert found["totals"] == {"degraded": 1, "fail": 3, "open": 1, "never": 0, "stale": 0, "pass": 6}
    assert found.keys() == encode(Fleet("", 1, 1, {}, (), ())).keys()
    assert cli.main(["fleet", str(made.folder), "--stale-after", "99999999"]) == Exit.DRIFT
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("DEGRADED  lost")
    assert told[-2].startswith("11 guests, 12 files: 1 degraded, 3 fail")
    assert told[-1].startswith("this fleet does NOT pass: ")
    assert {standing.value for standing in Standing} == found["totals"].keys()


def test_a_fleet_that_passes_ends_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Made(tmp_path).put("web1")
    assert cli.main(["fleet", str(tmp_path), "--stale-after", "99999999"]) == Exit.OK
    assert "this fleet passes" in capsys.readouterr().out


@pytest.mark.parametrize("listed", [None, "", "# nobody\n"])
def test_an_inventory_that_names_nobody_is_a_mistake(
    tmp_path: Path, made: Made, capsys: pytest.CaptureFixture[str], listed: str | None
) -> None:
    if listed is not None:
        (tmp_path / "guests").write_text(listed)
    assert cli.main(["fleet", str(made.folder), "--inventory", str(tmp_path / "guests")]) == Exit.ERROR
    assert "hint: " in capsys.readouterr().err


def test_what_the_agent_writes_and_what_it_keeps_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both are the same audit, of a guest that locked itself on the simulator: that is all there is to say of it."""
    where = ["--guest", str(SCATTERED.write(tmp_path / "guest")), "--state-dir", str(tmp_path / "state")]
    (tmp_path / "sent").mkdir()
    assert cli.main(["lock", *where]) == Exit.OK
    assert cli.main(["audit", "--json", "-o", str(tmp_path / "sent/a.json"), *where]) == Exit.OK
    for folder in ("sent", "state/simulated/audits/records"):
        capsys.readouterr()
        assert cli.main(["fleet", "--json", str(tmp_path / folder)]) == Exit.DRIFT
        found = json.loads(capsys.readouterr().out)
        (guest,) = found["guests"]
        assert [one["id"] for one in found["findings"] if one["severity"] == "blocker"] == ["guest-simulated"]
        assert (
            guest["audit"]["content_digest"]
            == json.loads((tmp_path / "sent/a.json").read_text())["locked"]["content_digest"]
        )


def test_a_guest_that_looks_at_no_fleet_imports_nothing_of_it() -> None:
    code = "import sys, mbecguard.face.run; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    rooms = {name.split(".")[1] for name in told.split() if name.startswith("mbecguard.")}
    assert "session" in rooms
    assert not rooms & {"fleet", "witness", "reports", "readiness"}
