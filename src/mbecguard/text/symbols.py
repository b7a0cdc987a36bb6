# SPDX-License-Identifier: GPL-2.0-or-later
"""What the symbols of the running kernel say: where things are, and what patched text may lead to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mbecguard.guest.dispatchers import entries
from mbecguard.guest.procfs import CODE, Kallsyms
from mbecguard.guest.source import Contents
from mbecguard.text.forms import Targets

#: What a patched function entry may call: arch/x86/kernel/ftrace_64.S, arch/x86/kernel/fentry.S.
_TRACERS = ("ftrace_caller", "ftrace_regs_caller", "__fentry__")
_TRACER_TAG, _BPF_TAG, _BPF_TRAMPOLINE = "__builtin__ftrace", "bpf", "bpf_trampoline_"
_SLOTS = "__builtin__kprobes"
_NAME = 19  #: where a name begins in a line, see `Kallsyms.lines`
_LOWER = ord("a")
#: arch/x86/lib/retpoline.S: __x86_return_thunk, its_return_thunk, srso_return_thunk and others.
_RETURN_THUNK = b"return_thunk"
_EXPORTED = b"__ksymtab_"
#: `jmp *%reg` and int3: its_init_thunk() in arch/x86/kernel/alternative.c.
_ITS_THUNK = re.compile(rb"(?:\x41?\xff[\xe0-\xe7])\xcc", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Symbols:
    """/proc/kallsyms by what is asked of it. There are 200 000, so names stay bytes, and addresses digits."""

    kallsyms: Kallsyms
    public: Mapping[bytes, bytes]  #: of the kernel proper, those with a capital letter
    tagged: Mapping[bytes, bytes]  #: by the end of the line: name, tab, tag in brackets
    functions: frozenset[bytes]  #: where code begins that has a name
    exporters: Mapping[bytes, bytes]  #: which module exports a name

    @classmethod
    def of(cls, kallsyms: Kallsyms) -> Symbols:
        """Sort all of them once."""
        own, others = kallsyms.lines()
        exports = [line[_NAME:-1].partition(b"\t[") for line in others if line.startswith(_EXPORTED, _NAME)]
        return cls(
            kallsyms,
            {line[_NAME:]: line[:16] for line in own if line[17] < _LOWER},
            {line[_NAME:]: line[:16] for line in others},
            frozenset(
                [line[:16] for line in (*own, *others) if line[17] in CODE]
                + [b"%016x" % va for va in entries(kallsyms.tagged(_BPF_TAG))]
            ),
            {name[len(_EXPORTED) :]: tag for name, _, tag in exports},
        )

    def address(self, name: str) -> int | None:
        """Of a symbol of the kernel proper."""
        return self.kallsyms.address(name)

    def of_module(self, module: str, name: str) -> int | None:
        """Of a symbol of a module."""
        return _number(self._of_module(module.encode(), name.encode()))

    def _of_module(self, module: bytes, name: bytes) -> bytes | None:
        return self.tagged.get(b"%s\t[%s]" % (name, module))

    def all(self) -> dict[str, int]:
        """Every symbol of the kernel proper."""
        own, _ = self.kallsyms.lines()
        return {line[19:].decode(errors="replace"): int(line[:16], 16) for line in reversed(own)}

    def exported(self, names: Iterable[str]) -> dict[str, int]:
        """What modules can be bound to. Those of modules do not always have a capital letter in /proc/kallsyms."""
        found = {}
        for name in names:
            key = name.encode()
            digits = self.public.get(key) or self._of_module(self.exporters.get(key, b""), key)
            if digits:
                found[name] = int(digits, 16)
        return found

    def slots(self) -> frozenset[int]:
        """Pages of optimised kprobes."""
        return frozenset(symbol.va for symbol in self.kallsyms.tagged(_SLOTS))

    def _tracers(self) -> frozenset[int]:
        """Trampolines of ftrace, of BPF, and the kernel's own."""
        trampolines = (one for one in self.kallsyms.tagged(_BPF_TAG) if one.name.startswith(_BPF_TRAMPOLINE))
        made = (one.va for one in (*self.kallsyms.tagged(_TRACER_TAG), *trampolines))
        own = (va for name in _TRACERS if (va := self.address(name)))
        return frozenset((*made, *own))

    def _thunks(self) -> frozenset[int]:
        return frozenset(int(digits, 16) for name, digits in self.public.items() if name.endswith(_RETURN_THUNK))

    def targets(self, memory: Contents) -> Targets:
        """The kinds of addresses that forms name."""
        tracers, thunks = self._tracers(), self._thunks()
        found: Targets = {
            "function": lambda va, _: b"%016x" % va in self.functions,
            "target": lambda va, argument: va == argument,
            "tracer": lambda va, _: va in tracers,
            "return-thunk": lambda va, _: va in thunks,
            "its": lambda va, _: _ITS_THUNK.match(memory.virtual(va, 4) or b"") is not None,
        }
        return found


def _number(digits: bytes | None) -> int | None:
    return int(digits, 16) if digits else None
