# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion for bash, zsh and fish, made from the parser of the command line and the table of settings."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Iterator

from mbecguard.face.usage import arguments, names, options, subcommands, summaries
from mbecguard.settings.declared import SETTINGS, Setting

SET = "KEY=VALUE"  #: metavar of an option that takes a setting


def _values(setting: Setting) -> list[str]:
    return list(setting.choices) or (["true", "false"] if isinstance(setting.default, bool) else [])


def _with_values(settings: Iterable[Setting]) -> Iterator[tuple[str, str]]:
    yield from ((setting.key, " ".join(_values(setting))) for setting in settings if _values(setting))


def _settings(parser: argparse.ArgumentParser) -> tuple[Setting, ...]:
    """All, if one of the commands takes a setting."""
    takes = any(action.metavar == SET for of in subcommands(parser).values() for action in options(of))
    return SETTINGS if takes else ()


def _function(parser: argparse.ArgumentParser) -> str:
    return f"_{parser.prog.replace('-', '_')}"


_KEYS = " ".join(setting.key for setting in SETTINGS)


def bash(parser: argparse.ArgumentParser) -> str:
    """A script for /usr/share/bash-completion/completions; needs nothing but bash."""
    commands = subcommands(parser)
    words = "\n".join(f'        "{name}") words="{" ".join(names(of))}" ;;' for name, of in commands.items())
    given = [(f'"{name}"', action) for name, of in commands.items() for action in arguments(of)]
    keys = "\n".join(f'            "{key}") words="{values}" ;;' for key, values in _with_values(_settings(parser)))
    return f"""# bash completion of {parser.prog}

{_function(parser)}() {{
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
complete -F {_function(parser)} {parser.prog}
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
    described = "\n".join(f"        {shlex.quote(f'{name}:{text}')}" for name, text in summaries(parser).items())
    cases = "\n".join(
        f"    {name})\n        _arguments -s {_zsh_specs(of)}\n        ;;" for name, of in commands.items()
    )
    values = "\n".join(f"        {key}) compadd {values} ;;" for key, values in _with_values(_settings(parser)))
    return f"""#compdef {parser.prog}

_mbecguard_setting() {{
    if compset -P 1 '*='; then
        case ${{${{IPREFIX%=}}##*=}} in
{values}
        esac
    else
        compadd -S = -q {" ".join(setting.key for setting in _settings(parser))}
    fi
}}

{_function(parser)}() {{
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

{_function(parser)} "$@"
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
    specs += [
        f"{'*' * (a.nargs == '*')}:{_zsh_text(str(a.metavar or a.dest))}:{_zsh_value(a)}" for a in arguments(parser)
    ]
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
    complete = f"complete -c {parser.prog}"
    lines = [f"# fish completion of {parser.prog}", f"{complete} -f"]
    lines += [f"{complete} -n __fish_use_subcommand {_fish_option(a)}" for a in options(parser)]
    described = summaries(parser)
    for name, of in commands.items():
        lines.append(f"{complete} -n __fish_use_subcommand -a {name} -d {_fish_text(described[name])}")
        only = f"{complete} -n '__fish_seen_subcommand_from {name}'"
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
