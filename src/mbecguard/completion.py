# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion for bash, zsh and fish, made from the parser of the command line and the table of settings."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Iterator

from mbecguard.table import SETTINGS, Setting

SET = "KEY=VALUE"  #: metavar of an option that takes a setting


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands of a parser, in order."""
    choices = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(choices[0]) if choices else {}


def options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Its options, `--help` among them."""
    return [action for action in parser._actions if action.option_strings]


def arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Its positional arguments, without a command."""
    return [a for a in parser._actions if not a.option_strings and not isinstance(a, argparse._SubParsersAction)]


def names(parser: argparse.ArgumentParser) -> list[str]:
    """All spellings of its options."""
    return [name for action in options(parser) for name in action.option_strings]


def _values(setting: Setting) -> list[str]:
    return list(setting.choices) or (["true", "false"] if isinstance(setting.default, bool) else [])


def _with_values() -> Iterator[tuple[str, str]]:
    yield from ((setting.key, " ".join(_values(setting))) for setting in SETTINGS if _values(setting))


_KEYS = " ".join(setting.key for setting in SETTINGS)


def bash(parser: argparse.ArgumentParser) -> str:
    """A script for /usr/share/bash-completion/completions; needs nothing but bash."""
    commands = subcommands(parser)
    words = "\n".join(f'        "{name}") words="{" ".join(names(of))}" ;;' for name, of in commands.items())
    given = [(f'"{name}"', action) for name, of in commands.items() for action in arguments(of)]
    keys = "\n".join(f'            "{key}") words="{values}" ;;' for key, values in _with_values())
    return f"""# bash completion of mbecguard

_mbecguard() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} at=$((COMP_CWORD - 1)) assigned='' command='' words='' kind='' word
    # bash takes the = of --host=shim and of policy.bpf=drop for a word of its own.
    if [[ $cur == = ]]; then
        cur='' assigned=1
    elif [[ ${{COMP_WORDS[at]}} == = ]]; then
        at=$((at - 1)) assigned=1
    fi
    local prev=${{COMP_WORDS[at]}}
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD - 1}}"; do
        case $word in
        {" | ".join(commands)}) command=$word && break ;;
        esac
    done
    COMPREPLY=()
    if [[ $assigned && $prev == *.* ]]; then
        case $prev in
{keys}
        esac
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
        return
    fi
    case "$command $prev" in
{_bash_cases(_takers(commands))}
    *)
        if [[ $cur != -* ]]; then
            case $command in
            "") words="{" ".join(commands)}" kind=words ;;
{_bash_cases(given)}
            esac
        fi
        ;;
    esac
    if [[ ! $kind ]]; then
        case $command in
        "") words="{" ".join(names(parser))}" ;;
{words}
        esac
    fi
    case $kind in
    none) ;;
    files | folders)
        compopt -o filenames 2>/dev/null
        [[ $kind == files ]] && kind=-f || kind=-d
        mapfile -t COMPREPLY < <(compgen "$kind" -- "$cur")
        ;;
    *)
        [[ $kind == keys ]] && compopt -o nospace 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
        ;;
    esac
}}
complete -F _mbecguard mbecguard
"""


def _takers(commands: dict[str, argparse.ArgumentParser]) -> list[tuple[str, argparse.Action]]:
    """Patterns of "COMMAND OPTION" for options with values; a star for all commands where they agree."""
    rows = [(name, flag, a) for name, of in commands.items() for a in options(of) for flag in a.option_strings]
    kinds = {flag: {_bash_kind(a) for _, same, a in rows if same == flag} for _, flag, _ in rows}
    return [(f'*" {flag}"' if len(kinds[flag]) == 1 else f'"{name} {flag}"', action) for name, flag, action in rows]


def _bash_cases(actions: Iterable[tuple[str, argparse.Action]]) -> str:
    """One case for all that take values of the same kind."""
    cases: dict[str, dict[str, None]] = {}
    for pattern, action in actions:
        if action.nargs != 0:
            cases.setdefault(_bash_kind(action), {})[pattern] = None
    return "\n".join(f"    {' | '.join(patterns)}) {kind} ;;" for kind, patterns in cases.items())


def _bash_kind(action: argparse.Action) -> str:
    if action.choices:
        return f'words="{" ".join(action.choices)}" kind=words'
    if action.metavar == SET:
        return f'words="{" ".join(f"{key}=" for key in _KEYS.split())}" kind=keys'
    return {"FILE": "kind=files", "DIR": "kind=folders"}.get(str(action.metavar), "kind=none")


def zsh(parser: argparse.ArgumentParser) -> str:
    """A function for zsh's fpath."""
    commands = subcommands(parser)
    described = "\n".join(f"        {shlex.quote(f'{name}:{_help(of)}')}" for name, of in commands.items())
    cases = "\n".join(
        f"    {name})\n        _arguments -s {_zsh_specs(of)}\n        ;;" for name, of in commands.items()
    )
    values = "\n".join(f"        {key}) compadd {values} ;;" for key, values in _with_values())
    return f"""#compdef mbecguard

_mbecguard_setting() {{
    if compset -P 1 '*='; then
        case ${{${{IPREFIX%=}}##*=}} in
{values}
        esac
    else
        compadd -S = -q {_KEYS}
    fi
}}

_mbecguard() {{
    local curcontext=$curcontext state line
    local -a commands=(
{described}
    )
    _arguments -C {_zsh_specs(parser)} '1:command:->command' '*::argument:->argument'
    if [[ $state == command ]]; then
        _describe command commands
        return
    fi
    case $words[1] in
{cases}
    esac
}}

_mbecguard "$@"
"""


