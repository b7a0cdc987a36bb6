# SPDX-License-Identifier: GPL-2.0-or-later
"""The stored guests are whole, small, and what the oracle saw."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from tests import corpus
from tests.corpus.archive import name_of, newest_kernel
from tests.corpus.guests import GUESTS
from tests.corpus.oracle import PAGE
from tests.corpus.store import thinned


@pytest.fixture(scope="module", params=corpus.names())
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus.unpack(request.param, tmp_path_factory.mktemp("guest"))


def content(folder: Path, path: str) -> bytes:
    packed = folder / f"{path}.xz"
    return lzma.decompress(packed.read_bytes()) if packed.exists() else (folder / path).read_bytes()


@pytest.mark.parametrize(
    ("names", "release"),
    [
        (["linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-50-cloud-amd64"], "6.1.0-50-cloud-amd64"),
        (["linux-image-6.12.107+deb13-cloud-amd64", "linux-image-6.12.9+deb13-cloud-amd64-unsigned"],
         "6.12.107+deb13-cloud-amd64"),
        (["linux-binary-7.2.12+deb14-cloud-amd64", "linux-image-6.19.14+deb14-cloud-amd64"],
         "7.2.12+deb14-cloud-amd64"),
        (["linux-binary-7.10.1+deb14-cloud-amd64", "linux-binary-7.9.30+deb14-cloud-amd64"],
         "7.10.1+deb14-cloud-amd64"),
        (["linux-image-cloud-amd64", "linux-image-7.2.1+deb14-amd64", "linux-image-7.2.1-cloud-amd64-dbg",
          "linux-image-7.2.1-rt-amd64", "linux-modules-7.2.1-cloud-amd64"], None),
    ],
)  # fmt: skip
def test_the_newest_cloud_kernel_is_found_by_name(names: list[str], release: str | None) -> None:
    newest = newest_kernel(names)
    assert (newest[1] if newest else None) == release


def test_thinning_keeps_owners_and_special_symbols() -> None:
    plain = [f"ffffffff8100{n:04x} t f{n}" for n in range(64)]
    kept = ["ffffffff81000000 T _text", "ffffffff83000000 D efi_mm", "ffffffffc0000000 d x\t[xfs]"]
    data = ["ffffffff82000000 D jiffies", "ffffffff82000008 r table"]
    lines = thinned("".join(line + "\n" for line in [*kept, *plain, *data]).encode()).decode().splitlines()
    assert set(kept) <= set(lines)
    assert not set(data) & set(lines)
    assert len(lines) == len(kept) + len(plain) // 16


def test_module_names_use_underscores() -> None:
    assert name_of("kernel/net/9p/9pnet-virtio.ko.xz") == "9pnet_virtio"


def test_every_guest_of_the_table_is_stored() -> None:
    assert corpus.names() == sorted(guest.name for guest in GUESTS)


def test_the_checkout_stays_small() -> None:
    sizes = {
        name: sum(path.stat().st_size for path in (corpus.STORED / name).rglob("*") if path.is_file())
        for name in corpus.names()
    }
    assert max(sizes.values()) < 1_500_000
    assert sum(sizes.values()) < 8_000_000


def test_kernel_text_lies_where_iomem_says(folder: Path) -> None:
    symbols = {line.split()[2]: line.split()[0] for line in content(folder, "proc/kallsyms").decode().splitlines()}
    row = next(row for row in content(folder, "proc/iomem").decode().splitlines() if "Kernel code" in row)
    start, end = (int(word, 16) for word in row.split()[0].split("-"))
    text = int(symbols["_text"], 16)
    leaves = [leaf for leaf in corpus.witness(folder.name)["tables"]["init_mm"] if leaf["va"] >= text]
    kernel = [leaf for leaf in leaves if leaf["va"] < int(symbols["_etext"], 16)]
    assert {leaf["va"] - leaf["pa"] for leaf in kernel} == {text - start}
    assert sum(leaf["bytes"] for leaf in kernel) == (end - start) // PAGE * PAGE + PAGE


def test_every_loaded_module_has_its_skeleton(folder: Path) -> None:
    files = {path.name.split(".")[0].replace("-", "_"): path for path in (folder / "lib").rglob("*.ko.xz")}
    modules = [line.split() for line in content(folder, "proc/modules").decode().splitlines()]
    assert len(modules) > 60
    assert {row[4] for row in modules} == {"Live"}
    assert files.keys() == {row[0] for row in modules}
    for name, path in files.items():
        note = (folder / "sys/module" / name / "notes/.note.gnu.build-id").read_bytes()
        assert note in lzma.decompress(path.read_bytes()), name


def test_the_image_is_the_running_kernel(folder: Path) -> None:
    assert (folder / "sys/kernel/notes").read_bytes()[-20:] in (folder / "boot/vmlinuz").read_bytes()
