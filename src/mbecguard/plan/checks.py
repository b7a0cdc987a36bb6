# SPDX-License-Identifier: GPL-2.0-or-later
"""Do the files and the running kernel tell the same story? Each contradiction is a finding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mbecguard.guest.efi import is_efi_address
from mbecguard.guest.survey import KernelFacts, ModuleFacts, Survey
from mbecguard.plan.findings import finding
from mbecguard.plan.layout import ModuleText
from mbecguard.plan.rules import Ground
from mbecguard.values.facts import known
from mbecguard.values.findings import Finding
from mbecguard.values.pages import PAGE_SHIFT, PAGE_SIZE, PageSet

LISTED = 3  #: modules with one and the same fault that are named one by one


def physical_text(survey: Survey) -> int | None:
    """Physical byte address of _text by the page tables; None if they do not map it executable."""
    va = survey.kernel.text_va
    return next((m.pa + va - m.va for m in survey.mappings if m.va <= va < m.va + m.bytes), None)


def contradictions(ground: Ground) -> Iterator[Finding]:
    """Everything in which two sources differ, kernel first, then modules by name."""
    survey = ground.survey
    yield from _image(survey.kernel)
    yield from _place(survey)
    yield from _tables(survey)
    yield from _unlisted(survey)
    for text in ground.texts:
        yield from _module(text)
    yield from _unusable(survey.modules)


def _image(kernel: KernelFacts) -> Iterator[Finding]:
    if not kernel.image:
        hint = kernel.image_hint or f"install the package of the running kernel, {kernel.release}"
        yield finding("kernel-image-unusable", problem=kernel.image_problem, advice=hint)
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


def _tables(survey: Survey) -> Iterator[Finding]:
    kernel = survey.kernel
    end = max(kernel.text_end_va, kernel.text_va + 1)
    if not any(m.va < end and m.va + m.bytes > kernel.text_va for m in survey.mappings):
        yield finding("kernel-text-elsewhere", va=kernel.text_va, tables="/proc/kcore, the shim, or execmap.json")
    efi, seen = known(survey.memory.efi_tables, 0), sum(len(m.virtual) for m in survey.mappings if is_efi_address(m))
    if seen < efi:
        yield finding("efi-mismatch", pages=efi, mapped=seen)
    mapped = PageSet(m.frames for m in survey.mappings)
    content = PageSet((*known(survey.memory.int3_pages, ()), *known(survey.memory.thunk_pages, ())))
    if strange := content - mapped:
        yield finding("content-mismatch", pages=strange.pages, pa=next(iter(strange)).start << PAGE_SHIFT)


def _unlisted(survey: Survey) -> Iterator[Finding]:
    for name in sorted(set(survey.tags) - {module.name for module in survey.modules}):
        if not name.startswith("__builtin__"):
            yield finding("module-unlisted", module=name)


def _unusable(modules: Iterable[ModuleFacts]) -> Iterator[Finding]:
    """Modules without a usable file; what is wrong with many of them in one way is said once."""
    kinds: dict[str, list[ModuleFacts]] = {}
    for module in modules:
        if not module.image:
            kinds.setdefault(module.image_hint, []).append(module)
    for hint, alike in kinds.items():
        if len(alike) > LISTED:
            names = ", ".join(module.name for module in alike[:LISTED])
            facts = {"count": len(alike), "names": names, "problem": alike[0].image_problem}
            yield finding("modules-unusable", **facts, advice=hint)
            continue
        for module in alike:
            yield finding("module-image-unusable", module=module.name, problem=module.image_problem, advice=hint)


def _module(text: ModuleText) -> Iterator[Finding]:
    module = text.module
    if module.state != "Live":
        yield finding("module-busy", module=module.name, state=module.state)
    if not module.image:
        return
    if module.build_id and module.image.build_id != module.build_id:
        image = module.image.build_id or "none"
        yield finding("module-build-id", module=module.name, image=image, running=module.build_id)
        return
    yield from _layout(text)


def _layout(text: ModuleText) -> Iterator[Finding]:
    module, layout, base = text
    if layout and base is None:
        yield finding("module-hidden", module=module.name)
        return
    places: dict[str, list[int]] = {}
    for section, offset in layout:
        places.setdefault(section.name, []).append((base or 0) + offset)
    for name, image in places.items() if module.sections else ():
        running = module.sections.get(name, 0)
        if running not in image:
            yield finding("module-layout", module=module.name, section=name, running=running, image=image[0])


def _page_up(size: int) -> int:
    return -(-size // PAGE_SIZE) * PAGE_SIZE
