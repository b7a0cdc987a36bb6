# SPDX-License-Identifier: GPL-2.0-or-later
"""L1's agent, with a shell script in the guest's place."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.lab.parts import HERE
from tests.lab.verdict import Outcome, Told, judge, read

GUEST = """
exec 3>"$PIPE.out" 4<"$PIPE.in"
ask() { echo "$*" >&3; read -r reply <&4; echo "$reply"; }
bye() { echo finish >&3; }
"""


def run(folder: Path, queue: list[str], guest: str, silence: int = 5) -> tuple[Told, list[str]]:
    """What the port said, and what the guest printed: the answers to its `ask`."""
    port = folder / "verdict"
    port.write_text("")
    (folder / "queue").write_text("".join(f"{name}\n" for name in queue))
    arguments = [HERE / "host/agent", folder / "pipe", port, folder / "queue", silence]
    command = ["bash", *map(str, arguments), "sh", "-c", GUEST + guest, "guest"]
    environment = {"PATH": "/usr/bin:/bin", "PIPE": str(folder / "pipe")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=True)
    return read(port.read_text()), done.stdout.splitlines()


def test_a_whole_run(tmp_path: Path) -> None:
    script = "ask booted 6.12; ask next; ask fact x a b; ask end ok; ask next; ask fact y c; ask end ok; ask next"
    told, answers = run(tmp_path, ["one", "two"], script + "; bye")
    assert answers[:8] == ["ok", "one 1", "ok", "ok", "two 1", "ok", "ok", "none 1"]
    assert told.machine == (("booted", "6.12"),)
    assert judge("one", {"x": "a b"}, told).outcome is Outcome.PASSED
    assert judge("two", {"y": "c"}, told).outcome is Outcome.PASSED
    assert told.finished
    assert not told.garbage


def test_a_guest_that_comes_back_unasked_has_died(tmp_path: Path) -> None:
    script = "ask booted 1; ask next; ask fact x 1; ask booted 1; ask next; ask end ok; ask next; bye"
    told, answers = run(tmp_path, ["one", "two"], script)
    assert answers[4] == "two 1"
    assert judge("one", {}, told).outcome is Outcome.DIED
    assert judge("two", {}, told).outcome is Outcome.PASSED


def test_a_reset_goes_on_with_the_next_stage(tmp_path: Path) -> None:
    script = "ask booted 1; ask next; ask resetting; ask booted 1; ask next; ask end ok; ask next; bye"
    told, answers = run(tmp_path, ["one"], script)
    assert (answers[1], answers[4], answers[6]) == ("one 1", "one 2", "none 1")
    assert judge("one", {}, told).outcome is Outcome.PASSED


def test_only_one_reset_is_free(tmp_path: Path) -> None:
    script = "ask booted 1; ask next; ask resetting; ask booted 1; ask booted 1; ask next; bye"
    told, answers = run(tmp_path, ["one"], script)
    assert answers[5] == "none 1"
    assert judge("one", {}, told).outcome is Outcome.DIED


@pytest.mark.parametrize("status", [0, 3])
def test_a_guest_that_is_gone(tmp_path: Path, status: int) -> None:
    told, _ = run(tmp_path, ["one"], f"ask booted 1; ask next; exit {status}")
    assert judge("one", {}, told).outcome is Outcome.NO_VERDICT
    assert not told.finished


#: As QEMU would: without its process id there is nobody to end. Only its first life hangs.
HANGS_ONCE = """
echo $$ >"$PIPE.pid"
ask booted 1
ask next
[ -e "$PIPE.again" ] || { : >"$PIPE.again"; ask fact x 1; %s; exec sleep 60; }
ask end ok
ask next
bye
"""


@pytest.mark.parametrize("last", ["true", "ask resetting", "printf half >&3", "echo next >&3"])
def test_a_silent_guest_is_replaced(tmp_path: Path, last: str) -> None:
    told, answers = run(tmp_path, ["one", "two"], HANGS_ONCE % last, silence=1)
    assert answers[-4:] == ["ok", "two 1", "ok", "none 1"]
    assert judge("one", {"x": "1"}, told).outcome is Outcome.SILENT
    assert judge("two", {}, told).outcome is Outcome.PASSED
    assert told.finished
    assert not told.garbage


def test_a_guest_that_never_comes_up_is_not_tried_again(tmp_path: Path) -> None:
    told, answers = run(tmp_path, ["one"], 'echo $$ >"$PIPE.pid"; echo up; exec sleep 60', silence=1)
    assert answers == ["up"]
    assert judge("one", {}, told).outcome is Outcome.NO_VERDICT
    assert not told.finished


def test_a_guest_out_of_step_ends_the_run(tmp_path: Path) -> None:
    """It says more lines than it reads answers, and takes each answer for another's: it would never finish."""
    script = "ask booted 1; ask next; echo astray >&3; while sleep 0.1; do ask end ok; ask next; done"
    told, _ = run(tmp_path, ["one"], f'echo $$ >"$PIPE.pid"; {script}')
    assert judge("one", {}, told).outcome is Outcome.PASSED
    assert not told.finished


