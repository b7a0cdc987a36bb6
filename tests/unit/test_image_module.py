# SPDX-License-Identifier: GPL-2.0-or-later
"""Module files: names, layout of the text allocation, the index of a release."""

from __future__ import annotations

import gzip
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mbecguard.image.module import (
    ModuleImage,
    ModuleIndex,
    core_text,
    init_sections,
    module_name,
    read_module,
    text_bytes,
)
from mbecguard.image.sections import CODE_LIMIT, Section, SectionKind
from mbecguard.values.errors import UserError
from tests import elfmaker
from tests.elfmaker import BUILD_ID, A, Sec, X, elf64, module

KO = module()
R, N = SectionKind.RESIDENT, SectionKind.INIT
EXPECTED = ModuleImage(
    "toy_net",
    BUILD_ID.hex(),
    (
        Section(".text", 0, 101, 16, R),
        Section(".text.unlikely", 0, 7, 1, R),
        Section(".init.text", 0, 55, 8, N),
        Section(".exit.text", 0, 9, 4, SectionKind.EXIT),
        Section(".altinstr_replacement", 0, 12, 1, R),
    ),
)
SIGNATURE = random.Random(1).randbytes(400) + bytes(8) + b"\0\0\1\x90" + b"~Module signature appended~\n"
PACK: dict[str, Callable[[bytes], bytes]] = {
    ".ko": bytes,
    ".ko.gz": gzip.compress,
    ".ko.xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    ".ko.zst": zstandard.compress,
}


def refusal(data: bytes, name: str = "toy.ko") -> str:
    with pytest.raises(UserError) as caught:
        read_module(data, name)
    assert caught.value.hint
    assert caught.value.message.startswith(f"{name}: ")
    return caught.value.message


@pytest.mark.parametrize("packed_as", PACK)
@pytest.mark.parametrize("named", [*PACK, ""])
@pytest.mark.parametrize("signature", [b"", SIGNATURE], ids=["unsigned", "signed"])
def test_content_tells_the_format(packed_as: str, named: str, signature: bytes) -> None:
    assert read_module(PACK[packed_as](KO + signature), "dir/other" + named) == EXPECTED


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("toy.ko", "toy"),
        ("/lib/modules/6.12/kernel/sound/snd-hda-intel.ko.xz", "snd_hda_intel"),
        ("a-b_c.ko.zst", "a_b_c"),
        ("x.ko.gz", "x"),
        ("x.ko.bz2", "x.ko.bz2"),
        ("plain", "plain"),
        ("v4l2.ko.ko", "v4l2.ko"),
        (".ko", ".ko"),
    ],
)
def test_names_by_file(file: str, name: str) -> None:
    assert module_name(file) == name
    assert read_module(module(name=""), file).name == name


def test_modinfo_beats_the_file_name() -> None:
    assert read_module(KO, "renamed.ko").name == "toy_net"
    skeleton = elf64([Sec(".modinfo", 1 << 40), Sec(".text", 64, A | X)], elfmaker.ET_REL)
    assert read_module(skeleton, "toy-skeleton.ko").name == "toy_skeleton"


def layout_of(image: ModuleImage, *, unload: bool = True) -> dict[str, int]:
    return {section.name: offset for section, offset in core_text(image, unload=unload)}


def test_no_build_id_no_code() -> None:
    bare = elf64([Sec(".modinfo", b"name=fw\0")], elfmaker.ET_REL)
    assert read_module(bare, "fw.ko") == ModuleImage("fw", "", ())
    assert layout_of(read_module(bare, "fw.ko")) == {}
    assert text_bytes(read_module(bare, "fw.ko")) == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "neither ELF nor compressed"),
        (elfmaker.vmlinux(), "not an x86-64 ELF file of type ET_REL"),
        (gzip.compress(elfmaker.vmlinux()), "not an x86-64 ELF file of type ET_REL"),
        (gzip.compress(b"text"), "not a 64-bit little-endian ELF file"),
        (zstandard.compress(KO)[:-9], "damaged zstd data"),
        (lzma.compress(KO)[:-9], "damaged xz data"),
        (KO[:-1], "cut short"),
        (module(extra=[Sec("a", 1, A | X, align=CODE_LIMIT), Sec("b", 1, A | X, align=CODE_LIMIT)]), "too far apart"),
        (module(name="schön"), "not a usable ELF file (UnicodeDecodeError"),
    ],
    ids=range(9),
)
def test_refusals(data: bytes, message: str) -> None:
    assert message in refusal(data)


def test_two_sections_of_one_name_have_a_place_each() -> None:
    twins = image((".text", 100, 16, R), (".text.unlikely", 7, 1, R), (".text.unlikely", 9, 4, R))
    assert [(s.name, s.bytes, at) for s, at in core_text(twins)] == [
        (".text", 100, 0),
        (".text.unlikely", 7, 100),
        (".text.unlikely", 9, 108),
    ]
    assert read_module(module(extra=[Sec(".text", b"\xcc", A | X)]), "toy.ko").name == "toy_net"


def test_a_kernel_that_cannot_unload_modules_frees_their_exit_code() -> None:
    toy = image((".text", 100, 16, R), (".exit.text", 9, 16, SectionKind.EXIT), (".text.unlikely", 7, 1, R))
    assert layout_of(toy) == {".text": 0, ".exit.text": 112, ".text.unlikely": 121}
    assert layout_of(toy, unload=False) == {".text": 0, ".text.unlikely": 100}
    assert init_sections(toy) == ()
    assert init_sections(toy, unload=False) == (".exit.text",)


