# SPDX-License-Identifier: GPL-2.0-or-later
"""What a seal promises, as a table: each claim with how it is judged, and what to do if it does not hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from mbecguard.audit.compare import Comparison
from mbecguard.audit.value import Claim, Result
from mbecguard.host.base import HostMode, TextMode
from mbecguard.plan.policy import Level
from mbecguard.records.record import Record, State, is_proof
from mbecguard.records.status import Status, other_text
from mbecguard.settings.declared import BY_KEY
from mbecguard.switches import Switch
from mbecguard.text.look import TextLook, spot_told
from mbecguard.values.facts import Absent, Fact, Unknown

_RELOCK = "reset the guest, then lock it"
_UNCOMPARED = "the guest could not be compared with its seal"
_MOOT = Result.NOT_APPLICABLE
OLD_PINS = ("CR0.WP", "CR0.PG", "CR4.SMEP")  #: older records name none


@dataclass(frozen=True, slots=True)
class Knob:
    """A switch as it is set now."""

    switch: Switch
    choice: str  #: of the setting: auto, on, off
    value: str | None  #: None: this kernel has none, or lets nobody look


UNLOOKED = Unknown("nobody has looked")
NOT_WANTED = Unknown("audit.text is off")


@dataclass(frozen=True, slots=True)
class Grounds:
    """What claims are judged by."""

    status: Status
    seal: Record | None  #: None: nothing is sealed
    comparison: Comparison | None  #: None: the guest could not be compared
    knobs: tuple[Knob, ...] = ()
    damaged: bool = False  #: what is kept of locks or audits
    text: Fact[TextLook] = UNLOOKED  #: of the running kernel
    foreign: int = 0  #: page frames of text that somebody other than the guest has written to


@dataclass(frozen=True, slots=True)
class Judged:
    """What was found of one claim. Without a result it holds if it is running."""

    available: bool | None
    configured: bool | None
    running: bool | None
    evidence: str
    action: str = ""
    result: Result | None = None

    @property
    def verdict(self) -> Result:
        """Whether the claim holds."""
        if self.result is not None:
            return self.result
        return {True: Result.PASS, False: Result.FAIL, None: Result.UNKNOWN}[self.running]


@dataclass(frozen=True, slots=True)
class Promise:
    """A kind of claim. `sealed`: nobody claims it of a guest that was not sealed. `always`: it fails of any guest."""

    id: str
    text: str
    judge: Callable[[Grounds], Judged]
    sealed: bool = True
    always: bool = False


def _host_enforces(grounds: Grounds) -> Judged:
    mode = grounds.status.mode
    if mode is HostMode.UNKNOWN:
        sealed = grounds.status.state is State.SEALED or None  # its canary was denied just now, see records/status.py
        return Judged(sealed, None, sealed, "this host tells no mode")
    wanted = grounds.seal.mode == mode.value if grounds.seal else None
    action = "have the host's administrator set kvm.mbecguard=enforce"
    return Judged(True, wanted, mode is HostMode.ENFORCE, f"mode {mode.value}", action)


def _map_sealed(grounds: Grounds) -> Judged:
    status = grounds.status
    told = f"state {status.state}, generation {status.generation}"
    action = "`mbecguard status` tells why; a reset and a lock bring it back"
    return Judged(True, True, status.state is State.SEALED, told, action)


def _map_as_sealed(grounds: Grounds) -> Judged:
    wanted = grounds.seal.map_digest if grounds.seal else ""
    found = grounds.status.map_digest
    if not found or not wanted:
        return Judged(False, True, None, "this host, or the record, tells no digest of the map")
    return Judged(True, True, found == wanted, f"the host's map is {found[:16]}", _RELOCK)


def _denied_code_faults(grounds: Grounds) -> Judged:
    evidence = grounds.seal.evidence if grounds.seal else ()
    failed = ", ".join(one.probe for one in evidence if not one.holds)
    told = f"failed: {failed}" if failed else f"{len(evidence)} probes at the lock, all as expected"
    return Judged(True, True, is_proof(evidence), told, "take nothing here for locked; ask the host's administrator")


def _cr_pinned(grounds: Grounds) -> Judged:
    seal, ids = grounds.seal, {reason.id for reason in grounds.status.reasons}
    pinned = bool(seal and seal.pinned) and not {"unpinned", "pins-refused"} & ids
    bits = " ".join(seal.pins if seal and seal.pins else OLD_PINS)
    untried = "; could not be tried now" if "pins-untried" in ids else ""
    return Judged(True, True, pinned, (bits if pinned else "CR4.SMEP can be cleared") + untried, _RELOCK)


def _compared(judge: Callable[[Comparison], Judged]) -> Callable[[Grounds], Judged]:
    """What rests on the comparison with the seal: unknown without one."""

    def judged(grounds: Grounds) -> Judged:
        return judge(grounds.comparison) if grounds.comparison else Judged(None, True, None, _UNCOMPARED)

    return judged


@_compared
def _no_unknown_code(found: Comparison) -> Judged:
    told = f"{len(found.new)} new ranges, {len(found.unexplained)} that nobody explains"
    action = "`mbecguard explain ADDRESS` of each; `mbecguard capture DIR` keeps what is there"
    return Judged(True, True, found.ok, told, action)


@_compared
def _no_writable_code(found: Comparison) -> Judged:
    action = "whoever can write to memory can change it, sealed or not; find out who made it so"
    return Judged(True, True, not found.writable, f"{found.writable} writable pages", action)


@_compared
def _no_stale_code(found: Comparison) -> Judged:
    told = f"{sum(code.pages for code in found.stale)} pages in {len(found.stale)} ranges are code no more"
    action = "what gets into them can run; they go at the next lock"
    return Judged(True, True, not found.stale, told, action, Result.WARN if found.stale else Result.PASS)


def _records_intact(grounds: Grounds) -> Judged:
    told = "damage was found, and kept aside" if grounds.damaged else "each follows the one before"
    action = "compare what is left with the journal (`journalctl MBECGUARD_EVENT=SEALED`)"
    return Judged(True, True, not grounds.damaged, told, action, Result.WARN if grounds.damaged else Result.PASS)


def _text_unchanged(grounds: Grounds) -> Judged:
    """One look at one moment, by the guest itself: what it finds is there, what it does not find may be hidden."""
    text = grounds.text
    if isinstance(text, Absent):
        return Judged(False, None, None, "text is compared in the running guest only", result=_MOOT)
    if isinstance(text, Unknown):
        told = text.reason + (f" ({text.remedy})" if text.remedy else "")
        return Judged(None, True, None, told, result=_MOOT if text is NOT_WANTED else None)
    found = text.value
    told = f"{found.bytes >> 10} KiB and {found.sites} patch sites of the kernel and {found.modules} modules"
    if found.spots:
        action = "take it for an intrusion until you know better: `mbecguard audit --json` has the bytes"
        return Judged(True, True, False, f"{found.changed} places differ, {spot_told(found.spots[0])}; {told}", action)
    if found.problems:
        more = f" and {len(found.problems) - 1} more" if len(found.problems) > 1 else ""
        return Judged(True, True, None, f"not compared: {found.problems[0]}{more}; as it should be: {told}")
    untold = f"; of {found.untold} bytes nobody can tell" if found.untold else ""
    return Judged(True, True, True, told + untold)


def _text_held(grounds: Grounds) -> Judged:
    level, text = (grounds.seal.level if grounds.seal else Level.EXEC), grounds.status.text
    available = bool(text and text.offers is not TextMode.NONE)
    if level is Level.EXEC or not grounds.seal:
        told = "level exec; this host could hold it" if available else "level exec"
        return Judged(available, False, False, told, result=_MOOT)
    if not text or (wrong := other_text(text, grounds.seal)):
        return Judged(available, True, False, wrong.text if text and wrong else "the host tells nothing of it", _RELOCK)
    told = f"level {level}: {text.pages} pages, {text.patches} stores of patches, {text.bad} others"
    if grounds.foreign:
        told += f"; a device or the host has written to the memory of {grounds.foreign} of them, which is not executed"
        return Judged(available, True, True, told, "find out which device did so", Result.WARN)
    return Judged(available, True, True, told)


CLAIMS: tuple[Promise, ...] = (
    Promise("host-enforces", "the host stops the kernel from executing denied pages", _host_enforces, sealed=False),
    Promise("map-sealed", "nobody in the guest can change what is denied until it is reset", _map_sealed, sealed=False),
    Promise("map-as-sealed", "the host's map is the one that was asked for", _map_as_sealed),
    Promise("denied-code-faults", "denied code was tried, and faulted; kept code ran", _denied_code_faults),
    Promise("cr-pinned", "the guest cannot clear the control register bits that the lock rests on", _cr_pinned),
    Promise("no-unknown-code", "no page is executable that the seal does not know", _no_unknown_code),
    Promise("no-writable-code", "no code of the kernel is writable", _no_writable_code),
    Promise("no-stale-code", "what stays executable is code still", _no_stale_code),
    Promise(
        "text-unchanged",
        "text of kernel and modules is as their files say, and patched only where and how the kernel does it",
        _text_unchanged,
        sealed=False,
        always=True,
    ),
    Promise("text-held", "nothing but the kernel's own patches changes its text", _text_held),
    Promise("records-intact", "records of locks and audits are as they were written", _records_intact, sealed=False),
)


def claims(grounds: Grounds) -> tuple[Claim, ...]:
    """Each claim, judged; those of a seal do not apply where there was none."""
    switches = (_claim(id_of(k.switch), BY_KEY[k.switch.setting].help, _switch(k, grounds)) for k in grounds.knobs)
    return (*(_judged(promise, grounds) for promise in CLAIMS), *switches)


def id_of(switch: Switch) -> str:
    """The id of the claim about a switch."""
    return switch.setting.replace(".", "-").replace("_", "-")


def _judged(promise: Promise, grounds: Grounds) -> Claim:
    if promise.sealed and not grounds.seal:
        return _claim(promise.id, promise.text, Judged(None, None, False, "nothing is sealed", "", _MOOT))
    found = promise.judge(grounds)
    open_ = not grounds.seal and grounds.status.state is not State.DEGRADED and not promise.always
    return _claim(promise.id, promise.text, replace(found, result=_MOOT) if open_ and not found.running else found)


def _switch(knob: Knob, grounds: Grounds) -> Judged:
    """The seal holds without any of them: they stop earlier, with an errno, what else faults."""
    seal, name, value, wanted = grounds.seal, knob.switch.knob, knob.value, knob.switch.value
    if seal and grounds.status.simulated:
        return Judged(None, name in seal.frozen, False, "a simulated lock sets none", result=_MOOT)
    frozen, running = bool(seal and name in seal.frozen), None if value is None else value == wanted
    told = f"this kernel has no {name}, or hides it" if value is None else f"{name} is {value or 'unset'}"
    if not (frozen or (seal and running)):
        left = "; it was left open at the seal" if seal and value is not None else ""
        return Judged(value is not None, knob.choice == "on", running, told + left, result=_MOOT)
    result = {True: Result.PASS, False: Result.WARN, None: Result.UNKNOWN}[running]
    return Judged(
        value is not None, frozen, running, told, f"find out who sets it, and set it to {wanted} again", result
    )


def _claim(id_: str, text: str, found: Judged) -> Claim:
    action = found.action if found.verdict in (Result.WARN, Result.FAIL) else ""
    return Claim(id_, text, found.available, found.configured, found.running, found.evidence, found.verdict, action)
