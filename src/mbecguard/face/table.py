# SPDX-License-Identifier: GPL-2.0-or-later
"""The one table of commands: what each does, takes and needs. Help, manual and completions are made from it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from mbecguard.face import commands
from mbecguard.face.options import GUEST, OUTPUT, PLAN, SETTINGS
from mbecguard.face.usage import COMMAND, Parser
from mbecguard.session import Session
from mbecguard.settings.declared import BY_KEY
from mbecguard.settings.load import OFF
from mbecguard.values.errors import Exit


class Needs(Enum):
    """What a command wants of the settings. One typo in a file must not make a sealed guest unreadable."""

    NONE = "none"
    READABLE = "readable"  #: goes on with those that can be read, and warns of the rest
    ASKS = "asks"  #: as READABLE, but its answer, or the command itself, says what is wrong
    CLEAN = "clean"  #: refuses to run if anything is wrong


Run = Callable[[argparse.Namespace, Session], int]


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `options` are names of the shared ones, `own` adds those that no other has."""

    name: str
    run: Run
    summary: str
    about: str
    examples: tuple[tuple[str, str], ...]
    options: tuple[str, ...] = ()
    own: Callable[[Parser], None] = lambda _parser: None
    needs: Needs = Needs.READABLE
    root: bool = True  #: of a running guest everything is for root alone
    remembers: bool = False  #: tells of the past: a state folder that is not there is a mistake, not an open guest


def _lock(parser: Parser) -> None:
    modes = tuple(mode for mode in BY_KEY["lock.mode"].choices if mode != OFF)
    parser.add_argument("--mode", choices=modes, help="what the host does with a denied fetch")
    parser.add_argument("--dry-run", action="store_true", help="the same as `mbecguard check`: change nothing")
    parser.advice[OFF] = (
        "a sealed guest is unlocked by a reset alone; "
        f'to keep a guest from locking set lock.mode = "{OFF}", or boot it with mbecguard={OFF}'
    )


def _boot(parser: Parser) -> None:
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--confirm", action="store_true", help="note that this boot is good: the next one may lock")
    when.add_argument("--leave", action="store_true", help="note that this boot is shut down in order, at shutdown")
    when.add_argument("--early", action="store_true", help="lock only if `learn write` has listed what to load before")


def _status(parser: Parser) -> None:
    parser.add_argument("--full", action="store_true", help="the whole record of this boot as well, and its plan")


def _format(parser: Parser) -> None:
    told = "how to show it; html: one page by itself, which needs the package mbecguard-report"
    parser.add_argument("--format", choices=("text", "json", "html"), default="text", help=told)


def _fleet(parser: Parser) -> None:
    parser.add_argument("dir", type=Path, metavar="DIR", help="a folder of collected audits, *.json")
    told = "how to show it; html: one page by itself; ocsf: events for a SIEM, one in a line"
    parser.add_argument("--format", choices=("text", "json", "html", "csv", "ocsf"), default="text", help=told)
    told = "guests that should be there: a host name, machine-id or UUID in each line"
    parser.add_argument("--inventory", type=Path, metavar="FILE", help=told)
    told = "after how many an audit is too old (%(default)s)"
    parser.add_argument("--stale-after", type=int, default=48, metavar="HOURS", help=told)


def _explain(parser: Parser) -> None:
    parser.add_argument("what", metavar="ADDRESS|PFN|SYMBOL", help="0x... address, pfn:0x... page frame, or a symbol")


def _capture(parser: Parser) -> None:
    parser.add_argument("dir", type=Path, metavar="DIR", help="a new folder; what is in it gives KASLR away")


def _config(parser: Parser) -> None:
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--show", action="store_true", help="every setting (this is done without an option too)")
    kind.add_argument("--default", action="store_true", help="the default settings, as a file with explanations")


def _learn(parser: Parser) -> None:
    parser.add_argument("what", choices=("start", "show", "write"), help="begin to watch, tell, or write what to load")
    parser.add_argument("--profile", choices=("late", "early"), default="late", help="which lock to prepare for")
    parser.add_argument("-n", "--dry-run", action="store_true", help="write: show the files only")
    parser.add_argument("--quiet", action="store_true", help="show: only keep what was seen in this boot")


def _cache(parser: Parser) -> None:
    parser.add_argument("what", choices=("warm",), help="read all kernels and modules that are installed")


def _help(parser: Parser) -> None:
    names = [command.name for command in COMMANDS]
    parser.add_argument("topic", nargs="?", choices=names, metavar=COMMAND, help="one of the commands")


def _show_help(options: argparse.Namespace, _session: Session) -> Exit:
    options.parsers[options.topic or ""].print_help()
    return Exit.OK


_STATE = ("state_dir",)
_FOLDERS = ("state_dir", "cache_dir")

