# SPDX-License-Identifier: GPL-2.0-or-later
"""The documents say what the tables say, and what they refer to is there."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from mbecguard.face.cli import parser
from mbecguard.face.host_cli import parser as host_parser
from mbecguard.guest.captured import COMPRESSED, COPIED, OPTIONAL
from mbecguard.records.record import State, Step
from mbecguard.settings.declared import BY_KEY, SECTIONS
from mbecguard.switches import SWITCHES
from mbecguard.values.errors import Exit, UserError
from tests.unit.test_house import FLOORS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
HACKING = (ROOT / "HACKING.md").read_text()
CONCEPTS = (ROOT / "docs/CONCEPTS.md").read_text()
DESIGN = (ROOT / "docs/DESIGN.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
WIDTH = 140
#: The names of steps in prose.
STEPS = {Step.RESURVEY: "survey again", Step.LAST_SURVEY: "last survey", Step.ONE_WAY: "one-way switches"}


#: Where the project's own files are; whatever tools leave beside them is not.
PLACES = ("docs", "hypercall-shim", "kvm-host", "packaging", "src", "systemd", "tests", "tools")


def files(*patterns: str) -> list[Path]:
    """The project's files by name."""
    own = [path for place in PLACES for pattern in patterns for path in (ROOT / place).rglob(pattern)]
    return sorted({*own, *(path for pattern in patterns for path in ROOT.glob(pattern))})


DOCUMENTS = files("*.md")
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def commands() -> set[str]:
    (action,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return set(action.choices)


def section(text: str, title: str) -> str:
    """What stands below a heading, up to the next one of its level or higher."""
    level = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert level, title
    rest = text[level.end() :]
    following = re.search(rf"^#{{1,{len(level[1])}}} ", rest, re.MULTILINE)
    return rest[: following.start()] if following else rest


def rows(text: str) -> list[list[str]]:
    """The cells of the tables in a text, without heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = {number for number, line in enumerate(lines[1:]) if re.fullmatch(r"[|\s:-]+", line)}
    kept = (line for number, line in enumerate(lines) if number not in heads and not re.fullmatch(r"[|\s:-]+", line))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in kept]


def code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_readme_lists_every_command() -> None:
    assert set(re.findall(r"^\| `mbecguard (\w+)", README, re.MULTILINE)) == commands()


def test_design_lists_every_command() -> None:
    listed = [name for row in rows(section(DESIGN, "Commands")) for name in code(row[0])]
    assert sorted(listed) == sorted(commands())


def test_readme_lists_every_exit_status() -> None:
    text = README.partition("Exit status:")[2].partition("\n\n")[0]
    assert {int(number) for number in re.findall(r"(?:^|; ?|\s)(\d) \w", text)} == set(map(int, Exit))


def test_design_lists_every_exit_status() -> None:
    listed = rows(section(DESIGN, "Exit statuses"))
    assert listed == [[str(int(status)), status.meaning] for status in Exit]


def test_readme_has_the_steps_it_names_in_order() -> None:
    """A reader's short version; the design has them all."""
    named = re.findall(r"[\w -]+", README.partition("| lock: ")[2].partition(";")[0])
    order = [STEPS.get(step, step.value) for step in Step]
    assert [order.index(name.strip()) for name in named] == sorted(order.index(name.strip()) for name in named)
    assert {"prove", "seal"} <= {name.strip() for name in named}


def test_readme_lists_every_document() -> None:
    listed = set(re.findall(r"\]\(([\w/.-]+\.md)", section(README, "Documents")))
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")} <= listed


def test_design_has_the_steps_in_order() -> None:
    text = section(DESIGN, "4. The lock is a transaction")
    told = text.partition("\n\n    ")[2].partition("\n\n")[0].split("->")
    assert [step.strip() for step in told] == [STEPS.get(step, step.value) for step in Step]


def test_concepts_explains_every_state() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", CONCEPTS, re.MULTILINE)) == {state.value for state in State}


def test_design_names_every_state() -> None:
    (line,) = (line for line in DESIGN.splitlines() if line.startswith("States are"))
    assert code(line) == [state.value for state in State]


def test_documented_make_targets_exist() -> None:
    text = "".join(path.read_text() for path in DOCUMENTS)
    targets = set(re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE))
    assert set(re.findall(r"(?:`|^    )make ([a-z]+)", text, re.MULTILINE)) <= targets


