# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's judge of stores to text against a naive model; broken on purpose, that has to be noticed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.test_kvm_host_map import KVM_HOST, make


def run_fuzzer(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(folder / "judgefuzz"), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_agrees_with_a_naive_model_under_sanitizers(tmp_path: Path) -> None:
    make(tmp_path, "judgefuzz")
    for seed in ("1", "2"):
        done = run_fuzzer(tmp_path, seed, "300000")
        assert (done.returncode, done.stderr) == (0, "")
        counts = dict(zip(*[iter(done.stdout.split())] * 2, strict=True))
        assert int(counts["stores"]) == 300000
        assert all(int(counts[step]) > 5000 for step in ("int3", "tail", "form"))


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("table->sites[middle].offset <= offset", "table->sites[middle].offset < offset"),
        ("offset - site->offset < mbecg_site_length(site)", "offset - site->offset < 2"),
        ("size > length - at", "size > length"),
        ("if (bytes[0] != INT3)", "if (0)"),
        ("some_form(table, site, after, 1, at + size)", "some_form(table, site, after, 1, at)"),
        ("size == 1 && *value == INT3", "*value == INT3"),
        ("if (site->flags & MBECG_SITE_FROZEN)\n\t\treturn MBECG_FROZEN;", ""),
        ("(bytes[i] ^ form->bytes[i]) & mask", "(bytes[i] ^ form->bytes[i]) & 0xf0"),
        ("if (known < 3)", "if (known < 4)"),
        ("(to & 0xffffff) | high << 24", "(to & 0xffff) | high << 24"),
        ("site->offset + form->length, distance = 0", "site->offset + form->given, distance = 0"),
        ("table->targets[low] == offset", "table->targets[low] >= offset"),
        ("((end + distance - from) & mask) < to - from", "((end + distance - from) & mask) <= to - from"),
        ("((end + distance - from) & mask) < to - from", "(end + distance - from) < to - from"),
        ("site->offset < end ||", ""),
        ("!in_reach(site) ||", ""),
        ("table->targets[i - 1] >= table->targets[i]", "table->targets[i - 1] > table->targets[i]"),
    ],
)
def test_the_model_notices_a_broken_judge(tmp_path: Path, was: str, becomes: str) -> None:
    source = tmp_path / "src"
    shutil.copytree(KVM_HOST / "src", source)
    text = (source / "mbecg_judge.c").read_text()
    assert text.count(was) == 1
    (source / "mbecg_judge.c").write_text(text.replace(was, becomes))
    make(tmp_path, "judgefuzz", f"SRC={source}", "CFLAGS=-std=gnu11 -O0")
    assert run_fuzzer(tmp_path, "1", "20000").returncode
