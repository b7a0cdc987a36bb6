# SPDX-License-Identifier: GPL-2.0-or-later
"""The survey: everything the planner needs to know about a guest, as one value.

Facts only. What they mean is the planner's business; only what makes a survey impossible ends here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mbecguard.guest.efi import Efi, firmware
from mbecguard.guest.execmap import Mapping
from mbecguard.guest.images import Images
from mbecguard.guest.kcore import MemoryFacts
from mbecguard.guest.processors import NOT_LOOKED, Processors, processors
from mbecguard.guest.procfs import (
    IomemRegion,
    Kallsyms,
    LoadedModule,
    Symbol,
    VmallocArea,
    page_frames,
    parse_iomem,
    parse_max_pfn,
    parse_modules,
    parse_number,
    parse_vmallocinfo,
)
from mbecguard.guest.source import Guest, module_build_id
from mbecguard.guest.tree import Tree
from mbecguard.image.cache import SectionCache
from mbecguard.image.kernel import KernelImage
from mbecguard.image.module import ModuleImage, core_text, init_sections
from mbecguard.image.sections import notes_build_id
from mbecguard.values.errors import die
from mbecguard.values.facts import Fact, Known, Unknown, known, told
from mbecguard.values.note import Note, unnoted
from mbecguard.values.pages import PageRange

SCHEMA = "mbecguard.survey/1"
#: kallsyms tags of code that the kernel makes at run time.
GENERATED_TAGS = ("bpf", "__builtin__ftrace", "__builtin__kprobes")
_NOT_MODULES = frozenset(GENERATED_TAGS)


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """The kernel proper. Addresses are bytes; `image` is None, with the reason, if no usable file was found."""

    release: str
    build_id: str
    text_va: int
    text_end_va: int  #: _etext
    code_iomem: tuple[int, int] | None  #: physical bytes [start, end) of "Kernel code"
    max_pfn: int
    image: KernelImage | None
    image_problem: str = ""
    image_hint: str = ""


@dataclass(frozen=True, slots=True)
class ModuleFacts:
    """One loaded module; `sections` gives core text section -> virtual address in bytes, as /sys/module has them.

    `init` has the same of what ran once: stale addresses, of memory that was freed and may be somebody else's.
    """

    name: str
    state: str
    build_id: str
    sections: dict[str, int]
    image: ModuleImage | None
    image_problem: str = ""
    image_hint: str = ""
    init: dict[str, int] = field(default_factory=dict)
    text_va: int = 0  #: where its text begins, as /proc/modules has it; 0: hidden
    unload: bool = True  #: the kernel can unload modules, so that .exit* is core text

    def init_pages(self) -> Iterator[tuple[str, PageRange]]:
        """Name and virtual page numbers of each section that ran once."""
        for section in self.image.sections if self.image else ():
            if section.bytes and section.name in self.init:
                yield section.name, PageRange.covering(self.init[section.name], section.bytes)


@dataclass(frozen=True, slots=True)
class Survey:
    """One look at a guest."""

    kernel: KernelFacts
    modules: tuple[ModuleFacts, ...]
    mappings: tuple[Mapping, ...]
    memory: MemoryFacts
    symbols: tuple[Symbol, ...]  #: run-time generated code that kallsyms names; never complete, see plan/rules.py
    tags: tuple[str, ...]  #: modules that kallsyms names
    areas: Fact[tuple[VmallocArea, ...]]
    efi: Efi
    crash_kernel: tuple[PageRange, ...]
    kexec_images: Fact[int]  #: loaded ones, for kexec and for a crash
    processors: Fact[Processors] = NOT_LOOKED
    schema: str = SCHEMA


class Surveyor:
    """Looks at one guest, as often as it takes. Each look reads all that the kernel says; what files say, and symbols
    of which not a byte has changed, it knows from the look before.

    `note` is told what is read, where that takes time.
    """

    def __init__(self, guest: Guest, cache_dir: Path | None, note: Note = unnoted) -> None:
        self._guest, self._note = guest, note
        build_id = notes_build_id(guest.tree.data("sys/kernel/notes") or b"")
        self._cache = SectionCache(cache_dir, build_id, note)
        self._build_id = build_id
        self._symbols: Kallsyms | None = None

    @property
    def symbols(self) -> Kallsyms:
        """Those of the last look."""
        return self._symbols or self._read_symbols()

    def look(self) -> tuple[Survey, Kallsyms]:
        """The survey; the symbols come along to name addresses in findings, they are no part of the facts."""
        self._note("symbols")
        symbols = self._read_symbols()
        symbols.require_whole()
        tree = self._guest.tree
        iomem = parse_iomem(
            tree.text("proc/iomem") or die("no /proc/iomem", "a captured guest needs the file proc/iomem")
        )
        self._note("page tables")
        memory = self._guest.memory.read(symbols)
        loaded = parse_modules(tree.text("proc/modules") or "")
        images = Images(self._guest, self._cache, {module.name for module in loaded})
        result = Survey(
            kernel=_kernel(self._guest, symbols, iomem, self._build_id, images),
            modules=tuple(sorted((_module(tree, module, images) for module in loaded), key=lambda m: m.name)),
            mappings=memory.mappings,
            memory=memory.facts,
            symbols=tuple(symbol for tag in GENERATED_TAGS for symbol in symbols.tagged(tag)),
            tags=tuple(sorted(symbols.tags - _NOT_MODULES)),
            areas=_areas(tree),
            efi=firmware(tree, memory.mappings),
            crash_kernel=tuple(page_frames(r) for r in iomem if r.name == "Crash kernel"),
            kexec_images=_kexec_images(tree),
            processors=processors(tree),
        )
        self._cache.save()
        return result, symbols

    def _read_symbols(self) -> Kallsyms:
        data = self._guest.tree.data("proc/kallsyms") or b""
        if not self._symbols or not self._symbols.said_by(data):
            self._symbols = Kallsyms(data)
        return self._symbols


def survey(guest: Guest, cache_dir: Path | None, note: Note = unnoted) -> tuple[Survey, Kallsyms]:
    """Look at `guest` once."""
    return Surveyor(guest, cache_dir, note).look()


def _kernel(
    guest: Guest, symbols: Kallsyms, iomem: tuple[IomemRegion, ...], build_id: str, images: Images
) -> KernelFacts:
    code = next(((r.start, r.end) for r in iomem if r.name == "Kernel code"), None)
    found = images.kernel(build_id)
    text = symbols.address("_text") or 0
    return KernelFacts(
        release=guest.release,
        build_id=build_id,
        text_va=text,
        text_end_va=symbols.address("_etext") or text,
        code_iomem=code,
        max_pfn=parse_max_pfn(guest.tree.text("proc/cpuinfo") or ""),
        image=found.image,
        image_problem=found.problem,
        image_hint=found.hint,
    )


def _module(tree: Tree, module: LoadedModule, images: Images) -> ModuleFacts:
    folder, build_id = f"sys/module/{module.name}", module_build_id(tree, module.name)
    found = images.module(module.name, build_id)
    image = found.image
    # Only these of some thirty files; what else is loaded nobody needs.
    core = [section.name for section, _ in core_text(image, unload=module.unload)] if image else []
    init = init_sections(image, unload=module.unload) if image else ()
    return ModuleFacts(
        name=module.name,
        state=module.state,
        build_id=build_id,
        sections=_addresses(tree, folder, core),
        image=image,
        image_problem=found.problem,
        image_hint=found.hint,
        init=_addresses(tree, folder, init),
        text_va=module.text_va,
        unload=module.unload,
    )


def _addresses(tree: Tree, folder: str, names: Iterable[str]) -> dict[str, int]:
    texts = ((name, tree.text(f"{folder}/sections/{name}")) for name in names)
    return {name: parse_number(text, f"/{folder}/sections/{name}") for name, text in texts if text}


def _areas(tree: Tree) -> Fact[tuple[VmallocArea, ...]]:
    fact = tree.fact("proc/vmallocinfo")
    areas = parse_vmallocinfo(fact.value) if isinstance(fact, Known) else ()
    if isinstance(fact, Known) and not areas:  # a kernel always has some
        return Unknown("/proc/vmallocinfo names nobody", "read it as root")
    return Known(areas) if isinstance(fact, Known) else fact


def _kexec_images(tree: Tree) -> Fact[int]:
    files = [f"sys/kernel/{name}" for name in ("kexec_loaded", "kexec_crash_loaded")]
    facts = [told(lambda file=file: tree.text(file)) for file in files]  # type: ignore[misc]
    if unknown := next((fact for fact in facts if isinstance(fact, Unknown)), None):
        return unknown
    return Known(sum(known(fact, "0").strip() not in ("0", "") for fact in facts))
