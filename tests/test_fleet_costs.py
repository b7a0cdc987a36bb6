# SPDX-License-Identifier: GPL-2.0-or-later
"""What a fleet costs: 1000 guests in less than 256 MiB, and at most five times what reading the same JSON takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mbecguard.values.errors import Exit
from tests.fleetmaker import Made

GUESTS, MODULES = 1000, 120
MEMORY = 256 << 10  #: KiB
TIMES = 5.0

#: CPU seconds of this process, which another load hardly changes; the fewest of three turns each, taken by turns.
MEASURE = """
import json, resource, sys, time
from pathlib import Path
from mbecguard.face import cli

folder, form, out = sys.argv[1:]

def plainly():
    for path in sorted(Path(folder).glob("*.json")):
        json.loads(path.read_bytes())

def fleet():
    status.add(cli.main(["fleet", folder, "--format", form, "--stale-after", "99999999", "-o", out]))

def seconds(what):
    before = time.process_time()
    what()
    return time.process_time() - before

status = set()
turns = [(seconds(fleet), seconds(plainly)) for _ in range(3)]
print(*map(min, zip(*turns)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, *status)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Made(tmp_path_factory.mktemp("fleet"))
    modules = [f"module_{number}" for number in range(MODULES)]
    for number in range(GUESTS):
        own = [f"own_{number}"] if number % 50 == 0 else []
        subject = {"machine_id": f"{number:032x}", "vm_uuid": f"00000000-0000-4000-8000-{number:012x}"}
        made.put(f"guest{number}", modules=(*modules, *own), subject=subject)
    return made.folder


@pytest.mark.parametrize("form", ["json", "csv", "html", "ocsf", "text"])
def test_a_thousand_guests(folder: Path, tmp_path: Path, form: str) -> None:
    words = [sys.executable, "-c", MEASURE, str(folder), form, str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300)
    fleet, plain, memory, *statuses = map(float, done.stdout.split())
    assert statuses == [Exit.OK]
    assert memory < MEMORY
    assert fleet < TIMES * plain, f"{fleet / plain:.1f} times"
    print(f"{form}: {fleet / plain:.2f} times, {memory / 1024:.0f} MiB, {plain:.2f} s")
    text = (tmp_path / "out").read_text()
    assert form == "text" or all(f"guest{number}" in text for number in range(GUESTS))
