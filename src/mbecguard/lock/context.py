# SPDX-License-Identifier: GPL-2.0-or-later
"""What a fresh lock, a rerun and their ending share: whom they work with, how far they are, what is to be undone."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from mbecguard.host.base import Host, HostRefusedError
from mbecguard.host.text import HandOver
from mbecguard.lock.proof import Prober
from mbecguard.lock.room import NoRoom, Room
from mbecguard.lock.stop import Stop
from mbecguard.lock.undo import UndoStack
from mbecguard.plan.policy import Policy
from mbecguard.plan.value import Plan
from mbecguard.records.identity import Identity
from mbecguard.records.record import SEALED_STEPS, Journal, Step
from mbecguard.records.store import Store
from mbecguard.switches import Knobs
from mbecguard.switches.decisions import Decision, compiles
from mbecguard.values.errors import UserError, die
from mbecguard.values.events import Event, Tell
from mbecguard.values.findings import Finding


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look at the guest came to: a plan by a policy, and which switches to set by what the guest uses."""

    plan: Plan  #: to be sealed
    roomy: Plan  #: to be applied until then, with the free space that the seal drops
    decisions: tuple[Decision, ...]
    policy: Policy  #: that made the plan, with nothing left open
    obstacles: tuple[Finding, ...] = ()  #: to the policy's level


#: What is handed over, as a plan and a policy have it; dies of text that was changed.
Texts = Callable[[Plan, Policy], HandOver]


def no_texts(_plan: Plan, _policy: Policy) -> HandOver:
    """Of a guest whose text nobody can read."""
    die("the kernel's text cannot be read here", 'policy.level = "exec" needs none')


@dataclass(slots=True)
class Context:
    """One attempt to lock a guest.

    `look` surveys the guest, again and again, as the guest changes. `reach` is called when a step begins, and does
    nothing; tests use it as a fault point.
    """

    host: Host
    look: Callable[[Policy], Seen]
    store: Store
    identity: Identity
    knobs: Knobs
    policy: Policy  #: of a guest that is sealed already: the one it was sealed by
    mode: str
    tell: Tell
    room: Room = field(default_factory=NoRoom)
    texts: Texts = no_texts
    packs: int = 0  #: to be reserved in it, if BPF programs go on being compiled
    reach: Callable[[Step], None] = lambda _step: None
    sleep: Callable[[float], None] = time.sleep
    decisions: tuple[Decision, ...] = field(default=(), init=False)  #: of the newest survey
    known_plan: Plan | None = field(default=None, init=False)
    settled: Policy | None = field(default=None, init=False)  #: that made the plan
    step: Step | None = field(default=None, init=False)  #: None: nothing is begun, the journal is not ours
    sealed: bool = field(default=False, init=False)
    pins: tuple[str, ...] = field(default=(), init=False)  #: names of what the host has pinned
    text_digest: str = field(default="", init=False)  #: of the kernel text that the host holds
    given: HandOver | None = field(default=None, init=False)  #: what this run hands over
    digests: list[str] = field(default_factory=list, init=False)  #: of the host with none of it, with one, and so on
    untold: bool = field(default=False, init=False)  #: the seal is proven, and nobody has heard of it
    prober: Prober = field(init=False)
    undo: UndoStack = field(init=False)
    stop: Stop = field(default_factory=Stop, init=False)
    switched: dict[str, str] = field(default_factory=dict, init=False)  #: reversible switches -> value before

    def __post_init__(self) -> None:
        self.prober = Prober(self.host)
        self.undo = UndoStack(lambda what, reason: self.say(Event.ROLLBACK_FAILED, what=what, reason=reason))

    @property
    def boot_id(self) -> str:
        """Which boot this is."""
        return self.identity.boot_id

    @property
    def plan(self) -> Plan:
        """The plan of the newest survey; of a sealed guest, the one it was sealed by."""
        assert self.known_plan is not None
        return self.known_plan

    @property
    def planned_by(self) -> Policy:
        """The policy that made the plan; before there is one, the policy that will."""
        return self.settled or self.policy

    @property
    def compiles(self) -> bool:
        """Whether new BPF programs are compiled after the seal, by the newest survey."""
        return compiles(self.planned_by, self.decisions, self.knobs)

    def take(self, seen: Seen) -> None:
        """Go by what the newest look came to."""
        self.known_plan, self.decisions, self.settled = seen.plan, seen.decisions, seen.policy

    def begin(self, step: Step) -> None:
        """A step begins: it is noted before anything is done. Before the seal a signal to stop is heeded here."""
        if not self.sealed:
            self.stop.check()
        self.step = step
        self.note()
        self.say(Event.STEP, step=step)
        self.reach(step)

    def note(self) -> None:
        """Remember on disk how far this is."""
        assert self.step is not None
        plan = self.plan if self.sealed or self.step in (Step.SEAL, *SEALED_STEPS) else None
        digest = plan.digest if plan else ""
        found, switched = self.prober.found, self.switched
        journal = Journal(self.boot_id, self.step, found, switched, digest, self.planned_by, self.text_digest)
        self.store.note(journal, plan)

    def say(self, event: Event, **facts: str) -> None:
        """Tell it to whoever listens."""
        # Neither a closed terminal nor a dead journal nor a bug may decide over the lock, least of all in a rollback.
        with suppress(Exception):
            self.tell(event, facts)

    def is_sealed(self) -> bool:
        """Whether the guest is sealed, by what was seen and else by the host's own answer."""
        if not self.sealed and not self.prober.unlocked:
            with suppress(UserError, HostRefusedError):
                self.sealed = self.host.query().sealed
        return self.sealed
