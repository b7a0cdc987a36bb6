# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon: what it tells the service manager and when, what it announces once, and what must not end it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

from mbecguard.host.simulated.host import SimulatedHost
from mbecguard.records.reasons import Reason
from mbecguard.records.record import State
from mbecguard.records.store import Store
from mbecguard.service.daemon import AGAIN_SECONDS, SECONDS, Announce, Daemon, Notify, Seen, interval, systemd
from mbecguard.service.watch import Watch, line, look
from mbecguard.session import Session
from mbecguard.settings.load import Settings
from mbecguard.settings.load import load as load_settings
from mbecguard.switches import SWITCHES, SimulatedKnobs, undone
from mbecguard.values.errors import UserError
from mbecguard.values.events import Event
from tests.plans import BLOCKER, make_plan
from tests.servicebench import BOOTS, BenchSession, Boot
from tests.unit.test_lock_kill import FORK

ME = str(os.getpid())
PAGES = sum(len(k.pages) for k in make_plan().keep)


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, SECONDS),
        ({"WATCHDOG_USEC": "120000000"}, 60.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": ME}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, SECONDS),
        ({"WATCHDOG_USEC": "0"}, SECONDS),
        ({"WATCHDOG_USEC": "-1"}, SECONDS),
        ({"WATCHDOG_USEC": "many"}, SECONDS),
    ],
)
def test_a_sign_of_life_comes_at_half_the_watchdog_s_time(environment: dict[str, str], seconds: float) -> None:
    assert interval(environment) == seconds


def watch(boot: Boot) -> Watch:
    return Watch(boot.session, boot.tell)


def test_the_line_is_the_truth(tmp_path: Path) -> None:
    boot = Boot(tmp_path)
    assert watch(boot).look() == "open (simulated): not locked"
    boot.service.lock()
    sealed = watch(boot).look()
    assert sealed.startswith(f"sealed (simulated): {PAGES} pages stay executable, since 20")
    assert boot.told[-1][0] is not Event.DEGRADED
    following = Boot(tmp_path, 1)
    with pytest.raises(UserError):
        following.service.lock()
    assert (
        watch(following)
        .look()
        .startswith(f"open (simulated): the service did not lock this boot: boot {BOOTS[0]} was locked")
    )


def test_a_line_is_one_line(tmp_path: Path) -> None:
    status = Boot(tmp_path).session.status()._replace(reasons=(Reason("note", "one\ntwo\r\nREADY=1"),))
    assert line(status) == "open (simulated): one two READY=1"


def touch(folder: Path) -> None:
    """Have the record of this boot looked at again."""
    (folder / "state/records/00000001.json").touch()


def test_a_lost_seal_is_announced_once_and_its_return_once(tmp_path: Path) -> None:
    boot = Boot(tmp_path)
    boot.bench.lock()
    looking = watch(boot)
    looking.look()
    kept = (tmp_path / "host.json").read_bytes()
    (tmp_path / "host.json").unlink()
    for _ in range(3):
        assert looking.look().startswith("degraded (simulated): the host lost the map")
        touch(tmp_path)  # judged again, and no news
    assert boot.events() == [Event.DEGRADED]
    (tmp_path / "host.json").write_bytes(kept)
    for _ in range(3):
        assert looking.look().startswith("sealed")
    assert boot.events() == [Event.DEGRADED, Event.RESTORED]
    assert boot.told[-1][1]["state"] == State.SEALED


def test_a_guest_that_is_degraded_from_the_start_is_announced(tmp_path: Path) -> None:
    Boot(tmp_path).bench.lock()
    (tmp_path / "host.json").unlink()
    boot = Boot(tmp_path)
    looking = watch(boot)
    looking.look()
    assert (boot.events(), looking.unsure) == ([], True)
    looking.look()
    assert (boot.events(), looking.unsure) == ([Event.DEGRADED], False)


def test_an_open_guest_is_nothing_to_announce(tmp_path: Path) -> None:
    boot = Boot(tmp_path)
    looking = watch(boot)
    looking.look()
    boot.bench.plans = [make_plan(findings=(BLOCKER,))]
    boot.bench.fails()
    looking.look()
    boot.bench.plans = [make_plan()]
    boot.bench.lock()
    assert looking.look().startswith("sealed")
    assert boot.events() == []


def test_the_full_status_is_taken_only_if_something_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boot = Boot(tmp_path)
    boot.bench.lock()
    tries: list[str] = []

    def pinned(host: SimulatedHost) -> bool:
        tries.append(host.name)
        return True

    monkeypatch.setattr(SimulatedHost, "pinned", pinned)
    looking = watch(boot)
    for _ in range(5):
        looking.look()
    assert len(tries) == 1  # the host counts each as an attack
    boot.service.rearm()
    looking.look()
    looking.look()
    assert len(tries) == 2


