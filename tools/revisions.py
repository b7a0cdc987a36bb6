# SPDX-License-Identifier: GPL-2.0-or-later
"""Do the patches of kvm-host apply to each revision of linux-source that the mirrors offer? Downloads each once.

What KVM needs of each is kept in the cache. docs/SUPPORT.md has what came of it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mbecguard.readiness.kvm import SERIES
from mbecguard.values.errors import Exit, UserError
from tests.corpus import archive
from tests.corpus.cache import built, cache_dir, run, say

BUILD = Path(__file__).parents[1] / "kvm-host/build.sh"
SUITES = (
    *("trixie", "trixie-updates", "trixie-security", "trixie-backports"),
    *("bookworm-backports", "bookworm-security", "forky", "sid"),
)
#: The package holds a compressed tar file of all of the kernel.
EXTRACT = """
dpkg-deb --fsys-tarfile "$1" | tar -xO --wildcards './usr/src/linux-source-*.tar.xz' | xz -dc |
    tar -x --wildcards --no-wildcards-match-slash '*/arch/x86/kvm' '*/virt/kvm' '*/Makefile'
"""


def revisions(series: str) -> dict[str, list[str]]:
    """Each revision of a series, and the suites that have it."""
    found: dict[str, list[str]] = {}
    for suite in SUITES:
        for version in archive.versions(suite, f"linux-source-{series}"):
            found.setdefault(version, []).append(suite)
    return found


def source(series: str, version: str, suite: str) -> Path:
    """KVM's part of the kernel's source."""

    def make(into: Path) -> None:
        say(f"linux-source-{series} {version} of {suite}")
        with tempfile.TemporaryDirectory(dir=cache_dir()) as scratch:
            package = archive.download(suite, f"linux-source-{series}={version}", Path(scratch))
            run(["bash", "-euo", "pipefail", "-c", EXTRACT, "bash", package.absolute()], limit=600, folder=into)

    return next(built(cache_dir() / f"linux-source-{version}", make).iterdir())


def tried(series: str, patches: str) -> Iterator[tuple[str, list[str], str]]:
    """Each revision with its suites, and the last words of build.sh."""
    for version, suites in sorted(revisions(series).items(), key=_by_number):
        words = [str(BUILD), "--dry-run", "--patches", patches, "--source", str(source(series, version, suites[0]))]
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        told = "applies" if done.returncode == 0 else done.stderr.strip().splitlines()[-1].removeprefix("build.sh: ")
        yield version, suites, told


def _by_number(row: tuple[str, list[str]]) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", row[0])]


def main() -> int:
    """One row for each revision; status 1 if one does not take the patches."""
    parser = argparse.ArgumentParser("python -m tools.revisions", description=__doc__)
    parser.add_argument("series", nargs="*", default=SERIES, metavar="SERIES", help=f"default: {' '.join(SERIES)}")
    parser.add_argument("--patches", metavar="SERIES", help="those of this series")
    options = parser.parse_args()
    status = Exit.OK
    try:
        for series in options.series:
            for version, suites, told in tried(series, options.patches or series):
                print(f"| {version} | {', '.join(suites)} | {told} |", flush=True)
                status = status if told == "applies" else Exit.ERROR
    except UserError as error:
        print(f"revisions: {error.message}\n  hint: {error.hint}", file=sys.stderr)
        return error.status
    return status


if __name__ == "__main__":
    sys.exit(main())
