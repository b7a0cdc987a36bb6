# SPDX-License-Identifier: GPL-2.0-or-later
"""Each source of a survey in turn missing, empty, unreadable, cut short, or of another boot.

There is never a traceback. Either the plan is that of the untouched guest, or the source is named, with a hint.
"""

from __future__ import annotations

import errno
import io
import lzma
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mbecguard.values.errors import UserError
from tests import corpus
from tests.looked import looked

#: Guest, and the other boot that lends its files.
GUESTS = {"trixie-6.12-b": "trixie-6.12-a", "trixie-6.12-uefi": "trixie-6.12-a", "forky-7.2": "forky-7.2-its"}

#: What a survey reads, and the words that a finding about it has to hold, one of them at least.
SOURCES: dict[str, tuple[str, ...]] = {
    "proc/kallsyms": ("kallsyms", "kernel symbol"),
    "proc/iomem": ("iomem",),
    "proc/modules": ("/proc/modules", "module"),
    "proc/cpuinfo": ("cpuinfo",),
    "proc/vmallocinfo": ("vmallocinfo",),
    "proc/version": ("version",),
    "proc/sys/kernel/osrelease": ("osrelease", "release"),
    "proc/sys/kernel/random/boot_id": ("boot_id",),
    "proc/sys/kernel/kptr_restrict": ("kptr_restrict",),
    "proc/sys/kernel/ftrace_enabled": ("ftrace_enabled",),
    "proc/sys/kernel/modules_disabled": ("modules_disabled",),
    "proc/sys/kernel/kexec_load_disabled": ("kexec_load_disabled",),
    "proc/sys/net/core/bpf_jit_enable": ("bpf_jit_enable",),
    "proc/sys/net/core/bpf_jit_harden": ("bpf_jit_harden",),
    "proc/sys/net/core/bpf_jit_kallsyms": ("bpf_jit_kallsyms",),
    "sys/devices/system/cpu/possible": ("cpu/possible",),
    "sys/devices/system/cpu/online": ("cpu/online",),
    "sys/kernel/tracing/enabled_functions": ("enabled_functions",),
    "sys/kernel/debug/kprobes/enabled": ("kprobes",),
    "sys/kernel/notes": ("/sys/kernel/notes", "build-id"),
    "sys/kernel/kexec_loaded": ("kexec",),
    "sys/kernel/kexec_crash_loaded": ("kexec",),
    "sys/kernel/debug/kprobes/list": ("kprobes",),
    "sys/module": ("/sys/module",),
    "sys/module/veth/sections": ("veth",),
    "sys/module/veth/sections/.text": ("veth",),
    "sys/module/veth/notes/.note.gnu.build-id": ("veth",),
    "sys/firmware/efi/runtime-map": ("runtime-map", "EFI"),
    "sys/firmware/efi/runtime-map/0/type": ("runtime-map", "EFI"),
    "boot/vmlinuz": ("kernel image", "kernel's image", "vmlinuz"),
    "lib/modules": ("module",),
    "veth.ko": ("veth",),
    "execmap.json": ("execmap.json",),
    "memory.json": ("memory.json",),
}


class Trouble(Enum):
    """What happens to a source."""

    MISSING = "missing"
    EMPTY = "empty"
    FORBIDDEN = "forbidden"
    FAILING = "failing"
    CUT = "cut"
    FOREIGN = "foreign"


@dataclass(frozen=True)
class Answer:
    """What `check` and `plan` came to: kept and denied ranges, or nothing, and all that was said."""

    plan: tuple[Any, ...]
    blocked: frozenset[str]
    said: tuple[tuple[str, str], ...]  #: text and hint


def ask(folder: Path, cache_dir: Path) -> Answer:
    """As the commands do."""
    session = looked(folder, cache_dir)
    try:
        plan = session.look().plan
        ranges: tuple[Any, ...] = (plan.keep, plan.deny)
    except UserError:
        ranges = ()
    found = session.check().findings
    blocked = frozenset(f.id for f in found if f.severity == "blocker")
    return Answer(ranges, blocked, tuple((f.text, f.hint) for f in found))


