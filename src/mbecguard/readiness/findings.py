# SPDX-License-Identifier: GPL-2.0-or-later
"""What a person must know of a host and of its machines: a closed catalogue of findings."""

from __future__ import annotations

from mbecguard.values.findings import Finding, Severity, Template, made

_B, _W, _I = Severity.BLOCKER, Severity.WARNING, Severity.INFO

LOAD_ENFORCE = "echo 'options kvm mbecguard=enforce' >/etc/modprobe.d/mbecguard.conf"
RELOAD = "stop all machines, then `modprobe -r kvm_intel kvm; modprobe kvm_intel`, or reboot"

RENEW = "`dpkg-reconfigure mbecguard-kvm-host-dkms`"

#: What to do about a kernel that keeps its own KVM, by the reason that kvm-host/dkms.sh gives.
SKIPPED = {
    "patch": "its KVM has changed: start {ours}, and install a newer mbecguard-kvm-host-dkms when there is one; guests "
    "run on stock KVM meanwhile, but do not lock",
    "build": "start {ours}, and report it with /var/lib/mbecguard-host/{release}/log",
    "source": "install linux-source-{series} of the version of the kernel's headers; ours is built when it comes, else "
    f"{RENEW}",
    "headers": "install linux-headers-{flavour}, which brings the headers of each later kernel as well",
    "series": "start a Debian kernel of {known}",
    "foreign": "start a kernel of Debian's: the source of this one is not in linux-source",
    "room": f"make room in /lib/modules, then {RENEW}",
    "other": f"read /var/lib/mbecguard-host/{{release}}/log, then {RENEW}",
}

