# SPDX-License-Identifier: GPL-2.0-or-later
"""A look at the text of a guest: files, symbols and memory put together, and what nobody can see."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import zlib
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.guest.images import contents
from mbecguard.guest.kcore import KernelMemory
from mbecguard.guest.procfs import Kallsyms
from mbecguard.guest.source import Contents, Guest
from mbecguard.guest.tree import Tree
from mbecguard.image.cache import SectionCache
from mbecguard.text import stored
from mbecguard.text.look import TextLook, look
from mbecguard.text.reference import Reference
from mbecguard.text.stored import Accepted, TextCache, digest_of, load, packed
from mbecguard.values.errors import UserError
from tests import textmaker as made
from tests.elfmaker import BUILD_ID, TEXT_VA, note, notes
from tests.unit.test_text_compare import EXPECTED
from tests.unit.test_text_sites import MOVED, kernel, module

RELEASE = "6.12.0-test"
MODULE = 0xFFFFFFFFC0001000
BASE = TEXT_VA + MOVED


class Memory:
    """Kernel memory: what there is at addresses. `reads` counts; `later` comes into force after the first read."""

    def __init__(self, parts: dict[int, bytes], later: dict[int, bytes] | None = None) -> None:
        self.parts, self.later = parts, later or {}

    def virtual(self, va: int, size: int) -> bytes | None:
        for start, part in self.parts.items():
            if start <= va and va + size <= start + len(part):
                found = part[va - start : va - start + size]
                self.parts |= {start: self.later[start]} if start in self.later else {}
                return found
        return None


class Source:
    """A guest's memory, readable or not."""

    def __init__(self, memory: Memory | None) -> None:
        self.memory = memory

    def read(self, symbols: Kallsyms) -> KernelMemory:
        raise AssertionError(symbols)

    def contents(self) -> AbstractContextManager[Contents]:
        if self.memory is None:
            raise UserError("/proc/kcore does not exist", "a hint")
        return contextlib.nullcontext(self.memory)


def live(*patches: tuple[int, bytes]) -> bytes:
    code = bytearray(EXPECTED.blob[: made.SIZE])
    for place, part in patches:
        code[place : place + len(part)] = part
    return bytes(code)


