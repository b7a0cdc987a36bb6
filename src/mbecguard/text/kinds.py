# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the kernel patches its own text, and what it may put there, as a table. Sources: Linux 6.1, 6.12 and 7.2.

A layout names the fields of an entry and how wide they are. `rel32` and `rel64` count from the field itself, `abs64` is
an address; in a module each of them is a relocation. Known fields: `site`, where it is; `target` and `replacement`,
what it leads to; `length` and `rlength`, bytes there; `feature`, for alternatives, with flags in its upper half.

A form is what the bytes of a site may be, besides those of the file, in words:

    66 90       these bytes
    keep:2      as many bytes as the file has them
    >NAME       a distance of 32 bits to an address of that kind (see targets.py), counted from behind itself
    >NAME:8     a distance of 8 bits
    call* jmp*  an indirect branch by the register that the site is for
    cs          prefixes without an effect, or none
    nops        to the end nothing but instructions that do nothing
    fill        to the end those, or int3
    same        to the end whatever all the sites of its section have
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

NOP2, NOP5 = "66 90", "0f 1f 44 00 00"
#: x86_nops[] in arch/x86/kernel/alternative.c.
NOPS = (
    "90",
    NOP2,
    "0f 1f 00",
    "0f 1f 40 00",
    NOP5,
    "66 0f 1f 44 00 00",
    "0f 1f 80 00 00 00 00",
    "0f 1f 84 00 00 00 00 00",
    "66 0f 1f 84 00 00 00 00 00",
    "66 66 0f 1f 84 00 00 00 00 00",
    "66 66 66 0f 1f 84 00 00 00 00 00",
)
DIRECT_CALL = 1 << 17  #: ALT_FLAG_DIRECT_CALL, arch/x86/include/asm/alternative.h; 6.1 has no such flag


class Argument(Enum):
    """What the column `argument` of a kind's sites holds."""

    NONE = "none"
    TARGET = "target"  #: a place
    REPLACEMENT = "replacement"  #: a place; `extra` has the bytes there, and the flags above them
    REGISTER = "register"  #: 0 to 15
    GROUP = "group"  #: sites with the same number have the same bytes


@dataclass(frozen=True, slots=True, eq=False)
class SiteKind:
    """One way in which the kernel patches text. `sections` may end in `*`.

    `bounds` are the symbols around the table in a kernel, if it is part of a larger section there. `symbols` name the
    sites themselves where no table does; they may end in `*`, too. `lengths` has the bytes of a site by how the file's
    begin, where no field tells. `usual` is the form that nearly all of them have after a boot, if it is plain bytes.
    """

    id: str
    reason: str
    source: str
    sections: tuple[str, ...] = ()
    layouts: tuple[str, ...] = ()
    lengths: tuple[tuple[str, int], ...] = ()
    forms: tuple[str, ...] = ()
    bounds: tuple[str, str] = ("", "")
    symbols: tuple[str, ...] = ()
    argument: Argument = Argument.NONE
    usual: str = ""


_SITE = ("site:rel32",)
_CALLS = (("e8", 5), ("e9", 5), ("2e e8", 6), ("2e e9", 6), *((f"0f 8{digit:x}", 6) for digit in range(16)))

JUMP_LABEL, STATIC_CALL, TRAMPOLINE = "jump label", "static call", "static call trampoline"

