# SPDX-License-Identifier: GPL-2.0-or-later
"""What stops a lock before anything is changed: a host or a plan that is unfit for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from mbecguard.host.base import Host, HostMode, HostStatus
from mbecguard.lock.proof import frames_to_try
from mbecguard.plan.findings import passing
from mbecguard.plan.value import Plan
from mbecguard.values.errors import Exit, UserError, die
from mbecguard.values.findings import Finding, Severity


def misfit(answer: HostStatus, asked: str) -> tuple[str, str] | None:
    """Why the host that answers so cannot do what is asked (enforce, audit), and what to do; None if it can."""
    if answer.mode is HostMode.OFF:
        return "the host has its protection switched off", "ask its administrator for kvm.mbecguard=enforce"
    fitting = "audit" if answer.mode is HostMode.AUDIT else "enforce"
    if asked != fitting:
        return f"the host's mode is {answer.mode.value}, asked was {asked}", f"use --mode {fitting}"
    if answer.smm_open and not answer.sealed and asked == "enforce":
        return (
            "system management mode is open: this guest can write its handler, which is exempt from any lock",
            "have its machine started with SMM off (QEMU: `-machine ...,smm=off`; libvirt: `<smm state='off'/>` in "
            "`<features>`), or by OVMF that has SMRAM of its own (libvirt: a `<loader secure='yes'>`)",
        )
    return None


class UnsettledError(UserError):
    """What was seen of the guest can be otherwise soon: reason enough to look again."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint, Exit.REFUSED)


def refuse(reason: str, hint: str) -> NoReturn:
    """Die of a reason not to lock."""
    die(reason, hint, Exit.REFUSED)


def check_host(host: Host, answer: HostStatus, asked: str) -> None:
    """Die if a host that answers so cannot do what is asked (enforce, audit, off), or cannot prove it."""
    if asked == "off":
        refuse("it is switched off (lock.mode)", "`mbecguard config --show` tells where")
    if unfit := misfit(answer, asked):
        refuse(*unfit)
    if host.canary_pfn is None:
        refuse("this host brings no canary page, so nothing could be proven", "load the mbecguard shim")


def check_plan(plan: Plan, host: Host, more: Iterable[Finding]) -> None:
    """Die if a finding of the plan or of `more` forbids the lock, or the plan does not fit the host.

    Raises UnsettledError if all that is in the way can go away by itself.
    """
    if blockers := [f for f in (*plan.findings, *more) if f.severity is Severity.BLOCKER]:
        texts = f"{len(blockers)} blockers: {'; '.join(f.text for f in blockers[:3])}"
        hint = "`mbecguard check` lists them all"
        if passing(blockers):
            raise UnsettledError(texts, hint)
        refuse(texts, hint)
    if plan.max_pfn != host.max_pfn:
        refuse(
            f"the plan covers {plan.max_pfn:#x} page frames, the host has {host.max_pfn:#x}",
            "pages beyond the plan would stay executable; check the guest's CPU model",
        )
    if not frames_to_try(plan, host.canary_pfn or 0):
        refuse("the plan keeps no code at all", "no kernel survives that; capture the guest again")
