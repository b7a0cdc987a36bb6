# SPDX-License-Identifier: GPL-2.0-or-later
"""What the command line makes of words: help, mistakes, who may ask, and how much it wants of the settings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NoReturn

import pytest

from mbecguard.face import cli
from mbecguard.face.options import EVERYWHERE
from mbecguard.face.table import COMMANDS, Command, Needs
from mbecguard.face.usage import options, subcommands
from mbecguard.service.daemon import Daemon, Seen
from mbecguard.service.watch import Watch
from mbecguard.values.errors import Exit
from tests.fleetmaker import Made
from tests.guestmaker import SCATTERED

WRONG = '[policy]\nbfp = "drop"\ndeny_unexplained = true\n'
PARSERS = subcommands(cli.parser())


class Terminal:
    """Runs the program, and remembers what it said."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self.capture = capture

    def run(self, *words: str) -> int:
        try:
            status = cli.main(list(words))
        except SystemExit as left:
            status = int(str(left.code))
        self.out, self.err = self.capture.readouterr()
        return status


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root folder of a machine whose settings have a mistake; whoever runs the test may look at it."""
    folder = tmp_path / "root"
    (folder / "etc/mbecguard/mbecguard.toml.d").mkdir(parents=True, mode=0o755)
    for path in (folder / "etc/mbecguard/mbecguard.toml.d", folder / "etc/mbecguard"):
        path.chmod(0o755)
    file = folder / "etc/mbecguard/mbecguard.toml.d/50-local.toml"
    file.write_text(WRONG)
    file.chmod(0o644)
    monkeypatch.setattr("mbecguard.face.run._ROOT", folder)
    monkeypatch.setattr("mbecguard.face.run.require_root", lambda: None)
    return folder


# Help


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_is_the_same_by_word_and_by_option(terminal: Terminal, command: Command) -> None:
    assert terminal.run("help", command.name) == Exit.OK
    by_word = terminal.out
    assert terminal.run(command.name, "--help") == Exit.OK
    assert (terminal.out, terminal.err) == (by_word, "")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_begins_with_a_sentence_and_ends_with_examples(command: Command) -> None:
    text = f"{command.summary}. {command.about}"
    assert command.summary[0].isupper()
    assert not command.summary.endswith(".")
    assert len(command.summary) < 60
    assert text.endswith(".")
    assert re.findall(r"(?<=[.!?] )[a-z]", text) == []
    assert command.examples


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ["", *PARSERS])
def test_help_fits_the_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert terminal.run("help", *[name] if name else []) == Exit.OK
    assert max(map(len, terminal.out.splitlines())) < width


def test_help_shows_what_a_command_looks_at_and_takes_where_things_are() -> None:
    for command in COMMANDS:
        visible = {action.dest for action in options(PARSERS[command.name])}
        assert set(command.options) <= visible
        assert not (set(EVERYWHERE) - set(command.options)) & visible
    shown = {name: {action.dest for action in options(parser)} for name, parser in PARSERS.items()}
    assert "tight" not in shown["audit"] | shown["capture"] | shown["rearm"] | shown["status"]
    assert not {"guest", "output"} & (shown["rearm"] | shown["daemon"])
    assert "json" not in shown["daemon"]


# Where options may stand


@pytest.mark.parametrize(
    "words",
    [
        ["check", "--json", "--guest", "GUEST", "--set", "policy.tight=on"],
        ["--json", "check", "--guest", "GUEST", "--set", "policy.tight=on"],
        ["--json", "--guest", "GUEST", "--set", "policy.tight=on", "check"],
        ["--json", "--guest=GUEST", "--set=policy.tight=on", "check"],
        ["--guest", "GUEST", "--set", "policy.tight=on", "check", "--json"],
        ["--tight", "--guest", "GUEST", "check", "--json"],
    ],
    ids=" ".join,
)
def test_options_stand_before_the_command_or_after_it(terminal: Terminal, tmp_path: Path, words: list[str]) -> None:
    SCATTERED.write(tmp_path / "guest")
    places = ["--state-dir", str(tmp_path / "state"), "--cache-dir", str(tmp_path / "cache")]
    status = terminal.run(*(word.replace("GUEST", str(tmp_path / "guest")) for word in words), *places)
    assert (status, json.loads(terminal.out)["ok"]) == (Exit.OK, True)


def test_a_setting_before_and_one_after_both_count() -> None:
    parsed = cli.parse(["--set", "policy.tight=on", "--json", "plan", "--set", "policy.bpf=drop"])
    assert (parsed.command.name, parsed.set, parsed.json) == ("plan", ["policy.tight=on", "policy.bpf=drop"], True)


def test_options_that_nobody_gave_have_no_value() -> None:
    for command in COMMANDS:
        given = [
            command.name,
            *{"explain": ["x"], "capture": ["x"], "fleet": ["x"], "learn": ["show"], "cache": ["warm"]}.get(
                command.name, []
            ),
        ]
        parsed = cli.parse(given)
        assert (parsed.guest, parsed.kernel_image, parsed.host, parsed.output, parsed.set) == (
            None,
            None,
            None,
            None,
            [],
        )


# Mistakes


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("", "a command is missing", "`mbecguard help` lists the commands"),
        ("--json", "a command is missing", "`mbecguard help` lists the commands"),
        ("stats", "there is no command 'stats'", "did you mean status?"),
        ("--json stats", "there is no command 'stats'", "did you mean status?"),
        ("xyzzy", "there is no command 'xyzzy'", "`mbecguard help` lists the commands"),
        ("help stats", "there is no command 'stats'", "did you mean status?"),
        ("re", "there is no command 're'", "did you mean report or rearm?"),
        ("learn", "learn needs one of start, show, write", "`mbecguard help learn` tells more"),
        ("learn sow", "learn wants start, show or write, not 'sow'", "did you mean show?"),
        ("explain", "explain needs ADDRESS|PFN|SYMBOL", "`mbecguard help explain` tells more"),
        ("capture", "capture needs DIR", "`mbecguard help capture` tells more"),
        ("lock --dryrun", "lock has no option --dryrun", "did you mean --dry-run?"),
        ("lock --dry", "lock has no option --dry", "did you mean --dry-run?"),
        ("audit --kernel=3", "audit has no option --kernel", "did you mean --kernel-image?"),
        ("--bogus status", "status has no option --bogus", "`mbecguard help status` tells more"),
        ("rearm --tight", "rearm takes no --tight; it is for check, plan, lock", "`mbecguard help rearm` tells more"),
        ("status now", "status takes no 'now'", "`mbecguard help status` tells more"),
        ("plan --host shim", "plan takes no --host; it is for check, lock", "`mbecguard help plan` tells more"),
        ("check --guest", "--guest: expected one argument", "`mbecguard help check` tells more"),
        ("check --host shm", "--host wants auto, shim or simulator, not 'shm'", "did you mean shim?"),
        ("lock --mode off", "--mode wants enforce or audit, not 'off'", "a sealed guest is unlocked by a reset alone"),
    ],
)
def test_a_mistake_is_told_in_short(terminal: Terminal, words: str, message: str, hint: str) -> None:
    assert terminal.run(*words.split()) == Exit.USAGE
    usage, told, advice = terminal.err.splitlines()
    assert usage.startswith("usage: mbecguard ")
    assert told.startswith(f"mbecguard: {message}")
    assert advice.startswith(f"  hint: {hint}")
    if "--json" not in words:
        assert terminal.out == ""
        return
    answer = json.loads(terminal.out)
    assert (answer["schema"], answer["exit"]) == ("mbecguard.error/1", Exit.USAGE)
    assert (told, advice) == (f"mbecguard: {answer['message']}", f"  hint: {answer['hint']}")


# Who may ask


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_who_is_not_root_hears_that_first(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: Command
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    monkeypatch.setattr("mbecguard.face.run._ROOT", tmp_path)
    new, audits = str(tmp_path / "new"), str(Made(tmp_path).folder)
    needed = {"explain": ["x"], "capture": [new], "learn": ["start"], "fleet": [audits], "cache": ["warm"]}
    words = needed.get(command.name, [])
    status = terminal.run(command.name, *words)
    if command.name == "fleet":
        assert (status, terminal.err) == (Exit.DRIFT, "")
        return
    if command.name in ("config", "help"):
        assert (status, terminal.err) == (Exit.OK, "")
        return
    told, hint = terminal.err.splitlines()
    assert (status, terminal.out) == (Exit.ERROR, "")
    assert told == "mbecguard: only root can look at the running guest, or change it"
    assert "run as root" in hint
    assert list(tmp_path.iterdir()) == []


def test_who_is_not_root_may_look_at_a_captured_guest(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    SCATTERED.write(tmp_path / "guest")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    assert terminal.run("status", "--guest", str(tmp_path / "guest")) == Exit.OPEN
    assert "OPEN" in terminal.out
    assert not (tmp_path / "state").exists()
    assert terminal.run("lock", "--guest", str(tmp_path / "guest")) == Exit.OK
    assert (tmp_path / "state/mbecguard/simulated/records/00000001.json").exists()


def test_ctrl_c_is_no_traceback(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    SCATTERED.write(tmp_path / "guest")
    monkeypatch.setattr("mbecguard.guest.survey.Surveyor.look", interrupt)
    assert terminal.run("plan", "--guest", str(tmp_path / "guest")) == 130
    assert (terminal.out, terminal.err) == ("", "mbecguard: interrupted\n")


# The state folder


@pytest.mark.parametrize(
    "words", [["status"], ["audit"], ["report"], ["explain", "_text"], ["learn", "show"], ["rearm"]]
)
@pytest.mark.parametrize("live", [False, True])
def test_a_state_folder_that_is_not_there_is_a_mistake(
    terminal: Terminal, root: Path, tmp_path: Path, words: list[str], live: bool
) -> None:
    SCATTERED.write(tmp_path / "guest")
    folder = tmp_path / "typo/state"
    guest = [] if live else ["--guest", str(tmp_path / "guest")]
    assert terminal.run(*words, *guest, "--state-dir", str(folder)) == Exit.ERROR
    told, hint = terminal.err.splitlines()
    assert told == f"mbecguard: there is no state folder {folder}"
    assert hint.startswith("  hint: ")
    assert (terminal.out, folder.parent.exists()) == ("", False)


# Settings with a mistake in them


def test_each_command_says_how_much_it_wants_of_the_settings() -> None:
    wants = {need: {command.name for command in COMMANDS if command.needs is need} for need in Needs}
    assert wants[Needs.NONE] == {"fleet", "help"}
    assert wants[Needs.CLEAN] == {"plan"}
    assert wants[Needs.ASKS] == {"check", "lock", "boot", "status"}
    assert wants[Needs.READABLE] == {
        *("audit", "report", "metrics", "explain", "rearm", "daemon", "learn", "config", "capture", "cache")
    }


@pytest.mark.parametrize("words", [["lock"], ["plan"], ["boot"], ["learn", "write"]], ids=" ".join)
def test_what_changes_a_guest_is_refused_with_wrong_settings(
    terminal: Terminal, root: Path, tmp_path: Path, words: list[str]
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    own = ["--host", "simulator"] if words[0] in ("lock", "boot") else []
    assert terminal.run(*words, *own, "--state-dir", str(state)) == Exit.ERROR
    assert "50-local.toml: unknown setting 'policy.bfp'" in terminal.err
    assert "hint: did you mean policy.bpf?" in terminal.err
    assert not (root / "etc/modules-load.d").exists()


def test_a_boot_with_wrong_settings_is_no_lock_and_says_so(terminal: Terminal, root: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    places = ["--host", "simulator", "--state-dir", str(state)]
    assert terminal.run("boot", *places) == Exit.ERROR
    assert "boot not locked: " in terminal.err
    assert terminal.run("status", *places) == Exit.OPEN
    assert "the service did not lock this boot: " in terminal.out
    assert "no lock is made with wrong settings: " in terminal.out


def test_what_only_looks_goes_on_and_warns(terminal: Terminal, root: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    warning = "mbecguard: warning: " + str(root / "etc/mbecguard/mbecguard.toml.d/50-local.toml")
    for words in (["rearm"], ["report"], ["config"], ["explain", "_text"], ["audit"], ["learn", "show"]):
        where = ["--state-dir", str(state)]
        terminal.run(*words, *where)
        assert terminal.err.startswith(warning), words
    assert terminal.run("rearm", "--state-dir", str(state)) == Exit.OK


def test_the_daemon_watches_with_wrong_settings_and_does_not_load_them_again(
    terminal: Terminal, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denies(seen: Seen) -> bool:
        return Watch.recalled(seen.memory, lambda *_: None).session.settings.enabled("policy.deny_unexplained")

    def run(daemon: Daemon) -> None:
        first = daemon.look("", False)
        assert denies(first), "what can be read counts"
        refused = daemon.look(first.memory, True)
        assert [name for name, _ in refused.told] == ["RELOAD_FAILED"]
        assert "unknown setting 'policy.bfp'" in refused.told[0][1]["reason"]
        (root / "etc/mbecguard/mbecguard.toml.d/50-local.toml").write_text("[policy]\ndeny_unexplained = false\n")
        assert denies(daemon.look(refused.memory, False)), "nobody wants them loaded again"
        taken = daemon.look(refused.memory, True)
        assert (denies(taken), taken.told) == (False, ())

    monkeypatch.setattr(Daemon, "run", run)
    assert terminal.run("daemon", "--host", "simulator", "--state-dir", str(tmp_path)) == Exit.OK
    assert "warning: " in terminal.err


def test_config_shows_what_can_be_read_and_what_is_wrong(terminal: Terminal, root: Path) -> None:
    assert terminal.run("config", "--json") == Exit.OK
    document = json.loads(terminal.out)
    found = {row["key"]: row["value"] for row in document["settings"]}
    assert (found["policy.deny_unexplained"], found["policy.bpf"]) == (True, "keep")
    (problem,) = document["problems"]
    assert "unknown setting 'policy.bfp'" in problem["message"]
    assert problem["hint"] == "did you mean policy.bpf?"


def test_check_counts_a_mistake_among_what_stops_a_lock(terminal: Terminal, root: Path, tmp_path: Path) -> None:
    assert terminal.run("check", "--json", "--host", "simulator", "--state-dir", str(tmp_path)) == Exit.REFUSED
    found = [finding for finding in json.loads(terminal.out)["findings"] if finding["id"] == "settings-wrong"]
    assert [(finding["severity"], finding["hint"]) for finding in found] == [("blocker", "did you mean policy.bpf?")]
    assert terminal.err == ""


def test_the_status_is_small_and_the_whole_of_it_is_there_for_who_asks(terminal: Terminal, tmp_path: Path) -> None:
    where = ("--guest", str(SCATTERED.write(tmp_path / "guest")), "--state-dir", str(tmp_path))
    assert terminal.run("lock", *where) == Exit.OK
    assert terminal.run("status", "--json", *where) == Exit.OK
    status = json.loads(terminal.out)
    assert len(terminal.out) < 2100
    assert status["details"] is None
    assert terminal.run("status", "--json", "--full", *where) == Exit.OK
    full = json.loads(terminal.out)
    record, plan = full["details"]["record"], full["details"]["plan"]
    assert {**full, "details": None, "time": ""} == {**status, "time": ""}
    assert (
        status["record"]["digest"] == json.loads((tmp_path / "simulated/records/00000001.json").read_bytes())["digest"]
    )
    assert status["record"]["plan_digest"] == record["plan_digest"] == plan["digest"]
    assert status["record"]["totals"] == record["totals"] == plan["totals"]
    assert terminal.run("report", "--json", *where) == Exit.OK
    report = json.loads(terminal.out)
    assert (report["digest"], report["record"], report["plan"]) == (status["record"]["digest"], record, plan)
    assert terminal.run("status", "--full", *where) == Exit.OK
    assert status["record"]["digest"] in terminal.out
    assert "Evidence" in terminal.out


def test_an_audit_looks_at_the_history_and_tells_what_is_damaged(terminal: Terminal, tmp_path: Path) -> None:
    where = ("--guest", str(SCATTERED.write(tmp_path / "guest")), "--state-dir", str(tmp_path))
    for _ in range(3):
        terminal.run("lock", *where)
    damaged = tmp_path / "simulated/records/00000002.json"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    for command in ("audit", "status"):  # it is found once, and known until a person has looked at it
        assert terminal.run(command, "--json", *where) == Exit.OK
        (why,) = (why for why in json.loads(terminal.out)["reasons"] if why["id"] == "history-damaged")
        assert "00000002.json: it is not as it was written" in why["text"]
        assert ("the history of locks is damaged" in terminal.err) == (command == "audit")
    assert (tmp_path / "simulated/damaged/00000002.json").exists()