CATALOGUE: dict[str, Template] = {
    # The processor.
    "processor-unknown": Template(_B, "nothing tells which processor this host has", "mount /proc"),
    "processor-other": Template(
        _B,
        "the processor is of {vendor}: its counterpart of MBEC (GMET on AMD) is not used",
        "it takes an Intel processor with MBEC: Kaby Lake or later, Xeon from Skylake-SP",
    ),
    "vmx-missing": Template(
        _B,
        "the processor offers no VMX, so nothing here can run virtual machines",
        "switch virtualisation (VT-x) on in the firmware's setup; if this host is a virtual machine, its own "
        "hypervisor has to offer VMX",
    ),
    "mbec-missing": Template(
        _B,
        "the processor has no mode-based execute control: /proc/cpuinfo has no ept_mode_based_exec",
        "it takes Kaby Lake or later, Xeon from Skylake-SP; if this host is a virtual machine, its own hypervisor has "
        "to pass it on, and KVM of Linux 6.12 does not",
    ),
    "exit-information-missing": Template(
        _B,
        "the processor has no advanced exit information for EPT violations: nobody could tell kernel from user fetches",
        "no processor with MBEC is known that lacks it; if this host is a virtual machine, its own hypervisor hides it",
    ),
    "host-virtual": Template(
        _I,
        "this host is a virtual machine itself",
        "whoever controls its own hypervisor can read and change every guest",
    ),
    # The kernel and its KVM.
    "kernel-series": Template(
        _B,
        "kernel {release} is of series {series}, for which there is no patch: there is for {known}",
        "boot a Debian kernel of one of them",
    ),
    "kernel-foreign": Template(
        _B,
        "kernel {release} is not one of Debian's, so its KVM is not in linux-source",
        "boot a Debian kernel of {known}",
    ),
    "kvm-missing": Template(_B, "KVM is not loaded", "`modprobe kvm_intel`; the kernel log says why if it fails"),
    "kvm-intel-missing": Template(
        _B, "kvm_intel is not loaded", "`modprobe kvm_intel`; the kernel log says why if it fails"
    ),
    "kvm-builtin": Template(
        _B,
        "KVM is part of kernel {release}, so no module can take its place",
        "boot a kernel that has it as a module, as Debian's do",
    ),
    "kvm-not-installed": Template(
        _B,
        "stock KVM is loaded, and the package of ours is not installed",
        "`apt install mbecguard-kvm-host-dkms linux-headers-{flavour}`",
    ),
    "kvm-not-built": Template(
        _B,
        "stock KVM is loaded: ours is installed, but not built for kernel {release}",
        f"install the kernel's headers and its linux-source of the same version, then {RENEW}",
    ),
    "kvm-skipped": Template(
        _B,
        "stock KVM is loaded: ours could not be built for kernel {release} ({reason}): {problem}",
        "{advice}",
    ),
    "next-skipped": Template(
        _W,
        "kernel {release} would start with stock KVM: ours could not be built for it ({reason}): {problem}",
        "{advice}",
    ),
    "kvm-older": Template(
        _W,
        "kernel {release} has the KVM of an older mbecguard-kvm-host-dkms: the new one could not be built ({reason}): "
        "{problem}",
        "{advice}",
    ),
    "kvm-half": Template(
        _W,
        "kernel {release} has some of our modules of KVM and not the others, left by an installation that broke off",
        f"{RENEW} puts back ours, or else stock KVM",
    ),
    "kvm-not-reloaded": Template(
        _B,
        "stock KVM is loaded, though ours is built for this kernel",
        f"{RELOAD}; after a reboot: {RENEW}, as there is an initramfs that holds stock KVM",
    ),
    "key-not-enrolled": Template(
        _B,
        "modules have to be signed ({why}), and the key that DKMS signs with is not one that this machine knows",
        "`mokutil --import /var/lib/dkms/mok.pub`, reboot, and confirm it in the firmware's MokManager",
    ),
    "key-unknown": Template(
        _W,
        "modules have to be signed ({why}), and it cannot be seen whether DKMS's key is one that this machine knows",
        "run as root; `mokutil --test-key /var/lib/dkms/mok.pub` tells",
    ),
    "mode-off": Template(
        _B, "kvm.mbecguard is off: requests are unknown hypercalls", f"`{LOAD_ENFORCE}`, then {RELOAD}"
    ),
    "mode-audit": Template(
        _W,
        "kvm.mbecguard is audit: what would be denied is logged, and nothing is stopped",
        f"to enforce: `{LOAD_ENFORCE}`, then {RELOAD}",
    ),
    "mode-not-kept": Template(
        _W,
        "kvm.mbecguard is {mode} now, but nothing says so for the next start: there it is {next}",
        f"`{LOAD_ENFORCE}`, if KVM is to enforce",
    ),
    "ept-off": Template(_B, "EPT is switched off (kvm_intel.ept)", f"load kvm_intel without ept=0: {RELOAD}"),
    "eptad-off": Template(
        _B,
        "EPT's accessed and dirty bits are switched off (kvm_intel.eptad), and MBEC with them",
        f"load kvm_intel without eptad=0: {RELOAD}",
    ),
    "mbec-off": Template(_B, "KVM does not use MBEC (kvm_intel.mbec is N)", f"load kvm_intel without mbec=0: {RELOAD}"),
    "mbec-unknown": Template(
        _B, "this KVM has no parameter kvm_intel.mbec: kvm and kvm_intel are not of one build", RELOAD
    ),
    "stock-next": Template(
        _W,
        "other kernels here would start with stock KVM: {releases}",
        f"{RENEW}, or remove them; guests cannot lock on them",
    ),
    "unseen": Template(_W, "{what} cannot be seen: {problem}", "{advice}"),
    # One machine.
    "machine-program": Template(
        _W,
        "{program} is not QEMU: how it starts its machines cannot be told here",
        "in its guest `mbecguard check` tells",
    ),
    "machine-not-kvm": Template(
        _B, "it does not use KVM, so this host cannot guard it", "start QEMU with `-accel kvm`"
    ),
    "machine-32-bit": Template(_B, "qemu-system-i386 runs 32-bit kernels alone", "start qemu-system-x86_64"),
    "machine-vmx": Template(
        _B,
        "its processor offers VMX: a kernel with KVM switches it on, and then the host refuses the seal",
        "add `-vmx` to `-cpu` (libvirt: `<feature policy='disable' name='vmx'/>` in `<cpu>`), or load kvm_intel with "
        "nested=0",
    ),
    "machine-nested": Template(
        _B,
        "it has run virtual machines of its own: no guest can do that and be sealed",
        "run them on this host, and start it without VMX",
    ),
    "machine-smm": Template(
        _B,
        "system management mode is on, and nothing says that its memory is the firmware's own: the host refuses the "
        "seal while the guest can write it",
        "`-machine ...,smm=off` (libvirt: `<smm state='off'/>` in `<features>`), or OVMF with SMM on q35, its flash "
        "secure",
    ),
    "machine-irqchip": Template(
        _B,
        "its local APICs are in QEMU (kernel-irqchip=off)",
        "leave kernel-irqchip out, or take on or split (libvirt: `<ioapic driver='qemu'/>` is split)",
    ),
    "machine-confidential": Template(
        _B,
        "it is a confidential guest ({kind}): the host cannot see its state",
        "start it without; the two kinds of protection exclude each other",
    ),
    "machine-hyperv": Template(
        _B,
        "it offers Hyper-V's interface ({words}): a Linux guest then makes Hyper-V's hypercalls, not KVM's",
        "leave hv-... out of `-cpu` (libvirt: no `<hyperv>` in `<features>`); only Windows gains by it",
    ),
    "machine-xen": Template(_B, "it offers Xen's hypercalls (xen-version)", "leave xen-version out of `-accel kvm`"),
    "machine-kvm-hidden": Template(
        _B, "it hides KVM from the guest (kvm=off), so the guest finds no host to ask", "leave kvm=off out of `-cpu`"
    ),
    "machine-s3": Template(
        _W,
        "it offers suspend to memory (S3): a guest that resumes from it is unlocked",
        "`-global {device}.disable_s3=1` (libvirt: `<suspend-to-mem enabled='no'/>` in `<pm>`)",
    ),
    "machine-config": Template(
        _W, "the file {path} of its options cannot be read", "run as root; what it says is not looked at"
    ),
}


def finding(id_: str, **facts: object) -> Finding:
    """A finding of the catalogue with its texts filled in."""
    return made(CATALOGUE, id_, facts)
