# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: from options to a session and one of the commands."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from mbecguard import __version__, commands, settings
from mbecguard.errors import Exit, UserError
from mbecguard.session import Places, Session
from mbecguard.settings import Settings


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status. The one handler for user errors."""
    options = parser().parse_args(arguments)
    try:
        options.session = partial(_session, options)
        return int(options.run(options, options.session()))
    except UserError as error:
        sys.stdout.flush()
        print(f"mbecguard: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        return error.status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the flush at exit complains again
        return Exit.ERROR


def _session(options: argparse.Namespace) -> Session:
    default = Places.default()
    return Session(
        settings=_settings(options),
        places=Places(options.state_dir or default.state, options.cache_dir or default.cache),
        folder=options.guest,
        kernel_image=options.kernel_image,
        modules_dir=options.modules_dir,
    )


def _settings(options: argparse.Namespace) -> Settings:
    if getattr(options, "default", False):  # whatever is wrong with the files, the default one can be had
        return settings.load()
    flags = {}
    for flag, key in _SHORTCUTS.items():
        if value := getattr(options, flag, None):
            flags[f"--{flag.replace('_', '-')}"] = f"{key}={'true' if value is True else value}"
    # A recorded guest is planned alike everywhere: neither this machine's settings nor its command line are its own.
    root = None if options.guest else _ROOT
    return settings.load(options.config, options.set, root=root, flags=flags)


_ROOT = Path("/")

#: Options that are only short for a setting.
_SHORTCUTS = {
    "host": "lock.host",
    "mode": "lock.mode",
    "deny_unexplained": "policy.deny_unexplained",
    "tight": "policy.tight",
}


def parser() -> argparse.ArgumentParser:
    """All commands and options; the manual and the completions are made from it too."""
    top = argparse.ArgumentParser(
        prog="mbecguard", description="Hypervisor-enforced kernel code for stock Linux guests (MBEC)."
    )
    top.add_argument("--version", action="version", version=f"mbecguard {__version__}")
    subparsers = top.add_subparsers(required=True, metavar="COMMAND")
    common, planning = _common_options(), _planning_options()

    def add(name: str, run: object, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        command = subparsers.add_parser(name, help=text, description=text, parents=[common, *parents])
        command.set_defaults(run=run)
        return command

    add("check", commands.check, "what would stop a lock here, and what to do about it", planning)
    add("plan", commands.plan, "which page frames stay kernel-executable, and why", planning)
    lock = add("lock", commands.lock, "lock this guest's kernel code", planning)
    lock.add_argument("--mode", choices=("enforce", "audit"), help="what the host does with a denied fetch")
    lock.add_argument("--dry-run", action="store_true", help="as check: change nothing")
    add("status", commands.status, "the state of this guest: exit 0 if sealed, 4 if degraded, 3 otherwise")
    add(
        "audit", commands.audit, "survey again, and compare with the sealed plan: exit 5 if new code is found", planning
    )
    boot = add("boot", commands.boot, "what the service does at boot: lock, unless the last lock was not confirmed")
    when = boot.add_mutually_exclusive_group()
    when.add_argument("--confirm", action="store_true", help="note that this boot is good: the next one may lock")
    when.add_argument("--early", action="store_true", help="lock only if `learn write` has listed what to load before")
    add("rearm", commands.rearm, "forget the unconfirmed boot: the next boot locks again")
    add("daemon", commands.daemon, "watch this guest, and tell what changes")
    report = add("report", commands.report, "the newest lock: state, evidence, plan")
    report.add_argument("--format", choices=("text", "json"), default="text", help="how to show it")
    explain = add("explain", commands.explain, "why a page is kept or denied", planning)
    explain.add_argument("what", metavar="ADDRESS|PFN|SYMBOL", help="0x... address, decimal page frame, or a symbol")
    record = add("record", commands.record, "save the facts of this guest into a folder", planning)
    record.add_argument("dir", type=Path, metavar="DIR")
    config = add("config", commands.config, "the settings: value, and where it comes from")
    kind = config.add_mutually_exclusive_group()
    kind.add_argument("--show", action="store_true", help="every setting (this is done without an option too)")
    kind.add_argument("--default", action="store_true", help="the default settings, as a file with explanations")
    learn = add("learn", commands.learn, "watch which modules this guest loads late, and prepare it for the lock")
    learn.add_argument("what", choices=("start", "show", "write"), help="begin to watch, tell, or write what to load")
    learn.add_argument("--profile", choices=("late", "early"), default="late", help="which lock to prepare for")
    learn.add_argument("-n", "--dry-run", action="store_true", help="write: show the files only")
    learn.add_argument("--quiet", action="store_true", help="show: only keep what was seen in this boot")
    return top


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
