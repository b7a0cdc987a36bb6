# SPDX-License-Identifier: GPL-2.0-or-later
"""Page lists and the query answer: golden bytes by hand, round trips, hostile lists."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbecguard.host import wire
from mbecguard.host.base import HostErrno, HostMode, HostRefusedError, HostStatus, Permission, Protection
from mbecguard.host.wire import Limits
from mbecguard.values.errors import Exit
from mbecguard.values.pages import ADDRESS_SPACE_PAGES, PageRange

R, W, X, IMM = Permission.READ, Permission.WRITE, Permission.EXEC, Permission.IMMUTABLE
LIMITS = Limits(max_pfn=0x1000)
LIST = 0x10000
ENTRY = (0x1000, 0x2000, 4)


def page(*entries: tuple[int, int, int], next_pa: int = 0, count: int | None = None, link: int = 0) -> bytes:
    """A list page made without the code under test."""
    body = b"".join(struct.pack("<3Q", *entry) for entry in entries)
    head = struct.pack("<3Q", link, next_pa, len(entries) if count is None else count)
    return (head + body)[:4096].ljust(4096, b"\0")


def entries(count: int) -> list[Protection]:
    return [Protection(PageRange(i, i + 1), X) for i in range(count)]


def places(count: int) -> list[int]:
    return [LIST + i * 4096 for i in range(count)]


def errno_of(memory: dict[int, bytes], gpa: int = LIST, limits: Limits = LIMITS) -> HostErrno:
    with pytest.raises(HostRefusedError) as refused:
        wire.decode(memory.get, gpa, limits)
    return refused.value.errno


def test_golden_page() -> None:
    request = [Protection(PageRange(0, 0x1000), R | W), Protection(PageRange(0x10, 0x12), X | IMM)]
    (encoded,) = wire.encode(request, [LIST])
    expected = (
        "0000000000000000" "0000000000000000" "0200000000000000"
        "0000000000000000" "0000000100000000" "0300000000000000"
        "0000010000000000" "0020010000000000" "0c00000000000000"
    )  # fmt: skip
    assert encoded == bytes.fromhex(expected).ljust(4096, b"\0")


def test_pages_are_linked_by_gpa_in_list_order() -> None:
    encoded = wire.encode(entries(340), [0x9000, 0x3000, 0x7000, 0xB000])
    heads = [struct.unpack_from("<3Q", item) for item in encoded]
    assert heads == [(0, 0x3000, 169), (0, 0x7000, 169), (0, 0, 2)]
    assert struct.unpack_from("<3Q", encoded[1], 24) == (169 << 12, 170 << 12, 4)


@pytest.mark.parametrize(("count", "pages"), [(0, 0), (1, 1), (169, 1), (170, 2), (338, 2), (339, 3)])
def test_pages_needed(count: int, pages: int) -> None:
    assert wire.pages_needed(count) == pages
    assert len(wire.encode(entries(count), places(3))) == pages
    if pages:
        with pytest.raises(ValueError, match="need"):
            wire.encode(entries(count), places(pages - 1))


@pytest.mark.parametrize("bad", [[0, 0x1000], [0x1000, 0], [0x1001, 0x2000], [-4096, 0x1000], [0x1000, 0x1000]])
def test_unusable_places_are_refused(bad: list[int]) -> None:
    with pytest.raises(ValueError, match="list pages"):
        wire.encode(entries(170), bad)


@pytest.mark.parametrize(
    "entry",
    [
        Protection(PageRange(5, 5), X),
        Protection(PageRange(5, 6), Permission(0)),
        Protection(PageRange(0, ADDRESS_SPACE_PAGES + 1), X),
    ],
)
def test_entries_that_no_host_accepts_are_not_sent(entry: Protection) -> None:
    with pytest.raises(ValueError, match="no host"):
        wire.encode([entry], [LIST])


PROTECTIONS = st.builds(
    lambda start, length, bits: Protection(PageRange(start, start + length), Permission(bits)),
    st.integers(0, ADDRESS_SPACE_PAGES - 1000),
    st.integers(1, 1000),
    st.integers(1, 15),
)


@given(st.lists(PROTECTIONS, max_size=6), st.sampled_from([1, 25, 57]), st.permutations(range(1, 4)))
def test_round_trip(some: list[Protection], times: int, where: list[int]) -> None:
    request = some * times
    lists_at = [place << 12 for place in where]
    encoded = wire.encode(request, lists_at)
    memory = dict(zip(lists_at, encoded, strict=False))
    start = lists_at[0] if request else 0
    assert wire.decode(memory.get, start, Limits(max_pfn=ADDRESS_SPACE_PAGES)) == request


def test_the_guests_own_link_is_ignored() -> None:
    request = wire.decode({LIST: page(ENTRY, link=0xFFFF888000001000)}.get, LIST, LIMITS)
    assert request == [Protection(PageRange(1, 2), X)]


@pytest.mark.parametrize(
    "entry",
    [
        (0x1001, 0x2000, 4),
        (0x1000, 0x2001, 4),
        (0x1000, 0x1000, 4),
        (0x2000, 0x1000, 4),
        (0x1000, 0x2000, 0),
        (0x1000, 0x2000, 16),
        (0x1000, 0x2000, 4 | 1 << 63),
        (0x0, 0x1001000, 4),
        (0x1000, (1 << 64) - 4096, 4),
    ],
)
@pytest.mark.parametrize("before", [0, 168])
def test_malformed_entries(entry: tuple[int, int, int], before: int) -> None:
    assert errno_of({LIST: page(*[ENTRY] * before, entry)}) is HostErrno.INVALID


def test_the_whole_space_and_its_last_page_are_accepted() -> None:
    request = wire.decode({LIST: page((0, 0x1000000, 3), (0xFFF000, 0x1000000, 15))}.get, LIST, LIMITS)
    assert [item.pages for item in request] == [PageRange(0, 0x1000), PageRange(0xFFF, 0x1000)]


@pytest.mark.parametrize("count", [0, 170, 1 << 63])
def test_impossible_counts(count: int) -> None:
    assert errno_of({LIST: page(*[ENTRY] * 169, count=count)}) is HostErrno.INVALID


def test_169_entries_are_accepted() -> None:
    assert len(wire.decode({LIST: page(*[ENTRY] * 169)}.get, LIST, LIMITS)) == 169


@pytest.mark.parametrize("at", [LIST + 8, LIST + 4095, (1 << 64) - 1])
def test_unaligned_lists(at: int) -> None:
    assert errno_of({}, at) is HostErrno.INVALID
    assert errno_of({LIST: page(ENTRY, next_pa=at)}) is HostErrno.INVALID


def test_unreadable_pages() -> None:
    assert errno_of({}) is HostErrno.FAULT
    assert errno_of({LIST: page(ENTRY, next_pa=0x5000)}) is HostErrno.FAULT
    assert errno_of({LIST: page(ENTRY)[:-1]}) is HostErrno.FAULT


@pytest.mark.parametrize("length", [1, 2])
def test_cycles_end(length: int) -> None:
    memory = {at: page(ENTRY, next_pa=after) for at, after in zip(places(2), [LIST + 4096, LIST], strict=True)}
    if length == 1:
        memory[LIST] = page(ENTRY, next_pa=LIST)
    assert errno_of(memory) is HostErrno.TOO_BIG


@pytest.mark.parametrize("allowed", [1, 4])
def test_length_of_the_list_is_bounded(allowed: int) -> None:
    limits = Limits(max_pfn=0x1000, list_pages=allowed)
    memory = {LIST + i * 4096: page(ENTRY, next_pa=LIST + (i + 1) * 4096) for i in range(allowed + 1)}
    assert errno_of(memory, limits=limits) is HostErrno.TOO_BIG
    memory[LIST + (allowed - 1) * 4096] = page(ENTRY)
    assert len(wire.decode(memory.get, LIST, limits)) == allowed


WORDS = st.one_of(
    st.sampled_from([0, 1, 2, 4, 8, 15, 16, 169, 170, LIST, LIST + 4096, LIST + 1, 1 << 24, (1 << 64) - 4096]),
    st.integers(0, 16).map(lambda n: n << 12),
    st.integers(0, (1 << 64) - 1),
)
PAGES = st.binary(max_size=4200) | st.lists(WORDS, max_size=12).map(
    lambda words: struct.pack(f"<{len(words)}Q", *words).ljust(4096, b"\0")
)


@given(PAGES, PAGES, WORDS)
def test_any_bytes_are_a_list_or_refused(one: bytes, other: bytes, start: int) -> None:
    memory = {LIST: one, LIST + 4096: other}
    for gpa in (LIST, start):
        try:
            request = wire.decode(memory.get, gpa, LIMITS)
        except HostRefusedError:
            continue
        assert all(0 <= p.pages.start < p.pages.end <= 0x1000 and 0 < p.permissions <= 15 for p in request)


@pytest.mark.parametrize("max_pfn", [0, -1, ADDRESS_SPACE_PAGES + 1])
def test_impossible_guest_physical_spaces(max_pfn: int) -> None:
    with pytest.raises(ValueError):
        Limits(max_pfn=max_pfn)


def test_magic_spells_its_name() -> None:
    assert struct.pack("<Q", wire.QUERY_MAGIC) == b"HEKIQERY"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (0x11C, HostStatus(HostMode.ENFORCE, X | IMM, 0, False, False, abi=1)),
        (0x101, HostStatus(HostMode.OFF, R, 0, False, False, abi=1)),
        (0x0000_FFFF_FFFF_01EC, HostStatus(HostMode.AUDIT, X | IMM, 0xFFFFFFFF, True, True, abi=1)),
        (0x0000_0000_0001_015C, HostStatus(HostMode.ENFORCE, X | IMM, 1, True, False, abi=1)),
        (0x0000_8000_0000_019C, HostStatus(HostMode.ENFORCE, X | IMM, 1 << 31, False, True, abi=1)),
        (0, HostStatus(HostMode.UNKNOWN, Permission(0), 0, False, False)),
    ],
)
def test_status_bits(answer: int, status: HostStatus) -> None:
    assert wire.encode_status(status) == answer
    assert wire.decode_status(answer) == status


@given(
    st.builds(
        HostStatus,
        mode=st.sampled_from([HostMode.OFF, HostMode.ENFORCE, HostMode.AUDIT]),
        enforced=st.integers(0, 15).map(Permission),
        generation=st.integers(0, (1 << 34) - 1),
        restricted=st.booleans(),
        sealed=st.booleans(),
        abi=st.none(),
        smm_open=st.just(False),
    )
)
def test_status_comes_back_with_the_generation_wrapped(status: HostStatus) -> None:
    answer = wire.encode_status(status)
    assert 0 < answer < 1 << 48
    back = wire.decode_status(answer)
    assert back.generation == status.generation % (1 << 32)
    assert (back.mode, back.enforced, back.restricted, back.sealed) == (
        status.mode,
        status.enforced,
        status.restricted,
        status.sealed,
    )


@pytest.mark.parametrize("answer", [0x13C, 0x1C, 1, 0x7FFF_0000_0000_0000])
def test_other_modes_and_no_version_are_unknown(answer: int) -> None:
    assert wire.decode_status(answer).mode is HostMode.UNKNOWN
    assert wire.decode_status(answer).enforced == Permission(0)


def test_later_versions_keep_the_bits() -> None:
    assert wire.decode_status(0x7FFF_0000_0000_FF1C).mode is HostMode.ENFORCE


@given(st.integers(0, (1 << 63) - 1))
def test_any_answer_can_be_read(answer: int) -> None:
    assert 0 <= wire.decode_status(answer).generation < 1 << 32


@pytest.mark.parametrize("answer", [-1, -1000, 1 << 63, (1 << 64) - 22])
def test_error_numbers_are_no_answers(answer: int) -> None:
    with pytest.raises(ValueError):
        wire.decode_status(answer)


@pytest.mark.parametrize("errno", list(HostErrno))
def test_negative_results_are_refusals(errno: HostErrno) -> None:
    with pytest.raises(HostRefusedError, match=f"protect: host answered {errno.name}") as refused:
        wire.checked(-errno.value, "protect")
    assert refused.value.errno is errno
    assert refused.value.call == "protect"


@pytest.mark.parametrize("result", [0, 1 << 62])
def test_other_results_pass(result: int) -> None:
    assert wire.checked(result, "query") == result


@pytest.mark.parametrize("errno", HostErrno)
def test_a_refusal_says_what_it_means_and_what_to_do(errno: HostErrno) -> None:
    error = HostRefusedError(errno, "query")
    assert error.message == f"query: host answered {errno.name} ({-int(errno)}): {errno.meaning}"
    assert (error.hint, error.status) == (errno.advice, Exit.REFUSED)
    assert errno.meaning
    assert errno.advice
