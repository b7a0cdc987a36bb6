# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose lock a record is: what the guest's own files tell, and nothing of the machine that looks at it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbecguard import __version__
from mbecguard.guest.captured import capture, captured_guest
from mbecguard.guest.live import live_guest
from mbecguard.records.identity import Identity, identify
from tests.guestmaker import SCATTERED
from tests.lockbench import Bench

FILES = {
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "proc/sys/kernel/hostname": "guest.example\n",
    "sys/class/dmi/id/product_uuid": "B36B3A5C-11D4-4E3F-9A55-0123456789AB\n",
    "sys/module/mbecguard_shim/version": "0.1.0\n",
}
FIELDS = ("machine_id", "hostname", "vm_uuid", "shim")


def known(identity: Identity) -> dict[str, str | None]:
    return {name: getattr(identity, name) for name in FIELDS}


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_the_files_of_the_guest_tell_who_it_is(tmp_path: Path) -> None:
    folder = SCATTERED.write(tmp_path / "guest")
    write(folder, FILES)
    found = identify(captured_guest(folder))
    assert known(found) == dict(zip(FIELDS, (text.strip() for text in FILES.values()), strict=True))
    assert (found.agent, found.boot_id) == (__version__, captured_guest(folder).boot_id)


def test_a_captured_guest_has_nothing_of_this_machine(tmp_path: Path) -> None:
    assert known(identify(captured_guest(SCATTERED.write(tmp_path)))) == dict.fromkeys(FIELDS)


@pytest.mark.parametrize("text", ["", "\n", "uninitialized\n", "a b\n", "\x1b[31m\n", "x" * 100, "Not Settable\n"])
def test_what_is_no_name_is_none(tmp_path: Path, text: str) -> None:
    folder = SCATTERED.write(tmp_path)
    write(folder, dict.fromkeys(FILES, text))
    found = known(identify(captured_guest(folder)))
    del found["hostname"]
    word = text.strip() if text.strip().isalnum() and len(text) < 64 else None
    assert found == {"machine_id": None, "vm_uuid": None, "shim": word}


def test_a_capture_has_them_and_what_may_not_be_read_is_unknown(tmp_path: Path) -> None:
    write(SCATTERED.write(tmp_path / "guest"), FILES)
    capture(captured_guest(tmp_path / "guest"), tmp_path / "copy")
    assert known(identify(captured_guest(tmp_path / "copy"))) == known(identify(captured_guest(tmp_path / "guest")))


def test_a_file_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    write(tmp_path, {"proc/sys/kernel/osrelease": "6.12.0\n"})
    (tmp_path / "etc/machine-id").mkdir(parents=True)
    (tmp_path / "sys/class/dmi/id").mkdir(parents=True)
    (tmp_path / "sys/class/dmi/id/product_uuid").symlink_to("product_uuid")
    assert known(identify(live_guest(tmp_path))) == dict.fromkeys(FIELDS)


def test_a_record_has_it_with_the_kernel_and_the_host(bench: Bench) -> None:
    identity = bench.lock().identity
    assert (identity.boot_id, identity.agent) == (bench.boot_id, __version__)
    assert (identity.release, identity.build_id, identity.host_abi) == ("6.12.0-test", "ab" * 20, 3)
