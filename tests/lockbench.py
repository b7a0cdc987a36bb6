# SPDX-License-Identifier: GPL-2.0-or-later
"""A bench for the transaction: a simulated host that can be made to fail or lie, a state folder, a guest to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mbecguard.host.base import Host, HostDetails, HostStatus, HostText, Outcome, Protection
from mbecguard.host.simulated.ept import Ept
from mbecguard.host.simulated.host import SimulatedHost
from mbecguard.host.simulated.hypervisor import Options
from mbecguard.host.text import HandOver, SiteForm, TextObject, TextRun, TextSite
from mbecguard.host.wire import Limits
from mbecguard.lock.context import Seen
from mbecguard.lock.room import NoRoom, Room
from mbecguard.lock.transaction import Transaction
from mbecguard.plan.policy import Level, Policy
from mbecguard.plan.value import Plan
from mbecguard.records.identity import Identity
from mbecguard.records.record import Record, Step
from mbecguard.records.status import Status, status
from mbecguard.records.store import Store
from mbecguard.switches import SWITCHES, LiveKnobs
from mbecguard.switches.decisions import Decision
from mbecguard.values.errors import UserError, die
from mbecguard.values.events import Event, message
from mbecguard.values.pages import PageRange
from tests.plans import CANARY, PFNS, SPANS, make_plan, with_free_space

BOOT = "11111111-2222-3333-4444-555555555555"
OPTIONS = Options(limits=Limits(max_pfn=PFNS))
BEFORE = {s.knob: "0" if s.value == "1" else "1" for s in SWITCHES}
AFTER = {s.knob: s.value for s in SWITCHES}
ONE_WAY = {s.knob for s in SWITCHES if s.one_way}
FROZEN = {s.knob: BEFORE[s.knob] if s.one_way else s.value for s in SWITCHES}  #: before the seal


#: Steps of a lock of the bench: its BPF programs are interpreted after the freeze, and its level is exec.
STEPS = tuple(step for step in Step if step not in (Step.RESERVE, Step.TEXT, Step.MODULES))


class WrappedHost:
    """A host that does what `inner` does; `hook` is told the name of every call before it is made."""

    def __init__(self, inner: Host, hook: Callable[[str], None] = lambda _call: None) -> None:
        self.inner, self.hook = inner, hook
        self.name, self.simulated = inner.name, inner.simulated
        self.max_pfn, self.canary_pfn, self.target_pfn = inner.max_pfn, inner.canary_pfn, inner.target_pfn

    def query(self) -> HostStatus:
        self.hook("query")
        return self.inner.query()

    def most_ranges(self) -> int:
        self.hook("most_ranges")
        return self.inner.most_ranges()

    def protect(self, request: Sequence[Protection]) -> None:
        self.hook("protect")
        self.inner.protect(request)

    def pin(self) -> tuple[str, ...]:
        self.hook("pin")
        return self.inner.pin()

    def pinned(self) -> bool:
        self.hook("pinned")
        return self.inner.pinned()

    def details(self) -> HostDetails | None:
        self.hook("details")
        return self.inner.details()

    def hold_modules(self, hold: bool) -> None:
        self.hook("hold_modules")
        self.inner.hold_modules(hold)

    def run_canary(self) -> Outcome:
        self.hook("run_canary")
        return self.inner.run_canary()

    def run_user(self, pfn: int) -> Outcome:
        self.hook("run_user")
        return self.inner.run_user(pfn)

    def run_kept(self, pfn: int) -> Outcome:
        self.hook("run_kept")
        return self.inner.run_kept(pfn)

    def text(self) -> HostText | None:
        self.hook("text")
        return self.inner.text()

    def foreign(self) -> int:
        self.hook("foreign")
        return self.inner.foreign()

    def hand_over(self, text: TextObject) -> None:
        self.hook("hand_over")
        self.inner.hand_over(text)

    def run_store(self) -> Outcome:
        self.hook("run_store")
        return self.inner.run_store()

    def run_patch(self) -> Outcome:
        self.hook("run_patch")
        return self.inner.run_patch()


#: What is handed over of the guest of the bench: its page to write to, kernel text, read-only data, and modules.
TARGET_PFN = CANARY - 1
FIRST = (
    TextObject(PageRange(TARGET_PFN, TARGET_PFN + 1)),
    TextObject(PageRange(*SPANS[1]), (TextSite(0, 0, SiteForm.MCOUNT, 5),), (0,)),
    TextObject(PageRange(50, 51), data=True),
)
LATE = (TextObject(PageRange(*SPANS[2]), more=(TextRun(PageRange(CANARY + 1, SPANS[3][1]), 0x3000),)),)
TEXTS = (*FIRST, *LATE)


def given(logs: bool, left: tuple[str, ...] = ()) -> HandOver:
    """All of that, with what could not be compared."""
    first, late = (tuple(replace(text, logs=logs) for text in texts) for texts in (FIRST, LATE))
    return HandOver(first, late, left)


class GuestKnobs(LiveKnobs):
    """Switches in files, some of which go one way only, as the kernel's do."""

    def put(self, name: str, value: str) -> None:
        if name in ONE_WAY and self.get(name) == AFTER[name] != value:
            die(f"{name} cannot be set to {value}: Invalid argument")
        LiveKnobs.put(self, name, value)


