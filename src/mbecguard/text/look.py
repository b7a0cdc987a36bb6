# SPDX-License-Identifier: GPL-2.0-or-later
"""The text of a running guest, compared with its files; what differs is looked at again, until patching has ended."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from mbecguard.guest.images import Images
from mbecguard.guest.procfs import Kallsyms, LoadedModule, parse_modules, parse_number
from mbecguard.guest.source import Contents, Guest, module_build_id
from mbecguard.image.cache import SectionCache
from mbecguard.image.sections import notes_build_id
from mbecguard.text import kprobes
from mbecguard.text.compare import Change, Text, changes
from mbecguard.text.fixups import addresses_of, relocated
from mbecguard.text.forms import Targets
from mbecguard.text.kernel import read_kernel_text
from mbecguard.text.module import read_module_text
from mbecguard.text.reference import Reference
from mbecguard.text.reference import Symbol as Needed
from mbecguard.text.stored import Accepted, TextCache, digest_of
from mbecguard.text.symbols import Symbols
from mbecguard.values.errors import UserError, die
from mbecguard.values.facts import known
from mbecguard.values.note import Note, unnoted

KERNEL = "kernel"
SHOWN = 50  #: changes that are told one by one
BYTES_SHOWN = 32  #: of each
LOOKS = 3  #: a patch takes three steps; what is there at each of so many looks is none under way
PAUSE = 0.2  #: seconds between them
_STUFFED = "sys/devices/system/cpu/vulnerabilities/retbleed"


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in text that is not as it may be. `site` is of which kind it is no legal form; empty: it is no site."""

    owner: str  #: kernel, or the module
    va: int
    symbol: str
    site: str
    wanted: bytes  #: of the file, as the kernel would have put it there
    found: bytes


def spot_told(spot: Spot) -> str:
    """A place in words."""
    where = f"{spot.symbol} ({spot.owner}, {spot.va:#x})"
    kind = f"no legal form of a {spot.site}" if spot.site else "outside of all patch sites"
    return f"{where}: {spot.wanted.hex(' ')} is {spot.found.hex(' ')}, {kind}"


@dataclass(frozen=True, slots=True)
class TextLook:
    """What one look has found."""

    bytes: int  #: compared
    sites: int
    modules: int  #: compared
    spots: tuple[Spot, ...]  #: the first of them
    changed: int  #: all of them
    untold: int  #: bytes whose value no file and no symbol tells
    problems: tuple[str, ...]  #: what could not be compared, and why


@dataclass(slots=True)
class _Findings:
    bytes: int = 0
    sites: int = 0
    modules: int = 0
    untold: int = 0
    spots: list[Spot] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def look(
    guest: Guest,
    kallsyms: Kallsyms,
    cache_dir: Path | None,
    note: Note = unnoted,
    sleep: Callable[[float], None] = time.sleep,
) -> TextLook:
    """Compare the text of kernel and modules. Dies if memory, symbols or the kernel's file cannot be read."""
    with _looking(guest, kallsyms, cache_dir, note, sleep) as looker:
        looker.kernel()
        looker.modules()
        return looker.result()


class Placed(NamedTuple):
    """What a file says of its text, and at which virtual address each of its pieces is."""

    reference: Reference
    addresses: tuple[int, ...]


def look_with_files(
    guest: Guest, kallsyms: Kallsyms, cache_dir: Path | None, note: Note = unnoted
) -> tuple[TextLook, dict[str, Placed]]:
    """The same, and by its owner all that is as its file says."""
    with _looking(guest, kallsyms, cache_dir, note, time.sleep) as looker:
        looker.kernel()
        looker.modules()
        return looker.result(), looker.placed


@contextmanager
def _looking(
    guest: Guest, kallsyms: Kallsyms, cache_dir: Path | None, note: Note, sleep: Callable[[float], None]
) -> Iterator[_Looker]:
    if "stuffing" in known(guest.tree.fact(_STUFFED), "").lower():
        die("call depth tracking (retbleed=stuff) patches every call", "such text is not compared")
    note("text")
    with guest.memory.contents() as memory:
        sections = SectionCache(cache_dir, notes_build_id(guest.tree.data("sys/kernel/notes") or b""))
        looker = _Looker(guest, kallsyms, memory, sections, TextCache(cache_dir), Accepted.at(cache_dir), note, sleep)
        yield looker
        looker.accepted.save()