def test_a_guest_that_talks_is_not_silent(tmp_path: Path) -> None:
    script = "ask booted 1; ask next; for i in 1 2 3; do sleep 1.5; ask fact f$i x; done; ask end ok; ask next; bye"
    told, _ = run(tmp_path, ["one"], script, silence=4)
    assert judge("one", {"f1": "x", "f2": "x", "f3": "x"}, told).outcome is Outcome.PASSED


def test_the_guest_can_look_at_the_host(tmp_path: Path) -> None:
    _, answers = run(tmp_path, [], "ask run 'echo a; echo b'; ask run false; ask nonsense; bye")
    assert [answer.strip() for answer in answers[:3]] == ["a b", "", "what?"]


def test_a_second_guest_takes_over_the_pipes(tmp_path: Path) -> None:
    for _ in range(2):
        told, _ = run(tmp_path, ["one"], "ask booted 1; ask next; ask end ok; bye")
        assert judge("one", {}, told).outcome is Outcome.PASSED


def test_scenarios_reach_qemus_monitor(tmp_path: Path) -> None:
    script = f"ask run 'echo info >{tmp_path}/monitor.in'; read -r line <{tmp_path}/monitor.in; echo $line; bye"
    _, answers = run(tmp_path, [], script)
    assert answers[1] == "info"


#: Saved by its monitor, and started again: it goes on where it was. Its state is written after it has gone.
MOVES = """
echo $$ >"$PIPE.pid"
[ "$1" = -incoming ] && { ask went on; ask fact there "$(sh -c "${2#exec:}")"; ask end ok; ask next; bye; exit; }
ask booted 1
ask next
echo moving >&3
read -r save <"${PIPE%/*}/monitor.in"; echo "$save"
command=${save#*exec:}
setsid sh -c "sleep 1; echo state | { ${command%\\"}; }" >/dev/null 2>&1 &
exit 0
"""


def test_a_guest_that_moves_goes_on_in_the_same_stage(tmp_path: Path) -> None:
    told, answers = run(tmp_path, ["one"], MOVES)
    assert answers[:3] == [
        "ok",
        "one 1",
        f'migrate "exec:cat >{tmp_path}/pipe.part && mv {tmp_path}/pipe.part {tmp_path}/pipe.saved"',
    ]
    assert judge("one", {"there": "state"}, told).outcome is Outcome.PASSED
    assert told.finished


def test_what_a_guest_asks_to_be_run_knows_the_places(tmp_path: Path) -> None:
    """Of the pipes and of the agent's own neighbours, on L1 and on a machine that is one."""
    _, answers = run(tmp_path, [], "ask run 'echo $run; ls $lab/map-digest'; bye")
    assert answers[0].split() == [str(tmp_path), str(HERE / "host/map-digest")]
