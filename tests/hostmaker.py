# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts as folders of files, for `mbecguard-host check --root`."""

from __future__ import annotations

import lzma
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mbecguard.readiness.kvm import MODULES
from mbecguard.readiness.source import Source
from mbecguard.witness.look import witness
from mbecguard.witness.metrics import metrics

RELEASE = "6.12.107+deb13-amd64"
KVM, INTEL = "sys/module/kvm", "sys/module/kvm_intel/parameters"
DEBUG = "sys/kernel/debug/kvm"
CPUINFO = """processor\t: {number}
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz
flags\t\t: fpu vme de pse msr sse2 ht lm vmx smep smap
vmx flags\t: vnmi preemption_timer ept_x_only ept_ad ept_1gb tsc_offset vtpr mtf vapic ept vpid ept_mode_based_exec
bugs\t\t: spectre_v1 spectre_v2
power management:

"""
CERTIFICATE = b"\x30\x82\x03\x01 a certificate \0\xff"
EFI = "sys/firmware/efi/efivars"
SECURE_BOOT = {f"{EFI}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": b"\6\0\0\0\1"}
ENROLLED = {f"{EFI}/MokListRT-605dab50-e046-4300-abb6-3dd810dd8b23": b"\7\0\0\0 head " + CERTIFICATE + b" tail"}

#: A machine that can be sealed.
FIT = (
    "qemu-system-x86_64 -name guest=web1,debug-threads=on -accel kvm -M q35,smm=off -cpu host,-vmx "
    "-global ICH9-LPC.disable_s3=1"
)

LIMIT = 1 << 27  #: page frames of its guests
#: What it says of a machine that is sealed.
SEALED = f"""mode 1
generation 3735928562
pinned 10000 300000
granted 0
refused 3
boundaries 4
restricted 1
sealed 1
range 0 1000 9
range 1000 1a00 13
range 1a00 {LIMIT:x} 9
violations 18
violation vcpu 0 gpa 2345678 va ffffffffc0401000 error 10
violation vcpu 3 gpa 2346000 va ffff888002346000 error 10
"""

READY: dict[str, str | bytes] = {
    "proc/cpuinfo": "".join(CPUINFO.format(number=number) for number in range(2)),
    "proc/cmdline": "BOOT_IMAGE=/boot/vmlinuz root=/dev/sda1 ro quiet\n",
    "proc/sys/kernel/osrelease": f"{RELEASE}\n",
    "dev/cpu/0/msr": "0x48b 0x7fffff00000000\n0x48c 0xf0106f34141\n",
    f"boot/vmlinuz-{RELEASE}": "",
    f"{KVM}/initstate": "live\n",
    f"{KVM}/parameters/mbecguard": "enforce\n",
    **{f"{INTEL}/{name}": "Y\n" for name in ("mbec", "ept", "eptad", "nested")},
    "usr/src/mbecguard-kvm-1/dkms.conf": "",
    **{f"lib/modules/{RELEASE}/updates/dkms/{name}.ko.xz": lzma.compress(b"") for name in sorted(MODULES)},
    "etc/modprobe.d/mbecguard.conf": "options kvm mbecguard=enforce\n",
    "var/lib/dkms/mok.pub": CERTIFICATE,
    "sys/module/module/parameters/sig_enforce": "N\n",
    "sys/kernel/debug/kvm/pf_taken": "0\n",
}


@dataclass(frozen=True)
class Host:
    """A host that is ready, and what is otherwise."""

    files: Mapping[str, str | bytes] = field(default_factory=lambda: READY)

    def having(self, files: Mapping[str, str | bytes]) -> Host:
        """With these files."""
        return replace(self, files={**self.files, **files})

    def lacking(self, *paths: str) -> Host:
        """Without these files and folders."""
        kept = {
            name: text for name, text in self.files.items() if not any((name + "/").startswith(f"{p}/") for p in paths)
        }
        return replace(self, files=kept)

    def swapped(self, path: str, old: str, new: str) -> Host:
        """With a file in which something else stands."""
        text = str(self.files[path])
        assert old in text
        return self.having({path: text.replace(old, new)})

    def stock(self) -> Host:
        """With the KVM of Debian loaded."""
        return self.lacking(f"{KVM}/parameters/mbecguard", f"{INTEL}/mbec").having({f"{KVM}/parameters/x": "0\n"})

    def running(self, command: str, pid: int = 4711, told: str | None = "") -> Host:
        """With a machine; `told` is what the host says of it, None: it is not one of KVM's."""
        words = shlex.split(command)
        files = {f"proc/{pid}/cmdline": "\0".join(words) + "\0", f"proc/{pid}/comm": words[0][:15] + "\n"}
        if told is not None:
            files[f"{DEBUG}/{pid}-12/mbecguard"] = f"mode 1\ngeneration 0\nboundaries 0\n{told}"
        return self.having(files)

    def write(self, root: Path) -> Path:
        """As a folder."""
        for name, content in self.files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return root

    def metrics(self, root: Path) -> str:
        """What `mbecguard-host witness --metrics` writes there."""
        return "".join(f"{line}\n" for line in metrics(witness(Source(self.write(root)))))


#: A host with one machine, which is sealed.
GUARDING = Host().running(FIT).having({f"{DEBUG}/4711-12/mbecguard": SEALED})
