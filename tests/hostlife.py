# SPDX-License-Identifier: GPL-2.0-or-later
"""The years of a host, by hand: `pytest tests/hostlife.py`, or `-k trixie` alone. For each 1 GB and three builds.

Two kernels of a suite with their packages, real DKMS and initramfs-tools, in a root by mmdebstrap: our package comes, a
kernel comes without its source, the source comes, our package is upgraded, kernels come again and go, all of it goes.
What `make test` has of this is in test_kvm_host_dkms.py and test_packaging.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from mbecguard import __version__
from tests.corpus.archive import download, names, source_line, versions
from tests.corpus.cache import built, cache_dir, digest, run, say
from tests.lab.locks import alone
from tests.packages import OLDER, Steps, build, build_older, reader, steps_in

LIMIT = 3600.0
#: The series of a suite, and where its older and its newer kernel come from.
SUITES = {
    "trixie": ("6.12", "trixie", "trixie"),
    "forky": ("7.2", "forky", "sid"),
    "bookworm": ("6.12", "bookworm-security", "bookworm-security"),
}
OURS = "mbecguard-kvm-host-dkms"


@dataclass(frozen=True, slots=True)
class Kernel:
    """One of a suite: the version of its source, and the release of its cloud flavour."""

    suite: str
    source: str  #: as apt takes it, NAME=VERSION
    release: str

    @property
    def packages(self) -> list[str]:
        """All of it but the source. From 7.x on the image is in linux-binary, and modules are apart."""
        release, base = re.escape(self.release), re.escape(self.release.removesuffix("-cloud-amd64"))
        wanted = rf"linux-((image|binary|modules|base|headers)-{release}|(kbuild|headers)-{base}(-common)?)"
        return [name for name in names(self.suite, "linux-") if re.fullmatch(wanted, name)]


def kernel_of(suite: str, series: str, number: int) -> Kernel:
    """By the number of its version, the newest first."""
    source = f"linux-source-{series}"
    version = versions(suite, source)[number]
    wanted = rf"linux-headers-({re.escape(version.rpartition('-')[0])}\+.*-cloud-amd64)"
    found = [match[1] for name in names(suite, "linux-headers-") if (match := re.fullmatch(wanted, name))]
    return Kernel(suite, f"{source}={version}", max(found))


SCRIPT = """
host() {{ dpkg -i /packages/{ours}_$1_all.deb; }}
kvm() {{ modinfo -k $1 -n kvm; modinfo -k $1 -F mbecguard_test kvm; }}
files() {{ for release in {older} {newer}; do kvm $release; done; }}
holds() {{ lsinitramfs /boot/initrd.img-{newer} | grep '/kvm\\.ko'; }}
stage() {{
    stage=$1
    shift
    must $stage "$@"
    step $stage.files files
    step $stage.audit dpkg --audit
}}
echo kvm >>/etc/initramfs-tools/modules
stage fresh host {before}
stage kernel dpkg -i /packages/linux-[bhikm]*.deb
stage source dpkg -i /packages/linux-source-*.deb
stage upgrade host {after}
stage again dpkg -i /packages/linux-[im]*.deb
mkdir -p /lib/modules/7.2.1-1-pve/kernel /lib/modules/6.12.9-1-liquorix-amd64/build/include
stage others dpkg-reconfigure {ours}
step initramfs holds
stage gone dpkg --purge $(dpkg-query -W -f '${{Package}}\\n' "linux-*-{older}")
step state ls /var/lib/mbecguard-host
stage purge dpkg --purge {ours}
step initramfs.stock holds
step left ls /var/lib/mbecguard-host /var/lib/dkms/mbecguard-kvm /usr/src/mbecguard-kvm-1
"""


@dataclass(frozen=True, slots=True)
class Life:
    """What became of both kernels, step by step."""

    older: str
    newer: str
    steps: Steps

    def kvms(self, stage: str) -> list[str]:
        """For each kernel whose KVM it has: of the older package, of the newer one, or stock."""
        told = []
        for release in (self.older, self.newer):
            found = re.search(
                rf"^\S*/{re.escape(release)}/(\S*)/kvm\.ko.*\n(older)?", self.steps(f"{stage}.files").text, re.M
            )
            ours = found is not None and found[1] == "updates/dkms"
            told.append("none" if not found else "stock" if not ours else "older" if found[2] else "newer")
        return told


@pytest.fixture(scope="module", params=SUITES)
def life(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Life:
    series, *suites = SUITES[request.param]
    older, newer = kernel_of(suites[0], series, -1), kernel_of(suites[1], series, 0)
    folder = tmp_path_factory.mktemp("packages")
    with alone("packages-test", LIMIT):
        files = build("debs", folder / "newer")
        files += build_older(folder / f"newer/mbecguard_{__version__}.tar.xz", folder)
    files = [path for path in files if path.name.startswith(OURS)]
    words = {"ours": OURS, "older": older.release, "newer": newer.release, "before": OLDER, "after": __version__}
    with alone(f"life-{request.param}", LIMIT):
        steps = steps_in(root(request.param, older), [*files, *debs(newer)], SCRIPT.format(**words), LIMIT)
    return Life(older.release, newer.release, reader(steps))


def root(suite: str, kernel: Kernel) -> Path:
    """With the older kernel, DKMS and initramfs-tools."""
    packages = ["dkms", "openssl", "patch", "initramfs-tools", "kmod", "zstd", kernel.source, *kernel.packages]
    words = ["mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}", suite]
    sources = [source_line(name) for name in dict.fromkeys((suite, kernel.suite))]

    def make(scratch: Path) -> None:
        say(f"{suite} root by mmdebstrap: {' '.join(packages)}")
        run([*words, scratch / "root", *sources], limit=LIMIT)

    return built(cache_dir() / f"life-root-{suite}-{digest(*words)}", make) / "root"


def debs(kernel: Kernel) -> list[Path]:
    """The packages of a kernel, its source among them."""

    def make(scratch: Path) -> None:
        for package in (kernel.source, *kernel.packages):
            (scratch / package).mkdir()
            download(kernel.suite, package, scratch / package)

    return sorted(built(cache_dir() / f"life-debs-{digest(kernel.source, *kernel.packages)}", make).rglob("*.deb"))


def test_no_package_is_left_in_pieces(life: Life) -> None:
    """Each stage has ended with 0, or there would be no next one."""
    for stage in ("fresh", "kernel", "source", "upgrade", "again", "others", "gone", "purge"):
        assert (life.steps(f"{stage}.audit").text.strip(), life.steps(stage).status) == ("", 0)


@pytest.mark.parametrize(
    ("stage", "kvms"),
    [
        ("fresh", ["older", "none"]),
        ("kernel", ["older", "stock"]),
        ("source", ["older", "older"]),
        ("upgrade", ["older", "newer"]),
        ("again", ["older", "newer"]),
        ("others", ["older", "newer"]),
        ("gone", ["none", "newer"]),
        ("purge", ["none", "stock"]),
    ],
)
def test_who_has_which_kvm(life: Life, stage: str, kvms: list[str]) -> None:
    """One waits for its source; one whose source is gone keeps what it has, as does one whose package comes again."""
    assert life.kvms(stage) == kvms


def test_what_is_told(life: Life) -> None:
    assert f"kernel {life.newer} keeps its own KVM" in life.steps("kernel").text
    assert f"kernel {life.older} keeps the KVM of ours that it has" in life.steps("upgrade").text
    assert life.steps("others").text.count("it is not a kernel of Debian's") == 2
    assert life.older not in life.steps("state").text


def test_an_initramfs_that_holds_kvm_follows(life: Life) -> None:
    assert "updates/dkms/kvm.ko" in life.steps("initramfs").text
    assert "kernel/arch/x86/kvm/kvm.ko" in life.steps("initramfs.stock").text


def test_nothing_is_left(life: Life) -> None:
    assert life.steps("left").text.count("No such file") == 3