def test_concepts_explains_every_switch() -> None:
    assert set(re.findall(r"^\| `(freeze\.\w+)` \|", CONCEPTS, re.MULTILINE)) == {s.setting for s in SWITCHES}


@each_document
def test_settings_that_are_named_exist(document: Path) -> None:
    names = re.compile(rf"(?:{'|'.join(SECTIONS)})\.(?!py|json)[a-z_]+(?![\w.])")
    found = {match[0] for span in code(document.read_text()) if (match := names.match(span))}
    assert found <= set(BY_KEY)


def test_design_has_the_rooms_of_the_house() -> None:
    told = {int(row[0]): set(code(row[1])) for row in rows(section(DESIGN, "2. The house"))}
    assert told == dict(enumerate(FLOORS))


def test_hacking_tells_where_to_look() -> None:
    source = ROOT / "src/mbecguard"
    table = dict(rows(section(HACKING, "The house")))
    told = {code(place)[0].removesuffix("/").removesuffix(".py") for place in table}
    assert told == {room for floor in FLOORS for room in floor if not room.startswith("__")}
    for place, text in table.items():
        for name in re.findall(r"`(\w+\.py|\w+/)`", text):
            assert (source / code(place)[0] / name).exists(), name


def test_design_lists_what_a_capture_copies() -> None:
    """In the folder's row, by the name of the file or of the folder that it is in."""
    table = {place: text for names, text in rows(section(DESIGN, "The captured guest")) for place in code(names)}
    for path in (*COPIED, *OPTIONAL, *COMPRESSED):
        top, name = path.split("/")[:2]
        assert name in table[f"{top}/"], path


@each_document
def test_lines_are_not_too_long(document: Path) -> None:
    long = {number: len(line) for number, line in enumerate(document.read_text().splitlines(), 1) if len(line) > WIDTH}
    assert not long


def command_lines(text: str) -> list[str]:
    """What documents tell to type, without what a shell makes of the rest of the line."""
    typed = re.findall(
        r"(?:`|^    (?:# )?|; |&& |\| |sudo |ssh \w+ )(mbecguard(?:-host)? [^`\n#|<>;]+)", text, re.MULTILINE
    )
    return [line.strip() for line in typed if not re.match(r"mbecguard(-host)? (COMMAND|help)", line)]


def wrong(line: str) -> str:
    """What is wrong with a command line; a command by its name alone may want more."""
    program, *words = shlex.split(line)
    known = host_parser() if program == "mbecguard-host" else parser()
    try:
        known.parse_args([words[0], "--help"] if len(words) == 1 else words)
    except SystemExit as end:
        return f"status {end.code}" if end.code else ""
    except UserError as error:
        return error.message
    return ""


@each_document
def test_commands_that_are_told_can_be_given(document: Path) -> None:
    assert not {line: wrong(line) for line in command_lines(document.read_text()) if wrong(line)}


@pytest.mark.parametrize("words", ["adit", "audit --html", "learn rite", "report --format pdf", "explain 1 2"])
def test_commands_that_are_wrong_are_noticed(words: str) -> None:
    (line,) = command_lines(f"\n    # mbecguard {words}  # why\n")
    assert wrong(line)


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    prose = re.sub(r"`[^`]*`", "", document.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path) if path else document
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text()), target


def anchors(text: str) -> set[str]:
    """Of headings, as GitHub and GitLab make them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_sections_of_the_design_that_are_cited_exist() -> None:
    numbers = set(re.findall(r"^## (\d+)\. ", DESIGN, re.MULTILINE))
    cited = 0
    for path in files("*.py", "*.md", "*.c", "*.h", "*.sh", "*.service", "Makefile"):
        for place, number in re.findall(r"([\w/.]*)\bDESIGN(?:\.md)?,? section (\d+)", path.read_text()):
            assert (place, number in numbers) == ("docs/", True), path
            cited += 1
    assert cited


def test_nothing_refers_to_what_is_outside() -> None:
    """The tree is all that its readers have."""
    outside = re.compile(r"\.\./shared|(?<![\w./])/work/|\bLAB\.md\b")
    for path in files("*.py", "*.md", "*.c", "*.h", "*.sh", "*.service", "*.toml", "Makefile"):
        if path != Path(__file__):
            assert not outside.search(path.read_text()), path
