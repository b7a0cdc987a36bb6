# SPDX-License-Identifier: GPL-2.0-or-later
"""What the faces share: one guest, one host, one state folder, put together from options and settings.

Here is what tells a state. What takes a survey stands in the other files of this room, which are imported when it is
asked for: the daemon, which stays in memory for good, needs none of it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mbecguard.guest.live import live_guest
from mbecguard.guest.source import Guest
from mbecguard.host.base import Host, HostMode, TextMode
from mbecguard.records.boots import BootFile
from mbecguard.records.ledger import Bounds
from mbecguard.records.reasons import Reason, reason
from mbecguard.records.record import State
from mbecguard.records.status import Status, detailed, status, without_host
from mbecguard.records.store import Store
from mbecguard.settings.declared import WORDS
from mbecguard.settings.load import COMMAND_LINE, OFF, Settings
from mbecguard.switches import Knobs, LiveKnobs, SimulatedKnobs, undone
from mbecguard.values.errors import Exit, UserError, die
from mbecguard.values.events import Tell
from mbecguard.values.note import Note, unnoted
from mbecguard.values.pages import PAGE_SHIFT

if TYPE_CHECKING:  # what asks for a state needs none of this, and a daemon would keep it in memory
    from mbecguard.audit.report import Dossier, Measured, Report
    from mbecguard.audit.value import Audit
    from mbecguard.guest.procfs import Kallsyms
    from mbecguard.guest.survey import Surveyor
    from mbecguard.lock.context import Seen
    from mbecguard.lock.room import Room
    from mbecguard.lock.transaction import Transaction
    from mbecguard.plan.explain import Explanation
    from mbecguard.plan.findings import Check
    from mbecguard.plan.planner import Planner
    from mbecguard.plan.policy import Policy

SIMULATED = "simulated"  #: folder, below the state's


class Places(NamedTuple):
    """Where the agent keeps its state and its cache."""

    state: Path
    cache: Path

    @classmethod
    def live(cls) -> Places:
        """Those of the running guest: the system's, whoever asks."""
        return cls(Path("/var/lib/mbecguard"), Path("/var/cache/mbecguard"))

    @classmethod
    def captured(cls) -> Places:
        """For captured guests: what the XDG base directory specification names, for root as well."""
        return cls(_xdg("XDG_STATE_HOME", ".local/state") / "mbecguard", _xdg("XDG_CACHE_HOME", ".cache") / "mbecguard")


def _xdg(name: str, default: str) -> Path:
    """One of its folders; one that is not absolute is ignored, as the specification demands."""
    given = Path(os.environ.get(name, ""))
    if given.is_absolute():
        return given
    try:
        return Path.home() / default
    except RuntimeError:
        die(f"you have no home folder, and {name} is not set", "set HOME, or give --state-dir and --cache-dir")


def require_root() -> None:
    """Dies if the caller is not root: what the kernel tells of itself, and the records of the guest, are for root."""
    if os.geteuid() != 0:
        die("only root can look at the running guest, or change it", "run as root; --guest DIR reads a captured one")


def _captured(folder: Path) -> Guest:
    from mbecguard.guest.captured import captured_guest

    return captured_guest(folder)


