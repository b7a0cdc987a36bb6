# SPDX-License-Identifier: GPL-2.0-or-later
"""The conditions: what is changed, and what has to come out. Each row is a kind that was reported somewhere."""

from __future__ import annotations

import json
import lzma
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zstandard

from mbecguard.guest.uses import KPROBES
from mbecguard.values.facts import Known, Unknown
from tests.elfmaker import NOTE, A, Sec, note

from .maker import FREE_PA, FREE_VA, Guest, module_file

PACK_BYTES, MIB = 2101248, 1 << 20
EFI = "sys/firmware/efi"


@dataclass(frozen=True)
class Condition:
    """A change of a guest. `ids` are findings that have to be there, `never` those that must not.

    `words` stand somewhere in the findings that the change adds; `open` names switches that stay open.
    """

    guest: str
    change: Callable[[Guest], None]
    locks: bool = True
    ids: tuple[str, ...] = ()
    never: tuple[str, ...] = ("unexplained-mapping",)
    words: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    same_plan: bool = False  #: the ranges of the untouched guest
    options: tuple[str, ...] = ()


FTRACE = "kernel.ftrace_enabled"


def harden(guest: Guest) -> None:
    """As hardening guides have it, and no kprobe that keeps ftrace on for another reason."""
    guest.hide_bpf()
    guest.write(KPROBES, "")
    guest.sysctl("net.core.bpf_jit_harden", "2")


def only_seccomp(guest: Guest) -> None:
    """Classic BPF alone: everything at its default, and no symbol."""
    guest.hide_bpf()
    guest.sysctl("net.core.bpf_jit_harden", "0")
    guest.sysctl("net.core.bpf_jit_kallsyms", "1")


def two_packs(guest: Guest) -> None:
    """A second pack, which nobody names, beside the named one."""
    guest.add_code((FREE_VA, FREE_PA), pages=512)
    line = f"0x00000000dcbd636b-0x000000003827b0d4 {PACK_BYTES} bpf_prog_pack_alloc+0x1f/0x90 pages=512 vmalloc\n"
    guest.write("proc/vmallocinfo", guest.read("proc/vmallocinfo") + line.encode())


def rogue_area(guest: Guest) -> None:
    """Executable memory as large as a pack that no pack's area accounts for."""
    guest.hide_bpf()
    guest.add_code((FREE_VA, FREE_PA), pages=512)


def thinlto(guest: Guest) -> None:
    """Clang's ThinLTO: the real caller is named, with a suffix."""
    guest.hide_bpf()
    text = guest.read("proc/vmallocinfo")
    guest.write("proc/vmallocinfo", text.replace(b"bpf_prog_pack_alloc+", b"alloc_new_pack.llvm.4242424242424242424+"))


def efi_without_map(guest: Guest) -> None:
    """No CONFIG_EFI_RUNTIME_MAP; efi_mm was read."""
    guest.remove(f"{EFI}/runtime-map")
    guest.write(f"{EFI}/fw_platform_size", "64\n")


def efi_nothing(guest: Guest) -> None:
    """Neither the firmware's map nor efi_mm."""
    efi_without_map(guest)
    guest.memory(efi_tables=Unknown("efi_mm cannot be read"))
    guest.map([m for m in guest.mappings() if m["va"] >= 0xFFFFFFFF00000000 or 1 << 63 <= m["va"] < 0xFFFFFFEF00000000])


def efi_old_firmware(guest: Guest) -> None:
    """No memory attributes table: runtime data and MMIO are mapped executable."""
    rows = []
    for entry in sorted((guest.folder / EFI / "runtime-map").iterdir()):
        kind, pa, pages, va = (
            int(guest.read(f"{EFI}/runtime-map/{entry.name}/{field}").decode(), 0)
            for field in ("type", "phys_addr", "num_pages", "virt_addr")
        )
        if kind in (6, 11):
            rows += [
                {"va": at, "pa": pa, "bytes": pages << 12, "writable": True} for at in {va, pa if kind == 6 else va}
            ]
    guest.map(guest.mappings() + rows)


