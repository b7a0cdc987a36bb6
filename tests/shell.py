# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line run in one process on a captured guest, with what a plan says in JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mbecguard.face import cli
from mbecguard.values.errors import Exit
from mbecguard.values.pages import PageRange, PageSet
from tests.guestmaker import (
    SCATTERED,
    SHARED_BLOCK,
)

GUESTS = {"scattered": SCATTERED, "block": SHARED_BLOCK}


@dataclass
class Shell:
    """Runs commands in one process, on a capture in `folder`."""

    folder: Path
    capture: pytest.CaptureFixture[str]

    def run(self, command: str, *options: str) -> tuple[int, str, str]:
        """Exit status, stdout, stderr. Whatever fails has to say why and what to do."""
        places = ["--guest", str(self.folder), "--state-dir", str(self.folder.parent / "state")]
        try:
            status = cli.main([command, *places, "--cache-dir", str(self.folder.parent / "cache"), *options])
        except SystemExit as exit_:
            status = int(str(exit_.code))
        out, err = self.capture.readouterr()
        if status == Exit.ERROR:
            assert err.startswith("mbecguard: ")
            assert "\n  hint: " in err
            assert not out or self._told(out, status) in err
        return status, out, err

    def _told(self, out: str, status: int) -> str:
        """An error in JSON as it stands on stderr."""
        error = json.loads(out)
        assert error.keys() == {"schema", "message", "hint", "exit"}
        assert (error["schema"], error["exit"]) == ("mbecguard.error/1", status)
        return f"mbecguard: {error['message']}\n  hint: {error['hint']}\n"

    def plan(self, *options: str) -> tuple[int, dict[str, Any], str]:
        """Exit status, the plan as JSON (empty if there is none), stderr."""
        status, out, err = self.run("plan", "--json", *options)
        answer = json.loads(out)
        plan = answer if answer["schema"] != "mbecguard.error/1" else {}
        blocked = any(f["severity"] == "blocker" for f in plan.get("findings", ()))
        assert status == (Exit.ERROR if not plan else Exit.REFUSED if blocked else Exit.OK)
        assert all(f["text"] and f["hint"] for f in plan.get("findings", ()))
        return status, plan, err


def frames(part: dict[str, Any]) -> PageRange:
    return PageRange(int(part["start"], 16), int(part["end"], 16))


def kept(plan: dict[str, Any]) -> PageSet:
    return PageSet(map(frames, plan["keep"]))


def ids(plan: dict[str, Any], severity: str = "blocker") -> set[str]:
    return {f["id"] for f in plan["findings"] if f["severity"] == severity}