@dataclass(frozen=True)
class Session:
    """One run of the agent. `folder` is a captured guest, None for the running one."""

    settings: Settings
    places: Places
    folder: Path | None = None
    kernel_image: Path | None = None
    modules_dirs: tuple[Path, ...] = ()
    note: Note = field(default=unnoted, compare=False)  #: told what takes time

    @cached_property
    def guest(self) -> Guest:
        """The guest, with the images that the user gave, by options or else by settings."""
        guest = _captured(self.folder) if self.folder else live_guest()
        image, folders = self.settings.text("guest.kernel_image"), self.settings.text("guest.modules_dirs")
        told = (Path(folder) for folder in folders.split(":") if folder)
        return guest.with_images(self.kernel_image or (Path(image) if image else None), (*self.modules_dirs, *told))

    @cached_property
    def store(self) -> Store:
        """What was recorded of locks; a simulated one is no evidence, and is kept apart."""
        size, days = self.settings.number("history.size"), self.settings.number("history.days")
        return Store(self.places.state / SIMULATED if self.simulated else self.places.state, Bounds(size << 20, days))

    @property
    def boot_file(self) -> BootFile:
        """What the service remembers of boots."""
        return BootFile(self.places.state)

    def look(self, policy: Policy | None = None) -> Seen:
        """Survey the guest now. The plan is by a policy: if none is given, that of the settings."""
        from mbecguard.session.planning import look

        return look(self, policy)

    @cached_property
    def surveyor(self) -> Surveyor:
        """What looks at the guest."""
        from mbecguard.guest.survey import Surveyor

        return Surveyor(self.guest, self.places.cache, self.note)

    @cached_property
    def planner(self) -> Planner:
        """What plans."""
        from mbecguard.plan.planner import Planner

        return Planner()

    def symbol_at(self, pa: int) -> str:
        """The symbol at a physical address of what was handed over, by this boot's seal; empty: nobody knows.

        What the seal does not keep is data of the kernel, which lies behind its text.
        """
        from mbecguard.guest.procfs import Kallsyms

        entry = self.store.last(self.guest.boot_id)
        plan = self.store.plan(entry.record) if entry else None
        kept = plan.kept(pa >> PAGE_SHIFT) if plan else None
        if plan is None:
            return ""
        va = kept.va + pa - (kept.start << PAGE_SHIFT) if kept else plan.kernel.text_va + pa - plan.kernel.text_pa
        return Kallsyms(self.guest.tree.data("proc/kallsyms") or b"").nearest(va)

    @property
    def simulated(self) -> bool:
        """Whether the host is the simulator, which protects nothing."""
        choice = self.settings.text("lock.host")
        return choice == "simulator" or (choice == "auto" and self.folder is not None)

    @cached_property
    def host(self) -> Host:
        """The host by the setting `lock.host`; the simulator is only chosen for captured guests, or when asked for."""
        if self.simulated:
            return self._simulator()
        if self.folder:
            die("a captured guest can only be locked on the simulator", "use --host simulator", Exit.REFUSED)
        from mbecguard.host.shim import ShimHost

        return ShimHost.at()

    def _simulator(self) -> Host:
        import secrets

        from mbecguard.guest.procfs import parse_max_pfn
        from mbecguard.host.simulated.host import SimulatedHost
        from mbecguard.host.simulated.hypervisor import Options
        from mbecguard.host.wire import Limits

        max_pfn = parse_max_pfn(self.guest.tree.text("proc/cpuinfo") or "")
        options = Options(
            mode=HostMode(self.settings.text("simulator.mode")),
            text=TextMode[self.settings.text("simulator.text").upper()],
            mbec=self.settings.enabled("simulator.mbec"),
            limits=Limits(max_pfn=max_pfn),
            generation=secrets.randbits(32),
        )
        # The canary: the topmost page frame, which no guest has memory at.
        return SimulatedHost(options, max_pfn - 1, self.store.folder / "simulator.json", self.guest.boot_id)

    @cached_property
    def knobs(self) -> Knobs:
        """The switches of the running kernel, unless nothing is to be protected either."""
        return LiveKnobs() if self.real else SimulatedKnobs.of(self.guest.tree)

    @cached_property
    def room(self) -> Room:
        """Where BPF programs go that are compiled after the seal."""
        from mbecguard.lock.room import LiveRoom, NoRoom

        return LiveRoom(lambda: self.guest.memory.read(self.symbols)) if self.real else NoRoom()

    @property
    def symbols(self) -> Kallsyms:
        """Those of a moment, for what needs no newer ones."""
        return self.surveyor.symbols

    @property
    def real(self) -> bool:
        """Whether a lock changes the guest."""
        return self.guest.live and self.settings.text("lock.host") != "simulator"

    @property
    def volatile(self) -> str:
        """Why the state folder would forget the count of boots; empty if it keeps it, or nothing is to be protected."""
        from mbecguard.guest.mounts import volatile

        return volatile(self.guest.tree, self.places.state) if self.real else ""

    def check(self) -> Check:
        """What would stop a lock here: everything about the guest and the host that can be told at once."""
        from mbecguard.session.planning import check_session

        return check_session(self)

    @property
    def switched_off(self) -> tuple[str, str] | None:
        """Who switched locking off, and what to do about it."""
        if self.settings.text("lock.mode") != OFF:
            return None
        origin = self.settings.origin("lock.mode")
        words = ", ".join(f"mbecguard={word}" for word in WORDS)
        if origin.startswith(COMMAND_LINE):
            return origin, f"boot again without that word; known are {words}"
        return origin, "set lock.mode to enforce or audit there"

    def transaction(self, tell: Tell) -> Transaction:
        """A lock that is ready to run; refused where locking is switched off, or the settings are not in order."""
        from mbecguard.session.locking import transaction

        return transaction(self, tell)

    def status(self, *, full: bool = False) -> Status:
        """The state of this guest; of an open one also why the service did not lock it."""
        omitted = self._omitted()
        if off := self.switched_off:
            omitted = (reason("switched-off", origin=off[0], advice=off[1]), *omitted)
        try:
            host = self.host
        except UserError as error:
            if not omitted and error.status is not Exit.REFUSED:
                raise  # who may not look does not know
            found = without_host(error, self.store, self.guest.boot_id)
        else:
            found = status(host, self.store, self.guest.boot_id)
        problems = self.settings.problems
        wrong = tuple(reason("settings-wrong", problem=one.message, advice=one.hint) for one in problems)
        if full:
            found = detailed(found, self.store, self.guest.boot_id)
        if found.state is not State.OPEN:
            return found._replace(reasons=(*found.reasons, *self.undone(found), *wrong))
        others = (other for other in found.reasons if not any(other.text in why.text for why in omitted))
        return found._replace(reasons=(*omitted, *others, *wrong))

    def undone(self, status: Status) -> tuple[Reason, ...]:
        """The switches of a seal that somebody took back; a simulated one sets none."""
        sealed = not status.simulated and status.state is State.SEALED
        entry = self.store.last(self.guest.boot_id) if sealed else None
        return undone(self.knobs, entry.record.frozen) if entry else ()

    def audit(self, tell: Tell) -> Audit:
        """Survey again, compare with the seal, and keep the outcome; what is found is announced.

        Dies if the guest could not be compared; that is kept, too. The histories are looked at as a whole, whatever
        the state.
        """
        from mbecguard.session.auditing import audit

        return audit(self, tell)

    def report(self) -> Report:
        """The newest lock."""
        from mbecguard.audit.report import report

        return report(self.store, self.guest.boot_id)

    def dossier(self, audit: Audit | None = None) -> Dossier:
        """All that is known of the newest lock, and of audits."""
        from mbecguard.audit.report import dossier

        return dossier(self.store, self.guest.boot_id, audit)

    def measured(self) -> Measured:
        """What there is to measure of this guest."""
        from mbecguard.audit.report import measured

        return measured(self.status(full=True), self.store, self.guest.boot_id)

    def explain(self, what: str) -> Explanation:
        """Why a page is kept or denied: by the seal if there is one, else by the plan of today."""
        from mbecguard.session.planning import explain_page

        return explain_page(self, what)

    def _omitted(self) -> tuple[Reason, ...]:
        try:
            omission = self.boot_file.read().omission
        except UserError as error:
            return (reason("boot-file-unusable", problem=error.message, advice=error.hint),)
        ours = omission and omission.boot_id == self.guest.boot_id
        return (reason("boot-not-locked", reason=omission.reason),) if omission and ours else ()
