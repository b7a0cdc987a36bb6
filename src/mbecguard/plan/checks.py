# SPDX-License-Identifier: GPL-2.0-or-later
"""Do the files and the running kernel tell the same story? Each contradiction is a finding."""

from __future__ import annotations

from collections.abc import Iterator

from mbecguard.guest.survey import KernelFacts, ModuleFacts, Survey
from mbecguard.image.module import text_layout
from mbecguard.pages import PAGE_SIZE
from mbecguard.plan.findings import Finding, finding
from mbecguard.plan.rules import module_base


def physical_text(survey: Survey) -> int | None:
    """Physical byte address of _text by the page tables; None if they do not map it executable."""
    va = survey.kernel.text_va
    return next((m.pa + va - m.va for m in survey.mappings if m.va <= va < m.va + m.bytes), None)


def contradictions(survey: Survey) -> Iterator[Finding]:
    """Everything in which two sources differ, kernel first, then modules by name."""
    yield from _image(survey.kernel)
    yield from _place(survey)
    for module in survey.modules:
        yield from _module(module)


def _image(kernel: KernelFacts) -> Iterator[Finding]:
    if not kernel.image:
        yield finding("kernel-image-unusable", problem=kernel.image_problem, release=kernel.release)
        return
    if kernel.image.build_id != kernel.build_id:
        running = kernel.build_id or "none"
        yield finding("kernel-build-id", image=kernel.image.build_id, running=running, release=kernel.release)
        return
    promised = sum(s.bytes for s in kernel.image.sections if s.name == ".text")
    running_bytes = kernel.text_end_va - kernel.text_va
    if _page_up(promised) != _page_up(running_bytes):
        yield finding("kernel-text-size", image=promised, running=running_bytes)


def _place(survey: Survey) -> Iterator[Finding]:
    kernel, code = survey.kernel, survey.kernel.code_iomem
    if code is None:
        yield finding("kernel-code-missing")
        return
    for m in survey.mappings:
        va = max(m.va, kernel.text_va)
        iomem, tables = code[0] + va - kernel.text_va, m.pa + va - m.va
        if va < min(m.va + m.bytes, kernel.text_end_va) and iomem != tables:
            yield finding("kernel-code-mismatch", va=va, iomem=iomem, tables=tables)
            return


def _module(module: ModuleFacts) -> Iterator[Finding]:
    if module.state != "Live":
        yield finding("module-busy", module=module.name, state=module.state)
    if not module.image:
        yield finding("module-image-unusable", module=module.name, problem=module.image_problem)
        return
    if module.build_id and module.image.build_id != module.build_id:
        image = module.image.build_id or "none"
        yield finding("module-build-id", module=module.name, image=image, running=module.build_id)
        return
    yield from _layout(module)


def _layout(module: ModuleFacts) -> Iterator[Finding]:
    layout, base = text_layout(module.image) if module.image else {}, module_base(module)
    if layout and base is None:
        yield finding("module-hidden", module=module.name)
        return
    for name, offset in layout.items():
        running, image = module.sections.get(name, 0), (base or 0) + offset
        if running != image:
            yield finding("module-layout", module=module.name, section=name, running=running, image=image)


def _page_up(size: int) -> int:
    return -(-size // PAGE_SIZE) * PAGE_SIZE
