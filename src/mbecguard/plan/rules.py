# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may own an executable page: knowledge about kernels, as a table of rules.

A rule looks at the survey and claims virtual pages. Where two claim the same page the earlier rule of the table
wins. The planner applies the table; nothing here decides what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from mbecguard.guest.execmap import Mapping
from mbecguard.guest.kcore import EFI_WINDOW, START_KERNEL_MAP
from mbecguard.guest.procfs import KERNEL_HALF, Symbol
from mbecguard.guest.survey import ModuleFacts, Survey
from mbecguard.image.module import text_layout
from mbecguard.image.sections import SectionKind
from mbecguard.pages import LARGE_PAGES, PAGE_SHIFT, PageRange, PageSet
from mbecguard.plan.policy import CodeKind

SHIM_CANARY = ("mbecguard_shim", ".text.canary")  #: module, section: one page
LOW_MEMORY = 1 << 20  #: the real-mode blob lies below 1 MiB
GIGABYTE = 1 << 30

#: vmalloc callers whose areas hold generated code, as /proc/vmallocinfo names them.
AREA_CALLERS = {
    "bpf_prog_pack_alloc": CodeKind.BPF,
    "bpf_jit_alloc_exec": CodeKind.BPF,
    "apply_retpolines": CodeKind.ITS_THUNK,
    "its_alloc": CodeKind.ITS_THUNK,
    "arch_ftrace_update_trampoline": CodeKind.FTRACE,
    "create_trampoline": CodeKind.FTRACE,
    "alloc_insn_page": CodeKind.KPROBE,
    "hyperv_init": CodeKind.HYPERCALL,
}


@dataclass(frozen=True, slots=True)
class Claim:
    """These virtual pages belong to `owner`; `promised` if a file on disk says that they are code."""

    pages: PageRange
    kind: CodeKind
    owner: str
    section: str = ""
    promised: bool = False


class Ground:
    """The survey, indexed for the rules."""

    def __init__(self, survey: Survey) -> None:
        self.survey = survey
        self.mappings = tuple(m for m in survey.mappings if not m.user)
        #: Maximal runs of executable virtual pages. vmalloc puts a guard page behind each area, so that a run is
        #: one area, or one block of execmem.
        self.runs = PageSet(m.virtual for m in self.mappings)

    def run(self, va: int) -> PageRange | None:
        """The executable run that holds byte address `va`."""
        page = va >> PAGE_SHIFT
        return next(self.runs.touching(PageRange(page, page + 1)), None)

    def in_direct_map(self, mapping: Mapping) -> bool:
        """Whether this is physical memory as the direct map shows it."""
        offset = mapping.va - mapping.pa
        if self.survey.memory.page_offset is not None:
            return offset == self.survey.memory.page_offset
        return KERNEL_HALF <= mapping.va < START_KERNEL_MAP and offset % GIGABYTE == 0


def is_block(run: PageRange) -> bool:
    """Whether a run looks like execmem's: whole 2 MiB leaves (mm/execmem.c, execmem_cache_populate)."""
    return run.start % LARGE_PAGES == run.end % LARGE_PAGES == 0


def module_base(module: ModuleFacts) -> int | None:
    """Virtual address of a module's text allocation, or None if it has no text or no address of it is known."""
    layout = text_layout(module.image) if module.image else {}
    bases = (module.sections.get(name, 0) - offset for name, offset in layout.items())
    return next((base for base in bases if base >= KERNEL_HALF), None)


def _kernel_text(ground: Ground) -> Iterator[Claim]:
    kernel = ground.survey.kernel
    if not kernel.image or kernel.image.build_id != kernel.build_id:
        return
    resident = [s for s in kernel.image.sections if s.kind is SectionKind.RESIDENT]
    linked = next(s.va for s in resident if s.name == ".text")
    for s in resident:
        pages = PageRange.covering((s.va - linked + kernel.text_va) % 2**64, s.bytes)
        yield Claim(pages, CodeKind.KERNEL_TEXT, "kernel", s.name, promised=True)


def _module_text(ground: Ground) -> Iterator[Claim]:
    for module in ground.survey.modules:
        base = module_base(module)
        if base is None or not module.image:
            continue
        sizes = {s.name: s.bytes for s in module.image.sections}
        for name, offset in text_layout(module.image).items():
            pages = PageRange.covering(base + offset, sizes[name])
            yield Claim(pages, CodeKind.MODULE_TEXT, module.name, name, promised=True)


def _canary(ground: Ground) -> Iterator[Claim]:
    for claim in _module_text(ground):
        if (claim.owner, claim.section) == SHIM_CANARY:
            yield replace(claim, kind=CodeKind.CANARY)


def _its_thunks(ground: Ground) -> Iterator[Claim]:
    thunks = PageSet(ground.survey.memory.thunk_pages)
    for mapping in ground.mappings:
        for run in thunks.touching(mapping.frames) if mapping.va >= START_KERNEL_MAP else ():
            yield Claim((run & mapping.frames).shift(mapping.offset), CodeKind.ITS_THUNK, "kernel", "its_pages")


def _named(ground: Ground, tag: str) -> Iterator[tuple[Symbol, PageRange]]:
    for symbol in ground.survey.symbols:
        run = ground.run(symbol.va) if symbol.tag == tag else None
        if run:
            yield symbol, run


def _bpf(ground: Ground) -> Iterator[Claim]:
    for run in sorted({run for _, run in _named(ground, "bpf")}):
        yield Claim(run, CodeKind.BPF, "bpf")


