# SPDX-License-Identifier: GPL-2.0-or-later
"""The virtual machines that run on a host: who they are, how they were started, what the host says of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum

from mbecguard.readiness.qemu import Qemu, parse
from mbecguard.readiness.source import Source
from mbecguard.values.errors import die
from mbecguard.values.facts import Absent, Fact, Known, known

QEMU = re.compile(r"qemu-system-(x86_64|i386)|qemu-kvm|kvm")
DEBUG = "sys/kernel/debug/kvm"


class Guarded(StrEnum):
    """What the host says of a machine's map."""

    OPEN = "open"
    RESTRICTED = "restricted"
    SEALED = "sealed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Running:
    """One process that runs a machine. `qemu` is None of other programs, and if the command line is hidden."""

    pid: int
    program: str
    qemu: Qemu | None
    on_kvm: bool
    state: Guarded
    nested: bool  #: it has run machines of its own
    folder: str | None = None  #: of it in KVM's part of debugfs

    @property
    def name(self) -> str:
        """As its owner calls it."""
        return (self.qemu.name if self.qemu else "") or f"{self.program}-{self.pid}"


def running(source: Source) -> Iterator[Running]:
    """All machines, by process."""
    of_kvm = source.names(DEBUG)
    folders = _folders(known(of_kvm, ()))
    for pid in sorted(map(int, filter(str.isdecimal, known(source.names("proc"), ())))):
        words = _words(source, pid)
        is_qemu = bool(words) and bool(QEMU.fullmatch(words[0].rpartition("/")[2]))
        if not is_qemu and pid not in folders:
            continue
        qemu = parse(words, source) if is_qemu else None
        program = qemu.program if qemu else known(source.text(f"proc/{pid}/comm"), "unknown")
        asks = qemu is None or qemu.kvm
        on_kvm = pid in folders if isinstance(of_kvm, Known) else asks
        folder = folders.get(pid)
        yield Running(pid, program, qemu, on_kvm, _state(source, folder, of_kvm), _nested(source, folder), folder)


def chosen(running: tuple[Running, ...], names: Collection[str]) -> tuple[Running, ...]:
    """Those by name or process, or all. Dies of a name that nobody has."""
    found: list[Running] = []
    for name in names:
        matching = [one for one in running if name in (one.name, str(one.pid))]
        if not matching:
            known = ", ".join(one.name for one in running) or "none"
            die(f"no machine {name} runs here", f"those that run: {known}")
        found += matching
    return tuple(found) if names else running


def _words(source: Source, pid: int) -> list[str]:
    data = known(source.data(f"proc/{pid}/cmdline"), b"")
    return data.decode(errors="replace").removesuffix("\0").split("\0") if data else []


def _folders(names: tuple[str, ...]) -> dict[int, str]:
    """The folder of each process, named PID-FD."""
    found = (re.fullmatch(r"(\d+)-\d+", name) for name in names)
    return {int(match[1]): match[0] for match in found if match}


def _nested(source: Source, folder: str | None) -> bool:
    """KVM counts the entries into machines of machines."""
    return folder is not None and known(source.text(f"{DEBUG}/{folder}/nested_run"), "0") != "0"


def _state(source: Source, folder: str | None, of_kvm: Fact[tuple[str, ...]]) -> Guarded:
    if folder is None:
        return Guarded.OPEN if isinstance(of_kvm, Known) else Guarded.UNKNOWN
    told = source.text(f"{DEBUG}/{folder}/mbecguard")
    if not isinstance(told, Known):  # stock KVM, or one whose mode is off, has no such file
        return Guarded.OPEN if isinstance(told, Absent) else Guarded.UNKNOWN
    lines = told.value.splitlines()
    if "sealed 1" in lines:
        return Guarded.SEALED
    return Guarded.RESTRICTED if "restricted 1" in lines else Guarded.OPEN
