# SPDX-License-Identifier: GPL-2.0-or-later
"""Surveys and plans of a session's guest, for whoever only looks: plan, check, explain."""

from __future__ import annotations

from dataclasses import replace

from mbecguard.guest.procfs import Kallsyms
from mbecguard.guest.setters import setters
from mbecguard.guest.survey import Survey
from mbecguard.guest.sysctlfiles import assignments
from mbecguard.guest.uses import SYSCTLS, uses
from mbecguard.host.base import HostErrno, HostRefusedError
from mbecguard.lock.check import misfit
from mbecguard.lock.context import Seen
from mbecguard.lock.request import too_long
from mbecguard.lock.reserve import findings as room_findings
from mbecguard.lock.text import text_misfit
from mbecguard.plan import machine
from mbecguard.plan.explain import Explanation, Ground, explain
from mbecguard.plan.findings import Check, check, finding
from mbecguard.plan.level import obstacles
from mbecguard.plan.policy import Level, Policy, from_settings
from mbecguard.records.record import State
from mbecguard.session import Session
from mbecguard.switches.decisions import compiles, decide, frozen
from mbecguard.switches.decisions import findings as freeze_findings
from mbecguard.values.errors import UserError
from mbecguard.values.facts import known
from mbecguard.values.findings import Finding


def look(session: Session, policy: Policy | None = None) -> Seen:
    """Survey the guest now. The plan is by a policy: if none is given, that of the settings."""
    return _plan(session, *session.surveyor.look(), policy)


def _plan(session: Session, facts: Survey, symbols: Kallsyms, policy: Policy | None = None) -> Seen:
    tree = session.guest.tree
    used = uses(tree, symbols)
    decisions = decide(session.settings, used, assignments(tree, SYSCTLS), setters(tree))
    policy = policy or from_settings(session.settings)
    found = session.planner.attribute(facts, policy, symbols.nearest, frozen(decisions, session.knobs))
    levels = obstacles(used, facts.processors) if policy.level is not Level.EXEC else ()
    return Seen(found.plan, found.roomy, decisions, found.policy, tuple(levels))


def check_session(session: Session) -> Check:
    """What would stop a lock here: everything about the guest and the host that can be told at once."""
    return check(_findings(session))


def _findings(session: Session) -> list[Finding]:
    try:
        _ = session.guest
    except UserError as error:
        return [finding("guest-unreadable", problem=error.message, advice=error.hint)]
    problems = session.settings.problems
    findings = [finding("settings-wrong", problem=problem.message, advice=problem.hint) for problem in problems]
    if session.switched_off:
        origin, advice = session.switched_off
        findings.append(finding("switched-off", problem=origin, advice=advice))
    if forgets := session.volatile:
        findings.append(finding("state-volatile", problem=forgets))
    seen: Seen | None = None
    try:
        seen = session.look()
        findings += [*seen.plan.findings, *freeze_findings(seen.decisions, session.knobs), *seen.obstacles]
        goes_on = compiles(seen.policy, seen.decisions, session.knobs)
        if session.settings.text("lock.mode") != "audit":
            findings += room_findings(goes_on, session.settings.number("lock.bpf_packs"), session.room)
    except UserError as error:
        findings.append(finding("guest-unreadable", problem=error.message, advice=error.hint))
    return [*findings, *_host_findings(session, seen)]


def _host_findings(session: Session, seen: Seen | None) -> list[Finding]:
    """What the host answers; of one that cannot guard this machine, why, as far as this guest can tell."""
    cpuinfo = known(session.guest.tree.fact("proc/cpuinfo"), "")
    try:
        asked, level = session.settings.text("lock.mode"), Level(session.settings.text("policy.level"))
        unfit = misfit(session.host.query(), asked) or text_misfit(session.host, level)
        long = list(too_long(session.host, seen.plan, seen.roomy)) if seen else []
    except UserError as error:
        cannot = isinstance(error, HostRefusedError) and error.errno is HostErrno.NOT_SUPPORTED
        causes = list(machine.refused(cpuinfo)) if cannot else []
        return causes or [finding("host-unusable", problem=error.message, advice=error.hint)]
    found = [] if session.switched_off or not unfit else [finding("host-unfit", problem=unfit[0], advice=unfit[1])]
    return [*found, *long, *machine.offered(cpuinfo)]


def explain_page(session: Session, what: str) -> Explanation:
    """Why a page is kept or denied: by the seal if there is one, else by the plan of today."""
    entry = session.store.last(session.guest.boot_id)
    seal = entry.record if entry and entry.record.state is State.SEALED else None
    plans = (session.store.plan(seal),) if seal else ()
    try:
        facts, symbols = session.surveyor.look()
        today = _plan(session, facts, symbols)
        ground = Ground(symbols, (*plans, today.plan), facts.memory.page_offset)
    except UserError:
        if not seal:
            raise
        ground = Ground(session.symbols, plans)
    if seal:
        ground = replace(ground, sealed=seal.time, simulated=seal.simulated)
    return explain(what, ground)
