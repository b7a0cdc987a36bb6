# SPDX-License-Identifier: GPL-2.0-or-later
"""The attacks that are played, in one table: docs/ATTACKS.md is made from it, and the scenarios take their facts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

RAN, DIED = "ran", "died"
INTRODUCTION = """# Attacks that are played

Made by `python -m tests.lab attacks` from tests/lab/attacks.py; a test compares. The attacker can read and write all
of the kernel's memory, and call any function of the kernel. "Before" and "after" mean the seal of a stock guest, and
are what the lab has to see in every run: before it, everything works. `python -m tests.lab list` has the scenarios.

"""


@dataclass(frozen=True, slots=True)
class Spot:
    """A place for new code: it is written there, made executable in the page tables, and called in ring 0."""

    name: str
    what: str
    after: str = DIED


#: In the order of module/spots.c.
SPOTS: tuple[Spot, ...] = (
    Spot("heap", "a page of kmalloc()"),
    Spot("vmalloc", "a page of vmalloc()"),
    Spot("data", "a module's initialised data"),
    Spot("bss", "a module's other data"),
    Spot("per-cpu", "a per-CPU variable"),
    Spot("stack", "the stack of a running thread"),
    Spot("page-cache", "the kernel's copy of a file"),
    Spot("page-table", "the top-level page table of a process"),
    Spot("rodata", "the kernel's read-only data, by a mapping of one's own"),
    Spot("alias", "a heap page, by a second mapping"),
    Spot("rom", "the firmware's ROM, which holds some already"),
    Spot("low-rom", "the same ROM at its second address, below 1 MiB"),
    Spot("re-pointed", "a heap page, by the address of a page of kernel text"),
    Spot("text", "a function of the kernel's, overwritten by a mapping of one's own", RAN),
)


@dataclass(frozen=True, slots=True)
class Attack:
    """One that a scenario of its own plays."""

    name: str
    what: str
    after: str
    scenario: str


ATTACKS: tuple[Attack, ...] = (
    Attack("unlock", "a request that makes a sealed page executable again", "EPERM", "lock"),
    Attack("supervisor bit", "a page of a process, its U bit cleared at one of four levels", DIED, "user-bit"),
    Attack("SMEP", "CR4.SMEP cleared, to call a page of a process", "#GP", "lock"),
    Attack("control bits", "each bit of CR0, CR4 and EFER flipped, to run a denied page", "#GP, or " + DIED, "bits"),
    Attack("VMX", "CR4.VMXE set, to be a hypervisor", "#GP", "vmx"),
    Attack("emulator", "an instruction that KVM has to emulate, fetched from a denied page", "#UD", "emulator"),
    Attack("straddle", "an instruction on two pages, the second one denied", DIED, "straddle"),
    Attack("start-up", "a processor sent to a denied page by SIPI", "dropped", "sipi"),
    Attack("start page", "the start page overwritten, to run a denied page without paging", "not run", "start-page"),
    Attack("start-up data", "page tables of user mode for a processor that starts", "shut down", "start-smep"),
    Attack("start-up code", "a page of user mode for a processor without SMEP yet", "shut down", "start-smep"),
    Attack("no boot CPU", "its BSP bit cleared, then INIT and SIPI for CPU 0", "shut down", "start-boot-cpu"),
    Attack("SMI", "an SMI to oneself, to run a handler of one's own", "dropped", "smi"),
    Attack("open SMM", "the same where SMRAM is the guest's own memory", "no seal", "smm-open"),
    Attack("late SMM", "the same under a seal, as by a processor that is plugged later", "shut down", "smm-enter"),
    Attack(
        "unlocked SMM",
        "the same where the host bridge shows SMRAM to whoever asks (SeaBIOS)",
        "no seal",
        "smm-unlocked",
    ),
    Attack("RSM", "a pinned bit cleared in what RSM loads", "shut down", "smm-open"),
    Attack("firmware's SMM", "the same where firmware has locked SMRAM (OVMF)", "kept out", "smm-firmware"),
    Attack(
        "S3 by register",
        "the chip set told to sleep, firmware to wake up in a sealed page",
        "**ran**: a reset",
        "s3-register",
    ),
    Attack("late VMX", "CR4.VMXE set by another CPU while a request seals", "shut down", "late-vmxe"),
    Attack("INIT", "the boot processor sent back to the firmware", "shut down", "init"),
    Attack("restore", "the guest saved, and resumed by a host that does not know its map", "open, and told", "moved"),
    Attack("forged seal", "a page sealed by two requests, on a host that does not know the guest", "told", "extended"),
    Attack(
        "text byte",
        "a byte of kernel text, or of a module's, changed by a mapping of one's own",
        "found by `audit`",
        "text",
    ),
    Attack(
        "patch site",
        "a jump to elsewhere, or new code behind an int3, where the kernel patches",
        "found by `audit`",
        "text",
    ),
    Attack(
        "text, held",
        "kernel text that the host holds, by a mapping of one's own: byte, rep movsb, cmpxchg",
        "#PF",
        "handed-over",
    ),
    Attack(
        "site, held", "new code behind an int3 where the kernel patches; the site of a frozen key", "#PF", "handed-over"
    ),
    Attack(
        "clock into text",
        "wall clock, kvmclock and stolen time aimed at text that the host holds",
        "not seen by the guest",
        "handed-over",
    ),
    Attack(
        "DMA into text",
        "a device of the VMM (fw_cfg) writes there",
        "the same, and told by `audit`",
        "handed-over",
    ),
    Attack("disk into text", "virtio-blk reads a sector into it", "not seen by the guest", "stores-devices"),
    Attack("vhost into text", "the host's kernel puts a packet there", "not seen by the guest", "stores-devices"),
    Attack(
        "balloon over text", "the balloon takes the page (MADV_DONTNEED)", "not seen by the guest", "stores-devices"
    ),
    Attack("tables in text", "page tables in it, for the processor to set bits there", "#GP", "stores"),
    Attack("late module", "insmod, by root", "EPERM", "frozen"),
    Attack("late module by data", "the same, switch and hold taken back by two writes", DIED, "free-space"),
    Attack("free space", "code in a page of a BPF pack that nobody uses", DIED, "free-space"),
    Attack("init text", "code in a page of the kernel's init text, which it gave up", DIED, "free-space"),
    Attack("unloaded text", "code in a page that a module's text was in, which is unloaded", DIED, "free-space"),
    Attack("BPF", "a program that is compiled after the lock", "interpreted", "switches"),
    Attack("BPF filled", "2000 filters of any user, where programs go on being compiled", "no denied fetch", "filters"),
    Attack("kprobe", "a probe in the middle of a function", "never hit", "switches"),
    Attack("kexec", "another kernel, by root", "EPERM", "switches"),
    Attack("hibernation", "the machine's memory written to a disk, by root", "refused", "frozen"),
    Attack("sleep", "S3, by root, where the machine offers it", "refused", "q35"),
    Attack("sleep by data", "the same, what refuses it taken back by a write", "**open**: a reset, and told", "q35"),
    Attack("UEFI", "code in data that the firmware keeps at runtime", DIED, "q35"),
    Attack("DMI", "code in the firmware's tables", DIED, "q35"),
    Attack("device", "code in the memory of a PCI device", DIED, "q35"),
    Attack("plugged", "code in memory that is plugged in after the lock", DIED, "q35"),
    Attack("balloon", "code in a page that the balloon took and gave back", DIED, "q35"),
    Attack("loosen", "a second request that loosens one page, or mixes it with others", "EPERM", "seal"),
    Attack("race", "a page that one CPU runs while another denies it", "not after the denial's return", "race"),
    Attack("storm", "a guest that denies its own page-fault handler", "shut down", "storm"),
    Attack("flood", "3000 requests that change a nearly full map", "host's memory flat", "churn"),
    Attack("long flood", "100 000 requests that change a small map", "host's memory flat", "flood"),
    Attack("requests", "100 000 random hypercalls", "guest and host live", "fuzz"),
)
STOPPED = sum(spot.after == DIED for spot in SPOTS)


def tried(when: str) -> str:
    """Shell lines that try all spots, each a fact `WHEN-NAME`."""
    return "".join(f'fact {when}-{spot.name} "$(t spot {number})"\n' for number, spot in enumerate(SPOTS))


def expected(when: str) -> dict[str, str]:
    """The facts of `tried`."""
    return {f"{when}-{spot.name}": spot.after if when == "after" else RAN for spot in SPOTS}


def document() -> str:
    """docs/ATTACKS.md."""
    return INTRODUCTION + "\n".join(["| attack | before | after | scenario |", "|---|---|---|---|", *_rows()]) + "\n"


def _rows() -> Iterator[str]:
    for spot in SPOTS:
        after = spot.after if spot.after == DIED else f"**{spot.after}**: not stopped"
        yield f"| {spot.name}: code in {spot.what} | {RAN} | {after} | lock, serves |"
    for attack in ATTACKS:
        yield f"| {attack.name}: {attack.what} | works | {attack.after} | {attack.scenario} |"
