# SPDX-License-Identifier: GPL-2.0-or-later
"""Text objects: the list of pages, what a host of the simulator makes of it, and the digest of all that was given."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbecguard.host.base import HostErrno, HostRefusedError, Outcome, Permission, Protection, TextMode
from mbecguard.host.simulated.host import SimulatedHost
from mbecguard.host.simulated.hypervisor import Options
from mbecguard.host.simulated.textmodel import OBJECTS, PAGES
from mbecguard.host.text import SiteForm, TextObject, TextRun, TextSite, decode, digest_of, encode, fold
from mbecguard.host.wire import Limits
from mbecguard.values.pages import PageRange
from tests.fakeshim import TARGET, FakeShim, host_of

PFNS = 1 << 20
CANARY = 42
SITES = (
    TextSite(0, 0, SiteForm.MCOUNT, 5),
    TextSite(5, 9, SiteForm.JUMP, 2, frozen=True),
    TextSite(8187, 0, SiteForm.CALL, 5),
)
TEXT = TextObject(PageRange(8, 10), SITES, (0, 16, 0xFFFFFFF0), (32, 48), (0xF0000000, 0xF0200000))


def host(text: TextMode = TextMode.ENFORCE) -> SimulatedHost:
    return SimulatedHost(Options(limits=Limits(max_pfn=PFNS), text=text), CANARY)


def refusal(act: Callable[[], object]) -> HostErrno:
    with pytest.raises(HostRefusedError) as caught:
        act()
    return caught.value.errno


@st.composite
def objects(draw: st.DrawFn) -> TextObject:
    pages = draw(st.integers(1, 3))
    sites, at = [], 0
    for gap, form, frozen in draw(
        st.lists(st.tuples(st.integers(0, 90), st.sampled_from(SiteForm), st.booleans()), max_size=400)
    ):
        length = 6 if form is SiteForm.TAIL_JCC else 5
        if at + gap + length > pages * 4096:
            break
        sites.append(TextSite(at + gap, draw(st.integers(0, 2**32 - 1)), form, length, frozen))
        at += gap + length
    number = st.integers(0, 2**32 - 1)
    targets = sorted(draw(st.sets(number, max_size=1100)))
    pairs = draw(st.tuples(st.tuples(number, number), st.tuples(number, number)))
    start = draw(st.integers(0, 2**40 - 4))
    return TextObject(PageRange(start, start + pages), tuple(sites), tuple(targets), *pairs, draw(st.booleans()))


@given(objects())
@settings(max_examples=40, deadline=None)
def test_a_list_comes_back_as_it_was(text: TextObject) -> None:
    pages = encode(text)
    assert all(len(page) == 4096 and page[:24] == bytes(24) for page in pages)
    assert decode(pages) == text


def test_the_layout_is_that_of_the_document() -> None:
    """By hand, from docs/HOST-ABI.md."""
    head, sites, targets = encode(replace(TEXT, logs=True))
    assert struct.unpack_from("<II", head, 24) == (1, 1)
    assert struct.unpack_from("<QQ8I", head, 32) == (
        *(8 << 12, 10 << 12, 3, 3, 32, 48, 1, 0),
        *(0xF0000000, 0xF0200000),
    )
    assert struct.unpack_from("<II", sites, 24) == (2, 3)
    assert struct.unpack_from("<IIHBB", sites, 32 + 12) == (5, 9, 0, 1 << 4 | 2, 1)
    assert struct.unpack_from("<II3I", targets, 24) == (3, 3, 0, 16, 0xFFFFFFF0)


def test_the_layout_of_scattered_text() -> None:
    text = TextObject(PageRange(8, 10), more=(TextRun(PageRange(4, 5), 0x2000), TextRun(PageRange(90, 93), 0x5000)))
    head, runs = encode(text)
    assert struct.unpack_from("<QQ8I", head, 32) == (8 << 12, 10 << 12, *(0, 0, 0, 0, 0, 2, 0, 0))
    assert struct.unpack_from("<II", runs, 24) == (4, 2)
    assert struct.unpack_from("<QQIIQQII", runs, 32) == (0x4000, 0x5000, 0x2000, 0, 90 << 12, 93 << 12, 0x5000, 0)
    assert decode([head, runs]) == text
    assert text.page_count == 6
    across = replace(text, sites=(TextSite(0x1FFC, 0, SiteForm.MCOUNT, 5), TextSite(0x7FFB, 0, SiteForm.MCOUNT, 5)))
    assert decode(encode(across)) == across
    data = TextObject(PageRange(8, 9), data=True)
    assert struct.unpack_from("<I", encode(data)[0], 32 + 32) == (2,)
    assert decode(encode(data)) == data


@pytest.mark.parametrize(
    ("at", "value"), [(0, 1), (8, 0x4000), (16, 0x1000), (16, 0x2001), (16, 0xFFFFF000 - 1 + 0x1000), (20, 1)]
)
def test_runs_that_make_no_sense(at: int, value: int) -> None:
    head, runs = encode(TextObject(PageRange(8, 10), more=(TextRun(PageRange(4, 6), 0x2000),)))
    broken = bytearray(runs)
    struct.pack_into("<I", broken, 32 + at, value % (1 << 32))
    with pytest.raises(ValueError, match=r"run|ascend"):
        decode([head, bytes(broken)])
    with pytest.raises(ValueError, match="counts"):
        decode([head])


def test_records_fill_pages() -> None:
    many = tuple(TextSite(5 * number, 0, SiteForm.MCOUNT, 5) for number in range(339))
    assert len(encode(TextObject(PageRange(0, 1), many[:338]))) == 2
    assert len(encode(TextObject(PageRange(0, 1), many))) == 3
    assert len(encode(TextObject(PageRange(0, 1), (), tuple(range(1016))))) == 2
    assert len(encode(TextObject(PageRange(0, 1), (), tuple(range(1017))))) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"sites": (SITES[1], SITES[0])},
        {"sites": (SITES[0], TextSite(4, 0, SiteForm.MCOUNT, 5))},
        {"sites": (TextSite(8188, 0, SiteForm.MCOUNT, 5),)},
        {"targets": (5, 5)},
        {"targets": (6, 5)},
        {"more": (TextRun(PageRange(20, 21), 0x1000),)},
        {"more": (TextRun(PageRange(20, 21), 0x4000), TextRun(PageRange(30, 31), 0x3000))},
        {"more": (TextRun(PageRange(20, 21), 0x3000),), "sites": (TextSite(0x1FFC, 0, SiteForm.MCOUNT, 5),)},
        {"more": (TextRun(PageRange(20, 21), 0x3000),), "sites": (TextSite(0x2000, 0, SiteForm.MCOUNT, 5),)},
        {"data": True},
    ],
)
def test_what_is_no_text_object(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"overlap|outside|ascend|no patch sites"):
        replace(TEXT, **wrong)  # type: ignore[arg-type]


def test_the_digest_is_that_of_the_document() -> None:
    """Written out: fold(d, x) is SHA-256(d + SHA-256(x))."""

    def sha(data: bytes) -> bytes:
        return hashlib.sha256(data).digest()

    one = bytes(32)
    for page in encode(TEXT):
        one = sha(one + sha(page[24:]))
    assert digest_of([TEXT]) == sha(bytes(32) + sha(one)).hex()
    assert digest_of([]) == bytes(32).hex()
    assert fold(digest_of([TEXT]), TEXT) == digest_of([TEXT, TEXT])


def test_a_host_tells_what_it_was_given() -> None:
    guest = host()
    assert guest.hypervisor.store(8 << 12)
    guest.hand_over(TEXT)
    told = guest.text()
    assert told
    assert (told.digest, told.pages, told.holds, told.bad) == (digest_of([TEXT]), 2, TextMode.ENFORCE, 0)
    assert [guest.hypervisor.store(pa) for pa in (0x7FFF, 0x8000, 0x9FFF, 0xA000)] == [True, False, False, True]
    told = guest.text()
    assert told
    assert (told.bad, told.last_bad, told.patches) == (2, 0x9FFF, 0)
    assert guest.run_patch() is Outcome.RAN
    assert (guest.text() or told).patches == 3


def test_what_a_host_refuses() -> None:
    assert refusal(lambda: host(TextMode.NONE).hand_over(TEXT)) is HostErrno.NOT_SUPPORTED
    guest = host()
    guest.protect([Protection(PageRange(9, 10), Permission.READ)])
    assert refusal(lambda: guest.hand_over(TEXT)) is HostErrno.INVALID
    guest = host()
    guest.hand_over(TEXT)
    assert refusal(lambda: guest.hand_over(TextObject(PageRange(9, 11)))) is HostErrno.PERM
    guest.hand_over(TextObject(PageRange(10, 11)))
    assert refusal(lambda: guest.hand_over(TextObject(PageRange(100, 101 + PAGES)))) is HostErrno.TOO_BIG
    for number in range(OBJECTS - 2):
        guest.hand_over(TextObject(PageRange(100 + number, 101 + number)))
    assert refusal(lambda: guest.hand_over(TextObject(PageRange(90, 91)))) is HostErrno.TOO_BIG
    assert refusal(lambda: host().hand_over(TextObject(PageRange(PFNS, PFNS + 1)))) is HostErrno.INVALID


def test_the_weakest_object_counts() -> None:
    guest = host()
    guest.hand_over(TEXT)
    guest.hand_over(TextObject(PageRange(20, 21), logs=True))
    told = guest.text()
    assert told
    assert told.holds is TextMode.LOG


def test_over_the_shim() -> None:
    """The shim fills in the links, and the host takes the list."""
    fake = FakeShim()
    fake.hypervisor.options = replace(fake.hypervisor.options, text=TextMode.ENFORCE)
    guest = host_of(fake)
    assert (guest.target_pfn, guest.run_store()) == (TARGET, Outcome.RAN)
    texts = [TextObject(PageRange(TARGET, TARGET + 1)), TEXT]
    for text in texts:
        guest.hand_over(text)
    told = guest.text()
    assert told
    assert (told.digest, told.holds, guest.run_store()) == (digest_of(texts), TextMode.ENFORCE, Outcome.DENIED)
    assert refusal(lambda: guest.hand_over(TEXT)) is HostErrno.PERM
    assert guest.foreign() == 0
