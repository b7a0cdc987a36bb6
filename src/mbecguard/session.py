# SPDX-License-Identifier: GPL-2.0-or-later
"""What the faces share: one guest, one host, one state folder, put together from options and settings."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from mbecguard.audit.claims import NOT_WANTED, Grounds, Knob
from mbecguard.audit.compare import Comparison, Sight, compare
from mbecguard.audit.conclude import announce, conclude
from mbecguard.audit.kept import Audits, keep
from mbecguard.audit.locked import build_ids, locked
from mbecguard.audit.report import Dossier, Measured, Report, dossier, measured, report
from mbecguard.audit.value import Audit, Locked
from mbecguard.guest.captured import captured_guest
from mbecguard.guest.live import live_guest
from mbecguard.guest.mounts import volatile
from mbecguard.guest.procfs import Kallsyms, parse_max_pfn
from mbecguard.guest.setters import setters
from mbecguard.guest.source import Guest
from mbecguard.guest.survey import Survey, Surveyor
from mbecguard.guest.sysctlfiles import assignments
from mbecguard.guest.uses import SYSCTLS, uses
from mbecguard.host.base import Host, HostErrno, HostMode, HostRefusedError
from mbecguard.image.cache import Note, unnoted
from mbecguard.lock.check import misfit
from mbecguard.lock.context import Seen
from mbecguard.lock.ending import NOT_LOCKED
from mbecguard.lock.request import too_long
from mbecguard.lock.reserve import findings as room_findings
from mbecguard.lock.room import LiveRoom, NoRoom, Room
from mbecguard.lock.transaction import Transaction
from mbecguard.plan import machine
from mbecguard.plan.explain import Explanation, Ground, explain
from mbecguard.plan.findings import Check, check, finding
from mbecguard.plan.planner import Planner, attribute
from mbecguard.plan.policy import Policy, from_settings
from mbecguard.records.boots import BootFile
from mbecguard.records.chain import Entry
from mbecguard.records.identity import Identity, identify
from mbecguard.records.ledger import Bounds
from mbecguard.records.reasons import Reason, reason
from mbecguard.records.record import State
from mbecguard.records.status import Status, detailed, history_reasons, status, without_host
from mbecguard.records.store import Store
from mbecguard.settings.declared import WORDS
from mbecguard.settings.load import COMMAND_LINE, OFF, Settings
from mbecguard.switches import SWITCHES, Knobs, LiveKnobs, SimulatedKnobs, compiles, decide, frozen, undone
from mbecguard.switches import findings as freeze_findings
from mbecguard.text.look import TextLook, look
from mbecguard.values.errors import Exit, UserError, die
from mbecguard.values.events import Event, Tell
from mbecguard.values.facts import Absent, Fact, known, told
from mbecguard.values.findings import Finding

SIMULATED = "simulated"  #: folder, below the state's


@dataclass(frozen=True)
class Places:
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
        guest = captured_guest(self.folder) if self.folder else live_guest()
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
        return self._plan(*self._surveyor.look(), policy)

    @cached_property
    def _surveyor(self) -> Surveyor:
        return Surveyor(self.guest, self.places.cache, self.note)

    @cached_property
    def _planner(self) -> Planner:
        return Planner()

    def _plan(self, facts: Survey, symbols: Kallsyms, policy: Policy | None = None) -> Seen:
        tree = self.guest.tree
        decisions = decide(self.settings, uses(tree, symbols), assignments(tree, SYSCTLS), setters(tree))
        policy = policy or from_settings(self.settings)
        found = self._planner.attribute(facts, policy, symbols.nearest, frozen(decisions, self.knobs))
        return Seen(found.plan, found.roomy, decisions, found.policy)

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
        from mbecguard.host.simulated.host import SimulatedHost
        from mbecguard.host.simulated.hypervisor import Options
        from mbecguard.host.wire import Limits

        max_pfn = parse_max_pfn(self.guest.tree.text("proc/cpuinfo") or "")
        options = Options(
            mode=HostMode(self.settings.text("simulator.mode")),
            mbec=self.settings.enabled("simulator.mbec"),
            limits=Limits(max_pfn=max_pfn),
            generation=secrets.randbits(32),
        )
        # The canary: the topmost page frame, which no guest has memory at.
        return SimulatedHost(options, max_pfn - 1, self.store.folder / "simulator.json", self.guest.boot_id)

    @cached_property
    def knobs(self) -> Knobs:
        """The switches of the running kernel, unless nothing is to be protected either."""
        return LiveKnobs() if self._real else SimulatedKnobs.of(self.guest.tree)

    @cached_property
    def room(self) -> Room:
        """Where BPF programs go that are compiled after the seal."""
        if not self._real:
            return NoRoom()
        return LiveRoom(lambda: self.guest.memory.read(self._symbols))

    @property
    def _symbols(self) -> Kallsyms:
        """Those of a moment, for what needs no newer ones."""
        return self._surveyor.symbols

    @property
    def _real(self) -> bool:
        """Whether a lock changes the guest."""
        return self.guest.live and self.settings.text("lock.host") != "simulator"

    @property
    def volatile(self) -> str:
        """Why the state folder would forget the count of boots; empty if it keeps it, or nothing is to be protected."""
        return volatile(self.guest.tree, self.places.state) if self._real else ""

    def check(self) -> Check:
        """What would stop a lock here: everything about the guest and the host that can be told at once."""
        return check(self._findings())

    def _findings(self) -> list[Finding]:
        try:
            _ = self.guest
        except UserError as error:
            return [finding("guest-unreadable", problem=error.message, advice=error.hint)]
        problems = self.settings.problems
        findings = [finding("settings-wrong", problem=problem.message, advice=problem.hint) for problem in problems]
        if self._switched_off:
            origin, advice = self._switched_off
            findings.append(finding("switched-off", problem=origin, advice=advice))
        if forgets := self.volatile:
            findings.append(finding("state-volatile", problem=forgets))
        seen: Seen | None = None
        try:
            seen = self.look()
            findings += [*seen.plan.findings, *freeze_findings(seen.decisions, self.knobs)]
            goes_on = compiles(seen.policy, seen.decisions, self.knobs)
            if self.settings.text("lock.mode") != "audit":
                findings += room_findings(goes_on, self.settings.number("lock.bpf_packs"), self.room)
        except UserError as error:
            findings.append(finding("guest-unreadable", problem=error.message, advice=error.hint))
        return [*findings, *self._host_findings(seen)]

    def _host_findings(self, seen: Seen | None) -> list[Finding]:
        """What the host answers; of one that cannot guard this machine, why, as far as this guest can tell."""
        cpuinfo = known(self.guest.tree.fact("proc/cpuinfo"), "")
        try:
            unfit = misfit(self.host.query(), self.settings.text("lock.mode"))
            long = list(too_long(self.host, seen.plan, seen.roomy)) if seen else []
        except UserError as error:
            cannot = isinstance(error, HostRefusedError) and error.errno is HostErrno.NOT_SUPPORTED
            causes = list(machine.refused(cpuinfo)) if cannot else []
            return causes or [finding("host-unusable", problem=error.message, advice=error.hint)]
        found = [] if self._switched_off or not unfit else [finding("host-unfit", problem=unfit[0], advice=unfit[1])]
        return [*found, *long, *machine.offered(cpuinfo)]

    @property
    def _switched_off(self) -> tuple[str, str] | None:
        """Who switched locking off, and what to do about it."""
        if self.settings.text("lock.mode") != OFF:
            return None
        origin = self.settings.origin("lock.mode")
        words = ", ".join(f"mbecguard={word}" for word in WORDS)
        if origin.startswith(COMMAND_LINE):
            return origin, f"boot again without that word; known are {words}"
        return origin, "set lock.mode to enforce or audit there"

    @property
    def _sealed(self) -> bool:
        """Whether the host says so; a host that cannot be asked does not."""
        try:
            return self.host.query().sealed
        except UserError:
            return False

    def transaction(self, tell: Tell) -> Transaction:
        """A lock that is ready to run; refused where locking is switched off, or the settings are not in order."""
        if self._switched_off:
            origin, advice = self._switched_off
            done = "the guest stays sealed until it is reset: " if self._sealed else NOT_LOCKED
            die(f"{done}lock.mode is off ({origin})", advice, Exit.REFUSED)
        settings = self.settings.clean()
        mode, policy = settings.text("lock.mode"), from_settings(settings)
        return Transaction(
            host=self.host,
            look=self.look,
            store=self.store,
            identity=identify(self.guest),
            knobs=self.knobs,
            policy=policy.roomy if mode == "audit" else policy,  # nothing is frozen then
            mode=mode,
            tell=tell,
            room=self.room,
            packs=settings.number("lock.bpf_packs"),
            sleep=time.sleep if self.guest.live else lambda _seconds: None,  # a captured guest never settles
        )

    def status(self, *, full: bool = False) -> Status:
        """The state of this guest; of an open one also why the service did not lock it."""
        omitted = self._omitted()
        if off := self._switched_off:
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
            return replace(found, reasons=(*found.reasons, *self.undone(found), *wrong))
        others = (other for other in found.reasons if not any(other.text in why.text for why in omitted))
        return replace(found, reasons=(*omitted, *others, *wrong))

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
        damage = self._damage(tell)
        status = self.status()
        entry = self.store.last(self.guest.boot_id) if status.state in (State.SEALED, State.DEGRADED) else None
        entry = entry if entry and entry.record.state is State.SEALED else None
        found: tuple[Comparison, Locked] | None = None
        error: UserError | None = None
        if status.state is State.SEALED:
            try:
                found = self._compared(entry)
            except UserError as problem:
                error = problem
        comparison, kept = found or (None, None)
        grounds = Grounds(
            status, entry.record if entry else None, comparison, self._knobs(), bool(damage), self._text()
        )
        undone_now = self.undone(status) if found else ()
        result = conclude(grounds, self._subject(entry), entry, kept, error=error, reasons=(*undone_now, *damage))
        result = announce(keep(result, Audits(self.store)), tell)
        if error:
            raise error
        return result

    def _text(self) -> Fact[TextLook]:
        """The text of the running kernel and of its modules, against their files."""
        if not self.guest.live:
            return Absent()
        if not self.settings.enabled("audit.text"):
            return NOT_WANTED
        return told(lambda: look(self.guest, self._symbols, self.places.cache, self.note))

    def _compared(self, entry: Entry | None) -> tuple[Comparison, Locked]:
        if entry is None:
            die("nothing to compare with: the seal is not recorded yet", "`mbecguard lock` completes it")
        seal = self.store.plan(entry.record)
        facts, symbols = self._surveyor.look()
        found = attribute(facts, entry.record.policy, symbols.nearest)
        return compare(seal, Sight(found, facts.mappings, symbols.nearest)), locked(seal, build_ids(facts))

    def _damage(self, tell: Tell) -> tuple[Reason, ...]:
        """Look at everything that is kept; damage is announced once, and told until a person has looked at it."""
        losses, audits = self.store.check(self.guest.boot_id), Audits(self.store).check()
        for part, found in (("locks", losses), ("audits", audits)):
            for loss in found:
                tell(Event.HISTORY_DAMAGED, {"part": part, "what": str(loss)})
        return (*history_reasons(self.store, losses), *Audits(self.store).reasons(audits))

    def _knobs(self) -> tuple[Knob, ...]:
        choices = ((switch, self.settings.text(switch.setting)) for switch in SWITCHES)
        return tuple(Knob(switch, choice, self.knobs.get(switch.knob)) for switch, choice in choices)

    def _subject(self, entry: Entry | None) -> Identity:
        """Whose audit it is; what the lock has learnt of kernel and host holds for the whole boot."""
        found = identify(self.guest)
        learnt = entry.record.identity if entry else replace(found, release=self.guest.release)
        return replace(found, release=learnt.release, build_id=learnt.build_id, host_abi=learnt.host_abi)

    def report(self) -> Report:
        """The newest lock."""
        return report(self.store, self.guest.boot_id)

    def dossier(self, audit: Audit | None = None) -> Dossier:
        """All that is known of the newest lock, and of audits."""
        return dossier(self.store, self.guest.boot_id, audit)

    def measured(self) -> Measured:
        """What there is to measure of this guest."""
        return measured(self.status(full=True), self.store, self.guest.boot_id)

    def explain(self, what: str) -> Explanation:
        """Why a page is kept or denied: by the seal if there is one, else by the plan of today."""
        entry = self.store.last(self.guest.boot_id)
        seal = entry.record if entry and entry.record.state is State.SEALED else None
        plans = (self.store.plan(seal),) if seal else ()
        try:
            facts, symbols = self._surveyor.look()
            today = self._plan(facts, symbols)
            ground = Ground(symbols, (*plans, today.plan), facts.memory.page_offset)
        except UserError:
            if not seal:
                raise
            ground = Ground(self._symbols, plans)
        if seal:
            ground = replace(ground, sealed=seal.time, simulated=seal.simulated)
        return explain(what, ground)

    def _omitted(self) -> tuple[Reason, ...]:
        try:
            omission = self.boot_file.read().omission
        except UserError as error:
            return (reason("boot-file-unusable", problem=error.message, advice=error.hint),)
        ours = omission and omission.boot_id == self.guest.boot_id
        return (reason("boot-not-locked", reason=omission.reason),) if omission and ours else ()
