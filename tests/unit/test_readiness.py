# SPDX-License-Identifier: GPL-2.0-or-later
"""`mbecguard-host check`: hosts and machines that differ from a good one in one thing, and what is said of that."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mbecguard.face import host_cli
from mbecguard.readiness.check import HostCheck, check
from mbecguard.readiness.findings import CATALOGUE, SKIPPED
from mbecguard.readiness.kvm import SERIES
from mbecguard.readiness.machines import Guarded
from mbecguard.readiness.source import Source
from mbecguard.values.errors import Exit
from mbecguard.values.findings import Severity
from tests.hostmaker import ENROLLED, FIT, INTEL, KVM, READY, RELEASE, SECURE_BOOT, Host

ROOT = Path(__file__).parents[2]
SEALED, RESTRICTED = "restricted 1\nsealed 1\n", "restricted 1\nsealed 0\n"
NO_EXIT_INFORMATION = {"dev/cpu/0/msr": "0x48c 0xf0106b34141\n"}
STATE = f"var/lib/mbecguard-host/{RELEASE}/state"
NEXT = "6.12.120+deb13-amd64"
UPGRADED = Host().having({f"boot/vmlinuz-{NEXT}": ""})
COUNTER = "sys/kernel/debug/kvm/99-12/nested_run"
CONF = "etc/modprobe.d/mbecguard.conf"
UPDATES = f"lib/modules/{RELEASE}/updates/dkms"
NOT_BUILT = Host().stock().lacking(f"lib/modules/{RELEASE}/updates")
NOT_RELOADED = Host().stock()
CPU = "proc/cpuinfo"


def look(host: Host, folder: Path, *names: str, alone: bool = False) -> HostCheck:
    return check(Source(host.write(folder)), names, alone=alone)


HOSTS: dict[str, tuple[Host, list[str]]] = {
    "ready": (Host(), []),
    "no cpuinfo": (Host().lacking(CPU), ["processor-unknown"]),
    "AMD": (Host().swapped(CPU, "GenuineIntel", "AuthenticAMD"), ["processor-other"]),
    "VT-x off in the firmware": (Host().swapped(CPU, "lm vmx ", "lm "), ["vmx-missing"]),
    "Broadwell": (Host().swapped(CPU, " ept_mode_based_exec", ""), ["mbec-missing"]),
    "one processor of two": (
        Host().having({CPU: str(READY[CPU]).replace(" ept_mode_based_exec", "", 1)}),
        ["mbec-missing"],
    ),
    "a host that is a guest": (Host().swapped(CPU, "smep smap", "smep smap hypervisor"), ["host-virtual"]),
    "no exit information": (
        NOT_RELOADED.having(NO_EXIT_INFORMATION),
        ["exit-information-missing", "kvm-not-reloaded"],
    ),
    "no exit information, and KVM has noticed": (
        Host({**READY, **NO_EXIT_INFORMATION, f"{INTEL}/mbec": "N\n"}),
        ["exit-information-missing"],
    ),
    "no exit information, and KVM has not": (Host({**READY, **NO_EXIT_INFORMATION}), ["exit-information-missing"]),
    "no msr module": (NOT_RELOADED.lacking("dev"), ["kvm-not-reloaded", "unseen"]),
    "no msr module, and KVM has looked itself": (Host().lacking("dev"), []),
    "another series": (
        NOT_BUILT.having({"proc/sys/kernel/osrelease": "6.17.8-1-pve\n"}),
        ["kernel-series", "stock-next"],
    ),
    "a kernel of Proxmox VE": (
        NOT_BUILT.having({"proc/sys/kernel/osrelease": "7.2.3-1-pve\n"}),
        ["kernel-foreign", "stock-next"],
    ),
    "no KVM": (Host().lacking("sys/module/kvm", "sys/module/kvm_intel"), ["kvm-missing"]),
    "KVM in the kernel": (NOT_RELOADED.lacking(f"{KVM}/initstate"), ["kvm-builtin"]),
    "stock": (NOT_BUILT.lacking("usr/src"), ["kvm-not-installed"]),
    "not built": (NOT_BUILT, ["kvm-not-built"]),
    "not reloaded": (NOT_RELOADED, ["kvm-not-reloaded"]),
    "Secure Boot, key not enrolled": (NOT_RELOADED.having(SECURE_BOOT), ["kvm-not-reloaded", "key-not-enrolled"]),
    "Secure Boot, another key": (
        NOT_RELOADED.having({**SECURE_BOOT, **dict.fromkeys(ENROLLED, b"\x07\x00\x00\x00 others")}),
        ["kvm-not-reloaded", "key-not-enrolled"],
    ),
    "Secure Boot, key enrolled": (NOT_RELOADED.having({**SECURE_BOOT, **ENROLLED}), ["kvm-not-reloaded"]),
    "Secure Boot, ours is loaded": (Host().having(SECURE_BOOT), []),
    "signatures wanted": (
        NOT_RELOADED.having({"sys/module/module/parameters/sig_enforce": "Y\n"}),
        ["kvm-not-reloaded", "key-not-enrolled"],
    ),
    "off": (Host().having({f"{KVM}/parameters/mbecguard": "off\n", CONF: ""}), ["mode-off"]),
    "audit": (
        Host().having({f"{KVM}/parameters/mbecguard": "audit\n", CONF: "options kvm mbecguard=audit"}),
        ["mode-audit"],
    ),
    "by hand": (Host().lacking(CONF), ["mode-not-kept"]),
    "for the next start audit": (
        Host().having({CONF: "options kvm ignore_msrs=1 mbecguard=audit\n"}),
        ["mode-not-kept"],
    ),
    "commented out": (Host().having({CONF: "#options kvm mbecguard=enforce\n"}), ["mode-not-kept"]),
    "on the command line": (Host().lacking(CONF).having({"proc/cmdline": "ro kvm.mbecguard=enforce"}), []),
    "kvm_intel not loaded": (Host().lacking("sys/module/kvm_intel"), ["kvm-intel-missing"]),
    "two builds": (Host().lacking(f"{INTEL}/mbec"), ["mbec-unknown"]),
    "ept=0": (Host().having({f"{INTEL}/{name}": "N\n" for name in ("ept", "eptad", "mbec")}), ["ept-off"]),
    "eptad=0": (Host().having({f"{INTEL}/{name}": "N\n" for name in ("eptad", "mbec")}), ["eptad-off"]),
    "mbec=0": (Host().having({f"{INTEL}/mbec": "N\n"}), ["mbec-off"]),
    "an upgrade waits": (UPGRADED, ["stock-next"]),
    "half a KVM": (NOT_RELOADED.lacking(f"{UPDATES}/kvm-intel.ko.xz"), ["kvm-half", "kvm-not-built"]),
    "half a KVM for the next start": (
        UPGRADED.having({f"{UPDATES.replace(RELEASE, NEXT)}/kvm.ko.xz": ""}),
        ["kvm-half", "stock-next"],
    ),
}


@pytest.mark.parametrize("name", HOSTS)
def test_a_host_is_told_its_one_fault(name: str, tmp_path: Path) -> None:
    host, expected = HOSTS[name]
    found = look(host, tmp_path)
    assert sorted(one.id for one in found.findings) == sorted(expected)
    blocked = any(CATALOGUE[id_].severity is Severity.BLOCKER for id_ in expected)
    assert (found.ready, found.host_ready) == (not blocked, not blocked)
    assert found.exit == (Exit.REFUSED if blocked else Exit.AUDIT_MODE if name == "audit" else Exit.OK)


def test_a_folder_that_holds_nothing_is_no_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(tmp_path), "--no-machines") == Exit.REFUSED
    out = capsys.readouterr().out
    assert [word.strip("[]") for word in out.split() if word.startswith("[")] == ["processor-unknown", "kernel-series"]
    assert "kernel unknown is of series unknown" in out


@pytest.mark.parametrize(("reason", "todo"), SKIPPED.items())
def test_why_a_kernel_keeps_its_own_kvm(reason: str, todo: str, tmp_path: Path) -> None:
    (found,) = look(NOT_BUILT.having({STATE: f"reason {reason}\nproblem no kernel source\n"}), tmp_path).findings
    assert (found.id, found.facts["reason"], found.facts["problem"]) == ("kvm-skipped", reason, "no kernel source")
    names = {
        "ours": "a kernel that has ours",
        "release": RELEASE,
        "series": "6.12",
        "flavour": "amd64",
        "known": "7.2 or 6.12",
    }
    assert found.hint == todo.format(**names)


def test_the_next_kernel_keeps_its_own_kvm(tmp_path: Path) -> None:
    """After an upgrade to a point release that the patches do not fit; the running kernel still has ours."""
    host = UPGRADED.having({STATE.replace(RELEASE, NEXT): "reason patch\nproblem 6.12.patch does not apply\n"})
    answer = look(host, tmp_path)
    (found,) = answer.findings
    assert (found.id, answer.ready) == ("next-skipped", True)
    assert f"kernel {NEXT} would start with stock KVM" in found.text
    assert f"start kernel {RELEASE}, and install a newer" in found.hint


def test_a_kernel_that_gets_no_newer_one(tmp_path: Path) -> None:
    """The package was upgraded, and the kernel is held while the source is newer."""
    answer = look(Host().having({STATE: "reason source\nproblem linux-source-6.12 is version 6.12.118-1\n"}), tmp_path)
    (found,) = answer.findings
    assert (found.id, answer.ready) == ("kvm-older", True)
    assert "could not be built (source): linux-source-6.12 is version" in found.text


def test_what_is_no_trouble_any_more(tmp_path: Path) -> None:
    """The state of a kernel that is gone."""
    old = {STATE.replace(RELEASE, "6.12.90+deb13-amd64"): "reason patch\n"}
    assert look(Host().having(old), tmp_path).findings == ()


def test_the_flavour_of_the_kernel_that_runs(tmp_path: Path) -> None:
    """Headers of another flavour would build for another kernel."""
    cloud = {"proc/sys/kernel/osrelease": "6.12.115+deb13.1-cloud-amd64\n"}
    (found, *_) = look(NOT_BUILT.lacking("usr/src").having(cloud), tmp_path).findings
    assert found.hint == "`apt install mbecguard-kvm-host-dkms linux-headers-cloud-amd64`"


COMMANDED = {"proc/cmdline": "ro kvm.mbecguard=audit"}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (Host(), Exit.OK),
        (NOT_BUILT, Exit.REFUSED),
        (NOT_BUILT.lacking(CONF), Exit.OK),
        (NOT_BUILT.having({CONF: "options kvm mbecguard=off\n"}), Exit.OK),
        (Host().having({f"{KVM}/parameters/mbecguard": "off\n"}), Exit.REFUSED),
        (Host().having({f"{KVM}/parameters/mbecguard": "audit\n", **COMMANDED}), Exit.OK),
        (Host().having(COMMANDED), Exit.REFUSED),
        (Host().having({f"{INTEL}/mbec": "N\n"}), Exit.REFUSED),
        (Host().lacking("sys/module/kvm", "sys/module/kvm_intel"), Exit.REFUSED),
    ],
)
def test_does_kvm_run_as_it_is_configured(
    host: Host, status: Exit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the unit of the host asks. A mode that stock KVM ignores is told by every check."""
    assert run(str(host.write(tmp_path)), "--no-machines", "--configured") == status
    assert ("which is NOT what runs" in capsys.readouterr().out) == (status is not Exit.OK)