@pytest.mark.parametrize("what", ["records", "host"])
def test_what_cannot_be_read_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    boot = Boot(tmp_path)
    boot.bench.lock()
    looking = watch(boot)
    looking.look()

    def broken(*_: object) -> None:
        raise UserError("trouble")

    with monkeypatch.context() as patch:
        if what == "records":
            patch.setattr(Store, "last", broken)
            touch(tmp_path)
        else:
            patch.setattr(SimulatedHost, "query", broken)
        for _ in range(2):
            assert "trouble" in looking.look()
    assert boot.events() == [Event.DEGRADED]
    touch(tmp_path)
    assert looking.look().startswith("sealed")
    assert boot.events() == [Event.DEGRADED, Event.RESTORED]


def test_a_sealed_guest_with_damaged_records_is_announced_from_the_start(tmp_path: Path) -> None:
    boot = Boot(tmp_path)
    boot.bench.lock()
    (tmp_path / "state/records/00000001.json").write_bytes(b"{}\n")
    looking = watch(boot)
    for events in ([], [Event.DEGRADED]):
        assert looking.look().startswith("degraded (simulated): the record of this boot's lock cannot be believed")
        assert boot.events() == events


@pytest.mark.parametrize("where", ["query", "status"])
def test_a_look_that_fails_once_is_no_news_and_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    boot = Boot(tmp_path)
    boot.bench.lock()
    looking = watch(boot)
    looking.look()
    touch(tmp_path)

    def broken(*_: object) -> None:
        raise UserError("trouble")

    with monkeypatch.context() as patch:
        patch.setattr(SimulatedHost if where == "query" else type(boot.session), where, broken)
        looking.look()
    assert looking.unsure
    for _ in range(3):
        assert looking.look().startswith("sealed")  # with the same basis as in the bad look
    assert (boot.events(), looking.unsure) == ([], False)


def test_troubles_in_turn_are_announced_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boot = Boot(tmp_path)
    boot.bench.lock()
    looking = watch(boot)
    looking.look()
    messages = iter(["one", "two", "three", "three"])

    def broken(*_: object) -> None:
        raise UserError(next(messages))

    monkeypatch.setattr(type(boot.session), "status", broken)
    touch(tmp_path)
    seen = []
    for _ in range(4):
        looking.look()
        seen.append([facts["reason"] for _, facts in boot.told])
    assert seen == [[], ["two"], ["two"], ["two", "three"]]


def test_trouble_is_looked_at_again_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Boot(tmp_path).bench.lock()
    (tmp_path / "host.json").unlink()
    waits: list[float] = []

    def wait(_signals: object, seconds: float) -> object:
        waits.append(seconds)
        return type("Arrived", (), {"si_signo": signal.SIGTERM})() if len(waits) == 2 else None

    monkeypatch.setattr(signal, "sigtimedwait", wait)
    daemon_of(tmp_path, lambda *_: None, notify=lambda _text: None, seconds=60.0).run()
    assert waits == [AGAIN_SECONDS, 60.0]


def test_a_switch_that_is_taken_back_is_announced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boot, now = Boot(tmp_path), SimulatedKnobs({switch.knob: switch.value for switch in SWITCHES})
    boot.bench.lock()
    monkeypatch.setattr(Session, "knobs", now)
    monkeypatch.setattr(Session, "undone", lambda self, _status: undone(self.knobs, ["net.core.bpf_jit_enable"]))
    looking = watch(boot)
    looking.look()
    assert boot.events() == []
    now.put("net.core.bpf_jit_enable", "1")
    for _ in range(3):
        assert "net.core.bpf_jit_enable was frozen at the seal, and is 1 now" in looking.look()
        touch(tmp_path)
    assert boot.events() == [Event.SWITCH_UNDONE]
    assert boot.told[-1][1]["reason"].startswith("net.core.bpf_jit_enable")
    now.put("net.core.bpf_jit_enable", "0")
    looking.look()
    assert boot.events() == [Event.SWITCH_UNDONE, Event.RESTORED]


def test_a_simulated_seal_has_set_no_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boot = Boot(tmp_path)
    boot.bench.lock()
    monkeypatch.setattr(BenchSession, "knobs", SimulatedKnobs())
    status = boot.session.status()
    assert boot.session.undone(status) == ()
    assert boot.session.undone(status._replace(simulated=False))


def test_a_dead_journal_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Boot(tmp_path).bench.lock()
    (tmp_path / "host.json").unlink()
    said: list[str] = []
    waits = iter([None, None, type("Arrived", (), {"si_signo": signal.SIGTERM})()])
    monkeypatch.setattr(signal, "sigtimedwait", lambda *_: next(waits))

    def dead(event: str, _facts: dict[str, str], _real: bool) -> None:
        said.append(event)
        raise ConnectionRefusedError

    daemon_of(tmp_path, dead, notify=said.append, seconds=60.0).run()
    assert [text for text in said if not text.startswith("STATUS=degraded")] == ["DEGRADED", "STOPPING=1"]


