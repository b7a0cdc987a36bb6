# SPDX-License-Identifier: GPL-2.0-or-later
"""The shim in guests with Secure Boot: DKMS signs it, and the stock kernel takes it, if the owner's key is known.

Known to the firmware (OVMF), with Debian's key, in `db`; or to Debian's shim-signed, as a machine owner's key (MOK).
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from mbecguard import __version__
from tests.corpus.archive import kernel, unpacked
from tests.corpus.boot import FIRMWARE
from tests.corpus.cache import run
from tests.corpus.skeleton import decompressed
from tests.lab.bootloader import LOADER, make_disk
from tests.lab.cpio import file, packed, program
from tests.lab.guestimage import direct
from tests.lab.locks import alone
from tests.lab.parts import busybox
from tests.packages import LIMIT, build, steps_in, suite_root

pytestmark = pytest.mark.lab

SUITE = "trixie"
CMDLINE = "console=ttyS0,115200 panic=-1"
OWNER = "6d1b3a52-2d6a-4f0e-8f8c-0d6f3c1f2a11"
SIGNATURE = b"~Module signature appended~\n"
REFUSED = 129  #: EKEYREJECTED

#: /out gets the module as DKMS installed it, the public half of DKMS's key, and the module with a stranger's signature.
SIGN = f"""
must install dpkg -i /packages/mbecguard-shim-dkms_{__version__}_all.deb
cp /var/lib/dkms/mok.pub /lib/modules/*/updates/dkms/mbecguard_shim.ko.xz /out
xz -dc /out/mbecguard_shim.ko.xz >/tmp/shim.ko
openssl req -new -x509 -newkey rsa:2048 -nodes -subj /CN=stranger -keyout /tmp/key -outform DER -out /tmp/cert
/usr/lib/linux-kbuild-*/scripts/sign-file sha256 /tmp/key /tmp/cert /tmp/shim.ko /out/stranger.ko
"""
INIT = b"""#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t securityfs security /sys/kernel/security
for module in unsigned stranger owner; do
    insmod /$module.ko
    echo told: $module $? >/dev/ttyS1
    rmmod mbecguard_shim
done
echo told: lockdown $(cat /sys/kernel/security/lockdown) >/dev/ttyS1
poweroff -f
"""


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with mok.pub, owner.ko, stranger.ko and unsigned.ko."""
    folder = tmp_path_factory.mktemp("signed")
    with alone(f"packages-{SUITE}", LIMIT):
        package = next(path for path in build("debs", folder / "debs") if path.name.startswith("mbecguard-shim-dkms"))
        out = steps_in(suite_root(SUITE), [package], SIGN)
    owner = decompressed((out / "mbecguard_shim.ko.xz").read_bytes())
    for name in ("mok.pub", "stranger.ko"):
        shutil.copy(out / name, folder)
    (folder / "owner.ko").write_bytes(owner)
    (folder / "unsigned.ko").write_bytes(unsigned(owner))
    return folder


def unsigned(module: bytes) -> bytes:
    """Without what follows the ELF file: the signature, struct module_signature (its length comes last), the magic."""
    assert module.endswith(SIGNATURE)
    rest = module.removesuffix(SIGNATURE)
    return rest[: -12 - int.from_bytes(rest[-4:], "big")]


def in_db(key: Path) -> list[str | Path]:
    """Secure Boot with Debian's key and the owner's."""
    owner: list[str | Path] = [OWNER, key]
    return ["--set-pk", *owner, "--add-kek", *owner, "--add-db", *owner, "--distro-keys", "debian", "--sb"]


def told(signed: Path, folder: Path, variables: list[str | Path], *, by_shim: bool = False) -> dict[str, str]:
    """What the guest says of each module, and of its lockdown; `variables`: what is changed in the firmware's."""
    modules = {f"{name}.ko": file((signed / f"{name}.ko").read_bytes()) for name in ("unsigned", "stranger", "owner")}
    initrd = folder / "initrd"
    initrd.write_bytes(packed({**busybox(), "init": program(INIT), **modules}))
    store = folder / "vars.fd"
    shutil.copy(FIRMWARE / "OVMF_VARS_4M.fd", store)
    if variables:
        run([Path(sys.executable).with_name("virt-fw-vars"), "--inplace", store, *variables])
    machine = "-accel tcg -cpu Skylake-Client-v1,-cx16 -m 512 -M q35,smm=on -nodefaults -no-user-config -display none"
    machine += " -no-reboot -global driver=cfi.pflash01,property=secure,value=on"
    command: list[str | Path] = ["qemu-system-x86_64", *machine.split()]
    command += from_disk(folder) if by_shim else direct(str(kernel(SUITE).image), str(initrd), CMDLINE)
    command += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={FIRMWARE / 'OVMF_CODE_4M.secboot.fd'}"]
    command += ["-drive", f"if=pflash,format=raw,unit=1,file={store}"]
    command += ["-serial", f"file:{folder / 'console'}", "-serial", f"file:{folder / 'told'}"]
    run(command, limit=240)
    # The firmware writes to all ports.
    return dict(re.findall(r"^told: (\S+) (.*?)\r?$", (folder / "told").read_text(), re.MULTILINE))


def from_disk(folder: Path) -> list[str]:
    """A disk with Debian's shim, which starts systemd-boot, which starts the kernel: each signed."""
    parts = unpacked(SUITE, "shim-signed", "systemd-boot-efi-amd64-signed")
    loaders = {
        LOADER: parts / "usr/lib/shim/shimx64.efi.signed",
        "EFI/BOOT/grubx64.efi": parts / "usr/lib/systemd/boot/efi/systemd-bootx64.efi.signed",
    }
    make_disk(folder / "esp.img", loaders, "stock", kernel(SUITE).image, folder / "initrd", CMDLINE)
    return ["-drive", f"if=virtio,format=raw,file={folder / 'esp.img'}"]


def test_the_owners_signature_alone_is_taken(signed: Path, tmp_path: Path) -> None:
    result = told(signed, tmp_path, in_db(signed / "mok.pub"))
    assert "secureboot: Secure boot enabled" in (tmp_path / "console").read_text()
    assert "[integrity]" in result.pop("lockdown")
    assert result == {"unsigned": str(REFUSED), "stranger": str(REFUSED), "owner": "0"}


def test_without_secure_boot_each_loads(signed: Path, tmp_path: Path) -> None:
    result = told(signed, tmp_path, [])
    assert "[none]" in result.pop("lockdown")
    assert result == {"unsigned": "0", "stranger": "0", "owner": "0"}


@pytest.mark.parametrize(("enrolled", "answer"), [(True, "0"), (False, str(REFUSED))])
def test_a_machine_owners_key_is_taken_from_shim(signed: Path, tmp_path: Path, enrolled: bool, answer: str) -> None:
    """As on a machine that Debian's installer set up: Microsoft's keys in the firmware, the owner's enrolled or not."""
    mok: list[str | Path] = ["--add-mok", OWNER, signed / "mok.pub"] if enrolled else []
    words: list[str | Path] = ["--enroll-redhat", "--microsoft-db", "all", *mok, "--sb"]
    result = told(signed, tmp_path, words, by_shim=True)
    assert "[integrity]" in result.pop("lockdown")
    assert result == {"unsigned": str(REFUSED), "stranger": str(REFUSED), "owner": answer}
