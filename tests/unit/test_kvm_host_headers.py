# SPDX-License-Identifier: GPL-2.0-or-later
"""The headers of kvm-host: KVM's files see the hooks, ours what is below them, and no header needs what needs it."""

from __future__ import annotations

import re
from graphlib import TopologicalSorter
from pathlib import Path

KVM_HOST = Path(__file__).parents[2] / "kvm-host"
TEXTS = {path.name: path.read_text() for path in (KVM_HOST / "src").iterdir()}
HEADERS = {name: text for name, text in TEXTS.items() if name.endswith(".h")}
HOOKS = "mbecg_hooks.h"
PART = "mbecg_tdp.h"  #: of one of KVM's own files
INLINE = re.compile(r"^static (?:__always_)?inline [^;{]*\b(\w+)\([^;{]*\)\n\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)


def includes(text: str, before: str = "") -> set[str]:
    """Which of our headers a text includes, on lines that start with `before`."""
    return set(re.findall(rf'^{re.escape(before)}#include "(?:[\w./]*/)?(mbecg\w*\.h)"', text, re.MULTILINE))


def called(text: str) -> set[str]:
    """Our functions that the inline functions of a header call."""
    return {name for _, body in INLINE.findall(text) for name in re.findall(r"\b((?:__|to_)?mbecg\w*)\(", body)}


def test_headers_include_each_other_one_way() -> None:
    TopologicalSorter({name: includes(text) for name, text in HEADERS.items()}).prepare()


def test_the_patch_includes_the_hooks_and_what_is_part_of_kvm() -> None:
    for patch in (KVM_HOST / "patches").rglob("*.patch"):
        assert includes(patch.read_text(), before="+") <= (set() if patch.stem.endswith("-mbec") else {HOOKS, PART})
    for patch in (KVM_HOST / "patches").glob("*[0-9].patch"):
        assert includes(patch.read_text(), before="+") == {HOOKS, PART}


def test_only_the_patch_includes_what_is_part_of_kvm() -> None:
    assert [name for name, text in TEXTS.items() if PART in includes(text)] == []


def test_only_the_patch_includes_the_hooks() -> None:
    assert [name for name, text in TEXTS.items() if HOOKS in includes(text)] == []


def test_only_the_hooks_call_what_our_files_define() -> None:
    inline = {name for text in HEADERS.values() for name, _ in INLINE.findall(text)}
    outside = {name: called(text) - inline for name, text in HEADERS.items()}
    assert outside.pop(HOOKS) >= {"__mbecg_dropped", "__mbecg_fault"}
    assert set().union(*outside.values()) == set()
    assert {"to_mbecg", "mbecg_active", "mbecg_fault"} <= inline
