# SPDX-License-Identifier: GPL-2.0-or-later
"""What each command does: asks the session, shows the answer as text or JSON. No logic of its own."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable
from typing import Any

from mbecguard.audit.record import State
from mbecguard.audit.status import drift
from mbecguard.audit.text import Text
from mbecguard.errors import Exit, die
from mbecguard.events import Event, message, stderr_is_journal, to_journal
from mbecguard.guest.procfs import KERNEL_HALF, Kallsyms
from mbecguard.pages import PAGE_SHIFT
from mbecguard.plan.findings import UNEXPLAINED, Severity
from mbecguard.plan.planner import Plan
from mbecguard.plan.rules import REASONS
from mbecguard.serial import encode
from mbecguard.session import Session
from mbecguard.table import default_file

CHECK_SCHEMA, AUDIT_SCHEMA, EXPLAIN_SCHEMA = "mbecguard.check/1", "mbecguard.audit/1", "mbecguard.explain/1"
CONFIG_SCHEMA = "mbecguard.config/1"
LEARN_SCHEMA = "mbecguard.lessons/1"
RECORDING_SCHEMA = "mbecguard.recording/1"
_STATE_EXITS = {State.SEALED: Exit.OK, State.DEGRADED: Exit.NOT_ENFORCED}


def check(options: argparse.Namespace, session: Session) -> Exit:
    findings = session.blockers()
    blocked = any(f.severity is Severity.BLOCKER for f in findings)
    if options.json:
        _json({"schema": CHECK_SCHEMA, "ok": not blocked, "findings": encode(findings)}, options)
    else:
        verdict = "would NOT be locked" if blocked else "can be locked"
        _lines((*_text(options).findings(findings), f"this guest {verdict}"), options)
    return Exit.REFUSED if blocked else Exit.OK


def plan(options: argparse.Namespace, session: Session) -> Exit:
    plan = session.look()
    _show(plan.to_json(), _text(options).plan(plan), options)
    return Exit.REFUSED if plan.blockers else Exit.OK


def lock(options: argparse.Namespace, session: Session) -> Exit:
    if options.dry_run:
        return check(options, session)
    transaction = session.transaction(_teller(session))
    record = transaction.run()
    _show(encode(record), _text(options).record(record), options)
    return Exit.OK


def status(options: argparse.Namespace, session: Session) -> Exit:
    status = session.status()
    _show(encode(status), _text(options).status(status), options)
    return _STATE_EXITS.get(status.state, Exit.REFUSED)


def audit(options: argparse.Namespace, session: Session) -> Exit:
    status = session.status()
    if status.state is not State.SEALED or status.record is None:
        # A guest that is open by choice is no failure to a nightly audit; one that lost its lock is.
        exit_ = Exit.NOT_ENFORCED if status.state is State.DEGRADED else Exit.REFUSED
        die(f"nothing to audit: the guest is {status.state}", "`mbecguard status` tells why", exit_)
    now = session.look(status.record.policy)
    found = drift(status.record.plan, now)
    unfit = [blocker for blocker in now.blockers if blocker.id not in UNEXPLAINED]
    if unfit and not found.new:  # without its image, all of the kernel would be unexplained
        die(f"the guest cannot be compared with its seal: {unfit[0].text}", unfit[0].hint)
    if not found.ok:
        strange = len(found.new) + len(found.unexplained)
        _teller(session)(Event.DRIFT, {"reason": f"{strange} executable ranges are unknown to the seal"})
    _show({"schema": AUDIT_SCHEMA, "ok": found.ok, **encode(found)}, _text(options).drift(found), options)
    return Exit.OK if found.ok else Exit.DRIFT


def boot(options: argparse.Namespace, session: Session) -> Exit:
    from mbecguard.boot import Service

    service = Service(session, _teller(session), early=options.early)
    if options.confirm:
        nothing = "nothing to confirm: the service did not lock this boot, or it is confirmed already"
        return _remembered([] if service.confirm() else [nothing], options, session)
    service.lock()
    status = service.session.status()
    _show(encode(status), _text(options).status(status), options)
    return Exit.OK


def rearm(options: argparse.Namespace, session: Session) -> Exit:
    from mbecguard.boot import Service

    Service(session, _teller(session)).rearm()
    return _remembered([], options, session)


def _remembered(lines: list[str], options: argparse.Namespace, session: Session) -> Exit:
    _show(encode(session.boot_file.read()), lines, options)
    return Exit.OK


def daemon(options: argparse.Namespace, session: Session) -> Exit:
    from mbecguard.daemon import Daemon, Watch

    Daemon(Watch(session, _teller(session)), lambda: options.session().settings).run()
    return Exit.OK


def report(options: argparse.Namespace, session: Session) -> Exit:
    records = session.store.records()
    if not records:
        die("there is nothing to report: no lock was ever tried", "`mbecguard lock` makes a record", Exit.REFUSED)
    options.json = options.json or options.format == "json"
    _show(encode(records[-1]), _text(options).record(records[-1]), options)
    return Exit.OK


def explain(options: argparse.Namespace, session: Session) -> Exit:
    plan, symbols = session.look_with_symbols()
    pfn = _page_frame(options.what, plan, symbols)
    kept = plan.kept(pfn)
    symbol = symbols.nearest(kept.va + (pfn - kept.start << PAGE_SHIFT)) if kept else ""
    reason = REASONS[kept.kind] if kept else ""
    data = {
        "schema": EXPLAIN_SCHEMA,
        "pfn": pfn,
        "kept": encode(kept) if kept else None,
        "reason": reason,
        "symbol": symbol,
    }
    _show(data, _text(options).explain(pfn, kept, reason, symbol), options)
    return Exit.OK


def record(options: argparse.Namespace, session: Session) -> Exit:
    from mbecguard.guest.recorded import record

    paths = record(session.guest, options.dir)
    _show({"schema": RECORDING_SCHEMA, "files": paths}, [f"recorded {len(paths)} files into {options.dir}"], options)
    return Exit.OK


def learn(options: argparse.Namespace, session: Session) -> Exit:
    from mbecguard.learn.boots import Watched, systemctl_show
    from mbecguard.learn.catalog import catalog
    from mbecguard.learn.files import MODULES, files, write
    from mbecguard.learn.lessons import lessons
    from mbecguard.learn.trace import start
    from mbecguard.learn.view import view

    root, here = session.guest.tree.root, session.guest.live
    if not here and (options.what == "start" or (options.what == "write" and not options.dry_run)):
        die(f"a recorded guest cannot learn: `learn {options.what}` is for the running one", "leave --guest out")
    if options.what == "start":
        fresh = start(root)
        said = "watching module requests" if fresh else "module requests are watched already"
        _show({"schema": LEARN_SCHEMA, "fresh": fresh}, [said], options)
        return Exit.OK
    watched = Watched(session.places.state / "learn")
    watched.look(session.guest, systemctl_show)
    if options.quiet:
        return Exit.OK
    learnt = lessons(watched.all(), catalog(session.guest.modules_dir), options.profile)
    if options.what == "show":
        _show({"schema": LEARN_SCHEMA, **encode(learnt)}, view(learnt), options)
        return Exit.OK
    made = files(learnt, session.guest.tree.text(MODULES) or "")
    if not options.dry_run:
        write(root, made)
    texts = (f"--> /{path}\n{text}" if options.dry_run else f"wrote /{path}\n" for path, text in made.items())
    _show(made, "".join(texts).splitlines(), options)
    return Exit.OK


def config(options: argparse.Namespace, session: Session) -> Exit:
    if options.default:
        _write(default_file(), options)
    else:
        data = {"schema": CONFIG_SCHEMA, "settings": session.settings.describe()}
        _show(data, _text(options).settings(session.settings), options)
    return Exit.OK


def _page_frame(what: str, plan: Plan, symbols: Kallsyms) -> int:
    """0x... is a kernel virtual or a physical address in bytes, a decimal number a page frame, else a symbol."""
    if re.fullmatch(r"[0-9]+", what):
        pfn = int(what[:20])
    else:
        address = int(what, 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,16}", what) else symbols.find(what)
        if address is None:
            die(f"no kernel symbol {what!r}", "see /proc/kallsyms")
        pfn = address >> PAGE_SHIFT if address < KERNEL_HALF else _frame_of(address, plan, what)
    if pfn >= plan.max_pfn:
        die(f"{what} lies beyond the guest's physical space", f"it has {plan.max_pfn:#x} page frames")
    return pfn


def _frame_of(va: int, plan: Plan, what: str) -> int:
    page = va >> PAGE_SHIFT
    offsets = ((k, page - (k.va >> PAGE_SHIFT)) for k in plan.keep)
    frame = next((k.start + offset for k, offset in offsets if 0 <= offset < len(k.pages)), None)
    if frame is None:
        die(f"{what} is not executable kernel code", "only kept virtual addresses are known; give a physical address")
    return frame


def _teller(session: Session) -> Any:
    def tell(event: Event, facts: dict[str, str]) -> None:
        journal = session.guest.live and not session.simulated
        if not (journal and stderr_is_journal()) and (event is not Event.STEP or sys.stderr.isatty()):
            print(f"mbecguard: {message(event, facts)}", file=sys.stderr)
        if journal:
            to_journal(event, facts)

    return tell


def _show(data: object, lines: Iterable[str], options: argparse.Namespace) -> None:
    if options.json:
        _json(data, options)
    else:
        _lines(lines, options)


def _json(data: object, options: argparse.Namespace) -> None:
    _write(json.dumps(data, indent=1) + "\n", options)


def _lines(lines: Iterable[str], options: argparse.Namespace) -> None:
    _write("".join(f"{line}\n" for line in lines), options)


def _write(text: str, options: argparse.Namespace) -> None:
    if not getattr(options, "output", None):
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        options.output.write_text(text)
    except OSError as error:
        die(f"{options.output} cannot be written: {error.strerror}", "give a file in a folder that you may write")


def _text(options: argparse.Namespace) -> Text:
    to_file = bool(getattr(options, "output", None))
    return Text(colour=sys.stdout.isatty() and not to_file and "NO_COLOR" not in os.environ)