def test_the_series_are_those_of_dkms() -> None:
    (pattern,) = re.findall(r'^BUILD_EXCLUSIVE_KERNEL="(.*)"$', (ROOT / "kvm-host/dkms.conf").read_text(), re.MULTILINE)
    assert all(re.match(pattern, f"{series}.1+deb13-amd64") for series in SERIES)
    assert set(SERIES) == {path.stem for path in (ROOT / "kvm-host/patches").glob("*[0-9].patch")}


def test_the_document_lists_what_a_machine_may_lack() -> None:
    """But for what it cannot be told."""
    text = (ROOT / "docs/HOST.md").read_text().partition("### What keeps a machine from a seal")[2].partition("## ")[0]
    listed = set(re.findall(r"^\| `(machine-[\w-]+)`", text, re.MULTILINE))
    assert listed | {"machine-program", "machine-config"} == {id_ for id_ in CATALOGUE if id_.startswith("machine-")}


def machine(*changes: tuple[str, str]) -> str:
    command = FIT
    for old, new in changes:
        assert old in command
        command = command.replace(old, new)
    return command


#: As libvirt 9 starts one: long options, JSON, the properties of a device apart.
LIBVIRT = """/usr/bin/qemu-system-x86_64 -name guest=deb13,debug-threads=on -S
 -object '{"qom-type":"secret","id":"masterKey0","format":"raw","file":"/var/lib/libvirt/qemu/master-key.aes"}'
 -blockdev '{"driver":"file","filename":"/usr/share/OVMF/OVMF_CODE_4M.ms.fd","node-name":"libvirt-pflash0-storage"}'
 -machine pc-q35-7.2,usb=off,smm=on,dump-guest-core=off,memory-backend=pc.ram,pflash0=libvirt-pflash0-format,acpi=on
 -accel kvm -cpu host,migratable=on,vmx=off -global driver=cfi.pflash01,property=secure,value=on
 -m size=2097152k -overcommit mem-lock=off -smp 2,sockets=2,cores=1,threads=1 -no-user-config -nodefaults
 -global ICH9-LPC.disable_s3=1 -global ICH9-LPC.disable_s4=1 -boot strict=on -msg timestamp=on"""
