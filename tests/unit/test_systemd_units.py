# SPDX-License-Identifier: GPL-2.0-or-later
"""The units and the journal's catalog: they fit the command line, the events and each other, and systemd takes them."""

from __future__ import annotations

import fnmatch
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from mbecguard.face import commands, host_cli
from mbecguard.face.cli import parser
from mbecguard.face.table import COMMANDS
from mbecguard.values.errors import Exit
from mbecguard.values.events import Event

FOLDER = Path(__file__).parents[2] / "systemd"
UNITS = sorted(path for path in FOLDER.iterdir() if path.suffix in (".service", ".timer"))
HOST = "host/mbecguard-host.service"
HOST_METRICS = "host/mbecguard-host-metrics.service"
OF_HOSTS = sorted((FOLDER / "host").iterdir())  #: of another package
LOCKS = ("mbecguard-lock.service", "mbecguard-lock-early.service")
OURS = ("mbecguard-confirm.service", "mbecguard.service", "mbecguard-audit.service", *LOCKS)
#: By seccomp or BPF: a program is loaded, and compiled, when the unit starts.
MAKES_CODE = re.compile(
    "(SystemCall|Restrict|IPAddress|IPIngress|IPEgress|Device|ProtectKernel|ProtectClock|ProtectHostname|LockPersonality"
    "|MemoryDeny|PrivateDevices).*"
)
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(not ANALYZE, reason="this machine has no systemd-analyze")


def directives(name: str) -> dict[str, list[str]]:
    """Every directive of a unit with its words, in all its lines."""
    found: dict[str, list[str]] = {}
    for text in (FOLDER / name).read_text().splitlines():
        if "=" in text and not text.startswith("#"):
            key, _, value = text.partition("=")
            found.setdefault(key, []).extend(shlex.split(value) if key.startswith("Exec") else value.split())
    return found


def test_there_is_what_the_service_consists_of() -> None:
    names = {path.name for path in FOLDER.iterdir()}
    assert {*OURS, "mbecguard-audit.timer", "mbecguard.catalog", "90-mbecguard.preset"} <= names


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_each_command_is_one_of_the_agent(unit: Path) -> None:
    for key, words in directives(unit.name).items():
        if key.startswith("Exec"):
            program, *arguments = words
            if program.lstrip("-") == "/usr/bin/mbecguard":
                command = parser().parse_args(arguments).command
                assert command.stays or callable(getattr(commands, command.name))
            else:
                assert program.lstrip("-") in ("/usr/bin/test", "/bin/sh", "udevadm")


def test_the_host_s_unit_asks_the_host_s_program() -> None:
    """Its status is all that the unit is for; what it reads may not be hidden from it."""
    found = directives(HOST)
    program, *arguments = found["ExecStart"]
    assert program == "/usr/bin/mbecguard-host"
    assert host_cli.parser().parse_args(arguments).configured
    assert not {"PrivateDevices", "ProtectKernelModules", "ProtectProc"} & set(found)


def test_a_host_s_metrics_can_see_its_machines_and_are_written_where_the_unit_may_write() -> None:
    found = directives(HOST_METRICS)
    program, *arguments = found["ExecStart"]
    assert program == "/usr/bin/mbecguard-host"
    options = host_cli.parser().parse_args(arguments)
    assert options.metrics
    assert f"-{options.output.parent}" in found["ReadWritePaths"]
    assert found["ConditionPathIsDirectory"] == [str(options.output.parent)]
    assert not {"ProtectProc", "ProcSubset", "PrivateUsers", "User", "DynamicUser"} & set(found)


@pytest.mark.parametrize("name", OURS)
def test_a_container_and_a_guest_that_is_switched_off_are_skipped(name: str) -> None:
    found = directives(name)
    assert found["ConditionVirtualization"] == ["vm"]
    assert found["ConditionKernelCommandLine"] == ["!mbecguard=off"]
    assert not [key for key in found if key.startswith("Assert")]


