# SPDX-License-Identifier: GPL-2.0-or-later
"""What the faces share: one guest, one host, one state folder, put together from options and settings."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from mbecguard.audit.attempts import BootFile
from mbecguard.audit.record import State
from mbecguard.audit.status import Status, open_without_host, status
from mbecguard.audit.store import Store
from mbecguard.errors import Exit, UserError, die
from mbecguard.events import Tell
from mbecguard.freeze import Decision, Knobs, LiveKnobs, SimulatedKnobs, decide
from mbecguard.freeze import findings as freeze_findings
from mbecguard.guest.live import live_guest
from mbecguard.guest.procfs import Kallsyms, parse_max_pfn
from mbecguard.guest.recorded import recorded_guest
from mbecguard.guest.source import Guest
from mbecguard.guest.survey import survey
from mbecguard.guest.uses import uses
from mbecguard.host.base import Host, HostMode
from mbecguard.lock import NOT_LOCKED, Transaction, mode_misfit
from mbecguard.plan.findings import Finding, finding
from mbecguard.plan.planner import Plan, build_plan
from mbecguard.plan.policy import Policy, from_settings
from mbecguard.settings import COMMAND_LINE, OFF, Settings
from mbecguard.table import WORDS

SIMULATED = "simulated"  #: folder, below the state's


@dataclass(frozen=True)
class Places:
    """Where the agent keeps its state and its cache."""

    state: Path
    cache: Path

    @classmethod
    def default(cls) -> Places:
        """System folders for root, the XDG folders for others."""
        if os.geteuid() == 0:
            return cls(Path("/var/lib/mbecguard"), Path("/var/cache/mbecguard"))
        home = Path.home()
        state = Path(os.environ.get("XDG_STATE_HOME", home / ".local/state"))
        cache = Path(os.environ.get("XDG_CACHE_HOME", home / ".cache"))
        return cls(state / "mbecguard", cache / "mbecguard")


@dataclass(frozen=True)
class Session:
    """One run of the agent. `folder` is a recorded guest, None for the running one."""

    settings: Settings
    places: Places
    folder: Path | None = None
    kernel_image: Path | None = None
    modules_dir: Path | None = None

    @cached_property
    def guest(self) -> Guest:
        """The guest, with the images that the user gave."""
        guest = recorded_guest(self.folder) if self.folder else live_guest()
        return guest.with_images(self.kernel_image, self.modules_dir)

    @cached_property
    def store(self) -> Store:
        """What was recorded of locks; a simulated one is no evidence, and is kept apart."""
        return Store(self.places.state / SIMULATED if self.simulated else self.places.state)

    @property
    def boot_file(self) -> BootFile:
        """What the service remembers of boots."""
        return BootFile(self.places.state)

    def look(self, policy: Policy | None = None) -> Plan:
        """Survey the guest now, and plan by a policy: if none is given, that of the settings."""
        return self.look_with_symbols(policy)[0]

    def look_with_symbols(self, policy: Policy | None = None) -> tuple[Plan, Kallsyms]:
        """The same, and the kernel's symbols."""
        facts, symbols = survey(self.guest, self.places.cache)
        return build_plan(facts, policy or from_settings(self.settings), symbols.nearest), symbols

    @property
    def simulated(self) -> bool:
        """Whether the host is the simulator, which protects nothing."""
        choice = self.settings.text("lock.host")
        return choice == "simulator" or (choice == "auto" and self.folder is not None)

    @cached_property
    def host(self) -> Host:
        """The host by the setting `lock.host`; the simulator is only chosen for recorded guests, or when asked for."""
        if self.simulated:
            return self._simulator()
        if self.folder:
            die("a recorded guest can only be locked on the simulator", "use --host simulator", Exit.REFUSED)
        from mbecguard.host.shim import ShimHost

        return ShimHost.at()

    def _simulator(self) -> Host:
        from mbecguard.host.hypervisor import Options
        from mbecguard.host.simulator import SimulatedHost
        from mbecguard.host.wire import Limits

        max_pfn = parse_max_pfn(self.guest.tree.text("proc/cpuinfo") or "")
        options = Options(
            mode=HostMode(self.settings.text("simulator.mode")),
            mbec=self.settings.enabled("simulator.mbec"),
            limits=Limits(max_pfn=max_pfn),
        )
        # The canary: the topmost page frame, which no guest has memory at.
        return SimulatedHost(options, max_pfn - 1, self.store.made() / "simulator.json", self.guest.boot_id)

    @cached_property
    def knobs(self) -> Knobs:
        """The switches of the running kernel, unless nothing is to be protected either."""
        real = self.guest.live and self.settings.text("lock.host") != "simulator"
        return LiveKnobs() if real else SimulatedKnobs()

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """Which switches to set, by the settings and by what the guest uses now."""
        symbols = Kallsyms(self.guest.tree.data("proc/kallsyms") or b"")
        return decide(self.settings, uses(self.guest.tree, symbols))

    def blockers(self) -> list[Finding]:
        """What would stop a lock here: everything about the guest and the host that can be told at once."""
        findings: list[Finding] = []
        if self._switched_off:
            origin, advice = self._switched_off
            findings.append(finding("switched-off", problem=origin, advice=advice))
        try:
            findings += self.look().findings
            findings += freeze_findings(self.decisions, self.knobs)
        except UserError as error:
            findings.append(finding("guest-unreadable", problem=error.message, advice=error.hint))
        try:
            misfit = mode_misfit(self.host.query().mode, self.settings.text("lock.mode"))
            if misfit and not self._switched_off:
                findings.append(finding("host-unfit", problem=misfit[0], advice=misfit[1]))
        except UserError as error:
            findings.append(finding("host-unusable", problem=error.message, advice=error.hint))
        return findings

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

    def transaction(self, tell: Tell) -> Transaction:
        """A lock that is ready to run; refused where locking is switched off."""
        if self._switched_off:
            origin, advice = self._switched_off
            die(f"{NOT_LOCKED}lock.mode is off ({origin})", advice, Exit.REFUSED)
        return Transaction(
            host=self.host,
            look=self.look,
            store=self.store,
            boot_id=self.guest.boot_id,
            decisions=self.decisions,
            knobs=self.knobs,
            policy=from_settings(self.settings),
            mode=self.settings.text("lock.mode"),
            tell=tell,
        )

    def status(self) -> Status:
        """The state of this guest; of an open one also why the service did not lock it."""
        omitted = self._omitted()
        if off := self._switched_off:
            omitted = (finding("switched-off", problem=off[0], advice=off[1]).text, *omitted)
        try:
            host = self.host
        except UserError as error:
            if not omitted:
                raise
            found = open_without_host(error.message)
        else:
            found = status(host, self.store, self.guest.boot_id)
        if found.state is not State.OPEN:
            return found
        others = (reason for reason in found.reasons if not any(reason in why for why in omitted))
        return replace(found, reasons=(*omitted, *others))

    def _omitted(self) -> tuple[str, ...]:
        try:
            omission = self.boot_file.read().omission
        except UserError as error:
            return (error.message,)
        ours = omission and omission.boot_id == self.guest.boot_id
        return (f"the service did not lock this boot: {omission.reason}",) if omission and ours else ()