def _zsh_specs(parser: argparse.ArgumentParser) -> str:
    specs = []
    for action in options(parser):
        repeated = "*" if isinstance(action, argparse._AppendAction) else ""
        value = f":{action.metavar or action.dest}:{_zsh_value(action)}" if action.nargs != 0 else ""
        for name in action.option_strings:
            # --host=shim and --host shim, but -o FILE
            equals = "=" if value and name.startswith("--") else ""
            specs.append(f"{repeated}{name}{equals}[{_zsh_text(action.help or '')}]{value}")
    specs += [f":{_zsh_text(str(a.metavar or a.dest))}:{_zsh_value(a)}" for a in arguments(parser)]
    return " ".join(shlex.quote(spec) for spec in specs)


def _zsh_value(action: argparse.Action) -> str:
    if action.choices:
        return f"({' '.join(action.choices)})"
    known = {SET: "_mbecguard_setting", "FILE": "_files", "DIR": "_files -/"}
    return known.get(str(action.metavar), " ")


def _zsh_text(text: str) -> str:
    return "".join(f"\\{c}" if c in ":[]\\" else c for c in text)


def fish(parser: argparse.ArgumentParser) -> str:
    """A script for fish's vendor_completions.d."""
    commands = subcommands(parser)
    lines = ["# fish completion of mbecguard", "complete -c mbecguard -f"]
    lines += [f"complete -c mbecguard -n __fish_use_subcommand {_fish_option(a)}" for a in options(parser)]
    for name, of in commands.items():
        lines.append(f"complete -c mbecguard -n __fish_use_subcommand -a {name} -d {_fish_text(_help(of))}")
        only = f"complete -c mbecguard -n '__fish_seen_subcommand_from {name}'"
        lines += [f"{only} {_fish_option(action)}" for action in options(of)]
        lines += [f"{only} {value}" for action in arguments(of) if (value := _fish_value(action))]
    return "\n".join(lines) + "\n"


def _fish_option(action: argparse.Action) -> str:
    flags = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in action.option_strings]
    # -x: a value, but not any file
    value = f" {'-r' if action.metavar == 'FILE' else '-x'} {_fish_value(action)}" if action.nargs != 0 else ""
    return f"{' '.join(flags)}{value} -d {_fish_text(action.help or '')}"


def _fish_value(action: argparse.Action) -> str:
    words = {
        "FILE": "-F",
        "DIR": "-a '(__fish_complete_directories)'",
        SET: f"-a {_fish_text(' '.join([*(f'{key}=' for key in _KEYS.split()), *_pairs()]))}",
    }
    if action.choices:
        return f"-a {_fish_text(' '.join(action.choices))}"
    return words.get(str(action.metavar), "")


def _pairs() -> list[str]:
    return [f"{setting.key}={value}" for setting in SETTINGS for value in _values(setting)]


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _help(parser: argparse.ArgumentParser) -> str:
    return parser.description or ""
