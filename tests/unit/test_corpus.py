# SPDX-License-Identifier: GPL-2.0-or-later
"""The stored guests are whole, small, and what the oracle saw."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from tests import corpus
from tests.corpus.guests import GUESTS
from tests.corpus.oracle import PAGE, differences


@pytest.fixture(scope="module", params=corpus.names())
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus.unpack(request.param, tmp_path_factory.mktemp("guest"))


def content(folder: Path, path: str) -> bytes:
    packed = folder / f"{path}.xz"
    return lzma.decompress(packed.read_bytes()) if packed.exists() else (folder / path).read_bytes()


def test_every_guest_of_the_table_is_stored() -> None:
    assert corpus.names() == sorted(guest.name for guest in GUESTS)


def test_the_checkout_stays_small() -> None:
    sizes = {
        name: sum(path.stat().st_size for path in (corpus.STORED / name).rglob("*") if path.is_file())
        for name in corpus.names()
    }
    assert max(sizes.values()) < 1_500_000
    assert sum(sizes.values()) < 8_000_000


def test_the_recording_is_what_the_oracle_saw(folder: Path) -> None:
    witness = corpus.witness(folder.name)
    recorded = json.loads(content(folder, "execmap.json"))
    assert differences(witness["tables"], recorded["mappings"]) == set()
    assert len(witness["tables"]["init_mm"]) > 500
    assert bool(witness["tables"]["efi_mm"]) == corpus.about(folder.name)["uefi"]


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