def module_text() -> bytes:
    """The module as the loader makes it, by hand."""
    code = bytearray(module().blob)
    outside = BASE + made.FUNCTION
    struct.pack_into("<i", code, made.OUTSIDE, outside - MODULE - made.OUTSIDE - 4)
    return bytes(code)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The files of a guest with one module."""
    symbols = {name: va + MOVED for name, va in made.SYMBOLS.items()} | {"outside": BASE + made.FUNCTION}
    lines = [f"{va:016x} T {name}\n" for name, va in symbols.items()]
    lines.append(f"{MODULE + 0x70:016x} t local\t[toy_net]\n")
    files = {
        "proc/kallsyms": "".join(lines).encode(),
        "proc/modules": f"toy_net 16384 0 - Live {MODULE:#x}\n".encode(),
        "proc/sys/kernel/osrelease": f"{RELEASE}\n".encode(),
        "sys/kernel/notes": notes(),
        "sys/module/toy_net/notes/.note.gnu.build-id": note(b"GNU", 3, BUILD_ID[:19]),
        "sys/module/toy_net/sections/.text": f"{MODULE:#x}\n".encode(),
        "boot/vmlinuz": made.kernel(),
        f"lib/modules/{RELEASE}/kernel/toy_net.ko": made.module({".note.gnu.build-id": note(b"GNU", 3, BUILD_ID[:19])}),
    }
    for path, content in files.items():
        (tmp_path / "root" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / path).write_bytes(content)
    return tmp_path / "root"


def looked(
    root: Path, *patches: tuple[int, bytes], memory: Memory | None = None, cache: Path | None = None
) -> TextLook:
    memory = memory or Memory({BASE: live(*patches), MODULE: module_text()})
    folders = (root / "lib/modules" / RELEASE,)
    guest = Guest(Tree(root), Source(memory), (root / "boot/vmlinuz",), folders, live=True)
    symbols = Kallsyms((root / "proc/kallsyms").read_bytes())
    return look(guest, symbols, cache, sleep=lambda _seconds: None)


def test_a_guest_as_its_files_say(root: Path) -> None:
    found = looked(root)
    assert (found.spots, found.problems, found.untold, found.modules) == ((), (), 0, 1)
    assert found.bytes == made.SIZE + 0x80
    assert found.sites == 14 + 3


def test_a_changed_byte_is_found_by_name(root: Path) -> None:
    (spot,) = looked(root, (made.FUNCTION + 3, b"\xf4")).spots
    assert (spot.owner, spot.va, spot.symbol, spot.site) == ("kernel", BASE + made.FUNCTION + 3, "function+0x3", "")
    assert spot.found == b"\xf4"


def test_a_changed_byte_of_a_module_is_found_by_name(root: Path) -> None:
    code = bytearray(module_text())
    code[0x72] ^= 0x80
    (spot,) = looked(root, memory=Memory({BASE: live(), MODULE: bytes(code)})).spots
    assert (spot.owner, spot.symbol) == ("toy_net", "local+0x2")


def test_where_the_module_was_bound_to_counts(root: Path) -> None:
    code = bytearray(module_text())
    code[made.OUTSIDE] ^= 1
    (spot,) = looked(root, memory=Memory({BASE: live(), MODULE: bytes(code)})).spots
    assert spot.va == MODULE + made.OUTSIDE


def test_a_patch_under_way_is_no_change(root: Path) -> None:
    """int3 first, then the tail, then the first byte: who looks in between looks again."""
    half = live((made.BRANCH, b"\xcc"))
    done = live((made.BRANCH, made.near("e9", made.BRANCH, made.LABEL)))
    assert not looked(root, memory=Memory({BASE: half, MODULE: module_text()}, {BASE: done})).spots
    (spot,) = looked(root, memory=Memory({BASE: half, MODULE: module_text()})).spots
    assert spot.site == "jump label"


def test_a_kprobe_that_the_kernel_tells_of_is_no_change(root: Path) -> None:
    place = made.FUNCTION + 5
    assert looked(root, (place, b"\xcc")).spots
    listed = root / "sys/kernel/debug/kprobes/list"
    listed.parent.mkdir(parents=True)
    listed.write_text(f"{BASE + place:016x}  k  function+0x5    \n")
    assert not looked(root, (place, b"\xcc")).spots
    assert looked(root, (place, b"\xf4")).spots
    assert looked(root, (place + 1, b"\xcc")).spots


def test_an_optimised_kprobe(root: Path) -> None:
    place, slot = made.FUNCTION + 5, BASE + 0x100000
    with (root / "proc/kallsyms").open("a") as file:
        file.write(f"{slot:016x} t kprobe_optinsn_page\t[__builtin__kprobes]\n")
    listed = root / "sys/kernel/debug/kprobes/list"
    listed.parent.mkdir(parents=True)
    listed.write_text(f"{BASE + place:016x}  k  function+0x5    [OPTIMIZED]\n")
    assert not looked(root, (place, made.near("e9", place, made.FUNCTION - made.FUNCTION + 0x100020))).spots
    assert looked(root, (place, made.near("e9", place, 0x180000))).spots


def test_a_call_of_what_calls_xdp_programs(root: Path) -> None:
    """It begins at its symbol, or in the middle of a page from there on."""
    calls = [made.near("e8", made.CALL, 0x100040 + half) for half in (0, 2048, 1024)]
    assert all(looked(root, (made.CALL, call)).spots for call in calls)
    with (root / "proc/kallsyms").open("a") as file:
        file.write(f"{BASE + 0x100040:016x} t bpf_dispatcher_xdp\t[bpf]\n")
    assert [bool(looked(root, (made.CALL, call)).spots) for call in calls] == [False, False, True]


def test_trampolines_of_one_name_are_all_legal(root: Path) -> None:
    """ftrace has one for each tracer, and calls them all the same."""
    places = [0x100000, 0x102000, 0x104000]
    calls = [made.near("e8", made.ENTRY, place) for place in places]
    assert all(looked(root, (made.ENTRY, call)).spots for call in calls)
    with (root / "proc/kallsyms").open("a") as file:
        for place in places:
            file.write(f"{BASE + place:016x} t ftrace_trampoline\t[__builtin__ftrace]\n")
    assert not any(looked(root, (made.ENTRY, call)).spots for call in calls)


def test_memory_that_nobody_can_read(root: Path) -> None:
    guest = Guest(Tree(root), Source(None), (root / "boot/vmlinuz",), (), live=True)
    with pytest.raises(UserError, match="/proc/kcore does not exist"):
        look(guest, Kallsyms((root / "proc/kallsyms").read_bytes()), None)
    with pytest.raises(UserError, match="cannot be read"):
        looked(root, memory=Memory({MODULE: module_text()}))


def test_a_module_without_its_file_is_told_and_the_rest_compared(root: Path) -> None:
    next(root.rglob("toy_net.ko")).unlink()
    found = looked(root, (made.FUNCTION, b"\xf4"))
    assert found.problems == ("toy_net: no file of it was found",)
    assert (found.modules, len(found.spots)) == (0, 1)


def test_a_module_whose_file_is_another(root: Path) -> None:
    next(root.rglob("toy_net.ko")).write_bytes(made.module({".note.gnu.build-id": note(b"GNU", 3, bytes(20))}))
    (problem,) = looked(root).problems
    assert "build-id" in problem


def test_a_kernel_without_its_file(root: Path) -> None:
    (root / "boot/vmlinuz").write_bytes(made.kernel({".notes": notes(bytes(20))}))
    with pytest.raises(UserError, match="build-id"):
        looked(root)


@pytest.fixture
def surveyed(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in which a survey has left what the files say; from now on files cannot be told from what they were."""
    monkeypatch.setattr("mbecguard.image.cache.stamp", lambda _file: "the same")
    sections = SectionCache(tmp_path / "cache", BUILD_ID.hex())
    sections.kernel_file(root / "boot/vmlinuz", contents)
    sections.module_file(next(root.rglob("toy_net.ko")), contents)
    sections.save()
    return tmp_path / "cache"


