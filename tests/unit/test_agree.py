# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests against what their hosts saw: each lie has its twin that is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mbecguard.host.base import HostMode
from mbecguard.readiness.machines import Guarded
from mbecguard.witness.agree import Agreed, Agreement, Said, agreements
from mbecguard.witness.look import HostWitness, Seen
from mbecguard.witness.told import Told, parse
from tests.hostmaker import SEALED

UUID, OTHER = "6b4a3f1c-5a0e-4b5e-9d51-0f6a3c1d2e4f", "11111111-5a0e-4b5e-9d51-0f6a3c1d2e4f"
BEFORE, AFTER = "2026-11-27T10:00:00+00:00", "2026-11-27T11:00:00+00:00"


def told(**otherwise: Any) -> Told:
    found = parse(SEALED)
    assert found
    return replace(found, **{"generation": found.generation + (5 << 32), **otherwise})


MAP = told().map_digest
GENERATION = told().generation & 0xFFFFFFFF
WEB = Seen(1, "web1", UUID, "qemu", Guarded.SEALED, told())
MICRO = replace(WEB, pid=2, name="micro", uuid=None, told=told(generation=77))
HOST = HostWitness(AFTER, "rack1", "a" * 32, "6.12", (WEB, MICRO))
GUEST = Said("web1", UUID, sealed=True, generation=GENERATION, map_digest=MAP, denied=18, time=BEFORE)
SMALL = replace(GUEST, guest="micro", uuid=None, generation=77)


def ask(*guests: Said, of: tuple[HostWitness, ...] = (HOST,)) -> list[Agreement]:
    found = agreements(guests, of)
    assert all(one.failed == bool(one.action) for one in found)
    return [one.agreement for one in found]


def test_hosts_that_agree() -> None:
    assert ask(GUEST, SMALL) == [Agreement.AGREES, Agreement.AGREES]
    assert ask(replace(GUEST, uuid=UUID.upper())) == [Agreement.AGREES]
    (found,) = agreements([GUEST], [HOST])
    assert found == Agreed(
        Agreement.AGREES,
        f"web1 on rack1 at {AFTER}: sealed, the same map and generation, 18 denied fetches",
        "rack1",
        "web1",
    )


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        (replace(WEB, state=Guarded.OPEN), "open, mode enforce"),
        (replace(WEB, state=Guarded.RESTRICTED), "restricted"),
        (replace(WEB, told=None, state=Guarded.OPEN), "tells nothing of a map"),
        (replace(WEB, told=told(mode=HostMode.AUDIT)), "mode audit"),
        (replace(WEB, told=told(generation=1)), "generation 1, and not"),
        (replace(WEB, told=told(map_digest="00" * 32)), "the map is 0000000000000000, and not"),
        (replace(WEB, told=told(denied=17)), "17 denied fetches, and not 18 or more"),
    ],
)
def test_hosts_that_differ(seen: Seen, says: str) -> None:
    (found,) = agreements([GUEST], [replace(HOST, machines=(seen,))])
    assert found.agreement is Agreement.DIFFERS
    assert found.failed
    assert says in found.evidence
    assert ask(replace(GUEST, sealed=False), of=(replace(HOST, machines=(seen,)),)) == [Agreement.NOT_SEALED]


def test_counts_of_an_older_witness_may_be_smaller() -> None:
    older = replace(HOST, time=BEFORE, machines=(replace(WEB, told=told(denied=17)),))
    assert ask(replace(GUEST, time=AFTER), of=(older,)) == [Agreement.AGREES]
    newer = replace(HOST, machines=(replace(WEB, told=told(denied=19)),))
    assert ask(GUEST, of=(newer,)) == [Agreement.AGREES]


def test_a_guest_that_no_host_knows() -> None:
    assert ask(replace(GUEST, uuid=OTHER)) == [Agreement.UNSEEN]
    assert ask(replace(SMALL, generation=78)) == [Agreement.UNSEEN]
    assert ask(replace(SMALL, map_digest=None)) == [Agreement.UNSEEN]
    assert ask(GUEST, of=()) == [Agreement.UNSEEN]


def test_a_machine_that_is_claimed_twice() -> None:
    copy = replace(GUEST, guest="copy")
    assert ask(GUEST, SMALL, copy) == [Agreement.TWICE, Agreement.AGREES, Agreement.TWICE]
    assert ask(SMALL, replace(SMALL, guest="copy")) == [Agreement.TWICE] * 2
    assert ask(GUEST, replace(copy, uuid=None)) == [Agreement.TWICE] * 2  # by what the host told the other one
    assert ask(GUEST, replace(copy, sealed=False)) == [Agreement.TWICE] * 2
    assert ask(replace(GUEST, uuid=OTHER), replace(copy, uuid=OTHER)) == [Agreement.TWICE] * 2


def test_one_uuid_on_two_hosts() -> None:
    second = replace(HOST, host="rack2", host_id="b" * 32, machines=(WEB,))
    assert ask(GUEST, of=(HOST, second)) == [Agreement.TWICE]
    assert ask(GUEST, of=(HOST, replace(second, machines=()))) == [Agreement.AGREES]


def test_the_newest_witness_of_a_host_counts() -> None:
    lost = replace(HOST, time="2026-11-27T12:00:00+00:00", machines=(replace(WEB, state=Guarded.OPEN, told=None),))
    assert ask(GUEST, of=(HOST, lost)) == [Agreement.DIFFERS]
    assert ask(GUEST, of=(lost, HOST)) == [Agreement.DIFFERS]
    assert ask(GUEST, of=(replace(lost, time=BEFORE), HOST)) == [Agreement.AGREES]
