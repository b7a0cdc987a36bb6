# SPDX-License-Identifier: GPL-2.0-or-later
"""The schemas say what the dataclasses are, and what every command writes is as they say."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from mbecguard.audit.report import Report
from mbecguard.audit.value import Audit
from mbecguard.face import cli, host_cli
from mbecguard.face.output import Output
from mbecguard.face.table import COMMANDS
from mbecguard.guest.uses import Uses
from mbecguard.guest.warm import Warmed, WarmKernel
from mbecguard.learn.boots import Boot, Moment, Watched
from mbecguard.learn.learner import Started
from mbecguard.learn.trace import Traced, TraceEvent
from mbecguard.plan.value import Plan
from mbecguard.records.record import Record
from mbecguard.records.status import Status
from mbecguard.values.codec import decode, defaults
from mbecguard.values.facts import Known
from tests.fleetmaker import Made, failing
from tests.guestmaker import MODULE_ZONE, SCATTERED, Code, Description, module_path
from tests.hostmaker import DEBUG, SEALED, Host
from tools import schemas

jsonschema = pytest.importorskip("jsonschema", reason="run tools/setup.sh")

HOST, WITNESS = "mbecguard.host-check/1", "mbecguard.witness/1"
JSON_MD = (schemas.FOLDER.parent / "JSON.md").read_text()
FILES = {path.name: path.read_text() for path in schemas.FOLDER.iterdir()}


def test_the_files_are_those_of_the_dataclasses() -> None:
    assert schemas.texts() == FILES, "run `make schemas`"


def test_the_document_lists_each_with_its_commands() -> None:
    rows = re.findall(r"^\| \[`(\S+)`\]\(schema/(\S+)\) \| (.+) \|$", JSON_MD, re.MULTILINE)
    assert rows == [(schemas.name_of(a), schemas.file_of(a), commands) for a, commands in schemas.ANSWERS.items()]


def test_each_command_that_answers_is_listed() -> None:
    named = {words.split()[0] for commands in schemas.ANSWERS.values() for words in commands.split(", ")}
    assert named - {"every", "mbecguard-host"} == {command.name for command in COMMANDS} - {"daemon", "help", "metrics"}


@pytest.mark.parametrize("name", FILES)
def test_each_is_a_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(FILES[name]))


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """As strict as can be: nothing is written that the schema does not describe."""
    strict = copy.deepcopy(schema)
    for part in (strict, *strict["$defs"].values()):
        if "properties" in part:
            part["additionalProperties"] = False
    return strict


VALIDATORS = {
    schema["title"]: jsonschema.Draft202012Validator(closed(schema)) for schema in map(json.loads, FILES.values())
}


@dataclass
class Shell:
    """Runs commands with JSON, and checks all that comes."""

    folder: Path
    capture: pytest.CaptureFixture[str]
    seen: set[str]

    def run(self, command: str, *options: str) -> Any:
        """The answer of a command, which its schema describes."""
        places = ["--guest", self.folder / "guest", "--state-dir", self.folder / "state", "--json", *options]
        cli.main([*command.split(), *map(str, places)])
        answer = json.loads(self.capture.readouterr().out)
        VALIDATORS[answer["schema"]].validate(answer)
        self.seen.add(answer["schema"])
        return answer

    def is_now(self, guest: Description) -> None:
        """Put another guest in its place."""
        guest.write(self.folder / "guest")


def watched() -> Boot:
    """A boot that teaches something: a module came after the lock, and a kprobe was set."""
    return Boot(
        boot_id="00000000-0000-4000-8000-000000000000",
        release="6.12.0",
        time="2026-01-01T00:00:00+00:00",
        watched=1.0,
        points={"late": 20.0},
        locked=False,
        loaded=("xfs",),
        events=(Traced(21.0, TraceEvent.LOAD, "xfs", "modprobe", 7),),
        lost=1,
        strange=0,
        now=Moment(Uses(kprobes=Known(1))),
        at_lock=Moment(Uses()),
    )


TABLES = {"modules.dep": "own/xfs.ko:\n", "modules.alias": ""}
MODULES = Path(*Path(module_path("x")).parts[:3])
GUEST = reduce(lambda guest, name: guest.with_file(str(MODULES / name), TABLES[name]), TABLES, SCATTERED)


def answers(shell: Shell) -> Iterator[Any]:
    """One of everything."""
    yield from (shell.run(words) for words in ("check", "plan", "status", "config", "config --default", "report"))
    yield from (shell.run(words) for words in ("lock --dry-run", "lock", "status", "report", "audit", "boot", "rearm"))
    yield shell.run("boot --confirm")
    Made(shell.folder / "audits").put("web1", **failing("cr-pinned"))
    yield shell.run(f"fleet {shell.folder / 'audits'}")
    yield from (shell.run(f"explain {what}") for what in ("_text", "probe", "pfn:0x1", "ffffc90000123000", "nobody"))
    yield shell.run(f"capture {shell.folder / 'copy'}")
    Watched(shell.folder / "state/learn").save(watched())
    yield from (shell.run(words) for words in ("learn show", "learn write --dry-run", "learn start"))
    shell.is_now(GUEST.with_code(Code(MODULE_ZONE + 0x900000, 0x20000000)))
    yield from (shell.run(words) for words in ("audit", "plan", "check", "plan --deny-unexplained", "stats"))
    yield shell.run("status", "--set", "simulator.mode=off")


def test_every_answer_is_as_its_schema_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(tmp_path, capsys, set())
    (tmp_path / "state").mkdir()
    shell.is_now(GUEST)
    given = list(answers(shell))
    of_running = [Started(fresh=True), Warmed((WarmKernel("6.12", "ab" * 20, 3),), ("cd" * 20,))]
    for answer_of_running in of_running:
        Output(json=True).show(answer_of_running, [])
        shown = json.loads(capsys.readouterr().out)
        VALIDATORS[shown["schema"]].validate(shown)
        shell.seen.add(shown["schema"])
    assert shell.seen | {HOST, WITNESS} == VALIDATORS.keys()
    for number, answer in enumerate(given):
        for key in answer:
            assert list(VALIDATORS[answer["schema"]].iter_errors({k: v for k, v in answer.items() if k != key})), number


@pytest.mark.parametrize("host", [Host(), Host({})], ids=["all is known", "nothing is"])
def test_the_answer_of_a_host(tmp_path: Path, capsys: pytest.CaptureFixture[str], host: Host) -> None:
    root = host.running("qemu-system-x86_64 -accel kvm -cpu host").write(tmp_path)
    host_cli.main(["check", "--root", str(root), "--json"])
    answer = json.loads(capsys.readouterr().out)
    VALIDATORS[HOST].validate(answer)
    assert answer["machines"][0]["findings"]
    for key in answer:
        assert list(VALIDATORS[HOST].iter_errors({k: v for k, v in answer.items() if k != key}))


@pytest.mark.parametrize("told", [SEALED, "nothing"])
def test_what_a_host_saw(tmp_path: Path, capsys: pytest.CaptureFixture[str], told: str) -> None:
    root = Host().running("kvm -name web1").having({f"{DEBUG}/4711-12/mbecguard": told}).write(tmp_path)
    host_cli.main(["witness", "--root", str(root), "--json"])
    answer = json.loads(capsys.readouterr().out)
    VALIDATORS[WITNESS].validate(answer)
    assert (answer["machines"][0]["told"] is None) == (told == "nothing")


def test_a_number_in_place_of_an_address_is_no_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(tmp_path, capsys, set())
    shell.is_now(SCATTERED)
    plan = shell.run("plan")
    for wrong in (4096, "4096", "0x", "0x01", "0XA", "-0x1", None):
        changed = {**plan, "kernel": {**plan["kernel"], "text_va": wrong}}
        assert not VALIDATORS[plan["schema"]].is_valid(changed)


def test_they_are_installed(tmp_path: Path) -> None:
    root = schemas.FOLDER.parents[1]
    line = next(text for text in (root / "packaging/install.sh").read_text().splitlines() if "docs/schema" in text)
    script = 'root=$1; put() { mode=$1 folder=$2; shift 2; install -D -p -m "$mode" -t "$root$folder" "$@"; }; ' + line
    subprocess.run(["sh", "-euc", script, "sh", str(tmp_path)], cwd=root, check=True)
    assert {path.name for path in (tmp_path / "usr/share/mbecguard/schema").iterdir()} == FILES.keys()


#: As they were when a number was first given, before fields were added.
EARLIER = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parents[1] / "old").glob("*.json")}


@pytest.mark.parametrize(("command", "name"), [("audit", "audit-2"), ("report", "report-1")])
def test_what_reads_an_earlier_shape_of_a_number_can_read_todays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, name: str
) -> None:
    GUEST.write(tmp_path / "guest")
    shell = Shell(tmp_path, capsys, set())
    shell.run("lock")
    shell.run("audit")
    answer = shell.run(command)
    assert EARLIER[name] != json.loads(FILES[f"{name}.json"])
    reader = jsonschema.Draft202012Validator(EARLIER[name])
    reader.validate(answer)
    del answer["plan_digest" if command == "audit" else "record"]
    assert not reader.is_valid(answer)


@pytest.mark.parametrize("kind", [Audit, Report, Record, Plan, Status])
def test_another_number_is_named_whatever_else_is_different(kind: Any) -> None:
    """An older agent's files have other fields as well; what matters is said first."""
    ours = str(defaults(kind)["schema"])
    other = f"{ours.rpartition('/')[0]}/77"
    with pytest.raises(ValueError, match=f"^{kind.__name__}: schema '{other}' is not '{ours}'$"):
        decode(kind, {"schema": other, "strange": 1})
    with pytest.raises(ValueError, match="wrong keys"):
        decode(kind, {"schema": ours, "strange": 1})