def test_files_that_a_survey_has_read_are_read_once(
    root: Path, surveyed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbecguard.guest.images.contents", lambda _file: pytest.fail("read twice"))
    assert not looked(root, cache=surveyed).spots


def test_a_module_that_is_not_what_a_survey_has_read(root: Path, surveyed: Path) -> None:
    next(root.rglob("toy_net.ko")).write_bytes(made.module({".note.gnu.build-id": note(b"GNU", 3, bytes(20))}))
    (problem,) = looked(root, cache=surveyed).problems
    assert "build-id" in problem


def test_a_kernel_that_is_not_what_a_survey_has_read(root: Path, surveyed: Path) -> None:
    (root / "boot/vmlinuz").write_bytes(made.kernel({".notes": notes(bytes(20))}))
    with pytest.raises(UserError, match="was changed while it was read"):
        looked(root, cache=surveyed)


def test_a_module_that_goes_while_it_is_looked_at(root: Path) -> None:
    class Leaving(Memory):
        def virtual(self, va: int, size: int) -> bytes | None:
            if va == MODULE:
                (root / "proc/modules").write_text("")
                return None
            return super().virtual(va, size)

    found = looked(root, memory=Leaving({BASE: live()}))
    assert (found.problems, found.spots) == ((), ())


def test_call_depth_tracking_is_not_compared(root: Path) -> None:
    file = root / "sys/devices/system/cpu/vulnerabilities/retbleed"
    file.parent.mkdir(parents=True)
    file.write_text("Mitigation: Stuffing\n")
    with pytest.raises(UserError, match="call depth tracking"):
        looked(root)


def test_a_warm_look_reads_no_file_and_finds_the_same(root: Path, tmp_path: Path) -> None:
    cold = looked(root, (made.FUNCTION, b"\xf4"), cache=tmp_path / "cache")
    assert {file.name for file in (tmp_path / "cache/text").iterdir()} == {BUILD_ID.hex(), BUILD_ID[:19].hex()}
    (root / "boot/vmlinuz").write_bytes(b"")
    next(root.rglob("toy_net.ko")).write_bytes(b"")
    assert looked(root, (made.FUNCTION, b"\xf4"), cache=tmp_path / "cache") == cold


@pytest.mark.parametrize("reference", [kernel(), module()])
def test_what_is_remembered_comes_back_equal(tmp_path: Path, reference: Reference) -> None:
    (tmp_path / "file").write_bytes(packed(reference))
    (tmp_path / "file").chmod(0o600)
    assert load(tmp_path / "file") == reference


def test_a_cache_that_is_damaged_is_none(tmp_path: Path) -> None:
    whole, file = packed(kernel()), tmp_path / "file"
    damaged = [whole[:-3], whole[:50], whole[:4], b""]
    for plain in (
        whole[4:-3],
        whole[4:200],
        b"{}\n",
        b"[]\n",
        whole[4:].replace(b"mbecguard.text/2", b"mbecguard.text/0"),
    ):
        damaged.append(zlib.crc32(plain).to_bytes(4, "little") + plain)
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 1
    for content in (*damaged, bytes(flipped)):
        file.write_bytes(content)
        file.chmod(0o600)
        assert load(file) is None
    file.write_bytes(whole)
    file.chmod(0o666)
    assert load(file) is None


def test_the_cache_keeps_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(packed(kernel()))
    monkeypatch.setattr(stored, "FOLDER_LIMIT", 3 * size)
    cache = TextCache(tmp_path)
    for number in range(6):
        build_id = f"{number:040x}"
        cache.get(build_id, lambda build_id=build_id: replace(kernel(), build_id=build_id))  # type: ignore[misc]
        os.utime(tmp_path / "text" / build_id, (number, number))
    left = sorted(int(file.name, 16) for file in (tmp_path / "text").iterdir())
    assert 5 in left
    assert 2 <= len(left) <= 3


def test_no_build_id_no_cache(tmp_path: Path) -> None:
    for build_id in ("", "../escape", "zz"):
        assert TextCache(tmp_path).get(build_id, kernel) == kernel()
    assert not list(tmp_path.iterdir())


def test_what_was_accepted_is_not_compared_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = looked(root, cache=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("mbecguard.text.look.changes", lambda *_: pytest.fail("compared again"))
        assert looked(root, cache=tmp_path) == first


def test_a_change_after_a_clean_look_is_found_and_not_accepted(root: Path, tmp_path: Path) -> None:
    assert not looked(root, cache=tmp_path).spots
    for _ in range(2):
        assert looked(root, (made.FUNCTION, b"\xf4"), cache=tmp_path).spots
    assert not looked(root, cache=tmp_path).spots


def test_a_change_that_comes_as_another_goes_is_not_accepted(root: Path, tmp_path: Path) -> None:
    """One of both is taken for a patch under way; what was there last is found by the next look."""
    first, then = live((made.FUNCTION, b"\xf4")), live((made.FUNCTION + 3, b"\xf4"))
    modules = {MODULE: module_text()}
    assert not looked(root, memory=Memory({BASE: first, **modules}, {BASE: then}), cache=tmp_path).spots
    assert looked(root, memory=Memory({BASE: then, **modules}), cache=tmp_path).spots


def test_nothing_is_accepted_for_another_boot_or_by_others(root: Path, tmp_path: Path) -> None:
    looked(root, cache=tmp_path)
    accepted = tmp_path / "accepted.json"
    memory = Memory({BASE: live(), MODULE: module_text()})
    place = json.dumps(["", BUILD_ID.hex(), BASE, made.REPLACEMENT + MOVED])
    found = live() + bytes(8)
    assert Accepted(accepted).has("kernel", digest_of(place, found))
    assert not Accepted(accepted).has("kernel", digest_of(place.replace('""', '"other"'), found))
    accepted.chmod(0o666)
    assert not Accepted(accepted).has("kernel", digest_of(place, found))
    accepted.write_text("{")
    accepted.chmod(0o600)
    assert not looked(root, memory=memory, cache=tmp_path).spots


def test_what_nobody_can_tell_is_not_accepted(root: Path, tmp_path: Path) -> None:
    lines = (root / "proc/kallsyms").read_text().splitlines(keepends=True)
    (root / "proc/kallsyms").write_text("".join(line for line in lines if " outside" not in line))
    for _ in range(2):
        assert looked(root, cache=tmp_path).untold == 4
