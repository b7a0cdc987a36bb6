# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest captured into a folder: reading one, and making one.

The folder holds what docs/DESIGN.md, section 5, lists, plus `memory.json` (what only kernel memory tells).
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from mbecguard.guest import execmap, places
from mbecguard.guest.efi import FIRMWARE, RUNTIME_MAP
from mbecguard.guest.images import Images
from mbecguard.guest.kcore import UNTOLD, KernelMemory, MemoryFacts
from mbecguard.guest.names import NAMES
from mbecguard.guest.processors import ONLINE, POSSIBLE
from mbecguard.guest.procfs import Kallsyms, parse_modules
from mbecguard.guest.setters import signs
from mbecguard.guest.source import Guest, module_build_id
from mbecguard.guest.sysctlfiles import files as sysctl_files
from mbecguard.guest.tree import Tree, present
from mbecguard.guest.uses import KPROBES, KPROBES_ENABLED, LIVEPATCHES, MOUNTS, SYSCTLS, TRACED
from mbecguard.image.cache import SectionCache
from mbecguard.image.sections import notes_build_id
from mbecguard.values.codec import canonical, decode, encode
from mbecguard.values.errors import die
from mbecguard.values.facts import Fact, Known, Unknown, known

MEMORY_SCHEMA = "mbecguard.memory/2"
OLD_MEMORY_SCHEMA = "mbecguard.memory/1"  #: null stands for what is absent, and for what could not be told
CAPTURE_SCHEMA = "mbecguard.capture/1"

#: Files of a capture that are only copied; absent ones are left out.
COPIED = (
    "proc/iomem",
    "proc/modules",
    "proc/cmdline",
    "proc/version",
    "proc/sys/kernel/osrelease",
    "proc/sys/kernel/random/boot_id",
    "sys/kernel/notes",
    "sys/kernel/kexec_loaded",
    "sys/kernel/kexec_crash_loaded",
    f"{FIRMWARE}/fw_platform_size",
)
#: Files that a kernel may lack, or hide; which of the two, `unread.json` tells.
OPTIONAL = (
    *(*NAMES, KPROBES, KPROBES_ENABLED, TRACED, POSSIBLE, ONLINE),
    *(f"proc/sys/{name.replace('.', '/')}" for name in SYSCTLS),
)
UNREAD = "unread.json"
#: Large ones, stored as `NAME.xz`; /proc/cpuinfo for its size with many CPUs.
COMPRESSED = ("proc/kallsyms", "proc/vmallocinfo", "proc/cpuinfo")
MODULE_FILES = ("coresize", "initstate")


@dataclass(frozen=True, slots=True)
class Captured:
    """What a capture wrote: paths below its folder."""

    files: tuple[str, ...]
    schema: str = CAPTURE_SCHEMA


@dataclass(frozen=True, slots=True)
class _Unread:
    """`unread.json`: what could not be read when the guest was captured, and why."""

    files: dict[str, Unknown]
    schema: str = "mbecguard.unread/1"


@dataclass(frozen=True, slots=True)
class CapturedSource:
    """Page tables and memory as they were when the guest was captured."""

    tree: Tree

    def read(self, symbols: Kallsyms) -> KernelMemory:
        """Load `execmap.json`, and `memory.json` if it is there."""
        text = self.tree.text("execmap.json")
        if text is None:
            die(f"{self.tree.root} has no execmap.json", "capture the guest with `mbecguard capture DIR`")
        mappings = execmap.load(text, str(self.tree.root / "execmap.json"))
        return KernelMemory(mappings, _memory_facts(self.tree))

    def contents(self) -> NoReturn:
        """A capture has none: it would be the guest's secrets."""
        die("a captured guest holds no memory", "audit the running one")


def captured_guest(folder: Path) -> Guest:
    """The guest captured in `folder`. Its image and modules may also be given by `Guest.with_images`."""
    if not present((folder / "proc").is_dir):
        _no_guest(folder)
    tree = Tree(folder, captured=True, unread=_unread(Tree(folder)))
    guest = Guest(tree, CapturedSource(tree), (), (), live=False)
    image, modules = folder / "boot/vmlinuz", places.modules(folder, guest.release)
    images = (image,) if present(image.is_file) else places.images(folder, guest.release)
    flat = folder / "lib/modules"  # without the release's own folder
    return guest._replace(
        kernel_images=images,
        modules_dirs=modules or ((flat,) if present(flat.is_dir) else ()),
    )


def _no_guest(folder: Path) -> NoReturn:
    if not present(folder.exists):
        die(f"there is no folder {folder}", "give the one that `mbecguard capture DIR` made")
    inside: list[Path] = []
    with suppress(OSError):  # what may not be looked into is not suggested
        inside = [path.parent for depth in ("*", "*/*") for path in sorted(folder.glob(f"{depth}/proc"))]
    first = f"did you mean {inside[0]}?" if inside else "capture one with `mbecguard capture DIR`"
    others = f" (there are {len(inside)} in that folder)" if len(inside) > 1 else ""
    die(f"{folder} is not a captured guest", f"{first}{others}")


def _unread(tree: Tree) -> dict[str, Unknown] | None:
    text = tree.text(UNREAD)
    if text is None:
        return None
    try:
        return decode(_Unread, json.loads(text)).files
    except (ValueError, RecursionError) as error:
        die(f"{UNREAD} is damaged: {error}", "capture the guest again")


