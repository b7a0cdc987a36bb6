# SPDX-License-Identifier: GPL-2.0-or-later
"""The CD that Bochs boots: L1's kernel and initrd, with KVM, QEMU and the guest inside."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tests.corpus.archive import Kernel
from tests.corpus.cache import built, cache_dir, digest, run, say

from . import guestimage, liar, testmodule
from .cpio import Node, file, packed, program
from .layers import BOCHS_QUIRKS, Host, Kvm, Stack, kvm
from .machines import Machine
from .parts import busybox, module_tree, modules, script, stripped
from .roots import inside, machine
from .scenarios import Scenario, Setting, by_setting

#: By the controllers of Bochs and of QEMU's q35.
DISK_MODULES = ("scsi_common", "scsi_mod", "libata", "ata_piix", "libahci", "ahci", "sd_mod")
UNUSED = 86400.0  #: seconds that a CD is kept after it was used last
HUGE_PAGES = "/hugepages"
RESERVE = f"""echo {{pages}} >/proc/sys/vm/nr_hugepages
mkdir {HUGE_PAGES} && mount -t hugetlbfs none {HUGE_PAGES}
"""
#: Bochs runs 300 M instructions per second of its own clock: without the hint L1 believes in 3.5 GHz.
CMDLINE = "console=ttyS0,115200 nokaslr mitigations=off tsc=reliable tsc_early_khz=300000 quiet"
GRUB = f"""set timeout=0
serial --unit=0 --speed=115200
terminal_output serial
menuentry lab {{ linux /boot/vmlinuz {CMDLINE} %s ; initrd /boot/initrd }}
"""


def boot_cd(stack: Stack, scenarios: Iterable[Scenario]) -> Path:
    """The CD's image."""
    of = stack.host_package()
    initrd = packed(_tree(stack, of, list(scenarios)))
    key = digest(of.image.read_bytes(), initrd, GRUB % stack.host_cmdline)
    cd = built(cache_dir() / f"lab-cd-{stack}-{key}", lambda scratch: burn(of, initrd, scratch, stack.host_cmdline))
    os.utime(cd)
    _forget_unused(cd.parent)
    return cd / "l1.iso"


def _forget_unused(folder: Path) -> None:
    """A CD that was not asked for lately: not one that another run still waits to boot."""
    for cd in folder.glob("lab-cd-*"):
        if cd.stat().st_mtime < time.time() - UNUSED:
            shutil.rmtree(cd)


def initrd(stack: Stack, scenarios: Iterable[Scenario]) -> tuple[Path, bytes]:
    """L1's kernel and initrd, for a machine that loads them itself."""
    of = stack.host_package()
    return of.image, packed(_tree(stack, of, list(scenarios)))


def _tree(stack: Stack, of: Kernel, scenarios: list[Scenario]) -> dict[str, Node]:
    own = kvm(stack, of.release)
    devices = {name: None for row in scenarios for name in row.setting.machine.host_modules}
    early = modules(of, (*(DISK_MODULES if stack.systemd else ()), "irqbypass", *devices))
    shipped = modules(of, ("kvm", own.vendor))
    of_kvm = shipped | {name: stripped(path) for name, path in own.files.items()}
    of_kvm |= {f"stock/{name}": data for name, data in shipped.items() if any(row.setting.stock for row in scenarios)}
    if any(row.setting.liar for row in scenarios):
        of_kvm |= {f"liar/{name}": data for name, data in liar.modules(stack).items()}
    return {
        **busybox(),
        **_qemu({row.setting.machine for row in scenarios}),
        **module_tree(early | of_kvm, early),
        "init": script("host/init"),
        "lab/agent": script("host/agent"),
        "lab/map-digest": script("host/map-digest"),
        "lab/stir": script("host/stir"),
        "lab/tempest": program((testmodule.products(stack) / "tempest").read_bytes()),
        "lab/silence": file(f"{stack.silence}\n"),
        **guests(stack, scenarios, own),
        "lab/vmlinuz": file(stack.guest().image.read_bytes()),
        "run/initrd": file(guestimage.initrd(stack, scenarios)),
    }


