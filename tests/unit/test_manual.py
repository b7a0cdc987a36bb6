# SPDX-License-Identifier: GPL-2.0-or-later
"""Man pages and completions, judged by mandoc, by what `--help` says, and by shells."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mbecguard.face import cli, completion, host_cli
from mbecguard.face.manual import OUTPUTS, STATES, UNITS
from mbecguard.face.options import BEFORE, BY_DEST
from mbecguard.face.table import COMMANDS
from mbecguard.readiness.findings import CATALOGUE
from mbecguard.records.record import State
from mbecguard.settings.declared import SETTINGS, WORDS, default_file
from mbecguard.values.errors import Exit
from mbecguard.values.events import Event

ROOT = Path(__file__).parents[2]
PAGES = ("man8", "toml5", "host-man8")

needs_mandoc = pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is not installed")
Complete = Callable[..., list[str]]


def shell(*command: str, text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def helped(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """What argparse itself prints."""
    with pytest.raises(SystemExit):
        cli.main([*command, "--help"])
    return capsys.readouterr().out


def help_options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text.partition("options:")[2].partition("\nexamples:")[0]))


def help_commands(text: str) -> list[str]:
    return re.findall(r"^    ([a-z]+) ", text.partition("COMMAND\n")[2], re.MULTILINE)


def rendered(page: str) -> str:
    """The page as a person sees it, in one line, all spaces alike."""
    text = shell("mandoc", "-T", "ascii", "-O", "width=1000", text=OUTPUTS[page]())
    return " ".join(re.sub(r".\x08", "", text).split())


@pytest.mark.parametrize("what", ["man8", "bash"])
def test_the_program_prints_it(what: str, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(ROOT / "src"), "SOURCE_DATE_EPOCH": "86400"}
    command = [sys.executable, "-m", "mbecguard.face.manual", what]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=environment, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == re.sub(r"(?<= 8 )[-0-9]{10}", "1970-01-02", OUTPUTS[what](), count=1)


def test_the_default_file_is_one_of_them() -> None:
    assert OUTPUTS["default-toml"]() == default_file()


@needs_mandoc
@pytest.mark.parametrize("page", PAGES)
def test_mandoc_has_no_complaint(page: str) -> None:
    shell("mandoc", "-T", "lint", "-W", "warning", text=OUTPUTS[page]())


@needs_mandoc
def test_mandoc_would_complain() -> None:
    broken = OUTPUTS["man8"]().replace(".RE\n", "", 1) + ".RE\n.RE\n.SH\n"
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning"], input=broken, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode


@needs_mandoc
def test_man8_tells_what_help_tells(capsys: pytest.CaptureFixture[str]) -> None:
    page = rendered("man8")
    commands = help_commands(helped(capsys))
    assert {"check", "lock", "config"} <= set(commands)
    synopsis = page.partition(" SYNOPSIS ")[2].partition(" DESCRIPTION ")[0]
    assert re.findall(r"mbecguard (\w+) \[", synopsis) == commands
    for command in commands:
        for option in help_options(helped(capsys, command)):
            assert f" {option} " in page.replace(",", " "), (command, option)
        described = helped(capsys, command).split("\n\n")[1]
        assert " ".join(described.split()) in page
    assert "0x... address, pfn:0x... page frame, or a symbol" in page
    assert "Lock this guest's kernel code" in page


@needs_mandoc
def test_man8_tells_statuses_words_and_units() -> None:
    page = rendered("man8")
    statuses = page.partition(" EXIT STATUS ")[2].partition(" EXAMPLES ")[0]
    assert statuses == " ".join(f"{int(status)} {status.meaning}" for status in Exit)
    assert all(f"mbecguard={word} {text}" in page for word, text in WORDS.items())
    assert all(f"{unit} {text}" in page for unit, text in UNITS.items())


@needs_mandoc
def test_man8_tells_states_events_and_examples() -> None:
    page = rendered("man8")
    assert all(f" {state.value} {text}" in page for state, text in STATES.items())
    assert set(STATES) == set(State)
    journal = page.partition(" JOURNAL ")[2]
    for event in Event:
        assert f"{event.name} {event.value.message_id} {re.sub('{(.+?)}', _field, event.value.text)}" in journal
    for command in COMMANDS:
        assert command.examples
        assert all(f" {line} {text}" in page for line, text in command.examples)


def _field(match: re.Match[str]) -> str:
    return f"MBECGUARD_{match[1].upper()}"


def test_every_unit_is_in_the_manual() -> None:
    files = {path.name for path in (ROOT / "systemd").iterdir() if path.suffix in {".service", ".timer"}}
    assert files == set(UNITS)


@needs_mandoc
def test_the_host_s_page_tells_options_findings_and_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    page = rendered("host-man8")
    with pytest.raises(SystemExit):
        host_cli.main(["check", "--help"])
    told = capsys.readouterr().out
    assert {"--root", "--no-machines", "--json"} <= help_options(told)
    for option in help_options(told):
        assert f" {option} " in page.replace(",", " "), option
    for id_, kind in CATALOGUE.items():
        assert f" {id_} ({kind.severity}) {kind.text}. To do: {kind.hint}." in page
    assert all(f" {line} {text}" in page for line, text in host_cli.EXAMPLES)
    assert f"3 {Exit.REFUSED.meaning}" in page


@needs_mandoc
def test_toml5_tells_the_whole_table() -> None:
    page = rendered("toml5")
    for setting in SETTINGS:
        name = setting.key.partition(".")[2]
        value = f'"{setting.default}"' if isinstance(setting.default, str) else str(setting.default).lower()
        assert f"{name} = {value} {setting.help}. Values: {setting.allowed}." in page
        assert setting.risk in page


@needs_mandoc
@pytest.mark.parametrize("text", [".TH", "'x", "a\\fBb", "-o --x", '`a` ~ ^ "q"', "a\n.b", "\\"])
def test_text_comes_out_as_it_went_in(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def parser() -> argparse.ArgumentParser:
        top = argparse.ArgumentParser(prog="mbecguard", description="x")
        top.add_subparsers().add_parser("one", description=f"<{text}>").add_argument("--flag", help=text)
        return top

    monkeypatch.setattr("mbecguard.face.cli.parser", parser)
    assert f"<{' '.join(text.split())}>" in rendered("man8")


HARNESS = """
source "$1"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
"$(complete -p "$1" | sed 's/.*-F \\([^ ]*\\).*/\\1/')"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def complete(tmp_path: Path) -> Complete:
    """What bash offers for the last word; `=` is a word of its own, as COMP_WORDBREAKS has it."""
    script = tmp_path / "completion"
    script.write_text(OUTPUTS["bash"]())

    def ask(*words: str, cwd: Path = tmp_path) -> list[str]:
        command = ["bash", "--norc", "-c", f"cd {cwd}\n{HARNESS}", "bash", str(script), "mbecguard", *words]
        return [line for line in shell(*command).splitlines() if line]

    return ask