def _memory_facts(tree: Tree) -> MemoryFacts:
    text = tree.text("memory.json")
    if text is None:
        return MemoryFacts()
    try:
        data = json.loads(text)
        schema = data.pop("schema")
        if schema == OLD_MEMORY_SCHEMA:
            data = {key: value if key == "page_offset" else _old_fact(value) for key, value in data.items()}
        elif schema != MEMORY_SCHEMA:
            die("memory.json has an unknown schema", f"this version reads {OLD_MEMORY_SCHEMA} and {MEMORY_SCHEMA}")
        return decode(MemoryFacts, data)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        die(f"memory.json is damaged: {error}", "capture the guest again")


def _old_fact(value: object) -> object:
    return encode(UNTOLD if value is None else Known(value))


def capture(guest: Guest, folder: Path) -> list[str]:
    """Save the facts of `guest` into the new or empty `folder`, which is the caller's alone: they give KASLR away.

    Returns the paths written, relative to it.

    The page tables are read last and the module list is compared before and after, so that a capture made while
    modules come and go is refused rather than inconsistent. Whatever goes wrong, nothing half-made stays behind.
    """
    try:
        if folder.exists() and any(folder.iterdir()):
            die(f"{folder} is not empty", "give a new folder")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        die(f"{folder} cannot be a capture: {error.strerror}", "give a new folder where files may be made")
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        die(f"{folder} was made by somebody else, or others may look into it", "give a new folder, or chmod 700 it")
    try:
        return _collect(guest, _Writer(folder))
    except BaseException as error:  # Ctrl-C too
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            die(f"the capture failed: {error.filename or folder}: {error.strerror}", "is the disk full?")
        raise


def _collect(guest: Guest, writer: _Writer) -> list[str]:
    before = guest.tree.data("proc/modules")
    for path in (*COPIED, *sysctl_files(guest.tree), *_module_files(guest.tree), *_runtime_map_files(guest.tree)):
        writer.add(path, guest.tree.data(path))
    for _, path in signs(guest.tree):  # that they are there is all that counts
        writer.add(path, b"")
    writer.add(UNREAD, canonical(encode(_Unread(_optional(guest.tree, writer)))))
    for path in COMPRESSED:
        data = guest.tree.data(path)
        writer.add(f"{path}.xz", None if data is None else lzma.compress(data))
    _copy_images(guest, writer)
    memory = guest.memory.read(Kallsyms(guest.tree.data("proc/kallsyms") or b""))
    writer.add("execmap.json", execmap.dump(memory.mappings).encode())
    facts: dict[str, Any] = {"schema": MEMORY_SCHEMA, **encode(memory.facts)}
    writer.add("memory.json", json.dumps(facts, indent=1).encode())
    if guest.tree.data("proc/modules") != before:
        die("modules came or went while the guest was captured", "wait until the system is quiet and try again")
    return writer.written


def _optional(tree: Tree, writer: _Writer) -> dict[str, Unknown]:
    """Save what a kernel may lack or hide; returns what could not be read, and why."""
    facts: dict[str, Fact[str]] = {path: tree.fact(path, MOUNTS.get(path, "")) for path in OPTIONAL}
    patches = tree.fact_of_names(LIVEPATCHES)
    for name in known(patches, ()):
        facts[f"{LIVEPATCHES}/{name}/enabled"] = tree.fact(f"{LIVEPATCHES}/{name}/enabled")
    for path, fact in facts.items():
        writer.add(path, fact.value.encode() if isinstance(fact, Known) else None)
    unknown = {path: fact for path, fact in facts.items() if isinstance(fact, Unknown)}
    return unknown | ({LIVEPATCHES: patches} if isinstance(patches, Unknown) else {})


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
    folders = [f"sys/module/{m}/{kind}" for m in loaded for kind in ("sections", "notes")]
    files = [f"{folder}/{name}" for folder in folders for name in tree.names(folder)]
    return files + [f"sys/module/{m}/{name}" for m in loaded for name in MODULE_FILES]


def _runtime_map_files(tree: Tree) -> list[str]:
    fields = ("type", "phys_addr", "virt_addr", "num_pages", "attribute")
    return [f"{RUNTIME_MAP}/{name}/{field}" for name in tree.names(RUNTIME_MAP) for field in fields]


def _copy_images(guest: Guest, writer: _Writer) -> None:
    """The files of what runs, each under its own name; those from elsewhere go to a folder of their own."""
    tree = guest.tree
    loaded = parse_modules(tree.text("proc/modules") or "")
    images = Images(guest, SectionCache(None, ""), {module.name for module in loaded})
    kernel = images.kernel(notes_build_id(tree.data("sys/kernel/notes") or b""))
    first = kernel.file or next(iter(guest.kernel_images), None)
    if first:
        writer.add("boot/vmlinuz", first.read_bytes())
    for module in loaded:
        if file := images.module(module.name, module_build_id(tree, module.name)).file:
            inside = next((file.relative_to(d) for d in guest.modules_dirs if file.is_relative_to(d)), None)
            writer.add(
                str(Path("lib/modules", guest.release) / (inside or Path("extra", file.name))), file.read_bytes()
            )
