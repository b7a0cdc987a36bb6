# SPDX-License-Identifier: GPL-2.0-or-later
"""The packages in clean Debian roots: installed by apt, used, upgraded, removed, purged; and the RPM packages.

No systemd runs there. All steps run once for one content of the packages; what they printed is kept in the cache.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mbecguard import __version__
from tests.corpus.archive import kernel
from tests.corpus.cache import run
from tests.lab.layers import HOST_SERIES, HOST_SUITES
from tests.lab.locks import alone
from tests.packages import LIMIT, OLDER, PROJECT, Step, Steps, build, build_older, reader, steps_in, suite_root
from tests.test_kvm_host_dkms import MODULES, dkms_root
from tools import schemas

pytestmark = pytest.mark.lab

SYSTEMD = PROJECT / "systemd"
#: Of the guest's packages, and what has no module.
NAMES = ("mbecguard", "mbecguard-report", "mbecguard-shim-dkms", "mbecguard-host")
SUITES = ("trixie", "bookworm", "forky")
UNITS = sorted(path.name for path in SYSTEMD.glob("mbecguard*") if path.suffix in (".service", ".timer"))
OF_HOSTS = sorted(path.name for path in (SYSTEMD / "host").iterdir())
#: What apt, dpkg, man, systemctl and DKMS keep for themselves.
NOT_OURS = re.compile(
    r"/(var/log|var/cache/(apt|debconf|ldconfig|man)|var/lib/(apt|dpkg)|run/systemd)(/|$)"
    r"|/var/lib/dkms/mok\.(key|pub)$"
)
#: Its own, and a folder of systemd's, which rpm does not know in a root of Debian's.
OF_RPM = re.compile(r"/var/lib/rpm|/usr/lib/modules-load\.d$")

WORDS = f"""
units="{" ".join(UNITS)}"
release=$(cd /usr/src; echo linux-headers-*-cloud-amd64)
release=${{release#linux-headers-}}
files() {{ find / -xdev \\( -path /proc -o -path /out -o -path /packages -o -path /sys \\) -prune -o -print | sort; }}
shim() {{ modinfo -k "$release" -F filename mbecguard_shim; }}
# As the kernel's own package does; DKMS waits for it.
depmod "$release"
"""

LIFE = f"""
{WORDS}
get() {{ apt-get -qy --no-install-recommends -o APT::Sandbox::User=root "$@"; }}
debs() {{ for name in {" ".join(NAMES)}; do echo /packages/${{name}}_$1_all.deb; done; }}
enabled() {{ for unit in $units; do echo $unit $(systemctl is-enabled $unit); done; }}
state() {{ ls /var/lib/mbecguard /var/cache/mbecguard /etc/mbecguard /etc/mbecguard/*.d /etc/modules-load.d; }}
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
mkdir -p /etc/modules-load.d

step release echo "$release"
step before files
must install get install $(debs {OLDER})
step version mbecguard --version
step shim shim
step vermagic modinfo -k "$release" -F vermagic mbecguard_shim
step signer modinfo -k "$release" -F signer mbecguard_shim
step preset systemctl preset $units
step enabled enabled
step verify systemd-analyze verify $units
step host.verify systemd-analyze verify {" ".join(OF_HOSTS)}
step host.timer systemctl is-enabled mbecguard-host-metrics.timer
step man man -w mbecguard mbecguard.toml mbecguard-host
step bash bash -n /usr/share/bash-completion/completions/mbecguard
step catalog journalctl --list-catalog
step check mbecguard check --json
step audit mbecguard audit --format html -o /tmp/audit.html
step page cat /tmp/audit.html
step metrics mbecguard metrics
rm /tmp/audit.html
step host.check mbecguard-host check --no-machines --json
echo 'raise SystemExit(9)' >/tmp/argparse.py
step isolated env PYTHONPATH=/tmp mbecguard --version
step planted env PYTHONPATH=/tmp python3 -B -c 'import argparse'
rm /tmp/argparse.py

echo '# an administrator was here' >>/etc/mbecguard/mbecguard.toml
touch /etc/mbecguard/mbecguard.toml.d/50-own.toml /etc/modules-load.d/mbecguard.conf
mkdir -p /var/lib/mbecguard /var/cache/mbecguard
touch /var/lib/mbecguard/kept /var/cache/mbecguard/kept
systemctl enable mbecguard-lock.service

must upgrade get install $(debs {__version__})
step version.new mbecguard --version
step shim.new shim
step dkms.new dkms status
step enabled.new enabled
step edited tail -n 1 /etc/mbecguard/mbecguard.toml
step scripts sh -c 'cat /var/lib/dpkg/info/mbecguard.p*'

must remove get remove {" ".join(NAMES)}
step shim.gone shim
step state state
must purge get purge {" ".join(NAMES)}
step after files
"""

#: Debian has no database of RPMs that could hold what they need.
RPM_LIFE = f"""
{WORDS}
# Of Fedora's package "filesystem".
mkdir -p /usr/share/licenses /usr/share/fish/vendor_completions.d
step before files
must install rpm --nodeps -i /packages/*.rpm
step version mbecguard --version
step shim shim
step verify systemd-analyze verify $units
must erase rpm --nodeps -e mbecguard mbecguard-report mbecguard-shim-dkms
step shim.gone shim
step after files
"""

HOST_LIFE = f"""
release=$1
package=$(realpath "/lib/modules/$release/build/include/generated/package.h")
files() {{ for module in {" ".join(MODULES)}; do modinfo -k "$release" -n $module; done; }}
made() {{ modinfo -k "$release" -F mbecguard_test kvm; }}
deb() {{ dpkg -i /packages/mbecguard-kvm-host-dkms_$1_all.deb; }}
must install deb {OLDER}
step files files
step made made

# The source is of another version by now.
sed 's/ Debian [^"]*/&.9/' "$package" >/tmp/package.h
mount --bind /tmp/package.h "$package"
must upgrade deb {__version__}
step made.upgrade made
step told cat "/var/lib/mbecguard-host/$release/state"

# It has come, as a package that has something below /usr/src.
umount "$package"
mkdir -p /tmp/source/DEBIAN /tmp/source/usr/src
touch /tmp/source/usr/src/source
for line in 'Package: source' 'Version: 1' 'Architecture: all' 'Maintainer: x <x@x.invalid>' 'Description: x'; do
    echo "$line" >>/tmp/source/DEBIAN/control
done
dpkg-deb -b /tmp/source /tmp/source.deb >/dev/null
must source dpkg -i /tmp/source.deb
step made.trigger made
step no.state cat "/var/lib/mbecguard-host/$release/state"

must purge dpkg --purge mbecguard-kvm-host-dkms
step gone files
step left ls /var/lib/mbecguard-host /var/lib/dkms/mbecguard-kvm /usr/src/mbecguard-kvm-1
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All files of the newest packages, and of the older ones."""
    folder = tmp_path_factory.mktemp("packages")
    with alone("packages-test", LIMIT):
        newer = build("debs", folder / "newer")
        older = build_older(folder / f"newer/mbecguard_{__version__}.tar.xz", folder)
    return {path.name: path for path in (*older, *newer)}


@pytest.fixture(scope="module", params=SUITES)
def life(request: pytest.FixtureRequest, packages: dict[str, Path]) -> Steps:
    names = [f"{name}_{version}_all.deb" for name in NAMES for version in (OLDER, __version__)]
    with alone(f"packages-{request.param}", LIMIT):
        return reader(steps_in(suite_root(request.param), [packages[name] for name in names], LIFE))


def lines(step: Step) -> list[str]:
    return step.text.strip().splitlines()


def test_lintian_has_nothing_to_say(packages: dict[str, Path]) -> None:
    assert packages["lintian.txt"].read_text() == ""


def test_apt_installs_it(life: Steps) -> None:
    assert (life("version").text.strip(), life("version").status) == (f"mbecguard {OLDER}", 0)


def test_dkms_builds_the_shim_for_the_stock_kernel(life: Steps) -> None:
    release = life("release").text.strip()
    assert life("shim").text.startswith(f"/lib/modules/{release}/updates/dkms/mbecguard_shim.ko")
    assert life("vermagic").text.split()[0] == release
    assert life("signer").text.strip() == "DKMS module signing key"


def test_nothing_is_enabled_by_itself(life: Steps) -> None:
    assert "mbecguard-lock.service" in UNITS
    states = dict(line.split() for line in lines(life("enabled")))
    assert sorted(states) == UNITS
    assert set(states.values()) <= {"disabled", "static"}
    assert states["mbecguard-lock.service"] == "disabled"
    assert life("host.timer").text.strip() == "disabled"


def test_systemd_takes_the_units(life: Steps) -> None:
    told = [*lines(life("verify")), *lines(life("host.verify"))]
    assert not [line for line in told if "mbecguard" in line]


def test_the_manual_is_found(life: Steps) -> None:
    pages = ("man8/mbecguard.8", "man5/mbecguard.toml.5", "man8/mbecguard-host.8")
    assert lines(life("man")) == [f"/usr/share/man/{page}.gz" for page in pages]
    assert life("bash").status == 0


def test_the_journal_knows_the_catalog(life: Steps) -> None:
    catalog = (SYSTEMD / "mbecguard.catalog").read_text()
    entries = set(re.findall(r"^-- ([0-9a-f]{32})$", catalog, re.MULTILINE))
    assert entries
    assert entries <= {line.split()[0] for line in lines(life("catalog"))}


def test_check_gives_an_answer(life: Steps) -> None:
    """The kernel that runs is the one of this machine; whatever it is, the findings come as data."""
    step = life("check")
    assert "Traceback" not in step.text
    assert step.status == 3
    assert json.loads(step.text[step.text.index("{") :])["findings"]


def test_a_page_and_metrics_can_be_made(life: Steps) -> None:
    """With the libraries of that Debian. The root of this test has no lock, which both say."""
    assert life("audit").status == 6
    assert life("page").text.startswith("<!DOCTYPE html>")
    assert "Nothing to audit" in life("page").text
    assert 'mbecguard_state{state="open"} 1.0' in life("metrics").text


def test_the_host_s_program_gives_an_answer(life: Steps) -> None:
    assert json.loads(life("host.check").text)["schema"] == "mbecguard.host-check/1"


def test_the_environment_plants_no_code(life: Steps) -> None:
    assert (life("isolated").status, life("planted").status) == (0, 9)


def test_upgrade_keeps_what_the_administrator_chose(life: Steps) -> None:
    assert life("version.new").text.strip() == f"mbecguard {__version__}"
    assert life("edited").text.strip() == "# an administrator was here"
    states = dict(line.split() for line in lines(life("enabled.new")))
    assert [unit for unit, state in states.items() if state == "enabled"] == ["mbecguard-lock.service"]


def test_upgrade_builds_the_new_shim_and_drops_the_old(life: Steps) -> None:
    assert (life("shim.new").text, life("shim.new").status) == (life("shim").text, 0)
    modules = [line for line in lines(life("dkms.new")) if line.startswith("mbecguard-shim")]
    assert len(modules) == 1
    assert modules[0].startswith(f"mbecguard-shim/{__version__}, {life('release').text.strip()}, x86_64: installed")


def test_maintainer_scripts_leave_the_lock_alone(life: Steps) -> None:
    """No systemd runs in the root; these are the commands that a running one would get."""
    commands = [line for line in lines(life("scripts")) if "deb-systemd-invoke" in line]
    assert any("mbecguard.service" in line for line in commands)
    assert not any("lock" in line or "confirm" in line for line in commands)


def test_remove_keeps_state_and_settings(life: Steps) -> None:
    assert life("shim.gone").status == 1
    assert life("state").status == 0
    assert {"kept", "mbecguard.toml", "50-own.toml", "mbecguard.conf"} <= set(life("state").text.split())


def test_purge_leaves_nothing_behind(life: Steps) -> None:
    before, after = set(lines(life("before"))), set(lines(life("after")))
    assert not [path for path in sorted(after - before) if not NOT_OURS.match(path)]
    assert not [path for path in sorted(before - after) if not NOT_OURS.match(path)]


@pytest.fixture(scope="module")
def host(packages: dict[str, Path]) -> Iterator[tuple[str, Steps]]:
    release = kernel(HOST_SUITES[HOST_SERIES]).release
    with alone("lab-dkms", LIMIT):
        script = HOST_LIFE.replace("release=$1", f"release={release}", 1)
        files = [packages[f"mbecguard-kvm-host-dkms_{version}_all.deb"] for version in (OLDER, __version__)]
        yield release, reader(steps_in(dkms_root(release) / "root", files, script))


def test_the_host_package_puts_our_kvm_in_place_of_the_stock_one(host: tuple[str, Steps]) -> None:
    release, steps = host
    assert lines(steps("files")) == [f"/lib/modules/{release}/updates/dkms/{name}.ko.xz" for name in MODULES]


def test_an_upgrade_keeps_a_kvm_that_cannot_be_built_again(host: tuple[str, Steps]) -> None:
    _, steps = host
    assert (lines(steps("made")), lines(steps("made.upgrade"))) == (["older"], ["older"])
    assert "gets no newer one" in steps("upgrade").text
    assert "reason source" in steps("told").text


def test_what_waits_is_built_when_the_source_comes(host: tuple[str, Steps]) -> None:
    _, steps = host
    assert (lines(steps("made.trigger")), steps("made.trigger").status) == ([], 0)
    assert steps("no.state").status != 0


def test_without_the_host_package_the_stock_kvm_is_back(host: tuple[str, Steps]) -> None:
    release, steps = host
    assert steps("left").text.count("No such file") == 3
    assert lines(steps("gone")) == [f"/lib/modules/{release}/kernel/arch/x86/kvm/{name}.ko.xz" for name in MODULES]


@pytest.fixture(scope="module")
def rpms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {path.name: path for path in build("rpms", tmp_path_factory.mktemp("rpms"))}


def test_every_unit_is_packaged(packages: dict[str, Path]) -> None:
    for name, folder in (("mbecguard", SYSTEMD), ("mbecguard-host", SYSTEMD / "host")):
        held = {Path(path).name for path in held_by(packages[f"{name}_{__version__}_all.deb"])}
        assert {path.name for path in folder.iterdir() if path.is_file()} <= held


def test_every_schema_is_packaged(packages: dict[str, Path]) -> None:
    held = held_by(packages[f"mbecguard_{__version__}_all.deb"])
    assert {f"/usr/share/mbecguard/schema/{name}" for name in schemas.texts()} <= set(held)


@pytest.mark.parametrize("name", ["mbecguard", "mbecguard-shim-dkms"])
def test_rpm_packages_hold_what_the_debian_ones_hold(
    rpms: dict[str, Path], packages: dict[str, Path], name: str
) -> None:
    """But for what each has in a place of its own: documents, licences, compiled Python, zsh's functions."""
    own = re.compile(r"/usr/share/(doc|licenses|python3)/|/__pycache__/|/zsh/")
    listing = rpms[f"{name}-{__version__}-1.noarch.rpm.list"].read_text()
    rpm, deb = (
        {path for path in paths if not own.search(path)}
        for paths in (files_of(listing), held_by(packages[f"{name}_{__version__}_all.deb"]))
    )
    assert rpm == deb
    assert rpm


@pytest.fixture(scope="module")
def rpm_life(rpms: dict[str, Path]) -> Steps:
    with alone("packages-rpm", LIMIT):
        files = [path for name, path in rpms.items() if name.endswith(".noarch.rpm")]
        return reader(steps_in(suite_root("trixie", "rpm"), files, RPM_LIFE))


def test_rpm_installs_what_works(rpm_life: Steps) -> None:
    assert rpm_life("version").text.strip() == f"mbecguard {__version__}"
    assert "/updates/dkms/mbecguard_shim.ko" in rpm_life("shim").text
    assert not [line for line in lines(rpm_life("verify")) if "mbecguard" in line]


def test_rpm_takes_everything_away_again(rpm_life: Steps) -> None:
    assert rpm_life("shim.gone").status == 1
    left = set(lines(rpm_life("after"))) ^ set(lines(rpm_life("before")))
    assert not [path for path in sorted(left) if not (NOT_OURS.match(path) or OF_RPM.match(path))]


def held_by(package: Path) -> list[str]:
    """The files of a Debian package."""
    return files_of(run(["dpkg-deb", "--contents", package]))


def files_of(listing: str) -> list[str]:
    """Without folders, from lines as `ls -l` has them."""
    return [line.split()[-1].removeprefix(".") for line in listing.splitlines() if line.startswith("-")]
