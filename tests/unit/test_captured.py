# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings: read, made, refused; and where a guest's images lie."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from mbecguard.guest.captured import CapturedSource, capture, captured_guest
from mbecguard.guest.kcore import UNTOLD, KernelMemory, MemoryFacts
from mbecguard.guest.live import live_guest
from mbecguard.guest.procfs import Kallsyms
from mbecguard.guest.source import Guest
from mbecguard.guest.survey import survey
from mbecguard.guest.tree import Tree
from mbecguard.guest.uses import KPROBES, TRACED
from mbecguard.values.errors import UserError
from mbecguard.values.facts import Absent, Fact, Known, Unknown
from mbecguard.values.pages import PageRange
from tests.guestmaker import PAGE_OFFSET, RELEASE, SCATTERED, SHARED_BLOCK, Description, kernel_file

SYMBOLS = Kallsyms(b"ffffffff81000000 T _text\nffffffff82000000 T _etext\n")


@pytest.mark.parametrize("guest", [SCATTERED, SHARED_BLOCK], ids=["scattered", "block"])
def test_a_recording_of_a_recording_tells_the_same(tmp_path: Path, guest: Description) -> None:
    first = captured_guest(guest.write(tmp_path / "first"))
    written = capture(first, tmp_path / "deep/second")
    second = captured_guest(tmp_path / "deep/second")
    assert survey(second, None)[0] == survey(first, None)[0]
    assert second.boot_id == first.boot_id == "0b4f5a52-1111-4222-8333-444455556666"
    copy = tmp_path / "deep/second"
    assert sorted(written) == sorted(str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file())
    assert {"boot/vmlinuz", "execmap.json", "memory.json", "proc/kallsyms.xz", "proc/iomem"} <= set(written)


def test_facts_that_a_guest_lacks_are_left_out(tmp_path: Path) -> None:
    bare = replace(SCATTERED, modules=(), firmware=())
    for path in ("boot/vmlinuz", "memory.json", "proc/cpuinfo", "sys/kernel/kexec_loaded"):
        bare = bare.with_file(path, None)
    guest = captured_guest(bare.write(tmp_path / "first"))
    assert guest.kernel_images == guest.modules_dirs == ()
    written = capture(guest, tmp_path / "second")
    assert not {"boot/vmlinuz", "proc/cpuinfo.xz", "sys/kernel/kexec_loaded"} & set(written)
    assert CapturedSource(Tree(tmp_path / "second")).read(SYMBOLS).facts == MemoryFacts()


def test_places_that_cannot_be_a_recording(tmp_path: Path) -> None:
    guest = captured_guest(SCATTERED.write(tmp_path / "guest"))
    (tmp_path / "file").touch()
    for place, message in (("guest", "is not empty"), ("file", "cannot be"), ("file/below", "cannot be")):
        with pytest.raises(UserError, match=message) as caught:
            capture(guest, tmp_path / place)
        assert "new folder" in caught.value.hint
    assert (tmp_path / "guest/execmap.json").exists()
    (tmp_path / "empty").mkdir(mode=0o700)
    assert capture(guest, tmp_path / "empty")


class Moving:
    """Memory of a guest to which something happens while it is read."""

    def __init__(self, folder: Path, fault: BaseException | None = None) -> None:
        self._folder, self._fault = folder, fault

    def read(self, symbols: Kallsyms) -> KernelMemory:
        if self._fault:
            raise self._fault
        with (self._folder / "proc/modules").open("a") as file:
            file.write("late 4096 0 - Live 0xffffffffc0900000\n")
        return KernelMemory((), MemoryFacts())

    def contents(self) -> NoReturn:
        raise AssertionError("nobody looks")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (None, "modules came or went"),
        (UserError("no page tables", "a hint"), "no page tables"),
        (OSError(28, "No space left on device"), "the capture failed: .*: No space left"),
    ],
)
def test_nothing_half_made_stays_behind(tmp_path: Path, fault: Exception | None, message: str) -> None:
    folder = SCATTERED.write(tmp_path / "guest")
    guest = captured_guest(folder)._replace(memory=Moving(folder, fault))
    with pytest.raises(UserError, match=message) as caught:
        capture(guest, tmp_path / "new")
    assert caught.value.hint
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), SystemExit(3)])
def test_nothing_half_made_stays_behind_when_it_is_interrupted(tmp_path: Path, fault: BaseException) -> None:
    folder = SCATTERED.write(tmp_path / "guest")
    guest = captured_guest(folder)._replace(memory=Moving(folder, fault))
    with pytest.raises(type(fault)):
        capture(guest, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("guests", "asked", "message", "hint"),
    [
        ([], "none", "there is no folder {}/none", "mbecguard capture"),
        ([], ".", "{} is not a captured guest", "mbecguard capture"),
        (["one"], ".", "{} is not a captured guest", "did you mean {}/one?"),
        (["one/two"], ".", "{} is not a captured guest", "did you mean {}/one/two?"),
        (["b", "a"], ".", "{} is not a captured guest", "did you mean {}/a? (there are 2 in that folder)"),
    ],
)
def test_a_folder_of_captures_is_looked_into(
    tmp_path: Path, guests: list[str], asked: str, message: str, hint: str
) -> None:
    for name in guests:
        SCATTERED.write(tmp_path / name)
    with pytest.raises(UserError) as caught:
        captured_guest(tmp_path / asked)
    assert caught.value.message == message.format(tmp_path)
    assert hint.format(tmp_path) in caught.value.hint


