# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may own an executable page: knowledge about kernels, as a table of rules.

A rule looks at the survey and claims virtual pages. Where two claim the same page the earlier rule of the table
wins. The planner applies the table; nothing here decides what is kept.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any, NamedTuple

from mbecguard.guest.efi import is_efi_address
from mbecguard.guest.execmap import Mapping
from mbecguard.guest.kcore import START_KERNEL_MAP
from mbecguard.guest.procfs import KERNEL_HALF, Symbol, VmallocArea
from mbecguard.guest.survey import Survey
from mbecguard.image.module import core_text
from mbecguard.image.sections import SectionKind
from mbecguard.plan.layout import ModuleText
from mbecguard.plan.policy import CodeKind
from mbecguard.values.facts import Fact, Known, Unknown, known
from mbecguard.values.pages import LARGE_PAGES, PAGE_SHIFT, PAGE_SIZE, PageRange, PageSet

SHIM_CANARY = ("mbecguard_shim", ".text.canary")  #: module, section: one page
LOW_MEMORY = 1 << 20  #: the real-mode blob lies below 1 MiB
GIGABYTE = 1 << 30

#: Who allocates packs of BPF code, and up to 6.1 pages of trampolines. Which of these a compiler has inlined differs.
PACK_CALLERS = (
    *("bpf_prog_pack_alloc", "alloc_new_pack", "bpf_jit_alloc_exec"),
    *("bpf_jit_alloc_exec_page", "bpf_trampoline_update", "bpf_trampoline_get"),
)
#: vmalloc callers whose areas hold generated code, as /proc/vmallocinfo names them.
AREA_CALLERS = {
    **dict.fromkeys(PACK_CALLERS, CodeKind.BPF),
    "apply_retpolines": CodeKind.ITS_THUNK,
    "its_alloc": CodeKind.ITS_THUNK,
    "__its_alloc": CodeKind.ITS_THUNK,
    "its_init_mod": CodeKind.ITS_THUNK,
    "arch_ftrace_update_trampoline": CodeKind.FTRACE,
    "create_trampoline": CodeKind.FTRACE,
    "alloc_insn_page": CodeKind.KPROBE,
    "hyperv_init": CodeKind.HYPERCALL,
}


class Claim(NamedTuple):
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
        self.texts = tuple(map(ModuleText.of, survey.modules))
        #: Maximal runs of executable virtual pages. vmalloc puts a guard page behind each area, so that a run is
        #: one area, or one block of execmem.
        self.runs = PageSet(m.virtual for m in self.mappings)
        self.areas = known(survey.areas, ())
        #: Those whose place is told, with it.
        self.placed = tuple((area, area.start) for area in self.areas if area.start is not None)

    def run(self, va: int) -> PageRange | None:
        """The executable run that holds byte address `va`."""
        page = va >> PAGE_SHIFT
        return next(self.runs.touching(PageRange(page, page + 1)), None)

    def frames(self, va: int) -> Iterator[PageRange]:
        """The page frames that are executable at byte address `va`: one, or none."""
        page = va >> PAGE_SHIFT
        return (PageRange(page, page + 1).shift(-m.offset) for m in self.mappings if page in m.virtual)

    @cached_property
    def _owned(self) -> frozenset[PageRange]:
        bases = [text.base for text in self.texts if text.base is not None]
        generated = [s.va for s in self.survey.symbols if s.tag in ("__builtin__ftrace", "__builtin__kprobes")]
        return frozenset(run for va in (*bases, *generated) if (run := self.run(va)))

    def owned(self, run: PageRange) -> bool:
        """Whether a run holds text of a listed module, or what the tracer or kprobes made."""
        return run in self._owned

    def area(self, va: int) -> VmallocArea | None:
        """The vmalloc area that holds byte address `va`, if its place is known."""
        index = bisect_right(self._starts, va) - 1
        area, start = self._by_place[index] if index >= 0 else (None, 0)
        return area if area and va < start + area.bytes else None

    @cached_property
    def _by_place(self) -> list[tuple[VmallocArea, int]]:
        return sorted(self.placed, key=itemgetter(1))

    @cached_property
    def _starts(self) -> list[int]:
        return [start for _, start in self._by_place]

    def shown(
        self, frames: Fact[tuple[PageRange, ...]], where: Callable[[Mapping], bool] | None = None
    ) -> Iterator[PageRange]:
        """The virtual pages at which mappings, those that are `where`, show some page frames."""
        wanted = PageSet(known(frames, ()))
        for mapping in filter(where, self.mappings) if wanted else ():
            for run in wanted.touching(mapping.frames):
                yield (run & mapping.frames).shift(mapping.offset)

    def in_direct_map(self, mapping: Mapping) -> bool:
        """Whether this is physical memory as the direct map shows it."""
        offset = mapping.va - mapping.pa
        if self.survey.memory.page_offset is not None:
            return offset == self.survey.memory.page_offset
        return KERNEL_HALF <= mapping.va < START_KERNEL_MAP and offset % GIGABYTE == 0


