# SPDX-License-Identifier: GPL-2.0-or-later
"""kvm-host as a DKMS package, in a Debian root of its own: built, signed, preferred, left out, refused, removed.

All steps run once for one content of kvm-host; what they printed is kept in the cache.
"""

from __future__ import annotations

import shutil
import tempfile
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
from tests.packages import OVERLAY, Steps, reader

pytestmark = pytest.mark.lab

PROJECT = Path(__file__).parents[1]
KVM_HOST = PROJECT / "kvm-host"
OTHER, FOREIGN = (
    "7.3.1+deb14-cloud-amd64",
    "7.2.1-1-pve",
)  #: of another series, and not Debian's; there are none of these names
MODULES = ("kvm", "kvm-intel", "kvm-amd")
LIMIT = 900.0

#: `step NAME COMMAND` leaves what the command printed in /out/NAME, its status as the last line.
STEPS = f"""
release=$1
package=$(realpath "/lib/modules/$release/build/include/generated/package.h")
sources=/usr/src/mbecguard-kvm-1
step() {{
    name=$1 status=0
    shift
    "$@" >"/out/$name" 2>&1 || status=$?
    printf '\\n%d' $status >>"/out/$name"
}}
files() {{ for module in {" ".join(MODULES)}; do modinfo -k "$release" -n $module; done; }}
renew() {{ $sources/dkms.sh renew; }}
skipped() {{
    step $1 renew
    step $1.files files
    step $1.state cat "$state"
}}
# The next revision of the headers, while the source stays.
with_other_headers() {{
    sed 's/ Debian [^"]*/&.9/' "$package" >/tmp/package.h
    mount --bind /tmp/package.h "$package"
    skipped $1
    umount "$package"
}}
mount -t proc proc /proc
state=/var/lib/mbecguard-host/$release/state
mkdir -p /out "/lib/modules/{OTHER}/build/include" "/lib/modules/{FOREIGN}/build/include"
depmod "$release"
cd /
step before files
step add dkms add kvm-host
step other dkms build mbecguard-kvm/1 -k {OTHER}
step foreign dkms build mbecguard-kvm/1 -k {FOREIGN}
step automatic dkms autoinstall -k {OTHER}
with_other_headers mismatch
step told $sources/dkms.sh tell

# The next point release: KVM has changed where the patch is, and where it is not.
rm -rf /tmp/patches
cp -a $sources/patches /tmp
sed -i 's/^ .*kvm_ops_update(ops);/& \\/\\* now \\*\\//' $sources/patches/*.patch
skipped unfit
cp /tmp/patches/*.patch $sources/patches
echo '#error' >>$sources/src/mbecg.h
skipped broken
sed -i '$d' $sources/src/mbecg.h

step install renew
step make.log cat "/var/lib/dkms/mbecguard-kvm/1/$release/x86_64/log/make.log"
step no.state cat "$state"
step files files
step parameters modinfo -k "$release" -F parm kvm
step signers modinfo -k "$release" -F signer {" ".join(MODULES)}
step order modprobe -S "$release" --show-depends kvm_intel
step twice renew

# What a package of this kernel that comes again has DKMS do; then ours is newer, and the source is of another version.
step preinst dkms kernel_preinst -k "$release"
echo '/* newer */' >>$sources/src/mbecg.h
with_other_headers kept
sed -i '$d' $sources/src/mbecg.h

# As if the power had failed while DKMS copied.
rm "/lib/modules/$release/updates/dkms"/kvm-*.ko.xz "/var/lib/dkms/mbecguard-kvm/kernel-$release-x86_64"
step half ls "/lib/modules/$release/updates/dkms"
step again renew
step whole files

step prerm dkms kernel_prerm -k "$release"
depmod "$release" # DKMS 3.2.2 skips it, with no kernel's name in its argument: this kernel is going
step unbuilt files
step status dkms status mbecguard-kvm/1
step remove $sources/dkms.sh remove
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
        key = digest(root.name, OVERLAY, STEPS, *content)
        folder = built(cache_dir() / f"lab-dkms-{key}", lambda scratch: _take_steps(root, release, scratch))
    return reader(folder)


def dkms_root(release: str) -> Path:
    """With what README tells to install, the stock modules, and openssl, which makes DKMS sign."""
    packages = ["dkms", "openssl", "linux-source-7.2", f"linux-headers-{release}", f"linux-modules-{release}"]
    words = ["mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}", HOST_SUITES[HOST_SERIES]]

    def make(scratch: Path) -> None:
        say(f"{HOST_SUITES[HOST_SERIES]} root by mmdebstrap: {' '.join(packages)}")
        run([*words, scratch / "root", source_line(HOST_SUITES[HOST_SERIES])], limit=LIMIT)

    return built(cache_dir() / f"dkms-root-{digest(*words)}", make)


def _take_steps(folder: Path, release: str, into: Path) -> None:
    """In an overlay: whatever goes wrong, the root stays as it is."""
    with tempfile.TemporaryDirectory(dir=cache_dir()) as name:
        scratch = Path(name)
        for part in ("upper", "work", "root"):
            (scratch / part).mkdir()
        shutil.copytree(KVM_HOST, scratch / "upper/kvm-host")
        steps = STEPS.replace("release=$1", f"release={release}", 1)
        run(["unshare", "--mount", "--net", "sh", "-euc", OVERLAY, "sh", folder / "root", scratch, steps], limit=LIMIT)
        for path in (scratch / "upper/out").iterdir():
            shutil.copy(path, into)
    log = (into / "make.log").read_text()
    if not log.endswith("\n0") or "# exit code: 0" not in log:
        die("DKMS does not build kvm-host", hint=log[-3000:])


def test_our_modules_take_the_place_of_the_stock_ones(steps: Steps, release: str) -> None:
    assert [steps(name).status for name in ("add", "install")] == [0, 0]
    stock = [f"/lib/modules/{release}/kernel/arch/x86/kvm/{name}.ko.xz" for name in MODULES]
    assert steps("before").text.split() == stock
    assert steps("files").text.split() == [f"/lib/modules/{release}/updates/dkms/{name}.ko.xz" for name in MODULES]
    assert steps("unbuilt").text.split() == stock


def test_it_goes_with_the_kernel_and_with_the_package(steps: Steps) -> None:
    assert [steps(name).status for name in ("prerm", "remove")] == [0, 0]
    assert steps("unbuilt").text == steps("before").text
    assert steps("status").text.split() == ["mbecguard-kvm/1:", "added"]
    assert not steps("gone").text.strip()


def test_what_is_up_to_date_is_left_alone(steps: Steps) -> None:
    assert steps("twice").text.strip() == ""


def test_a_build_that_cannot_be_made_again_stays(steps: Steps) -> None:
    """Whatever comes: the kernel's package once more, or a newer one of ours while the source is of another version."""
    assert [steps(name).status for name in ("preinst", "kept")] == [0, 0]
    assert steps("kept.files").text == steps("files").text
    assert "keeps the KVM of ours that it has, and gets no newer one" in steps("kept").text
    assert "reason source" in steps("kept.state").text