#: As Proxmox 8 does.
PROXMOX = """/usr/bin/kvm -id 100 -name web,debug-threads=on -no-shutdown -smp 2,sockets=1,cores=2,maxcpus=2
 -cpu host,+kvm_pv_eoi,+kvm_pv_unhalt -m 2048 -readconfig /usr/share/qemu-server/pve-q35-4.0.cfg
 -machine type=q35+pve0"""
PVE = {"usr/share/qemu-server/pve-q35-4.0.cfg": '[device "ehci"]\n  driver = "ich9-usb-ehci1"\n  bus = "pcie.0"\n'}
OVMF = "-global driver=cfi.pflash01,property=secure,value=on"

MACHINES: dict[str, tuple[str, list[str]]] = {
    "fit": (FIT, []),
    "libvirt with Secure Boot": (LIBVIRT, []),
    "libvirt, cpu host-model": (LIBVIRT.replace("host,migratable=on,vmx=off", "Skylake-Server-IBRS,ss=on"), []),
    "libvirt, vmx required": (LIBVIRT.replace("vmx=off", "vmx=on"), ["machine-vmx"]),
    "Proxmox as it comes": (PROXMOX, ["machine-s3", "machine-smm", "machine-vmx"]),
    "host": (machine(("host,-vmx", "host")), ["machine-vmx"]),
    "max": (machine(("host,-vmx", "max,vmx=on,vmx=off,+vmx")), ["machine-vmx"]),
    "minus wins": (machine(("host,-vmx", "host,-vmx,vmx=on,+vmx")), []),
    "a model": (machine(("host,-vmx", "Skylake-Server")), []),
    "a model with vmx": (machine(("host,-vmx", "Skylake-Server,vmx")), ["machine-vmx"]),
    "no -cpu": (machine((" -cpu host,-vmx", "")), []),
    "smm as it comes": (machine((",smm=off", "")), ["machine-smm"]),
    "smm=auto": (machine(("smm=off", "smm=auto")), ["machine-smm"]),
    "OVMF with SMM": (f"{machine((',smm=off', ''))} {OVMF}", []),
    "OVMF with SMM on pc": (f"{machine(('q35,smm=off', 'pc'), ('ICH9-LPC', 'PIIX4_PM'))} {OVMF}", ["machine-smm"]),
    "flash that is not secure": (f"{machine((',smm=off', ''))} {OVMF.replace('=on', '=off')}", ["machine-smm"]),
    "smm given twice": (f"{FIT} -machine smm=on", ["machine-smm"]),
    "irqchip=off": (machine(("-accel kvm", "-accel kvm,kernel-irqchip=off")), ["machine-irqchip"]),
    "irqchip=off of old": (machine(("q35,", "q35,kernel_irqchip=off,")), ["machine-irqchip"]),
    "irqchip=split": (machine(("-accel kvm", "-accel kvm,kernel-irqchip=split")), []),
    "TDX": (f"{FIT} -object tdx-guest,id=tdx0", ["machine-confidential"]),
    "SEV in JSON": (f"""{FIT} -object '{{"qom-type":"sev-guest","id":"s"}}'""", ["machine-confidential"]),
    "Hyper-V": (machine(("-vmx", "-vmx,hv_relaxed,hv-time=on")), ["machine-hyperv"]),
    "Hyper-V off": (machine(("-vmx", "-vmx,hv-time=off")), []),
    "Xen": (machine(("-accel kvm", "-accel kvm,xen-version=0x4000f")), ["machine-xen"]),
    "KVM hidden": (machine(("-vmx", "-vmx,kvm=off")), ["machine-kvm-hidden"]),
    "32 bits": (machine(("x86_64", "i386")), ["machine-32-bit"]),
    "S3": (machine((" -global ICH9-LPC.disable_s3=1", "")), ["machine-s3"]),
    "S3 of a pc": (machine(("-M q35,", "-M ")), ["machine-s3"]),
    "S3 of the other kind": (machine(("ICH9-LPC", "PIIX4_PM")), ["machine-s3"]),
    "S3 without ACPI": (machine((" -global ICH9-LPC.disable_s3=1", ""), ("q35,", "q35,acpi=off,")), []),
    "microvm": (machine(("q35", "microvm"), (" -global ICH9-LPC.disable_s3=1", "")), []),
    "a file that is not there": (f"{FIT} -readconfig /etc/none", ["machine-config"]),
    "accel of old": (machine(("-accel kvm -M q35,", "-M q35,accel=kvm:tcg,")), []),
    "enable-kvm": (machine(("-accel kvm", "--enable-kvm")), []),
}


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_is_told_its_fault(name: str, tmp_path: Path) -> None:
    command, expected = MACHINES[name]
    found = look(Host().having(PVE).running(command), tmp_path)
    (one,) = found.machines
    assert sorted(finding.id for finding in one.findings) == sorted(expected)
    blocked = any(CATALOGUE[id_].severity is Severity.BLOCKER for id_ in expected)
    assert (one.ready, found.ready, found.host_ready) == (not blocked, not blocked, True)