@dataclass(frozen=True)
class Bench:
    """Unpacked guests, and what is true of them as they are."""

    root: Path

    @cache  # noqa: B019 - lives as long as the tests
    def guest(self, name: str) -> Path:
        """One guest; nobody changes it."""
        return corpus.unpack(name, self.root)

    @cache  # noqa: B019
    def untouched(self, name: str) -> Answer:
        """What is answered about it."""
        return ask(self.guest(name), self.root / "cache")


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("hidden"))


def find(folder: Path, source: str) -> Path | None:
    """Where a guest has that source, packed or not."""
    if source == "veth.ko":
        return next(folder.glob("lib/modules/**/veth.ko*"), None)
    return next((path for path in (folder / source, folder / f"{source}.xz") if path.exists()), None)


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the content of a file or of all files in a folder, whatever it is packed with."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        data = file.read_bytes()
        file.unlink()
        if file.suffix == ".xz":
            file.write_bytes(lzma.compress(change(lzma.decompress(data)), preset=0))
        else:
            file.write_bytes(change(data))


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def guarded(patch: pytest.MonkeyPatch, path: Path, number: int) -> None:
    """Let the kernel refuse a file or folder; root may read everything, so permissions would not do."""
    real = {name: getattr(os, name) for name in ("scandir", "listdir", "open")} | {"io": io.open}

    def refusing(name: str) -> Callable[..., Any]:
        def call(file: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(file, int) and Path(os.fsdecode(file)).is_relative_to(path):
                raise OSError(number, os.strerror(number), str(file))
            return real[name](file, *args, **kwargs)

        return call

    for name in ("scandir", "listdir", "open"):
        patch.setattr(os, name, refusing(name))
    patch.setattr(io, "open", refusing("io"))


def cases() -> Iterator[tuple[str, str, Trouble]]:
    for guest in GUESTS:
        for source in SOURCES:
            yield from ((guest, source, trouble) for trouble in Trouble)


def apply(trouble: Trouble, folder: Path, source: str, lender: Path, patch: pytest.MonkeyPatch) -> bool:
    """Bring the trouble about; False if there is nothing to change."""
    path = find(folder, source)
    if path is None:
        return False
    if trouble is Trouble.MISSING:
        remove(path)
    elif trouble is Trouble.EMPTY:
        rewrite(path, lambda _: b"")
    elif trouble is Trouble.CUT:
        rewrite(path, lambda data: data[: len(data) // 2])
    elif trouble is Trouble.FOREIGN:
        other = find(lender, source)
        if other is None:
            return False
        remove(path)
        path = path.with_name(other.name)
        if other.is_dir():
            shutil.copytree(other, path)
        else:
            shutil.copyfile(other, path)
    else:
        guarded(patch, path, errno.EACCES if trouble is Trouble.FORBIDDEN else errno.EIO)
    return True


@pytest.mark.parametrize(("guest", "source", "trouble"), list(cases()))
def test_a_source_in_trouble_is_named_or_not_needed(
    bench: Bench, tmp_path: Path, guest: str, source: str, trouble: Trouble
) -> None:
    whole = bench.untouched(guest)
    folder = corpus.linked(bench.guest(guest), tmp_path / "guest")
    with pytest.MonkeyPatch.context() as patch:
        if not apply(trouble, folder, source, bench.guest(GUESTS[guest]), patch):
            pytest.skip("this guest does not have it")
        now = ask(folder, bench.root / "cache")
    if now.plan == whole.plan and now.blocked == whole.blocked:
        return
    fresh = [(text, hint) for text, hint in now.said if (text, hint) not in whole.said]
    named = [(text, hint) for text, hint in fresh if any(word in f"{text} {hint}" for word in SOURCES[source])]
    assert named, f"the plan is another one, and nothing names {source}: {fresh[:5]}"
    assert all(hint for _, hint in named)
