# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest's QEMU emulates around the processor: chip set, firmware, devices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tests.corpus.boot import firmware

from .cpio import Node, file

OVMF = "lab/ovmf"  #: of L1
VARS = f"{OVMF}/vars.fd"  #: UEFI's variables, which the guest writes


@dataclass(frozen=True, slots=True)
class Machine:
    """A choice of QEMU's options; the rest of a guest's is the same for all."""

    options: str  #: of -M
    bus: str  #: of its virtio devices
    files: tuple[str, ...] = ()  #: below /usr/share, what QEMU takes along by itself
    ovmf: str | None = None  #: UEFI: the kind of OVMF's code
    more: str = ""
    host_modules: tuple[str, ...] = ()  #: what L1 needs for its devices

    @property
    def words(self) -> str:
        """QEMU's options on L1."""
        return " ".join(filter(None, (f"-M {self.options},accel=kvm", *self._flash(), self.more)))

    def _flash(self) -> list[str]:
        if self.ovmf is None:
            return []
        parts = (f"unit=0,readonly=on,file=/{OVMF}/code{self.ovmf}.fd", f"unit=1,file=/{VARS}")
        return [f"-drive if=pflash,format=raw,{part}" for part in parts]

    def flash(self) -> dict[str, Node]:
        """OVMF's files on L1."""
        if self.ovmf is None:
            return {}
        parts = {f"{OVMF}/code{self.ovmf}.fd": firmware("CODE", self.ovmf), VARS: firmware("VARS")}
        return {path: file(Path(source).read_bytes()) for path, source in parts.items()}


MICROVM = Machine(
    "microvm,pit=off,pic=off,rtc=on",
    "device",
    ("seabios/bios-microvm.bin", "qemu/linuxboot_dma.bin", "qemu/pvh.bin", "qemu/kvmvapic.bin"),
)
#: What writes to a guest's memory past its processors: QEMU, and the host's kernel for it (vhost).
LADEN = replace(
    MICROVM,
    more="-device virtio-balloon-device"
    " -drive if=none,id=disk,file=/lab/vmlinuz,format=raw,readonly=on -device virtio-blk-device,drive=disk"
    " -netdev tap,id=net,ifname=tap0,script=no,downscript=no,vhost=on,vhostforce=on"
    " -device virtio-net-device,netdev=net",
    host_modules=("tun", "tap", "vhost_iotlb", "vhost", "vhost_net"),
)
_Q35_FILES = ("seabios/bios-256k.bin", "qemu/linuxboot_dma.bin", "qemu/kvmvapic.bin")
#: SeaBIOS moves SMRAM of the first processor behind the VGA's window, and leaves it unlocked. S3 is not offered.
BIOS = Machine(
    "q35",
    "pci",
    (*_Q35_FILES, "seabios/vgabios-stdvga.bin"),
    more="-device VGA -global ICH9-LPC.disable_s3=1",
)
#: What a microvm has not: memory and processors that are plugged in, a balloon, memory behind a PCI device, S3.
UEFI = Machine(
    "q35",
    "pci",
    _Q35_FILES,
    ovmf="",
    # The guest knows the other devices of virtio by their number.
    more="-m slots=2,maxmem=4G -smp maxcpus=3 -device virtio-balloon-pci,addr=0x1e"
    " -object memory-backend-ram,id=shared,size=1M -device ivshmem-plain,memdev=shared",
)
#: SMRAM is the firmware's, and locked.
SECURE = Machine(
    "q35",
    "pci",
    _Q35_FILES,
    ovmf=".secboot",
    more="-smp maxcpus=3 -global driver=cfi.pflash01,property=secure,value=on",
)
