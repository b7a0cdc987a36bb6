# SPDX-License-Identifier: GPL-2.0-or-later
"""The packages, built by packaging/, and Debian roots to install them in."""

from __future__ import annotations

import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mbecguard import __version__
from tests.corpus.archive import kernel, source_line
from tests.corpus.cache import built, cache_dir, digest, run, say
from tests.lab.layers import HOST_SERIES, HOST_SUITES

PROJECT = Path(__file__).parents[1]
PACKAGING = PROJECT / "packaging"
LIMIT = 900.0
OLDER = "0.0.9"

#: A shell in a root of its own, without a network; what it writes goes to an overlay. `step NAME COMMAND` leaves
#: what the command printed in /out/NAME, its status as the last line; after a failed `must` there is no next step.
PRELUDE = """
step() {
    name=$1 status=0
    shift
    "$@" >"/out/$name" 2>&1 || status=$?
    printf '\\n%d' $status >>"/out/$name"
}
must() {
    step "$@"
    [ $status = 0 ] || { cat "/out/$1" >&2; exit 1; }
}
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
mount -t proc proc /proc
rm -rf /out
mkdir /out
cd /
"""
OVERLAY = """
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
exec chroot "$2/root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -euc "$3"
"""


@dataclass(frozen=True, slots=True)
class Step:
    """What one command came to."""

    text: str
    status: int


Steps = Callable[[str], Step]


def steps_in(root: Path, files: list[Path], script: str, limit: float = LIMIT) -> Path:
    """The folder /out of a script's steps in a root that has `files` in /packages; taken once for one content."""
    key = digest(
        root.parent.name, PRELUDE, OVERLAY, script, *(part for f in files for part in (f.name, f.read_bytes()))
    )
    return built(
        cache_dir() / f"packages-steps-{key}", lambda scratch: _take_steps(root, files, script, scratch, limit)
    )


def reader(folder: Path) -> Steps:
    """The steps that a folder holds, by name."""

    def step(name: str) -> Step:
        text, _, status = (folder / name).read_text().rpartition("\n")
        return Step(text, int(status))

    return step


def _take_steps(root: Path, files: list[Path], script: str, into: Path, limit: float) -> None:
    with tempfile.TemporaryDirectory(dir=cache_dir()) as name:
        scratch = Path(name)
        for folder in ("upper/packages", "work", "root"):
            (scratch / folder).mkdir(parents=True)
        for file in files:
            shutil.copy(file, scratch / "upper/packages")
        run(["unshare", "--mount", "--net", "sh", "-euc", OVERLAY, "sh", root, scratch, PRELUDE + script], limit=limit)
        for path in (scratch / "upper/out").iterdir():
            shutil.copy(path, into)


def suite_root(suite: str, *more: str) -> Path:
    """A small Debian with what the packages depend on, the headers of its cloud kernel, openssl for DKMS, and more."""
    agent, report = (PACKAGING / "debian/control").read_text().split("\n\n")[1:3]
    depends = sorted({name for text in (agent, report) for name in _depends(text) if not name.startswith("mbecguard")})
    release = kernel(suite).release
    packages = [*depends, "dkms", f"linux-headers-{release}", "man-db", "openssl", "systemd", *more]
    if suite == HOST_SUITES[HOST_SERIES]:  # DKMS of 2026 leaves modules.dep alone where there are no other modules
        packages.append(f"linux-modules-{release}")
    words = ["mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}", suite]

    def make(scratch: Path) -> None:
        say(f"{suite} root by mmdebstrap")
        run([*words, scratch / "root", source_line(suite)], limit=LIMIT)

    return built(cache_dir() / f"packages-suite-{suite}-{digest(*words)}", make) / "root"


def _depends(text: str) -> list[str]:
    """What a paragraph of debian/control depends on."""
    words = text.partition("\nDepends:")[2]
    return re.findall(r"^ ([a-z][\w-]+)", re.split(r"^\w[\w-]*:", words, flags=re.MULTILINE)[0], re.MULTILINE)


def build(kind: str, into: Path, project: Path = PROJECT) -> list[Path]:
    """The files that packaging/build-`kind`.sh (debs, rpms) of a source tree makes."""
    run([project / f"packaging/build-{kind}.sh", into], limit=LIMIT)
    return sorted(into.iterdir())


def build_older(source: Path, scratch: Path) -> list[Path]:
    """Version `OLDER`, from the source package of this one."""
    with tarfile.open(source) as archive:
        archive.extractall(scratch)
    project = scratch / f"mbecguard-{__version__}"
    (project / "debian").rename(project / "packaging/debian")
    for name in ("src/mbecguard/__init__.py", "packaging/debian/changelog"):
        path = project / name
        path.write_text(path.read_text().replace(__version__, OLDER, 1))
    with (project / "kvm-host/src/mbecg_vm.c").open("a") as file:
        file.write('#include <linux/module.h>\nMODULE_INFO(mbecguard_test, "older");\n')
    return build("debs", scratch / "older", project)
