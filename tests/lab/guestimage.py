# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest: its initrd, its disk, and the QEMU that runs it, on L1 or on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.corpus.roots import root_image

from . import installed, product
from .cpio import Node, file, packed, program
from .layers import SPARSE_MIB, Stack, Userland
from .parts import HERE, busybox, module_tree, modules, script
from .scenarios import Scenario, Setting
from .testmodule import products

QEMU = "/usr/bin/qemu-system-x86_64"
MODULES = (
    *("virtio", "virtio_ring", "virtio_mmio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci"),
    *("virtio_blk", "virtio_console"),
)
#: An emulated UART costs an exit for each character, 25 s for one oops: it serves until there is virtio's console.
CMDLINE = (
    "earlycon=uart8250,io,0x3f8 console=hvc0 reboot=t panic=-1 oops=panic loglevel=5 lpj=1000000 systemd.show_status=0"
)


def disk(stack: Stack) -> Path | None:
    """The root file system of a systemd guest, an ext4 image that is never written."""
    if stack.userland is Userland.INSTALLED:
        return installed.image(stack.guest())
    return root_image(stack.guest()) / "root.img" if stack.systemd else None


def helpers(folder: Path = HERE / "helpers") -> dict[str, Node]:
    """Programs of scenarios; what Python leaves beside them (__pycache__) is none."""
    return {f"lab/helpers/{path.name}": program(path.read_bytes()) for path in sorted(folder.glob("*.py"))}


def initrd(stack: Stack, scenarios: Iterable[Scenario]) -> bytes:
    """busybox, the test module, the scenarios; for a systemd guest they move to its root."""
    tools = products(stack)
    loaded = modules(stack.guest(), MODULES)
    tree = busybox() | module_tree(loaded, loaded)
    tree |= {
        "init": script("guest/init"),
        "lab/runner": script("guest/runner"),
        "lab/words": script("guest/words"),
        "lab/mbectest.ko": file((tools / "mbectest.ko").read_bytes()),
        "lab/bin/usertool": program((tools / "usertool").read_bytes()),
    }
    if stack.systemd:
        tree["lab/lab.service"] = file((HERE / "guest/lab.service").read_bytes())
        tree |= helpers()
    if stack.userland is Userland.SYSTEMD:
        tree |= product.tree(stack)
    elif stack.userland is Userland.INSTALLED:
        tree |= {f"lab/{name}": script(f"guest/{name}") for name in ("product", "service")}
    return packed(tree | {f"lab/scenarios/{row.name}": file(row.text) for row in scenarios})


def cmdline(stack: Stack, more: str = "") -> str:
    """What the guest's kernel is told."""
    return CMDLINE + f" {more}" * bool(more) + f" mem={SPARSE_MIB}M" * stack.sparse


def on_kvm(setting: Setting, cpu: str) -> str:
    """QEMU with machine and processor for a guest of KVM, on L1 or on a machine that is like it."""
    smm = "on" if setting.smm else "off"
    return f"{QEMU} {setting.machine.words} -machine smm={smm} -cpu {cpu}"


def direct(kernel: str, initrd: str, words: str) -> list[str]:
    """QEMU's options for a guest whose kernel it starts itself."""
    return ["-kernel", kernel, "-initrd", initrd, "-append", words]


def qemu_command(
    stack: Stack, machine: str, boot: list[str], *, bus: str, folder: str, console: str, disk: str | None
) -> list[str]:
    """QEMU for the guest, with the options `boot`: in `folder` are guest.* (pipe, pid) and monitor.* (its monitor)."""
    words = f"{machine} -smp {stack.cpus} -m {stack.mib} -nodefaults -no-user-config -display none -monitor none"
    words += f" -device virtio-serial-{bus},max_ports=2"
    words += f" -chardev {console},id=console,mux=on -serial chardev:console -device virtconsole,chardev=console"
    words += f" -chardev pipe,id=lab,path={folder}/guest -device virtserialport,chardev=lab,nr=1,name=lab"
    words += f" -chardev pipe,id=monitor,path={folder}/monitor -mon chardev=monitor"
    words += f" -pidfile {folder}/guest.pid"
    if disk:
        words += f" -drive id=root,file={disk},format=raw,if=none,snapshot=on -device virtio-blk-{bus},drive=root"
    return [*words.split(), *boot]