def daemon_of(
    folder: Path,
    announce: Announce,
    load: Callable[[], Settings] = load_settings,
    notify: Notify = systemd,
    seconds: float = 60.0,
) -> Daemon:
    """A daemon that looks at the guest of a bench."""

    def looked(memory: str, reload: bool) -> Seen:
        return look(lambda: Boot(folder).session, memory, load if reload else None)

    return Daemon(looked, announce, lambda _word: 0, notify, seconds)


@dataclass
class Manager:
    """A service manager: the notification socket, and the daemon's process."""

    socket: socket.socket
    process: ForkProcess
    told: Path

    def hear(self) -> dict[str, str]:
        self.socket.settimeout(10)
        return dict(entry.split("=", 1) for entry in self.socket.recv(65536).decode().splitlines())

    def until(self, holds: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            if holds(heard := self.hear()):
                return heard
        raise AssertionError("never told")

    def silence(self, seconds: float) -> bool:
        self.socket.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            self.socket.recv(65536)
            return False
        return True

    def signal(self, number: int) -> None:
        assert self.process.pid
        os.kill(self.process.pid, number)

    def ends(self) -> int | None:
        self.process.join(10)
        return self.process.exitcode

    def events(self) -> list[str]:
        return self.told.read_text().split()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Manager]]:
    """Starts a daemon; its settings come from a file, and what it announces goes to another."""
    begun: list[Manager] = []
    told, config = tmp_path / "told", tmp_path / "config.toml"
    told.touch()
    config.touch()

    def load() -> Settings:
        return load_settings(config, ["lock.host=simulator"])

    def start(seconds: float = 60.0, notify: bool = True) -> Manager:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listening.bind(str(tmp_path / f"notify{len(begun)}"))
        if notify:
            monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / f"notify{len(begun)}"))

        def run() -> None:
            def tell(event: str, _facts: dict[str, str], _real: bool) -> None:
                with told.open("a") as file:
                    file.write(f"{event}\n")

            daemon_of(tmp_path, tell, load, seconds=seconds).run()

        process = FORK.Process(target=run)
        process.start()
        begun.append(Manager(listening, process, told))
        return begun[-1]

    yield start
    for one in begun:
        one.process.kill()
        one.process.join()
        one.socket.close()


def test_ready_comes_with_the_first_status_and_stopping_last(manager: Callable[..., Manager]) -> None:
    daemon = manager()
    assert daemon.hear() == {"STATUS": "open (simulated): not locked", "WATCHDOG": "1", "READY": "1"}
    assert daemon.silence(0.3)  # no other wake-up
    daemon.signal(signal.SIGTERM)
    assert daemon.hear() == {"STOPPING": "1"}
    assert daemon.ends() == 0


def test_each_sign_of_life_comes_with_a_look(tmp_path: Path, manager: Callable[..., Manager]) -> None:
    daemon = manager(0.05)
    assert daemon.hear()["READY"] == "1"
    assert daemon.hear()["WATCHDOG"] == "1"
    Boot(tmp_path).bench.lock()
    assert daemon.until(lambda said: said["STATUS"].startswith("sealed"))["WATCHDOG"] == "1"
    (tmp_path / "host.json").unlink()
    daemon.until(lambda said: said["STATUS"].startswith("degraded"))
    daemon.hear()
    daemon.signal(signal.SIGINT)
    daemon.until(lambda said: "STOPPING" in said)
    assert daemon.ends() == 0
    assert daemon.events() == ["DEGRADED"]


def test_reload_follows_the_protocol_and_survives_bad_settings(tmp_path: Path, manager: Callable[..., Manager]) -> None:
    daemon = manager()
    daemon.hear()
    for text, events in (('[freeze]\nftrace = "off"\n', []), ("nonsense", ["RELOAD_FAILED"])):
        (tmp_path / "config.toml").write_text(text)
        before = time.monotonic_ns() // 1000
        daemon.signal(signal.SIGHUP)
        said = daemon.hear()
        assert said["RELOADING"] == "1"
        assert before <= int(said["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert daemon.hear() == {"STATUS": "open (simulated): not locked", "WATCHDOG": "1", "READY": "1"}
        assert daemon.events() == events
    daemon.signal(signal.SIGTERM)
    daemon.until(lambda said: "STOPPING" in said)
    assert daemon.ends() == 0


def test_a_reload_takes_the_new_settings(tmp_path: Path) -> None:
    boot = Boot(tmp_path)
    looking = watch(boot)
    looking.look()
    new = load_settings(overrides=["lock.host=simulator", "freeze.ftrace=off"])
    looking.reload(lambda: new)
    assert looking.session.settings is new


def test_without_a_manager_or_after_its_end_it_goes_on(tmp_path: Path, manager: Callable[..., Manager]) -> None:
    alone = manager(0.05, notify=False)
    assert alone.silence(0.3)
    assert alone.process.is_alive()
    left = manager(0.05)
    left.hear()
    left.socket.close()
    (tmp_path / "notify1").unlink()
    time.sleep(0.3)
    assert left.process.is_alive()
    for daemon in (alone, left):
        daemon.signal(signal.SIGTERM)
        assert daemon.ends() == 0