def traced(guest: Guest) -> None:
    """A tracer and kprobes on ftrace, and no BPF hook."""
    guest.lines("proc/kallsyms", lambda line: None if b" bpf_trampoline_" in line else line)
    guest.write("sys/kernel/debug/kprobes/list", "ffffffff81a00000  k  do_sys_openat2+0x0    [FTRACE]\n")
    guest.write("sys/kernel/tracing/enabled_functions", "do_sys_openat2 (2) R   \ttramp: ftrace_regs_caller+0x0/0x65\n")


def hidden_module(guest: Guest) -> None:
    """A module that hid itself everywhere, its text still mapped."""
    guest.lines("proc/modules", lambda line: None if line.startswith(b"veth ") else line)
    guest.lines("proc/kallsyms", lambda line: None if line.rstrip().endswith(b"\t[veth]") else line)
    guest.remove("sys/module/veth")


def half_hidden_module(guest: Guest) -> None:
    """The same, but for its symbols."""
    guest.lines("proc/modules", lambda line: None if line.startswith(b"veth ") else line)


def kdump(guest: Guest, pages: int) -> None:
    """A crash kernel is loaded, and there are executable single pages in the direct map."""
    offset = json.loads(guest.read("memory.json"))["page_offset"]
    guest.write("sys/kernel/kexec_crash_loaded", "1\n")
    guest.add_code(*((offset + pa, pa) for pa in range(0x5000000, 0x5000000 + pages * MIB, MIB)))


def vmalloc_owner(guest: Guest) -> None:
    """A module's own executable memory, with addresses shown."""
    guest.add_code((FREE_VA, FREE_PA), pages=2)
    line = f"0x{FREE_VA:x}-0x{FREE_VA + 0x3000:x}   12288 rtR0MemAllocEx+0x12a/0x3e0 [vboxguest] pages=2 vmalloc N0=2\n"
    guest.write("proc/vmallocinfo", guest.read("proc/vmallocinfo") + line.encode())


def livepatched(guest: Guest) -> None:
    """A livepatch is enabled."""
    guest.write("sys/kernel/livepatch/kpatch_1_1/enabled", "1\n")


NVIDIA = "11" * 20


def renamed_file(guest: Guest) -> None:
    """A file that is called otherwise than its module."""
    data = module_file("nvidia", (".text", 4096), build_id=NVIDIA)
    guest.load_module("nvidia", "updates/dkms/nvidia-current.ko", data, {".text": FREE_VA}, NVIDIA)


def second_copy(guest: Guest) -> None:
    """DKMS has built a newer one since the module was loaded."""
    data = module_file("veth", (".text", 4096), build_id="22" * 20)
    guest.write(f"lib/modules/{guest.release}/updates/dkms/veth.ko", data)


def no_right_copy(guest: Guest) -> None:
    """Two files of the name, and neither was loaded."""
    second_copy(guest)
    for file in guest.modules.rglob("kernel/**/veth.ko*"):
        file.unlink()
    guest.write(f"lib/modules/{guest.release}/extra/veth.ko", module_file("veth", (".text", 9), build_id="23" * 20))


def equal_copies(guest: Guest) -> None:
    """Two files of one content."""
    file = next(guest.modules.rglob("veth.ko*"))
    (guest.modules / "updates/dkms").mkdir(parents=True)
    shutil.copyfile(file, guest.modules / "updates/dkms" / file.name)


def kpatch(guest: Guest) -> None:
    """A livepatch from RHEL's folder."""
    names, build_id = (".text.unlikely.f", ".text.f", ".text.kpatch_pre_patch"), "33" * 20
    data = module_file("kpatch_1_1", *((name, 300) for name in names), build_id=build_id)
    guest.write(f"usr/lib/kpatch/{guest.release}/kpatch-1-1.ko", data)
    sections = {name: FREE_VA + 304 * i for i, name in enumerate(names)}
    guest.load_module("kpatch_1_1", None, b"", sections, build_id)
    livepatched(guest)


def linked_folder(guest: Guest) -> None:
    """kernel/ is a link, as on NixOS; and one that leads up."""
    store = guest.folder / "store"
    store.mkdir()
    (guest.modules / "kernel").rename(store / "kernel")
    (guest.modules / "kernel").symlink_to(store / "kernel")
    (store / "kernel/loop").symlink_to(store)


