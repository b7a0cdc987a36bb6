# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of `mbecguard-host`, for whoever runs the hypervisor. It needs none of the agent's guest parts."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mbecguard import __version__
from mbecguard.face import host_text, witness_text
from mbecguard.face.options import OUTPUT, add_together
from mbecguard.face.output import Output, forget_stdout, refuse
from mbecguard.face.usage import COMMAND, Parser, subcommands
from mbecguard.readiness.check import check
from mbecguard.readiness.source import Source
from mbecguard.values.errors import Exit, UserError, die
from mbecguard.witness.look import witness
from mbecguard.witness.metrics import metrics

PROGRAM = "mbecguard-host"
SUMMARY = "Show whether this host can guard its virtual machines"
CHECK = (
    "Processor, kernel, KVM, Secure Boot, and how each virtual machine was started: whatever would keep a guest from "
    "being locked is named, with what to do about it. Nothing is changed. Exit status 0 means that this host and the "
    "machines that were looked at are ready."
)
WITNESS_SUMMARY = "Show what this host enforces of each virtual machine"
WITNESS = (
    "Each machine by name and UUID with its state, mode, pages, pins, the digest of its map, and the last denied "
    "fetches: what its guest says of itself can be held against it. Nothing is changed, and nothing is taken from a "
    "guest but numbers. It takes root."
)
ABOUT = f"{CHECK} {WITNESS_SUMMARY}: what its guest says of itself can be held against it."
EXAMPLES = (
    ("mbecguard-host check", "this host and all machines that run, as root"),
    ("mbecguard-host check web1", "this host and one machine, by name or process"),
    ("mbecguard-host check --no-machines", "the host alone"),
    ("mbecguard-host check --root DIR", "another host's files, copied into a folder"),
)
WITNESS_EXAMPLES = (
    ("mbecguard-host witness", "all machines that run"),
    ("mbecguard-host witness --json -o /srv/fleet/HOST.json", "a file that `mbecguard fleet` reads"),
    (
        "mbecguard-host witness --metrics -o /var/lib/prometheus/node-exporter/mbecguard-host.prom",
        "numbers for Prometheus",
    ),
)


def main(words: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    given = sys.argv[1:] if words is None else words
    try:
        return _run(given)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        forget_stdout()
        return Exit.ERROR


def _run(words: Sequence[str]) -> int:
    try:
        options, unknown = parser().parse_known_args(words)
        if unknown:
            subcommands(parser())[options.command].unknown(unknown, {})
        return int(options.run(options))
    except UserError as error:
        refuse(error, as_json="--json" in words, program=PROGRAM)
        return error.status


def _source(options: argparse.Namespace) -> Source:
    if not options.root.is_dir():
        die(f"there is no folder {options.root}", "give one that holds a host's files, such as proc/cpuinfo")
    return Source(options.root)


def _witness(options: argparse.Namespace) -> Exit:
    answer, out = witness(_source(options), options.machine), Output.of(options)
    if options.metrics:
        out.write("".join(f"{line}\n" for line in metrics(answer)), mode=0o644)  # who scrapes is not root
    else:
        out.show(answer, witness_text.view(out.look, answer))
    return Exit.OK


def _check(options: argparse.Namespace) -> Exit:
    answer, out = check(_source(options), options.machine, alone=options.no_machines), Output.of(options)
    out.show(answer, host_text.view(out.look, answer))
    if options.configured:
        return Exit.OK if answer.as_configured else Exit.REFUSED
    return answer.exit


def _help(options: argparse.Namespace) -> Exit:
    (subcommands(parser())[options.topic] if options.topic else parser()).print_help()
    return Exit.OK


@cache
def parser() -> Parser:
    """All commands and options; the manual and the completions are made from it too."""
    top = Parser(
        prog=PROGRAM, usage="%(prog)s COMMAND [OPTIONS]", description=f"{SUMMARY} (MBEC).", examples=EXAMPLES[:1]
    )
    top.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = top.add_subparsers(
        required=True, dest="command", prog=PROGRAM, metavar=COMMAND, title="commands", parser_class=Parser
    )
    _add_check(commands.add_parser("check", help=SUMMARY, description=f"{SUMMARY}. {CHECK}", examples=EXAMPLES))
    _add_witness(
        commands.add_parser(
            "witness",
            help=WITNESS_SUMMARY,
            description=f"{WITNESS_SUMMARY}. {WITNESS}",
            examples=WITNESS_EXAMPLES,
        )
    )
    helper = commands.add_parser("help", help="Show what a command does", description="Show what a command does.")
    helper.add_argument("topic", nargs="?", choices=["check", "witness"], metavar=COMMAND, help="one of the commands")
    helper.set_defaults(run=_help)
    return top


def _add_check(made: argparse.ArgumentParser) -> None:
    _add_machines(made)
    made.add_argument("--no-machines", action="store_true", help="look at the host alone")
    made.add_argument(
        "--configured",
        action="store_true",
        help="exit status 0 if KVM runs as modprobe.d and the kernel's command line ask for, whatever that is",
    )
    add_together(made, OUTPUT, "output")
    made.set_defaults(run=_check)


def _add_witness(made: argparse.ArgumentParser) -> None:
    _add_machines(made)
    made.add_argument("--metrics", action="store_true", help="Prometheus's text form, for node_exporter's textfiles")
    add_together(made, OUTPUT, "output")
    made.set_defaults(run=_witness)


def _add_machines(made: argparse.ArgumentParser) -> None:
    made.add_argument("machine", nargs="*", metavar="MACHINE", help="its name or process; without, all are looked at")
    made.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="where the host's files are")
