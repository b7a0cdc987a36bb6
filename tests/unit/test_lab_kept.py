# SPDX-License-Identifier: GPL-2.0-or-later
"""The comparison of page tables, plan and host's map: it finds one page that only one of them has."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from tests.corpus.oracle import KERNEL_HALF, START_KERNEL_MAP, walk
from tests.lab.helpers.kept import NOWHERE, Core, address, compare, frames
from tests.plans import make_plan
from tests.walker import NX, P, Tables, U, W

VA, CANARY = 0xFFFFFFFF81000000, 0xFFFFFFFFC0005000
TEXT, MODULE, HIDDEN, MAX = 0x1000, 0x5000, 0x77, 0x10000
TABLES = {VA // 4096 + n: TEXT + n for n in range(512)} | {0xFFFFFFFFC0001: MODULE, CANARY // 4096: HIDDEN}
KEEP = [(TEXT, TEXT + 512), (MODULE, MODULE + 1)]
HOST = "range 0 1000 11 range 1000 1200 15 range 1200 5000 11 range 5000 5001 15 range 5001 10000 11 "
EQUAL = dict.fromkeys(("unplanned", "no-code", "host-more", "host-less"), "0")
SAME = {**EQUAL, "executable": "514", "canary": "executable, denied", "host-map": "whole"}


def plan(keep: list[tuple[int, int]]) -> dict[str, Any]:
    """As the agent's record has it."""
    return make_plan(keep, MAX).to_json()


def test_three_equal_accounts() -> None:
    assert compare(TABLES, plan(KEEP), HOST, CANARY) == SAME


@pytest.mark.parametrize(
    ("tables", "keep", "host", "differences"),
    [
        ({0xFFFFFFFFC0009: 0x9000}, None, HOST, {"executable": "515", "unplanned": "1 0x9000"}),
        ({0xFFFFFFFFC0001: TEXT}, None, HOST, {"executable": "513", "no-code": "1 0x5000"}),
        ({CANARY // 4096: TEXT}, None, HOST, {"executable": "513", "canary": "no witness"}),
        ({}, [(TEXT, 0x1200)], HOST, {"unplanned": "1 0x5000", "host-more": "1 0x5000"}),
        ({}, [(TEXT, 0x1201), (MODULE, 0x5001)], HOST, {"no-code": "1 0x1200", "host-less": "1 0x1200"}),
        ({}, None, HOST.replace("5000 5001 15", "5000 5001 11"), {"host-less": "1 0x5000"}),
        ({}, None, HOST.replace("1200", "1201"), {"host-more": "1 0x1200"}),
        ({}, None, HOST.replace("1200 5000 11", "1200 5000 15"), {"host-more": "15872 0x1200 0x1201 0x1202 0x1203"}),
        ({}, None, HOST.replace("1200 5000 11", "1200 5000 3"), {"host-map": "0x1200 has permissions 3"}),
        ({}, None, HOST.replace("range 0 1000 11 ", ""), {"host-map": "0x0 to 0x1000 is missing"}),
        ({}, None, HOST.replace("10000", "ffff"), {"host-map": "it ends at 0xffff"}),
        ({}, None, "", {"host-map": "it ends at 0x0", "host-less": "513 0x1000 0x1001 0x1002 0x1003"}),
    ],
)
def test_a_planted_difference(
    tables: dict[int, int], keep: list[tuple[int, int]] | None, host: str, differences: dict[str, str]
) -> None:
    assert compare(TABLES | tables, plan(keep or KEEP), host, CANARY) == SAME | differences


def test_a_canary_that_the_host_lets_run() -> None:
    host = HOST.replace("range 0 1000 11", "range 0 77 11 range 77 78 15 range 78 1000 11")
    assert compare(TABLES, plan(KEEP), host, CANARY) == SAME | {"canary": "no witness", "host-more": "1 0x77"}


def test_memory_by_kcore(tmp_path: Path) -> None:
    made = Tables()
    made.map(VA, 0x200000, P, level=2)
    made.map(VA + 0x200000, 0x7000, P | W)
    made.map(VA + 0x201000, 0x8000, P | W | NX)
    made.map(VA + 0x202000, 0x9000, P | U)
    memory = made.memory()
    base, size = 0xFFFF888000000000, max(memory) + 4096
    ram = b"".join(memory.get(pa, bytes(4096)) for pa in range(0, size, 4096))
    rows = [(1, 0xFFFFC90000000000, NOWHERE), (1, base, 0), (1, START_KERNEL_MAP + 0x1000000, 0x400000), (4, base, 0)]
    header = struct.pack("<32xQ14xHH", 64, 56, len(rows)).ljust(64, b"\0")
    table = b"".join(struct.pack("<IIQQQQQQ", kind, 0, 4096, va, pa, size, size, 0) for kind, va, pa in rows)
    (tmp_path / "kcore").write_bytes((header + table).ljust(4096, b"\0") + ram)
    core = Core(str(tmp_path / "kcore"))
    assert core.physical(START_KERNEL_MAP + 0x1001234) == 0x401234
    assert core.read(size, 8) == b""
    found = frames(walk(core, made.root, 4, KERNEL_HALF))
    assert found == {VA // 4096 + n: 0x200 + n for n in range(512)} | {VA // 4096 + 512: 7}


def test_a_symbol_is_found_by_its_whole_name() -> None:
    symbols = "ffffffffc0006000 t mbecg_canary.cold\t[shim]\nffffffffc0005000 T mbecg_canary\t[shim]\n"
    assert address(symbols, "mbecg_canary") == CANARY
    assert address("ffffffff81000000 T _text", "_text") == VA