def weak_updates(guest: Guest) -> None:
    """A link to another release's file."""
    file = next(guest.modules.rglob("veth.ko*"))
    other = guest.folder / "lib/modules-other/extra"
    other.mkdir(parents=True)
    file.rename(other / file.name)
    link = guest.modules / "weak-updates/kmod-veth" / file.name
    link.parent.mkdir(parents=True)
    link.symlink_to(other / file.name)


def no_unload(guest: Guest) -> None:
    """CONFIG_MODULE_UNLOAD=n: no use counts, and .exit.text lies in the freed init allocation."""
    text = guest.read("proc/modules").decode()
    guest.write("proc/modules", re.sub(r"(?m)^(\S+ \d+) \S+ \S+ ", r"\1 - - ", text))
    for number, file in enumerate(sorted((guest.folder / "sys/module").glob("*/sections/.exit.text"))):
        init = file.with_name(".init.text")
        base = int(init.read_text(), 16) if init.exists() else 0xFFFFFFFFC2000000 + 0x4000 * number
        guest.write(str(file.relative_to(guest.folder)), f"{base + 0x2000:#x}\n")


TWINS = (".text", 1000), (".text.unlikely", 1000), (".text.unlikely", 1000)
TWIN_ID = "66" * 20


def twin_sections(guest: Guest) -> None:
    """Two sections of one name; sysfs shows the first."""
    data, sections = (
        module_file("my_mod", *TWINS, build_id=TWIN_ID),
        {".text": FREE_VA, ".text.unlikely": FREE_VA + 1008},
    )
    guest.load_module("my_mod", "extra/my-mod.ko", data, sections, TWIN_ID)


def twin_sections_untold(guest: Guest) -> None:
    """The same where sysfs shows none: /proc/modules has the address."""
    guest.load_module("my_mod", "extra/my-mod.ko", module_file("my_mod", *TWINS, build_id=TWIN_ID), {}, TWIN_ID)


def long_name(guest: Guest) -> None:
    """A section of Rust code with a name of 610 bytes."""
    name, build_id = ".text._RNv" + "x" * 600, "67" * 20
    data = module_file("my_mod", (".text", 1000), (name, 1000), build_id=build_id)
    guest.load_module("my_mod", "extra/my-mod.ko", data, {".text": FREE_VA}, build_id)
    guest.write(f"sys/module/my_mod/sections/{name[:200]}", f"{FREE_VA + 1008:#x}\n")


def no_notes(guest: Guest) -> None:
    """Built without a build-id."""
    guest.load_module("my_mod", "extra/my-mod.ko", module_file("my_mod", (".text", 4000)), {".text": FREE_VA})


def stripped_file(guest: Guest) -> None:
    """The loaded module has a build-id, its file was stripped of it."""
    data = module_file("my_mod", (".text", 4000))
    guest.load_module("my_mod", "extra/my-mod.ko", data, {".text": FREE_VA}, "44" * 20)


def merged_notes(guest: Guest) -> None:
    """The build-id lies in a note section of another name, behind another note."""
    notes = note(b"GNU", 5, bytes(16)) + note(b"GNU", 3, bytes.fromhex("55" * 20))
    data = module_file("my_mod", (".text", 4000), notes=Sec(".note", notes, A, align=4, type=NOTE))
    guest.load_module("my_mod", "extra/my-mod.ko", data, {".text": FREE_VA})
    guest.write("sys/module/my_mod/notes/.note", notes)


def three_packings(guest: Guest) -> None:
    """Files packed in different ways in one folder."""
    files = sorted(guest.modules.rglob("*.ko.xz"))[:4]
    for file, suffix in zip(files, (".zst", "", ".gz", ".zst"), strict=True):
        plain = lzma.decompress(file.read_bytes())
        packers: dict[str, Callable[[bytes], bytes]] = {".zst": zstandard.compress, "": bytes, ".gz": _gzip}
        file.with_name(file.name.removesuffix(".xz") + suffix).write_bytes(packers[suffix](plain))
        file.unlink()