def nothing(_step: Step) -> None:
    """The fault point of a lock that is left alone."""


@dataclass
class Bench:
    """One guest on one simulated host; a second bench in the same folder is the next agent in the same boot."""

    folder: Path
    options: Options = OPTIONS
    boot_id: str = BOOT
    plans: list[Plan] = field(default_factory=lambda: [make_plan()])  #: what the surveys find, the last one for ever
    roomy: Plan | None = None  #: what is applied until the freeze; None: what is sealed, with free space
    mode: str = "enforce"
    decisions: tuple[Decision, ...] = tuple(Decision(switch, "auto", None) for switch in SWITCHES)
    policy: Policy = field(default_factory=Policy)
    room: Room = field(default_factory=NoRoom)
    packs: int = 8
    left: tuple[str, ...] = ()  #: of what should be handed over
    policies: list[Policy] = field(default_factory=list)  #: of each look
    told: list[tuple[Event, dict[str, str]]] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = Store(self.folder / "state")
        self.host = SimulatedHost(self.options, CANARY, self.folder / "host.json", self.boot_id)
        self.knobs = GuestKnobs(self.folder / "root")
        for name, value in BEFORE.items():
            path = self.knob_file(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_text(value + "\n")

    def knob_file(self, name: str) -> Path:
        return self.folder / "root" / (name[1:] if name.startswith("/") else f"proc/sys/{name.replace('.', '/')}")

    def look(self, policy: Policy) -> Seen:
        self.policies.append(policy)
        plan = self.plans.pop(0) if len(self.plans) > 1 else self.plans[0]
        roomy = self.roomy or (plan if self.mode == "audit" else with_free_space(plan))
        return Seen(plan, roomy, self.decisions, policy)

    def tell(self, event: Event, facts: dict[str, str]) -> None:
        self.told.append((event, facts))

    def transaction(self, host: Host | None = None, reach: Callable[[Step], None] = nothing) -> Transaction:
        return Transaction(
            host=host or self.host,
            look=self.look,
            store=self.store,
            identity=Identity(self.boot_id),
            knobs=self.knobs,
            policy=self.policy,
            mode=self.mode,
            tell=self.tell,
            room=self.room,
            texts=lambda _plan, policy: given(policy.level is Level.TEXT_LOG, self.left),
            packs=self.packs,
            reach=reach,
            sleep=self.slept.append,
        )

    def lock(self, host: Host | None = None, reach: Callable[[Step], None] = nothing) -> Record:
        try:
            return self.transaction(host, reach).run()
        finally:
            assert all(message(event, facts) for event, facts in self.told)  # every fact that the texts need is there

    def fails(self, host: Host | None = None, reach: Callable[[Step], None] = nothing) -> UserError:
        """The error that a lock ends with."""
        try:
            record = self.lock(host, reach)
        except UserError as error:
            return error
        raise AssertionError(f"the lock did not fail: {record.state}")

    def status(self, host: Host | None = None) -> Status:
        return status(host or self.host, self.store, self.boot_id)

    def again(self) -> Bench:
        """The next agent, with nothing but what is on disk."""
        return Bench(self.folder, self.options, self.boot_id, policy=self.policy)

    def frames(self, bit: Ept) -> set[int]:
        """The page frames whose EPT leaf has a permission bit, one by one."""
        return {gfn for gfn in range(PFNS) if bit in self.host.hypervisor.ept.leaf(gfn)}

    def values(self) -> dict[str, str | None]:
        return {name: self.knobs.get(name) for name in BEFORE}

    def events(self) -> list[Event]:
        return [event for event, _ in self.told]
