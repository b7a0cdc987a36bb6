# SPDX-License-Identifier: GPL-2.0-or-later
"""What `mbecguard learn` does: begin to watch, tell what the boots teach, write the files that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mbecguard.guest.source import Guest
from mbecguard.learn.boots import Watched, systemctl_show
from mbecguard.learn.catalog import catalog, with_tables
from mbecguard.learn.files import MODULES, files, write
from mbecguard.learn.lessons import Lessons, lessons
from mbecguard.learn.refusals import journal
from mbecguard.learn.trace import start
from mbecguard.values.errors import die

START_SCHEMA, WRITE_SCHEMA = "mbecguard.learn-start/1", "mbecguard.learn-write/1"


@dataclass(frozen=True, slots=True)
class Started:
    """Module requests are watched now; `fresh` if they were not before."""

    fresh: bool
    schema: str = START_SCHEMA


@dataclass(frozen=True, slots=True)
class Written:
    """The files that load and set what is needed, path -> content; `dry_run`: they were only made up."""

    dry_run: bool
    files: dict[str, str]
    schema: str = WRITE_SCHEMA


@dataclass(frozen=True, slots=True)
class Learner:
    """Learns about one guest; `folder` keeps its watched boots."""

    guest: Guest
    folder: Path

    def start(self) -> Started:
        """Begin to watch; dies if this is not the running guest."""
        self._here("start")
        return Started(start(self.guest.tree.root))

    def look(self) -> None:
        """Keep what is known of this boot."""
        Watched(self.folder).look(self.guest, systemctl_show, journal)

    def lessons(self, profile: str) -> Lessons:
        """What the boots teach for a lock by this profile, this boot included; dies if none was watched."""
        self.look()
        return lessons(Watched(self.folder).all(), catalog(with_tables(self.guest.modules_dirs)), profile)

    def write(self, profile: str, *, dry_run: bool) -> Written:
        """Write what a lock by this profile needs, or only tell it."""
        if not dry_run:
            self._here("write")
        made = files(self.lessons(profile), self.guest.tree.text(MODULES) or "")
        if not dry_run:
            write(self.guest.tree.root, made)
        return Written(dry_run, {f"/{path}": text for path, text in made.items()})

    def _here(self, what: str) -> None:
        if not self.guest.live:
            die(f"a captured guest cannot learn: `learn {what}` is for the running one", "leave --guest out")
