# SPDX-License-Identifier: GPL-2.0-or-later
"""What `mbecguard-host witness` tells, for people."""

from __future__ import annotations

from collections.abc import Iterator

from mbecguard.face.look import Look, plural
from mbecguard.host.base import TextMode
from mbecguard.readiness.machines import Guarded
from mbecguard.witness.look import HostWitness, Seen
from mbecguard.witness.told import HeldText, Told

_STATE = {Guarded.SEALED: "green", Guarded.RESTRICTED: "yellow"}


def view(look: Look, answer: HostWitness) -> Iterator[str]:
    """Each machine, and how many are sealed."""
    for seen in answer.machines:
        yield from _machine(look, seen)
    sealed = sum(seen.state is Guarded.SEALED for seen in answer.machines)
    yield from look.fill(
        "", f"{answer.host or 'this host'}: {sealed} of {plural(len(answer.machines), 'machine')} sealed", 2
    )


def _machine(look: Look, seen: Seen) -> Iterator[str]:
    state = look.paint(seen.state.upper(), _STATE.get(seen.state, "bold"))
    yield from look.fill("", f"{seen.name}  process {seen.pid}, UUID {seen.uuid or 'none'}", 2, colour="bold")
    yield f"  {'state':<12} {state}"
    if seen.told:
        yield from _told(look, seen.told)
    else:
        yield from look.row("", "the host tells nothing: its KVM is not ours or off, or this is no machine of KVM's")


def _told(look: Look, told: Told) -> Iterator[str]:
    yield from look.row("mode", told.mode.value)
    yield from look.row("map", f"{told.map_digest}, generation {told.generation}")
    pages = f"{told.kept_pages} kept, {told.denied_pages} denied, {told.sealed_pages} sealed"
    yield from look.row("pages", pages)
    yield from look.row("pins", " ".join(told.pins) or "none")
    granted = f", {plural(told.granted, 'page')} granted in mode audit" if told.granted else ""
    yield from look.row("denied", f"fetches: {told.denied}{granted}", "yellow" if told.denied else "")
    for fetch in told.last:
        yield from look.row("", f"vCPU {fetch.vcpu}: address {fetch.va:#x} in page {fetch.gpa:#x}")
    if told.text:
        yield from _text(look, told.text)
    yield from look.row("refused", plural(told.refused, "attempt"))


def _text(look: Look, text: HeldText) -> Iterator[str]:
    bad = f"{plural(text.bad, 'other store')} {'refused' if text.mode is TextMode.ENFORCE else 'logged, and done'}"
    yield from look.row("text", f"{plural(text.pages, 'page')} held, {text.patches} stores of patches, {bad}")
    for store in text.last:
        what = f"{store.bytes} to {store.va:#x}" if store.va else "an entry of a page table"
        yield from look.row("", f"{store.reason}: {what} in page {store.gpa:#x}, by {store.rip:#x}")
