# SPDX-License-Identifier: GPL-2.0-or-later
"""The watched boots: one file each, and how this boot's is taken."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from mbecguard.guest.procfs import Kallsyms, parse_modules
from mbecguard.guest.source import Guest
from mbecguard.guest.tree import Tree, present
from mbecguard.guest.uses import Uses, uses
from mbecguard.learn.refusals import refusals
from mbecguard.learn.trace import INSTANCE, Traced, printable, read
from mbecguard.values.clock import now
from mbecguard.values.codec import canonical, decode, encode
from mbecguard.values.errors import Exit, die, plainly
from mbecguard.values.files import replace_file

SCHEMA = "mbecguard.learn/2"
KEPT_BOOTS = 10
EVENT_LIMIT = 8192  #: of one boot

#: When each profile locks: the first of these (unit, timestamp) that systemd knows. The later ones are for a boot in
#: which the lock was refused, or is not enabled.
POINTS: dict[str, tuple[tuple[str, str], ...]] = {
    "early": (
        ("mbecguard-lock-early.service", "ActiveEnter"),
        ("mbecguard-lock-early.service", "InactiveExit"),
        ("sysinit.target", "ActiveEnter"),
    ),
    "late": (
        ("mbecguard-lock.service", "ActiveEnter"),
        ("mbecguard-lock.service", "InactiveExit"),
        ("mbecguard-learn-mark.service", "ActiveEnter"),
        ("systemd-user-sessions.service", "InactiveExit"),
        ("multi-user.target", "ActiveEnter"),
    ),
}


@dataclass(frozen=True, slots=True)
class Moment:
    """What the guest uses, and alias -> device of the devices that have no driver."""

    uses: Uses
    waiting: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot as far as it was watched. Times in seconds since the boot (CLOCK_MONOTONIC)."""

    boot_id: str
    release: str
    time: str  #: of the newest look, UTC
    watched: float | None  #: since when, None if that is lost
    points: dict[str, float]  #: profile -> when it locked, or would have
    locked: bool  #: no module can be loaded any more
    loaded: tuple[str, ...]
    events: tuple[Traced, ...]
    lost: int
    strange: int
    now: Moment
    at_lock: Moment | None  #: the last look before the late point
    schema: str = SCHEMA


def harvest(guest: Guest, show: Callable[[], str], said: Callable[[], str]) -> Boot:
    """Look at this boot now. `show` is `systemctl_show`, `said` is `journal`, or stand-ins."""
    tree, trace = guest.tree, read(guest.tree)
    points = lock_points(show())
    locked = (tree.text("proc/sys/kernel/modules_disabled") or "").strip() == "1"
    moment = Moment(uses(tree, Kallsyms(tree.data("proc/kallsyms") or b"")), waiting(tree))
    return Boot(
        boot_id=guest.boot_id,
        release=guest.release,
        time=now(),
        watched=trace.watched,
        points=points,
        locked=locked,
        loaded=tuple(sorted(module.name for module in parse_modules(tree.text("proc/modules") or ""))),
        events=(*trace.events, *(refusals(said()) if locked else ())),
        lost=trace.lost,
        strange=trace.strange,
        now=moment,
        at_lock=None if "late" in points else moment,
    )


def merged(old: Boot, new: Boot) -> Boot:
    """Two looks at one boot: what the buffer has forgotten since, the older one still knows."""
    # The older look was closer to what it saw: a process may be called otherwise by now.
    known = {(e.time, e.kind, e.name, e.pid): e for e in (*new.events, *old.events)}
    events = sorted(known.values())
    return replace(
        new,
        watched=old.watched if new.watched is None else new.watched,
        points={**new.points, **old.points},  # a unit that is started again does not move the point
        events=tuple(events[:EVENT_LIMIT]),
        lost=max(old.lost, new.lost) + max(0, len(events) - EVENT_LIMIT),
        at_lock=new.at_lock or old.at_lock,
    )


def lock_points(shown: str) -> dict[str, float]:
    """From what `systemctl show` prints: blocks of Id= and two timestamps in microseconds, 0 for never."""
    times: dict[tuple[str, str], float] = {}
    for block in shown.split("\n\n"):
        rows = dict(line.partition("=")[::2] for line in block.splitlines())
        for kind in ("ActiveEnter", "InactiveExit"):
            if re.fullmatch("[1-9][0-9]{0,18}", text := rows.get(f"{kind}TimestampMonotonic", "")):
                times[rows.get("Id", ""), kind] = int(text) / 1e6
    found = {profile: [times[key] for key in keys if key in times] for profile, keys in POINTS.items()}
    return {profile: known[0] for profile, known in found.items() if known}


def systemctl_show() -> str:
    """The units of POINTS; empty where there is no systemd."""
    units = sorted({unit for keys in POINTS.values() for unit, _ in keys})
    properties = "--property=Id,ActiveEnterTimestampMonotonic,InactiveExitTimestampMonotonic"
    with suppress(OSError, subprocess.SubprocessError):
        command = ["systemctl", "show", properties, *units]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=20).stdout
    return ""


def waiting(tree: Tree) -> dict[str, str]:
    """Alias -> device for each device on a bus that has an alias and no driver."""
    devices = ((bus, device) for bus in tree.names("sys/bus") for device in tree.names(f"sys/bus/{bus}/devices"))
    found = {}
    for bus, device in devices:
        folder = f"sys/bus/{bus}/devices/{device}"
        alias = printable((tree.text(f"{folder}/modalias") or "").strip())
        if alias and not tree.names(f"{folder}/driver"):
            found[alias] = f"{bus} device {printable(device)}"
    return found


@dataclass(frozen=True, slots=True)
class Watched:
    """The folder of the watched boots."""

    folder: Path

    def all(self) -> tuple[Boot, ...]:
        """Those that are kept, oldest first. Dies if there are none."""
        boots = sorted((self._read(file) for file in self._files()), key=lambda boot: boot.time)
        return tuple(boots) or die(
            "no boot was watched yet",
            "as root `mbecguard learn start`, best by mbecguard-learn.service early in each boot",
            Exit.NOTHING,
        )

    def look(self, guest: Guest, show: Callable[[], str], said: Callable[[], str]) -> None:
        """Keep what is known of this boot, if it is watched."""
        if guest.live and present((guest.tree.root / INSTANCE).is_dir):
            self.save(harvest(guest, show, said))

    def save(self, boot: Boot) -> None:
        """Write one, together with what was known of it; the oldest beyond KEPT_BOOTS go."""
        if not re.fullmatch(r"[0-9a-f-]{36}", boot.boot_id):
            die("this boot has no id", "/proc/sys/kernel/random/boot_id is needed")
        file = self.folder / f"{boot.boot_id}.json"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            known = merged(self._read(file), boot) if file.exists() else merged(boot, boot)
            replace_file(file, canonical(encode(known)))
            for old in sorted(self._files(), key=lambda path: path.stat().st_mtime)[:-KEPT_BOOTS]:
                old.unlink()
        except OSError as error:
            die(f"{self.folder} cannot be written: {error.strerror}", "run as root, or give --state-dir")

    def _files(self) -> list[Path]:
        return list(self.folder.glob("*.json"))

    def _read(self, file: Path) -> Boot:
        try:
            return decode(Boot, json.loads(file.read_bytes()))
        except (OSError, ValueError, RecursionError) as error:
            die(f"{file} is damaged: {plainly(error)}", "remove it: that boot is then not counted")
