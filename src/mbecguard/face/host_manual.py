# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual of `mbecguard-host`, made from its parser and the catalogue of its findings."""

from __future__ import annotations

from mbecguard.face import host_cli, roff
from mbecguard.face.usage import options, subcommands
from mbecguard.readiness.findings import CATALOGUE
from mbecguard.values.errors import Exit

FILES = {
    "/proc/cpuinfo": "what the processors can do",
    "/dev/cpu/0/msr": "the one thing that cpuinfo does not tell; `modprobe msr` makes it",
    "/sys/module/kvm, /sys/module/kvm_intel": "the KVM that is loaded, and its parameters",
    "/sys/kernel/debug/kvm": "what the host says of each machine",
    "/proc/PID/cmdline": "how each machine was started, its name and UUID",
    "/var/lib/mbecguard-host": "which kernels keep their own KVM because ours could not be built, and why",
}
_ROOT = """
A folder that is given with --root holds these files as a host has them. Of dev/cpu/0/msr it has a text, one register a
line: its number and its value in hexadecimal, as "0x48c 0xf0106f34141".
""".strip()
_MACHINES = """
Machines are found by /proc and by KVM's own list. Those of QEMU are judged by their command line, with what it reads by
-readconfig. What the host itself says is stronger: nothing blocks a machine that is sealed.
""".strip()
_EXITS = (Exit.OK, Exit.ERROR, Exit.USAGE, Exit.REFUSED, Exit.AUDIT_MODE)


def man8() -> str:
    """mbecguard-host(8)."""
    parser = host_cli.parser()
    commands = subcommands(parser)
    entries = [
        *(roff.title(host_cli.PROGRAM, 8), *roff.section("NAME")),
        roff.plain(f"{host_cli.PROGRAM} - {roff.lower(host_cli.SUMMARY)}"),
        *(*roff.section("SYNOPSIS"), *roff.lines_between(".br", (roff.usage(*one) for one in commands.items()))),
        *(*roff.section("DESCRIPTION"), roff.plain(host_cli.ABOUT), ".PP", roff.plain(_MACHINES)),
        *(*roff.section("COMMANDS"), *roff.commands(commands, ())),
        *(*roff.section("OPTIONS"), *roff.entries((roff.flags(a), a.help or "") for a in options(parser))),
        *(*roff.section("FINDINGS"), *roff.entries((roff.bold(id_), _about(id_)) for id_ in CATALOGUE)),
        *(*roff.section("EXIT STATUS"), *roff.entries((roff.bold(str(int(e))), e.meaning) for e in _EXITS)),
        *(*roff.section("EXAMPLES"), *roff.examples(commands.values())),
        *(*roff.section("FILES"), *roff.entries((roff.italic(name), text) for name, text in FILES.items())),
        *(".PP", roff.plain(_ROOT)),
        *(*roff.section("SEE ALSO"), ".BR mbecguard (8),", ".BR dkms (8),", ".BR mokutil (1)"),
    ]
    return "\n".join(entries) + "\n"


def _about(id_: str) -> str:
    kind = CATALOGUE[id_]
    return f"({kind.severity}) {kind.text}. To do: {kind.hint}."
