# SPDX-License-Identifier: GPL-2.0-or-later
"""Learning: the kernel's trace as values, what several boots teach, and the files that come of it."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from mbecguard.face import cli
from mbecguard.guest.source import Guest
from mbecguard.guest.tree import Tree
from mbecguard.guest.uses import KPROBES, Uses
from mbecguard.learn.boots import (
    EVENT_LIMIT,
    KEPT_BOOTS,
    Boot,
    Moment,
    Watched,
    lock_points,
    merged,
    waiting,
)
from mbecguard.learn.catalog import Catalog
from mbecguard.learn.files import MODULES, OURS, POLICY, files, write
from mbecguard.learn.lessons import Late, Lessons, Need, Sighting, lessons
from mbecguard.learn.trace import INSTANCE, MARK, Traced, TraceEvent, parse_trace, start
from mbecguard.settings.load import load as load_settings
from mbecguard.switches import SWITCHES
from mbecguard.values.errors import UserError
from mbecguard.values.facts import Known
from mbecguard.values.files import replace_file
from tests.guestmaker import SCATTERED, module_path
from tests.unit.test_learn_trace import COMMS, HEAD, NAMES, RECORDED, line

#: `systemctl show` of the same guest.
SHOWN = """\
Id=systemd-user-sessions.service
InactiveExitTimestampMonotonic=19406239
ActiveEnterTimestampMonotonic=21156788

Id=multi-user.target
InactiveExitTimestampMonotonic=22623818
ActiveEnterTimestampMonotonic=22623818

Id=sysinit.target
InactiveExitTimestampMonotonic=19004640
ActiveEnterTimestampMonotonic=19004640

