# SPDX-License-Identifier: GPL-2.0-or-later
"""A rerun on a guest that is sealed already: it completes what is missing, by the plan of the seal.

That is possible because the host answers an equal request on immutable pages with success.
"""

from __future__ import annotations

from mbecguard.host.base import HostRefusedError
from mbecguard.lock.context import Context
from mbecguard.lock.proof import DegradedError
from mbecguard.lock.request import equal_request, in_parts
from mbecguard.lock.steps import finish, freeze, freeze_for_good, hold, pin, prove_seal, remaining
from mbecguard.lock.text import keep_again
from mbecguard.plan.value import Plan
from mbecguard.records.damage import DamagedError
from mbecguard.records.drift import drift
from mbecguard.records.reasons import Reason, reason
from mbecguard.records.record import Journal, Record, State, Step
from mbecguard.values.errors import Exit


def resume(lock: Context, known: Journal | Record | None) -> Record:
    """Complete the lock of a sealed guest; `known` is what was noted or recorded of its seal."""
    reasons = _recall(lock, known)
    hold(lock)
    freeze(lock)
    pin(lock)
    left = keep_again(lock, known.text_digest if known else "", interrupted=isinstance(known, Journal))
    _seal_again(lock)
    refused = freeze_for_good(lock)
    return finish(lock, State.SEALED, *reasons, *remaining(lock), *left, *refused)


def _recall(lock: Context, known: Journal | Record | None) -> tuple[Reason, ...]:
    """Take up plan and evidence of the seal; returns what a person should know about it."""
    if known:
        lock.policy = known.policy
    lock.take(lock.look(lock.policy))
    now = lock.plan
    if known is None or not known.plan_digest or not known.evidence:
        raise DegradedError(reason("seal-unproven"), Exit.NOT_ENFORCED)
    lock.known_plan = seal = _plan_of_seal(lock, known, now)
    lock.prober.evidence = {e.probe: e for e in known.evidence}
    found = drift(seal, now)
    if found.new:
        problem = f"{len(found.new)} executable ranges are unknown to it"
        raise DegradedError(reason("seal-of-other-plan", problem=problem), Exit.REFUSED)
    return (reason("seal-keeps-more", ranges=len(found.stale)),) if found.stale else ()


def _plan_of_seal(lock: Context, known: Journal | Record, now: Plan) -> Plan:
    """The plan that was noted; today's is the same if the digest says so."""
    if now.digest == known.plan_digest:
        return now
    try:
        return lock.store.plan(known)
    except DamagedError as error:
        raise DegradedError(reason("plan-damaged", problem=error.message), Exit.NOT_ENFORCED) from error


def _seal_again(lock: Context) -> None:
    lock.begin(Step.SEAL)
    try:
        for part in in_parts(equal_request(lock.plan, lock.host.canary_pfn)):
            lock.host.protect(part)
    except HostRefusedError as error:
        raise DegradedError(reason("seal-of-other-plan", problem=error), Exit.REFUSED) from error
    prove_seal(lock)
