# SPDX-License-Identifier: GPL-2.0-or-later
"""The order of our units and those of others that also hold on to the boot's milestones: systemd finds no cycle."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.test_systemd_units import UNITS, needs_systemd

#: What orders them, and who wants them, as of 2026: cloud-init 25 on Debian, Docker 28 and older ones, kubelet.
OTHERS = {
    "cloud-init-local.service": """DefaultDependencies=no
        Wants=network-pre.target
        After=hv_kvp_daemon.service systemd-remount-fs.service
        Before=network-pre.target shutdown.target sysinit.target
        Conflicts=shutdown.target
        WantedBy=cloud-init.target""",
    "cloud-init-network.service": """DefaultDependencies=no
        Wants=cloud-init-local.service sshd.service
        After=cloud-init-local.service systemd-networkd-wait-online.service networking.service
        Before=network-online.target sshd.service systemd-user-sessions.service sysinit.target shutdown.target
        Conflicts=shutdown.target
        WantedBy=cloud-init.target""",
    "cloud-config.service": """After=network-online.target cloud-config.target
        Wants=network-online.target cloud-config.target
        Before=systemd-user-sessions.service
        WantedBy=cloud-init.target""",
    "cloud-final.service": """After=network-online.target cloud-config.service rc-local.service multi-user.target
        Wants=network-online.target cloud-config.service
        Before=apt-daily.service
        WantedBy=cloud-init.target""",
    "cloud-config.target": "After=cloud-init-local.service cloud-init-network.service",
    "cloud-init.target": "After=multi-user.target\nWantedBy=multi-user.target",
    "networking.service": """DefaultDependencies=no
        Wants=network.target
        After=local-fs.target network-pre.target apparmor.service systemd-sysctl.service systemd-modules-load.service
        Before=network.target shutdown.target
        Conflicts=shutdown.target
        WantedBy=multi-user.target network-online.target""",
    "sshd.service": "After=network.target\nWantedBy=multi-user.target",
    "docker.service": """After=network-online.target nss-lookup.target docker.socket firewalld.service
        After=containerd.service
        Wants=network-online.target containerd.service
        Requires=docker.socket
        WantedBy=multi-user.target""",
    "old-docker.service": """After=network-online.target firewalld.service containerd.service multi-user.target
        WantedBy=multi-user.target""",
    "docker.socket": "WantedBy=sockets.target",
    "containerd.service": "After=network.target local-fs.target\nWantedBy=multi-user.target",
    "kubelet.service": "Wants=network-online.target\nAfter=network-online.target\nWantedBy=multi-user.target",
}
#: Who judges a boot. These two cannot be on one machine: a cycle of their own.
JUDGES = {
    "systemd": {
        "systemd-boot-check-no-failures.service": """After=default.target graphical.target multi-user.target
            Before=boot-complete.target shutdown.target
            Conflicts=shutdown.target
            RequiredBy=boot-complete.target""",
        "systemd-bless-boot.service": """DefaultDependencies=no
            Requires=boot-complete.target
            After=local-fs.target boot-complete.target
            Before=shutdown.target
            Conflicts=shutdown.target
            WantedBy=basic.target""",
    },
    "greenboot": {
        "greenboot-healthcheck.service": "Before=boot-complete.target\nRequiredBy=boot-complete.target",
        "greenboot-grub2-set-success.service": """Requires=boot-complete.target
            After=boot-complete.target
            WantedBy=multi-user.target""",
        "greenboot-task-runner.service": """Requires=boot-complete.target
            After=boot-complete.target
            WantedBy=multi-user.target""",
    },
}
OURS_TOO = [path for path in UNITS if path.suffix == ".service"]


def text_of(name: str, directives: str) -> str:
    """A unit file; who wants it stands in its last section."""
    lines = [line.strip() for line in directives.splitlines()]
    install = [line for line in lines if line.startswith(("WantedBy", "RequiredBy"))]
    what = {
        "service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true",
        "socket": "[Socket]\nListenStream=/run/lab.sock",
    }
    rest = [line for line in lines if line not in install]
    return "\n".join(["[Unit]", *rest, what.get(name.rpartition(".")[2], ""), "[Install]", *install, ""])


def enable(folder: Path, name: str, text: str) -> None:
    """Put a unit there, with the links that `systemctl enable` would make."""
    (folder / name).write_text(text)
    for line in text.splitlines():
        key, _, targets = line.partition("=")
        for target in targets.split() if key in ("WantedBy", "RequiredBy") else ():
            wants = folder / f"{target}.{'wants' if key == 'WantedBy' else 'requires'}"
            wants.mkdir(exist_ok=True)
            (wants / name).symlink_to(folder / name)


def cycles(folder: Path) -> list[str]:
    """What systemd says of cycles when it plans a boot with these units and its own."""
    (folder / "all.target").write_text("[Unit]\nWants=graphical.target multi-user.target boot-complete.target\n")
    command = [str(shutil.which("systemd-analyze")), "verify", "--man=no", str(folder / "all.target")]
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:", "SYSTEMD_LOG_LEVEL": "warning"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=60)
    assert "all.target" not in done.stderr, done.stderr
    return [line for line in done.stderr.splitlines() if "cycle" in line]


@pytest.fixture(params=JUDGES)
def everything(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """All of ours enabled, and theirs."""
    for path in OURS_TOO:
        lines = [line for line in path.read_text().splitlines() if not line.startswith("Documentation=")]
        enable(tmp_path, path.name, "\n".join(lines).replace("/usr/bin/mbecguard", "/bin/true"))
    for name, directives in (OTHERS | JUDGES[request.param]).items():
        enable(tmp_path, name, text_of(name, directives))
    return tmp_path


@needs_systemd
def test_no_unit_of_others_makes_a_cycle_with_ours(everything: Path) -> None:
    assert cycles(everything) == []


@needs_systemd
def test_a_cycle_would_be_found(everything: Path) -> None:
    directives = "After=multi-user.target\nBefore=mbecguard-lock.service\nWantedBy=multi-user.target"
    enable(everything, "wrong.service", text_of("wrong.service", directives))
    assert cycles(everything)
