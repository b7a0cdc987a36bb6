# SPDX-License-Identifier: GPL-2.0-or-later
"""`mbecguard-host witness`: what kvm-host tells of each machine, and what becomes of what it cannot have told."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from mbecguard.face import host_cli
from mbecguard.face.look import Look
from mbecguard.face.witness_text import view
from mbecguard.host.base import HostMode, TextMode
from mbecguard.readiness.machines import Guarded
from mbecguard.readiness.source import Source
from mbecguard.values.codec import decode, encode
from mbecguard.values.errors import Exit, UserError
from mbecguard.witness.look import HostWitness, witness
from mbecguard.witness.metrics import metrics
from mbecguard.witness.told import BadStore, Fetch, HeldText, Told, parse
from tests.hostmaker import DEBUG, FIT, LIMIT, SEALED, Host

UUID = "6b4a3f1c-5a0e-4b5e-9d51-0f6a3c1d2e4f"
SHUT = "mode 1\ngeneration 7\npinned 0 0\ngranted 0\nrefused 0\nboundaries 0\nrestricted 0\nsealed 0\nviolations 0\n"


def host(told: str, command: str = f"{FIT} -uuid {UUID}", pid: int = 4711) -> Host:
    made = Host().running(command, pid).having({f"{DEBUG}/{pid}-12/mbecguard": told})
    return made.having({"proc/sys/kernel/hostname": "rack1\n", "etc/machine-id": "ab" * 16 + "\n"})


def look(made: Host, folder: Path, *names: str) -> HostWitness:
    return witness(Source(made.write(folder)), names)


def test_a_sealed_machine(tmp_path: Path) -> None:
    found = look(host(SEALED), tmp_path)
    (seen,) = found.machines
    assert (found.host, found.host_id, seen.name, seen.uuid, seen.state) == (
        *("rack1", "ab" * 16, "web1", UUID),
        Guarded.SEALED,
    )
    boundaries = b"".join(
        (gfn << 4 | p).to_bytes(8, "little") for gfn, p in [(0, 9), (0x1000, 13), (0x1A00, 9), (LIMIT, 0)]
    )
    assert seen.told == Told(
        mode=HostMode.ENFORCE,
        generation=3735928562,
        map_digest=hashlib.sha256(boundaries).hexdigest(),
        kept_pages=0xA00,
        denied_pages=LIMIT - 0xA00,
        sealed_pages=LIMIT,
        pins=("CR0.WP", "CR0.PG", "CR4.SMEP", "CR4.SMAP"),
        denied=18,
        refused=3,
        granted=0,
        last=(Fetch(0, 0x2345678, 0xFFFFFFFFC0401000, 0x10), Fetch(3, 0x2346000, 0xFFFF888002346000, 0x10)),
    )
    assert decode(HostWitness, json.loads(json.dumps(encode(found)))) == found


def test_the_digest_is_that_of_the_labs_script(tmp_path: Path) -> None:
    """An oracle of its own: sed, printf and sha256sum."""
    more = f"range 1a00 1c00 9\nrange 1c00 1d00 7\nrange 1d00 1d01 1\nrange 1d01 {LIMIT:x} 7\n"
    text = SEALED.replace(f"range 1a00 {LIMIT:x} 9\n", more)
    (tmp_path / "mbecguard").write_text(text)
    script = Path(__file__).parents[1] / "lab/host/map-digest"
    made = subprocess.run(["sh", script, tmp_path / "mbecguard"], capture_output=True, text=True, check=True)
    told = parse(text)
    assert told
    assert told.map_digest == made.stdout.strip()


def test_a_machine_that_asked_for_nothing(tmp_path: Path) -> None:
    (seen,) = look(host(SHUT), tmp_path).machines
    assert seen.state is Guarded.OPEN
    assert seen.told
    assert (seen.told.map_digest, seen.told.pins, seen.told.sealed_pages) == (hashlib.sha256(b"").hexdigest(), (), 0)


@pytest.mark.parametrize(
    "text",
    [
        *("", "mode 1\n", SEALED.replace("mode 1", "mode 7"), SEALED.replace("violations 18", "violations -1")),
        SEALED.replace("range 0 1000 9", "range 1000 0 9"),
        SEALED.replace("1000 9", "1000 99"),
        SEALED[: SEALED.index("violations")],
        SEALED.replace("generation 37", "generation \x1b[31m37"),
    ],
)
def test_what_is_not_told_as_a_whole_is_not_told(text: str) -> None:
    assert parse(SEALED)
    assert parse(text) is None


def test_stock_kvm_tells_nothing(tmp_path: Path) -> None:
    made = host(SEALED).lacking(f"{DEBUG}/4711-12/mbecguard").having({f"{DEBUG}/4711-12/exits": "1\n"})
    (seen,) = look(made, tmp_path).machines
    assert (seen.state, seen.told) == (Guarded.OPEN, None)


def test_without_debugfs_there_is_no_witness(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not there"):
        look(Host().lacking("sys/kernel/debug"), tmp_path)


def test_one_machine_of_two(tmp_path: Path) -> None:
    two = host(SEALED).running("kvm -name web2", 4712)
    assert [seen.name for seen in look(two, tmp_path / "two").machines] == ["web1", "web2"]
    assert [seen.pid for seen in look(two, tmp_path / "one", "web2").machines] == [4712]
    with pytest.raises(UserError, match="no machine web3 runs here"):
        look(two, tmp_path / "none", "web3")


@pytest.mark.parametrize(
    ("words", "uuid"),
    [
        ("", None),
        (f"-uuid {UUID.upper()}", UUID),
        (f"-smbios type=0,vendor=x -smbios type=1,manufacturer=y,uuid={UUID}", UUID),
        (f"-smbios type=3,uuid={UUID}", None),
        ("-uuid 00000000-0000-0000-0000-000000000000", None),
        ("-uuid '<script>'", None),
        ("-uuid", None),
    ],
)
def test_whose_uuid(words: str, uuid: str | None, tmp_path: Path) -> None:
    assert look(host(SEALED, f"{FIT} {words}"), tmp_path).machines[0].uuid == uuid


LINE = re.compile(r'(\w+)(?:\{((?:\w+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\d+)')


def test_metrics(tmp_path: Path) -> None:
    """Each line is a series by Prometheus's grammar, and none comes twice, whatever a machine is called."""
    hostile = """kvm -name 'guest=a"b\\,,c\n# HELP x\x1b[0m'"""
    made = host(SEALED).running(hostile, 1).running(hostile, 2).having({f"{DEBUG}/1-12/mbecguard": SHUT})
    lines = [line for line in metrics(look(made, tmp_path)) if not line.startswith("# ")]
    parsed = [LINE.fullmatch(line) for line in lines]
    assert all(parsed)
    series = {(match[1], match[2]): int(match[3]) for match in parsed if match}
    assert len(series) == len(lines)
    web1 = f'machine="web1",uuid="{UUID}",pid="4711"'
    assert series["mbecguard_host_machine_denied_fetches_total", web1] == 18
    assert series["mbecguard_host_machine_pages", web1 + ',kind="kept"'] == 0xA00
    assert series["mbecguard_host_machine_state", web1 + ',state="sealed"'] == 1
    assert series["mbecguard_host_machine_state", web1 + ',state="open"'] == 0


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = host(SEALED).running("kvm -name 'guest=\x1b[2Jevil\nname'", 9).write(tmp_path / "root")
    assert host_cli.main(["witness", "--root", str(root)]) == Exit.OK
    text = capsys.readouterr().out
    assert "UUID " + UUID in text
    assert "fetches: 18" in text
    assert "rack1: 1 of 2 machines sealed" in text
    assert "\x1b" not in text
    assert "\\x1b[2Jevil\\nname" in text
    assert host_cli.main(["witness", "web1", "--json", "--root", str(root)]) == Exit.OK
    assert json.loads(capsys.readouterr().out)["machines"][0]["told"]["denied"] == 18
    file = tmp_path / "mbecguard.prom"
    before = os.umask(0o077)
    try:
        assert host_cli.main(["witness", "--metrics", "--root", str(root), "-o", str(file)]) == Exit.OK
    finally:
        os.umask(before)
    assert "mbecguard_host_machine_refused_total" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o644  # node_exporter is not root
    assert host_cli.main(["witness", "--root", str(tmp_path / "no")]) == Exit.ERROR