def test_a_file_of_options_counts(tmp_path: Path) -> None:
    config = '[machine]\n  smm = "on"\n\n[global]\n  driver = "ICH9-LPC"\n  property = "disable_s3"\n  value = "0"\n'
    host = Host().having({"etc/vm.cfg": config}).running(f"{FIT} -readconfig /etc/vm.cfg")
    assert {one.id for one in look(host, tmp_path).machines[0].findings} == {"machine-smm", "machine-s3"}


def test_a_machine_that_has_run_machines(tmp_path: Path) -> None:
    """Whatever program it is. KVM has the counter for each machine."""
    never = Host().running(FIT).running("/usr/bin/crosvm run", pid=99).having({COUNTER: "0\n"})
    assert [found.id for one in look(never, tmp_path / "a").machines for found in one.findings] == ["machine-program"]
    once = look(never.having({COUNTER: "1\n"}), tmp_path / "b").machines
    assert [[found.id for found in one.findings] for one in once] == [["machine-nested", "machine-program"], []]


def test_nested_off_takes_vmx_from_all(tmp_path: Path) -> None:
    host = Host().having({f"{INTEL}/nested": "N\n"}).running(machine(("host,-vmx", "host")))
    assert look(host, tmp_path).machines[0].findings == ()


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ("", Guarded.OPEN),
        ("restricted 0\nsealed 0\n", Guarded.OPEN),
        (RESTRICTED, Guarded.RESTRICTED),
        (SEALED, Guarded.SEALED),
    ],
)
def test_what_the_host_says_of_a_machine(told: str, state: Guarded, tmp_path: Path) -> None:
    assert look(Host().running(FIT, told=told), tmp_path).machines[0].state is state


