# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian archive: where this machine's apt finds it, and the kernels in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mbecguard.values.errors import die

from . import guests
from .cache import built, cache_dir, run, say

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
#: Until 6.x the image package is called linux-image-*; from 7.x on linux-binary-* (modules apart).
PACKAGE = r"linux-(?:image|binary)-(\d[\w.+~]*(?:-\d+)?-cloud-amd64)"


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel package."""

    release: str
    folder: Path  #: holds boot/vmlinuz-RELEASE and lib/modules/RELEASE

    @property
    def image(self) -> Path:
        """The bzImage as Debian ships it."""
        return self.folder / "boot" / f"vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        """The release's module folder."""
        return self.folder / "lib" / "modules" / self.release


def mirror(of: str = "") -> str:
    """The Debian archive that this machine's apt uses, `of` the suites whose names end so."""
    targets = run(["apt-get", "indextargets", "--format", "$(ORIGIN) $(COMPONENT) $(CODENAME) $(SITE)"])
    rows = [line.split(" ", 3) for line in targets.splitlines()]
    sites = [row[3] for row in rows if row[:2] == ["Debian", "main"] and row[2].partition("-")[2] == of]
    if not sites:
        die("no Debian archive among this machine's apt sources", hint="apt update, then try again")
    return sites[0]


def source_line(suite: str) -> str:
    """One line of sources.list; an expired Release file is accepted for `UNDATED_SUITES` only."""
    checks = "check-valid-until=no " if suite in guests.UNDATED_SUITES else ""
    site = mirror("security") if suite.endswith("-security") else mirror()
    return f"deb [{checks}signed-by={KEYRING}] {site} {suite} main"


def versions(suite: str, package: str) -> list[str]:
    """The versions of a package that a suite has, the newest first."""
    rows = _apt(suite, "apt-cache", "madison", package).splitlines()
    return [row.split("|")[1].strip() for row in rows]


def names(suite: str, prefix: str) -> list[str]:
    """The packages of a suite whose names begin so."""
    return _apt(suite, "apt-cache", "pkgnames", prefix).split()


def download(suite: str, package: str, into: Path) -> Path:
    """The file of `NAME` or `NAME=VERSION`, in an empty folder."""
    _apt(suite, "apt-get", "download", package, folder=into)
    return next(into.glob("*.deb"))


def _apt(suite: str, tool: str, *words: str, folder: Path | None = None) -> str:
    """Run an apt tool, in `folder`, on a private state that knows `suite` alone."""
    home = built(cache_dir() / "apt" / suite, lambda scratch: _make_apt(suite, scratch))
    return run([tool, *_apt_options(home), *words], folder=folder)


def _apt_options(home: Path) -> list[str]:
    folders = {
        "Dir::State": home,
        "Dir::State::status": home / "status",
        "Dir::Cache": home / "cache",
        "Dir::Etc::sourcelist": home / "sources.list",
        "Dir::Etc::sourceparts": "-",
    }
    settings = {"APT::Architecture": "amd64", "APT::Sandbox::User": "root", "Acquire::Languages": "none"}
    return ["-q", *(f"-o{name}={value}" for name, value in {**folders, **settings}.items())]


def _make_apt(suite: str, home: Path) -> None:
    say(f"apt: package lists of {suite}")
    for folder in ("lists/partial", "cache/archives/partial"):
        (home / folder).mkdir(parents=True)
    (home / "status").touch()
    (home / "sources.list").write_text(source_line(suite) + "\n")
    run(["apt-get", *_apt_options(home), "-oAPT::Update::Error-Mode=any", "update"])


def newest_kernel(names: list[str]) -> tuple[str, str] | None:
    """(package, release) of the newest cloud kernel among package names."""
    found = [(name, match[1]) for name in names if (match := re.fullmatch(PACKAGE, name))]
    return max(found, key=lambda pair: [int(part) for part in re.findall(r"\d+", pair[1])], default=None)


def kernel(suite: str) -> Kernel:
    """The newest cloud kernel of a suite, downloaded and unpacked."""
    found = names(suite, "linux-")
    newest = newest_kernel(found)
    if not newest:
        die(f"the archive has no cloud kernel for {suite}", hint=f"remove {cache_dir() / 'apt'} and try again")
    package, release = newest
    parts = [package] + [name for name in found if name == f"linux-modules-{release}"]
    folder = cache_dir() / "kernels" / release
    return Kernel(release, built(folder, lambda scratch: _unpack_kernel(suite, parts, release, scratch)))


def unpacked(suite: str, *packages: str) -> Path:
    """Folder with the files of packages of a suite, without what they depend on."""
    folder = cache_dir() / f"unpacked-{suite}-{'-'.join(packages)}"
    return built(folder, lambda scratch: _unpack(suite, packages, scratch))


def _unpack(suite: str, packages: Sequence[str], into: Path) -> None:
    say(f"{suite}: {' '.join(packages)}")
    _apt(suite, "apt-get", "download", *packages, folder=into)
    for package in sorted(into.glob("*.deb")):
        run(["dpkg-deb", "-x", package, into])
        package.unlink()


def _unpack_kernel(suite: str, packages: list[str], release: str, into: Path) -> None:
    _unpack(suite, packages, into)
    # linux-modules and linux-binary install into /usr/lib/modules, the image included.
    if (into / "usr/lib/modules").is_dir():
        (into / "lib").mkdir()
        (into / "usr/lib/modules").rename(into / "lib/modules")
    own = into / "lib/modules" / release / "vmlinuz"
    if own.is_file():
        (into / "boot").mkdir(exist_ok=True)
        own.rename(into / "boot" / f"vmlinuz-{release}")


def name_of(path: str | Path) -> str:
    """The name under which the kernel knows a module file."""
    return Path(path).name.split(".ko")[0].replace("-", "_")
