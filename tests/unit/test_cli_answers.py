# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands of a captured guest: explain, capture, audit and report, wrong words and settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.face import cli
from mbecguard.host.simulated.host import SimulatedHost
from mbecguard.lock import request as lock_request
from mbecguard.values.errors import Exit
from tests.guestmaker import (
    BLOCK_VA,
    EFI_PA,
    FTRACE,
    MODULE_ZONE,
    SCATTERED,
    Code,
)
from tests.shell import Shell, kept


def test_an_audit_finds_code_that_nobody_explains(shell: Shell) -> None:
    SCATTERED.write(shell.folder)
    assert shell.run("lock")[0] == Exit.OK
    assert shell.run("audit")[0] == Exit.OK
    SCATTERED.with_code(Code(MODULE_ZONE + 0x900000, 0x20000000)).write(shell.folder)
    status, out, _ = shell.run("audit", "--json")
    assert (status, json.loads(out)["ok"]) == (Exit.DRIFT, False)
    first, *others = [reason["id"] for reason in json.loads(out)["reasons"]]
    assert (first, set(others)) == ("audit-unexplained", {"audit-incomplete"})  # this guest lacks some sources
    (code,) = json.loads(out)["unexplained"]
    assert code == {
        "pfn_start": "0x20000",
        "pfn_end": "0x20001",
        "pa": "0x20000000",
        "va": f"{MODULE_ZONE + 0x900000:#x}",
        "pages": 1,
        "kind": None,
        "owner": "",
        "section": "",
        "symbol": code["symbol"],
        "writable": False,
        "denied": True,
    }
    assert "+0x" in code["symbol"]
    replace(SCATTERED, image_id=b"\x77" * 20).write(shell.folder)
    status, _, err = shell.run("audit")
    assert status == Exit.ERROR
    assert "cannot be compared with its seal" in err


def test_an_audit_plans_by_the_policy_of_the_seal(shell: Shell) -> None:
    SCATTERED.write(shell.folder)
    drops = ["--set", "policy.ftrace=drop", "--set", "policy.bpf=drop"]
    assert kept(shell.plan(*drops)[1]) != kept(shell.plan()[1])
    assert shell.run("lock", *drops)[0] == Exit.OK
    assert shell.run("audit")[0] == Exit.OK
    assert shell.run("lock")[0] == Exit.OK


@pytest.mark.parametrize(
    ("what", "pfn", "kind"),
    [
        (f"{FTRACE:#x}", 0x13000, "ftrace"),
        (f"{FTRACE + 0xFFF:#x}", 0x13000, "ftrace"),
        ("0x13000fff", 0x13000, "ftrace"),
        (str(0x13000), 0x13000, "ftrace"),
        ("_text", 0x6A400, "kernel-text"),
        ("0x6a5fffff", 0x6A5FF, "kernel-text"),
        (str(0x6A600), 0x6A600, None),
        (f"{EFI_PA:#x}", EFI_PA >> 12, "efi-runtime"),
        ("0", 0, None),
    ],
)
def test_explain(shell: Shell, what: str, pfn: int, kind: str | None) -> None:
    SCATTERED.write(shell.folder)
    status, out, err = shell.run("explain", "--json", what)
    answer = json.loads(out)
    (page,) = answer["pages"]
    assert (status, err, page["pfn"]) == (Exit.OK, "", hex(pfn))
    assert (page["kept"]["kind"] if page["kept"] else None) == kind
    text = shell.run("explain", what)[1]
    assert ("KEPT" if kind else "DENIED") in text


def test_explain_an_address_without_code(shell: Shell) -> None:
    SCATTERED.write(shell.folder)
    status, out, _ = shell.run("explain", "--json", f"{BLOCK_VA:#x}")
    (page,) = json.loads(out)["pages"]
    assert (status, page["pfn"], page["va"], page["kept"]) == (Exit.OK, None, f"{BLOCK_VA:#x}", None)
    assert "DENIED" in shell.run("explain", f"{BLOCK_VA:#x}")[1]


@pytest.mark.parametrize("what", ["nobody", "0xfffffffffffffffff", "\udcff", "", "0x", "pfn:", "pfn:0x"])
def test_explain_the_unknown(shell: Shell, what: str) -> None:
    SCATTERED.write(shell.folder)
    assert shell.run("explain", what)[0] == Exit.ERROR


