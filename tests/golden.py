# SPDX-License-Identifier: GPL-2.0-or-later
"""What an audit of each captured guest answers to programs, kept in tests/corpus/golden. `make golden` writes it again.

Left out is what differs from run to run, and the sentences: programs match ids.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from mbecguard.face import cli
from mbecguard.values.errors import Exit
from tests import corpus

FOLDER = corpus.STORED.parent / "golden"
#: Of one moment, of one run of the simulated host, of this version; and what is written for people.
CHANGING = {
    *("time", "sealed", "generation", "map_digest", "plan_digest", "record_digest", "agent"),
    *("text", "hint", "evidence", "action", "uncovered"),
}


def answers(guest: Path, scratch: Path) -> dict[str, str]:
    """An audit of a captured guest, which is locked on the simulator first: in each format."""
    where = ["--guest", str(guest), "--host", "simulator"]
    where += ["--state-dir", str(scratch / "state"), "--cache-dir", str(scratch / "cache")]
    found = {}
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        assert cli.main(["lock", *where]) == Exit.OK
        for form in ("text", "json", "html"):
            file = scratch / f"audit.{form}"
            assert cli.main(["audit", *where, "--format", form, "--output", str(file)]) == Exit.OK
            found[form] = file.read_text()
    return found


def stable(value: Any) -> Any:
    """The same for each run, whatever it says in words."""
    if isinstance(value, dict):
        return {key: stable(item) for key, item in value.items() if key not in CHANGING}
    return [stable(item) for item in value] if isinstance(value, list) else value


def text_of(answer: str) -> str:
    """An answer as it is kept: a line for each of many things that are alike."""
    lines = []
    for key, value in stable(json.loads(answer)).items():
        lines.append(f"{json.dumps(key)}: {_rows(value, '')}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _rows(value: Any, indent: str) -> str:
    """Lists have an item in each line."""
    inner = indent + " "
    if isinstance(value, dict) and any(isinstance(item, list) for item in value.values()):
        items = [f"{json.dumps(key)}: {_rows(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(inner + item for item in items) + f"\n{indent}}}"
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(inner + json.dumps(item) for item in value) + f"\n{indent}]"
    return json.dumps(value)


def main() -> None:
    """Write all of them again."""
    FOLDER.mkdir(exist_ok=True)
    for name in corpus.names():
        with tempfile.TemporaryDirectory(prefix="mbecguard-golden-") as scratch:
            guest = corpus.unpack(name, Path(scratch))
            (FOLDER / f"{name}.json").write_text(text_of(answers(guest, Path(scratch))["json"]))
        print(FOLDER / f"{name}.json")


if __name__ == "__main__":
    main()