@pytest.mark.parametrize("unit", [*UNITS, *OF_HOSTS], ids=lambda path: path.name)
def test_units_of_ours_that_are_named_exist(unit: Path) -> None:
    found = directives(str(unit.relative_to(FOLDER)))
    named = {word for words in found.values() for word in words if word.startswith("mbecguard")}
    assert {word for word in named if word.endswith((".service", ".timer"))} <= {path.name for path in UNITS}
    if unit.suffix == ".timer":
        assert unit.with_suffix(".service").exists()


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_is_made_so_that_it_can_work(name: str) -> None:
    found = directives(name)
    assert not [key for key in found if MAKES_CODE.fullmatch(key)]
    assert {"CAP_SYS_ADMIN", "CAP_SYSLOG", "CAP_SYS_MODULE", "CAP_SYS_RAWIO"} <= set(found["CapabilityBoundingSet"])
    assert not {"ReadOnlyPaths", "InaccessiblePaths", "PrivateNetwork", "PrivateUsers", "ProcSubset"} & found.keys()
    assert found["Type"] == ["oneshot"]
    assert found["RemainAfterExit"] == ["yes"]
    assert found["StateDirectory"] == ["mbecguard"]
    assert found["ExecStop"] == ["-/usr/bin/mbecguard", "boot", "--leave"]
    assert found["Wants"].count("mbecguard-confirm.service") == 1
    assert {"boot-complete.target", "mbecguard-confirm.service"} <= set(found["Before"])


def test_the_late_lock_comes_before_any_login_and_the_early_one_before_any_service() -> None:
    assert {"systemd-user-sessions.service", "getty-pre.target"} <= set(directives(LOCKS[0])["Before"])
    assert "sysinit.target" in directives(LOCKS[1])["Before"]
    assert directives(LOCKS[1])["DefaultDependencies"] == ["no"]
    assert directives(LOCKS[0])["WantedBy"] == ["multi-user.target"]
    assert directives(LOCKS[1])["WantedBy"] == ["sysinit.target"]


def test_a_boot_is_confirmed_when_all_of_it_was_started_and_its_health_checks_passed() -> None:
    found = directives("mbecguard-confirm.service")
    assert found["Requires"] == ["boot-complete.target"]
    assert {"boot-complete.target", "multi-user.target", "graphical.target"} <= set(found["After"])
    assert "RemainAfterExit" not in found
    assert "WantedBy" not in found


def test_the_daemon_speaks_what_its_unit_expects() -> None:
    found = directives("mbecguard.service")
    assert found["Type"] == ["notify"]
    assert found["Restart"] == ["on-failure"]
    assert set(LOCKS) <= set(found["After"])
    assert "-HUP" in found["ExecReload"][-1]


def test_drift_fails_the_audit_and_an_open_guest_does_not() -> None:
    silent = {Exit(int(status)) for status in directives("mbecguard-audit.service")["SuccessExitStatus"]}
    assert silent == {Exit.OPEN, Exit.AUDIT_MODE}


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_in_audit_mode_is_no_failure_and_every_other_is(name: str) -> None:
    assert directives(name)["SuccessExitStatus"] == [str(int(Exit.AUDIT_MODE))]


def test_the_audit_sees_what_the_lock_saw() -> None:
    found = directives("mbecguard-audit.service")
    assert {"CAP_SYS_ADMIN", "CAP_SYSLOG", "CAP_SYS_RAWIO"} <= set(found["CapabilityBoundingSet"])
    assert not {"ProtectKernelTunables", "ProtectKernelLogs", "ProtectKernelModules", "PrivateDevices"} & found.keys()


def test_watching_is_not_kept_from_what_it_watches() -> None:
    start, mark = directives("mbecguard-learn.service"), directives("mbecguard-learn-mark.service")
    assert not {"ProtectKernelTunables", "PrivateNetwork", "PrivateTmp"} & start.keys()
    assert start["CapabilityBoundingSet"] == []
    assert "-/sys" not in start["ReadOnlyPaths"]
    assert not {"ProtectKernelTunables", "ProtectKernelLogs"} & mark.keys()
    assert mark["CapabilityBoundingSet"] == ["CAP_SYSLOG"]
    assert mark["StateDirectory"] == ["mbecguard"]


def test_a_health_check_may_do_what_a_look_at_a_machine_takes() -> None:
    found = directives("mbecguard-confirm.service")
    assert not {
        "NoNewPrivileges",
        "RestrictNamespaces",
        "DevicePolicy",
        "PrivateDevices",
        "MemoryDenyWriteExecute",
    } & set(found)
    assert not {"PrivateTmp", "PrivateNetwork", "IPAddressDeny", "ProtectKernelModules", "ProtectClock"} & set(found)
    assert found["ProtectSystem"] == ["full"]
    assert "~CAP_SYS_MODULE" in found["CapabilityBoundingSet"]
    assert not {"CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_SETUID", "CAP_SYSLOG"} & set(found["CapabilityBoundingSet"])


