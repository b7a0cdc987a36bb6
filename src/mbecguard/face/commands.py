# SPDX-License-Identifier: GPL-2.0-or-later
"""What each command does: asks the session, shows the answer as text or JSON. No logic of its own."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mbecguard.face.output import Output
from mbecguard.face.tell import teller
from mbecguard.face.text import Text
from mbecguard.session import Session
from mbecguard.values.errors import Exit, die

if TYPE_CHECKING:
    from mbecguard.audit.report import Dossier
    from mbecguard.fleet.value import Fleet


def check(options: argparse.Namespace, session: Session) -> Exit:
    found, out = session.check(), Output.of(options)
    out.show(found, Text.of(out).check(found))
    return Exit.OK if found.ok else Exit.REFUSED


def plan(options: argparse.Namespace, session: Session) -> Exit:
    plan, out = session.look().plan, Output.of(options)
    out.show(plan, Text.of(out).plan(plan))
    return Exit.REFUSED if plan.blockers else Exit.OK


def lock(options: argparse.Namespace, session: Session) -> Exit:
    if options.dry_run:
        return check(options, session)
    out = Output.of(options)
    out.prove()
    transaction = session.transaction(teller(session))
    record = transaction.run()
    out.show_done(record, Text.of(out).record(record, transaction.plan))
    return record.exit


def status(options: argparse.Namespace, session: Session) -> Exit:
    found, out = session.status(full=options.full), Output.of(options)
    out.show(found, Text.of(out).status(found))
    return found.exit


def audit(options: argparse.Namespace, session: Session) -> Exit:
    from mbecguard.face import code_text

    page = _page(options)
    found, out = session.audit(teller(session)), Output.of(options)
    if page:
        out.write(page(session.dossier(found)))
    else:
        out.show(found, code_text.audit(Text.of(out), found))
    return found.exit


def boot(options: argparse.Namespace, session: Session) -> Exit:
    from mbecguard.service.boot import Service

    service, out = Service(session, teller(session), early=options.early), Output.of(options)
    if options.confirm:
        nothing = "nothing to confirm: the service did not lock this boot, or it is confirmed already"
        confirmed = service.confirm()
        out.show_done(session.boot_file.read(), [] if confirmed else [nothing])
        return Exit.OK
    if options.leave:
        noted = service.leave()
        out.show_done(session.boot_file.read(), ["noted: shut down in order"] if noted else [])
        return Exit.OK
    service.lock()
    found = service.session.status()
    out.show_done(found, Text.of(out).status(found))
    return found.exit


def rearm(options: argparse.Namespace, session: Session) -> Exit:
    from mbecguard.service.boot import Service

    Service(session, teller(session)).rearm()
    Output.of(options).show_done(session.boot_file.read(), [])
    return Exit.OK


def report(options: argparse.Namespace, session: Session) -> Exit:
    page = _page(options)
    found, out = session.report(), Output.of(options)
    if page:
        out.write(page(session.dossier()))
    else:
        out.show(found, Text.of(out).report(found))
    return found.exit


def metrics(options: argparse.Namespace, session: Session) -> Exit:
    with _reports("metrics"):
        from mbecguard.reports.metrics import metrics
    Output.of(options).write(metrics(session.measured()), mode=0o644)  # who scrapes is not root
    return Exit.OK


def _page(options: argparse.Namespace) -> Callable[[Dossier], str] | None:
    """What makes a page, if one is wanted; dies if it is not installed, before anything is done."""
    if options.format != "html":
        return None
    with _reports("a page"):
        from mbecguard.reports.page import page
    return page


@contextmanager
def _reports(what: str) -> Iterator[None]:
    """Around an import of what the package mbecguard-report brings."""
    try:
        yield
    except ModuleNotFoundError as error:
        die(f"{what} cannot be made: {error.name} is not installed", "install the package mbecguard-report")


def explain(options: argparse.Namespace, session: Session) -> Exit:
    from mbecguard.face import code_text

    found, out = session.explain(options.what), Output.of(options)
    out.show(found, code_text.explanation(Text.of(out), found))
    return Exit.OK


def capture(options: argparse.Namespace, session: Session) -> Exit:
    from mbecguard.guest.captured import Captured, capture

    made = Captured(tuple(capture(session.guest, options.dir)))
    Output.of(options).show(made, [f"captured {len(made.files)} files into {options.dir}"])
    return Exit.OK


def cache(options: argparse.Namespace, session: Session) -> Exit:
    from mbecguard.face.cache_text import warmed
    from mbecguard.guest.warm import warm

    found = warm(session.places.cache, note=session.note)
    Output.of(options).show(found, warmed(found))
    return Exit.OK


def learn(options: argparse.Namespace, session: Session) -> Exit:
    from mbecguard.face import lessons_text
    from mbecguard.learn.learner import Learner

    learner, out = Learner(session.guest, session.places.state / "learn"), Output.of(options)
    if options.what == "start":
        started = learner.start()
        out.show(started, lessons_text.started(started))
    elif options.quiet:
        learner.look()
    elif options.what == "show":
        lessons = learner.lessons(options.profile)
        out.show(lessons, lessons_text.view(Text.of(out), lessons))
    else:
        session.settings.clean()
        written = learner.write(options.profile, dry_run=options.dry_run)
        out.show(written, lessons_text.written(written))
    return Exit.OK


def fleet(options: argparse.Namespace, _session: Session) -> Exit:
    from mbecguard.face import fleet_text
    from mbecguard.fleet import judge, ocsf, read, table

    ways = {"html": _fleet_page(options), "csv": table.table, "ocsf": ocsf.events}
    listed = read.inventory(options.inventory) if options.inventory else ()
    found = judge.judge(read.collect(options.dir), options.dir, listed, datetime.now(UTC), options.stale_after)
    out = Output.of(options)
    if way := ways.get(options.format):
        out.write(way(found))
    else:
        out.show(found, fleet_text.view(out.look, found))
    return found.exit


def _fleet_page(options: argparse.Namespace) -> Callable[[Fleet], str] | None:
    if options.format != "html":
        return None
    with _reports("a page"):
        from mbecguard.reports.fleet_page import page
    return page


def config(options: argparse.Namespace, session: Session) -> Exit:
    from mbecguard.settings.declared import default_file
    from mbecguard.settings.shown import DefaultFile, described

    out = Output.of(options)
    if options.default:
        out.show(DefaultFile(default_file()), default_file().splitlines())
    else:
        out.show(described(session.settings), Text.of(out).settings(session.settings))
    return Exit.OK
