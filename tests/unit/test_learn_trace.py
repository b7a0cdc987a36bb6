# SPDX-License-Identifier: GPL-2.0-or-later
"""What a trace of module loads says, whoever wrote it, and what it leads to in the catalog of modules."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from mbecguard.learn.catalog import catalog
from mbecguard.learn.trace import Trace, TraceEvent, parse_trace
from mbecguard.values.errors import UserError

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


CRYPTO = "crypto_alg_mod_lookup"
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
    assert (event.kind, event.time, event.pid, event.site) == (TraceEvent.REQUEST, 25.000001, pid, "here")
    assert (len(event.name), len(event.comm)) == (len(name), len(comm.lstrip(" ")))
    assert (event.name + event.comm).isprintable()
    assert trace.strange == 0


@limits(deadline=None)
@given(st.text(st.sampled_from("\n-1 [0].:#x"), min_size=1, max_size=15))
def test_a_line_feed_in_a_process_name_hides_and_forges_nothing(comm: str) -> None:
    trace = parse_trace(line(comm, 7, "module_load: real OE"))
    assert [(event.kind, event.name, event.pid) for event in trace.events] in ([], [(TraceEvent.LOAD, "real", 7)])
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