COMMANDS: tuple[Command, ...] = (
    Command(
        "check",
        commands.check,
        "Show what would stop a lock here",
        "Each finding comes with what to do about it, the worst first. Nothing is changed. "
        "Exit status 0 means that this guest can be locked.",
        (
            ("mbecguard check", "the running guest, as root"),
            ("mbecguard check --guest DIR", "a captured one, on any machine"),
        ),
        (*OUTPUT, *GUEST, "host", *PLAN, *SETTINGS, *_FOLDERS),
        needs=Needs.ASKS,
    ),
    Command(
        "plan",
        commands.plan,
        "Show which pages stay kernel-executable, and why",
        "By kind of code and by owner, the largest first; --json has every range with its reason. Nothing is changed.",
        (
            ("mbecguard plan", "the running guest, as root"),
            ("mbecguard plan --json --guest DIR", "every range of a captured one"),
            ("mbecguard plan --set policy.bpf=drop", "what another policy would keep"),
        ),
        (*OUTPUT, *GUEST, *PLAN, *SETTINGS, "cache_dir"),
        needs=Needs.CLEAN,
    ),
    Command(
        "lock",
        commands.lock,
        "Lock this guest's kernel code until it is reset",
        "The guest is surveyed, the host is asked, and faults have to prove that it does what it says; then the map is "
        "sealed. Whatever fails before that is undone. At every boot the service does it: "
        "systemctl enable mbecguard-lock.service.",
        (
            ("mbecguard lock", "until the next reset of the machine"),
            ("mbecguard lock --dry-run", "only say what would stop it"),
            ("mbecguard lock --host simulator", "try it without protecting anything"),
        ),
        (*OUTPUT, *GUEST, "host", *PLAN, *SETTINGS, *_FOLDERS),
        own=_lock,
        needs=Needs.ASKS,
    ),
    Command(
        "status",
        commands.status,
        "Show in which state this guest is",
        "The host is asked first, then what is remembered of this boot. The exit status says it, too.",
        (
            ("mbecguard status", "the state in one line, then why"),
            ("mbecguard status --json", "the same for programs"),
            ("mbecguard status --json --full", "with the record and the plan that it names"),
            ("mbecguard status --host simulator", "of a lock that was only tried"),
        ),
        (*OUTPUT, "guest", "host", *SETTINGS, *_STATE),
        own=_status,
        needs=Needs.ASKS,
        remembers=True,
    ),
    Command(
        "audit",
        commands.audit,
        "Compare this guest with what was sealed",
        "It is surveyed again, by the policy of the seal, and each promise of it is looked at. The text of kernel and "
        "modules is compared with their files, also where nothing is sealed: one look at one moment, to which whoever "
        "is in the kernel can lie. The outcome is kept, also a clean one, and announced in the journal. The exit "
        "status tells whether there is executable code that the seal does not know.",
        (
            ("mbecguard audit", "the running guest, as root"),
            ("mbecguard audit --format html -o audit.html", "as a page for whoever has to sign it"),
            ("systemctl enable --now mbecguard-audit.timer", "every day"),
        ),
        (*OUTPUT, *GUEST, "host", *SETTINGS, *_FOLDERS),
        own=_format,
        remembers=True,
    ),
    Command(
        "report",
        commands.report,
        "Show the newest lock: state, evidence, plan",
        "It is read from the records of the state folder; the host is not asked. If this boot has no record, one of an "
        "earlier boot is shown, and called that.",
        (
            ("mbecguard report", "for people"),
            ("mbecguard report --json -o lock.json", "for programs, into a file"),
            ("mbecguard report --format html -o lock.html", "as one page: verdict, claims, memory, owners"),
        ),
        (*OUTPUT, "guest", "host", *SETTINGS, *_STATE),
        own=_format,
        remembers=True,
    ),
    Command(
        "metrics",
        commands.metrics,
        "Write what can be measured, for Prometheus",
        "State, reasons, kept pages by kind, denied fetches, the times of the seal and of the newest audit, and its "
        "verdict, as text that a node_exporter's textfile collector reads. The host is asked. A file is replaced as a "
        "whole, and everybody may read it. It needs the package mbecguard-report.",
        (
            ("mbecguard metrics", "look at them"),
            (
                "mbecguard metrics -o /var/lib/prometheus/node-exporter/mbecguard.prom",
                "for a node_exporter of Debian's",
            ),
            ("systemctl enable --now mbecguard-metrics.timer", "that, every minute"),
        ),
        ("output", "guest", "host", *SETTINGS, *_STATE),
        remembers=True,
    ),
    Command(
        "fleet",
        commands.fleet,
        "Show where many guests stand, by audits that were collected",
        "Of each guest the newest audit counts: pass, fail, degraded, open, stale (too old), or never (there is none). "
        "What stands out among them is told: a machine-id that two have, a kernel with other modules than most. A file "
        "that cannot be used is a finding. Exit status 5 means that not everything passes.",
        (
            ("mbecguard fleet /srv/audits", "what does not pass, and why"),
            ("mbecguard fleet /srv/audits --inventory guests.txt", "also guests that never sent an audit"),
            ("mbecguard fleet /srv/audits --format html -o fleet.html", "as one page"),
        ),
        OUTPUT,
        own=_fleet,
        needs=Needs.NONE,
        root=False,
    ),
    Command(
        "explain",
        commands.explain,
        "Explain why a page is kept or denied",
        "Give what an oops or a report shows: an address, a page frame, or a symbol. "
        "Of a sealed guest the seal answers; where a plan of today differs, that is said, too.",
        (
            ("mbecguard explain ffffffff81000000", "an address, with 0x or as an oops has it"),
            ("mbecguard explain pfn:0x74800", "a page frame, as reports have it"),
            ("mbecguard explain 'nft_do_chain+0x12/0x70 [nf_tables]'", "a symbol, as an oops has it"),
        ),
        (*OUTPUT, *GUEST, "host", *SETTINGS, *_FOLDERS),
        own=_explain,
        remembers=True,
    ),
    Command(
        "boot",
        commands.boot,
        "Lock at boot, as the service does",
        "Unless an earlier boot was locked and never confirmed: then no boot is locked until `mbecguard rearm`.",
        (
            ("systemctl enable mbecguard-lock.service", "have it done at every boot"),
            ("mbecguard boot --confirm", "this boot is good: the next one locks again"),
        ),
        ("json", *GUEST, "host", *SETTINGS, *_FOLDERS),
        own=_boot,
        needs=Needs.ASKS,
    ),
    Command(
        "rearm",
        commands.rearm,
        "Let the next boot lock again",
        "A boot that was locked and never confirmed is forgotten. First find out what happened in it.",
        (
            ("journalctl --boot=-1 -u mbecguard-lock", "what the boot before had to say"),
            ("mbecguard rearm", "then let the next one lock"),
        ),
        ("json", *_STATE),
        remembers=True,
    ),
    Command(
        "daemon",
        commands.daemon,
        "Watch this guest, and announce what changes",
        "The state is shown by systemctl status, and changes of it go to the journal. The service runs this.",
        (("systemctl enable --now mbecguard.service", "run it from now on, and at every boot"),),
        ("host", *SETTINGS, *_STATE),
        remembers=True,
    ),
    Command(
        "learn",
        commands.learn,
        "Find out which modules this guest loads late",
        "After a lock no module can be loaded. Let some boots be watched, look at the list, then write it.",
        (
            ("systemctl enable mbecguard-learn.service", "watch every boot from its beginning"),
            ("mbecguard learn show", "what came too late, and who asked for it"),
            ("mbecguard learn write --dry-run", "which files would load it before the next lock"),
            ("mbecguard learn write", "write them"),
        ),
        (*OUTPUT, "guest", "modules_dir", *_STATE),
        own=_learn,
        remembers=True,
    ),
    Command(
        "cache",
        commands.cache,
        "Read the installed kernels ahead of the lock",
        "A lock has to know the code of each module's file. What was read before is remembered; `cache warm` reads all "
        "that is installed, so that a new kernel's first boot does not have to, and forgets kernels that are gone. "
        "The packages run it where the service is enabled, whenever a kernel comes or goes.",
        (
            ("mbecguard cache warm", "all installed kernels, as root"),
            ("mbecguard cache warm --json", "what is known of each"),
        ),
        (*OUTPUT, "cache_dir"),
        own=_cache,
    ),
    Command(
        "config",
        commands.config,
        "Show the settings, and where each comes from",
        "What differs from the default is marked. The manual page mbecguard.toml(5) explains each setting.",
        (
            ("mbecguard config", "what holds now"),
            ("mbecguard config --default", "the default file, with explanations"),
        ),
        (*OUTPUT, *SETTINGS),
        own=_config,
        root=False,
    ),
    Command(
        "capture",
        commands.capture,
        "Save the facts of this guest into a folder",
        "Every command reads them again with --guest DIR, on any machine. "
        "The folder is for your eyes alone: it tells where the kernel lies, which KASLR hides.",
        (
            ("mbecguard capture /root/guest", "the running guest, as root"),
            ("mbecguard plan --guest /root/guest", "plan it, here or elsewhere"),
        ),
        ("json", *GUEST),
        own=_capture,
    ),
    Command(
        "help",
        _show_help,
        "Show the help of a command",
        "Without a command: the list of all.",
        (("mbecguard help lock", "the same as mbecguard lock --help"),),
        own=_help,
        needs=Needs.NONE,
        root=False,
    ),
)