def image(*sections: tuple[str, int, int, SectionKind]) -> ModuleImage:
    return ModuleImage("toy", "", tuple(Section(name, 0, size, align, kind) for name, size, align, kind in sections))


@pytest.mark.parametrize(
    ("module_image", "layout", "total"),
    [
        (EXPECTED, {".text": 0, ".text.unlikely": 101, ".exit.text": 108, ".altinstr_replacement": 117}, 129),
        # The sizes of a real virtio_net.
        (
            image((".text", 36803, 16, R), (".text.unlikely", 1076, 1, R), (".init.text", 148, 1, N)),
            {".text": 0, ".text.unlikely": 36803},
            37879,
        ),
        # An empty section still aligns what follows, and init text never does.
        (image(("a", 5, 1, R), ("b", 0, 16, R), ("c", 1, 1, R)), {"a": 0, "c": 16}, 17),
        (image(("a", 5, 1, R), ("i", 9, 4096, N), ("c", 1, 1, R)), {"a": 0, "c": 5}, 6),
        (image(("i", 9, 16, N), ("a", 1, 32, R)), {"a": 0}, 1),
        (image(("a", 16, 16, R), ("b", 1, 16, R)), {"a": 0, "b": 16}, 17),
        (image(("a", 17, 16, R), ("b", 0, 4096, R)), {"a": 0}, 17),
        (image((".text", 0, 16, R)), {}, 0),
    ],
)
def test_layout(module_image: ModuleImage, layout: dict[str, int], total: int) -> None:
    assert layout_of(module_image) == layout
    assert text_bytes(module_image) == total


sized = st.tuples(st.integers(0, 300), st.sampled_from([1, 2, 8, 64, 4096]), st.sampled_from([R, N]))


@given(st.lists(sized, max_size=8))
def test_layout_is_the_tightest_in_order(sizes: list[tuple[int, int, SectionKind]]) -> None:
    toy = image(*((f"s{i}", size, align, kind) for i, (size, align, kind) in enumerate(sizes)))
    layout, core = layout_of(toy), [s for s in toy.sections if s.kind is R]
    assert list(layout) == [s.name for s in core if s.bytes]
    end = last = 0
    for section in core:
        start = layout.get(section.name, -(-end // section.align) * section.align)
        assert start % section.align == 0
        assert 0 <= start - end < section.align
        end = start + section.bytes
        last = end if section.bytes else last
    assert text_bytes(toy) == last


def tree(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"")
    return root


def test_index_prefers_as_depmod_does(tmp_path: Path) -> None:
    release = tree(
        tmp_path / "6.12.0",
        "kernel/drivers/net/a-net.ko.xz",
        "kernel/drivers/b.ko",
        "kernel/fs/c.ko.gz",
        "weak-updates/b.ko",
        "weak-updates/w.ko",
        "extra/b.ko.zst",
        "extra/c.ko",
        "updates/dkms/c.ko",
        "modules.dep",
        "kernel/readme.ko.txt",
        "kernel/vmlinux",
    )
    tree(tmp_path, "headers/kernel/linked.ko")
    (release / "build").symlink_to(tmp_path / "headers")
    index = ModuleIndex([release])
    assert [path.parent.name for path in index.named("b")] == ["extra", "drivers", "weak-updates"]
    assert index.named("none") == ()
    assert {path.name for path in index.unclaimed({"b", "c"})} == {"w.ko"}
    assert index.first == {
        "a_net": release / "kernel/drivers/net/a-net.ko.xz",
        "b": release / "extra/b.ko.zst",
        "c": release / "updates/dkms/c.ko",
        "w": release / "weak-updates/w.ko",
    }


def test_links_are_entered_once_and_no_loop_is_followed(tmp_path: Path) -> None:
    release = tree(tmp_path / "6.12.0", "updates/u.ko")
    store = tree(tmp_path / "store", "drivers/a.ko", "drivers/deep/b.ko")
    (release / "kernel").symlink_to(store)
    (store / "drivers/deep/up").symlink_to(store)
    (release / "twice").symlink_to(store / "drivers")
    (release / "source").symlink_to(tree(tmp_path / "headers", "no.ko"))
    (release / "nowhere").symlink_to(tmp_path / "absent")
    assert set(ModuleIndex([release]).first) == {"a", "b", "u"}
    assert len(ModuleIndex([release]).named("a")) == 1


def test_folders_come_in_the_order_given(tmp_path: Path) -> None:
    first, second = tree(tmp_path / "one", "kernel/a.ko"), tree(tmp_path / "two", "updates/a.ko", "updates/b.ko")
    index = ModuleIndex([first, second])
    assert index.named("a") == (first / "kernel/a.ko", second / "updates/a.ko")
    assert index.first["b"] == second / "updates/b.ko"


def test_index_of_an_empty_folder_and_of_none(tmp_path: Path) -> None:
    assert ModuleIndex([tmp_path]).first == {}
    with pytest.raises(UserError, match="cannot read the modules folder") as caught:
        ModuleIndex([tmp_path / "absent"])
    assert "/lib/modules/" in caught.value.hint