@dataclass
class _Looker:
    guest: Guest
    kallsyms: Kallsyms
    memory: Contents
    sections: SectionCache  #: what a survey may have read: then a file is expanded once, for its text
    cache: TextCache
    accepted: Accepted
    note: Note
    sleep: Callable[[float], None]
    found: _Findings = field(default_factory=_Findings)
    placed: dict[str, Placed] = field(default_factory=dict)

    @cached_property
    def symbols(self) -> Symbols:
        """Sorted when the first of them is needed."""
        return Symbols.of(self.kallsyms)

    @cached_property
    def targets(self) -> Targets:
        """What patched text may lead to."""
        return self.symbols.targets(self.memory)

    @cached_property
    def probes(self) -> kprobes.Probes:
        """Where kprobes are."""
        return kprobes.probes(self.guest.tree, self.symbols)

    @cached_property
    def images(self) -> Images:
        """The files of the kernel, and of the modules that are loaded at first."""
        return Images(self.guest, self.sections, set(self.loaded))

    @cached_property
    def loaded(self) -> dict[str, LoadedModule]:
        """The modules, as they are at first."""
        return self._loaded()

    def modules(self) -> None:
        """Compare each module; of one that cannot be compared it is noted why."""
        for name, module in sorted(self.loaded.items()):
            try:
                if module.state == "Live":
                    self._module(name)
            except UserError as error:
                self.found.problems.append(f"{name}: {error.message}")

    def _loaded(self) -> dict[str, LoadedModule]:
        return {module.name: module for module in parse_modules(self.guest.tree.text("proc/modules") or "")}

    def result(self) -> TextLook:
        """What was found, but of modules that went while this looked."""
        found, loaded = self.found, self._loaded()
        spots = [spot for spot in found.spots if spot.owner in (KERNEL, *loaded)]
        problems = tuple(problem for problem in found.problems if problem.partition(":")[0] in loaded)
        return TextLook(
            found.bytes, found.sites, found.modules, tuple(spots[:SHOWN]), len(spots), found.untold, problems
        )

    def kernel(self) -> None:
        """Compare the kernel."""
        build_id = self.sections.build_id

        def read() -> Reference:
            self.note("kernel image")
            file = self.images.kernel(build_id)
            if file.file is None or file.image is None or file.image.build_id != build_id:
                die(file.problem or "no file has the build-id of the running kernel", file.hint)
            text = read_kernel_text(file.file.read_bytes(), file.file.name, self.symbols.all(), self._text_va)
            if text.build_id != build_id:
                die(f"{file.file} was changed while it was read", "try again")
            return text

        reference = self.cache.get(build_id, read)
        moved = self._text_va - reference.pieces[0].va
        addresses = addresses_of(reference.pieces, moved)
        self._compare(KERNEL, reference, addresses, lambda: [moved])

    @property
    def _text_va(self) -> int:
        return self.kallsyms.address("_text") or die("/proc/kallsyms hides addresses", "read it as root")

    def _module(self, name: str) -> None:
        build_id = module_build_id(self.guest.tree, name)

        def read() -> Reference:
            self.note(name)
            file = self.images.module(name, build_id)
            if file.file is None or file.image is None:
                die(file.problem, file.hint)
            text = read_module_text(file.file.read_bytes(), file.file.name)
            if build_id and text.build_id not in ("", build_id):
                die("no file of it has the build-id that is loaded", "install the file that was loaded")
            return text

        reference = self.cache.get(build_id, read)
        addresses = [self._section(name, piece.name) for piece in reference.pieces]
        placed = [va or die("its sections have no address") for va in addresses]
        self._compare(name, reference, placed, lambda: self._values(name, reference))
        self.found.modules += 1

    def _values(self, name: str, reference: Reference) -> list[int | None]:
        outside = self.symbols.exported(needed.name for needed in reference.symbols if not needed.section)
        return [self._value(name, needed, outside) for needed in reference.symbols]

    def _section(self, module: str, name: str) -> int | None:
        text = self.guest.tree.text(f"sys/module/{module}/sections/{name}")
        return parse_number(text, f"/sys/module/{module}/sections/{name}") if text else None

    def _value(self, module: str, needed: Needed, outside: Mapping[str, int]) -> int | None:
        """Where a symbol of a module's file is; of a section that /sys does not show, by a symbol in it."""
        if not needed.section:
            return outside.get(needed.name) if needed.name else 0
        section = self._section(module, needed.section)
        if section is None and (va := self.symbols.of_module(module, needed.name)) is not None:
            return va - needed.value
        return section

    def _compare(
        self, owner: str, reference: Reference, addresses: Sequence[int], values: Callable[[], Sequence[int | None]]
    ) -> None:
        """`values` tells where the symbols are that the file needs; nobody asks for them if nothing has changed."""
        self.found.bytes += sum(piece.bytes for piece in reference.pieces if piece.kept)
        self.found.sites += sum(len(sites.where) for sites in reference.sites)
        place = json.dumps([self.guest.boot_id, reference.build_id, *addresses])
        memory = self._read(owner, reference, addresses)
        seen = digest_of(place, memory)
        if self.accepted.has(owner, seen):
            self.placed[owner] = Placed(reference, tuple(addresses))
            return
        expected = relocated(reference, addresses, values())
        lasting: dict[int, Change] | None = None
        for turn in range(LOOKS):
            if turn:
                self.sleep(PAUSE)
                memory = self._read(owner, reference, addresses)
            blob = self.probes.taken_away(memory, expected.blob, reference, addresses)
            text = Text(reference, expected, tuple(addresses), blob)
            now = {change.place: change for change in changes(text, self.targets)}
            lasting = now if lasting is None else {place: now[place] for place in lasting if place in now}
            if not lasting:
                break
        if not lasting:
            self.placed[owner] = Placed(reference, tuple(addresses))
        if not now and not expected.untold:
            self.accepted.add(owner, digest_of(place, memory) if turn else seen)
        self.found.untold += sum(length for _, length in expected.untold)
        self.found.spots += self._spots(owner, text, (lasting or {}).values())

    def _read(self, owner: str, reference: Reference, addresses: Sequence[int]) -> bytes:
        parts = []
        for piece, va in zip(reference.pieces, addresses, strict=True):
            part = self.memory.virtual(va, piece.bytes) if piece.kept else bytes(piece.bytes)
            if part is None:
                die(f"{piece.name} of {owner} cannot be read at {va:#x}", "is /proc/kcore restricted?")
            parts.append(part)
        return b"".join(parts)

    def _spots(self, owner: str, text: Text, found: Iterable[Change]) -> Iterator[Spot]:
        for change in found:
            va = text.address(change.place)
            wanted, now = change.wanted[:BYTES_SHOWN], change.found[:BYTES_SHOWN]
            yield Spot(owner, va, self.kallsyms.nearest(va), change.site, wanted, now)