KINDS: tuple[SiteKind, ...] = (
    SiteKind(
        JUMP_LABEL,
        "a static key is switched: the branch is a jump to the label, or a nop",
        "kernel/jump_label.c, arch/x86/kernel/jump_label.c __jump_label_set_jump_code()",
        sections=("__jump_table",),
        bounds=("__start___jump_table", "__stop___jump_table"),
        layouts=("site:rel32 target:rel32 key:rel64",),
        lengths=((NOP2, 2), ("eb", 2), (NOP5, 5), ("e9", 5)),
        forms=(NOP2, "eb >target:8", NOP5, "e9 >target"),
        argument=Argument.TARGET,
    ),
    SiteKind(
        STATIC_CALL,
        "what a static call calls is changed: a function, nothing, or `return 0`; 7.2 also traps (ud1)",
        "kernel/static_call_inline.c, arch/x86/kernel/static_call.c __static_call_transform()",
        sections=(".static_call_sites",),
        bounds=("__start_static_call_sites", "__stop_static_call_sites"),
        layouts=("site:rel32 key:rel32",),
        lengths=_CALLS,
        forms=(
            NOP5,
            "2e 2e 2e 31 c0",
            "67 48 0f b9 3a",
            "c3 cc cc cc cc",
            "e8 >function",
            "e9 >function",
            "keep:2 >function",
        ),
    ),
    SiteKind(
        TRAMPOLINE,
        "the same, for callers that are not patched themselves",
        "arch/x86/include/asm/static_call.h, arch/x86/kernel/static_call.c",
        symbols=("__SCT__*",),
        lengths=(("", 5),),
        forms=("e9 >function", "c3 cc cc cc cc", NOP5),
    ),
    SiteKind(
        "function entry",
        "a function is traced, probed, or hooked by a BPF program; else it is a nop",
        "kernel/trace/ftrace.c, arch/x86/kernel/ftrace.c, arch/x86/net/bpf_jit_comp.c bpf_arch_text_poke()",
        sections=("__mcount_loc",),
        bounds=("__start_mcount_loc", "__stop_mcount_loc"),
        layouts=("site:abs64",),
        lengths=(("", 5),),
        forms=(NOP5, "e8 >tracer", "e9 >tracer"),
        usual=NOP5,
    ),
    SiteKind(
        "tracer's call",
        "what ftrace's own trampoline calls follows from who traces",
        "arch/x86/kernel/ftrace.c ftrace_update_ftrace_func(), ftrace_mod_jmp(); arch/x86/kernel/ftrace_64.S",
        symbols=("ftrace_call", "ftrace_regs_call", "ftrace_graph_call"),
        lengths=(("", 5),),
        forms=(NOP5, "e8 >function", "e9 >function"),
    ),
    SiteKind(
        "lock prefix",
        "a kernel with one processor does without `lock`",
        "arch/x86/kernel/alternative.c alternatives_smp_lock(), alternatives_smp_unlock()",
        sections=(".smp_locks",),
        layouts=_SITE,
        lengths=(("", 1),),
        forms=("f0", "3e"),
    ),
    SiteKind(
        "paravirt call",
        "6.1: calls by pv_ops become direct ones, or go",
        "6.1 arch/x86/kernel/paravirt.c paravirt_patch(), arch/x86/include/asm/paravirt_types.h",
        sections=(".parainstructions",),
        layouts=("site:abs64 type:u8 length:u8 pad:u16 pad:u32",),
        forms=("e8 >function nops", "nops"),
    ),
    SiteKind(
        "retpoline",
        "an indirect branch goes by a thunk only on processors that need it; ITS gives it a thunk of its own",
        "arch/x86/kernel/alternative.c patch_retpoline(), emit_indirect(), its_allocate_thunk()",
        sections=(".retpoline_sites",),
        layouts=_SITE,
        lengths=_CALLS,
        forms=(
            "cs call* nops",
            "0f ae e8 call* nops",
            "jmp* fill",
            "0f ae e8 jmp* fill",
            "e8 >its nops",
            "e9 >its fill",
            "2e e8 >its",
            "2e e9 >its",
        ),
        argument=Argument.REGISTER,
    ),
    SiteKind(
        "return",
        "a return goes by a thunk only on processors that need it",
        "arch/x86/kernel/alternative.c apply_returns(), patch_return()",
        sections=(".return_sites",),
        layouts=_SITE,
        lengths=(("e9", 5),),
        forms=("c3 cc cc cc cc", "e9 >return-thunk"),
        usual="c3 cc cc cc cc",
    ),
    SiteKind(
        "endbr",
        "a function that nobody calls indirectly takes no indirect branch: endbr64 is poisoned",
        "arch/x86/kernel/alternative.c poison_endbr(), arch/x86/include/asm/ibt.h gen_endbr_poison()",
        sections=(".ibt_endbr_seal",),
        layouts=_SITE,
        lengths=(("", 4),),
        forms=("66 0f 1f 00", "0f 1f 40 d6"),
    ),
    SiteKind(
        "runtime pointer",
        "an address that is known from the boot on is an operand of the instruction",
        "arch/x86/include/asm/runtime-const.h __runtime_fixup_ptr()",
        sections=("runtime_ptr_*",),
        layouts=_SITE,
        lengths=(("", 8),),
        forms=("same",),
        argument=Argument.GROUP,
    ),
    SiteKind(
        "runtime shift",
        "a number of bits that is known from the boot on is an operand of the instruction",
        "arch/x86/include/asm/runtime-const.h __runtime_fixup_shift()",
        sections=("runtime_shift_*",),
        layouts=_SITE,
        lengths=(("", 1),),
        forms=("same",),
        argument=Argument.GROUP,
    ),
    SiteKind(
        "alternative",
        "instructions are replaced by what the processor, or the hypervisor, does better (alternatives.py judges them)",
        "arch/x86/kernel/alternative.c apply_alternatives(); the entry had 12 bytes up to 6.2",
        sections=(".altinstructions",),
        layouts=(
            "site:rel32 replacement:rel32 feature:u32 length:u8 rlength:u8",
            "site:rel32 replacement:rel32 feature:u16 length:u8 rlength:u8",
        ),
        argument=Argument.REPLACEMENT,
    ),
)
BY_ID = {kind.id: kind for kind in KINDS}

#: Sections that say that text is patched in ways that this table does not know, and what for.
UNKNOWN_SECTIONS = {".cfi_sites": "kernel control flow integrity (CONFIG_CFI_CLANG, CONFIG_CFI)"}
TEMPLATES = ".altinstr_replacement"  #: what alternatives are replaced by
THUNK = "__x86_indirect_thunk_"  #: followed by the register's name; arch/x86/lib/retpoline.S
REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