def test_nothing_blocks_a_machine_that_is_sealed(tmp_path: Path) -> None:
    """Its warnings stay: what happens on resume happens."""
    found = look(Host().having(PVE).running(PROXMOX, told=SEALED), tmp_path)
    assert [one.id for one in found.machines[0].findings] == ["machine-s3"]
    assert found.ready


def test_who_is_no_kvm_machine(tmp_path: Path) -> None:
    """The host's own list decides; without it the command line does."""
    by_list = Host().running(FIT, told=None)
    assert [one.id for one in look(by_list, tmp_path / "a").machines[0].findings] == ["machine-not-kvm"]
    blind = by_list.lacking("sys/kernel")
    found = look(blind, tmp_path / "b")
    assert (found.machines[0].findings, found.machines[0].state) == ((), Guarded.UNKNOWN)
    assert [one.id for one in found.findings] == ["unseen"]
    emulated = blind.running(machine(("-accel kvm", "-accel tcg")), told=None)
    assert [one.id for one in look(emulated, tmp_path / "c").machines[0].findings] == ["machine-not-kvm"]


def test_another_program_that_uses_kvm(tmp_path: Path) -> None:
    host = Host().running("/usr/bin/firecracker --id 551e7604", pid=99)
    (one,) = look(host, tmp_path).machines
    assert (one.program, [found.id for found in one.findings], one.ready) == (
        "/usr/bin/firecr",
        ["machine-program"],
        True,
    )
    idle = Host().running("/usr/bin/vim", told=None)
    assert look(idle, tmp_path / "idle").machines == ()


