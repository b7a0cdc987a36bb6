# SPDX-License-Identifier: GPL-2.0-or-later
"""The one table of commands: what each does, takes and needs. Help, manual and completions are made from it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from mbecguard.face.options import GUEST, OUTPUT, PLAN, SETTINGS, Option, path, switch
from mbecguard.face.usage import COMMAND


class Needs(Enum):
    """What a command wants of the settings. One typo in a file must not make a sealed guest unreadable."""

    NONE = "none"
    READABLE = "readable"  #: goes on with those that can be read, and warns of the rest
    ASKS = "asks"  #: as READABLE, but its answer, or the command itself, says what is wrong
    CLEAN = "clean"  #: refuses to run if anything is wrong


class Command(NamedTuple):
    """One command; the function of its name in commands.py runs it.

    `options` are names of the shared ones, `own` are those that no other has. `advice` has hints for values that people
    try, and that are none.
    """

    name: str
    summary: str
    about: str
    examples: tuple[tuple[str, str], ...]
    options: tuple[str, ...] = ()
    own: tuple[Option, ...] = ()
    one_of_own: bool = False  #: its own options exclude each other
    advice: Mapping[str, str] = MappingProxyType({})
    needs: Needs = Needs.READABLE
    root: bool = True  #: of a running guest everything is for root alone
    remembers: bool = False  #: tells of the past: a state folder that is not there is a mistake, not an open guest
    stays: bool = False  #: stays in memory, see stay.py; it has no function in commands.py


_FORMAT = Option(
    ("--format",),
    "how to show it; html: one page by itself, which needs the package mbecguard-report",
    {"choices": ("text", "json", "html"), "default": "text"},
)

_STATE = ("state_dir",)
_FOLDERS = ("state_dir", "cache_dir")

_OF_A_GUEST = (
    Command(
        "check",
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
        own=(
            Option(("--mode",), "what the host does with a denied fetch", setting="lock.mode"),
            switch("--dry-run", "the same as `mbecguard check`: change nothing"),
        ),
        advice={
            "off": "a sealed guest is unlocked by a reset alone; "
            'to keep a guest from locking set lock.mode = "off", or boot it with mbecguard=off'
        },
        needs=Needs.ASKS,
    ),
    Command(
        "status",
        "Show in which state this guest is",
        "The host is asked first, then what is remembered of this boot. The exit status says it, too.",
        (
            ("mbecguard status", "the state in one line, then why"),
            ("mbecguard status --json", "the same for programs"),
            ("mbecguard status --json --full", "with the record and the plan that it names"),
            ("mbecguard status --host simulator", "of a lock that was only tried"),
        ),
        (*OUTPUT, "guest", "host", *SETTINGS, *_STATE),
        own=(switch("--full", "the whole record of this boot as well, and its plan"),),
        needs=Needs.ASKS,
        remembers=True,
    ),
    Command(
        "audit",
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
        own=(_FORMAT,),
        remembers=True,
    ),
    Command(
        "report",
        "Show the newest lock: state, evidence, plan",
        "It is read from the records of the state folder; the host is not asked. If this boot has no record, one of an "
        "earlier boot is shown, and called that.",
        (
            ("mbecguard report", "for people"),
            ("mbecguard report --json -o lock.json", "for programs, into a file"),
            ("mbecguard report --format html -o lock.html", "as one page: verdict, claims, memory, owners"),
        ),
        (*OUTPUT, "guest", "host", *SETTINGS, *_STATE),
        own=(_FORMAT,),
        remembers=True,
    ),
    Command(
        "metrics",
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
        own=(
            Option(("dir",), "a folder of collected audits, *.json", {"type": path, "metavar": "DIR"}),
            Option(
                ("--format",),
                "how to show it; html: one page by itself; ocsf: events for a SIEM, one in a line",
                {"choices": ("text", "json", "html", "csv", "ocsf"), "default": "text"},
            ),
            Option(
                ("--inventory",),
                "guests that should be there: a host name, machine-id or UUID in each line",
                {"type": path, "metavar": "FILE"},
            ),
            Option(
                ("--stale-after",),
                "after how many an audit is too old (%(default)s)",
                {"type": int, "default": 48, "metavar": "HOURS"},
            ),
        ),
        needs=Needs.NONE,
        root=False,
    ),
    Command(
        "explain",
        "Explain why a page is kept or denied",
        "Give what an oops or a report shows: an address, a page frame, or a symbol. "
        "Of a sealed guest the seal answers; where a plan of today differs, that is said, too.",
        (
            ("mbecguard explain ffffffff81000000", "an address, with 0x or as an oops has it"),
            ("mbecguard explain pfn:0x74800", "a page frame, as reports have it"),
            ("mbecguard explain 'nft_do_chain+0x12/0x70 [nf_tables]'", "a symbol, as an oops has it"),
        ),
        (*OUTPUT, *GUEST, "host", *SETTINGS, *_FOLDERS),
        own=(Option(("what",), "0x... address, pfn:0x... page frame, or a symbol", {"metavar": "ADDRESS|PFN|SYMBOL"}),),
        remembers=True,
    ),
    Command(
        "boot",
        "Lock at boot, as the service does",
        "Unless an earlier boot was locked and never confirmed: then no boot is locked until `mbecguard rearm`.",
        (
            ("systemctl enable mbecguard-lock.service", "have it done at every boot"),
            ("mbecguard boot --confirm", "this boot is good: the next one locks again"),
        ),
        ("json", *GUEST, "host", *SETTINGS, *_FOLDERS),
        own=(
            switch("--confirm", "note that this boot is good: the next one may lock"),
            switch("--leave", "note that this boot is shut down in order, at shutdown"),
            switch("--early", "lock only if `learn write` has listed what to load before"),
        ),
        one_of_own=True,
        needs=Needs.ASKS,
    ),
    Command(
        "rearm",
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
        "Watch this guest, and announce what changes",
        "The state is shown by systemctl status, and changes of it go to the journal. The service runs this.",
        (("systemctl enable --now mbecguard.service", "run it from now on, and at every boot"),),
        ("host", *SETTINGS, *_STATE),
        remembers=True,
        stays=True,
    ),
    Command(
        "learn",
        "Find out which modules this guest loads late",
        "After a lock no module can be loaded. Let some boots be watched, look at the list, then write it.",
        (
            ("systemctl enable mbecguard-learn.service", "watch every boot from its beginning"),
            ("mbecguard learn show", "what came too late, and who asked for it"),
            ("mbecguard learn write --dry-run", "which files would load it before the next lock"),
            ("mbecguard learn write", "write them"),
        ),
        (*OUTPUT, "guest", "modules_dir", *_STATE),
        own=(
            Option(("what",), "begin to watch, tell, or write what to load", {"choices": ("start", "show", "write")}),
            Option(("--profile",), "which lock to prepare for", {"choices": ("late", "early"), "default": "late"}),
            switch("-n", "--dry-run", "write: show the files only"),
            switch("--quiet", "show: only keep what was seen in this boot"),
        ),
        remembers=True,
    ),
    Command(
        "cache",
        "Read the installed kernels ahead of the lock",
        "A lock has to know the code of each module's file. What was read before is remembered; `cache warm` reads all "
        "that is installed, so that a new kernel's first boot does not have to, and forgets kernels that are gone. "
        "The packages run it where the service is enabled, whenever a kernel comes or goes.",
        (
            ("mbecguard cache warm", "all installed kernels, as root"),
            ("mbecguard cache warm --json", "what is known of each"),
        ),
        (*OUTPUT, "cache_dir"),
        own=(Option(("what",), "read all kernels and modules that are installed", {"choices": ("warm",)}),),
    ),
    Command(
        "config",
        "Show the settings, and where each comes from",
        "What differs from the default is marked. The manual page mbecguard.toml(5) explains each setting.",
        (
            ("mbecguard config", "what holds now"),
            ("mbecguard config --default", "the default file, with explanations"),
        ),
        (*OUTPUT, *SETTINGS),
        own=(
            switch("--show", "every setting (this is done without an option too)"),
            switch("--default", "the default settings, as a file with explanations"),
        ),
        one_of_own=True,
        root=False,
    ),
    Command(
        "capture",
        "Save the facts of this guest into a folder",
        "Every command reads them again with --guest DIR, on any machine. "
        "The folder is for your eyes alone: it tells where the kernel lies, which KASLR hides.",
        (
            ("mbecguard capture /root/guest", "the running guest, as root"),
            ("mbecguard plan --guest /root/guest", "plan it, here or elsewhere"),
        ),
        ("json", *GUEST),
        own=(Option(("dir",), "a new folder; what is in it gives KASLR away", {"type": path, "metavar": "DIR"}),),
    ),
)

#: Shown by cli.py itself: it needs no guest.
HELP = Command(
    "help",
    "Show the help of a command",
    "Without a command: the list of all.",
    (("mbecguard help lock", "the same as mbecguard lock --help"),),
    own=(
        Option(
            ("topic",),
            "one of the commands",
            {"nargs": "?", "choices": [*(command.name for command in _OF_A_GUEST), "help"], "metavar": COMMAND},
        ),
    ),
    needs=Needs.NONE,
    root=False,
)
COMMANDS: tuple[Command, ...] = (*_OF_A_GUEST, HELP)
NAMES = frozenset(command.name for command in COMMANDS)
