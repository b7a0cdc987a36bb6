# SPDX-License-Identifier: GPL-2.0-or-later
"""Events on their way to another machine: systemd-journal-upload sends them, systemd-journal-remote keeps them."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import systemd.journal

from mbecguard.values.events import Event, journal_field, message
from tests.corpus.archive import unpacked
from tests.corpus.cache import run

pytestmark = pytest.mark.lab

#: Of this machine's Debian, as they need its libraries.
SUITE = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
LIBRARIES = {"bookworm": "libmicrohttpd12", "trixie": "libmicrohttpd12t64"}
LIMIT = 30.0
STAMP = 1_772_600_000_000_000  #: microseconds

FACTS = {
    Event.SEALED: {"pages": "5213", "record": "ab" * 32, "plan": "cd" * 32},
    Event.AUDIT_PASSED: {"pages": "5213", "audit": "ef" * 32, "content": "12" * 32, "record": "ab" * 32},
    Event.AUDIT_FAILED: {"reason": "a range\nthat nobody knows", "verdict": "fail", "audit": "34" * 32},
}


@pytest.fixture(scope="module")
def tools() -> Path:
    if SUITE not in LIBRARIES:
        pytest.skip(f"systemd-journal-remote of {SUITE or 'no Debian'} is not known to run here")
    return unpacked(SUITE, "systemd-journal-remote", LIBRARIES[SUITE], "libsystemd-shared")


def words(tools: Path, name: str, *options: str | Path) -> list[str | Path]:
    library = tools / "usr/lib/x86_64-linux-gnu"
    (program,) = (path for path in tools.glob(f"**/lib/systemd/{name}") if os.access(path, os.X_OK))
    return ["env", f"LD_LIBRARY_PATH={library}:{library / 'systemd'}", program, *options]


def exported(number: int, event: Event) -> bytes:
    """An entry in the journal's export format, with the fields that `to_journal` sends; see systemd's documents."""
    facts = FACTS[event]
    fields = {
        "__REALTIME_TIMESTAMP": str(STAMP + number),
        "__MONOTONIC_TIMESTAMP": str(1000 + number),
        "_BOOT_ID": f"{number:032x}",
        "_MACHINE_ID": f"{number + 1:032x}",
        "_HOSTNAME": f"web{number}",
        "MESSAGE": message(event, facts),
        "MESSAGE_ID": event.value.message_id,
        journal_field("event"): event.name,
        **{journal_field(name): value for name, value in facts.items()},
    }
    return b"".join(_field(name, value.encode()) for name, value in fields.items()) + b"\n"


def _field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
    return name.encode() + b"=" + value + b"\n"


@pytest.fixture
def guest(tools: Path, tmp_path: Path) -> Path:
    """The journal of a guest that locked itself, and was audited."""
    (tmp_path / "export").write_bytes(b"".join(exported(number, event) for number, event in enumerate(FACTS)))
    run(
        words(tools, "systemd-journal-remote", f"--output={tmp_path / 'guest.journal'}", tmp_path / "export"),
        limit=LIMIT,
    )
    return tmp_path / "guest.journal"


@pytest.fixture
def receiver(tools: Path, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A port that takes journals, and the folder where they go."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    folder = tmp_path / "remote"
    folder.mkdir()
    command = words(tools, "systemd-journal-remote", f"--listen-http=127.0.0.1:{port}", f"--output={folder}")
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)
        try:
            _wait_for(port)
            yield port, folder
        finally:
            process.terminate()
            process.wait(10)


def _wait_for(port: int) -> None:
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("systemd-journal-remote does not listen")


def entries(*files: Path, **fields: str) -> list[dict[str, Any]]:
    with systemd.journal.Reader(files=list(map(str, files))) as reader:
        for name, value in fields.items():
            reader.add_match(f"{name}={value}")
        return list(reader)


def test_events_arrive_with_their_fields_and_are_found_by_them(
    tools: Path, guest: Path, receiver: tuple[int, Path]
) -> None:
    port, folder = receiver
    url = f"--url=http://127.0.0.1:{port}"
    run(words(tools, "systemd-journal-upload", url, f"--file={guest}", "--follow=no"), limit=LIMIT)
    (received,) = folder.glob("*.journal")
    assert len(entries(received)) == len(FACTS)
    for number, (event, facts) in enumerate(FACTS.items()):
        (found,) = entries(received, MBECGUARD_EVENT=event.name)
        assert found["_HOSTNAME"] == f"web{number}"
        assert found["MESSAGE_ID"].hex == event.value.message_id
        assert {name: found[journal_field(name)] for name in facts} == facts
    (seal,) = entries(received, MBECGUARD_RECORD=FACTS[Event.SEALED]["record"], MBECGUARD_EVENT="SEALED")
    assert "5213 pages" in seal["MESSAGE"]