def is_block(run: PageRange) -> bool:
    """Whether a run looks like execmem's: whole 2 MiB leaves (mm/execmem.c, execmem_cache_populate)."""
    return run.start % LARGE_PAGES == run.end % LARGE_PAGES == 0


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
    return (claim for text in ground.texts for claim in _text_claims(text))


def _text_claims(text: ModuleText) -> Iterator[Claim]:
    module, layout, base = text
    if base is None or not module.image:
        return
    for section, offset in layout:
        pages = PageRange.covering(base + offset, section.bytes)
        yield Claim(pages, CodeKind.MODULE_TEXT, module.name, section.name, promised=True)
    for section, offset in () if module.unload else core_text(module.image):
        if section.kind is SectionKind.EXIT:  # if its kernel has not freed it, this is where it lies
            pages = PageRange.covering(base + offset, section.bytes)
            yield Claim(pages, CodeKind.MODULE_TEXT, module.name, section.name)


def _canary(ground: Ground) -> Iterator[Claim]:
    name, section = SHIM_CANARY
    for text in ground.texts:
        for claim in _text_claims(text) if text.module.name == name else ():
            if claim.section == section:
                yield claim._replace(kind=CodeKind.CANARY)


def _its_thunks(ground: Ground) -> Iterator[Claim]:
    for pages in ground.shown(ground.survey.memory.thunk_pages, lambda m: m.va >= START_KERNEL_MAP):
        yield Claim(pages, CodeKind.ITS_THUNK, "kernel", "its_pages")


def _named(ground: Ground, tag: str) -> Iterator[tuple[Symbol, PageRange]]:
    for symbol in ground.survey.symbols:
        run = ground.run(symbol.va) if symbol.tag == tag else None
        if run:
            yield symbol, run


def _bpf(ground: Ground) -> Iterator[Claim]:
    """Packs with a named program, and those that nobody names: classic BPF (seccomp, socket filters) has no symbol.

    A pack is one area. Where /proc/vmallocinfo hashes addresses, it still tells how many areas of which size were
    allocated for packs: so many runs of that size, and no more, are packs.
    """
    named = {run for _, run in _named(ground, "bpf")}
    packs = Counter(area.bytes - PAGE_SIZE for area in ground.areas if area.caller in PACK_CALLERS and not area.module)
    thunks = PageSet(claim.pages for claim in _its_thunks(ground))
    module_space = [run for run in ground.runs if run.start << PAGE_SHIFT >= START_KERNEL_MAP]
    for size, number in packs.items():
        runs = [run for run in module_space if len(run) << PAGE_SHIFT == size and not thunks & PageSet([run])]
        others = [run for run in runs if run not in named and not ground.owned(run)]
        if len(others) <= number - sum(run in named for run in runs):
            named.update(others)
    for run in sorted(named):
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
    for area, start in ground.placed:
        kind = None if area.module else AREA_CALLERS.get(area.caller)
        if kind:
            yield Claim(PageRange.covering(start, area.bytes), kind, "kernel", area.caller)


def _hypercall_page(ground: Ground) -> Iterator[Claim]:
    page = known(ground.survey.memory.hypercall_page, None)
    if page:
        yield Claim(PageRange.covering(page, 1), CodeKind.HYPERCALL, "hyper-v", "hv_hypercall_pg")


def _trampoline(ground: Ground) -> Iterator[Claim]:
    blob = known(ground.survey.memory.trampoline, PageRange.covering(0, LOW_MEMORY))
    for m in ground.mappings:
        if ground.in_direct_map(m):
            yield Claim((m.frames & blob).shift(m.offset), CodeKind.TRAMPOLINE, "kernel", "real_mode_header")


def _efi_runtime(ground: Ground) -> Iterator[Claim]:
    code = ground.survey.efi.code
    for m in filter(is_efi_address, ground.mappings if isinstance(code, Unknown) else ()):
        yield Claim(m.virtual, CodeKind.EFI_RUNTIME, "firmware", "efi_mm")
    for pages in ground.shown(code, is_efi_address):
        yield Claim(pages, CodeKind.EFI_RUNTIME, "firmware", "runtime-services-code")


def _efi_data(ground: Ground) -> Iterator[Claim]:
    for pages in ground.shown(Known(ground.survey.efi.data), is_efi_address):
        yield Claim(pages, CodeKind.EFI_DATA, "firmware", "runtime-services-data")


def _kexec(ground: Ground) -> Iterator[Claim]:
    """One page for each loaded image; where there are more, nobody can tell which these are."""
    pages = [m for m in ground.mappings if ground.in_direct_map(m) and m.pa >= LOW_MEMORY and len(m.virtual) == 1]
    if len(pages) <= known(ground.survey.kexec_images, 0):
        for m in pages:
            yield Claim(m.virtual, CodeKind.KEXEC, "kernel", "control page")


