# SPDX-License-Identifier: GPL-2.0-or-later
"""The CD that Bochs boots: L1's kernel and initrd, with KVM, QEMU and the guest inside."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path

from tests.corpus.archive import Kernel, kernel
from tests.corpus.cache import built, cache_dir, digest, run, say

from . import guestimage
from .cpio import Node, file, packed, program
from .layers import HOST_SUITE, Stack, kvm
from .parts import busybox, module_tree, modules, script, stripped
from .roots import inside, machine
from .scenarios import Scenario

DISK_MODULES = ("scsi_common", "scsi_mod", "libata", "ata_piix", "sd_mod")
KVM_MODULES = ("irqbypass", "kvm", "kvm_intel")
FIRMWARE = ("seabios/bios-microvm.bin", "qemu/linuxboot_dma.bin", "qemu/pvh.bin", "qemu/kvmvapic.bin")
#: A guest that sees VMX switches it on, and is then refused by the host.
GUEST_MACHINE = "/usr/bin/qemu-system-x86_64 -M microvm,accel=kvm,pit=off,pic=off,rtc=on -cpu host,-vmx"
#: Bochs runs 300 M instructions per second of its own clock: without the hint L1 believes in 3.5 GHz.
CMDLINE = "console=ttyS0,115200 nokaslr mitigations=off tsc=reliable tsc_early_khz=300000 quiet"
GRUB = f"""set timeout=0
serial --unit=0 --speed=115200
terminal_output serial
menuentry lab {{ linux /boot/vmlinuz {CMDLINE} ; initrd /boot/initrd }}
"""


def boot_cd(stack: Stack, scenarios: Iterable[Scenario]) -> Path:
    """The CD's image. Older ones of the same stack go away."""
    of = kernel(HOST_SUITE)
    initrd = packed(_tree(stack, of, list(scenarios)))
    key = digest(of.release, initrd, GRUB)
    cd = built(cache_dir() / f"lab-cd-{stack}-{key}", lambda scratch: _burn(of, initrd, scratch))
    for older in cd.parent.glob(f"lab-cd-{stack}-{'?' * len(key)}"):
        if older != cd:
            shutil.rmtree(older)
    return cd / "l1.iso"


def _tree(stack: Stack, of: Kernel, scenarios: list[Scenario]) -> dict[str, Node]:
    own = kvm(stack, of.release)
    names = (*DISK_MODULES, *KVM_MODULES) if stack.systemd else KVM_MODULES
    loaded = modules(of, names) | {name: stripped(path) for name, path in own.files.items()}
    return {
        **busybox(),
        **_qemu(),
        **module_tree(loaded, own.options),
        "init": script("host/init"),
        "lab/agent": script("host/agent"),
        "lab/queue": file("".join(f"{scenario.name}\n" for scenario in scenarios)),
        "lab/qemu": file(_start_guest(stack)),
        "lab/vmlinuz": file(stack.guest().image.read_bytes()),
        "run/initrd": file(guestimage.initrd(stack, scenarios)),
    }


def _start_guest(stack: Stack) -> str:
    disk = "/dev/sda" if stack.systemd else None
    console = "serial,path=/dev/ttyS2"
    command = guestimage.qemu_command(
        stack, GUEST_MACHINE, bus="device", folder="/run", console=console, kernel="/lab/vmlinuz", disk=disk
    )
    # The disk is found asynchronously.
    wait = f"until [ -b {disk} ]; do sleep 0.1; done\n" if disk else ""
    return f"{wait}exec {shlex.join(command)} </dev/null\n"


def _qemu() -> dict[str, Node]:
    """QEMU, the libraries that the loader would take, and the firmware of a microvm."""
    root = machine()
    listed = inside(root, "ldd /usr/bin/qemu-system-x86_64").split()
    paths = {word for word in listed if word.startswith("/")} | {"/usr/bin/qemu-system-x86_64"}
    tree = {path.lstrip("/"): program((root / path.lstrip("/")).read_bytes()) for path in sorted(paths)}
    for path in FIRMWARE:
        tree[f"usr/share/qemu/{Path(path).name}"] = file((root / "usr/share" / path).read_bytes())
    return tree


def _burn(of: Kernel, initrd: bytes, into: Path) -> None:
    say(f"boot CD: L1 {of.release}, initrd of {len(initrd) / 1e6:.0f} MB")
    work = machine() / "burn"
    shutil.rmtree(work, ignore_errors=True)
    (work / "boot/grub").mkdir(parents=True)
    try:
        shutil.copy(of.image, work / "boot/vmlinuz")
        (work / "boot/initrd").write_bytes(initrd)
        (work / "boot/grub/grub.cfg").write_text(GRUB)
        inside(machine(), "grub-mkrescue -o /l1.iso /burn 2>/dev/null")
        run(["mv", machine() / "l1.iso", into / "l1.iso"])
    finally:
        shutil.rmtree(work)
