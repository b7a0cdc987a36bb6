# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's permission map, built in user space: against a naive model, and against the simulator."""

from __future__ import annotations

import ctypes
import random
import struct
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mbecguard.host.base import HostErrno, HostRefusedError, Permission, Protection
from mbecguard.host.simulated.eptmodel import EptModel
from mbecguard.host.wire import ENTRIES_PER_PAGE, UNLISTED, Limits, decode, encode
from mbecguard.values.pages import PAGE_SHIFT, PageRange

KVM_HOST = Path(__file__).parents[2] / "kvm-host"
PAGES = 64
ROOM = 512


class Map(ctypes.Structure):
    """`struct mbecg_map` with room for `ROOM` keys."""

    nr: int
    restricted: bool
    sealed: bool
    _fields_ = (
        ("nr", ctypes.c_uint32),
        ("restricted", ctypes.c_bool),
        ("sealed", ctypes.c_bool),
        ("digested", ctypes.c_bool),
        ("digest", ctypes.c_uint8 * 32),
        ("keys", ctypes.c_uint64 * ROOM),
    )


def make(out: Path, target: str, *variables: str) -> None:
    command = ["make", "-s", "-C", str(KVM_HOST / "tests"), f"OUT={out}", *variables, str(out / target)]
    subprocess.run(command, check=True, timeout=60)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    out = tmp_path_factory.mktemp("map")
    make(out, "map.so")
    loaded = ctypes.CDLL(str(out / "map.so"))
    loaded.mbecg_list_check.argtypes = [ctypes.c_char_p, ctypes.c_uint64]
    loaded.mbecg_map_attr.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
    return loaded


def random_request(rng: random.Random) -> list[Protection]:
    return [random_entry(rng) for _ in range(rng.randint(1, 12))]


def random_entry(rng: random.Random) -> Protection:
    start = rng.randrange(PAGES)
    end = rng.randint(start + 1, min(PAGES, start + rng.choice([2, 9, PAGES])))
    return Protection(PageRange(start, end), Permission(rng.randint(1, 15 if rng.random() < 0.1 else 7)))


def apply(library: ctypes.CDLL, old: Map, request: list[Protection]) -> tuple[int, Map]:
    """What the C map answers, and the map that it would publish."""
    new, edit = Map(), ctypes.create_string_buffer(64)  # at least as large as struct mbecg_edit
    library.mbecg_map_edit(edit, ctypes.byref(old), ctypes.byref(new), ROOM)
    flat = [
        field
        for entry in request
        for field in (entry.pages.start << PAGE_SHIFT, entry.pages.end << PAGE_SHIFT, int(entry.permissions))
    ]
    ranges = (ctypes.c_uint64 * len(flat))(*flat)
    result: int = library.mbecg_map_apply(edit, ranges, len(request))
    library.mbecg_map_finish(edit)
    return result, new


def errno_of(call: Callable[[], object]) -> int:
    """0, or the negative error number with which the simulator refuses."""
    try:
        call()
    except HostRefusedError as error:
        return -error.errno
    return 0


def test_agrees_with_the_simulator(library: ctypes.CDLL) -> None:
    rng = random.Random(14)
    refused = 0
    for _ in range(60):
        model, published = EptModel(Limits(max_pfn=PAGES)), Map()
        for _ in range(10):
            request = random_request(rng)
            result, new = apply(library, published, request)
            assert result == errno_of(partial(model.apply, request))
            published = published if result else new
            refused += bool(result)
            told = [library.mbecg_map_attr(ctypes.byref(published), gfn) for gfn in range(PAGES)]
            assert told == [int(region.permissions) for region in model.regions for _ in range(len(region.pages))]
            assert (published.restricted, published.sealed) == (model.restricted, model.sealed)
    assert 50 < refused < 550
    assert UNLISTED == 7


def test_a_list_page_is_checked_as_the_simulator_checks_it(library: ctypes.CDLL) -> None:
    rng = random.Random(169)
    seen = set()
    for _ in range(4000):
        request = [random_entry(rng) for _ in range(rng.choice([1, 3, ENTRIES_PER_PAGE]))]
        page = bytearray(encode(request, [0x1000])[0])
        if rng.random() < 0.7:
            offset = 16 + 8 * rng.randrange(1 + 3 * len(request))
            value = rng.choice([0, 1, 16, 0xFFF, PAGES << 12, (PAGES << 12) + 0x1000, 1 << 63, 170, 169])
            struct.pack_into("<Q", page, offset, value)
        memory = {0x1000: bytes(page)}
        expected = errno_of(partial(decode, memory.get, 0x1000, Limits(max_pfn=PAGES)))
        assert library.mbecg_list_check(bytes(page), PAGES) == expected
        seen.add(expected)
    assert seen == {0, -HostErrno.INVALID}
