# SPDX-License-Identifier: GPL-2.0-or-later
"""Prints what a package needs and the tables already know: man pages, completions, the default settings.

`python -m mbecguard.face.manual [host-]man8|[host-][bash|zsh|fish]|toml5|default-toml`
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from mbecguard.face import cli, completion, host_cli, host_manual, roff
from mbecguard.face.usage import options, subcommands
from mbecguard.records.record import State
from mbecguard.settings.declared import SYSTEM_FILE, SYSTEM_FOLDER, WORDS, Setting, by_section, default_file, toml_value
from mbecguard.settings.load import OFF
from mbecguard.values.errors import Exit
from mbecguard.values.events import Event, journal_field

FILES = {
    f"/{SYSTEM_FILE}": "settings, see mbecguard.toml(5)",
    f"/{SYSTEM_FOLDER}/*.toml": "more settings, read after it by name",
    "/var/lib/mbecguard": "records of locks, what the service remembers of boots, what was learned",
    "/var/cache/mbecguard": "sections of kernel images and modules, parsed; can be removed at any time",
    "/dev/mbecguard": "the device of the shim, the kernel module mbecguard_shim",
}
ENVIRONMENT = {
    "XDG_STATE_HOME": "where the state of captured guests is kept; that of the running guest never moves",
    "XDG_CACHE_HOME": "where sections are cached for captured guests",
    "NO_COLOR": "if it is set, there are no colours, not even on a terminal",
}
UNITS = {
    "mbecguard-lock.service": "locks late in the boot, before any user but root can log in",
    "mbecguard-lock-early.service": "locks early in the boot instead; needs what `mbecguard learn write` writes",
    "mbecguard-confirm.service": "confirms a boot once boot-complete.target is reached",
    "mbecguard.service": "the daemon: watches the guest, and tells what changes",
    "mbecguard-audit.service": "compares the guest with what was sealed",
    "mbecguard-audit.timer": "starts it every day",
    "mbecguard-metrics.service": "writes metrics where Debian's node_exporter looks for them",
    "mbecguard-metrics.timer": "starts it every minute",
    "mbecguard-learn.service": "watches which modules the guest loads late",
    "mbecguard-learn-mark.service": "notes what the guest uses just before the lock",
}
STATES = {
    State.OPEN: "no map: nothing is protected",
    State.APPLIED: "the host took a map; nothing is proven, and it can be undone. In mode audit it stays so",
    State.PROVEN: "faults were seen; it can still be undone",
    State.SEALED: "proven, pinned, and not to be undone before a reset. Only this is called locked",
    State.DEGRADED: "not what it should be; the reasons say why",
}
_OUTPUT = """
On a terminal there is text in colours, filled to its width. Elsewhere each finding is one line, with its id in
brackets, and the next line says what to do about it. With --json there is one JSON document on stdout and nothing else;
its field "schema" names its shape and version. Diagnostics go to stderr. With -o FILE the answer goes to a file.
""".strip()
_JOURNAL = """
Whatever happens to a lock is told to the systemd journal, under the identifier mbecguard. Each event has a MESSAGE_ID
that never changes, and its name in the field MBECGUARD_EVENT. Words in capitals below are fields as well, each with
MBECGUARD_ before it. `journalctl -t mbecguard -x` shows what each event means and what to do; `journalctl
MBECGUARD_EVENT=SEALED` finds one kind.
""".strip()
_ABOUT = """Once, at boot, the guest says which pages are the code of its kernel, and the host takes kernel-execute away
from every other page (mode-based execute control, MBEC). From then on a kernel exploit cannot run new code in kernel
mode. Nothing is called locked before faults have shown it: exit status and `mbecguard status` say what holds."""


def man8() -> str:
    """mbecguard(8)."""
    parser = cli.parser()
    commands = subcommands(parser)
    shared = roff.shared(commands.values())
    own = [action for action in options(parser) if not roff.is_among(action, shared)]
    entries = [
        *(roff.title("mbecguard", 8), *roff.section("NAME")),
        roff.plain(f"mbecguard - {roff.lower(parser.description or '')}"),
        *roff.section("SYNOPSIS"),
        *roff.lines_between(".br", (roff.usage(name, of) for name, of in commands.items())),
        *(*roff.section("DESCRIPTION"), roff.plain(_ABOUT)),
        *(*roff.section("COMMANDS"), *roff.commands(commands, shared)),
        *(*roff.section("OPTIONS"), *roff.entries((roff.flags(action), action.help or "") for action in own)),
        *(".PP", roff.plain("Options that several commands take; they may stand before the command as well:")),
        *roff.entries((roff.flags(action), action.help or "") for action in shared.values()),
        *(*roff.section("OUTPUT"), roff.plain(_OUTPUT)),
        *(*roff.section("STATES"), *roff.entries((roff.bold(state.value), text) for state, text in STATES.items())),
        *(*roff.section("EXIT STATUS"), *roff.entries((roff.bold(str(int(e))), e.meaning) for e in Exit)),
        *(*roff.section("EXAMPLES"), *roff.examples(commands.values())),
        *(*roff.section("FILES"), *roff.entries((roff.italic(name), text) for name, text in FILES.items())),
        *(*roff.section("ENVIRONMENT"), *roff.entries((roff.bold(name), text) for name, text in ENVIRONMENT.items())),
        *roff.section("KERNEL COMMAND LINE"),
        *roff.entries((roff.bold(f"mbecguard={word}"), text) for word, text in WORDS.items()),
        ".PP",
        roff.plain(
            f"mbecguard={OFF} wins wherever it stands; else the last word wins. An unknown word means {OFF}, and the "
            "lock is refused with a message. A captured guest (--guest) is planned alike everywhere: the command line "
            "and the files of the machine do not count for it."
        ),
        *(*roff.section("UNITS"), *roff.entries((roff.bold(name), text) for name, text in UNITS.items())),
        *(*roff.section("JOURNAL"), roff.plain(_JOURNAL), *roff.entries(map(_event, Event))),
        *(
            *roff.section("SEE ALSO"),
            ".BR mbecguard.toml (5),",
            ".BR mbecguard\\-host (8),",
            ".BR systemctl (1),",
            ".BR kernel\\-command\\-line (7)",
        ),
    ]
    return "\n".join(entries) + "\n"


def toml5() -> str:
    """mbecguard.toml(5)."""
    entries = [
        *(roff.title("mbecguard.toml", 5), *roff.section("NAME"), roff.plain("mbecguard.toml - settings of mbecguard")),
        *(*roff.section("SYNOPSIS"), roff.italic(f"/{SYSTEM_FILE}"), ".br", roff.italic(f"/{SYSTEM_FOLDER}/*.toml")),
        *roff.section("DESCRIPTION"),
        roff.plain(
            "The files are TOML. What is set later wins: the defaults, the file, the files of the folder by name, "
            "mbecguard= on the kernel command line, the options of a command. --config FILE takes the place of the "
            f"files. mbecguard={OFF} wins over everything. `mbecguard config` shows values and where they come from."
        ),
        ".PP",
        roff.plain(
            "An unknown name is a mistake, and so is a file that others than root may write. What is wrong is left "
            "out: `mbecguard status` and other commands that only look warn of it and go on with the rest. What "
            "changes a guest is refused until it is put right; `mbecguard check` and `mbecguard config` name each. "
            "With --set a setting is written SECTION.NAME=VALUE, without quotes."
        ),
        *roff.section("SETTINGS"),
    ]
    for section, settings in by_section():
        entries += [f".SS [{roff.plain(section)}]", *roff.entries((_setting(s), _about(s)) for s in settings)]
    entries += [*roff.section("EXAMPLE"), ".nf", roff.plain('[policy]\nbpf = "drop"'), ".fi"]
    entries += [*roff.section("SEE ALSO"), ".BR mbecguard (8)"]
    return "\n".join(entries) + "\n"


def _setting(setting: Setting) -> str:
    return f"{roff.bold(setting.key.partition('.')[2])} = {roff.plain(toml_value(setting.default))}"


def _about(setting: Setting) -> str:
    risk = f" Risk: {setting.risk}." if setting.risk else ""
    return f"{setting.help}. Values: {setting.allowed}.{risk}"


def _event(event: Event) -> tuple[str, str]:
    kind = event.value
    fields = {fact: journal_field(fact) for fact in kind.facts}
    more = ", ".join(fields[fact] for fact in kind.more)
    text = kind.text.format(**fields) + (f" (and {more})" if more else "")
    return f"{roff.bold(event.name)} {roff.plain(kind.message_id)}", text


OUTPUTS: dict[str, Callable[[], str]] = {
    "man8": man8,
    "toml5": toml5,
    "bash": lambda: completion.bash(cli.parser()),
    "zsh": lambda: completion.zsh(cli.parser()),
    "fish": lambda: completion.fish(cli.parser()),
    "default-toml": default_file,
    "host-man8": host_manual.man8,
    "host-bash": lambda: completion.bash(host_cli.parser()),
    "host-zsh": lambda: completion.zsh(host_cli.parser()),
    "host-fish": lambda: completion.fish(host_cli.parser()),
}


def main() -> int:
    """Print one of the outputs."""
    parser = argparse.ArgumentParser(prog="python -m mbecguard.face.manual")
    parser.add_argument("what", choices=OUTPUTS)
    sys.stdout.write(OUTPUTS[parser.parse_args().what]())
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
