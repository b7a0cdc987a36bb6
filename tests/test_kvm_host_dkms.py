# SPDX-License-Identifier: GPL-2.0-or-later
"""kvm-host as a DKMS package, in a Debian root of its own: built, signed, preferred, left out, refused, removed.

All steps run once for one content of kvm-host; what they printed is kept in the cache.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mbecguard.values.errors import die
from tests.corpus.archive import kernel, source_line
from tests.corpus.cache import built, cache_dir, digest, run, say
from tests.lab.layers import HOST_SERIES, HOST_SUITES
from tests.lab.locks import alone
from tests.packages import Steps, reader

pytestmark = pytest.mark.lab

KVM_HOST = Path(__file__).parents[1] / "kvm-host"
OTHER = "7.3.1-cloud-amd64"  #: a release of another series; there is none of this name
MODULES = ("kvm", "kvm-intel", "kvm-amd")
LIMIT = 900.0

#: `step NAME COMMAND` leaves what the command printed in /out/NAME, its status as the last line.
STEPS = f"""
release=$1
package=$(realpath "/lib/modules/$release/build/include/generated/package.h")
step() {{
    name=$1 status=0
    shift
    "$@" >"/out/$name" 2>&1 || status=$?
    printf '\\n%d' $status >>"/out/$name"
}}
files() {{ for module in {" ".join(MODULES)}; do modinfo -k "$release" -n $module; done; }}
build() {{ dkms build mbecguard-kvm/1 -k "$1"; }}
mount -t proc proc /proc
rm -rf /out /var/lib/dkms/mbecguard-kvm /usr/src/mbecguard-kvm-1 "/lib/modules/$release/updates"
mkdir -p /out "/lib/modules/{OTHER}/build/include"
depmod "$release"
cd /
step before files
step add dkms add kvm-host
step other build {OTHER}
step automatic dkms autoinstall -k {OTHER}

# The next revision of the headers, while the source stays.
sed 's/ Debian [^"]*/&.9/' "$package" >/tmp/package.h
mount --bind /tmp/package.h "$package"
step mismatch build "$release"
step mismatch.log cat /var/lib/dkms/mbecguard-kvm/1/build/make.log
umount "$package"

step build build "$release"
step make.log cat "/var/lib/dkms/mbecguard-kvm/1/$release/x86_64/log/make.log"
step install dkms install mbecguard-kvm/1 -k "$release"
step files files
step parameters modinfo -k "$release" -F parm kvm
step signers modinfo -k "$release" -F signer {" ".join(MODULES)}
step order modprobe -S "$release" --show-depends kvm_intel
step unbuild dkms unbuild mbecguard-kvm/1 -k "$release"
step unbuilt files
step status dkms status mbecguard-kvm/1
step remove dkms remove mbecguard-kvm/1 --all
step gone dkms status mbecguard-kvm/1
"""


@pytest.fixture(scope="module")
def release() -> str:
    return kernel(HOST_SUITES[HOST_SERIES]).release


@pytest.fixture(scope="module")
def steps(release: str) -> Steps:
    sources = sorted(path for path in KVM_HOST.rglob("*") if path.is_file())
    content = (part for path in sources for part in (str(path.relative_to(KVM_HOST)), path.read_bytes()))
    with alone("lab-dkms", LIMIT):
        root = dkms_root(release)
        key = digest(root.name, STEPS, *content)
        folder = built(cache_dir() / f"lab-dkms-{key}", lambda scratch: _take_steps(root, release, scratch))
    return reader(folder)


def dkms_root(release: str) -> Path:
    """With what README tells to install, the stock modules, and openssl, which makes DKMS sign."""
    packages = ["dkms", "openssl", "linux-source-7.2", f"linux-headers-{release}", f"linux-modules-{release}"]
    words = ["mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}", HOST_SUITES[HOST_SERIES]]

    def make(scratch: Path) -> None:
        say(f"{HOST_SUITES[HOST_SERIES]} root by mmdebstrap: {' '.join(packages)}")
        run([*words, scratch / "root", source_line(HOST_SUITES[HOST_SERIES])], limit=LIMIT)

    return built(cache_dir() / f"lab-dkms-root-{digest(*words)}", make)


def _take_steps(folder: Path, release: str, into: Path) -> None:
    root = folder / "root"
    shutil.rmtree(root / "kvm-host", ignore_errors=True)
    shutil.copytree(KVM_HOST, root / "kvm-host")
    # The mounts go away with the shell's namespace.
    run(["unshare", "--mount", "chroot", root, "sh", "-euc", STEPS, "sh", release], limit=LIMIT)
    for path in (root / "out").iterdir():
        shutil.copy(path, into)
    log = (root / "out/make.log").read_text()
    if not log.endswith("\n0") or "# exit code: 0" not in log:
        die("DKMS does not build kvm-host", hint=log[-3000:])


def test_our_modules_take_the_place_of_the_stock_ones(steps: Steps, release: str) -> None:
    assert [steps(name).status for name in ("add", "build", "install")] == [0, 0, 0]
    stock = [f"/lib/modules/{release}/kernel/arch/x86/kvm/{name}.ko.xz" for name in MODULES]
    assert steps("before").text.split() == stock
    assert steps("files").text.split() == [f"/lib/modules/{release}/updates/dkms/{name}.ko.xz" for name in MODULES]
    assert steps("unbuilt").text.split() == stock


def test_it_can_be_built_again_and_removed(steps: Steps) -> None:
    assert [steps(name).status for name in ("unbuild", "remove")] == [0, 0]
    assert steps("status").text.split() == ["mbecguard-kvm/1:", "added"]
    assert not steps("gone").text.strip()


def test_modprobe_loads_ours(steps: Steps, release: str) -> None:
    loaded = [line.split()[1] for line in steps("order").text.splitlines()]
    updates = f"/lib/modules/{release}/updates/dkms"
    assert loaded[-2:] == [f"{updates}/kvm.ko.xz", f"{updates}/kvm-intel.ko.xz"]


def test_the_parameter_is_there(steps: Steps) -> None:
    names = [line.split(":")[0] for line in steps("parameters").text.splitlines()]
    assert {"mbecguard", "mbecguard_selftest", "nx_huge_pages"} <= set(names)


def test_the_modules_are_signed(steps: Steps) -> None:
    assert steps("signers").text.splitlines() == ["DKMS module signing key"] * len(MODULES)


def test_a_kernel_of_another_series_is_left_out(steps: Steps) -> None:
    assert steps("other").status == 77
    assert "BUILD_EXCLUSIVE" in steps("other").text


def test_installing_a_kernel_of_another_series_does_not_fail(steps: Steps) -> None:
    assert (steps("automatic").status, "skipped" in steps("automatic").text) == (0, True)


def test_headers_of_another_revision_are_refused_loudly(steps: Steps) -> None:
    assert steps("mismatch").status == 10
    assert "make.log" in steps("mismatch").text
    log = steps("mismatch.log").text
    assert "build.sh: linux-source-7.2 is version " in log
    assert "install the same version of both" in log
