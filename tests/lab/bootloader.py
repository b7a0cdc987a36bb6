# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that UEFI and systemd-boot start from a disk of their own, with boot counting."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.corpus.boot import firmware
from tests.corpus.cache import run

ENTRY = "loader/entries/lab+2.conf"  #: may fail twice (Boot Loader Specification, boot counting)
MIB = 160
START = 1 << 20  #: of the partition, in bytes


def loaded(loader: Path, kernel: Path, work: Path, words: str) -> list[str]:
    """QEMU's options; disk and UEFI's variables are made in `work`, beside the initrd, and written by the guest."""
    entry = f"title lab\nlinux /linux\ninitrd /initrd\noptions {words}\n"
    files = {"EFI/BOOT/BOOTX64.EFI": loader.read_bytes(), ENTRY: entry.encode()}
    files |= {"loader/loader.conf": b"timeout 0\n"}
    files |= {"linux": kernel.read_bytes(), "initrd": (work / "initrd").read_bytes()}
    make_disk(work / "esp.img", files)
    shutil.copy(firmware("VARS"), work / "vars.fd")
    options = [f"if=pflash,unit=0,readonly=on,file={firmware('CODE')}", f"if=pflash,unit=1,file={work}/vars.fd"]
    options += [f"if=none,id=esp,file={work}/esp.img"]
    drives = [word for option in options for word in ("-drive", f"format=raw,{option}")]
    return [*drives, "-device", "virtio-blk-pci,drive=esp,addr=0x1e"]  # behind the root disk


def make_disk(path: Path, files: dict[str, bytes]) -> None:
    """A GPT with one partition, an EFI system partition with these files."""
    with path.open("wb") as image:
        image.truncate(MIB << 20)
    run(["/sbin/sfdisk", "--quiet", path], given=f"label: gpt\nstart={START // 512}, type=U\n")
    drive: list[str | Path] = ["-i", f"{path}@@{START}"]
    run(["mformat", *drive, "-F", "-T", str(((MIB << 20) - 2 * START) // 512), "::"])
    tree = path.parent / "esp"
    for name, data in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)
    run(["mcopy", *drive, "-s", *sorted(tree.iterdir()), "::"])
    shutil.rmtree(tree)
