# SPDX-License-Identifier: GPL-2.0-or-later
"""Room for BPF programs that are compiled after the seal, where compiling cannot be ended.

Compiled programs share packs of 2 MiB (kernel/bpf/core.c, bpf_prog_pack_alloc()). A new pack after the seal is denied,
and what calls a program in it crashes, which an unprivileged filter of a socket brings about. Therefore packs are made
before the seal, each held by a small program that nobody calls: an empty one would be freed. And what users without
privileges have compiled is limited, so that they cannot fill them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mbecguard.bpf import FILESYSTEM, Program, load, make_dispatcher
from mbecguard.guest.kcore import KernelMemory
from mbecguard.values.errors import Exit, die
from mbecguard.values.facts import known
from mbecguard.values.pages import PAGE_SHIFT, PAGE_SIZE, PageRange, PageSet

FOLDER = FILESYSTEM / "mbecguard"
#: Bytes of the code that fills packs, so that a new one is made. Two of a kind leave room for a smaller one.
SIZES = tuple((1 << shift) - (1 << shift - 9) for shift in range(18, 10, -1))
LOADS = 4096  #: more are not needed for any packs that leave room for modules
#: What users may fill: by Robson (1977) first fit may need log2(largest / smallest) times what is in use, and the
#: code of their filters has 64 B to some 300 KiB.
SHARE = 16


class Room(Protocol):
    """Makes room for BPF programs, and gives it back."""

    def dispatch(self) -> None:
        """Have the code made that calls XDP programs: made after the lock it could be denied, and unknown to a host."""
        ...

    def make(self, packs: int, used: PageSet) -> int:
        """Keep so many packs free; returns the bytes of code that users without privileges may have then.

        `used` are page frames of the packs that there are. Dies if that fails.
        """
        ...

    def give_back(self) -> None:
        """Let go of what was kept, by this agent or by one that was killed."""
        ...

    @property
    def obstacle(self) -> str:
        """Why no room can be made, empty if it can for all that is known."""
        ...


@dataclass(frozen=True, slots=True)
class NoRoom:
    """On the simulator, which changes nothing in a guest."""

    obstacle: str = ""

    def dispatch(self) -> None:
        """Nothing is made."""

    def make(self, packs: int, used: PageSet) -> int:
        """Nothing is kept, and nothing limited."""
        return 0

    def give_back(self) -> None:
        """There is nothing."""


@dataclass(slots=True)
class _Pack:
    """A pack, and those of our programs that lie in it."""

    pages: PageRange
    new: bool
    programs: list[tuple[int, Program]] = field(default_factory=list)  #: with the bytes asked for


@dataclass(frozen=True, slots=True)
class LiveRoom:
    """In the running kernel."""

    look: Callable[[], KernelMemory]
    load: Callable[[int], Program] = load
    folder: Path = FOLDER
    dispatcher: Callable[[], None] = make_dispatcher

    @property
    def obstacle(self) -> str:
        """Why no room can be made."""
        return "" if self.folder.parent.is_mount() else f"nothing is mounted at {self.folder.parent}"

    def dispatch(self) -> None:
        """Who may not load such a program here, or cannot, attaches none later either."""
        with suppress(OSError):
            self.dispatcher()

    def make(self, packs: int, used: PageSet) -> int:
        """Fill what packs there are until enough new ones are there; keep the smallest program in each."""
        memory = self.look()
        filling = _Filling(self.look, self.load, _runs(memory))
        try:
            filling.fill(packs)
            self._keep(min(pack.programs, key=lambda sized: sized[0])[1] for pack in filling.packs)
        except OSError as error:
            die(f"no room can be made for BPF programs: {error.strerror}", WITHOUT, Exit.REFUSED)
        finally:
            filling.close()
        occupied = (used - PageSet(known(memory.facts.int3_pages, ()))).pages
        return (occupied + sum(len(pack.pages) for pack in filling.new) // SHARE) * PAGE_SIZE

    def _keep(self, programs: Iterable[Program]) -> None:
        self.folder.mkdir(mode=0o700)
        for number, program in enumerate(programs):
            program.pin(self.folder / str(number))

    def give_back(self) -> None:
        """Unpin all."""
        if self.folder.is_dir():
            for pinned in self.folder.iterdir():
                pinned.unlink()
            self.folder.rmdir()


WITHOUT = "systemctl start sys-fs-bpf.mount; lock.bpf_packs = 0 locks without: then any user can crash the guest"


def _runs(memory: KernelMemory) -> PageSet:
    return PageSet(m.virtual for m in memory.mappings if not m.user)


@dataclass(slots=True)
class _Filling:
    """Programs that fill packs. The kernel makes a new pack when none has enough room in one piece."""

    look: Callable[[], KernelMemory]
    load: Callable[[int], Program]
    before: PageSet
    packs: list[_Pack] = field(default_factory=list)
    loads: int = 0

    @property
    def new(self) -> list[_Pack]:
        """Those that are there because of us, in the order of their making."""
        return [pack for pack in self.packs if pack.new]

    def fill(self, wanted: int) -> None:
        """Make so many packs. Each gets a program of a smaller size as well: those before it have no room left."""
        for size in SIZES:
            while not self._add(size) or len(self.new) < wanted:
                pass

    def _add(self, size: int) -> bool:
        """One more program; whether it came into the last pack."""
        self.loads += 1
        if self.loads > LOADS:
            die("room for BPF programs is taken by others as fast as it is made", "lock later", Exit.REFUSED)
        program = self.load(size)
        pack = self._pack_of(program)
        pack.programs.append((size, program))
        return pack.new and pack is self.packs[-1]

    def _pack_of(self, program: Program) -> _Pack:
        page = program.va >> PAGE_SHIFT
        for pack in self.packs:
            if page in pack.pages:
                return pack
        pages = next(self.before.touching(PageRange(page, page + 1)), None)
        new = pages is None
        if pages is None:
            pages = next(_runs(self.look()).touching(PageRange(page, page + 1)), None)
        if pages is None:
            program.close()
            die("the kernel does not tell where BPF programs lie", "set kernel.kptr_restrict to 1", Exit.REFUSED)
        pack = _Pack(pages, new)
        self.packs.insert(len(self.packs) if new else 0, pack)
        return pack

    def close(self) -> None:
        """Let all programs go that are not kept elsewhere."""
        for pack in self.packs:
            for _, program in pack.programs:
                program.close()