def test_no_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, message in ((tmp_path, "is not a captured guest"), (tmp_path / "none", "there is no folder")):
        with pytest.raises(UserError, match=message) as caught:
            captured_guest(place)
        assert "mbecguard capture" in caught.value.hint
    shutil.rmtree(SCATTERED.write(tmp_path / "g") / "boot")
    (tmp_path / "g/execmap.json").unlink()
    with pytest.raises(UserError, match=r"has no execmap\.json"):
        survey(captured_guest(tmp_path / "g"), None)

    def refuse(_: Path) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(UserError, match="is not a captured guest"):
        captured_guest(tmp_path / "g")


def memory(**changes: Any) -> str:
    return json.dumps({"schema": "mbecguard.memory/1", **changes})


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "7", "null", "{}", "[" * 100000, "\ufffd", '["schema"]'),
        memory(schema="mbecguard.memory/3"),
        memory(more=1),
        memory(page_offset="x"),
        memory(page_offset=-1),
        memory(page_offset=1.0),
        memory(page_offset=1 << 64),
        memory(page_offset=0),
        memory(hypercall_page=-4096),
        memory(hypercall_page=(1 << 63) - 1),
        memory(trampoline={"start": 5, "end": 4}),
        memory(trampoline={"start": -1, "end": 4}),
        memory(trampoline=[1, 2]),
        memory(trampoline={"start": 0, "end": 1 << 70}),
        memory(int3_pages=[{"start": 0, "end": (1 << 40) + 1}]),
        memory(int3_pages=[1]),
        memory(int3_pages={"start": 1, "end": 2}),
        memory(thunk_pages=[{"start": 1}]),
        memory(thunk_pages=[{"start": 1, "end": 1e400}]),
    ],
    ids=range(27),
)
def test_garbage_memory_facts(tmp_path: Path, text: str) -> None:
    folder = SCATTERED.with_file("memory.json", text).write(tmp_path)
    with pytest.raises(UserError, match=r"memory\.json") as caught:
        CapturedSource(Tree(folder)).read(SYMBOLS)
    assert caught.value.hint


def test_memory_facts(tmp_path: Path) -> None:
    facts = CapturedSource(Tree(SCATTERED.write(tmp_path))).read(SYMBOLS).facts
    assert facts.page_offset == PAGE_OFFSET
    assert facts.trampoline == Known(PageRange(0x99, 0x9B))
    assert facts.thunk_pages == Known((PageRange(0x13004, 0x13005),))


def test_an_old_capture_does_not_tell_absent_from_unknown(tmp_path: Path) -> None:
    facts = CapturedSource(Tree(replace(SCATTERED, trampoline=None).write(tmp_path))).read(SYMBOLS).facts
    assert facts.trampoline == facts.hypercall_page == facts.efi_tables == UNTOLD
    new = tmp_path / "new"
    capture(captured_guest(tmp_path), new)
    again = CapturedSource(Tree(new)).read(SYMBOLS).facts
    assert again == facts
    assert json.loads((new / "memory.json").read_text())["schema"] == "mbecguard.memory/2"


FOUND: dict[str, Fact[str]] = {
    KPROBES: Known("ffffffff81000010  k  do_one+0x0    [FTRACE]\n"),
    TRACED: Unknown("it is hidden", "show it"),
    "proc/sys/net/core/bpf_jit_harden": Absent(),
}


def test_a_capture_keeps_what_could_not_be_read_apart_from_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = captured_guest(SCATTERED.write(tmp_path / "guest"))
    (tmp_path / "guest/sys/kernel/livepatch/fix_1").mkdir(parents=True)
    (tmp_path / "guest/sys/kernel/livepatch/fix_1/enabled").write_text("1\n")
    with monkeypatch.context() as patch:
        patch.setattr(Tree, "fact", lambda _self, path, _mount="": FOUND.get(path, Absent()))
        capture(guest, tmp_path / "copy")
    tree = captured_guest(tmp_path / "copy").tree
    assert {path: tree.fact(path) for path in FOUND} == FOUND
    assert tree.fact_of_names("sys/kernel/livepatch") == Known(())  # its file was not there to be read
    capture(captured_guest(tmp_path / "copy"), tmp_path / "again")
    assert {path: captured_guest(tmp_path / "again").tree.fact(path) for path in FOUND} == FOUND
    capture(guest, tmp_path / "whole")
    assert captured_guest(tmp_path / "whole").tree.fact_of_names("sys/kernel/livepatch") == Known(("fix_1",))
    old = guest.tree.fact(TRACED)
    assert isinstance(old, Unknown)
    assert "this capture was made without" in old.reason


