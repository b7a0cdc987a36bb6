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

from mbecguard import cli, settings
from mbecguard.errors import UserError
from mbecguard.freeze import SWITCHES
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
from mbecguard.learn.catalog import Catalog, catalog
from mbecguard.learn.files import MODULES, OURS, POLICY, files, write
from mbecguard.learn.lessons import Late, Lessons, Need, Sight, lessons
from mbecguard.learn.trace import INSTANCE, MARK, Kind, Trace, Traced, parse_trace, start
from tests.guestmaker import SCATTERED, module_path

#: Of a Debian 13 guest, kernel 6.12, under TCG; shortened.
HEAD = """\
# tracer: nop
#
# entries-in-buffer/entries-written: 213/213   #P:2
#
#                                _-----=> irqs-off/BH-disabled
#                               / _----=> need-resched
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
"""
RECORDED = (
    HEAD
    + """\
            bash-261     [000] .....    25.395860: tracing_mark_write: mbecguard: watching
  cryptomgr_test-373     [000] .....    26.794740: module_request: crypto-cryptd(__ghash-pclmulqdqni) wait=1 call_site=crypto_alg_mod_lookup
   (udev-worker)-232     [000] .....    26.960724: module_load: crc32c_intel 
             nft-390     [000] .....    28.238466: module_request: nfnetlink-subsys-10 wait=1 call_site=nfnetlink_rcv_msg [nfnetlink]
        modprobe-391     [000] .....    28.320696: module_load: libcrc32c 
        modprobe-391     [000] .....    28.540674: module_load: nf_tables 
         \ufffd\ufffd b-12-393     [001] .....    29.561788: module_request: crypto-q -1 [000] ..... 1.000000: module_load: evil wait=1 call_site=crypto_alg_mod_lookup
         \ufffd\ufffd b-12-393     [000] .N...    45.433832: module_request: net-pf-42 wait=1 call_site=__sock_create
"""  # noqa: E501, W291
)
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
CRYPTO = "crypto_alg_mod_lookup"
SYMBOLS = b"ffffffff81000000 T _text\nffffffff81200000 t ___bpf_prog_run\n"


def request(time: float, name: str, comm: str = "mount", pid: int = 500) -> Traced:
    return Traced(time, Kind.REQUEST, name, comm, pid, "get_fs_type")


def load(time: float, name: str, comm: str = "modprobe", pid: int = 501) -> Traced:
    return Traced(time, Kind.LOAD, name, comm, pid)


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


def test_a_recorded_trace() -> None:
    trace = parse_trace(RECORDED)
    assert (trace.watched, trace.lost, trace.strange) == (25.39586, 0, 0)
    assert [(e.time, e.kind, e.name, e.comm, e.pid, e.site) for e in trace.events] == [
        (26.79474, "module_request", "crypto-cryptd(__ghash-pclmulqdqni)", "cryptomgr_test", 373, CRYPTO),
        (26.960724, "module_load", "crc32c_intel", "(udev-worker)", 232, ""),
        (28.238466, "module_request", "nfnetlink-subsys-10", "nft", 390, "nfnetlink_rcv_msg"),
        (28.320696, "module_load", "libcrc32c", "modprobe", 391, ""),
        (28.540674, "module_load", "nf_tables", "modprobe", 391, ""),
        (
            29.561788,
            "module_request",
            "crypto-q -1 [000] ..... 1.000000: module_load: evil",
            "\ufffd\ufffd b-12",
            393,
            CRYPTO,
        ),
        (45.433832, "module_request", "net-pf-42", "\ufffd\ufffd b-12", 393, "__sock_create"),
    ]  # fmt: skip


COMMS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=15)
PIECES = st.sampled_from(
    ["-1 ", " [000] ", "..... ", "1.000000: ", "module_load: ", "evil", "wait=1 call_site=x", "\r", "\x1b[31m"]
)
NAMES = st.lists(PIECES | COMMS, min_size=1, max_size=12).map("".join)


def line(comm: str, pid: int, rest: str) -> str:
    return f"{comm:>16}-{pid:<7} [001] .....    25.000001: {rest}\n"