@pytest.mark.parametrize("what", ["bash", "host-bash"])
def test_bash_finds_no_fault(what: str, tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(OUTPUTS[what]())
    shell("bash", "-n", str(script))


def test_bash_completes_the_host_s_program_too(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(OUTPUTS["host-bash"]())

    def ask(*words: str) -> list[str]:
        return shell("bash", "--norc", "-c", HARNESS, "bash", str(script), "mbecguard-host", *words).split()

    assert ask("") == ["check", "witness", "help"]
    assert ask("check", "--no") == ["--no-machines"]
    (tmp_path / "host").mkdir()
    assert ask("check", "--root", f"{tmp_path}/") == [f"{tmp_path}/host"]


def test_bash_offers_commands(complete: Complete, capsys: pytest.CaptureFixture[str]) -> None:
    commands = help_commands(helped(capsys))
    assert complete("") == commands
    assert complete("stat") == ["status"]
    assert set(complete("-")) == {"-h", "--help", "--version", *(flag for d in BEFORE for flag in BY_DEST[d].flags)}
    assert complete("help", "re") == ["report", "rearm"]
    assert complete("--json", "stat") == ["status"]
    assert complete("--json", "status", "--js") == ["--json"]


def test_bash_offers_what_help_tells(complete: Complete, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("check", "lock", "status", "config"):
        assert set(complete(command, "-")) == help_options(helped(capsys, command))
    assert complete("lock", "--json", "--dr") == ["--dry-run"]
    assert complete("status", "--dr") == []


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["lock", "--mode", ""], ["enforce", "audit"]),
        (["lock", "--mode", "=", "au"], ["audit"]),
        (["lock", "--mode", "="], ["enforce", "audit"]),
        (["plan", "--host", "s"], ["shim", "simulator"]),
        (["plan", "--set", "policy.b"], ["policy.bpf="]),
        (["plan", "--set", "policy.bpf", "="], ["keep", "drop"]),
        (["plan", "--set", "policy.bpf", "=", "d"], ["drop"]),
        (["plan", "--set", "=", "policy.deny_unexplained", "=", ""], ["true", "false"]),
        (["plan", "--set", "boot.settle", "=", ""], []),
        (["plan", "--set", "lock.mode", "=", "audit", "--set", "lock.h"], ["lock.host="]),
        (["report", "--format", ""], ["text", "json", "html"]),
        (["explain", "_te"], []),
        (["--version", "repo"], ["report"]),
    ],
    ids=" ".join,
)
def test_bash_offers_values(complete: Complete, words: list[str], offered: list[str]) -> None:
    assert complete(*words) == offered