@pytest.mark.parametrize("text", ["", "{}", '{"files": {"a": 1}}', '{"files": {}, "schema": "x", "more": 1}', "[]"])
def test_garbage_about_what_could_not_be_read(tmp_path: Path, text: str) -> None:
    folder = SCATTERED.with_file("unread.json", text).write(tmp_path)
    with pytest.raises(UserError, match=r"unread\.json is damaged") as caught:
        captured_guest(folder)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("osrelease", "version", "release"),
    [
        ("6.12.1-a+b_c~d\n", None, "6.12.1-a+b_c~d"),
        (None, "Linux version 7.2.0 (x) #1", "7.2.0"),
        ("\n", "Linux version 7.2.0 (x) #1", "7.2.0"),
        ("1.2", "Linux version 7.2.0", "1.2"),
        (None, "Linux version", None),
        (None, None, None),
        ("../../etc", None, None),
        ("/etc", None, None),
        ("..", None, None),
        ("a\0b", None, None),
        ("x" * 65, None, None),
        ("\ufffd", "Linux version 7.2.0", None),
    ],
)
def test_release(tmp_path: Path, osrelease: str | None, version: str | None, release: str | None) -> None:
    files = SCATTERED.with_file("proc/version", version).with_file("proc/sys/kernel/osrelease", osrelease)
    guest = Guest(Tree(files.write(tmp_path)), CapturedSource(Tree(tmp_path)), (), (), live=False)
    if release:
        assert guest.release == release
        return
    with pytest.raises(UserError, match="release") as caught:
        assert guest.release
    assert caught.value.hint


def test_images_by_option(tmp_path: Path) -> None:
    guest = captured_guest(SCATTERED.write(tmp_path / "g"))
    assert guest.with_images(None) == guest
    (tmp_path / "k").touch()
    assert guest.with_images(tmp_path / "k", [tmp_path]).kernel_images == (tmp_path / "k",)
    assert guest.with_images(None, [tmp_path]).modules_dirs == (tmp_path, *guest.modules_dirs)
    assert guest.with_images(None, guest.modules_dirs) == guest
    for image, modules, message in (
        (tmp_path, None, "no kernel image"),
        (tmp_path / "none", None, "no kernel image"),
        (None, tmp_path / "k", "no modules folder"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            guest.with_images(image, [modules] if modules else [])
        assert "give" in caught.value.hint


@pytest.mark.parametrize(
    "place",
    [
        *(f"boot/vmlinuz-{RELEASE}", f"usr/lib/modules/{RELEASE}/vmlinuz", f"lib/modules/{RELEASE}/vmlinuz"),
        *("boot/vmlinuz-linux", f"boot/efi/EFI/Linux/debian-{RELEASE}-1.efi", f"efi/EFI/Linux/{RELEASE}.efi"),
    ],
)
def test_where_a_running_guest_has_its_image(tmp_path: Path, place: str) -> None:
    root = SCATTERED.with_file("boot/vmlinuz", None).write(tmp_path)
    assert live_guest(root).kernel_images == ()
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).touch()
    guest = live_guest(root)
    assert guest.kernel_images == (root / place,)
    assert guest.modules_dirs[0] == root / "lib/modules" / RELEASE
    assert guest.live


@pytest.mark.parametrize("wrong", ["another kernel's", "damaged", "missing"])
def test_of_several_images_the_one_that_runs_is_taken(tmp_path: Path, wrong: str) -> None:
    root = SCATTERED.with_file("boot/vmlinuz", None).write(tmp_path)
    stale = {"another kernel's": kernel_file(4096, b"\x77" * 20), "damaged": b"MZ", "missing": None}[wrong]
    places = (f"boot/vmlinuz-{RELEASE}", "boot/vmlinuz-virt", f"usr/lib/modules/{RELEASE}/vmlinuz")
    for place, data in zip(places, (stale, stale, kernel_file(SCATTERED.image_bytes, SCATTERED.image_id)), strict=True):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        if data is not None:
            (root / place).write_bytes(data)
    guest = live_guest(root)._replace(memory=CapturedSource(Tree(root)))
    kernel = survey(guest, None)[0].kernel
    assert kernel.image
    assert kernel.image.build_id == kernel.build_id
    (root / places[2]).unlink()
    if wrong != "missing":
        kernel = survey(live := live_guest(root)._replace(memory=guest.memory), None)[0].kernel
        assert kernel.image is None
        assert all(path.name in kernel.image_problem for path in live.kernel_images)


def test_modules_may_lie_one_folder_up(tmp_path: Path) -> None:
    root = SCATTERED.write(tmp_path)
    (root / "lib/modules" / RELEASE).rename(root / "lib/modules/other")
    assert captured_guest(root).modules_dirs == (root / "lib/modules",)
    assert len(survey(captured_guest(root), None)[0].modules) == 3
