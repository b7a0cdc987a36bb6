# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a guest is in the state it is in, or not in a better one: a closed catalogue.

A reason is data, as a finding is: an id that scripts can match and that never changes, and one sentence.
"""

from __future__ import annotations

from typing import NamedTuple


class Reason(NamedTuple):
    """One reason, as it stands in records and in the status; the hint says what to do, if anything can be done."""

    id: str
    text: str
    hint: str = ""

    def __str__(self) -> str:
        return self.text


_RESET = "reset the guest, then lock it"
_AGAIN = "`mbecguard lock` completes it, or undoes and repeats it"

#: Text and hint; both are format strings.
CATALOGUE: dict[str, tuple[str, str]] = {
    "audit-clean": ("every executable page is one that the seal knows", ""),
    "audit-incomplete": ("not everything could be compared: {problem}", "{advice}"),
    "audit-impossible": ("the guest could not be compared with its seal: {problem}", "{advice}"),
    "audit-new": (
        "{ranges} ranges of code are new since the seal: the host denies them, what runs there faults",
        "`mbecguard explain ADDRESS` says more of each; if they are wanted, create them before the next lock",
    ),
    "audit-not-sealed": ("nothing to audit: the guest is {state}, not sealed", "`mbecguard status` tells why"),
    "audit-text": (
        "{count} places of kernel text are not as their files say, the first: {what}",
        "take it for an intrusion until you know better, also where nothing is sealed; the claim text-unchanged and "
        "`mbecguard audit --json` have more",
    ),
    "audit-unkept": ("this audit is not kept: {problem}", "{advice}"),
    "audit-writable": (
        "{pages} pages of the kernel's own code are writable and executable at once",
        "what can be written needs no new code: take it for an intrusion until you know better; `mbecguard plan` "
        "names them",
    ),
    "audits-damaged": (
        "the history of audits is damaged: {what}",
        "compare what is left with the journal (`journalctl MBECGUARD_EVENT=AUDIT_PASSED`), then move {folder} away",
    ),
    "audit-unexplained": (
        "{ranges} ranges are executable since the seal, and nobody knows why; the host denies {denied} of them",
        "take it for an intrusion until you know better: `mbecguard capture DIR` keeps what is there, `journalctl -k` "
        "shows faults; do not reset the machine before you have both",
    ),
    "audit-mode": (
        "audit mode: denied fetches are logged, not stopped",
        "where nothing was logged, have the host's administrator set kvm.mbecguard=enforce, and lock with that mode",
    ),
    "boot-file-unusable": ("{problem}", "{advice}"),
    "boot-not-locked": ("the service did not lock this boot: {reason}", ""),
    "bpf-unreserved": (
        "BPF programs go on being compiled, and no room is reserved for them: any user can fill what there is, and "
        "crash this guest",
        "lock.bpf_packs above 0 reserves room at the next lock",
    ),
    "free-space-kept": (
        "{pages} pages of free space stay executable (kind {kind}): whoever can write kernel memory can put code there",
        'policy.tight = "on" drops them at the next lock',
    ),
    "free-space-unknown": ("nobody can tell how much of {pages} kept pages is free space (kind {kind}): {problem}", ""),
    "freeze-left-open": ("{knob} is not frozen, because of {use}", "left open, {risk}"),
    "freeze-unknown": ("{knob} is not frozen: {use}", "{remedy}"),
    "hooks-alone": (
        "BPF hooks on kernel functions ({count}) have a page each on this kernel: a new one crashes this guest, as "
        "when systemd is executed again",
        "boot with an `lsm=` without bpf, or upgrade systemd and libc in a boot with mbecguard=off; freeze.ftrace = "
        '"on" prevents it as well, and takes such hooks away',
    ),
    "history-damaged": (
        "the history of locks is damaged: {what}",
        "compare what is left in {folder} with the journal (`journalctl MBECGUARD_EVENT=SEALED`), then move it away",
    ),
    "host-mode-changed": (
        "the host's mode is {mode} now: denied fetches are not stopped",
        "ask the host's administrator for kvm.mbecguard=enforce",
    ),
    "host-unusable": ("{problem}", "{advice}"),
    "interrupted": ("an attempt stopped at step {step}", _AGAIN),
    "journal-damaged": ("nobody knows how far an attempt came: {problem}", _AGAIN),
    "map-differs": (
        "the host's map is not the one that was asked for: its digest is {found}, not {wanted}",
        "take it for an attack, or for a guest that was moved; reset the guest, then lock it",
    ),
    "map-unseen": (
        "this host tells no digest of its map: whether it is still the sealed one, nobody can see",
        "",
    ),
    "map-changed": ("the host's map is not the recorded one: the guest was moved", "lock it again"),
    "map-gone": ("the map that was applied is gone: a later attempt undid it, or the host lost it", "lock it again"),
    "map-lost": ("the host lost the map: the guest was reset, or moved without it", "lock it again"),
    "not-enforced": ("the host does not enforce: {evidence}", ""),
    "of-earlier-version": ("{text}", ""),
    "pins-untried": ("whether CR4.SMEP can be cleared could not be tried now: {problem}", "{advice}"),
    "pins-refused": ("CR4.SMEP can still be cleared after the pin", ""),
    "plan-damaged": ("the plan of the seal cannot be believed: {problem}", _AGAIN),
    "record-damaged": ("the record of this boot's lock cannot be believed: {problem}", "{advice}"),
    "seal-keeps-more": ("the seal keeps {ranges} ranges that today's plan would deny", ""),
    "seal-lost": ("the host lost the seal: the guest was reset, or moved without it", "lock it again"),
    "seal-of-other-plan": ("the host is sealed by another plan: {problem}", "only a reset of the guest undoes a seal"),
    "seal-unproven": ("the host is sealed, but nobody here saw a proof", _RESET),
    "seal-unrecorded": ("the seal is proven, but not recorded yet", _AGAIN),
    "settings-wrong": ("no lock is made with wrong settings: {problem}", "{advice}"),
    "start-page-kept": (
        "whoever can write kernel memory decides what a processor runs that starts: {why}",
        'policy.trampoline = "drop" ends that at the next lock, and no processor can start',
    ),
    "switched-off": ("locking is switched off: lock.mode is off ({origin})", "{advice}"),
    "switch-undone": (
        "{knob} was frozen at the seal, and is {value} now: {risk}",
        "find out who sets it (`mbecguard check` names files of sysctl.d), and set it to {frozen} again",
    ),
    "switch-unseen": ("{knob} was frozen at the seal; whether it still is, nobody can see", ""),
    "switch-refused": ("{knob} is not frozen: {problem}", "`mbecguard lock` tries again"),
    "text-differs": (
        "the host does not hold the kernel text that was handed over to it: its digest is {found}, not {wanted}",
        "take it for an attack, or for a guest that was moved; reset the guest, then lock it",
    ),
    "text-left": (
        "whoever can write to memory can still change {names}, which the host does not hold: {problem}",
        "`mbecguard audit --set audit.text=true` tells what differs, or why nobody can compare it",
    ),
    "text-not-enforced": (
        "the host does stores to kernel text that level {level} forbids",
        "ask the host's administrator for kvm.mbecguard_text=enforce, reset the guest, then lock it",
    ),
    "undoable": ("the map can still be undone", _AGAIN),
    "unpinned": ("CR4.SMEP can be cleared", _RESET),
}


def reason(id_: str, **facts: object) -> Reason:
    """A reason of the catalogue with its texts filled in; an id or fact that is missing is a bug."""
    text, hint = CATALOGUE[id_]
    return Reason(id_, text.format(**facts), hint.format(**facts))