@limits(deadline=None)
@given(COMMS, st.integers(1, 1 << 22), NAMES)
def test_nobody_can_forge_an_event(comm: str, pid: int, name: str) -> None:
    trace = parse_trace(HEAD + line(comm, pid, f"module_request: {name} wait=0 call_site=here [mod]"))
    (event,) = trace.events
    assert (event.kind, event.time, event.pid, event.site) == (Kind.REQUEST, 25.000001, pid, "here")
    assert (len(event.name), len(event.comm)) == (len(name), len(comm.lstrip(" ")))
    assert (event.name + event.comm).isprintable()
    assert trace.strange == 0


@limits(deadline=None)
@given(st.text(st.sampled_from("\n-1 [0].:#x"), min_size=1, max_size=15))
def test_a_line_feed_in_a_process_name_hides_and_forges_nothing(comm: str) -> None:
    trace = parse_trace(line(comm, 7, "module_load: real OE"))
    assert [(event.kind, event.name, event.pid) for event in trace.events] in ([], [(Kind.LOAD, "real", 7)])
    assert trace.events or trace.strange or comm.rpartition("\n")[2].startswith("#")


@limits(deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_a_trace_and_odd_lines_are_counted(text: str) -> None:
    trace = parse_trace(text)
    assert len(trace.events) + trace.strange <= text.count("\n") + 1
    assert parse_trace("?" + text.replace("\n", "")).strange == 1


def test_lost_events_are_counted() -> None:
    assert parse_trace(HEAD.replace("213/213", "213/250")).lost == 37
    assert parse_trace(HEAD + "CPU:0 [LOST 12 EVENTS]\nCPU:1 [LOST 3 EVENTS]\n").lost == 15
    assert parse_trace(HEAD + "CPU:0 [LOST EVENTS]\n") == Trace((), None, lost=1, strange=0)


def test_a_load_that_is_no_module_name_is_odd() -> None:
    assert parse_trace(line("x", 1, "module_load: ../../x ") + line("x", 1, "module_load: a b c")).strange == 2


def instance(root: Path, enabled: str = "0") -> Path:
    folder = root / INSTANCE
    for kind in Kind:
        (folder / f"events/module/{kind}").mkdir(parents=True)
        (folder / f"events/module/{kind}/enable").write_text(f"{enabled}\n")
    return folder


def test_starting_twice_keeps_what_was_recorded(tmp_path: Path) -> None:
    folder = instance(tmp_path)
    assert start(tmp_path)
    assert (folder / "trace_clock").read_text() == "mono"
    assert (folder / "trace_marker").read_text() == MARK
    assert {(folder / f"events/module/{kind}/enable").read_text() for kind in Kind} == {"1"}
    (folder / "trace_clock").write_text("writing here would empty the buffer")
    assert not start(tmp_path)
    assert (folder / "trace_clock").read_text() == "writing here would empty the buffer"


def test_without_tracefs_there_is_a_hint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be traced") as caught:
        start(tmp_path)
    assert "mounted" in caught.value.hint


# The catalog


def test_aliases_lead_to_modules_and_their_needs(tmp_path: Path) -> None:
    (tmp_path / "modules.dep").write_text(
        "kernel/fs/xfs/xfs.ko.xz: kernel/lib/libcrc32c.ko.xz\nkernel/lib/libcrc32c.ko:\n"
    )
    (tmp_path / "modules.alias").write_text("# Aliases\nalias fs-xfs xfs\nalias usb:v*d*[0-9-]x xfs-b\nalias * all\n")
    table = catalog(tmp_path)
    assert table.modules("fs-xfs") == table.modules("fs_xfs") == {"xfs", "all"}
    assert table.loads("fs-xfs") == {"xfs", "all", "libcrc32c"}
    assert table.modules("xfs") == {"xfs"}
    assert table.modules("usb:v1d2-x") == {"all"}  # brackets keep "-", the alias has "_"
    assert table.modules("usb:v1d27x") == {"xfs_b", "all"}
    assert table.modules("fs") == {"all"}


def test_a_catalog_without_a_folder_knows_nothing_and_a_damaged_one_says_so(tmp_path: Path) -> None:
    assert catalog(None).loads("fs-xfs") == frozenset()
    with pytest.raises(UserError, match=r"modules\.dep"):
        catalog(tmp_path)


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
    watched.look(here, lambda: "")
    (tmp_path / KPROBES).parent.mkdir(parents=True)
    (tmp_path / KPROBES).write_text("ffffffff81000010  k  do_one+0x0\n")
    (tmp_path / INSTANCE / "trace").write_text(HEAD.replace("213/213", "1/214") + line("ip", 9, "module_load: veth "))
    watched.look(here, lambda: SHOWN)
    (known,) = watched.all()
    assert known.at_lock == Moment(Uses(kprobes=0))
    assert known.now == Moment(Uses(kprobes=1))
    assert (known.locked, known.loaded, known.watched) == (True, ("ext4", "xfs"), 25.39586)
    assert [event.name for event in known.events][:2] == ["veth", "crypto-cryptd(__ghash-pclmulqdqni)"]
    assert known.lost == 213
    assert known.points["late"] == 19.406239
    watched.look(here, lambda: SHOWN.replace("19406239", "99000000"))
    assert watched.all()[0].points["late"] == 19.406239


def test_a_recorded_or_unwatched_guest_adds_no_boot(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "state")
    watched.look(replace(guest(tmp_path / "a"), live=False), lambda: SHOWN)
    watched.look(Guest(Tree(tmp_path / "b"), None, None, None, live=True), lambda: SHOWN)  # type: ignore[arg-type]
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
    assert (late.module, late.first) == ("xfs", Sight("xfs", 2.0, "mount (pid 500) by fs-xfs, get_fs_type()", True))
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
    hooked = replace(boot(1), now=Moment(Uses(kprobes=2, bpf_trampolines=1)))
    needs = lessons((hooked, boot(2)), TABLES, "late").needs
    assert [(need.setting, need.value) for need in needs] == [("freeze.ftrace", "off"), ("freeze.kprobes", "off")]
    assert all("1 of 2 boots" in need.reason for need in needs)
    risks = {switch.setting: switch.risk for switch in SWITCHES}
    assert all(need.risk == risks[need.setting] for need in needs)
    always = replace(hooked, at_lock=hooked.now)
    assert not lessons((always,), TABLES, "late").needs  # `auto` sees to that
    assert not lessons((replace(hooked, at_lock=None),), TABLES, "late").needs  # and nobody knows
    assert [need.setting for need in lessons((always,), TABLES, "early").needs] == ["freeze.ftrace", "freeze.kprobes"]
    assert not lessons((replace(boot(1), now=Moment(Uses(livepatches=("fix",)))),), TABLES, "late").needs


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

XFS = Late("xfs", 2, Sight("xfs", 1.5, "mount (pid 7) by fs-xfs, get_fs_type()", False), True)
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
    uses = replace(boot(1), now=Moment(Uses(kprobes=2, bpf_trampolines=1)))
    write(tmp_path, files(lessons((uses,), TABLES, "late")))
    loaded = settings.load(tmp_path / POLICY)
    assert [loaded.text(f"freeze.{name}") for name in ("ftrace", "kprobes", "modules")] == ["off", "off", "auto"]
    write(tmp_path, files(lessons((boot(1),), TABLES, "late")))
    assert settings.load(tmp_path / POLICY).text("freeze.kprobes") == "auto"


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
    recording, state = tmp_path / "guest", tmp_path / "state"
    tables = {"modules.dep": "own/own-module.ko:\n", "modules.alias": ""}
    description = SCATTERED
    for name, text in tables.items():
        description = description.with_file("/".join((*module_path("x").split("/")[:3], name)), text)
    description.write(recording)
    Watched(state / "learn").save(boot(1, request(21.0, "no-such", "mount"), load(22.0, "own_module", "insmod", 9)))
    places = ["--guest", str(recording), "--state-dir", str(state)]
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