def _gzip(data: bytes) -> bytes:
    import gzip

    return gzip.compress(data, mtime=0)


def no_modules(guest: Guest) -> None:
    """CONFIG_MODULES=n."""
    bpf = [int(line.split()[0], 16) for line in guest.read("proc/kallsyms").splitlines() if line.endswith(b"[bpf]")]
    rows = [m for m in guest.mappings() if m["va"] < 0xFFFFFFFFC0000000 or any(_holds(m, va) for va in bpf)]
    guest.lines("proc/kallsyms", lambda line: None if b"\t[" in line and not line.endswith(b"[bpf]\n") else line)
    for path in ("proc/modules", "lib", "sys/module"):
        guest.remove(path)
    guest.map(rows)
    guest.memory(int3_pages=Known(()), thunk_pages=Known(()))


def _holds(mapping: dict[str, int], va: int) -> bool:
    return mapping["va"] <= va < mapping["va"] + mapping["bytes"]


def memory_hotplug(guest: Guest) -> None:
    """Nested and unusual lines of iomem."""
    lines = (
        "100000000-27fffffff : System RAM\n  270000000-27fffffff : Crash kernel\n"
        "280000000-2ffffffff : System RAM (virtio_mem)\n300000000-33fffffff : dax0.0\n"
        "  300000000-33fffffff : System RAM (kmem)\n"
    )
    guest.write("proc/iomem", guest.read("proc/iomem") + lines.encode())


def no_kernel_lines(guest: Guest) -> None:
    """iomem without the kernel."""
    guest.lines("proc/iomem", lambda line: None if b"Kernel" in line else line)


def hidden_addresses(guest: Guest) -> None:
    """kernel.kptr_restrict=2."""
    guest.write("proc/kallsyms", re.sub(rb"(?m)^[0-9a-f]{16}", b"0" * 16, guest.read("proc/kallsyms")))


def names_like_text(guest: Guest) -> None:
    """Symbols that end as _text does."""
    extra = b"ffffffff80000000 t my_text\nffffffff80000010 t foo._text\nffffffffc1234000 t _text\t[veth]\n"
    guest.write("proc/kallsyms", extra + guest.read("proc/kallsyms"))


def rust_names(guest: Guest) -> None:
    """Long names with dollars and dots."""
    name = b"_RNvXs_NtCs" + b"a" * 300 + b"_6kernel5print$LT$core..fmt..Arguments$GT$"
    extra = b"".join(b"ffffffffc15%05x t %s\t[veth]\n" % (i, name) for i in range(50))
    guest.write("proc/kallsyms", guest.read("proc/kallsyms") + extra)


def cfi_names(guest: Guest) -> None:
    """kCFI: each function has a twin."""
    twin = re.compile(rb" ([tT]) ")
    guest.lines("proc/kallsyms", lambda line: line + (twin.sub(rb" \1 __cfi_", line) if twin.search(line) else b""))


