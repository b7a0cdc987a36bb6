# SPDX-License-Identifier: GPL-2.0-or-later
"""The steps that hand text over to the host, and try what that is worth.

The kernel's comes when nothing is patched any more and before the pin. Nothing takes text back but a reset of the
guest: a lock that fails later leaves it with the host, which accepts the kernel's own patches, and a rerun goes on with
it. A module's pages are others' when it goes: so its text comes behind the seal, which none leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate

from mbecguard.host.base import Host, HostRefusedError, HostText, Outcome, TextMode
from mbecguard.host.text import NOTHING, HandOver, fold
from mbecguard.lock.check import refuse
from mbecguard.lock.context import Context
from mbecguard.plan.policy import Level
from mbecguard.records.reasons import Reason, reason
from mbecguard.records.record import HOLDS, Probe, Step
from mbecguard.values.errors import die
from mbecguard.values.events import Event


def text_misfit(host: Host, level: Level) -> tuple[str, str] | None:
    """Why a host cannot hold a level, and what to do; None if it can. One is not asked for level exec."""
    told = host.text() if level is not Level.EXEC else None
    offers = told.offers if told else TextMode.NONE
    if offers >= HOLDS[level]:
        return None
    if offers is TextMode.LOG:
        return (
            "the host only logs stores to kernel text, policy.level asks for more",
            'ask its administrator for kvm.mbecguard_text=enforce, or set policy.level = "text-log"',
        )
    return (
        f"the host takes no kernel text, which policy.level = {level} needs",
        'set policy.level = "exec", or ask its administrator for kvm-host on a kernel that has it (HOST-ABI.md)',
    )


def keep_text(lock: Context) -> None:
    """Hand the kernel's text over, if the level asks for that, and prove it. Dies if it does not hold."""
    level = lock.planned_by.level
    if level is Level.EXEC:
        return
    lock.begin(Step.TEXT)
    with lock.stop.interrupted():
        texts = _take(lock).first
    if lock.host.target_pfn is None:
        refuse("this host brings no page of text to write to, so nothing could be proven", "load the mbecguard shim")
    digests = lock.digests[: len(texts) + 1]
    held = _held(lock, digests)
    if not held:
        lock.prober.run_store(Probe.STORE_BEFORE)
        lock.prober.believe()
        lock.host.hand_over(texts[0])
    prove_store(lock)
    lock.prober.believe()
    for text in texts[max(held, 1) :]:
        lock.host.hand_over(text)
    lock.text_digest = digests[-1]
    prove_text(lock)


def _take(lock: Context) -> HandOver:
    """What is handed over; the host's digest with none of it, with one, and so on is made once for all steps."""
    lock.given = given = lock.texts(lock.plan, lock.planned_by)
    lock.digests = [*accumulate((*given.first, *given.modules), fold, initial=NOTHING)]
    return given


def keep_modules(lock: Context) -> list[Reason]:
    """Hand over what is left when the seal holds, and announce all of it; returns why some of it is not."""
    if lock.given is None:
        return []
    lock.begin(Step.MODULES)
    reasons = _hand_modules(lock, lock.given)
    held = told_of(lock)
    lock.say(Event.TEXT_HELD, pages=str(held.pages), level=lock.planned_by.level, digest=lock.text_digest)
    return reasons


def _hand_modules(lock: Context, given: HandOver) -> list[Reason]:
    """A host without room for it leaves the guest sealed, as it is."""
    left = [reason("text-left", names=", ".join(given.left), problem="not as its file says")] if given.left else []
    try:
        for text in given.modules[max(_held(lock, lock.digests) - len(given.first), 0) :]:
            lock.host.hand_over(text)
    except HostRefusedError as error:
        return [*left, reason("text-left", names="all modules", problem=error)]
    lock.text_digest = lock.digests[-1]
    prove_text(lock)
    return left


def _held(lock: Context, digests: Sequence[str]) -> int:
    """How many objects the host has, from an attempt before; by the digest with none, with one, and so on."""
    with suppress(ValueError):
        return digests.index(told_of(lock).digest)
    refuse(
        "the host holds kernel text that was handed over otherwise, by somebody else, with another policy.level "
        "or with other modules",
        "only a reset of the guest takes it back",
    )


def told_of(lock: Context) -> HostText:
    """What the host tells; dies if it knows nothing of text."""
    return lock.host.text() or die("the host knows nothing of kernel text any more", "was the guest moved?")


def prove_store(lock: Context) -> None:
    """Try what an attacker would try: write to text through a mapping that allows it."""
    before = told_of(lock).bad
    outcome = lock.host.run_store()
    counted = told_of(lock).bad > before
    target = lock.host.target_pfn or 0
    if lock.planned_by.level is Level.TEXT:
        lock.prober.keep(Probe.STORE_DENIED, outcome, target)
    lock.prober.keep(Probe.STORE_COUNTED, Outcome.RAN if counted else Outcome.NO_VERDICT, target)


def prove_text(lock: Context) -> None:
    """The host has what it was given, and it takes the kernel's own patches, and calls none of them bad."""
    before = told_of(lock)
    outcome = lock.host.run_patch()
    after = told_of(lock)
    took = after.patches > before.patches and after.bad == before.bad and after.digest == lock.text_digest
    right = took and after.holds is HOLDS[lock.planned_by.level]
    lock.prober.keep(Probe.PATCH, outcome if right or outcome is Outcome.DENIED else Outcome.NO_VERDICT, 0)
    lock.note()
    lock.prober.believe(lock.planned_by.level)


def keep_again(lock: Context, digest: str, *, interrupted: bool) -> list[Reason]:
    """The same of a guest that is sealed already, whose text has that digest, or had when the lock was interrupted."""
    if lock.planned_by.level is Level.EXEC:
        return []
    lock.text_digest = digest
    prove_store(lock)
    if interrupted:
        _take(lock)
        return keep_modules(lock)
    prove_text(lock)
    return []
