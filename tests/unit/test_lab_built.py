# SPDX-License-Identifier: GPL-2.0-or-later
"""What the lab keeps in its cache is made once, whole or not at all."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
from pathlib import Path

import pytest

from tests.corpus.cache import built


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MBECGUARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make(log: Path, begun: multiprocessing.synchronize.Event, scratch: Path) -> None:
    with log.open("a") as lines:
        lines.write("made\n")
    begun.wait(0.3)
    (scratch / "content").write_text("whole")


def want(folder: Path, log: Path, begun: multiprocessing.synchronize.Event) -> None:
    assert (built(folder, lambda scratch: make(log, begun, scratch)) / "content").read_text() == "whole"


def test_second_who_wants_a_folder_waits_for_the_first(cache: Path, tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    begun = fork.Event()
    both = [fork.Process(target=want, args=(cache / "folder", tmp_path / "log", begun)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(10)
    assert [process.exitcode for process in both] == [0, 0]
    assert (tmp_path / "log").read_text() == "made\n"


def test_failed_build_leaves_nothing_and_the_next_one_makes_it(cache: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        built(cache / "folder", lambda scratch: print(1 // len(list(scratch.iterdir()))))
    assert {path.name for path in cache.iterdir()} == {"locks"}
    built(cache / "folder", lambda scratch: (scratch / "content").touch())
    assert [path.name for path in (cache / "folder").iterdir()] == ["content"]