def _tagged_pages(ground: Ground, tag: str, kind: CodeKind) -> Iterator[Claim]:
    for symbol, run in _named(ground, tag):
        page = symbol.va >> PAGE_SHIFT
        pages = PageRange(page, page + 1) if is_block(run) else run
        yield Claim(pages, kind, "kernel", symbol.name)


def _ftrace(ground: Ground) -> Iterator[Claim]:
    return _tagged_pages(ground, "__builtin__ftrace", CodeKind.FTRACE)


def _kprobes(ground: Ground) -> Iterator[Claim]:
    return _tagged_pages(ground, "__builtin__kprobes", CodeKind.KPROBE)


def _areas(ground: Ground) -> Iterator[Claim]:
    for area in ground.survey.areas:
        kind = AREA_CALLERS.get(area.caller)
        if kind:
            yield Claim(PageRange.covering(area.start, area.end - area.start), kind, "kernel", area.caller)


def _hypercall_page(ground: Ground) -> Iterator[Claim]:
    page = ground.survey.memory.hypercall_page
    if page:
        yield Claim(PageRange.covering(page, 1), CodeKind.HYPERCALL, "hyper-v", "hv_hypercall_pg")


def _trampoline(ground: Ground) -> Iterator[Claim]:
    known = ground.survey.memory.trampoline or PageRange.covering(0, LOW_MEMORY)
    for m in ground.mappings:
        if ground.in_direct_map(m):
            yield Claim((m.frames & known).shift(m.offset), CodeKind.TRAMPOLINE, "kernel", "real_mode_header")


def is_efi_address(mapping: Mapping) -> bool:
    """Whether only efi_mm maps this: its window below the kernel image, or the identity map of the lower half."""
    return mapping.va in EFI_WINDOW or mapping.va == mapping.pa


def _efi_runtime(ground: Ground) -> Iterator[Claim]:
    firmware = PageSet(ground.survey.efi_runtime)
    for m in filter(is_efi_address, ground.mappings):
        for run in firmware.touching(m.frames):
            yield Claim((run & m.frames).shift(m.offset), CodeKind.EFI_RUNTIME, "firmware", "runtime-services-code")


def _kexec(ground: Ground) -> Iterator[Claim]:
    if ground.survey.kexec_loaded:
        for m in ground.mappings:
            if ground.in_direct_map(m) and m.pa >= LOW_MEMORY and len(m.virtual) == 1:
                yield Claim(m.virtual, CodeKind.KEXEC, "kernel", "control page")


def _execmem(ground: Ground) -> Iterator[Claim]:
    bases = [base for m in ground.survey.modules if (base := module_base(m)) is not None]
    generated = [s.va for s in ground.survey.symbols if s.tag in ("__builtin__ftrace", "__builtin__kprobes")]
    for run in sorted({run for va in (*bases, *generated) if (run := ground.run(va)) and is_block(run)}):
        yield Claim(run, CodeKind.EXECMEM, "kernel")


@dataclass(frozen=True, slots=True)
class Rule:
    """One reason for a page to be executable, with its source in the kernel."""

    kind: CodeKind | None  #: None: each claim says
    claims: Callable[[Ground], Iterable[Claim]]
    reason: str
    source: str


_K = CodeKind
#: In order of precedence.
RULES: tuple[Rule, ...] = (
    Rule(_K.CANARY, _canary, "the shim's page that exists to be denied", "hypercall-shim/canary.S"),
    Rule(_K.KERNEL_TEXT, _kernel_text, "the kernel image's own text", "arch/x86/kernel/vmlinux.lds.S"),
    Rule(_K.MODULE_TEXT, _module_text, "text of a loaded module", "kernel/module/main.c layout_sections()"),
    Rule(_K.ITS_THUNK, _its_thunks, "only jumps and int3", "arch/x86/kernel/alternative.c its_init_thunk()"),
    Rule(_K.BPF, _bpf, "JIT pack with named BPF code", "kernel/bpf/core.c bpf_prog_pack_alloc(): whole packs of 2 MiB"),
    Rule(_K.FTRACE, _ftrace, "trampoline of the function tracer", "arch/x86/kernel/ftrace.c create_trampoline()"),
    Rule(_K.KPROBE, _kprobes, "instruction slots of kprobes", "kernel/kprobes.c __get_insn_slot()"),
    Rule(_K.HYPERCALL, _hypercall_page, "hypercall page", "arch/x86/hyperv/hv_init.c hyperv_init()"),
    Rule(None, _areas, "vmalloc area of a known caller", "mm/vmalloc.c vmalloc_info_show()"),
    Rule(_K.TRAMPOLINE, _trampoline, "start-up code of further CPUs", "arch/x86/realmode/init.c real_mode_blob"),
    Rule(
        _K.EFI_RUNTIME, _efi_runtime, "EFI runtime services code", "arch/x86/platform/efi/efi_64.c; EFI memory type 5"
    ),
    Rule(_K.KEXEC, _kexec, "control page of a loaded kexec image", "arch/x86/kernel/machine_kexec_64.c"),
    Rule(_K.EXECMEM, _execmem, "execmem block of modules, ftrace and kprobes", "mm/execmem.c execmem_cache_populate()"),
)

#: Why pages of a kind are kept, in words.
REASONS: dict[CodeKind, str] = {rule.kind: rule.reason for rule in RULES if rule.kind}
