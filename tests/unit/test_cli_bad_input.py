# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line against guests that lie, lack files, or are garbage: a message and a hint, never a traceback.

And never a plan that differs in silence: the same frames are kept, or a blocker says why not, or there is no plan.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.face import cli
from mbecguard.values.errors import Exit
from mbecguard.values.pages import PageRange, PageSet
from tests.guestmaker import (
    EFI_PA,
    FTRACE,
    MODULE_ZONE,
    SCATTERED,
    Code,
    Description,
    kernel_file,
    module_path,
)
from tests.shell import GUESTS, Shell, frames, ids, kept


def corrupt(path: str, change: Callable[[bytes], bytes]) -> Callable[[Description], Description]:
    return lambda guest: guest.with_file(path, change(guest.content()[path]))


def put(path: str, content: str | bytes | None) -> Callable[[Description], Description]:
    return lambda guest: guest.with_file(path, content)


VIRTIO_SECTIONS = "sys/module/virtio_net/sections"

#: What is wrong, how it is made, and the one blocker (or the words of the error) it has to be called.
LIES: dict[str, tuple[Callable[[Description], Description], str]] = {
    "image of another build": (lambda g: replace(g, image_id=b"\x77" * 20), "kernel-build-id"),
    "running kernel of another build": (lambda g: replace(g, build_id=b"\x77" * 20), "kernel-build-id"),
    "image with more text": (lambda g: replace(g, image_bytes=g.image_bytes + 4096), "kernel-text-size"),
    "image with less text": (lambda g: replace(g, image_bytes=g.image_bytes - 4096), "kernel-text-size"),
    "image cut short": (corrupt("boot/vmlinuz", lambda d: d[:-200]), "kernel-image-unusable"),
    "image cut to nothing": (put("boot/vmlinuz", b""), "kernel-image-unusable"),
    "image with a flipped bit": (
        corrupt("boot/vmlinuz", lambda d: d[:-120] + bytes([d[-120] ^ 1]) + d[-119:]),
        "kernel-image-unusable",
    ),
    "image that is a module": (
        lambda g: g.with_file("boot/vmlinuz", lzma.decompress(g.modules[0].file())),
        "kernel-image-unusable",
    ),
    "image absent": (put("boot/vmlinuz", None), "kernel-image-unusable"),
    "no notes": (put("sys/kernel/notes", None), "kernel-build-id"),
    "garbage notes": (put("sys/kernel/notes", b"\xff" * 40), "kernel-build-id"),
    "module absent": (put(module_path("ext4"), None), "module-image-unusable"),
    "module cut short": (corrupt(module_path("ext4"), lambda d: d[:-30]), "module-image-unusable"),
    "module of another build": (lambda g: g.with_module("ext4", build_id=b"\x77" * 20), "module-build-id"),
    "module with other sections": (
        lambda g: g.with_module("virtio_net", sections=((".text", 0x2300, 16), (".text.unlikely", 0x321, 1))),
        "module-layout",
    ),
    "module going": (lambda g: g.with_module("ext4", state="Unloading"), "module-busy"),
    "module that hides its addresses": (put("sys/module/ext4/sections/.text", "0x0000000000000000\n"), "module-hidden"),
    "module at a user address": (put("sys/module/ext4/sections/.text", "0x400000\n"), "module-hidden"),
    "module section absent": (put(f"{VIRTIO_SECTIONS}/.exit.text", None), "module-layout"),
    "module section moved": (put(f"{VIRTIO_SECTIONS}/.exit.text", "0xffffffffc0400000"), "module-layout"),
    "module section negative": (put(f"{VIRTIO_SECTIONS}/.text", "-5"), "does not hold a number"),
    "module section garbage": (put(f"{VIRTIO_SECTIONS}/.text", b"\xff\0"), "does not hold a number"),
    "module that nobody has": (lambda g: g.with_file("proc/modules", "evil 1 0 - Live 0x0\n"), "module-image-unusable"),
    "no modules file": (put("proc/modules", None), "unexplained-mapping"),
    "garbage modules": (put("proc/modules", b"\0\xff\n"), "malformed line"),
    "modules that climb": (put("proc/modules", "../../../etc 1 0 - Live 0x0\n"), "malformed line"),
    "hidden symbols": (
        corrupt("proc/kallsyms", lambda d: b"".join(b"0" * 16 + x[16:] + b"\n" for x in d.splitlines())),
        "hidden",
    ),
    "no symbols": (put("proc/kallsyms", b""), "empty or absent"),
    "binary symbols": (put("proc/kallsyms", bytes(range(256)) * 9), "lack _text"),
    "symbols without an end": (corrupt("proc/kallsyms", lambda d: d.replace(b"_etext", b"_other")), "cut short"),
    "symbols cut short": (corrupt("proc/kallsyms", lambda d: d[: len(d) // 2]), "cut short"),
    "symbols of another boot": (lambda g: g.with_file("proc/kallsyms", moved_symbols(g)), "promised-not-executable"),
    "hidden iomem": (put("proc/iomem", "00000000-00000000 : System RAM\n" * 3), "hidden"),
    "iomem without the kernel": (put("proc/iomem", "00001000-0009ffff : System RAM\n"), "kernel-code-missing"),
    "iomem with the kernel elsewhere": (
        corrupt("proc/iomem", lambda d: d.replace(b"6a400000", b"6a300000")),
        "kernel-code-mismatch",
    ),
    "binary iomem": (put("proc/iomem", b"\xff\0" * 99), "kernel-code-missing"),
    "no iomem": (put("proc/iomem", None), "no /proc/iomem"),
    "impossible width": (put("proc/cpuinfo", "address sizes\t: 60 bits physical"), "60 physical address bits"),
    "narrow width": (put("proc/cpuinfo", "address sizes\t: 32 bits physical"), ""),
    "garbage execmap": (put("execmap.json", b"\xff\0{"), "execmap.json is not"),
    "execmap of strings": (
        put("execmap.json", '{"schema":"mbecguard.execmap/1","mappings":"x"}'),
        "execmap.json is not",
    ),
    "execmap of nothing": (
        put("execmap.json", '{"schema":"mbecguard.execmap/1","mappings":[]}'),
        "promised-not-executable",
    ),
    "execmap overlapping": (lambda g: g.with_code(Code(FTRACE, 0x5000), Code(FTRACE, 0x6000)), "overlap"),
    "execmap beyond memory": (lambda g: g.with_code(Code(FTRACE + 0x4000, 1 << 51)), "outside the guest"),
    "execmap negative": (lambda g: g.with_code(Code(FTRACE + 0x4000, -4096)), "execmap.json is not"),
    "execmap too large": (lambda g: g.with_code(Code(FTRACE, 0x5000, 1 << 60)), "execmap.json is not"),
    "garbage memory": (put("memory.json", "[1]"), "memory.json"),
    "memory without thunks": (put("memory.json", '{"schema":"mbecguard.memory/1"}'), "unexplained-mapping"),
    "unknown code": (lambda g: g.with_code(Code(MODULE_ZONE + 0x900000, 0x9000)), "unexplained-mapping"),
    "kernel page remapped": (
        lambda g: replace(g, text_pa=g.text_pa + (1 << 21)).with_file(*iomem(g)),
        "kernel-code-mismatch",
    ),
    "release that climbs": (put("proc/sys/kernel/osrelease", "../../../etc"), "no kernel release"),
}


def moved_symbols(guest: Description) -> bytes:
    return replace(guest, text_va=guest.text_va + 0x10000000).content()["proc/kallsyms"]


def iomem(guest: Description) -> tuple[str, bytes]:
    return "proc/iomem", guest.content()["proc/iomem"]


@pytest.mark.parametrize("lie", LIES)
def test_every_lie_is_called_by_its_name(shell: Shell, lie: str) -> None:
    make, name = LIES[lie]
    make(SCATTERED).write(shell.folder)
    status, plan, err = shell.plan()
    assert status != Exit.OK or not name
    assert name in (ids(plan) if plan else err) or not name
    assert shell.run("check")[0] == (Exit.REFUSED if name else Exit.OK)


#: What does not stop a lock, as another source tells enough: the change, the finding, and a word of its text.
MILD_LIES: dict[str, tuple[Callable[[Description], Description], str, str]] = {
    "garbage firmware map": (
        put("sys/firmware/efi/runtime-map/0/phys_addr", "x"),
        "efi-by-tables",
        "not hold a number",
    ),
    "firmware map with a hole": (put("sys/firmware/efi/runtime-map/0/num_pages", None), "efi-by-tables", "is missing"),
    "firmware map of data": (
        put("sys/firmware/efi/runtime-map/0/type", "0x6"),
        "efi-data-executable",
        "3 pages of EFI",
    ),
}


@pytest.mark.parametrize("lie", MILD_LIES)
def test_a_lie_that_another_source_outweighs_is_told(shell: Shell, lie: str) -> None:
    make, name, word = MILD_LIES[lie]
    make(SCATTERED).write(shell.folder)
    status, plan, _ = shell.plan()
    assert status == Exit.OK
    assert plan
    assert [word in f["text"] for f in plan["findings"] if f["id"] == name] == [True]
    efi = PageSet(frames(k) for k in plan["keep"] if k["kind"] == "efi-runtime")
    assert efi == PageSet([] if "data" in name else [PageRange(EFI_PA >> 12, (EFI_PA >> 12) + 3)])


@pytest.mark.parametrize("name", GUESTS)
def test_the_honest_guest(shell: Shell, name: str) -> None:
    guest = GUESTS[name]
    guest.write(shell.folder)
    status, plan, err = shell.plan()
    assert (status, err) == (Exit.OK, "")
    assert plan["schema"] == "mbecguard.plan/2"
    # Nothing tells its processors.
    assert [f["id"] for f in plan["findings"]] == [*["free-space-kept"] * bool(guest.int3), "start-page-kept"]
    code = PageSet(PageRange(code.pa >> 12, (code.pa >> 12) + code.pages) for code in guest.mappings())
    assert kept(plan) == code
    assert PageSet((*code, *map(frames, plan["deny"]))) == PageSet([PageRange(0, 1 << 34)])
    assert plan["totals"]["keep_pages"] == code.pages
    assert shell.plan()[1] == plan  # now from the cache
    assert shell.run("check")[0] == Exit.OK


def test_hex_strings_in_the_execmap(shell: Shell) -> None:
    SCATTERED.write(shell.folder)
    honest = shell.plan()[1]
    document = json.loads((shell.folder / "execmap.json").read_text())
    document["mappings"] = [r | {k: hex(r[k]) for k in ("va", "pa", "bytes")} for r in document["mappings"]]
    (shell.folder / "execmap.json").write_text(json.dumps(document))
    assert shell.plan()[1] == honest


def test_plan_to_a_file(shell: Shell, tmp_path: Path) -> None:
    SCATTERED.write(shell.folder)
    plan = shell.plan()[1]
    file = tmp_path / "plan.json"
    assert shell.run("plan", "--json", "-o", str(file)) == (Exit.OK, "", "")
    assert json.loads(file.read_text()) == plan
    assert shell.run("plan", "-o", str(file))[1] == ""
    assert plan["digest"] in file.read_text()
    assert cli.main(["plan", "--guest", str(shell.folder), "-o", str(tmp_path)]) == Exit.ERROR
    assert "cannot be written" in shell.capture.readouterr().err


def test_images_by_option(shell: Shell, tmp_path: Path) -> None:
    SCATTERED.write(shell.folder)
    plan = shell.plan()[1]
    (shell.folder / "boot/vmlinuz").rename(tmp_path / "k")
    (shell.folder / "lib/modules").rename(tmp_path / "m")
    assert {"kernel-image-unusable", "module-image-unusable"} <= ids(shell.plan()[1])
    assert shell.plan("--kernel-image", str(tmp_path / "k"), "--modules-dir", str(tmp_path / "m"))[1] == plan
    (tmp_path / "k").write_bytes(kernel_file(4096, b"\x55" * 20))
    assert "kernel-build-id" in ids(shell.plan("--kernel-image", str(tmp_path / "k"))[1])
    for option in ("--kernel-image", "--modules-dir"):
        assert shell.plan(option, str(tmp_path / "none"))[0] == Exit.ERROR


def test_deny_unexplained(shell: Shell) -> None:
    extra = [Code(MODULE_ZONE + 0x900000 + (i << 13), 0x20000000 + (i << 13)) for i in range(300)]
    SCATTERED.write(shell.folder)
    honest = shell.plan()[1]
    SCATTERED.with_code(*extra).write(shell.folder)
    status, refused, _ = shell.plan()
    assert status == Exit.REFUSED
    assert ids(refused) == {"unexplained-mapping", "unexplained-more"}
    status, plan, _ = shell.plan("--deny-unexplained")
    assert status == Exit.OK
    others = {"source-unknown", "start-page-kept"}
    assert ids(plan, "warning") - others == {"unexplained-denied", "unexplained-denied-more"}
    assert kept(plan) == kept(refused) == kept(honest)