def test_the_preset_names_every_unit_and_enables_none() -> None:
    rules = [text.split() for text in (FOLDER / "90-mbecguard.preset").read_text().splitlines() if text[:1] != "#"]
    assert {verb for verb, _ in rules} == {"disable"}
    for path in UNITS:
        assert any(fnmatch.fnmatch(path.name, pattern) for _, pattern in rules)


def entries() -> dict[str, tuple[dict[str, str], str]]:
    """The catalog by MESSAGE_ID: headers and text of each entry (https://systemd.io/CATALOG)."""
    found = {}
    for part in re.split(r"^-- ", (FOLDER / "mbecguard.catalog").read_text(), flags=re.MULTILINE)[1:]:
        head, _, text = part.partition("\n\n")
        id_, *headers = head.splitlines()
        assert id_ not in found
        found[id_] = dict(header.split(": ", 1) for header in headers), text.strip()
    return found


def test_the_catalog_explains_every_event_and_nothing_else() -> None:
    assert set(entries()) == {event.value.message_id for event in Event}


@pytest.mark.parametrize("event", Event)
def test_an_explanation_uses_the_facts_of_its_event(event: Event) -> None:
    headers, text = entries()[event.value.message_id]
    assert headers["Subject"]
    assert headers["Defined-By"] == "mbecguard"
    known = {f"MBECGUARD_{name.upper()}" for name in event.value.facts}
    used = re.findall(r"@(\w+)@", headers["Subject"] + text)
    assert set(used) <= known
    assert text.endswith((".", "`.")) or set(used)
    assert all(len(line) <= 100 for line in text.splitlines())


def test_commands_in_explanations_exist() -> None:
    for _, text in entries().values():
        for command in re.findall(r"`mbecguard ([^`]+)`", text):
            assert parser().parse_args(shlex.split(command)).command in COMMANDS


@pytest.fixture
def installed(tmp_path: Path) -> list[Path]:
    """The units with a program in place of the agent, which need not be installed here."""
    units = [*UNITS, *OF_HOSTS]
    for path in units:
        text = re.sub(r"^Documentation=.*\n", "", path.read_text(), flags=re.MULTILINE)
        (tmp_path / path.name).write_text(re.sub("/usr/bin/mbecguard(-host)?", "/bin/true", text))
    return [tmp_path / path.name for path in units]


@needs_systemd
def test_systemd_takes_the_units(installed: list[Path]) -> None:
    for path in installed:  # one by one: a complaint of another unit of this machine is none of ours
        command = [str(ANALYZE), "verify", "--man=no", "--recursive-errors=no", str(path)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        ours = [text for text in done.stderr.splitlines() if "mbecguard" in text]
        assert (ours, done.returncode) == ([], 0), done.stderr


#: systemd's own figure, 0 to 100: what each unit may reach at most. The comments in the units say what the rest is for.
EXPOSURE = {
    "mbecguard.service": 25,
    "mbecguard-audit.service": 35,
    "mbecguard-metrics.service": 25,
    "mbecguard-learn.service": 25,
    "mbecguard-learn-mark.service": 30,
    "mbecguard-confirm.service": 75,
    "mbecguard-lock.service": 70,
    "mbecguard-lock-early.service": 75,
    "mbecguard-host.service": 35,
    "mbecguard-host-metrics.service": 20,
}


def test_every_service_has_its_limit() -> None:
    assert set(EXPOSURE) == {path.name for path in (*UNITS, *OF_HOSTS) if path.suffix == ".service"}


@needs_systemd
@pytest.mark.parametrize(("name", "limit"), EXPOSURE.items())
def test_a_unit_is_no_more_exposed_than_it_has_to_be(installed: list[Path], name: str, limit: int) -> None:
    path = next(path for path in installed if path.name == name)
    command = [str(ANALYZE), "security", "--no-pager", "--offline=yes", f"--threshold={limit}", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze has no --offline=")
    assert done.returncode == 0, done.stdout[-300:]
