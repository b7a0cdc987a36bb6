# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests on this machine's own KVM: who may, what is started, what is packed. Nothing here opens /dev/kvm."""

from __future__ import annotations

import json
import shlex
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.values.errors import UserError
from tests.hostdoc import told_of
from tests.hostmaker import FIT, KVM, Host
from tests.lab import __main__ as cli
from tests.lab import native, plain
from tests.lab import run as lab
from tests.lab.guestimage import QEMU
from tests.lab.layers import Host as Kind
from tests.lab.layers import Stack, Userland
from tests.lab.parts import HERE
from tests.lab.scenarios import SCENARIOS, Setting, find

STACK = Stack("6.12", Kind.OURS, 2, native=True)
AUDIT = {f"{KVM}/parameters/mbecguard": "audit\n", "etc/modprobe.d/mbecguard.conf": "options kvm mbecguard=audit\n"}


def refusal(host: Host, folder: Path) -> tuple[str, str]:
    with pytest.raises(UserError) as caught:
        native.require(host.write(folder))
    return caught.value.message, caught.value.hint


def test_a_host_that_is_ready(tmp_path: Path) -> None:
    native.require(Host().write(tmp_path))


def test_a_host_that_is_not(tmp_path: Path) -> None:
    message, hint = refusal(Host().swapped("proc/cpuinfo", " ept_mode_based_exec", ""), tmp_path / "old")
    assert "no mode-based execute control" in message
    assert "Kaby Lake or later" in hint
    assert "stock KVM is loaded" in refusal(Host().stock(), tmp_path / "stock")[0]
    assert refusal(Host().having(AUDIT), tmp_path / "audit")[0] == "kvm.mbecguard is audit"
    assert refusal(Host().running(FIT), tmp_path / "busy")[0] == "other machines run here: web1"


def test_it_is_asked_before_anything_is_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MBECGUARD_CACHE", str(tmp_path))
    monkeypatch.setattr(lab, "require_tools", lambda: None)
    require = native.require
    monkeypatch.setattr(native, "require", lambda: require(Host().stock().write(tmp_path / "host")))
    monkeypatch.setattr("tests.lab.guestimage.initrd", lambda *_: pytest.fail("built"))
    with pytest.raises(UserError, match="stock KVM is loaded"):
        lab.run(STACK, find(["query"], STACK.host), 60)


def test_only_the_kvm_that_is_loaded() -> None:
    for wrong in (
        {"host": Kind.STOCK},
        {"host": Kind.PLAIN},
        {"kvm_options": "x=1"},
        {"host_cmdline": "x"},
        {"debug": True},
        {"kvm_folder": Path("/m")},
    ):
        with pytest.raises(UserError, match="--native takes the KVM that is loaded"):
            replace(STACK, **wrong)


def test_scenarios_that_need_another_kvm_are_left_out() -> None:
    settings = {row.name: row.setting for row in SCENARIOS}
    kept = {row.name for row in native.possible(list(SCENARIOS), named=False)}
    assert {"query", "canary", "seal", "payload", "lock", "workload"} <= kept
    assert settings.keys() - kept == {
        name
        for name, one in settings.items()
        if one.kvm or one.kvm_intel or one.stock or one.liar or one.hugetlb or one.machine.ovmf is not None
    }
    for name, reason in (
        ("without-mbec", "needs KVM loaded with mbec=0"),
        ("audit", "needs KVM loaded with mbecguard=audit"),
    ):
        with pytest.raises(UserError, match=f"{name}: {reason}"):
            native.possible([row for row in SCENARIOS if row.name == name], named=True)


def started(setting: Setting, folder: Path, disk: Path | None = None, stack: Stack = STACK) -> list[str]:
    return plain.command_line(stack, setting, native.LOCAL, disk, folder, folder)


def test_what_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that L1 starts in the lab, with L1's agent; and `mbecguard-host check` has nothing against it."""
    monkeypatch.setattr(Stack, "guest", lambda _: type("Kernel", (), {"image": Path("/boot/vmlinuz")})())
    words = started(Setting(), tmp_path)
    agent, qemu = words[:6], words[6:]
    assert agent[:2] == ["bash", str(HERE / "host/agent")]
    assert agent[5] == str(STACK.silence)
    assert shlex.join(qemu).startswith(
        f"{QEMU} -M microvm,pit=off,pic=off,rtc=on,accel=kvm -machine smm=off -cpu host,-vmx -smp 2 "
    )
    assert f"{tmp_path}/initrd" in qemu
    assert "virtio-serial-device,max_ports=2" in qemu
    assert told_of(qemu, tmp_path / "host") == []
    assert "machine-smm" in told_of(started(Setting(smm=True), tmp_path)[6:], tmp_path / "smm")


def test_a_guest_with_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stack, "guest", lambda _: type("Kernel", (), {"image": Path("/boot/vmlinuz")})())
    stack = replace(STACK, userland=Userland.SYSTEMD)
    words = started(Setting(), tmp_path, Path("/cache/root.img"), stack)
    assert "id=root,file=/cache/root.img,format=raw,if=none,snapshot=on" in words


def test_its_logs_are_its_own() -> None:
    assert str(STACK) == "6.12-native-2cpu"
    assert str(replace(STACK, native=False)) == "6.12-ours-2cpu"


def test_what_the_kernel_says_meanwhile(tmp_path: Path) -> None:
    device = tmp_path / "kmsg"
    device.write_text("4,1,1,-;WARNING: of before\n")
    with native.kernel_log(device) as log, device.open("a") as kernel:
        kernel.write("4,2,2,-;WARNING: CPU: 1\n6,3,3,-;kvm: fine\n")
        kernel.flush()
        said = log()
    assert said == "4,2,2,-;WARNING: CPU: 1\n6,3,3,-;kvm: fine\n"
    assert len(native.COMPLAINT.findall(said)) == 1


def test_one_archive_for_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "verdict.log").write_text("{}\n")
    monkeypatch.setattr(native, "TOLD", {"kernel.txt": "echo Linux; false", "none.txt": "no-such-program"})
    archive = native.packed(STACK, logs, tmp_path)
    with tarfile.open(archive) as tar:
        texts = {Path(one.name).name: tar.extractfile(one).read().decode() for one in tar.getmembers()}  # type: ignore[union-attr]
        assert {Path(one.name).parts[0] for one in tar.getmembers()} == {archive.name.removesuffix(".tar.gz")}
    assert texts.keys() == {"verdict.log", "kernel.txt", "none.txt", "host-check.json", "stack.txt"}
    assert (texts["kernel.txt"], "not found" in texts["none.txt"]) == ("Linux\n", True)
    assert json.loads(texts["host-check.json"])["schema"] == "mbecguard.host-check/1"


def test_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Stack] = []

    def run(stack: Stack, *_: object) -> None:
        seen.append(stack)
        raise SystemExit(0)

    monkeypatch.setattr(cli, "run", run)
    monkeypatch.setattr("sys.argv", ["lab", "run", "--native", "query"])
    with pytest.raises(SystemExit):
        cli.main()
    assert seen == [replace(STACK, cpus=1)]
