# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest recorded into a folder: reading one, and making one.

The folder holds what DESIGN section 5 lists, plus `memory.json` (what only kernel memory tells).
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mbecguard.errors import UserError, die
from mbecguard.guest import execmap
from mbecguard.guest.efi import RUNTIME_MAP
from mbecguard.guest.kcore import MemoryFacts
from mbecguard.guest.procfs import Kallsyms, parse_modules
from mbecguard.guest.source import Guest, KernelMemory
from mbecguard.guest.tree import Tree, present
from mbecguard.guest.uses import KPROBES
from mbecguard.image.module import module_index
from mbecguard.serial import decode, encode

MEMORY_SCHEMA = "mbecguard.memory/1"

#: Files of a recording that are only copied; absent ones are left out.
COPIED = (
    "proc/iomem",
    "proc/modules",
    "proc/cmdline",
    "proc/version",
    "proc/sys/kernel/osrelease",
    "proc/sys/kernel/kptr_restrict",
    "proc/sys/kernel/ftrace_enabled",
    "proc/sys/kernel/modules_disabled",
    "proc/sys/kernel/kexec_load_disabled",
    "proc/sys/kernel/random/boot_id",
    "proc/sys/net/core/bpf_jit_enable",
    "sys/kernel/notes",
    "sys/kernel/kexec_loaded",
    "sys/kernel/kexec_crash_loaded",
    KPROBES,
)
#: Large ones, stored as `NAME.xz`; /proc/cpuinfo for its size with many CPUs.
COMPRESSED = ("proc/kallsyms", "proc/vmallocinfo", "proc/cpuinfo")
MODULE_FILES = ("coresize", "initstate", "notes/.note.gnu.build-id")


@dataclass(frozen=True, slots=True)
class RecordedSource:
    """Page tables and memory as they were when the guest was recorded."""

    tree: Tree

    def read(self, symbols: Kallsyms) -> KernelMemory:
        """Load `execmap.json`, and `memory.json` if it is there."""
        text = self.tree.text("execmap.json")
        if text is None:
            die(f"{self.tree.root} has no execmap.json", "record the guest with `mbecguard record DIR`")
        mappings = execmap.load(text, str(self.tree.root / "execmap.json"))
        return KernelMemory(mappings, _memory_facts(self.tree))


def recorded_guest(folder: Path) -> Guest:
    """The guest recorded in `folder`. Its image and modules may also be given by `Guest.with_images`."""
    if not present((folder / "proc").is_dir):
        die(f"{folder} is not a recorded guest", "record one with `mbecguard record DIR`")
    guest = Guest(Tree(folder), RecordedSource(Tree(folder)), None, None, live=False)
    image = folder / "boot/vmlinuz"
    modules = (folder / "lib/modules" / guest.release, folder / "lib/modules")
    return replace(
        guest,
        kernel_image=image if present(image.is_file) else None,
        modules_dir=next((m for m in modules if present(m.is_dir)), None),
    )


def _memory_facts(tree: Tree) -> MemoryFacts:
    text = tree.text("memory.json")
    if text is None:
        return MemoryFacts()
    try:
        data = json.loads(text)
        if data.pop("schema") != MEMORY_SCHEMA:
            die("memory.json has an unknown schema", f"this version reads {MEMORY_SCHEMA}")
        return decode(MemoryFacts, data)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        die(f"memory.json is damaged: {error}", "record the guest again")


def record(guest: Guest, folder: Path) -> list[str]:
    """Save the facts of `guest` into the new or empty `folder`, which is the caller's alone: they give KASLR away.

    Returns the paths written, relative to it.

    The page tables are read last and the module list is compared before and after, so that a recording made while
    modules come and go is refused rather than inconsistent. Whatever goes wrong, nothing half-made stays behind.
    """
    try:
        if folder.exists() and any(folder.iterdir()):
            die(f"{folder} is not empty", "give a new folder")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        die(f"{folder} cannot be a recording: {error.strerror}", "give a new folder where files may be made")
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        die(f"{folder} was made by somebody else, or others may look into it", "give a new folder, or chmod 700 it")
    try:
        return _collect(guest, _Writer(folder))
    except UserError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        die(f"the recording failed: {error.filename or folder}: {error.strerror}", "is the disk full?")


def _collect(guest: Guest, writer: _Writer) -> list[str]:
    before = guest.tree.data("proc/modules")
    for path in (*COPIED, *_module_files(guest.tree), *_runtime_map_files(guest.tree)):
        writer.add(path, guest.tree.data(path))
    for path in COMPRESSED:
        data = guest.tree.data(path)
        writer.add(f"{path}.xz", None if data is None else lzma.compress(data))
    _copy_images(guest, writer)
    memory = guest.memory.read(Kallsyms(guest.tree.data("proc/kallsyms") or b""))
    writer.add("execmap.json", execmap.dump(memory.mappings).encode())
    facts: dict[str, Any] = {"schema": MEMORY_SCHEMA, **encode(memory.facts)}
    writer.add("memory.json", json.dumps(facts, indent=1).encode())
    if guest.tree.data("proc/modules") != before:
        die("modules came or went while the guest was recorded", "wait until the system is quiet and try again")
    return writer.written


class _Writer:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.written: list[str] = []

    def add(self, path: str, data: bytes | None) -> None:
        if data is None:
            return
        target = self._folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        self.written.append(path)


def _module_files(tree: Tree) -> list[str]:
    loaded = [name for name in tree.names("sys/module") if tree.names(f"sys/module/{name}/sections")]
    files = [f"sys/module/{m}/sections/{s}" for m in loaded for s in tree.names(f"sys/module/{m}/sections")]
    return files + [f"sys/module/{m}/{name}" for m in loaded for name in MODULE_FILES]


def _runtime_map_files(tree: Tree) -> list[str]:
    fields = ("type", "phys_addr", "virt_addr", "num_pages", "attribute")
    return [f"{RUNTIME_MAP}/{name}/{field}" for name in tree.names(RUNTIME_MAP) for field in fields]


def _copy_images(guest: Guest, writer: _Writer) -> None:
    if guest.kernel_image:
        writer.add("boot/vmlinuz", guest.kernel_image.read_bytes())
    if not guest.modules_dir:
        return
    index = module_index(guest.modules_dir)
    for module in parse_modules(guest.tree.text("proc/modules") or ""):
        if file := index.get(module.name):
            relative = file.relative_to(guest.modules_dir)
            writer.add(str(Path("lib/modules", guest.release) / relative), file.read_bytes())
