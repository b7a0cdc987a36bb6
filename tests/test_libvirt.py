# SPDX-License-Identifier: GPL-2.0-or-later
"""The machines of docs/HOST.md, made into command lines by Debian 13's libvirt, and judged by `mbecguard-host check`.

libvirt's driver for QEMU runs inside virsh, in a root of its own, and starts nothing. It asks QEMU what it can do, and
there is no KVM: what is of KVM in the XML is put for TCG, and put back in the command line.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.corpus.archive import source_line
from tests.corpus.cache import built, cache_dir, digest, run, say
from tests.hostdoc import DOMAINS, told_of

pytestmark = pytest.mark.lab

SUITE = "trixie"
PACKAGES = ("libvirt-clients", "libvirt-daemon-driver-qemu", "ovmf", "qemu-system-x86")
LIMIT = 900.0
FOR_TCG = {"type='kvm'": "type='qemu'", "mode='host-passthrough'": "mode='maximum'"}
FOR_KVM = {"-accel tcg": "-accel kvm", "-cpu max": "-cpu host"}
#: libvirt makes every network one of taps for such a command line, and opens a tap.
NETWORK = re.compile(r"<interface .*?</interface>", re.DOTALL)
#: `virsh` asks the driver itself; the session's folders are the root's own, and go away with it.
CONVERT = """
mount -t proc proc "$1/proc"
mount -t tmpfs tmpfs "$1/tmp"
cat >"$1/tmp/domain.xml"
exec chroot "$1" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C.UTF-8 sh -ec '
    virt-xml-validate /tmp/domain.xml domain >&2
    virsh -q -c "qemu:///embed?root=/tmp/libvirt" domxml-to-native qemu-argv /tmp/domain.xml'
"""


@pytest.fixture(scope="module")
def root() -> Path:
    words = ["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE]

    def make(scratch: Path) -> None:
        say(f"{SUITE} root by mmdebstrap: {' '.join(PACKAGES)}")
        run([*words, scratch / "root", source_line(SUITE)], limit=LIMIT)

    return built(cache_dir() / f"libvirt-root-{digest(*words)}", make) / "root"


def command_line(domain: str, root: Path) -> list[str]:
    """How libvirt would start a machine, from the program on."""
    for words, others in FOR_TCG.items():
        domain = domain.replace(words, others)
    given = NETWORK.sub("", domain)
    line = run(["unshare", "--mount", "--net", "sh", "-euc", CONVERT, "sh", root], given=given, limit=LIMIT)
    for words, others in FOR_KVM.items():
        line = line.replace(words, others)
    found = shlex.split(line)
    return found[next(at for at, word in enumerate(found) if word.endswith("/qemu-system-x86_64")) :]


@pytest.mark.parametrize("domain", DOMAINS, ids=[re.findall(r"<name>(.*)</name>", one)[0] for one in DOMAINS])
def test_nothing_keeps_a_machine_of_the_page_from_a_seal(domain: str, root: Path, tmp_path: Path) -> None:
    words = command_line(domain, root)
    assert "-accel kvm" in " ".join(words)
    assert told_of(words, tmp_path) == []


def test_without_the_lines_of_the_page_it_is_kept(root: Path, tmp_path: Path) -> None:
    domain = re.sub(r"<smm .*?/>|<feature .*?/>|<pm>.*?</pm>", "", DOMAINS[0], flags=re.DOTALL)
    assert told_of(command_line(domain, root), tmp_path) == ["machine-s3", "machine-smm", "machine-vmx"]