def _freed_init(ground: Ground) -> Iterator[Claim]:
    """What a module's initialisation left in a block: free space that holds the code until somebody else takes it."""
    for module in ground.survey.modules:
        for section, pages in module.init_pages():
            run = ground.run(pages.start << PAGE_SHIFT)
            if run and is_block(run) and pages.end <= run.end:
                yield Claim(pages, CodeKind.EXECMEM, module.name, f"{section} (freed)")


def _execmem(ground: Ground) -> Iterator[Claim]:
    """Free space of the blocks, which holds nothing but int3; what is in use has its owner, page by page."""
    for pages in ground.shown(ground.survey.memory.int3_pages):
        block = ground.run(pages.start << PAGE_SHIFT)
        if block and is_block(block):
            yield Claim(pages, CodeKind.EXECMEM, "kernel", "free")


@dataclass(frozen=True, slots=True)
class Rule:
    """One reason for a page to be executable, with its source in the kernel.

    `fact` is what the rule stands on, where that can be unknown; `unknown` says what the rule does then.
    """

    kind: CodeKind | None  #: None: each claim says
    claims: Callable[[Ground], Iterable[Claim]]
    reason: str
    source: str
    fact: Callable[[Survey], Fact[Any]] | None = None
    unknown: str = ""


_NO_CLAIM = "such pages stay unexplained"
_K = CodeKind
#: In order of precedence.
RULES: tuple[Rule, ...] = (
    Rule(_K.CANARY, _canary, "the shim's page that exists to be denied", "hypercall-shim/canary.S"),
    Rule(_K.KERNEL_TEXT, _kernel_text, "the kernel image's own text", "arch/x86/kernel/vmlinux.lds.S"),
    Rule(_K.MODULE_TEXT, _module_text, "text of a loaded module", "kernel/module/main.c layout_sections()"),
    Rule(
        _K.ITS_THUNK,
        _its_thunks,
        "only jumps and int3",
        "arch/x86/kernel/alternative.c its_init_thunk()",
        lambda survey: survey.memory.thunk_pages,
        _NO_CLAIM,
    ),
    Rule(
        _K.BPF,
        _bpf,
        "JIT pack of BPF code",
        "kernel/bpf/core.c bpf_prog_pack_alloc(): whole packs of 2 MiB",
        lambda survey: survey.areas,
        _NO_CLAIM,
    ),
    Rule(_K.FTRACE, _ftrace, "trampoline of the function tracer", "arch/x86/kernel/ftrace.c create_trampoline()"),
    Rule(_K.KPROBE, _kprobes, "instruction slots of kprobes", "kernel/kprobes.c __get_insn_slot()"),
    Rule(
        _K.HYPERCALL,
        _hypercall_page,
        "hypercall page",
        "arch/x86/hyperv/hv_init.c hyperv_init()",
        lambda survey: survey.memory.hypercall_page,
        _NO_CLAIM,
    ),
    Rule(
        None,
        _areas,
        "vmalloc area of a known caller",
        "mm/vmalloc.c vmalloc_info_show()",
        lambda survey: survey.areas,
        _NO_CLAIM,
    ),
    Rule(
        _K.TRAMPOLINE,
        _trampoline,
        "start-up code of further CPUs",
        "arch/x86/realmode/init.c real_mode_blob",
        lambda survey: survey.memory.trampoline,
        "all that is executable below 1 MiB counts as it",
    ),
    Rule(
        _K.EFI_RUNTIME,
        _efi_runtime,
        "EFI runtime services code",
        "arch/x86/platform/efi/efi_64.c; EFI memory type 5",
        lambda survey: survey.efi.code,
        "all that only efi_mm maps executable counts as it",
    ),
    Rule(_K.EFI_DATA, _efi_data, "EFI runtime services data, mapped executable", "EFI memory types 6, 11 and 12"),
    Rule(
        _K.KEXEC,
        _kexec,
        "control page of a loaded kexec image",
        "arch/x86/kernel/machine_kexec_64.c",
        lambda survey: survey.kexec_images,
        _NO_CLAIM,
    ),
    Rule(
        _K.EXECMEM,
        _execmem,
        "free space in an execmem block, nothing but int3",
        "mm/execmem.c execmem_fill_trapping_insns()",
        lambda survey: survey.memory.int3_pages,
        _NO_CLAIM,
    ),
    Rule(
        _K.EXECMEM,
        _freed_init,
        "free space in an execmem block, where a module was initialised",
        "kernel/module/main.c do_free_init()",
    ),
)

#: Why pages of a kind are kept, in words.
REASONS: dict[CodeKind, str] = {rule.kind: rule.reason for rule in reversed(RULES) if rule.kind}
