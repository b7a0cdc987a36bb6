# SPDX-License-Identifier: GPL-2.0-or-later
"""Where answers go: whole files or none, names in any encoding, and what was done stays done."""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mbecguard.face import cli, output
from mbecguard.face.output import Output
from mbecguard.values.errors import Exit, UserError
from tests.guestmaker import SCATTERED


@dataclass(frozen=True)
class Answer:
    name: str


def test_an_answer_in_either_form(capsys: pytest.CaptureFixture[str]) -> None:
    Output().show(Answer("x"), ["one", "two"])
    assert capsys.readouterr().out == "one\ntwo\n"
    Output(json=True).show(Answer("x"), ["one"])
    assert json.loads(capsys.readouterr().out) == {"name": "x"}


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_names_that_cannot_be_encoded_are_shown_with_escapes(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    Output().show(Answer(""), ["into \udcff\N{SNOWMAN}"])
    Output(json=True).show(Answer("\udcff\N{SNOWMAN}"), [])
    sys.stdout.flush()
    text, _, data = raw.getvalue().partition(b"\n")
    assert text.startswith(rb"into \udcff")
    assert json.loads(data) == {"name": "\udcff\N{SNOWMAN}"}


def test_a_file_is_replaced_as_a_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text("old")
    file.chmod(0o600)
    inode = file.stat().st_ino
    Output(file=file).write("new \udcff\n")
    assert file.read_bytes() == b"new \\udcff\n"
    assert file.stat().st_ino != inode
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "plan.json"
    file.write_text("old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="No space left"):
        Output(file=file).write("new")
    assert (file.read_text(), list(tmp_path.iterdir())) == ("old", [file])


def test_links_are_followed_and_devices_written_to(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    Output(file=link).write("new")
    assert (target.read_text(), link.is_symlink()) == ("new", True)
    Output(file=Path("/dev/null")).write("x")
    assert Path("/dev/null").is_char_device()
    read, write = os.pipe()
    Output(file=Path(f"/proc/self/fd/{write}")).write("through")
    assert os.read(read, 20) == b"through"
    os.close(read)
    os.close(write)


def words(tmp_path: Path, command: str, *more: str) -> list[str]:
    folder = SCATTERED.write(tmp_path / "guest")
    (tmp_path / "state").mkdir(exist_ok=True)
    places = ["--guest", str(folder), "--state-dir", str(tmp_path / "state"), "--cache-dir", str(tmp_path / "cache")]
    return [command, *places, *more]


def test_a_place_that_cannot_be_written_is_found_before_a_lock(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words(tmp_path, "lock", "-o", str(tmp_path / "none/report"))) == Exit.ERROR
    assert "cannot be written" in capsys.readouterr().err
    assert cli.main(words(tmp_path, "status")) == Exit.OPEN


def test_a_failed_write_after_the_seal_does_not_make_it_untrue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Path, *_more: object) -> None:
        raise UserError(f"{file} cannot be written: No space left on device", "make room")

    monkeypatch.setattr(output, "_replace", full)
    assert cli.main(words(tmp_path, "lock", "-o", str(tmp_path / "report"))) == Exit.OK
    assert "No space left on device\n  hint: make room\n" in capsys.readouterr().err
    assert cli.main(words(tmp_path, "status")) == Exit.OK


@pytest.mark.parametrize("how", [["--json"], ["--format", "json"], ["--format=json"]])
def test_an_error_is_json_where_json_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: list[str]
) -> None:
    assert cli.main(words(tmp_path, "report", *how)) == Exit.NOTHING
    out, err = capsys.readouterr()
    error = json.loads(out)
    assert (error["schema"], error["exit"]) == ("mbecguard.error/1", 7)
    assert err == f"mbecguard: {error['message']}\n  hint: {error['hint']}\n"
    assert cli.main(words(tmp_path, "report")) == Exit.NOTHING
    assert capsys.readouterr().out == ""