def test_capture(shell: Shell, tmp_path: Path) -> None:
    SCATTERED.write(shell.folder)
    plan = shell.plan()[1]
    assert shell.run("capture", str(shell.folder))[0] == Exit.ERROR
    status, out, _ = shell.run("capture", str(tmp_path / "copy"))
    assert (status, out.startswith("captured ")) == (Exit.OK, True)
    assert Shell(tmp_path / "copy", shell.capture).plan()[1] == plan
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o700
    status, out, _ = shell.run("capture", "--json", str(tmp_path / "again"))
    assert (status, "execmap.json" in json.loads(out)["files"]) == (Exit.OK, True)


def test_capture_leaves_other_peoples_folders_alone(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may write there could plant links for root to follow."""
    SCATTERED.write(shell.folder)
    own, link = tmp_path / "own", tmp_path / "link"
    own.mkdir(mode=0o755)
    assert "made by somebody else" in shell.run("capture", str(own))[2]
    own.chmod(0o700)
    link.symlink_to(own)
    assert "made by somebody else" in shell.run("capture", str(link))[2]
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert "made by somebody else" in shell.run("capture", str(own))[2]
    monkeypatch.undo()
    assert list(own.iterdir()) == []
    assert shell.run("capture", str(own))[0] == Exit.OK


def test_report_as_json(shell: Shell) -> None:
    SCATTERED.write(shell.folder)
    assert shell.run("lock")[0] == Exit.OK
    assert all(json.loads(shell.run("report", *words)[1]) for words in (["--json"], ["--format", "json"]))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["bogus"],
        ["plan", "--bogus"],
        ["explain"],
        ["capture"],
        ["plan", "--host", "x"],
        ["report", "--format", "x"],
    ],
    ids=" ".join,
)
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == Exit.USAGE
    out, err = capsys.readouterr()
    usage, message, hint = err.splitlines()
    assert (out, usage.startswith("usage: mbecguard"), message.startswith("mbecguard: ")) == ("", True, True)
    assert hint.startswith("  hint: ")


@pytest.mark.parametrize("override", ["policy.bfp=drop", "policy.bpf=x", "policy.tight=1", "x", "=", "\udcff=1"])
def test_wrong_settings(shell: Shell, override: str) -> None:
    SCATTERED.write(shell.folder)
    assert shell.plan("--set", override)[0] == Exit.ERROR


def test_no_guest_at_all(shell: Shell) -> None:
    assert shell.plan()[0] == Exit.ERROR
    assert shell.run("check", "--json")[0] == Exit.REFUSED


def test_the_program_itself(tmp_path: Path) -> None:
    folder = SCATTERED.write(tmp_path / "guest")
    command = [sys.executable, "-m", "mbecguard", "plan", "--guest", str(folder), "--json"]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    command += ["--cache-dir", str(tmp_path / "cache"), "--state-dir", str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert (done.returncode, done.stderr) == (Exit.OK, "")
    assert json.loads(done.stdout)["keep"]


def test_check_names_a_host_that_refuses(shell: Shell) -> None:
    SCATTERED.write(shell.folder)
    status, out, _ = shell.run("check", "--json", "--set", "simulator.mode=off")
    found = {finding["id"]: finding for finding in json.loads(out)["findings"]}
    assert status == Exit.REFUSED
    assert "NO_HYPERCALL" in found["host-unusable"]["text"]
    assert found["host-unusable"]["hint"]
    status, out, _ = shell.run("check", "--json")
    assert status == Exit.OK
    assert "host-un" not in out


def test_check_and_lock_agree_about_a_request_that_is_too_long(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    SCATTERED.write(shell.folder)
    monkeypatch.setattr(lock_request, "LEAST_RANGES", 2)
    monkeypatch.setattr(SimulatedHost, "most_ranges", lambda _host: 3)
    status, out, _ = shell.run("check", "--json")
    assert (status, [f["id"] for f in json.loads(out)["findings"] if f["severity"] == "blocker"]) == (
        Exit.REFUSED,
        ["request-too-long"],
    )
    status, _, err = shell.run("lock")
    assert (status, "the host takes 3 in one request" in err) == (Exit.REFUSED, True)
    monkeypatch.undo()
    assert shell.run("lock")[0] == Exit.OK


@pytest.mark.parametrize(("host", "asked"), [("audit", "enforce"), ("enforce", "audit")])
def test_check_and_lock_agree_about_the_mode(shell: Shell, host: str, asked: str) -> None:
    SCATTERED.write(shell.folder)
    words = ("--set", f"simulator.mode={host}", "--set", f"lock.mode={asked}")
    status, out, _ = shell.run("check", "--json", *words)
    assert (status, [f["id"] for f in json.loads(out)["findings"] if f["severity"] == "blocker"]) == (
        Exit.REFUSED,
        ["host-unfit"],
    )
    status, _, err = shell.run("lock", *words)
    assert (status, f"the host's mode is {host}" in err) == (Exit.REFUSED, True)
