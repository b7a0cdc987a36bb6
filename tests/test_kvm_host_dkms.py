# SPDX-License-Identifier: GPL-2.0-or-later
"""kvm-host as a DKMS package, in a Debian root of its own: built, signed, preferred, left out, refused, removed.

All steps run once for one content of kvm-host; what they printed is kept in the cache.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mbecguard.readiness.check import check
from mbecguard.readiness.source import Source
from mbecguard.values.errors import die
from tests.corpus.archive import kernel, source_line
from tests.corpus.cache import built, cache_dir, digest, run, say
from tests.hostmaker import Host
from tests.lab.layers import HOST_SERIES, HOST_SUITES
from tests.lab.locks import alone
from tests.packages import Steps, reader

pytestmark = pytest.mark.lab

PROJECT = Path(__file__).parents[1]
KVM_HOST = PROJECT / "kvm-host"
HOOK = PROJECT / "packaging/kernel-hook"
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
# What the package of the kernel's headers does when it is installed.
install_headers() {{ DEBIAN_FRONTEND=noninteractive dpkg-reconfigure "linux-headers-$release"; }}
skipped() {{
    step $1 install_headers
    step $1.files files
    step $1.state cat "$state"
}}
mount -t proc proc /proc
state=/var/lib/mbecguard-host/$release/state
rm -rf /out /var/lib/mbecguard-host /var/lib/dkms/mbecguard-kvm /usr/src/mbecguard-kvm-1 "/lib/modules/$release/updates"
for when in postinst header_postinst; do cp /kernel-hook /etc/kernel/$when.d/mbecguard-kvm-host; done
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
skipped mismatch
umount "$package"

# The next point release: KVM has changed where the patch is, and where it is not.
cd /usr/src/mbecguard-kvm-1
rm -rf /tmp/patches
cp -a patches /tmp
sed -i 's/^ .*kvm_ops_update(ops);/& \\/\\* now \\*\\//' patches/*.patch
skipped unfit
cp /tmp/patches/*.patch patches
echo '#error' >>src/mbecg.h
skipped broken
sed -i '$d' src/mbecg.h
cd /

step build build "$release"
step make.log cat "/var/lib/dkms/mbecguard-kvm/1/$release/x86_64/log/make.log"
step install dkms install mbecguard-kvm/1 -k "$release"
step no.state cat "$state"
step files files
step parameters modinfo -k "$release" -F parm kvm
step signers modinfo -k "$release" -F signer {" ".join(MODULES)}
step order modprobe -S "$release" --show-depends kvm_intel

# As if the power had failed while DKMS copied.
rm "/lib/modules/$release/updates/dkms"/kvm-*.ko.xz "/var/lib/dkms/mbecguard-kvm/kernel-$release-x86_64"
step half ls "/lib/modules/$release/updates/dkms"
step again install_headers
step whole files

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
        key = digest(root.name, STEPS, HOOK.read_bytes(), *content)
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
    shutil.copy(HOOK, root)
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


SKIPPED = {
    "mismatch": ("source", "linux-source-7.2 is version "),
    "unfit": ("patch", "7.2.patch does not apply to "),
    "broken": ("build", "does not build with the patches of 7.2"),
}


@pytest.mark.parametrize("name", SKIPPED)
def test_a_kernel_that_gets_none_of_ours_keeps_its_own(name: str, steps: Steps) -> None:
    """The package of its headers is installed without an error, and the administrator is told."""
    assert steps(name).status == 0
    assert steps(f"{name}.files").text == steps("before").text
    assert "keeps its own KVM, so no guest can lock on it" in steps(name).text
    assert SKIPPED[name][1] in steps(name).text


@pytest.mark.parametrize("name", SKIPPED)
def test_the_host_s_check_says_why(name: str, steps: Steps, release: str, tmp_path: Path) -> None:
    files = {
        "proc/sys/kernel/osrelease": release,
        f"var/lib/mbecguard-host/{release}/state": steps(f"{name}.state").text,
    }
    (found,) = check(Source(Host().stock().having(files).write(tmp_path))).findings[:1]
    reason, words = SKIPPED[name]
    assert (found.id, found.facts["release"], found.facts["reason"]) == ("kvm-skipped", release, reason)
    assert words in str(found.facts["problem"])


def test_a_kernel_that_has_ours_has_no_trouble(steps: Steps) -> None:
    assert steps("no.state").status == 1


def test_there_is_never_half_a_kvm(steps: Steps, release: str) -> None:
    """What an installation left that broke off is taken away before the next one begins."""
    assert steps("half").text.split() == ["kvm.ko.xz"]
    assert "of our modules of KVM for kernel" in steps("again").text
    assert (steps("again").status, steps("whole").text) == (0, steps("files").text)
