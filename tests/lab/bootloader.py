# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that UEFI and systemd-boot start from a disk of their own, with boot counting."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.corpus.boot import firmware
from tests.corpus.cache import run

ENTRY = "lab+2"  #: may fail twice (Boot Loader Specification, boot counting)
LOADER = "EFI/BOOT/BOOTX64.EFI"  #: what UEFI starts
MIB = 160
START = 1 << 20  #: of the partition, in bytes


def loaded(loader: Path, kernel: Path, work: Path, words: str) -> list[str]:
    """QEMU's options; disk and UEFI's variables are made in `work`, beside the initrd, and written by the guest."""
    make_disk(work / "esp.img", {LOADER: loader}, ENTRY, kernel, work / "initrd", words)
    shutil.copy(firmware("VARS"), work / "vars.fd")
    options = [f"if=pflash,unit=0,readonly=on,file={firmware('CODE')}", f"if=pflash,unit=1,file={work}/vars.fd"]
    options += [f"if=none,id=esp,file={work}/esp.img"]
    drives = [word for option in options for word in ("-drive", f"format=raw,{option}")]
    return [*drives, "-device", "virtio-blk-pci,drive=esp,addr=0x1e"]  # behind the root disk


def make_disk(path: Path, loaders: dict[str, Path], entry: str, kernel: Path, initrd: Path, words: str) -> None:
    """A GPT with one partition, an EFI system partition: boot loaders, and what systemd-boot starts by its entry."""
    tree = path.parent / "esp"
    for name, file in {**loaders, "linux": kernel, "initrd": initrd}.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tree / name)
    (tree / "loader/entries").mkdir(parents=True)
    (tree / "loader/loader.conf").write_text("timeout 0\n")
    (tree / f"loader/entries/{entry}.conf").write_text(f"title lab\nlinux /linux\ninitrd /initrd\noptions {words}\n")
    write_disk(path, tree)
    shutil.rmtree(tree)


def write_disk(path: Path, tree: Path) -> None:
    """A GPT with one EFI system partition that holds the files of a folder."""
    with path.open("wb") as image:
        image.truncate(MIB << 20)
    run(["/sbin/sfdisk", "--quiet", path], given=f"label: gpt\nstart={START // 512}, type=U\n")
    drive: list[str | Path] = ["-i", f"{path}@@{START}"]
    run(["mformat", *drive, "-F", "-T", str(((MIB << 20) - 2 * START) // 512), "::"])
    run(["mcopy", *drive, "-s", *sorted(tree.iterdir()), "::"])
