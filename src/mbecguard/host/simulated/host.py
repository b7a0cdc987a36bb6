# SPDX-License-Identifier: GPL-2.0-or-later
"""The simulated host: the host protocol over the hypervisor in memory, through the real wire format.

A real host outlives a killed agent; so does this one, if it is given a state file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mbecguard.host.base import HostDetails, HostStatus, HostText, Outcome, Protection
from mbecguard.host.simulated.ept import Mode
from mbecguard.host.simulated.hypervisor import Hypervisor, Options, VmState
from mbecguard.host.text import TextObject
from mbecguard.host.text import encode as encode_text
from mbecguard.host.wire import (
    CR4_SMEP,
    LOCK_CR_UPDATE,
    PROTECT_MEMORY,
    QUERY_MAGIC,
    TEXT_MAGIC,
    Word,
    ask_details,
    ask_most,
    ask_text,
    checked,
    decode_status,
    encode,
    pages_needed,
    pin_all,
)
from mbecguard.values import codec
from mbecguard.values.errors import die
from mbecguard.values.pages import PAGE_SHIFT, PAGE_SIZE

SCHEMA = "mbecguard.simulator/1"
_LISTS_AT = 1 << 20  # GPA; anything that is RAM in every PC


@dataclass(frozen=True, slots=True)
class SimulatorState:
    """The state file: one VM during one boot."""

    schema: str
    boot_id: str
    modules_held: bool
    vm: VmState


class SimulatedHost:
    """A `Host` that protects nothing. `state` is its memory between runs, valid for one `boot_id`.

    Raises ValueError for a canary beyond `max_pfn`; UserError for a state file that is damaged, of a VM of
    another size, or cannot be read or written.
    """

    name = "simulator"
    simulated = True

    def __init__(self, options: Options, canary_pfn: int | None, state: Path | None = None, boot_id: str = "") -> None:
        if canary_pfn is not None and not 0 <= canary_pfn < options.limits.max_pfn:
            raise ValueError(f"canary {canary_pfn:#x} is beyond the guest-physical space")
        self.hypervisor = Hypervisor(options)
        self.max_pfn = options.limits.max_pfn
        self.canary_pfn = canary_pfn
        self.target_pfn = canary_pfn - 1 if canary_pfn else None
        self.modules_held = False
        self._state, self._boot_id = state, boot_id
        self._load()

    def query(self) -> HostStatus:
        """Ask for mode, enforced bits and generation. Changes nothing."""
        return decode_status(self._call(PROTECT_MEMORY, 0, QUERY_MAGIC, "query"))

    def details(self) -> HostDetails | None:
        """Ask for the digest of the map, counts and pins; None: this host does not tell. Changes nothing."""
        return ask_details(self._ask)

    def text(self) -> HostText | None:
        """Ask what the host holds of text; None: it knows nothing of text. Changes nothing."""
        return ask_text(self._ask)

    def foreign(self) -> int:
        """No device writes to a simulated guest."""
        return self._ask(Word.FOREIGN)

    def _ask(self, word: int) -> int:
        return self._call(PROTECT_MEMORY, 0, QUERY_MAGIC + word, "query")

    def hand_over(self, text: TextObject) -> None:
        """Give the host a range of text; only a reset takes it back."""
        pages = encode_text(text)
        places = [_LISTS_AT + i * PAGE_SIZE for i in range(len(pages))]
        links = [place.to_bytes(8, "little") for place in (*places[1:], 0)]
        linked = (page[:8] + link + page[16:] for page, link in zip(pages, links, strict=True))
        self.hypervisor.memory = dict(zip(places, linked, strict=True))
        self._call(PROTECT_MEMORY, _LISTS_AT, TEXT_MAGIC, "hand over text")
        self._save()

    def run_store(self) -> Outcome:
        """Write to the target page: RAN if that is done."""
        if self.target_pfn is None:
            return Outcome.NO_VERDICT
        done = self.hypervisor.store(self.target_pfn << PAGE_SHIFT)
        self._save()
        return Outcome.RAN if done else Outcome.DENIED

    def run_patch(self) -> Outcome:
        """The kernel patches a site of its own."""
        self.hypervisor.text = self.hypervisor.text.patching()
        self._save()
        return Outcome.RAN

    def most_ranges(self) -> int:
        """How many ranges a lock's request may have."""
        return ask_most(self._ask)

    def protect(self, request: Sequence[Protection]) -> None:
        """Change permissions, all or nothing; an empty request asks for nothing."""
        lists_at = [_LISTS_AT + i * PAGE_SIZE for i in range(pages_needed(len(request)))]
        self.hypervisor.memory = dict(zip(lists_at, encode(request, lists_at), strict=True))
        if lists_at:
            self._call(PROTECT_MEMORY, lists_at[0], 0, "protect")
        self._save()

    def pin(self) -> tuple[str, ...]:
        """Pin CR0.WP, CR0.PG and CR4.SMEP at 1 until reset, CR4.SMAP and UMIP where they are on; what is pinned."""
        names = pin_all(lambda number, mask: self.hypervisor.hypercall(LOCK_CR_UPDATE, number, mask))
        self._save()
        return names

    def pinned(self) -> bool:
        """Try to clear CR4.SMEP; put it back if that worked."""
        before = self.hypervisor.read_cr(4)
        cleared = self.hypervisor.write_cr(4, before & ~CR4_SMEP)
        self.hypervisor.write_cr(4, before)
        return not cleared

    def hold_modules(self, hold: bool) -> None:
        """Remember what the shim would do; `modules_held` tells."""
        self.modules_held = hold
        self._save()

    def run_canary(self) -> Outcome:
        """Execute the canary page in supervisor mode."""
        return Outcome.NO_VERDICT if self.canary_pfn is None else self._run(self.canary_pfn, Mode.SUPERVISOR)

    def run_user(self, pfn: int) -> Outcome:
        """Execute a page frame through a user-mode linear address."""
        return self._run(pfn, Mode.USER)

    def run_kept(self, pfn: int) -> Outcome:
        """Execute a page frame in supervisor mode."""
        return self._run(pfn, Mode.SUPERVISOR)

    def _run(self, pfn: int, mode: Mode) -> Outcome:
        if not 0 <= pfn < self.max_pfn:
            return Outcome.NO_VERDICT
        seen = self.hypervisor.violations
        denied = self.hypervisor.fetch(pfn << PAGE_SHIFT, mode)
        if self.hypervisor.violations > seen:
            self._save()
        return Outcome.DENIED if denied else Outcome.RAN

    def _call(self, nr: int, a0: int, a1: int, call: str) -> int:
        return checked(self.hypervisor.hypercall(nr, a0, a1), call)

    def _load(self) -> None:
        if self._state is None:
            return
        try:
            found = codec.decode(SimulatorState, json.loads(self._state.read_bytes()))
            if found.schema != SCHEMA:
                raise ValueError(f"schema {found.schema!r}")
            if found.boot_id == self._boot_id:
                self.hypervisor.restore(found.vm)
                self.modules_held = found.modules_held
        except FileNotFoundError:
            return
        except OSError as error:
            die(f"{self._state} cannot be read: {error.strerror}", "give a --state-dir that you may read")
        except (ValueError, RecursionError) as error:
            die(
                f"{self._state}: not a state of this simulated host: {error}",
                hint="remove the file to start with an unrestricted simulated guest",
            )

    def _save(self) -> None:
        if self._state is None:
            return
        state = SimulatorState(SCHEMA, self._boot_id, self.modules_held, self.hypervisor.save())
        fresh = self._state.with_name(self._state.name + ".new")
        try:
            self._state.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Atomic against a killed agent; a power loss ends the boot that the state belongs to.
            fresh.write_bytes(codec.canonical(codec.encode(state)))
            fresh.replace(self._state)
        except OSError as error:
            die(f"{self._state} cannot be written: {error.strerror}", "give a --state-dir that you may write to")