def test_bash_offers_every_setting(complete: Complete) -> None:
    assert complete("plan", "--set", "") == [f"{setting.key}=" for setting in SETTINGS]


def test_bash_offers_files_and_folders(complete: Complete, tmp_path: Path) -> None:
    place = tmp_path / "place"
    (place / "a folder").mkdir(parents=True)
    (place / "a file").touch()
    assert complete("plan", "--guest", "a", cwd=place) == ["a folder"]
    assert complete("capture", "a", cwd=place) == ["a folder"]
    assert sorted(complete("plan", "--config", "a", cwd=place)) == ["a file", "a folder"]
    assert sorted(complete("plan", "-o", "a f", cwd=place)) == ["a file", "a folder"]


def test_what_is_added_to_the_parser_appears(tmp_path: Path) -> None:
    top = argparse.ArgumentParser(prog="mbecguard")
    commands = top.add_subparsers()
    brew = commands.add_parser("brew", description="make tea")
    brew.add_argument("what", choices=("green", "black"))
    brew.add_argument("--strength", choices=("weak", "strong"), help="it's [up] to: you")
    commands.add_parser("pour", description="pour it").add_argument("--strength", type=Path, metavar="DIR")
    script = tmp_path / "completion"
    script.write_text(completion.bash(top))

    def ask(*words: str) -> list[str]:
        return shell("bash", "--norc", "-c", HARNESS, "bash", str(script), "mbecguard", *words).split()

    (tmp_path / "cup").mkdir()
    assert ask("") == ["brew", "pour"]
    assert ask("brew", "g") == ["green"]
    assert ask("brew", "--strength", "s") == ["strong"]
    assert ask("pour", "--strength", f"{tmp_path}/c") == [f"{tmp_path}/cup"]
    zsh, fish = completion.zsh(top), completion.fish(top)
    assert "'brew:make tea'" in zsh
    assert "--strength=[it'\"'\"'s \\[up\\] to\\: you]:strength:(weak strong)" in zsh
    assert "-n '__fish_seen_subcommand_from brew' -l strength -x -a 'weak strong' -d 'it\\'s [up] to: you'" in fish


@pytest.mark.parametrize("name", ["zsh", "fish", "host-zsh", "host-fish"])
def test_other_shells_find_no_fault(name: str, tmp_path: Path) -> None:
    program = name.removeprefix("host-")
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    script = tmp_path / "script"
    script.write_text(OUTPUTS[name]())
    shell(program, "-n", str(script))