A612, B612, UEFI, NEW, ITS, OLD = (
    *("trixie-6.12-a", "trixie-6.12-b", "trixie-6.12-uefi", "forky-7.2", "forky-7.2-its", "bookworm-6.1"),
)
CONDITIONS: dict[str, Condition] = {
    "bpf_jit_harden on 6.12": Condition(B612, harden, same_plan=True, words=("bpf_jit_harden",), open=(FTRACE,)),
    "bpf_jit_harden on 7.2": Condition(NEW, harden, same_plan=True, words=("bpf_jit_harden",), open=(FTRACE,)),
    "bpf_jit_harden with addresses": Condition(A612, harden, same_plan=True, words=("bpf_jit_harden",), open=(FTRACE,)),
    "bpf_jit_harden on 6.1": Condition(OLD, harden, same_plan=True, words=("bpf_jit_harden",), open=(FTRACE,)),
    "seccomp alone": Condition(NEW, only_seccomp, same_plan=True),
    "seccomp alone on 6.1": Condition(OLD, only_seccomp, same_plan=True),
    "a second pack": Condition(B612, two_packs),
    "a rogue area of a pack's size": Condition(B612, rogue_area, locks=False, ids=("unexplained-mapping",), never=()),
    "ThinLTO": Condition(A612, thinlto, same_plan=True),
    "EFI, no runtime map": Condition(
        UEFI, efi_without_map, same_plan=True, ids=("efi-by-tables",), words=("runtime-map",)
    ),
    "EFI, nothing known": Condition(UEFI, efi_nothing, locks=False, ids=("efi-unknown",), words=("runtime-map",)),
    "EFI, nothing known, dropped": Condition(
        UEFI, efi_nothing, ids=("efi-unknown-dropped",), options=("policy.efi_runtime=drop",)
    ),
    "EFI, old firmware": Condition(UEFI, efi_old_firmware, same_plan=True, ids=("efi-data-executable",)),
    "tracers and kprobes": Condition(
        B612, traced, ids=("freeze-left-open",), words=("ftrace", "kprobes"), open=(FTRACE,)
    ),
    "a hidden module on 7.2": Condition(NEW, hidden_module, locks=False, ids=("unexplained-mapping",), never=()),
    "a hidden module with ITS": Condition(ITS, hidden_module, locks=False, ids=("unexplained-mapping",), never=()),
    "a hidden module on 6.12": Condition(A612, hidden_module, locks=False, ids=("unexplained-mapping",), never=()),
    "a half hidden module": Condition(NEW, half_hidden_module, locks=False, ids=("module-unlisted",), never=()),
    "a crash kernel's control page": Condition(A612, lambda guest: kdump(guest, 1), ids=("dropped",)),
    "rogue pages beside it": Condition(
        A612, lambda guest: kdump(guest, 4), locks=False, ids=("unexplained-mapping",), never=("dropped",)
    ),
    "an owner in vmallocinfo": Condition(
        A612,
        vmalloc_owner,
        locks=False,
        ids=("unexplained-mapping",),
        never=(),
        words=("rtR0MemAllocEx", "vboxguest"),
    ),
    "a livepatch": Condition(A612, livepatched, words=("kpatch_1_1",), open=(FTRACE,), same_plan=True),
    "a file of another name": Condition(A612, renamed_file),
    "a newer DKMS build": Condition(A612, second_copy, same_plan=True),
    "only wrong copies": Condition(
        A612, no_right_copy, locks=False, ids=("module-build-id",), never=(), words=("veth",)
    ),
    "equal copies": Condition(A612, equal_copies, same_plan=True),
    "a livepatch outside": Condition(A612, kpatch, words=("kpatch_1_1",), open=(FTRACE,)),
    "linked folders": Condition(A612, linked_folder, same_plan=True),
    "weak updates": Condition(A612, weak_updates, same_plan=True),
    "modules that stay": Condition(A612, no_unload, never=("module-layout",)),
    "two sections of one name": Condition(A612, twin_sections),
    "two sections of one name, untold": Condition(A612, twin_sections_untold),
    "a long section name": Condition(A612, long_name, never=("module-image-unusable",), locks=False),
    "no notes": Condition(A612, no_notes),
    "a stripped file": Condition(A612, stripped_file, locks=False, ids=("module-build-id",)),
    "merged notes": Condition(A612, merged_notes),
    "three packings": Condition(A612, three_packings, same_plan=True),
    "no modules at all": Condition(A612, no_modules),
    "memory hotplug": Condition(UEFI, memory_hotplug),
    "iomem without the kernel": Condition(A612, no_kernel_lines, locks=False, ids=("kernel-code-missing",)),
    "hidden addresses": Condition(
        A612, hidden_addresses, locks=False, ids=("guest-unreadable",), words=("kptr_restrict",)
    ),
    "names like _text": Condition(A612, names_like_text, same_plan=True),
    "Rust names": Condition(A612, rust_names, same_plan=True),
    "kCFI names": Condition(NEW, cfi_names, same_plan=True),
}


def make(name: str, folder: Path) -> Condition:
    """Change the unpacked guest in `folder` as a condition says."""
    condition = CONDITIONS[name]
    condition.change(Guest(folder))
    return condition
