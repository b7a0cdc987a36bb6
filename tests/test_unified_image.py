# SPDX-License-Identifier: GPL-2.0-or-later
"""The way out for a unified kernel image under Secure Boot (docs/RECOVERY.md): an add-on that was signed beforehand."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pefile  # type: ignore[import-untyped]
import pytest

from tests.corpus.archive import kernel, unpacked
from tests.corpus.boot import FIRMWARE
from tests.corpus.cache import run
from tests.lab.bootloader import LOADER, write_disk
from tests.lab.cpio import packed, program
from tests.lab.parts import busybox
from tests.test_secure_boot import OWNER, SUITE

pytestmark = pytest.mark.lab

STUBS = "usr/lib/systemd/boot/efi"
WORDS = "console=ttyS0,115200 panic=-1"
OFF = "mbecguard=off"
INIT = b"""#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t securityfs security /sys/kernel/security
echo told: cmdline $(cat /proc/cmdline) >/dev/ttyS1
echo told: lockdown $(cat /sys/kernel/security/lockdown) >/dev/ttyS1
poweroff -f
"""


def with_sections(stub: Path, sections: dict[str, Path], into: Path) -> None:
    """What `ukify build` does: a stub of systemd's with more sections behind its own."""
    image = pefile.PE(stub, fast_load=True)
    header = image.OPTIONAL_HEADER
    last = image.sections[-1]
    place = header.ImageBase + last.VirtualAddress + last.Misc_VirtualSize
    words: list[str | Path] = []
    for name, file in sections.items():
        place = -(-place // header.SectionAlignment) * header.SectionAlignment
        words += ["--add-section", f"{name}={file}", "--change-section-vma", f"{name}={place:#x}"]
        place += file.stat().st_size
    run(["objcopy", *words, stub, into])


def sign(file: Path, key: Path) -> None:
    """By the owner's key, as `ukify --secureboot-private-key` has it done; Debian's program with its libraries."""
    parts = unpacked(SUITE, "sbsigntool", "libssl3t64", "libuuid1", "libc6", "libzstd1", "zlib1g")
    loader = parts / "usr/lib64/ld-linux-x86-64.so.2"
    libraries = parts / "usr/lib/x86_64-linux-gnu"
    words: list[str | Path] = ["--key", key.with_suffix(".key"), "--cert", key, "--output", file, file]
    run([loader, "--library-path", libraries, parts / "usr/bin/sbsign", *words])


def told(folder: Path, *, signed: bool) -> dict[str, str]:
    """What a guest says that was started from a unified image, with the add-on beside it, signed or not."""
    key = folder / "owner.pem"
    subject: list[str | Path] = ["-subj", "/CN=owner", "-keyout", key.with_suffix(".key"), "-out", key]
    run(["openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", *subject])
    (folder / "initrd").write_bytes(packed({**busybox(), "init": program(INIT)}))
    for name, text in (("cmdline", WORDS), ("off", OFF), ("osrel", "ID=debian\nVERSION_ID=13\n")):
        (folder / name).write_text(text)
    stubs = unpacked(SUITE, "systemd-boot-efi") / STUBS
    image, addon = folder / "image.efi", folder / "off.addon.efi"
    parts = {".osrel": folder / "osrel", ".cmdline": folder / "cmdline", ".initrd": folder / "initrd"}
    with_sections(stubs / "linuxx64.efi.stub", {**parts, ".linux": kernel(SUITE).image}, image)
    with_sections(stubs / "addonx64.efi.stub", {".cmdline": folder / "off"}, addon)
    sign(image, key)
    if signed:
        sign(addon, key)
    tree = folder / "esp"
    for name, file in {LOADER: image, f"{LOADER}.extra.d/off.addon.efi": addon}.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tree / name)
    write_disk(folder / "esp.img", tree)
    return boot(folder, key)


def boot(folder: Path, key: Path) -> dict[str, str]:
    """Start the disk under Secure Boot with the owner's key in `db`, and nobody else's."""
    shutil.copy(FIRMWARE / "OVMF_VARS_4M.fd", folder / "vars.fd")
    owner: list[str | Path] = [OWNER, key]
    known = ["--set-pk", *owner, "--add-kek", *owner, "--add-db", *owner, "--sb"]
    run([Path(sys.executable).with_name("virt-fw-vars"), "--inplace", folder / "vars.fd", *known])
    machine = "-accel tcg -cpu Skylake-Client-v1,-cx16 -m 512 -M q35,smm=on -nodefaults -no-user-config -display none"
    machine += " -no-reboot -global driver=cfi.pflash01,property=secure,value=on"
    command: list[str | Path] = ["qemu-system-x86_64", *machine.split()]
    command += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={FIRMWARE / 'OVMF_CODE_4M.secboot.fd'}"]
    command += ["-drive", f"if=pflash,format=raw,unit=1,file={folder / 'vars.fd'}"]
    command += ["-drive", f"if=virtio,format=raw,file={folder / 'esp.img'}"]
    command += ["-serial", f"file:{folder / 'console'}", "-serial", f"file:{folder / 'told'}"]
    run(command, limit=240)
    return dict(re.findall(r"^told: (\S+) (.*?)\r?$", (folder / "told").read_text(), re.MULTILINE))


@pytest.mark.parametrize("signed", [True, False])
def test_an_add_on_that_the_owner_signed_switches_the_lock_off(tmp_path: Path, signed: bool) -> None:
    result = told(tmp_path, signed=signed)
    assert "[integrity]" in result["lockdown"]
    assert (WORDS in result["cmdline"], OFF in result["cmdline"].split()) == (True, signed)
