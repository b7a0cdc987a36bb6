# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's permission map against a naive model, under sanitizers; broken on purpose, it has to be noticed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.test_kvm_host_map import KVM_HOST, make


def run_fuzzer(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(folder / "mapfuzz"), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_agrees_with_a_naive_model_under_sanitizers(tmp_path: Path) -> None:
    make(tmp_path, "mapfuzz")
    for seed in ("1", "2"):
        done = run_fuzzer(tmp_path, seed, "30000")
        assert (done.returncode, done.stderr) == (0, "")
        _, requests, _, granted = done.stdout.split()
        assert int(requests) == 30000
        assert 15000 < int(granted) < 29900


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("boundary(map, middle) <= gfn", "boundary(map, middle) < gfn"),
        ("is & MBECG_IMMUTABLE && is != attr", "is & MBECG_IMMUTABLE"),
        ("forbidden(old, start, end, attr)", "forbidden(new, start, end, attr)"),
        ("boundary(published, i) >= end", "boundary(published, i) >= start"),
        ("boundary(map, i) < end; i++", "boundary(map, i) + 1 < end; i++"),
        ("start ? rank_of(map, start - 1) : 0", "rank_of(map, start)"),
        ("new->nr > MBECG_MAX_BOUNDARIES", "new->nr > MBECG_MAX_BOUNDARIES + 1"),
        ("range->epa >> GFN_SHIFT <= limit", "range->epa >> GFN_SHIFT <= limit + 1"),
    ],
)
def test_the_model_notices_a_broken_map(tmp_path: Path, was: str, becomes: str) -> None:
    source = tmp_path / "src"
    shutil.copytree(KVM_HOST / "src", source)
    text = (source / "mbecg_map.c").read_text()
    assert text.count(was) == 1
    (source / "mbecg_map.c").write_text(text.replace(was, becomes))
    make(tmp_path, "mapfuzz", f"SRC={source}", "CFLAGS=-std=gnu11 -O0")
    assert run_fuzzer(tmp_path, "1", "2000").returncode
