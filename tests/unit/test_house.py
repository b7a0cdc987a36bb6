# SPDX-License-Identifier: GPL-2.0-or-later
"""The house of docs/DESIGN.md, section 2: a room imports only from rooms below it, and only the faces print."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mbecguard

SOURCE = Path(mbecguard.__file__).parent
#: From the ground up; rooms on one floor may import each other only within a folder.
FLOORS = (
    {"__init__"},
    {"values"},
    {"settings", "device", "bpf", "readiness"},
    {"host"},
    {"image", "witness"},
    {"guest"},
    {"plan", "text"},
    {"records"},
    {"switches"},
    {"lock", "learn", "audit"},
    {"session", "fleet"},
    {"reports"},
    {"service"},
    {"face"},
    {"__main__"},
)
FILES = sorted(SOURCE.rglob("*.py"))


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


def imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mbecguard":
            names = {f"mbecguard.{alias.name}" for alias in node.names}
            known = {name for name in names if (SOURCE / f"{room(name)}.py").exists() or (SOURCE / room(name)).is_dir()}
            found |= known if node.module == "mbecguard" and known else {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "mbecguard"}
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_rooms_import_downwards(file: Path) -> None:
    own = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    for module in imports(ast.parse(file.read_text())):
        below = floor(room(module)) < floor(own)
        assert below or room(module) == own, f"{own} must not import {module}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_only_the_faces_print(file: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    printing = any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls)
    assert not printing or file.parent.name == "face"


def test_nothing_lies_loose() -> None:
    loose = {path.stem for path in SOURCE.glob("*.py")}
    assert loose == {"__init__", "__main__", "bpf", "device"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_errors_of_the_system_are_told_in_words(file: Path) -> None:
    """`{error}` of an OSError would be "[Errno 20] Not a directory: '...'"; there are strerror and plainly()."""
    for handler in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ExceptHandler)):
        caught = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)} if handler.type else set()
        shown = [node.value for node in ast.walk(handler) if isinstance(node, ast.FormattedValue)]
        raw = any(isinstance(value, ast.Name) and value.id == handler.name for value in shown)
        assert not (raw and "OSError" in caught), f"line {handler.lineno}"