def guests(stack: Stack, scenarios: list[Scenario], own: Kvm) -> dict[str, Node]:
    """One folder for each guest that L1 starts, by number: the KVM it needs, its scenarios, its QEMU."""
    tree: dict[str, Node] = {}
    for number, (setting, rows) in enumerate(by_setting(scenarios).items()):
        tree |= {
            f"lab/guests/{number:02}/modules": file(_load(setting, own)),
            f"lab/guests/{number:02}/queue": file("".join(f"{row.name}\n" for row in rows)),
            f"lab/guests/{number:02}/qemu": file(_start_guest(stack, setting)),
        }
    return tree


def _load(setting: Setting, own: Kvm) -> str:
    if setting.stock:
        return f"stock/kvm {setting.kvm}\nstock/kvm_intel {BOCHS_QUIRKS} {setting.kvm_intel}\n"
    options, folder = {"kvm": setting.kvm, "kvm_intel": setting.kvm_intel}, "liar/" * setting.liar
    names = ("kvm", own.vendor)
    return "".join(f"{folder}{name} {own.options.get(name, '')} {options.get(name, '')}\n" for name in names)


def _start_guest(stack: Stack, setting: Setting) -> str:
    disk = "/dev/sda" if stack.systemd else None
    stack = replace(stack, memory_mib=setting.memory_mib or stack.memory_mib)
    command = guestimage.qemu_command(
        stack,
        guestimage.on_kvm(setting, _cpu(stack, setting)),
        guestimage.direct("/lab/vmlinuz", "/run/initrd", guestimage.cmdline(stack, setting.cmdline)),
        bus=setting.machine.bus,
        folder="/run",
        console="serial,path=/dev/ttyS2",
        disk=disk,
    )
    if setting.hugetlb:
        command += ["-mem-path", HUGE_PAGES, "-mem-prealloc"]
    # The disk is found asynchronously.
    wait = f"until [ -b {disk} ]; do sleep 0.1; done\n" if disk else ""
    wait += RESERVE.format(pages=stack.mib >> 1) if setting.hugetlb else ""
    return f'{wait}exec {shlex.join(command)} "$@" </dev/null\n'


def _cpu(stack: Stack, setting: Setting) -> str:
    return setting.cpu.replace("-vmx", "-svm") if stack.host is Host.UNENFORCED else setting.cpu


def _qemu(machines: Iterable[Machine]) -> dict[str, Node]:
    """QEMU, the libraries that the loader would take, and the firmware of the machines."""
    root = machine()
    paths = {word for word in inside(root, f"ldd {guestimage.QEMU}").split() if word.startswith("/")}
    paths |= {guestimage.QEMU}
    tree = {path.lstrip("/"): program((root / path.lstrip("/")).read_bytes()) for path in sorted(paths)}
    for of in machines:
        tree |= of.flash()
        for path in of.files:
            tree[f"usr/share/qemu/{Path(path).name}"] = file((root / "usr/share" / path).read_bytes())
    return tree


def burn(of: Kernel, initrd: bytes, into: Path, words: str = "") -> None:
    """`l1.iso`, in a folder; `words` for the kernel beside `CMDLINE`."""
    say(f"boot CD: L1 {of.release}, initrd of {len(initrd) / 1e6:.0f} MB")
    work = machine() / "burn"
    shutil.rmtree(work, ignore_errors=True)
    (work / "boot/grub").mkdir(parents=True)
    try:
        shutil.copy(of.image, work / "boot/vmlinuz")
        (work / "boot/initrd").write_bytes(initrd)
        (work / "boot/grub/grub.cfg").write_text(GRUB % words)
        inside(machine(), "grub-mkrescue -o /l1.iso /burn 2>/dev/null")
        run(["mv", machine() / "l1.iso", into / "l1.iso"])
    finally:
        shutil.rmtree(work)
