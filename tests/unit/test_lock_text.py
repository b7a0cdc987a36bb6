# SPDX-License-Identifier: GPL-2.0-or-later
"""Levels of text: handed over before the seal, proven, and found again; hosts that lie, refuse, or were told before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.host.base import HostErrno, HostRefusedError, HostText, Outcome, TextMode
from mbecguard.host.text import HandOver, TextObject, digest_of
from mbecguard.plan.policy import Level, Policy
from mbecguard.records.record import EXPECTED, Probe, State, Step
from mbecguard.values.errors import Exit
from mbecguard.values.events import Event
from tests.lockbench import FIRST, OPTIONS, TARGET_PFN, TEXTS, Bench, WrappedHost
from tests.lockchecks import TEXT_PROBES, refusing
from tests.plans import SPANS

ENFORCES = replace(OPTIONS, text=TextMode.ENFORCE)
LOGGED = tuple(replace(text, logs=True) for text in TEXTS)


def bench(folder: Path, level: Level = Level.TEXT, text: TextMode = TextMode.ENFORCE) -> Bench:
    return Bench(folder, replace(OPTIONS, text=text), policy=Policy(level=level))


def told(found: Bench) -> HostText:
    text = found.host.text()
    assert text
    return text


@pytest.mark.parametrize("offers", [TextMode.LOG, TextMode.ENFORCE])
def test_level_exec_hands_nothing_over(tmp_path: Path, offers: TextMode) -> None:
    guest = bench(tmp_path, Level.EXEC, offers)
    record = guest.lock()
    assert (record.state, record.level, record.text_digest) == (State.SEALED, Level.EXEC, "")
    assert not {e.probe for e in record.evidence} & TEXT_PROBES
    assert (told(guest).holds, told(guest).pages) == (TextMode.NONE, 0)
    assert guest.host.run_store() is Outcome.RAN
    assert Event.TEXT_HELD not in guest.events()


def test_level_text(tmp_path: Path) -> None:
    guest = bench(tmp_path)
    assert guest.host.run_store() is Outcome.RAN
    record = guest.lock()
    assert {e.probe: e.outcome for e in record.evidence} == EXPECTED
    assert (record.state, record.level, record.text_digest) == (State.SEALED, Level.TEXT, digest_of(TEXTS))
    assert guest.host.run_store() is Outcome.DENIED
    assert not guest.host.hypervisor.store(SPANS[1][0] << 12)
    assert guest.host.hypervisor.store(SPANS[1][1] << 12)  # the page behind it
    assert (told(guest).holds, told(guest).digest) == (TextMode.ENFORCE, digest_of(TEXTS))
    assert guest.status().state is State.SEALED
    assert {"pages": "8", "level": "text", "digest": digest_of(TEXTS)} in [
        facts for event, facts in guest.told if event is Event.TEXT_HELD
    ]


@pytest.mark.parametrize("offers", [TextMode.LOG, TextMode.ENFORCE])
def test_level_text_log_counts(tmp_path: Path, offers: TextMode) -> None:
    guest = bench(tmp_path, Level.TEXT_LOG, offers)
    record = guest.lock()
    assert {e.probe for e in record.evidence} == {*EXPECTED} - {Probe.STORE_DENIED}
    assert (record.level, record.text_digest) == (Level.TEXT_LOG, digest_of(LOGGED))
    assert (told(guest).holds, told(guest).bad) == (TextMode.LOG, 1)
    assert guest.host.run_store() is Outcome.RAN
    assert told(guest).bad == 2


@pytest.mark.parametrize(
    ("level", "offers", "words"),
    [
        (Level.TEXT, TextMode.LOG, "only logs"),
        (Level.TEXT, TextMode.NONE, "takes no kernel text"),
        (Level.TEXT_LOG, TextMode.NONE, "takes no kernel text"),
    ],
)
def test_a_host_that_cannot_hold_it_is_refused_first(
    tmp_path: Path, level: Level, offers: TextMode, words: str
) -> None:
    guest = bench(tmp_path, level, offers)
    error = guest.fails()
    assert words in error.message
    assert "policy.level" in error.hint
    assert error.status is Exit.REFUSED
    assert guest.host.query().generation == OPTIONS.generation
    assert bench(tmp_path / "other", Level.EXEC, offers).lock().state is State.SEALED


def test_a_host_of_version_2_is_refused(tmp_path: Path) -> None:
    guest = Bench(tmp_path, replace(ENFORCES, abi=2), policy=Policy(level=Level.TEXT_LOG))
    assert "takes no kernel text" in guest.fails().message


class Lies(WrappedHost):
    """Takes text, and does nothing."""

    def hand_over(self, text: TextObject) -> None:
        self.hook("hand_over")


class StoresGoThrough(WrappedHost):
    def run_store(self) -> Outcome:
        self.inner.run_store()
        return Outcome.RAN


class CountsNothing(WrappedHost):
    def text(self) -> HostText | None:
        found = self.inner.text()
        return found._replace(bad=0) if found else None


class KillsThePatcher(WrappedHost):
    def run_patch(self) -> Outcome:
        return Outcome.DENIED


class CannotPatch(WrappedHost):
    def run_patch(self) -> Outcome:
        return Outcome.NO_VERDICT


class PatchesUncounted(WrappedHost):
    def run_patch(self) -> Outcome:
        return Outcome.RAN


class OnlyLogs(WrappedHost):
    """Says that it enforces, and holds less."""

    def text(self) -> HostText | None:
        found = self.inner.text()
        return found._replace(holds=TextMode.LOG) if found and found.pages > 1 else found


@pytest.mark.parametrize(
    "host", [Lies, StoresGoThrough, CountsNothing, KillsThePatcher, CannotPatch, PatchesUncounted, OnlyLogs]
)
def test_what_does_not_hold_is_not_sealed(tmp_path: Path, host: type[WrappedHost]) -> None:
    guest = bench(tmp_path)
    error = guest.fails(host(guest.host))
    assert error.status is Exit.NOT_ENFORCED
    assert not guest.host.query().sealed
    assert Event.NOT_ENFORCED in guest.events()
    assert Event.SEALED not in guest.events()


@pytest.mark.parametrize("host", [StoresGoThrough, CountsNothing])
def test_the_kernel_s_text_stays_out_of_it_until_a_store_was_denied(tmp_path: Path, host: type[WrappedHost]) -> None:
    guest = bench(tmp_path)
    guest.fails(host(guest.host))
    assert told(guest).pages == 1


def test_text_that_was_changed_is_not_handed_over(tmp_path: Path) -> None:
    guest = bench(tmp_path)
    transaction = guest.transaction()
    transaction.texts = changed
    with pytest.raises(Exception, match="not as its file says"):
        transaction.run()
    assert (told(guest).pages, guest.host.query().restricted) == (0, False)


def changed(_plan: object, _policy: object) -> HandOver:
    raise HostRefusedError(HostErrno.FAULT, "kernel text is not as its file says")


@pytest.mark.parametrize("step", [Step.PIN, Step.SEAL])
def test_a_lock_that_fails_behind_it_goes_on_later(tmp_path: Path, step: Step) -> None:
    guest = bench(tmp_path)
    guest.fails(reach=refusing(step, HostRefusedError(HostErrno.INVALID, "test")))
    assert (told(guest).digest, guest.host.query().restricted) == (digest_of(FIRST), False)
    record = guest.again().lock()
    assert (record.state, record.level) == (State.SEALED, Level.TEXT)
    assert {e.probe for e in record.evidence} == {*EXPECTED} - {Probe.STORE_BEFORE}
    assert told(guest.again()).pages == 8  # nothing was handed over twice


class Counting(WrappedHost):
    """Knows how much was handed over when the guest was sealed, and kills the agent behind the last of it."""

    def hand_over(self, text: TextObject) -> None:
        assert self.query().sealed is (text in TEXTS[len(FIRST) :])
        self.inner.hand_over(text)
        if text is TEXTS[-1] or text == TEXTS[-1]:
            raise KilledError


class KilledError(BaseException):
    pass


def test_modules_come_when_none_can_go_any_more(tmp_path: Path) -> None:
    guest = bench(tmp_path)
    with pytest.raises(KilledError):
        guest.lock(Counting(guest.host))
    assert told(guest).digest == digest_of(TEXTS)
    record = guest.again().lock()
    assert (record.state, record.text_digest) == (State.SEALED, digest_of(TEXTS))
    assert told(guest.again()).pages == 8


class NoRoom(WrappedHost):
    def hand_over(self, text: TextObject) -> None:
        if self.query().sealed:
            raise HostRefusedError(HostErrno.TOO_BIG, "hand over text")
        self.inner.hand_over(text)


def test_a_host_without_room_for_modules(tmp_path: Path) -> None:
    guest = bench(tmp_path)
    record = guest.lock(NoRoom(guest.host))
    assert (record.state, record.level, record.text_digest) == (State.SEALED, Level.TEXT, digest_of(FIRST))
    assert [why.id for why in record.reasons] == ["text-left"]
    assert guest.status().state is State.SEALED


def test_what_cannot_be_compared_is_told(tmp_path: Path) -> None:
    guest = bench(tmp_path)
    guest.left = ("nvidia",)
    record = guest.lock()
    assert record.state is State.SEALED
    assert ["nvidia" in why.text for why in record.reasons] == [True]
    assert not bench(tmp_path / "other").lock().reasons


def test_killed_between_the_two(tmp_path: Path) -> None:
    guest = bench(tmp_path)
    guest.host.hand_over(TEXTS[0])
    record = guest.lock()
    assert (record.state, told(guest).digest) == (State.SEALED, digest_of(TEXTS))


@pytest.mark.parametrize(
    "before",
    [
        lambda host: host.hand_over(replace(TEXTS[0], logs=True)),
        lambda host: host.hand_over(TEXTS[1]),
        lambda host: [host.hand_over(text) for text in (TEXTS[0], replace(TEXTS[1], targets=(0, 5)))],
    ],
    ids=["log", "order", "targets"],
)
def test_text_that_somebody_else_handed_over(tmp_path: Path, before: Callable[[object], object]) -> None:
    guest = bench(tmp_path)
    before(guest.host)
    error = guest.fails()
    assert "handed over otherwise" in error.message
    assert "reset" in error.hint
    assert not guest.host.query().sealed


@pytest.mark.parametrize("step", [Step.MODULES, Step.ONE_WAY, Step.RECORD])
def test_a_seal_that_was_killed_is_completed(tmp_path: Path, step: Step) -> None:
    guest = bench(tmp_path)

    class Killed(BaseException):
        pass

    with pytest.raises(Killed):
        guest.lock(reach=refusing(step, Killed()))
    later = guest.again()
    record = later.lock()
    assert (record.state, record.level, record.text_digest) == (State.SEALED, Level.TEXT, digest_of(TEXTS))
    assert {e.probe: e.outcome for e in record.evidence} == EXPECTED


def test_a_rerun_tries_it_again(tmp_path: Path) -> None:
    guest = bench(tmp_path)
    guest.lock()
    assert guest.again().lock().level is Level.TEXT
    error = guest.again().fails(StoresGoThrough(guest.host))
    assert error.status is Exit.NOT_ENFORCED


def test_the_target_is_the_host_s(tmp_path: Path) -> None:
    assert bench(tmp_path).host.target_pfn == TARGET_PFN
