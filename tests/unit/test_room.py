# SPDX-License-Identifier: GPL-2.0-or-later
"""Room for BPF programs, against a model of the kernel's packs; and whether users can fill it."""

from __future__ import annotations

import ctypes
import errno
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbecguard import bpf
from mbecguard.bpf import Program
from mbecguard.guest.execmap import Mapping
from mbecguard.guest.kcore import KernelMemory, MemoryFacts
from mbecguard.lock.room import LOADS, LiveRoom, NoRoom
from mbecguard.values.errors import Exit, UserError
from mbecguard.values.facts import Known
from mbecguard.values.pages import PageRange, PageSet

CHUNK, PACK = 64, 2 << 20
CHUNKS = PACK // CHUNK
BASE = 0xFFFFFFFFC0000000
LARGEST = 300 << 10  #: bytes of code that an unprivileged filter of 4096 instructions may come to


@dataclass(frozen=True, slots=True)
class Loaded(Program):
    """A program of the model."""

    kernel: Kernel

    def pin(self, path: Path) -> None:
        path.touch()
        self.kernel.pinned[path] = self.fd

    def close(self) -> None:
        self.kernel.open.remove(self.fd)


@dataclass
class Kernel:
    """bpf_prog_pack_alloc() and bpf_prog_pack_free() of kernel/bpf/core.c.

    `dirty`: programs prefer packs whose predictors were not flushed, as with `bpf_pred_flush_enabled`: new ones.
    """

    dirty: bool = False
    packs: dict[int, bytearray] = field(default_factory=dict)  #: va -> a byte for each chunk, 1 if it is used
    code: dict[int, tuple[int, int, int]] = field(default_factory=dict)  #: fd -> pack, first chunk, chunks
    open: set[int] = field(default_factory=set)
    pinned: dict[Path, int] = field(default_factory=dict)
    old: set[int] = field(default_factory=set)
    made: int = 0
    loads: int = 0

    def load(self, size: int) -> Loaded:
        self.loads += 1
        pack, first = self.place(-(-size // CHUNK))
        self.open.add(self.loads)
        return Loaded(self.loads, pack + first * CHUNK + 24, self)

    def place(self, chunks: int) -> tuple[int, int]:
        order = sorted(self.packs, key=lambda va: (self.dirty and va in self.old, va))
        found = ((va, self.packs[va].find(bytes(chunks))) for va in order)
        pack, first = next(((va, at) for va, at in found if at >= 0), (0, 0))
        if not pack:
            pack = BASE + self.made * (PACK + 4096)
            self.packs[pack] = bytearray(CHUNKS)
            self.made += 1
        self.packs[pack][first : first + chunks] = b"\1" * chunks
        self.code[self.loads] = pack, first, chunks
        return pack, first

    def collect(self) -> None:
        """What nobody holds goes, and then what packs are empty."""
        held = self.open | {fd for path, fd in self.pinned.items() if path.exists()}
        for fd in self.code.keys() - held:
            pack, first, chunks = self.code.pop(fd)
            self.packs[pack][first : first + chunks] = bytes(chunks)
        self.packs = {va: used for va, used in self.packs.items() if any(used)}

    def used(self) -> int:
        return sum(chunks for _, _, chunks in self.code.values()) * CHUNK

    def look(self) -> KernelMemory:
        mappings = tuple(Mapping(va, va - BASE, PACK) for va in sorted(self.packs))
        free = PageSet(
            PageRange.covering(va - BASE + at, 1)
            for va, used in self.packs.items()
            for at in range(0, PACK, 4096)
            if not any(used[at // CHUNK : at // CHUNK + 4096 // CHUNK])
        )
        return KernelMemory(mappings, MemoryFacts(int3_pages=Known(tuple(free))))

    def frames(self) -> PageSet:
        return PageSet(mapping.frames for mapping in self.look().mappings)


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield Path(folder) / "mbecguard"


def busy_kernel(seed: int, dirty: bool) -> Kernel:
    """One that has compiled this and that, and has forgotten some of it."""
    rng, kernel = random.Random(seed), Kernel(dirty)
    for _ in range(rng.randrange(0, 400)):
        kernel.load(rng.choice((64, 200, 900, 4000, 20000)))
    kernel.open = set(rng.sample(sorted(kernel.open), len(kernel.open) * 2 // 3))
    kernel.collect()
    kernel.old = set(kernel.packs)
    return kernel


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 1 << 32), st.integers(1, 6), st.booleans())
def test_so_many_packs_are_there_and_free_and_go_again(seed: int, wanted: int, dirty: bool) -> None:
    kernel = busy_kernel(seed, dirty)
    before, held, used = dict(kernel.code), set(kernel.open), kernel.used()
    with TemporaryDirectory() as folder:
        room = LiveRoom(kernel.look, kernel.load, Path(folder) / "mbecguard")
        allowed = room.make(wanted, kernel.frames())
        assert kernel.open == held, "nothing of ours stays open"
        kernel.collect()
        new = {va: sum(pack) for va, pack in kernel.packs.items() if va not in kernel.old}
        assert len(new) == wanted
        assert all(0 < chunks * CHUNK <= 4096 for chunks in new.values())  # an empty pack would be freed
        assert 0 <= allowed - used - wanted * PACK // 16 <= 4096 * 2 * (1 + len(kernel.open))
        room.give_back()
        kernel.collect()
        assert kernel.code == before
        assert not (Path(folder) / "mbecguard").exists()
        room.give_back()


def fill(kernel: Kernel, allowed: int, step: int) -> None:
    """A user who makes filters as far as the kernel lets him, and lets all but some go: the gaps take no larger one."""
    size = 512
    while size <= LARGEST:
        mine, used = [], kernel.used()
        while used + size <= allowed:
            mine.append(kernel.load(size))
            used += size
        for number, program in enumerate(mine):
            if number % step:
                program.close()
        kernel.collect()
        size *= step


@pytest.mark.parametrize("step", [2, 4, 16])
def test_users_cannot_fill_the_room(folder: Path, step: int) -> None:
    kernel = busy_kernel(1, dirty=False)
    allowed = LiveRoom(kernel.look, kernel.load, folder).make(8, kernel.frames())
    kernel.collect()
    made = kernel.made
    fill(kernel, allowed, step)
    assert kernel.made == made
    for _ in range(9 * PACK // LARGEST):
        kernel.load(LARGEST)
    assert kernel.made > made, "without the limit"


def test_what_fails_is_told_and_leaves_nothing_open(folder: Path) -> None:
    kernel = Kernel()

    def refuse(size: int) -> Program:
        if kernel.loads == 5:
            raise OSError(errno.EPERM, "Operation not permitted")
        return kernel.load(size)

    with pytest.raises(UserError, match="Operation not permitted") as caught:
        LiveRoom(kernel.look, refuse, folder).make(2, PageSet())
    assert caught.value.status is Exit.REFUSED
    assert "lock.bpf_packs = 0" in caught.value.hint
    assert (kernel.loads, kernel.open) == (5, set())


def test_a_kernel_that_tells_no_addresses(folder: Path) -> None:
    kernel = Kernel()
    with pytest.raises(UserError, match="where BPF programs lie") as caught:
        LiveRoom(kernel.look, lambda size: Loaded(kernel.load(size).fd, 0, kernel), folder).make(1, PageSet())
    assert "kptr_restrict" in caught.value.hint
    assert not kernel.open


def test_others_may_not_keep_us_busy_for_ever(folder: Path) -> None:
    kernel = Kernel()

    def stolen(_size: int) -> Loaded:
        """It always lands in the first pack."""
        return Loaded(kernel.load(64).fd, min(kernel.packs), kernel)

    with pytest.raises(UserError, match="taken by others"):
        LiveRoom(kernel.look, stolen, folder).make(2, PageSet())
    assert (kernel.loads, kernel.open) == (LOADS, set())


def test_where_no_file_system_for_bpf_is_mounted(tmp_path: Path) -> None:
    assert f"nothing is mounted at {tmp_path}" in LiveRoom(Kernel().look, folder=tmp_path / "x").obstacle
    assert not LiveRoom(Kernel().look, folder=Path("/proc/x")).obstacle


def test_the_simulator_changes_nothing() -> None:
    room = NoRoom()
    room.dispatch()
    room.give_back()
    assert (room.make(8, PageSet()), room.obstacle) == (0, "")


def test_a_program_of_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is handed to bpf(2), by include/uapi/linux/bpf.h: the kernel itself is asked in the lab."""
    calls: list[tuple[int, bytes]] = []

    def call(number: int, command: int, attributes: bytes, size: int) -> int:
        assert (number, size) == (321, len(attributes))
        calls.append((command, attributes))
        return 77

    monkeypatch.setattr(ctypes, "CDLL", lambda *_args, **_options: type("Libc", (), {"syscall": call}))
    assert bpf.load(4088) == Program(77, 0)
    (load, attributes), (ask, _) = calls
    assert (load, ask) == (5, 15)
    kind, count, _, _, level, _, _, _, flags, name = struct.unpack("<2I2Q2IQ2I16s", attributes)
    assert (kind, level, flags, name.rstrip(b"\0")) == (1, 0, 0, b"mbecguard")
    assert 4088 - 128 - 7 < (count - 2) * 7 <= 4088 - 128


def test_the_dispatcher_of_xdp_programs_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """By include/uapi/linux/bpf.h: a program that runs twice on a frame that is not shorter than a header."""
    calls: list[tuple[int, bytes]] = []
    closed: list[int] = []

    def call(_number: int, command: int, attributes: bytes, size: int) -> int:
        calls.append((command, attributes[:size]))
        return 77

    monkeypatch.setattr(ctypes, "CDLL", lambda *_args, **_options: type("Libc", (), {"syscall": call}))
    monkeypatch.setattr("os.close", closed.append)
    LiveRoom(Kernel().look).dispatch()
    (load, attributes), (run, test) = calls
    assert (load, run) == (5, 10)
    assert struct.unpack_from("<2I", attributes) == (6, 2)
    fd, _, size, taken, _, into, repeat, _ = struct.unpack("<4I2Q2I", test)
    assert (fd, taken, into, closed) == (77, 0, 0, [77])
    assert size >= 14
    assert repeat > 1


def test_a_kernel_without_xdp_needs_none() -> None:
    def refused() -> None:
        raise OSError(errno.EINVAL, "no such type of program")

    LiveRoom(Kernel().look, dispatcher=refused).dispatch()