Id=mbecguard-lock.service
InactiveExitTimestampMonotonic=0
ActiveEnterTimestampMonotonic=0
"""
SYMBOLS = b"ffffffff81000000 T _text\nffffffff81200000 t ___bpf_prog_run\n"


def request(time: float, name: str, comm: str = "mount", pid: int = 500) -> Traced:
    return Traced(time, TraceEvent.REQUEST, name, comm, pid, "get_fs_type")


def load(time: float, name: str, comm: str = "modprobe", pid: int = 501) -> Traced:
    return Traced(time, TraceEvent.LOAD, name, comm, pid)


def boot(number: int = 1, *events: Traced, locked: bool = False, loaded: tuple[str, ...] = ()) -> Boot:
    return Boot(
        boot_id=f"{number:08x}-0000-4000-8000-000000000000",
        release="6.12.0",
        time=f"2026-01-01T00:00:{number:02}+00:00",
        watched=1.0,
        points={"early": 10.0, "late": 20.0},
        locked=locked,
        loaded=loaded,
        events=events,
        lost=0,
        strange=0,
        now=Moment(Uses()),
        at_lock=Moment(Uses()),
    )


TABLES = Catalog(
    needs={"xfs": ("libcrc32c",), "libcrc32c": (), "nf_tables": ("nfnetlink",), "nfnetlink": (), "e1000": (), "sd": ()},
    aliases=(("fs_xfs", "xfs"), ("nfnetlink_subsys_10", "nf_tables"), ("pci:v00008086d0000100[EF]sv*", "e1000")),
)


# The trace


def instance(root: Path, enabled: str = "0") -> Path:
    folder = root / INSTANCE
    for kind in (TraceEvent.LOAD, TraceEvent.REQUEST):
        (folder / f"events/module/{kind}").mkdir(parents=True)
        (folder / f"events/module/{kind}/enable").write_text(f"{enabled}\n")
    return folder


def test_starting_twice_keeps_what_was_recorded(tmp_path: Path) -> None:
    folder = instance(tmp_path)
    assert start(tmp_path)
    assert (folder / "trace_clock").read_text() == "mono"
    assert (folder / "trace_marker").read_text() == MARK
    kinds = (TraceEvent.LOAD, TraceEvent.REQUEST)
    assert {(folder / f"events/module/{kind}/enable").read_text() for kind in kinds} == {"1"}
    (folder / "trace_clock").write_text("writing here would empty the buffer")
    assert not start(tmp_path)
    assert (folder / "trace_clock").read_text() == "writing here would empty the buffer"


def test_without_tracefs_there_is_a_hint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be traced") as caught:
        start(tmp_path)
    assert "mounted" in caught.value.hint


# The catalog


# The boots


def test_lock_points_of_a_boot() -> None:
    assert lock_points(SHOWN) == {"early": 19.00464, "late": 19.406239}
    ran = SHOWN + "ActiveEnterTimestampMonotonic=21000000\n"
    assert lock_points(ran)["late"] == 21.0
    refused = SHOWN.replace(
        "lock.service\nInactiveExitTimestampMonotonic=0", "lock.service\nInactiveExitTimestampMonotonic=18000000"
    )
    assert lock_points(refused)["late"] == 18.0
    assert lock_points("") == lock_points("Id=multi-user.target\nActiveEnterTimestampMonotonic=x\n") == {}


def guest(root: Path, trace: str = RECORDED) -> Guest:
    instance(root)
    (root / "proc/sys/kernel/random").mkdir(parents=True)
    for path, text in {
        f"{INSTANCE}/trace": trace,
        "proc/kallsyms": SYMBOLS.decode(),
        "proc/modules": "xfs 100 0 - Live 0xffffffffc0000000\next4 100 0 - Live 0xffffffffc0001000\n",
        "proc/sys/kernel/modules_disabled": "1\n",
        "proc/sys/kernel/osrelease": "6.12.0\n",
        "proc/sys/kernel/random/boot_id": boot().boot_id + "\n",
    }.items():
        (root / path).write_text(text)
    return Guest(Tree(root), None, None, None, live=True)  # type: ignore[arg-type]


def test_a_look_before_the_lock_is_remembered(tmp_path: Path) -> None:
    here, watched = guest(tmp_path), Watched(tmp_path / "state/learn")
    (tmp_path / KPROBES).parent.mkdir(parents=True)
    watched.look(here, lambda: "", str)
    (tmp_path / KPROBES).write_text("ffffffff81000010  k  do_one+0x0\n")
    (tmp_path / INSTANCE / "trace").write_text(HEAD.replace("213/213", "1/214") + line("ip", 9, "module_load: veth "))
    watched.look(here, lambda: SHOWN, str)
    (known,) = watched.all()
    assert known.at_lock == Moment(Uses(kprobes=Known(0)))
    assert known.now == Moment(Uses(kprobes=Known(1)))
    assert (known.locked, known.loaded, known.watched) == (True, ("ext4", "xfs"), 25.39586)
    assert [event.name for event in known.events][:2] == ["veth", "crypto-cryptd(__ghash-pclmulqdqni)"]
    assert known.lost == 213
    assert known.points["late"] == 19.406239
    watched.look(here, lambda: SHOWN.replace("19406239", "99000000"), str)
    assert watched.all()[0].points["late"] == 19.406239


def test_a_recorded_or_unwatched_guest_adds_no_boot(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "state")
    watched.look(guest(tmp_path / "a")._replace(live=False), lambda: SHOWN, str)
    watched.look(Guest(Tree(tmp_path / "b"), None, None, None, live=True), lambda: SHOWN, str)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no boot was watched"):
        watched.all()


def test_the_older_look_names_the_process_and_events_are_bounded() -> None:
    early = boot(1, load(1.0, "xfs", "modprobe"))
    late = boot(1, load(1.0, "xfs", "<...>"), load(2.0, "sd"))
    assert [event.comm for event in merged(early, late).events] == ["modprobe", "modprobe"]
    many = boot(1, *(request(float(n), "x") for n in range(EVENT_LIMIT + 5)))
    assert (len(merged(many, many).events), merged(many, many).lost) == (EVENT_LIMIT, 5)


def test_only_the_newest_boots_are_kept(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    for number in range(KEPT_BOOTS + 3):
        watched.save(boot(number))
        os.utime(tmp_path / f"{boot(number).boot_id}.json", (number, number))
    watched.save(boot(KEPT_BOOTS + 3))
    kept = [boot(number).boot_id for number in range(4, KEPT_BOOTS + 4)]
    assert [known.boot_id for known in watched.all()] == kept
    assert {path.suffix for path in tmp_path.iterdir()} == {".json"}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": "x"}'])
def test_a_damaged_boot_is_an_error_with_a_hint(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match="damaged") as caught:
        Watched(tmp_path).all()
    assert caught.value.hint


def test_devices_without_a_driver(tmp_path: Path) -> None:
    for name, alias, driver in (("one", "pci:v1", True), ("two", "pci:v2\n", False), ("three", "", False)):
        folder = tmp_path / f"sys/bus/pci/devices/{name}"
        folder.mkdir(parents=True)
        (folder / "modalias").write_text(alias)
        if driver:
            (folder / "driver").mkdir()
            (folder / "driver/bind").touch()
    assert waiting(Tree(tmp_path)) == {"pci:v2": "pci device two"}


# The lessons


def test_only_what_comes_after_the_lock_point_is_late() -> None:
    seen = boot(1, load(9.0, "sd", "(udev-worker)"), load(15.0, "e1000", "(udev-worker)"), load(21.5, "xfs"))
    assert [late.module for late in lessons((seen,), TABLES, "late").late] == ["xfs"]
    assert [late.module for late in lessons((seen,), TABLES, "early").late] == ["e1000", "xfs"]
    unknown = lessons((replace(seen, points={}),), TABLES, "late")
    assert [late.module for late in unknown.late] == ["e1000", "sd", "xfs"]
    assert "unknown" in unknown.remarks[0]


def test_whoever_made_the_kernel_ask_is_named() -> None:
    seen = boot(
        1,
        request(21.0, "fs-xfs", "mount", 77),
        request(21.1, "fs-nothing", "other", 78),
        load(21.2, "libcrc32c"),
        load(21.3, "xfs"),
        load(30.0, "sd", "modprobe", 90),
        load(31.0, "e1000", "(udev-worker)", 91),
    )
    late = {late.module: late.first.asker for late in lessons((seen,), TABLES, "late").late}
    assert late == {
        "libcrc32c": "mount (pid 77) by fs-xfs, get_fs_type()",
        "xfs": "mount (pid 77) by fs-xfs, get_fs_type()",
        "sd": "modprobe (pid 90)",
        "e1000": "(udev-worker) (pid 91)",
    }


def test_boots_are_counted_and_the_earliest_sight_is_told() -> None:
    boots = (boot(1, load(50.0, "xfs"), load(60.0, "xfs")), boot(2, load(25.0, "xfs")), boot(3, load(5.0, "xfs")))
    (late,) = lessons(boots, TABLES, "late").late
    assert (late.boots, late.first.after, late.loadable) == (2, 5.0, True)
    (unknown,) = lessons((boot(1, load(50.0, "own")),), TABLES, "late").late
    assert not unknown.loadable


def test_requests_in_a_locked_guest_are_refused_unless_the_module_is_there() -> None:
    asked = (
        request(15.0, "fs-xfs"),
        request(22.0, "fs-xfs"),
        request(23.0, "nfnetlink-subsys-10"),
        request(24.0, "gone"),
    )
    locked = boot(1, *asked, locked=True, loaded=("nf_tables",))
    (late,) = lessons((locked,), TABLES, "late").late
    assert (late.module, late.first) == ("xfs", Sighting("xfs", 2.0, "mount (pid 500) by fs-xfs, get_fs_type()", True))
    assert not lessons((replace(locked, locked=False),), TABLES, "late").late


def test_a_device_that_came_after_the_lock_wants_its_driver() -> None:
    card = {"pci:v00008086d0000100Esv00": "pci device 0000:00:05.0"}
    plugged = replace(boot(1, locked=True), now=Moment(Uses(), card))
    (late,) = lessons((plugged,), TABLES, "late").late
    assert (late.module, late.first.refused) == ("e1000", True)
    assert "0000:00:05.0" in late.first.asker
    assert not lessons((replace(plugged, at_lock=Moment(Uses(), card)),), TABLES, "late").late
    assert not lessons((replace(plugged, locked=False),), TABLES, "late").late


def test_a_use_that_begins_after_the_lock_needs_its_switch_left_open() -> None:
    hooked = replace(boot(1), now=Moment(Uses(kprobes=Known(2), bpf_trampolines=Known(1))))
    needs = lessons((hooked, boot(2)), TABLES, "late").needs
    assert [(need.setting, need.value) for need in needs] == [("freeze.ftrace", "off"), ("freeze.kprobes", "off")]
    assert all("1 of 2 boots" in need.reason for need in needs)
    risks = {switch.setting: switch.risk for switch in SWITCHES}
    assert all(need.risk == risks[need.setting] for need in needs)
    always = replace(hooked, at_lock=hooked.now)
    assert not lessons((always,), TABLES, "late").needs  # `auto` sees to that
    assert not lessons((replace(hooked, at_lock=None),), TABLES, "late").needs  # and nobody knows
    assert [need.setting for need in lessons((always,), TABLES, "early").needs] == ["freeze.ftrace", "freeze.kprobes"]
    assert not lessons((replace(boot(1), now=Moment(Uses(livepatches=Known(("fix",))))),), TABLES, "late").needs


def test_what_makes_the_lessons_incomplete_is_said() -> None:
    assert lessons((boot(1),), TABLES, "late").remarks == ()
    for change, word in (
        ({"lost": 3}, "3 events were lost"),
        ({"strange": 2}, "2 lines"),
        ({"watched": 20.5}, "from before"),
        ({"at_lock": None}, "mark.service"),
    ):
        (remark,) = lessons((replace(boot(1), **change),), TABLES, "late").remarks
        assert word in remark


# The files

XFS = Late("xfs", 2, Sighting("xfs", 1.5, "mount (pid 7) by fs-xfs, get_fs_type()", False), True)
KPROBE = Need("freeze.kprobes", "off", "2 kprobes: in use", "a crash")


def test_the_files_say_why() -> None:
    own = replace(XFS, module="own", loadable=False)
    made = files(Lessons("late", 3, (own, XFS), (KPROBE,), ("one is missing",)))
    assert [text for text in made[MODULES].splitlines() if not text.startswith("#")] == ["xfs"]
    assert (
        "# loaded 1.5 s after the lock point, 2 of 3 boots: mount (pid 7) by fs-xfs, get_fs_type()\nxfs\n"
        in made[MODULES]
    )
    assert "# own: no module" in made[MODULES]
    assert "# risk: a crash\nkprobes = " in made[POLICY]
    assert all(text.startswith(OURS) and "# Incomplete: one is missing\n" in text for text in made.values())


@limits(deadline=None)
@given(NAMES, COMMS, st.booleans())
def test_whoever_asks_cannot_write_into_the_files(name: str, comm: str, locked: bool) -> None:
    text = line(comm, 7, f"module_request: {name} wait=1 call_site=f") + line("modprobe", 8, "module_load: xfs ")
    events = tuple(replace(event, time=event.time + n) for n, event in enumerate(parse_trace(text).events))
    tables = replace(TABLES, aliases=(("*", "xfs"),))
    made = files(lessons((boot(1, *events, locked=locked),), tables, "late"))
    assert {text for text in made[MODULES].split("\n") if text and not text.startswith("#")} == {"xfs"}
    assert tomllib.loads(made[POLICY]) == {}
    assert all(letter.isprintable() or letter == "\n" for text in made.values() for letter in text)


def test_what_is_loaded_early_by_now_stays_in_the_list() -> None:
    first = files(Lessons("late", 2, (replace(XFS, module="veth"), XFS), (), ()))[MODULES]
    again = files(Lessons("late", 9, (XFS,), (), ("odd",)), first)[MODULES]
    assert [text for text in again.splitlines() if not text.startswith("#")] == ["veth", "xfs"]
    assert "# loaded 1.5 s after the lock point, 2 of 2 boots: mount (pid 7) by fs-xfs, get_fs_type()\nveth\n" in again
    assert files(Lessons("late", 9, (XFS,), (), ("odd",)), again)[MODULES] == again
    assert "veth" not in files(Lessons("late", 9, (), (), ()), "# of another\nveth\n")[MODULES]


def test_the_policy_loads_as_settings(tmp_path: Path) -> None:
    uses = replace(boot(1), now=Moment(Uses(kprobes=Known(2), bpf_trampolines=Known(1))))
    write(tmp_path, files(lessons((uses,), TABLES, "late")))
    loaded = load_settings(tmp_path / POLICY)
    assert [loaded.text(f"freeze.{name}") for name in ("ftrace", "kprobes", "modules")] == ["off", "off", "auto"]
    write(tmp_path, files(lessons((boot(1),), TABLES, "late")))
    assert load_settings(tmp_path / POLICY).text("freeze.kprobes") == "auto"


@pytest.mark.parametrize("foreign", [MODULES, POLICY])
def test_a_file_of_another_is_left_alone_and_so_is_the_other_file(tmp_path: Path, foreign: str) -> None:
    (tmp_path / foreign).parent.mkdir(parents=True)
    (tmp_path / foreign).write_text("loop\n")
    with pytest.raises(UserError, match="was not written by") as caught:
        write(tmp_path, files(Lessons("late", 1, (XFS,), (), ())))
    assert caught.value.hint
    assert [path.read_text() for path in (tmp_path / "etc").rglob("*") if path.is_file()] == ["loop\n"]


# The command


def test_the_command_shows_and_would_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capture, state = tmp_path / "guest", tmp_path / "state"
    tables = {"modules.dep": "own/own-module.ko:\n", "modules.alias": ""}
    description = SCATTERED
    for name, text in tables.items():
        description = description.with_file("/".join((*module_path("x").split("/")[:3], name)), text)
    description.write(capture)
    Watched(state / "learn").save(boot(1, request(21.0, "no-such", "mount"), load(22.0, "own_module", "insmod", 9)))
    places = ["--guest", str(capture), "--state-dir", str(state)]
    assert cli.main(["learn", "show", *places]) == 0
    assert "own_module" in (shown := capsys.readouterr().out)
    assert "insmod (pid 9)" in shown
    assert cli.main(["learn", "show", "--json", *places]) == 0
    (late,) = json.loads(capsys.readouterr().out)["late"]
    assert (late["module"], late["first"]["after"], late["loadable"]) == ("own_module", 2.0, True)
    assert cli.main(["learn", "write", "-n", *places]) == 0
    assert f"--> /{MODULES}" in capsys.readouterr().out
    for refused in ("start", "write"):
        assert cli.main(["learn", refused, *places]) == 1
        assert "hint:" in capsys.readouterr().err


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_what_is_written_obeys_no_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path / "root", {MODULES: OURS, POLICY: OURS})
        replace_file(tmp_path / "kept", b"x")
    finally:
        os.umask(before)
    made = {path: path.stat().st_mode & 0o7777 for path in (tmp_path / "root").rglob("*")}
    assert len(made) == 6
    assert all(mode == (0o755 if path.is_dir() else 0o644) for path, mode in made.items())
    assert (tmp_path / "kept").stat().st_mode & 0o7777 == 0o600
