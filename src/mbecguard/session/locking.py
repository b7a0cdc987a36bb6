# SPDX-License-Identifier: GPL-2.0-or-later
"""A lock of a session's guest."""

from __future__ import annotations

import time
from functools import partial

from mbecguard.host.text import HandOver
from mbecguard.lock.ending import NOT_LOCKED
from mbecguard.lock.transaction import Transaction
from mbecguard.plan.policy import CodeKind, Level, Policy, from_settings
from mbecguard.plan.value import Plan, span_of
from mbecguard.records.identity import identify
from mbecguard.session import Session
from mbecguard.text.handover import Places, handed_over
from mbecguard.text.objects import Part
from mbecguard.values.errors import Exit, UserError, die
from mbecguard.values.events import Tell
from mbecguard.values.pages import PAGE_SHIFT


def _sealed(session: Session) -> bool:
    """Whether the host says so; a host that cannot be asked does not."""
    try:
        return session.host.query().sealed
    except UserError:
        return False


def texts(session: Session, plan: Plan, policy: Policy) -> HandOver:
    """What is handed over to the host, as a plan and a policy have it. Dies of text that is not as it should be."""
    modules: dict[str, list[Part]] = {}
    for kept in plan.keep:
        if kept.kind is CodeKind.MODULE_TEXT:
            modules.setdefault(kept.owner, []).append(Part(kept.va, kept.pages))
    target, text = session.host.target_pfn or 0, plan.kernel.text_pa >> PAGE_SHIFT
    return handed_over(
        session.guest,
        session.places.cache,
        session.note,
        Places(target, text, span_of(plan, CodeKind.BPF), modules),
        frozen=policy.frozen_keys,
        logs=policy.level is not Level.TEXT,
    )


def transaction(session: Session, tell: Tell) -> Transaction:
    """A lock that is ready to run; refused where locking is switched off, or the settings are not in order."""
    if session.switched_off:
        origin, advice = session.switched_off
        done = "the guest stays sealed until it is reset: " if _sealed(session) else NOT_LOCKED
        die(f"{done}lock.mode is off ({origin})", advice, Exit.REFUSED)
    settings = session.settings.clean()
    mode, policy = settings.text("lock.mode"), from_settings(settings)
    return Transaction(
        host=session.host,
        look=session.look,
        store=session.store,
        identity=identify(session.guest),
        knobs=session.knobs,
        policy=policy.roomy.exec_only if mode == "audit" else policy,  # nothing is frozen or handed over then
        mode=mode,
        tell=tell,
        room=session.room,
        texts=partial(texts, session),
        packs=settings.number("lock.bpf_packs"),
        sleep=time.sleep if session.guest.live else lambda _seconds: None,  # a captured guest never settles
    )
