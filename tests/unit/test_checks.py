# SPDX-License-Identifier: GPL-2.0-or-later
"""Contradictions between files and the running kernel, on both sides of each edge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mbecguard.guest.efi import NO_EFI
from mbecguard.guest.execmap import Mapping
from mbecguard.guest.kcore import MemoryFacts
from mbecguard.guest.survey import KernelFacts, ModuleFacts, Survey
from mbecguard.image.kernel import KernelImage
from mbecguard.image.module import ModuleImage
from mbecguard.image.sections import Section, SectionKind
from mbecguard.plan.checks import contradictions, physical_text
from mbecguard.plan.rules import Ground
from mbecguard.values.facts import Absent, Fact, Known, Unknown
from mbecguard.values.pages import PageRange

R = SectionKind.RESIDENT
ID, OTHER = "ab" * 20, "cd" * 20
TEXT, PA, ZONE = 0xFFFFFFFF81000000, 0x4000000, 0xFFFFFFFFC0000000
KERNEL = KernelFacts(
    *("6.12", ID, TEXT, TEXT + 0x3000, (PA, PA + 0x3000), 1 << 30),
    KernelImage(ID, (Section(".text", 0, 0x2001, 4096, R), Section(".rest", 0x9000, 5, 1, R))),
)
MODULE = ModuleFacts(
    *("toy", "Live", ID, {".text": ZONE, ".exit": ZONE + 0x20}),
    ModuleImage("toy", ID, (Section(".text", 0, 0x1F, 16, R), Section(".exit", 0, 5, 16, R))),
)
GOOD = Survey(KERNEL, (MODULE,), (Mapping(TEXT, PA, 0x3000),), MemoryFacts(), (), (), Known(()), NO_EFI, (), Known(0))


def names(survey: Survey) -> list[str]:
    return [f.id for f in contradictions(Ground(survey))]


def kernel(**changes: Any) -> list[str]:
    return names(replace(GOOD, kernel=replace(KERNEL, **changes)))


def module(**changes: Any) -> list[str]:
    return names(replace(GOOD, modules=(replace(MODULE, **changes),)))


def test_one_story() -> None:
    assert names(GOOD) == []
    assert names(replace(GOOD, modules=())) == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"image": None, "image_problem": "gone"}, ["kernel-image-unusable"]),
        ({"build_id": OTHER}, ["kernel-build-id"]),
        ({"build_id": ""}, ["kernel-build-id"]),
        ({"text_end_va": TEXT + 0x2001}, []),
        ({"text_end_va": TEXT + 0x2000}, ["kernel-text-size"]),
        ({"text_end_va": TEXT + 0x3001}, ["kernel-text-size"]),
        ({"text_end_va": TEXT}, ["kernel-text-size"]),
        ({"text_end_va": TEXT - 0x3000}, ["kernel-text-size"]),
        ({"code_iomem": None}, ["kernel-code-missing"]),
        ({"code_iomem": (PA + 4096, PA + 0x4000)}, ["kernel-code-mismatch"]),
        ({"code_iomem": (PA, PA + 1)}, []),
        ({"code_iomem": None, "build_id": OTHER}, ["kernel-build-id", "kernel-code-missing"]),
    ],
    ids=range(12),
)
def test_kernel(changes: dict[str, Any], found: list[str]) -> None:
    assert kernel(**changes) == found


@pytest.mark.parametrize(
    ("mappings", "found", "where"),
    [
        ((), ["kernel-text-elsewhere"], None),
        ((Mapping(TEXT + 0x1000, PA + 0x1000, 0x2000),), [], None),  # not all of it is mapped: a broken promise
        ((Mapping(TEXT - 0x1000, PA - 0x1000, 0x9000),), [], PA),
        ((Mapping(TEXT - 0x1000, PA, 0x9000),), ["kernel-code-mismatch"], PA + 0x1000),
        ((Mapping(TEXT, PA, 0x1000), Mapping(TEXT + 0x1000, 0x9000, 0x1000)), ["kernel-code-mismatch"], PA),
        ((Mapping(TEXT, PA, 0x3000), Mapping(TEXT + 0x3000, 0x9000, 0x1000)), [], PA),
        ((Mapping(TEXT - 0x1000, 0x9000, 0x1000), Mapping(TEXT, PA, 0x3000)), [], PA),
    ],
    ids=range(7),
)
def test_every_text_page_lies_where_iomem_says(
    mappings: tuple[Mapping, ...], found: list[str], where: int | None
) -> None:
    survey = replace(GOOD, mappings=mappings)
    assert names(survey) == found
    assert physical_text(survey) == where


def test_a_misplaced_page_is_named() -> None:
    mappings = (Mapping(TEXT, PA, 0x1000), Mapping(TEXT + 0x1000, 0x9000, 0x1000))
    (found,) = contradictions(Ground(replace(GOOD, mappings=mappings)))
    assert all(text in found.text for text in (f"{TEXT + 0x1000:#x}", f"{PA + 0x1000:#x}", "0x9000"))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"state": "Loading"}, ["module-busy"]),
        ({"state": "Unloading", "image": None}, ["module-busy", "module-image-unusable"]),
        ({"image": None, "image_problem": "gone"}, ["module-image-unusable"]),
        ({"build_id": OTHER}, ["module-build-id"]),
        ({"build_id": ""}, []),  # an old kernel tells none; the layout has to do
        ({"image": ModuleImage("toy", "", ())}, ["module-build-id"]),
        ({"image": ModuleImage("toy", ID, ())}, []),  # no text, nothing to find
        ({"sections": {}}, ["module-hidden"]),
        ({"sections": {".text": 0, ".exit": 0}}, ["module-hidden"]),
        ({"sections": {".text": ZONE}}, ["module-layout"]),
        ({"sections": {".exit": ZONE + 0x20}}, ["module-layout"]),
        ({"sections": {".text": ZONE, ".exit": ZONE + 0x10}}, ["module-layout"]),
        ({"sections": {".text": ZONE, ".exit": ZONE + 0x20, ".init.text": 5}}, []),
    ],
    ids=range(13),
)
def test_modules(changes: dict[str, Any], found: list[str]) -> None:
    assert module(**changes) == found


def test_modules_in_order() -> None:
    busy = replace(MODULE, state="Loading")
    survey = replace(GOOD, modules=(replace(busy, name="b"), replace(busy, name="c")))
    assert [f.text.split()[1] for f in contradictions(Ground(survey))] == ["b", "c"]


@pytest.mark.parametrize(
    ("tags", "found"),
    [((), []), (("toy",), []), (("toy", "veth"), ["module-unlisted"]), (("__builtin__ftrace", "toy"), [])],
)
def test_modules_that_have_symbols_are_listed(tags: tuple[str, ...], found: list[str]) -> None:
    assert names(replace(GOOD, tags=tags)) == found


@pytest.mark.parametrize(
    ("told", "pages", "found"),
    [
        (Known(0), 0, []),
        (Known(2), 2, []),
        (Known(2), 1, ["efi-mismatch"]),
        (Known(2), 0, ["efi-mismatch"]),
        (Absent(), 0, []),
        (Unknown("nobody may look"), 0, []),
    ],
)
def test_the_firmware_s_code_is_among_the_mappings(told: Fact[int], pages: int, found: list[str]) -> None:
    firmware = (Mapping(0x7000, 0x7000, pages << 12),) if pages else ()
    survey = replace(GOOD, mappings=(*firmware, *GOOD.mappings), memory=MemoryFacts(efi_tables=told))
    assert names(survey) == found


@pytest.mark.parametrize(
    ("int3", "thunks", "found"),
    [
        ((PA >> 12, 1), (), []),
        ((), ((PA >> 12) + 2, 1), []),
        (((PA >> 12) - 1, 1), (), ["content-mismatch"]),
        ((), ((PA >> 12) + 2, 2), ["content-mismatch"]),
    ],
)
def test_known_content_lies_in_executable_pages(
    int3: tuple[int, ...], thunks: tuple[int, ...], found: list[str]
) -> None:
    def ranges(at: tuple[int, ...]) -> Known[tuple[PageRange, ...]]:
        return Known((PageRange(at[0], at[0] + at[1]),) if at else ())

    facts = MemoryFacts(int3_pages=ranges(int3), thunk_pages=ranges(thunks))
    assert names(replace(GOOD, memory=facts)) == found
