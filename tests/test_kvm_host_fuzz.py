# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's permission map against a naive model, under sanitizers; broken on purpose, it has to be noticed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.test_kvm_host_abi import defines
from tests.unit.test_kvm_host_map import KVM_HOST, make


def run_fuzzer(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(folder / "mapfuzz"), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_agrees_with_a_naive_model_under_sanitizers(tmp_path: Path) -> None:
    make(tmp_path, "mapfuzz")
    for seed in ("1", "2"):
        done = run_fuzzer(tmp_path, seed, "30000")
        assert (done.returncode, done.stderr) == (0, "")
        _, requests, _, granted, _, seals = done.stdout.split()
        assert 30000 <= int(requests) < 30008
        assert 15000 < int(granted) < 29900
        assert int(seals) > 500


def broken(folder: Path, name: str, was: str, becomes: str) -> subprocess.CompletedProcess[str]:
    """The fuzzer's verdict on a map in whose source one thing is another."""
    source = folder / "src"
    shutil.copytree(KVM_HOST / "src", source)
    text = (source / name).read_text()
    assert text.count(was) == 1
    (source / name).write_text(text.replace(was, becomes))
    make(folder, "mapfuzz", f"SRC={source}", "CFLAGS=-std=gnu11 -O0")
    return run_fuzzer(folder, "1", "10000")


def test_the_bound_holds_after_each_range(tmp_path: Path) -> None:
    limits = defines()
    done = broken(tmp_path, "mbecg_abi.h", f"_BOUNDARIES\t{limits['MAX_BOUNDARIES']}\n", "_BOUNDARIES\t24\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert 3000 < int(done.stdout.split()[3]) < 8000


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("boundary(map, middle) <= gfn", "boundary(map, middle) < gfn"),
        ("boundary(map, i) < end; i++", "boundary(map, i) + 1 < end; i++"),
        ("key >> ATTR_BITS == other >> ATTR_BITS", "true"),
        ("denied(key & ATTR_MASK) == denied(other & ATTR_MASK)", "true"),
        ("!map || map->sealed || map->nr != 2 * all", "!map || map->nr != 2 * all"),
        ("map->nr != 2 * all", "map->nr < 2 * all"),
        ("left >> ATTR_BITS == range->pa >> GFN_SHIFT", "true"),
        ("right >> ATTR_BITS == range->epa >> GFN_SHIFT", "true"),
        ("ranges->permissions != sealed_as(*map->keys)", "!(ranges->permissions & MBECG_IMMUTABLE)"),
        ("ranges[i].permissions != sealed_as(key[0])", "!(ranges[i].permissions & MBECG_IMMUTABLE)"),
        ("(key[1] ^ *map->keys) & ATTR_MASK", "false"),
        ("*last = map->keys + map->nr - 1", "*last = map->keys + map->nr"),
        ("map->digested = false", "map->digested = true"),
        ("i -= i && of_old == end", "i -= i && 1"),
        ("key & MBECG_IMMUTABLE && (key & ATTR_MASK) != attr", "key & MBECG_IMMUTABLE"),
        ("!old || !old->sealed", "!old || old->sealed"),
        ("key[-1] >= start", "key[-1] >= end"),
        ("*key <= (start << ATTR_BITS | ATTR_MASK)", "*key < start << ATTR_BITS"),
        ("*key < end << ATTR_BITS", "*key <= (end << ATTR_BITS | ATTR_MASK)"),
        ("key > old->keys && differs(key[-1], attr)", "key > old->keys && key == old->keys"),
        ("front[-1] >= first", "front[-1] > first"),
        ("*back < first", "*back <= first"),
        ("*back <= last", "*back < last"),
        ("attr != after", "attr != before "),
        ("edited(edit) > MBECG_MAX_BOUNDARIES", "edited(edit) > MBECG_MAX_BOUNDARIES + 1"),
        ("range->epa >> GFN_SHIFT <= limit", "range->epa >> GFN_SHIFT <= limit + 1"),
    ],
)
def test_the_model_notices_a_broken_map(tmp_path: Path, was: str, becomes: str) -> None:
    assert broken(tmp_path, "mbecg_map.c", was, becomes).returncode
