# SPDX-License-Identifier: GPL-2.0-or-later
"""Prints what a package needs and the tables already know: man pages, completions, the default settings.

`python -m mbecguard.manual man8|toml5|bash|zsh|fish|default-toml`
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator

from mbecguard import __version__, cli, completion
from mbecguard.completion import arguments, options, subcommands
from mbecguard.errors import Exit
from mbecguard.settings import OFF
from mbecguard.table import SYSTEM_FILE, SYSTEM_FOLDER, WORDS, Setting, by_section, default_file, toml_value

FILES = {
    f"/{SYSTEM_FILE}": "settings, see mbecguard.toml(5)",
    f"/{SYSTEM_FOLDER}/*.toml": "more settings, read after it by name",
    "/var/lib/mbecguard": "records of locks, what the service remembers of boots, what was learned",
    "/var/cache/mbecguard": "sections of kernel images and modules, parsed; can be removed at any time",
    "/dev/mbecguard": "the device of the shim, the kernel module mbecguard_shim",
}
ENVIRONMENT = {
    "XDG_STATE_HOME": "where the state folder lies for users other than root",
    "XDG_CACHE_HOME": "where the cache folder lies for users other than root",
    "NO_COLOR": "if it is set: no colours, on a terminal either",
}
UNITS = {
    "mbecguard-lock.service": "locks late in the boot, before any user but root can log in",
    "mbecguard-lock-early.service": "locks early in the boot instead; needs what `mbecguard learn write` writes",
    "mbecguard-confirm.service": "confirms a boot once boot-complete.target is reached",
    "mbecguard.service": "the daemon: watches the guest, and tells what changes",
    "mbecguard-audit.service": "compares the guest with what was sealed",
    "mbecguard-audit.timer": "starts it from time to time",
    "mbecguard-learn.service": "watches which modules the guest loads late",
    "mbecguard-learn-mark.service": "notes what the guest uses just before the lock",
}
_ABOUT = """Once, at boot, the guest says which pages are the code of its kernel, and the host takes kernel-execute away
from every other page (mode-based execute control, MBEC). From then on a kernel exploit cannot run new code in kernel
mode. Nothing is called locked before faults have shown it: exit status and `mbecguard status` say what holds."""


def man8() -> str:
    """mbecguard(8)."""
    parser = cli.parser()
    commands = subcommands(parser)
    common = _common(commands.values())
    entries = [
        *(_title("mbecguard", 8), *_section("NAME"), _text(f"mbecguard - {_lower(parser.description or '')}")),
        *_section("SYNOPSIS"),
        *_lines_between(".br", (_usage(name, of) for name, of in commands.items())),
        *(*_section("DESCRIPTION"), _text(_ABOUT)),
        *(*_section("COMMANDS"), *_commands(commands, common)),
        *(*_section("OPTIONS"), *_entries((_flags(a), a.help or "") for a in options(parser))),
        *(".PP", _text("Every command takes as well:"), *_entries((_flags(a), a.help or "") for a in common)),
        *(*_section("EXIT STATUS"), *_entries((_bold(str(int(e))), e.meaning) for e in Exit)),
        *(*_section("FILES"), *_entries((_italic(name), text) for name, text in FILES.items())),
        *(*_section("ENVIRONMENT"), *_entries((_bold(name), text) for name, text in ENVIRONMENT.items())),
        *_section("KERNEL COMMAND LINE"),
        *_entries((_bold(f"mbecguard={word}"), text) for word, text in WORDS.items()),
        ".PP",
        _text(
            f"mbecguard={OFF} wins wherever it stands; else the last word wins. An unknown word means {OFF}, and the "
            "lock is refused with a message. A recorded guest (--guest) is planned alike everywhere: the command line "
            "and the files of the machine do not count for it."
        ),
        *(*_section("UNITS"), *_entries((_bold(name), text) for name, text in UNITS.items())),
        *(*_section("SEE ALSO"), ".BR mbecguard.toml (5),", ".BR systemctl (1),", ".BR kernel\\-command\\-line (7)"),
    ]
    return "\n".join(entries) + "\n"


def toml5() -> str:
    """mbecguard.toml(5)."""
    entries = [
        *(_title("mbecguard.toml", 5), *_section("NAME"), _text("mbecguard.toml - settings of mbecguard")),
        *(*_section("SYNOPSIS"), _italic(f"/{SYSTEM_FILE}"), ".br", _italic(f"/{SYSTEM_FOLDER}/*.toml")),
        *_section("DESCRIPTION"),
        _text(
            "The files are TOML. What is set later wins: the defaults, the file, the files of the folder by name, "
            "mbecguard= on the kernel command line, the options of a command. --config FILE takes the place of the "
            f"files. mbecguard={OFF} wins over everything. `mbecguard config` shows values and where they come from."
        ),
        ".PP",
        _text(
            "An unknown name is an error, and so is a file that others than root may write. With --set a setting is "
            "written SECTION.NAME=VALUE, without quotes."
        ),
        *_section("SETTINGS"),
    ]
    for section, settings in by_section():
        entries += [f".SS [{_text(section)}]", *_entries((_setting(s), _about(s)) for s in settings)]
    entries += [*_section("EXAMPLE"), ".nf", _text('[policy]\nbpf = "drop"'), ".fi"]
    entries += [*_section("SEE ALSO"), ".BR mbecguard (8)"]
    return "\n".join(entries) + "\n"


def _setting(setting: Setting) -> str:
    return f"{_bold(setting.key.partition('.')[2])} = {_text(toml_value(setting.default))}"


def _about(setting: Setting) -> str:
    risk = f" Risk: {setting.risk}." if setting.risk else ""
    return f"{setting.help}. Values: {setting.allowed}.{risk}"


def _commands(commands: dict[str, argparse.ArgumentParser], common: list[argparse.Action]) -> Iterator[str]:
    known = {action.option_strings[0] for action in common}
    for name, parser in commands.items():
        own = [action for action in options(parser) if action.option_strings[0] not in known and action.dest != "help"]
        yield from _entries([(_usage(name, parser, short=True), parser.description or "")])
        rows = [(_flags(action), action.help) for action in (*arguments(parser), *own) if action.help]
        yield from (".RS", *_entries(rows), ".RE") if rows else ()


def _common(parsers: Iterable[argparse.ArgumentParser]) -> list[argparse.Action]:
    """Options that all of them have."""
    first, *others = parsers
    shared = set(completion.names(first)).intersection(*map(completion.names, others))
    return [action for action in options(first) if action.option_strings[0] in shared and action.dest != "help"]


def _usage(name: str, parser: argparse.ArgumentParser, *, short: bool = False) -> str:
    program = _bold(name if short else f"mbecguard {name}")
    rest = [_value(action) for action in arguments(parser)]
    return " ".join([program, *([] if short else [f"[{_italic('OPTIONS')}]"]), *rest])


def _flags(action: argparse.Action) -> str:
    flags = ", ".join(map(_bold, action.option_strings))
    return f"{flags} {_value(action)}".strip() if action.nargs != 0 else flags


def _value(action: argparse.Action) -> str:
    if action.choices:
        return "|".join(map(_bold, action.choices))
    return _italic(str(action.metavar or action.dest.upper()))


def _title(name: str, section: int) -> str:
    day = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
    return f'.TH {name.upper()} {section} {time.strftime("%Y-%m-%d", day)} "mbecguard {__version__}"'


def _section(name: str) -> tuple[str]:
    return (f".SH {name}",)


def _entries(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for head, body in rows:
        yield from (".TP", head, _text(body))


def _lines_between(line: str, lines: Iterable[str]) -> Iterator[str]:
    for number, text in enumerate(lines):
        yield from (line, text) if number else (text,)


def _lower(sentence: str) -> str:
    return (sentence[:1].lower() + sentence[1:]).rstrip(".")


def _bold(text: str) -> str:
    return f"\\fB{_text(text)}\\fR"


def _italic(text: str) -> str:
    return f"\\fI{_text(text)}\\fR"


def _text(text: str) -> str:
    """As roff shows it literally: no escapes, no requests, ASCII minus signs and quotes."""
    for plain, roff in (("\\", "\\e"), ("-", "\\-"), ("'", "\\(aq"), ("`", "\\(ga"), ("^", "\\(ha"), ("~", "\\(ti")):
        text = text.replace(plain, roff)
    return re.sub(r"^\.", r"\\&.", text, flags=re.MULTILINE)


OUTPUTS: dict[str, Callable[[], str]] = {
    "man8": man8,
    "toml5": toml5,
    "bash": lambda: completion.bash(cli.parser()),
    "zsh": lambda: completion.zsh(cli.parser()),
    "fish": lambda: completion.fish(cli.parser()),
    "default-toml": default_file,
}


def main() -> int:
    """Print one of the outputs."""
    parser = argparse.ArgumentParser(prog="python -m mbecguard.manual")
    parser.add_argument("what", choices=OUTPUTS)
    sys.stdout.write(OUTPUTS[parser.parse_args().what]())
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