TEXT = """text 1200 1a00 enforce sites 60694 targets 100227 chunks 3
text 42 43 log sites 0 targets 0 chunks 0
text-odd 1
text-int3 20
text-tail 30
text-form 20
text-unlisted 2
text-frozen 1
text-no-int3 0
text-cmpxchg 1
bad-store unlisted gpa 1234567 va ffffc90000000567 rip ffffffffc0401000 bytes 90
bad-store walk gpa 1235000 va 0 rip ffffffff81000000 bytes
"""


def test_text_that_the_host_holds(tmp_path: Path) -> None:
    (seen,) = look(host(SEALED.replace("violations", f"{TEXT}violations", 1)), tmp_path).machines
    assert seen.told
    stores = (
        BadStore("unlisted", 0x1234567, 0xFFFFC90000000567, 0xFFFFFFFFC0401000, "90"),
        BadStore("walk", 0x1235000, 0, 0xFFFFFFFF81000000, ""),
    )
    assert seen.told.text == HeldText(0x801, TextMode.LOG, 70, 4, stores)
    told = parse(SEALED)
    assert told
    assert told.text is None
    enforced = parse(SEALED + TEXT.replace("log sites", "enforce sites"))
    assert enforced
    assert enforced.text
    assert enforced.text.mode is TextMode.ENFORCE
    lines = "\n".join(view(Look(), look(host(SEALED + TEXT), tmp_path / "view")))
    assert "2049 pages held, 70 stores of patches, 4 other stores logged, and done" in lines
    assert "unlisted: 90 to 0xffffc90000000567 in page 0x1234567, by 0xffffffffc0401000" in lines
    assert "walk: an entry of a page table in page 0x1235000" in lines
    numbers = "\n".join(metrics(look(host(SEALED + TEXT), tmp_path / "again")))
    assert re.search(r"^mbecguard_host_machine_bad_stores_total\{.*\} 4$", numbers, re.MULTILINE)
    assert re.search(r"^mbecguard_host_machine_text_pages\{.*\} 2049$", numbers, re.MULTILINE)
