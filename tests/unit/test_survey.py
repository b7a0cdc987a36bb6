# SPDX-License-Identifier: GPL-2.0-or-later
"""The survey of a captured guest: every fact from its file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from mbecguard.guest.captured import captured_guest
from mbecguard.guest.efi import Efi
from mbecguard.guest.kcore import MemoryFacts
from mbecguard.guest.procfs import VmallocArea
from mbecguard.guest.survey import Survey, survey
from mbecguard.values.codec import decode, encode
from mbecguard.values.errors import UserError
from mbecguard.values.facts import Known, Unknown
from mbecguard.values.pages import ADDRESS_SPACE_PAGES, PageRange
from tests.guestmaker import RELEASE, SCATTERED, SHARED_BLOCK, VIRTIO, Description, module_path


def look(folder: Path, guest: Description, cache: Path | None = None) -> Survey:
    return survey(captured_guest(guest.write(folder)), cache)[0]


def test_the_kernel(tmp_path: Path) -> None:
    kernel = look(tmp_path, SCATTERED).kernel
    assert (kernel.release, kernel.build_id) == (RELEASE, SCATTERED.build_id.hex())
    assert (kernel.text_va, kernel.text_end_va) == (SCATTERED.text_va, SCATTERED.text_va + SCATTERED.text_bytes)
    assert kernel.code_iomem == (SCATTERED.text_pa, SCATTERED.text_pa + SCATTERED.text_bytes)
    assert kernel.max_pfn == 1 << 34
    assert kernel.image
    assert [s.name for s in kernel.image.sections] == [".text", ".init.text", ".altinstr_replacement"]


def test_modules_by_name(tmp_path: Path) -> None:
    ext4, tables, virtio = look(tmp_path, SCATTERED).modules
    assert (ext4.name, tables.name, virtio.name) == ("ext4", "tables", "virtio_net")
    assert virtio.sections == {n: va for n, va in VIRTIO.addresses() if not n.startswith(".init")}
    assert (virtio.state, virtio.build_id) == ("Live", "11" * 20)
    assert virtio.image
    assert virtio.image.name == "virtio_net"
    assert tables.sections == {}, "it has no core text, and .init.text is stale"


def test_the_rest(tmp_path: Path) -> None:
    area = "0xffffffffc0520000-0xffffffffc0522000    8192 apply_retpolines+0x39f/0x640 pages=1 vmalloc\n"
    guest = replace(SCATTERED, areas=area, kexec_loaded=True, crash_kernel=(0x73000000, 0x7B000000))
    found = look(tmp_path, guest)
    assert [(m.va, m.pa, m.bytes >> 12) for m in found.mappings] == [
        (code.va, code.pa, code.pages) for code in guest.mappings()
    ]
    assert {s.tag for s in found.symbols} == {"bpf", "__builtin__ftrace", "__builtin__kprobes"}
    assert found.areas == Known((VmallocArea(0xFFFFFFFFC0520000, 8192, "apply_retpolines"),))
    assert found.efi == Efi(Known((PageRange(0x7F9ED, 0x7FAED),)), (PageRange(0x7FB00, 0x7FB10),))
    assert found.crash_kernel == (PageRange(0x73000, 0x7B000),)
    assert found.kexec_images == Known(1)
    assert decode(Survey, json.loads(json.dumps(encode(found)))) == found


@pytest.mark.parametrize(
    ("loaded", "crash", "expected"),
    [("0\n", "0\n", 0), ("0\n", "1\n", 1), ("1\n", "1\n", 2), (None, None, 0), ("\n", None, 0)],
)
def test_kexec_flags(tmp_path: Path, loaded: str | None, crash: str | None, expected: int) -> None:
    guest = SCATTERED.with_file("sys/kernel/kexec_loaded", loaded).with_file("sys/kernel/kexec_crash_loaded", crash)
    assert look(tmp_path, guest).kexec_images == Known(expected)


def test_absent_facts(tmp_path: Path) -> None:
    guest = replace(SHARED_BLOCK, bits=None, firmware=())
    for path in ("memory.json", "proc/modules", "proc/vmallocinfo", "sys/kernel/notes"):
        guest = guest.with_file(path, None)
    found = look(tmp_path, guest)
    assert found.kernel.max_pfn == ADDRESS_SPACE_PAGES
    assert found.kernel.build_id == ""
    assert found.memory == MemoryFacts()
    assert found.modules == ()
    assert isinstance(found.areas, Unknown)
    assert isinstance(found.efi.code, Unknown)  # page tables of EFI are there, no map


def test_images_that_are_absent_or_damaged(tmp_path: Path) -> None:
    guest = SCATTERED.with_file("boot/vmlinuz", b"MZ").with_file(module_path("ext4"), b"x")
    found = look(tmp_path / "a", guest)
    assert found.kernel.image is None
    assert found.modules[0].image is None
    assert "vmlinuz" in found.kernel.image_problem
    assert "ext4.ko.xz" in found.modules[0].image_problem
    gone = look(tmp_path / "b", SCATTERED.with_file("boot/vmlinuz", None).with_file(module_path("ext4"), None))
    assert "--kernel-image" in gone.kernel.image_hint
    assert gone.modules[0].image_problem == "no file of it was found"
    assert "--modules-dir" in gone.modules[0].image_hint


def test_an_image_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = captured_guest(SCATTERED.write(tmp_path))

    def refuse(_: Path) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    found = survey(guest, None)[0]
    assert "Permission denied" in found.kernel.image_problem
    assert "run as root" in found.kernel.image_hint
    assert all(module.image is None for module in found.modules)


def test_the_cache_changes_nothing(tmp_path: Path) -> None:
    cold = look(tmp_path / "g", SCATTERED, tmp_path / "cache")
    assert look(tmp_path / "g", SCATTERED, tmp_path / "cache") == cold == look(tmp_path / "g", SCATTERED)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{SCATTERED.build_id.hex()}.json"]


@pytest.mark.parametrize("path", ["proc/kallsyms", "proc/iomem", "execmap.json"])
def test_what_no_survey_can_do_without(tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError) as caught:
        look(tmp_path, SCATTERED.with_file(path, None))
    assert caught.value.hint
