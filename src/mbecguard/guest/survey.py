# SPDX-License-Identifier: GPL-2.0-or-later
"""The survey: everything the planner needs to know about a guest, as one value.

Facts only. What they mean is the planner's business; only what makes a survey impossible ends here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mbecguard.errors import UserError, die
from mbecguard.guest.efi import runtime_code
from mbecguard.guest.execmap import Mapping
from mbecguard.guest.kcore import MemoryFacts
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
from mbecguard.guest.source import Guest
from mbecguard.guest.tree import Tree
from mbecguard.image.cache import SectionCache
from mbecguard.image.kernel import KernelImage
from mbecguard.image.module import ModuleImage, module_index, text_layout
from mbecguard.image.sections import notes_build_id
from mbecguard.pages import PageRange

SCHEMA = "mbecguard.survey/1"
#: kallsyms tags of code that the kernel makes at run time.
GENERATED_TAGS = ("bpf", "__builtin__ftrace", "__builtin__kprobes")


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


@dataclass(frozen=True, slots=True)
class ModuleFacts:
    """One loaded module; `sections` gives core text section -> virtual address in bytes, as /sys/module has them."""

    name: str
    state: str
    build_id: str
    sections: dict[str, int]
    image: ModuleImage | None
    image_problem: str = ""


@dataclass(frozen=True, slots=True)
class Survey:
    """One look at a guest."""

    kernel: KernelFacts
    modules: tuple[ModuleFacts, ...]
    mappings: tuple[Mapping, ...]
    memory: MemoryFacts
    symbols: tuple[Symbol, ...]  #: run-time generated code that kallsyms names
    areas: tuple[VmallocArea, ...]  #: vmalloc areas, as far as /proc/vmallocinfo is not hashed
    efi_runtime: tuple[PageRange, ...]
    crash_kernel: tuple[PageRange, ...]
    kexec_loaded: bool
    schema: str = SCHEMA


def survey(guest: Guest, cache_dir: Path | None) -> tuple[Survey, Kallsyms]:
    """Look at `guest` once. The symbols come along to name addresses in findings; they are no part of the facts."""
    symbols = Kallsyms(guest.tree.data("proc/kallsyms") or b"")
    iomem = parse_iomem(
        guest.tree.text("proc/iomem") or die("no /proc/iomem", "a recorded guest needs the file proc/iomem")
    )
    build_id = notes_build_id(guest.tree.data("sys/kernel/notes") or b"")
    cache = SectionCache(cache_dir, build_id)
    memory = guest.memory.read(symbols)
    result = Survey(
        kernel=_kernel(guest, symbols, iomem, build_id, cache),
        modules=_modules(guest, cache),
        mappings=memory.mappings,
        memory=memory.facts,
        symbols=tuple(symbol for tag in GENERATED_TAGS for symbol in symbols.tagged(tag)),
        areas=parse_vmallocinfo(guest.tree.text("proc/vmallocinfo") or ""),
        efi_runtime=runtime_code(guest.tree),
        crash_kernel=tuple(page_frames(r) for r in iomem if r.name == "Crash kernel"),
        kexec_loaded=any(_flag(guest.tree, f"sys/kernel/{name}") for name in ("kexec_loaded", "kexec_crash_loaded")),
    )
    cache.save()
    return result, symbols


def _kernel(
    guest: Guest, symbols: Kallsyms, iomem: tuple[IomemRegion, ...], build_id: str, cache: SectionCache
) -> KernelFacts:
    code = next(((r.start, r.end) for r in iomem if r.name == "Kernel code"), None)
    image, problem = None, "no kernel image was found; give one with --kernel-image FILE"
    if guest.kernel_image:
        try:
            image, problem = cache.kernel(_contents(guest.kernel_image), guest.kernel_image.name), ""
        except UserError as error:
            problem = f"{error.message}; {error.hint}" if error.hint else error.message
    text = symbols.address("_text") or 0
    return KernelFacts(
        release=guest.release,
        build_id=build_id,
        text_va=text,
        text_end_va=symbols.address("_etext") or text,
        code_iomem=code,
        max_pfn=parse_max_pfn(guest.tree.text("proc/cpuinfo") or ""),
        image=image,
        image_problem=problem,
    )


def _modules(guest: Guest, cache: SectionCache) -> tuple[ModuleFacts, ...]:
    loaded = parse_modules(guest.tree.text("proc/modules") or "")
    index = module_index(guest.modules_dir) if loaded and guest.modules_dir else {}
    facts = (_module(guest.tree, module, index.get(module.name), cache) for module in loaded)
    return tuple(sorted(facts, key=lambda m: m.name))


def _module(tree: Tree, module: LoadedModule, file: Path | None, cache: SectionCache) -> ModuleFacts:
    folder = f"sys/module/{module.name}"
    image, problem = None, f"no file of module {module.name} was found"
    if file:
        try:
            image, problem = cache.module(_contents(file), file.name), ""
        except UserError as error:
            problem = error.message
    # Only these of some thirty files: what else is loaded, and the stale .init.*, nobody needs.
    addresses = ((name, tree.text(f"{folder}/sections/{name}")) for name in (text_layout(image) if image else ()))
    return ModuleFacts(
        name=module.name,
        state=module.state,
        build_id=notes_build_id(tree.data(f"{folder}/notes/.note.gnu.build-id") or b""),
        sections={name: parse_number(text, f"/{folder}/sections/{name}") for name, text in addresses if text},
        image=image,
        image_problem=problem,
    )


def _contents(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        die(f"{file} cannot be read: {error.strerror}", "run as root, or give a copy that may be read")


def _flag(tree: Tree, path: str) -> bool:
    return (tree.text(path) or "0").strip() not in ("0", "")
