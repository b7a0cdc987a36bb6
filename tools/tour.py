# SPDX-License-Identifier: GPL-2.0-or-later
"""Without an emulator: lock captured guests on the simulated host, then look at the running kernel."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mbecguard.values.errors import Exit
from tests import corpus

MBECGUARD = (sys.executable, "-m", "mbecguard")
GUEST, OTHER = "trixie-6.12-uefi", "forky-7.2-its"


def main() -> int:
    """Run the scenes; 1 if one of them does not end as it should."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mbecguard-tour-") as scratch:
        scenes = Scenes(Path(scratch))
        scenes.locked_guest()
        scenes.host_that_lies()
        scenes.other_kernel()
        scenes.running_kernel()
    print(f"\n{scenes.failures} scenes went wrong, {time.monotonic() - started:.0f} s")
    return 1 if scenes.failures else 0


class Scenes:
    """The demonstrations, all in one scratch folder."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self.failures = 0

    def locked_guest(self) -> None:
        """Plan, lock, prove and report a captured guest."""
        release = corpus.about(GUEST)["release"]
        self._title(f"A stock Debian guest ({release}, UEFI, 5-level page tables), captured from a real boot")
        guest = self._unpack(GUEST)
        self._run(Exit.OPEN, "status", *guest)
        self._run(Exit.OK, "check", *guest)
        self._run(Exit.OK, "lock", *guest)
        self._run(Exit.OK, "status", *guest)
        self._run(Exit.OK, "audit", *guest)
        self._run(Exit.OK, "explain", "_text", *guest)
        self._run(Exit.OK, "explain", "0x1000000", *guest)

    def host_that_lies(self) -> None:
        """A host without MBEC that answers 0 and does nothing."""
        self._title("The same guest on a host that says yes and does nothing: found out, exit status 4")
        options = (*self._unpack(GUEST, "liar"), "--set", "simulator.mbec=false")
        self._run(Exit.NOT_ENFORCED, "lock", *options)
        self._run(Exit.NOT_ENFORCED, "status", *options)

    def other_kernel(self) -> None:
        """Another kernel series, with code that has no name."""
        release = corpus.about(OTHER)["release"]
        self._title(f"Linux {release}: shared 2 MiB code blocks, and ITS thunks that no symbol names")
        self._run(Exit.OK, "plan", *self._unpack(OTHER))

    def running_kernel(self) -> None:
        """The machine that this runs on, as far as it can be read."""
        self._title("The running kernel, against the simulated host: as far as this machine can be read")
        places = ("--state-dir", str(self._scratch / "live"), "--cache-dir", str(self._scratch / "cache"))
        if self._run(None, "check", "--host", "simulator", *places) == Exit.OK:
            self._run(Exit.OK, "lock", "--host", "simulator", *places)

    def _unpack(self, name: str, label: str = "") -> tuple[str, ...]:
        into = self._scratch / (label or name)
        folder = corpus.unpack(name, into)
        (into / "state").mkdir()
        cache = str(self._scratch / "cache")
        return ("--guest", str(folder), "--state-dir", str(into / "state"), "--cache-dir", cache)

    def _title(self, text: str) -> None:
        bold = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() else ("", "")
        print(f"\n{bold[0]}== {text}{bold[1]}", flush=True)

    def _run(self, expected: Exit | None, *arguments: str) -> int:
        shown = " ".join(arguments).replace(str(self._scratch) + os.sep, "")
        print(f"\n$ mbecguard {shown}", flush=True)
        status = subprocess.run([*MBECGUARD, *arguments], timeout=60, check=False).returncode
        print(f"(exit status {status})", flush=True)
        if expected is not None and status != expected:
            print(f"WRONG: expected {expected} ({expected.name})")
            self.failures += 1
        return status


if __name__ == "__main__":
    sys.exit(main())
