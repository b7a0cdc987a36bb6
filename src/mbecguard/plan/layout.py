# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a loaded module's code lies: the file tells the order, the running kernel the addresses."""

from __future__ import annotations

from typing import NamedTuple

from mbecguard.guest.procfs import KERNEL_HALF
from mbecguard.guest.survey import ModuleFacts
from mbecguard.image.module import core_text
from mbecguard.image.sections import Section, SectionKind

Placed = tuple[tuple[Section, int], ...]  #: sections, with their byte offsets in the module's text allocation


class ModuleText(NamedTuple):
    """Core text of a module, and the virtual address of its allocation: None if there is none, or nobody tells."""

    module: ModuleFacts
    layout: Placed
    base: int | None

    @classmethod
    def of(cls, module: ModuleFacts) -> ModuleText:
        """As its file and the running kernel have it."""
        layout = _layout(module)
        return cls(module, layout, _base(module, layout))


def _layout(module: ModuleFacts) -> Placed:
    """Where modules cannot be unloaded, their exit code is freed; whether it has left a gap, the addresses tell."""
    if not module.image:
        return ()
    whole = core_text(module.image)
    if module.unload:
        return whole
    gaps = tuple((section, offset) for section, offset in whole if section.kind is not SectionKind.EXIT)
    bases = {module.sections.get(section.name, 0) - offset for section, offset in gaps}
    return gaps if len(bases) == 1 else core_text(module.image, unload=False)


def _base(module: ModuleFacts, layout: Placed) -> int | None:
    """By its sections in /sys/module; where sysfs has none, as of a module with two sections of one name
    (kernel/module/sysfs.c add_sect_attrs), by /proc/modules.
    """
    bases = (module.sections.get(section.name, 0) - offset for section, offset in layout)
    own = module.text_va if layout and not module.sections else 0
    return next((base for base in (*bases, own) if base >= KERNEL_HALF), None)
