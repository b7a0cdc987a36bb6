# SPDX-License-Identifier: GPL-2.0-or-later
"""A small synthetic guest, written as a capture (docs/DESIGN.md, section 5): describe it, change it, write it."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from tests.elfmaker import ET_REL, NOTE, TEXT_VA, A, Sec, X, bzimage, elf64, note, notes, payload

RELEASE = "6.12.107-toy"
PAGE_OFFSET = 0xFFFF9A8000000000
MODULE_ZONE = 0xFFFFFFFFC0000000
MIB2 = 512  # pages


@dataclass(frozen=True)
class Code:
    """One executable extent; addresses in bytes."""

    va: int
    pa: int
    pages: int = 1
    writable: bool = False
    user: bool = False

    def row(self) -> dict[str, int | bool]:
        """As execmap.json has it."""
        size = self.pages << 12
        return {"va": self.va, "pa": self.pa, "bytes": size, "writable": self.writable, "user": self.user}


@dataclass(frozen=True)
class Mod:
    """One loaded module: where its text lies, and its sections (name, bytes, alignment) in file order."""

    name: str
    va: int
    frames: tuple[int, ...]  #: page frame of each text page; empty inside a ROX block
    sections: tuple[tuple[str, int, int], ...]
    build_id: bytes = b"\x11" * 20
    state: str = "Live"

    def addresses(self) -> Iterator[tuple[str, int]]:
        """What /sys/module/NAME/sections tells: core text, and a stale .init.text."""
        at = self.va
        for name, size, align in self.sections:
            at = (at + align - 1) // align * align
            if size:
                yield name, at
            at += size
        yield ".init.text", MODULE_ZONE + 0x400000

    def file(self) -> bytes:
        """Its .ko.xz."""
        return _module_file(self.name, self.sections, self.build_id)

    def line(self) -> str:
        """Its line of /proc/modules."""
        return f"{self.name} 81920 0 - {self.state} {self.va:#x}\n"

    def code(self) -> Iterator[Code]:
        """Its pages as they are mapped."""
        return (Code(self.va + (i << 12), frame << 12) for i, frame in enumerate(self.frames))


@cache
def _module_file(name: str, sections: tuple[tuple[str, int, int], ...], build_id: bytes) -> bytes:
    core = [Sec(section, size, A | X, align=align) for section, size, align in sections]
    others = [
        Sec(".note.gnu.build-id", note(b"GNU", 3, build_id), A, align=4, type=NOTE),
        Sec(".init.text", 55, A | X, align=8),
        Sec(".modinfo", b"license=GPL\0name=" + name.encode() + b"\0"),
    ]
    return lzma.compress(elf64([*core, *others], ET_REL))


@cache
def kernel_file(text_bytes: int, build_id: bytes) -> bytes:
    """A bzImage whose text needs no bytes."""
    sections = [
        Sec(".text", text_bytes, A | X, TEXT_VA, 4096),
        Sec(".notes", notes(build_id), A, TEXT_VA + 0x800000, 4, NOTE),
        Sec(".init.text", 0x3000, A | X, TEXT_VA + 0xA00000, 16),
        Sec(".altinstr_replacement", 77, A | X, TEXT_VA + 0xA04000, 1),
    ]
    return bzimage(payload("gzip", elf64(sections)))


@dataclass(frozen=True)
class Description:
    """A guest. `files` beats what would be written: bytes, or None to leave the file out."""

    modules: tuple[Mod, ...]
    code: tuple[Code, ...]
    symbols: tuple[str, ...]  #: further lines of kallsyms
    thunks: tuple[int, ...] = ()
    int3: tuple[int, ...] = ()
    trampoline: tuple[int, int] | None = (0x99, 0x9B)
    hypercall_page: int | None = None
    firmware: tuple[tuple[int, int, int], ...] = ((5, 0x7F9ED000, 0x100), (6, 0x7FB00000, 0x10))
    crash_kernel: tuple[int, int] | None = None  #: bytes [start, end)
    kexec_loaded: bool = False
    areas: str = ""  #: vmallocinfo
    bits: int | None = 46
    build_id: bytes = bytes(range(20))
    image_id: bytes = bytes(range(20))
    text_va: int = 0xFFFFFFFFA8400000
    text_pa: int = 0x6A400000
    text_bytes: int = (MIB2 << 12) - 0x40
    image_bytes: int = (MIB2 << 12) - 0x40
    files: tuple[tuple[str, bytes | None], ...] = ()

    def with_file(self, path: str, content: str | bytes | None) -> Description:
        """The same guest with one file of other content, or without it."""
        data = content.encode() if isinstance(content, str) else content
        return replace(self, files=(*self.files, (path, data)))

    def with_code(self, *code: Code) -> Description:
        """The same guest with more executable pages."""
        return replace(self, code=(*self.code, *code))

    def with_module(self, name: str, **changes: object) -> Description:
        """The same guest with one module changed in memory; its file stays as it was."""
        old = next(m for m in self.modules if m.name == name)
        changed = tuple(replace(m, **changes) if m is old else m for m in self.modules)  # type: ignore[arg-type]
        return replace(self, modules=changed).with_file(module_path(name), old.file())

    def mappings(self) -> list[Code]:
        """All executable extents, by virtual address."""
        text = Code(self.text_va, self.text_pa, -(-self.text_bytes // 4096))
        modules = (code for module in self.modules for code in module.code())
        return sorted((text, *modules, *self.code), key=lambda code: code.va)

    def content(self) -> dict[str, bytes]:
        """Every file of the capture by its path."""
        texts = {**self._proc(), **self._sys(), "memory.json": json.dumps(self._memory(), indent=1)}
        rows = ",\n".join(json.dumps(code.row()) for code in self.mappings())
        texts["execmap.json"] = f'{{"schema":"mbecguard.execmap/1","mappings":[\n{rows}\n]}}\n'
        files: dict[str, bytes | None] = {path: text.encode() for path, text in texts.items()}
        files["sys/kernel/notes"] = notes(self.build_id)
        files["boot/vmlinuz"] = kernel_file(self.image_bytes, self.image_id)
        for module in self.modules:
            files[module_path(module.name)] = module.file()
            files[f"sys/module/{module.name}/notes/.note.gnu.build-id"] = note(b"GNU", 3, module.build_id)
        files |= dict(self.files)
        return {path: data for path, data in sorted(files.items()) if data is not None}

    def write(self, folder: Path) -> Path:
        """Make the capture; `folder` may exist."""
        for path, data in self.content().items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        return folder

    def _proc(self) -> dict[str, str]:
        end = self.text_va + self.text_bytes
        kernel = {"_text": self.text_va, "_etext": end, "efi_mm": end + 0x100000, "real_mode_header": end + 0x200000}
        lines = [f"{va:016x} T {name}\n" for name, va in kernel.items()]
        lines += [f"{m.va:016x} t probe\t[{m.name}]\n" for m in self.modules]
        code = f"  {self.text_pa:08x}-{self.text_pa + self.text_bytes - 1:08x} : Kernel code\n"
        crash = "  {:08x}-{:08x} : Crash kernel\n".format(*self._crash()) if self.crash_kernel else ""
        sizes = f"address sizes\t: {self.bits} bits physical, 48 bits virtual\n" if self.bits else ""
        return {
            "proc/kallsyms": "".join(lines + [f"{symbol}\n" for symbol in self.symbols]),
            "proc/iomem": f"00001000-0009ffff : System RAM\n00100000-afffffff : System RAM\n{code}{crash}",
            "proc/modules": "".join(module.line() for module in self.modules),
            "proc/cmdline": "ro quiet\n",
            "proc/version": f"Linux version {RELEASE} (toy) #1 SMP\n",
            "proc/cpuinfo": f"processor\t: 0\n{sizes}\n",
            "proc/vmallocinfo": self.areas,
            "proc/sys/kernel/osrelease": f"{RELEASE}\n",
            "proc/sys/kernel/random/boot_id": "0b4f5a52-1111-4222-8333-444455556666\n",
            "proc/sys/kernel/modules_disabled": "0\n",
        }

    def _crash(self) -> tuple[int, int]:
        start, end = self.crash_kernel or (0, 0)
        return start, end - 1

    def _sys(self) -> dict[str, str]:
        loaded = int(self.kexec_loaded)
        files = {"sys/kernel/kexec_loaded": f"{loaded}\n", "sys/kernel/kexec_crash_loaded": "0\n"}
        for module in self.modules:
            folder = f"sys/module/{module.name}"
            files |= {f"{folder}/sections/{name}": f"0x{va:016x}\n" for name, va in module.addresses()}
            files |= {f"{folder}/coresize": "81920\n", f"{folder}/initstate": "live\n"}
        for index, (kind, pa, pages) in enumerate(self.firmware):
            fields = {"type": kind, "phys_addr": pa, "virt_addr": pa, "num_pages": pages, "attribute": 1 << 63}
            files |= {f"sys/firmware/efi/runtime-map/{index}/{k}": f"{v:#x}\n" for k, v in fields.items()}
        return files

    def _memory(self) -> dict[str, object]:
        def ranges(frames: tuple[int, ...]) -> list[dict[str, int]]:
            return [{"start": frame, "end": frame + 1} for frame in frames]

        blob = self.trampoline
        return {
            "schema": "mbecguard.memory/1",
            "page_offset": PAGE_OFFSET,
            "trampoline": {"start": blob[0], "end": blob[1]} if blob else None,
            "hypercall_page": self.hypercall_page,
            "int3_pages": ranges(self.int3),
            "thunk_pages": ranges(self.thunks),
        }


def module_path(name: str) -> str:
    """Where the file of a module lies in a capture."""
    return f"lib/modules/{RELEASE}/kernel/drivers/{name.replace('_', '-')}.ko.xz"


VIRTIO = Mod(
    "virtio_net",
    MODULE_ZONE + 0x400000,
    (0x11005, 0x11003, 0x10FF0),
    ((".text", 0x2345, 16), (".text.empty", 0, 16), (".text.unlikely", 0x321, 1), (".exit.text", 9, 4)),
)
EXT4 = Mod("ext4", MODULE_ZONE + 0x410000, (0x12000, 0x12002), ((".text", 0x1001, 64),), b"\x22" * 20)
DATA_ONLY = Mod("tables", MODULE_ZONE + 0x420000, (), (), b"\x33" * 20)
PACK = MODULE_ZONE + 0x200000
FTRACE, KPROBE, ITS = (MODULE_ZONE + offset for offset in (0x500000, 0x510000, 0x520000))
EFI_PA, EFI_VA = 0x7FAC6000, 0xFFFFFFFEFF6C6000
TRAMPOLINE = Code(PAGE_OFFSET + 0x99000, 0x99000, 2)
_PACK_CODE = (Code(PACK, 0x1BD0000, 0x30), Code(PACK + 0x30000, 0x6D000000, 0x1D0))
_COMMON = (
    *_PACK_CODE,
    TRAMPOLINE,
    Code(EFI_PA, EFI_PA, 3),
    Code(EFI_VA, EFI_PA, 3),
)

#: As 6.12: every module, tracer and probe on 4 KiB pages of its own.
SCATTERED = Description(
    modules=(VIRTIO, EXT4, DATA_ONLY),
    code=(*_COMMON, Code(FTRACE, 0x13000000), Code(KPROBE, 0x13002000), Code(ITS, 0x13004000)),
    symbols=(
        f"{PACK + 0x13658:016x} t bpf_prog_e8932b6b_sd_devices\t[bpf]",
        f"{FTRACE:016x} t ftrace_trampoline\t[__builtin__ftrace]",
        f"{KPROBE:016x} t kprobe_insn_page\t[__builtin__kprobes]",
    ),
    thunks=(0x13004,),
)

BLOCK_VA, BLOCK_PA = MODULE_ZONE + 0x600000, 0x11C00000
#: Pages of the block: a thunk, the modules, tracer and probe; the rest is free.
_IN_USE = {0, 0x20, 0x30, *range(8, 11), 0x40, 0x41}
#: As 7.2: one 2 MiB block that modules, ITS thunks, tracer and probes share.
SHARED_BLOCK = replace(
    SCATTERED,
    modules=(replace(VIRTIO, va=BLOCK_VA + 0x8000, frames=()), replace(EXT4, va=BLOCK_VA + 0x40000, frames=())),
    code=(*_COMMON, Code(BLOCK_VA, BLOCK_PA, MIB2)),
    symbols=(
        SCATTERED.symbols[0],
        f"{BLOCK_VA + 0x20000:016x} t ftrace_trampoline\t[__builtin__ftrace]",
        f"{BLOCK_VA + 0x30000:016x} t kprobe_insn_page\t[__builtin__kprobes]",
    ),
    thunks=(BLOCK_PA >> 12,),
    int3=tuple((BLOCK_PA >> 12) + page for page in range(MIB2) if page not in _IN_USE),
)
