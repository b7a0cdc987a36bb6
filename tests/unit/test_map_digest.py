# SPDX-License-Identifier: GPL-2.0-or-later
"""The digest of the host's map: what it is of, and that a seal which is not ours is found out by it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbecguard.host.base import HostDetails, Permission, Protection
from mbecguard.host.simulated.host import SimulatedHost
from mbecguard.host.simulated.hypervisor import Options
from mbecguard.host.wire import BRACKETS, Limits, Word, ask_details, encode_status, map_digest
from mbecguard.lock.proof import DENIED
from mbecguard.records.record import State
from mbecguard.values.errors import Exit, UserError
from mbecguard.values.pages import PageRange
from tests.lockbench import OPTIONS, Bench, WrappedHost
from tests.plans import CANARY

pytestmark = pytest.mark.usefixtures("fast_disk")
PAGES = 12
EMPTY = hashlib.sha256(b"").hexdigest()

spans = st.tuples(st.integers(0, PAGES - 1), st.integers(1, PAGES)).filter(lambda span: span[0] < span[1])
entries = st.lists(
    st.builds(Protection, spans.map(lambda span: PageRange(*span)), st.integers(1, 15).map(Permission)), max_size=6
)


def page_by_page(request: list[Protection]) -> str:
    """The definition of docs/HOST-ABI.md, one page frame after the other."""
    frames = [7] * (PAGES + 1)
    for entry in request:
        for pfn in range(entry.pages.start, entry.pages.end):
            frames[pfn] = entry.permissions
    told, before = b"", 7
    for pfn, permissions in enumerate(frames):
        if permissions != before:
            told += (pfn * 16 + (0 if permissions == 7 else permissions)).to_bytes(8, "little")
        before = permissions
    return hashlib.sha256(told).hexdigest()


@given(entries)
def test_digest_is_that_of_the_definition(request: list[Protection]) -> None:
    assert map_digest(request) == page_by_page(request)


@given(entries, st.integers(0, 1 << 33))
def test_host_tells_the_digest_of_what_it_was_asked_for(request: list[Protection], generation: int) -> None:
    mutable = [entry._replace(permissions=entry.permissions & Permission(7) or Permission(1)) for entry in request]
    host = SimulatedHost(Options(limits=Limits(max_pfn=PAGES), generation=generation), None)
    assert host.details() == HostDetails(EMPTY, 0, 0, ())
    host.protect(mutable)
    details = host.details()
    assert details
    assert details.map_digest == page_by_page(mutable)


def test_counts_and_pins_are_told(bench: Bench) -> None:
    bench.lock()
    before = bench.host.details()
    assert before
    assert before.pins == ("CR0.WP", "CR0.PG", "CR4.SMEP", "CR4.SMAP", "CR4.UMIP")
    bench.host.run_canary()
    bench.host.pinned()
    after = bench.host.details()
    assert after == before._replace(denied=before.denied + 1, refused=before.refused + 1)
    status = bench.status()
    assert (status.denied, status.refused) == (after.denied, after.refused)


def test_sealed_map_is_the_recorded_one(bench: Bench) -> None:
    record, details = bench.lock(), bench.host.details()
    assert details
    assert record.map_digest == details.map_digest != EMPTY
    assert bench.status().state is State.SEALED


def moved(generation: int) -> SimulatedHost:
    """A machine that knows nothing of the guest, on which root seals the canary by two requests and pins."""
    host = SimulatedHost(replace(OPTIONS, generation=generation - 2), CANARY)
    page = PageRange(CANARY, CANARY + 1)
    host.protect([Protection(page, DENIED)])
    host.protect([Protection(page, DENIED | Permission.IMMUTABLE)])
    host.pin()
    return host


def test_forged_seal_is_found_out(bench: Bench) -> None:
    """Even if the attacker has the luck that the generation comes out as recorded."""
    record = bench.lock()
    forged = moved(record.generation)
    answer = forged.query()
    assert (answer.generation, answer.sealed, forged.pinned()) == (record.generation, True, True)
    status = bench.status(forged)
    assert (status.state, [why.id for why in status.reasons]) == (State.DEGRADED, ["map-differs"])
    other = bench.status(moved(record.generation + 1))
    assert (other.state, [why.id for why in other.reasons]) == (State.DEGRADED, ["map-changed"])


def test_without_the_digest_the_same_forgery_works(bench: Bench) -> None:
    record = bench.lock()

    class FirstVersion(WrappedHost):
        def details(self) -> None:
            return None

    status = bench.status(FirstVersion(moved(record.generation)))
    assert (status.state, [why.id for why in status.reasons]) == (State.SEALED, ["map-unseen"])


def test_host_of_version_1_is_served_and_the_gap_is_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path, options=replace(OPTIONS, abi=1))
    assert bench.lock().state is State.SEALED
    status = bench.status()
    assert (status.state, [why.id for why in status.reasons]) == (State.SEALED, ["map-unseen"])
    assert (status.denied, status.refused) == (None, None)


def test_seal_of_another_map_than_was_asked_for_is_no_seal(bench: Bench) -> None:
    class Other(WrappedHost):
        def details(self) -> HostDetails | None:
            found = self.inner.details()
            return found and found._replace(map_digest=EMPTY)

    failed = bench.fails(Other(bench.host))
    assert failed.status is Exit.NOT_ENFORCED
    assert "not the one that was asked for" in failed.message
    assert bench.status(Other(bench.host)).state is State.DEGRADED


def asked(generations: Iterator[int]) -> HostDetails | None:
    status = SimulatedHost(OPTIONS, CANARY).query()
    return ask_details(lambda word: 5 if word else encode_status(status._replace(generation=next(generations))))


def test_words_are_of_one_moment() -> None:
    details = asked(iter([1, 2, 2, 2]))
    assert details
    assert details.map_digest == "00000005" * 8
    with pytest.raises(UserError, match="changes all the time"):
        asked(iter(range(2 * BRACKETS)))
    assert max(Word) == Word.LAST_BAD