def test_modprobe_loads_ours(steps: Steps, release: str) -> None:
    loaded = [line.split()[1] for line in steps("order").text.splitlines()]
    updates = f"/lib/modules/{release}/updates/dkms"
    assert loaded[-2:] == [f"{updates}/kvm.ko.xz", f"{updates}/kvm-intel.ko.xz"]


def test_the_parameter_is_there(steps: Steps) -> None:
    names = [line.split(":")[0] for line in steps("parameters").text.splitlines()]
    assert {"mbecguard", "mbecguard_selftest", "nx_huge_pages"} <= set(names)


def test_the_modules_are_signed(steps: Steps) -> None:
    assert steps("signers").text.splitlines() == ["DKMS module signing key"] * len(MODULES)


@pytest.mark.parametrize(
    ("name", "words"),
    [("other", "there is no patch for the kernels of 7.3"), ("foreign", "it is not a kernel of Debian's")],
)
def test_a_kernel_that_is_not_for_us_is_left_out(name: str, words: str, steps: Steps) -> None:
    """By DKMS as well, if somebody asks it."""
    assert (steps(name).status, "BUILD_EXCLUSIVE" in steps(name).text) == (77, True)
    assert words in steps("told").text


def test_installing_such_a_kernel_does_not_fail(steps: Steps) -> None:
    assert steps("automatic").status == 0


SKIPPED = {
    "mismatch": ("source", "linux-source-7.2 is version "),
    "unfit": ("patch", "7.2.patch does not apply to "),
    "broken": ("build", "does not build with the patches of 7.2"),
}


@pytest.mark.parametrize("name", SKIPPED)
def test_a_kernel_that_gets_none_of_ours_keeps_its_own(name: str, steps: Steps) -> None:
    """Nothing fails, and the administrator is told."""
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
