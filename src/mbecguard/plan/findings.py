# SPDX-License-Identifier: GPL-2.0-or-later
"""What a person must know about a plan: a closed catalogue of findings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mbecguard.values.findings import Finding, Severity, Template, made

CHECK_SCHEMA = "mbecguard.check/1"


@dataclass(frozen=True, slots=True)
class Check:
    """What would stop a lock; `ok` if nothing would."""

    ok: bool
    findings: tuple[Finding, ...]
    schema: str = CHECK_SCHEMA


def check(findings: Iterable[Finding]) -> Check:
    """The findings of a check with their verdict."""
    found = tuple(sorted(findings, key=lambda one: one.severity.rank))
    return Check(not any(one.severity is Severity.BLOCKER for one in found), found)


#: Executable pages that no rule knows.
UNEXPLAINED = frozenset({"unexplained-mapping", "unexplained-more", "unexplained-denied", "unexplained-denied-more"})
#: What a lock leaves open: reasons of the sealed guest as well, under the same id.
REMAINING = frozenset({"start-page-kept", "free-space-kept", "free-space-unknown", "hooks-alone"})
_B, _W, _I = Severity.BLOCKER, Severity.WARNING, Severity.INFO

_NO_VMX = (
    "have its machine started without VMX (QEMU: `-vmx` in `-cpu`; libvirt: "
    "`<feature policy='disable' name='vmx'/>` in `<cpu>`)"
)

CATALOGUE: dict[str, Template] = {
    "guest-unreadable": Template(_B, "the guest cannot be surveyed: {problem}", "{advice}"),
    "settings-wrong": Template(_B, "the settings are wrong: {problem}", "{advice}"),
    "switched-off": Template(_B, "locking is switched off: lock.mode is off ({problem})", "{advice}"),
    "host-unusable": Template(_B, "the host cannot be asked: {problem}", "{advice}"),
    "host-unfit": Template(_B, "{problem}", "{advice}"),
    "guest-vmx": Template(
        _W,
        "this guest's processor offers VMX: once its kernel switches that on, as KVM and VirtualBox do, the host "
        "refuses a seal",
        f"{_NO_VMX}, or keep kvm_intel from being loaded here",
    ),
    "guest-vmx-on": Template(
        _B,
        "the host cannot guard this guest while VMX is switched on: its processor offers that, and KVM or VirtualBox "
        "uses it",
        f"{_NO_VMX}; or unload kvm_intel here, if nothing needs it",
    ),
    "guest-irqchip": Template(
        _B,
        "the host cannot guard this guest: its processors have no x2APIC, as when QEMU keeps the local APICs instead "
        "of KVM",
        "have its machine started without `kernel-irqchip=off` (on and split will do; libvirt never asks for off) and "
        "without `-x2apic` in `-cpu`",
    ),
    "guest-vendor": Template(
        _B,
        "the host cannot guard this guest: the processor is of {vendor}, whose counterpart of MBEC is not used",
        "it takes a host with an Intel processor that has MBEC: Kaby Lake or later, Xeon from Skylake-SP",
    ),
    "text-livepatch": Template(
        _B,
        "kernel text is live-patched ({names}), and level text keeps patches from it",
        'remove them before the lock, or set policy.level = "exec"',
    ),
    "text-kprobes": Template(
        _B,
        "{count} kprobes are registered: the host would refuse to take them away again, and the kernel would never "
        "patch again",
        'remove them before the lock (`perf probe -d`, `bpftool link`), or set policy.level = "exec"',
    ),
    "text-traced": Template(
        _B,
        "{count} functions are traced: the host would refuse what the tracer patches next, and the kernel would never "
        "patch again",
        'stop the tracer before the lock, or set policy.level = "exec"',
    ),
    "text-processors": Template(
        _B,
        "this guest runs one processor of {possible} possible ones: with the second one the kernel patches all of its "
        "text, which the host would refuse",
        "boot with the others, or without room for them (QEMU: `-smp`, `maxcpus=`)",
    ),
    "text-unknown": Template(
        _W, "whether something patches kernel text that the host would refuse cannot be seen: {problem}", "{remedy}"
    ),
    "text-dispatcher": Template(
        _W,
        "where the kernel calls XDP programs cannot be seen: {problem}; the host would refuse what is patched when one "
        "is attached after the lock, and the kernel would never patch again",
        "{remedy}, which takes no longer than the lock; or attach no XDP program",
    ),
    "unexplained-mapping": Template(
        _B,
        "{pages} pages at {va:#x} (physical {pa:#x}) are kernel-executable, and nobody knows why; {whose}",
        "{advice}; --deny-unexplained drops such pages",
        passing=True,
        apart=("owner", "symbol"),
    ),
    "unexplained-more": Template(
        _B, "{count} more unexplained mappings are not listed", "see those that are listed", passing=True
    ),
    "unexplained-denied": Template(
        _W,
        "{pages} pages at {va:#x} (physical {pa:#x}) are kernel-executable and unexplained; they are dropped as asked",
        "if the kernel runs them after the lock it will crash; {whose}",
        apart=("owner", "symbol"),
    ),
    "unexplained-denied-more": Template(
        _W, "{count} more unexplained mappings are dropped and not listed", "see those that are listed"
    ),
    "source-unknown": Template(
        _W, "what is unexplained may be this: {what}. Nobody can tell, because {problem}; {meaning}", "{remedy}"
    ),
    "kernel-image-unusable": Template(_B, "the kernel's image cannot be used: {problem}", "{advice}"),
    "kernel-build-id": Template(
        _B,
        "the kernel image has build-id {image}, the running kernel {running}",
        "give the image of the running kernel ({release}); after an upgrade of the kernel, reboot first",
    ),
    "kernel-text-size": Template(
        _B,
        "the image promises {image} bytes of kernel text, the running kernel has {running}",
        "the image is damaged, or is not that of the running kernel",
    ),
    "kernel-code-missing": Template(
        _B,
        '/proc/iomem has no "Kernel code", so the physical place of the kernel cannot be confirmed',
        "capture or run with CAP_SYS_ADMIN; a truncated capture has to be made again",
    ),
    "kernel-code-mismatch": Template(
        _B,
        "by /proc/iomem the kernel text at {va:#x} lies at physical {iomem:#x}, by the page tables at {tables:#x}",
        "the two sources contradict each other: do not trust this guest, or capture it again",
    ),
    "kernel-text-elsewhere": Template(
        _B,
        "/proc/kallsyms has the kernel's text at {va:#x}, but the page tables ({tables}) map no code there",
        "the two are of different boots, or one of them is damaged; of a captured guest: capture it again",
    ),
    "efi-mismatch": Template(
        _B,
        "efi_mm makes {pages} pages of the firmware executable, and of these only {mapped} are among the mappings",
        "the execmap and what was read of kernel memory are of different boots, or cut; capture the guest again",
    ),
    "content-mismatch": Template(
        _B,
        "{pages} pages that should hold known code are not executable, the first at physical {pa:#x}: memory.json and "
        "execmap.json contradict each other",
        "they are of different boots: capture the guest again",
    ),
    "module-unlisted": Template(
        _B,
        "/proc/kallsyms has symbols of module {module}, which is not in /proc/modules",
        "wait until it is loaded or gone; a module that stays like this hides itself",
    ),
    "promised-not-executable": Template(
        _B,
        "{section} of {owner} should be code at {va:#x} ({pages} pages), but is not mapped executable",
        "the file is not the one that was loaded, or the page tables or /sys/module are of another boot",
        passing=True,
    ),
    "module-image-unusable": Template(_B, "module {module}: {problem}", "{advice}"),
    "modules-unusable": Template(_B, "{count} modules, such as {names}: {problem}", "{advice}"),
    "module-build-id": Template(
        _B,
        "module {module}: the file has build-id {image}, the loaded module {running}",
        "the file was upgraded after it was loaded: reboot, or give the old folder with --modules-dir",
    ),
    "module-layout": Template(
        _B,
        "module {module}: {section} is loaded at {running:#x}, its file puts it at {image:#x}",
        "the file is not the one that was loaded, or /sys/module is of another boot",
    ),
    "module-busy": Template(_B, "module {module} is {state}", "wait until it is loaded or gone", passing=True),
    "module-hidden": Template(
        _B,
        "module {module}: /sys/module does not give the address of its text",
        "read it as root with kernel.kptr_restrict below 2; a module without text needs no file",
        passing=True,
    ),
    "writable-code": Template(
        _B,
        "{pages} pages of {owner} ({kind}) at {va:#x} are writable and executable at once",
        "whoever can write to memory could run code there, lock or not; boot without rodata=off, "
        "or unload what made them",
    ),
    "writable-executable": Template(
        _W,
        "{pages} kept pages of {owner} ({kind}) at {va:#x} are writable and executable at once",
        "the lock stops new code pages, not writes to kept ones; the policy can drop pages of this kind",
    ),
    "user-mapping": Template(
        _I,
        "{pages} executable pages at {va:#x} are user-mode addresses in the kernel half",
        "MBEC judges them by user-execute, which stays; they are not kept for the kernel",
    ),
    "dropped": Template(_W, "{pages} pages of kind {kind} are dropped: {loss}", '{key} = "keep" keeps them'),
    "start-page-kept": Template(
        _W,
        "{pages} pages of start-up code of processors stay executable ({why}): whoever can write kernel memory decides "
        "what a processor runs that starts there",
        'policy.trampoline = "drop" drops them; then {loss}',
    ),
    "start-page-dropped": Template(
        _I,
        "{pages} pages of start-up code of processors are dropped, as all possible ones are online",
        'one that is taken offline stays offline; policy.trampoline = "keep" keeps them',
    ),
    "crash-kernel-lost": Template(
        _W,
        "the crash kernel region ({pages} pages) is dropped: a crash dump after the lock will fail",
        'policy.crash_kernel = "keep" keeps the whole region executable',
    ),
    "efi-unknown": Template(
        _B,
        "this guest was started by EFI, and it cannot be known which pages its runtime services run: {problem}",
        '{remedy}; policy.efi_runtime = "drop" locks without them: {loss}',
    ),
    "efi-unknown-dropped": Template(
        _W,
        "EFI runtime services code is dropped unseen: {problem}",
        "{remedy}; dropped, {loss}",
    ),
    "efi-by-tables": Template(
        _I, "EFI runtime code is kept by the page tables of efi_mm alone, because {problem}", "{remedy}"
    ),
    "efi-data-executable": Template(
        _W,
        "{pages} pages of EFI runtime data are mapped executable, and are dropped",
        "old firmware gives no memory attributes; none of this is code",
    ),
    "efi-superset": Template(
        _I,
        "EFI runtime code is kept by the firmware's map ({pages} pages), because efi_mm could not be read",
        "the page tables of efi_mm would tell the exact pages",
    ),
    "free-space-dropped": Template(
        _I,
        "{pages} pages of free space among kept code are dropped at the seal; of the 2 MiB regions {mixed} are mixed "
        "then, not {roomy}",
        'a BPF trampoline that needs new space faults after the lock; policy.tight = "off" keeps the space',
    ),
    "free-space-kept": Template(
        _W,
        "{pages} pages of free space stay executable (kind {kind}): whoever can write kernel memory can put code there",
        'policy.tight = "on" drops them; with "auto", what would use them has to be frozen first',
    ),
    "free-space-unknown": Template(
        _W,
        "nobody can tell how much of {pages} kept pages is free space (kind {kind}): {problem}",
        "{remedy}; free space that stays executable takes code from whoever can write kernel memory",
    ),
    "hooks-alone": Template(
        _W,
        "BPF hooks on kernel functions ({count}), such as systemd's RestrictFileSystems=, have a page each on this "
        "kernel: a new one crashes the locked guest, as when an upgrade has systemd executed again",
        "boot with an `lsm=` without bpf, or upgrade systemd and libc in a boot with mbecguard=off; freeze.ftrace = "
        '"on" prevents it as well, and takes such hooks away',
    ),
    "bpf-reserved": Template(
        _I,
        "BPF programs go on being compiled: {packs} packs of 2 MiB are reserved for them, and what users without "
        "privileges have compiled is limited to a sixteenth of that",
        "when root has filled them, the next program crashes what calls it; lock.bpf_packs says how many",
    ),
    "bpf-unreserved": Template(
        _W,
        "BPF programs go on being compiled, and no room is reserved for them: any user can fill what there is, and "
        "crash this guest",
        "lock.bpf_packs above 0 reserves room",
    ),
    "bpf-no-room": Template(
        _B, "no room can be reserved for BPF programs, which go on being compiled: {problem}", "{advice}"
    ),
    "request-too-long": Template(
        _B,
        "{count} ranges of pages are to be kept or denied, and the host takes {most} in one request",
        'policy.tight = "off" keeps longer runs; or load fewer modules before the lock, or lock soon after the boot, '
        "when they lie side by side; kvm-host takes 43264 now, 5408 before",
    ),
    "freeze-left-open": Template(
        _W, "{knob} will not be frozen, because this guest uses {use}", '{key} = "on" freezes it; left open, {risk}'
    ),
    "freeze-unknown": Template(
        _W, "{knob} will not be frozen, because {use}", '{remedy}; {key} = "on" freezes it; left open, {risk}'
    ),
    "freeze-loss": Template(
        _W, "{knob} will be frozen, which takes away what this guest uses: {use}", '{key} = "auto" or "off" leaves it'
    ),
    "freeze-impossible": Template(
        _B, "{knob} cannot be frozen, because of {use}", '{key} = "auto" leaves it open; then {risk}'
    ),
    "freeze-missing": Template(
        _W,
        "{knob} is not there, or may not be written, so it cannot be frozen",
        "mount debugfs if it is not mounted; if the switch stays open, {risk}",
    ),
    "freeze-undone": Template(
        _W,
        "{file} sets {knob} to {value}: whoever has it read again, as `sysctl --system` does, ends the freeze, and "
        "code that is made then faults",
        "set {knob} = {frozen} there, or remove the line",
    ),
    "state-volatile": Template(
        _W,
        "the service will not lock: {problem}, and a lock that kills this guest would be repeated at every boot",
        "give the state folder a disk; `mbecguard lock` by hand counts no boots",
    ),
    "freeze-contested": Template(
        _W,
        "{file} sets {knob} to {value}: once it is frozen the kernel refuses that, and what reads the file again "
        "fails, as systemd-sysctl.service when it is restarted",
        'remove the line; {key} = "off" leaves {knob} open',
    ),
    "freeze-setter": Template(
        _W,
        "{who} is installed here, which sets {knob} to {value} {when}: that ends the freeze, and code that is made "
        "then faults",
        '{key} = "off" leaves {knob} open, and the lock goes by that; else keep {who} from setting it',
    ),
    "physical-space": Template(
        _I,
        "the whole architectural space of 52 physical address bits is denied",
        "if the guest has fewer, capture proc/cpuinfo as well",
    ),
    "shared-frame": Template(
        _W,
        "physical page {pa:#x} is executable at {first:#x} and at {second:#x}",
        "one page frame with two executable addresses is unusual outside EFI",
    ),
}


def finding(id_: str, **facts: object) -> Finding:
    """A finding of the catalogue with its texts filled in."""
    return made(CATALOGUE, id_, facts)


def passing(findings: Iterable[Finding]) -> bool:
    """Whether all of them can go away by themselves; so can whatever else is said of a module that is just coming."""
    found = [(f, CATALOGUE[f.id].passing) for f in findings]
    modules = {f.facts["module"] for f, passes in found if passes and "module" in f.facts}
    return all(passes or f.facts.get("module") in modules for f, passes in found)