def test_machines_are_chosen_by_name_or_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = machine(("host,-vmx", "host"), ("web1", "web2"))
    root = str(Host().running(FIT, 10).running(bad, 11).write(tmp_path))
    assert run(root) == Exit.REFUSED
    assert "cannot be sealed as they run: web2\n" in capsys.readouterr().out
    assert (run(root, "web1"), run(root, "10"), run(root, "--no-machines")) == (0, 0, 0)
    assert (run(root, "web2"), run(root, "web1", "11")) == (Exit.REFUSED, Exit.REFUSED)
    assert run(root, "web3") == Exit.ERROR
    assert "no machine web3 runs here\n  hint: those that run: web1, web2\n" in capsys.readouterr().err


def run(root: str, *words: str) -> int:
    return host_cli.main(["check", "--root", root, *words])


def test_an_answer_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(Host().running(machine(("host,-vmx", "host"))).write(tmp_path))
    assert run(root, "--json") == Exit.REFUSED
    answer = json.loads(capsys.readouterr().out)
    assert (answer["schema"], answer["ready"], answer["host_ready"]) == ("mbecguard.host-check/1", False, True)
    assert answer["machines"][0]["findings"][0]["id"] == "machine-vmx"
    assert (answer["kvm"]["mode"], answer["processor"]["mbec"]) == ("enforce", True)


def test_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(tmp_path / "none"), "--json") == Exit.ERROR
    out, err = capsys.readouterr()
    assert json.loads(out)["exit"] == Exit.ERROR
    assert err.startswith("mbecguard-host: there is no folder")
    assert host_cli.main(["lock"]) == Exit.USAGE
    assert host_cli.main([]) == Exit.USAGE
    assert host_cli.main(["check", "--deny"]) == Exit.USAGE


def test_every_finding_can_be_found(tmp_path: Path) -> None:
    """By the tables above, or by name in one of the tests."""
    listed = {id_ for _, ids in (*HOSTS.values(), *MACHINES.values()) for id_ in ids}
    here = Path(__file__).read_text()
    assert {id_ for id_ in CATALOGUE if id_ not in listed and f'"{id_}"' not in here} == set()


def test_what_may_not_be_read_is_not_absent(tmp_path: Path) -> None:
    (name,) = ENROLLED
    root = NOT_RELOADED.having(SECURE_BOOT).write(tmp_path)
    (root / name).mkdir()
    assert [one.id for one in check(Source(root)).findings] == ["kvm-not-reloaded", "key-unknown"]


def test_a_register_is_read_from_its_device(tmp_path: Path) -> None:
    root = NOT_RELOADED.lacking("dev").write(tmp_path)
    (root / "dev/cpu/0").mkdir(parents=True)
    (root / "dev/cpu/0/msr").symlink_to("/dev/zero")
    assert [one.id for one in check(Source(root)).findings] == ["exit-information-missing", "kvm-not-reloaded"]
