# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulated stack: what only real faults can show. `python -m tests.lab list` names the scenarios."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIMIT = 2400  #: seconds for one boot, on a machine that does other things as well

STACKS = [
    pytest.param("--guest installed --kernel 6.12 --cpus 2 serves workload frozen", id="product-6.12"),
    pytest.param("--guest systemd --kernel 7.2 --cpus 2 lock workload", id="product-7.2"),
    pytest.param("--kernel 6.12 --cpus 2", id="host-6.12"),
    pytest.param("--kernel 7.2 --cpus 1 query malformed canary huge straddle payload seal reset", id="host-7.2"),
    pytest.param("--kernel 6.1 --host-kernel 6.12 --cpus 1 query tools canary huge oops payload seal", id="host-6.1"),
    pytest.param("--kvm plain --guest systemd --kernel 6.12 --cpus 2 no-host rights", id="no-kvm"),
    pytest.param("--kvm plain --guest installed --kernel 6.12 --cpus 2", id="no-kvm-service"),
]


@pytest.mark.lab
@pytest.mark.parametrize("words", STACKS)
def test_scenarios_of_one_boot_pass(words: str) -> None:
    command = [sys.executable, "-m", "tests.lab", "run", *words.split(), "--limit", str(LIMIT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * LIMIT, check=False)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
