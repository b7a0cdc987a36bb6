# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: options in, text or JSON out. No logic of its own."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mbecguard import __version__, settings
from mbecguard.audit.record import State
from mbecguard.audit.status import drift
from mbecguard.audit.text import Text
from mbecguard.errors import Exit, UserError, die
from mbecguard.events import Event, message, to_journal
from mbecguard.guest.procfs import KERNEL_HALF, Kallsyms
from mbecguard.pages import PAGE_SHIFT
from mbecguard.plan.findings import Severity
from mbecguard.plan.planner import Plan
from mbecguard.plan.rules import REASONS
from mbecguard.serial import encode
from mbecguard.session import Places, Session

CHECK_SCHEMA, AUDIT_SCHEMA, EXPLAIN_SCHEMA = "mbecguard.check/1", "mbecguard.audit/1", "mbecguard.explain/1"
_STATE_EXITS = {State.SEALED: Exit.OK, State.DEGRADED: Exit.NOT_ENFORCED}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status. The one handler for user errors."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options, _session(options)))
    except UserError as error:
        sys.stdout.flush()
        print(f"mbecguard: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        return error.status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the flush at exit complains again
        return Exit.ERROR


def _check(options: argparse.Namespace, session: Session) -> Exit:
    findings = session.blockers()
    blocked = any(f.severity is Severity.BLOCKER for f in findings)
    if options.json:
        _json({"schema": CHECK_SCHEMA, "ok": not blocked, "findings": encode(findings)}, options)
    else:
        verdict = "would NOT be locked" if blocked else "can be locked"
        _lines((*_text(options).findings(findings), f"this guest {verdict}"), options)
    return Exit.REFUSED if blocked else Exit.OK


def _plan(options: argparse.Namespace, session: Session) -> Exit:
    plan = session.look()
    _show(plan.to_json(), _text(options).plan(plan), options)
    return Exit.REFUSED if plan.blockers else Exit.OK


def _lock(options: argparse.Namespace, session: Session) -> Exit:
    if options.dry_run:
        return _check(options, session)
    transaction = session.transaction(_teller(session))
    record = transaction.run()
    _show(encode(record), _text(options).record(record), options)
    return Exit.OK


def _status(options: argparse.Namespace, session: Session) -> Exit:
    status = session.status()
    _show(encode(status), _text(options).status(status), options)
    return _STATE_EXITS.get(status.state, Exit.REFUSED)


def _audit(options: argparse.Namespace, session: Session) -> Exit:
    status = session.status()
    if status.state is not State.SEALED or status.record is None:
        die(f"nothing to audit: the guest is {status.state}", "`mbecguard status` tells why", Exit.REFUSED)
    found = drift(status.record.plan, session.look())
    if found.new:
        _teller(session)(Event.DRIFT, {"reason": f"{len(found.new)} executable ranges are unknown to the seal"})
    data = {"schema": AUDIT_SCHEMA, "ok": not found.new, **encode(found)}
    _show(data, _text(options).drift(found), options)
    return Exit.DRIFT if found.new else Exit.OK


def _report(options: argparse.Namespace, session: Session) -> Exit:
    records = session.store.records()
    if not records:
        die("there is nothing to report: no lock was ever tried", "`mbecguard lock` makes a record", Exit.REFUSED)
    options.json = options.format == "json"
    _show(encode(records[-1]), _text(options).record(records[-1]), options)
    return Exit.OK


def _explain(options: argparse.Namespace, session: Session) -> Exit:
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


def _record(options: argparse.Namespace, session: Session) -> Exit:
    from mbecguard.guest.recorded import record

    paths = record(session.guest, options.dir)
    _lines([f"recorded {len(paths)} files into {options.dir}"], options)
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
        if event is not Event.STEP or sys.stderr.isatty():
            print(f"mbecguard: {message(event, facts)}", file=sys.stderr)
        if session.guest.live and not session.host.simulated:
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


def _session(options: argparse.Namespace) -> Session:
    overrides = list(options.set)
    for flag, key in _SHORTCUTS.items():
        if getattr(options, flag, None):
            value = getattr(options, flag)
            overrides.append(f"{key}={'true' if value is True else value}")
    default = Places.default()
    return Session(
        settings=settings.load(options.config, overrides),
        places=Places(options.state_dir or default.state, options.cache_dir or default.cache),
        folder=options.guest,
        kernel_image=options.kernel_image,
        modules_dir=options.modules_dir,
    )


#: Options that are only short for a setting.
_SHORTCUTS = {
    "host": "lock.host",
    "mode": "lock.mode",
    "deny_unexplained": "policy.deny_unexplained",
    "tight": "policy.tight",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mbecguard", description="Hypervisor-enforced kernel code for stock Linux guests (MBEC)."
    )
    parser.add_argument("--version", action="version", version=f"mbecguard {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common, planning = _common_options(), _planning_options()

    def add(name: str, run: object, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, parents=[common, *parents])
        command.set_defaults(run=run)
        return command

    add("check", _check, "what would stop a lock here, and what to do about it", planning)
    add("plan", _plan, "which page frames stay kernel-executable, and why", planning)
    lock = add("lock", _lock, "lock this guest's kernel code", planning)
    lock.add_argument("--mode", choices=("enforce", "audit"), help="what the host does with a denied fetch")
    lock.add_argument("--dry-run", action="store_true", help="as check: change nothing")
    add("status", _status, "the state of this guest: exit 0 if sealed, 4 if degraded, 3 otherwise")
    add("audit", _audit, "survey again, and compare with the sealed plan: exit 5 if new code is found", planning)
    report = add("report", _report, "the newest lock: state, evidence, plan")
    report.add_argument("--format", choices=("text", "json"), default="text")
    explain = add("explain", _explain, "why a page is kept or denied", planning)
    explain.add_argument("what", metavar="ADDRESS|PFN|SYMBOL", help="0x... address, decimal page frame, or a symbol")
    record = add("record", _record, "save the facts of this guest into a folder", planning)
    record.add_argument("dir", type=Path, metavar="DIR")
    return parser


def _common_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--guest", type=Path, metavar="DIR", help="a recorded guest instead of the running one")
    parser.add_argument("--kernel-image", type=Path, metavar="FILE", help="vmlinuz, vmlinux or unified kernel image")
    parser.add_argument("--modules-dir", type=Path, metavar="DIR", help="modules folder of one kernel release")
    parser.add_argument("--host", choices=("auto", "shim", "simulator"), help="whom to ask")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (TOML)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting")
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help="where records are kept")
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help="where parsed sections are cached")
    parser.add_argument("--json", action="store_true", help="JSON on stdout, diagnostics on stderr")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write to a file instead of stdout")
    return parser


def _planning_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--deny-unexplained", action="store_true", help="drop unexplained pages instead of refusing")
    parser.add_argument("--tight", action="store_true", help="drop kept pages that hold nothing but int3")
    return parser


if __name__ == "__main__":
    sys.exit(main())
