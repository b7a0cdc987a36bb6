# SPDX-License-Identifier: GPL-2.0-or-later
"""Where settings come from on a running guest, who wins, whom to trust; and the command that shows it."""

from __future__ import annotations

import json
import os
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbecguard.face import cli
from mbecguard.face.text import Text
from mbecguard.session import Places, Session
from mbecguard.settings.declared import SETTINGS, Value, default_file
from mbecguard.settings.load import COMMAND_LINE, Settings, load
from mbecguard.values.errors import Exit, UserError
from mbecguard.values.events import Event
from tests.guestmaker import SCATTERED


class Machine:
    """A root folder with settings and a kernel command line."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / "etc/mbecguard/mbecguard.toml"
        self.folder = root / "etc/mbecguard/mbecguard.toml.d"
        self.folder.mkdir(parents=True)
        for folder in (self.folder, self.folder.parent):
            folder.chmod(0o755)
        self.boot("ro quiet")

    def boot(self, cmdline: str) -> None:
        (self.root / "proc").mkdir(exist_ok=True)
        (self.root / "proc/cmdline").write_text(cmdline + "\n")

    def write(self, text: str, name: str | None = None) -> Path:
        file = self.folder / name if name else self.file
        file.write_text(text)
        file.chmod(0o644)
        return file

    def mode(self, *overrides: str, file: Path | None = None) -> tuple[str, str]:
        settings = load(file, overrides, root=self.root)
        return settings.text("lock.mode"), settings.origin("lock.mode")

    def fails(self, file: Path | None = None) -> UserError:
        with pytest.raises(UserError) as caught:
            load(file, root=self.root).clean()
        assert caught.value.hint
        return caught.value


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "root")


def mode(value: str) -> str:
    return f'[lock]\nmode = "{value}"\n'


def test_every_place_beats_those_below_it(machine: Machine, tmp_path: Path) -> None:
    assert machine.mode() == ("enforce", "default")
    file = machine.write(mode("audit"))
    assert machine.mode() == ("audit", str(file))
    last = machine.write(mode("enforce"), "90.toml")
    machine.write(mode("audit"), "10.toml")
    assert machine.mode() == ("enforce", str(last))
    machine.boot("ro mbecguard=audit quiet")
    assert machine.mode() == ("audit", COMMAND_LINE)
    assert machine.mode("lock.mode=enforce") == ("enforce", "--set")
    flagged = load(overrides=["lock.mode=enforce"], root=machine.root, flags={"--mode": "lock.mode=audit"})
    assert flagged.origin("lock.mode") == "--mode"
    own = tmp_path / "own.toml"
    own.write_text('[policy]\nbpf = "drop"\n')
    own.chmod(0o644)
    settings = load(own, root=machine.root)
    assert (settings.text("policy.bpf"), settings.origin("policy.bpf")) == ("drop", str(own))
    assert settings.origin("lock.mode") == COMMAND_LINE
    machine.boot("")
    assert load(own, root=machine.root).origin("lock.mode") == "default"


def test_the_last_name_wins_in_whatever_order_files_are_made(machine: Machine) -> None:
    made: list[str] = []
    for name in ("50.toml", "10.toml", "90.toml", "30.toml", "99.toml", "20.toml"):
        machine.write(mode("audit"), name)
        made.append(name)
        assert machine.mode() == ("audit", str(machine.folder / max(made)))


def test_files_are_merged_key_by_key(machine: Machine) -> None:
    machine.write('[policy]\nbpf = "drop"\nkprobe = "drop"\n')
    machine.write('[policy]\nbpf = "keep"\n[boot]\nsettle = 5\n', "a.toml")
    machine.write("not TOML [", "a.toml.dpkg-old")
    machine.write("not TOML [", ".b.toml")
    settings = load(root=machine.root)
    assert settings.origins == {
        "policy.bpf": str(machine.folder / "a.toml"),
        "policy.kprobe": str(machine.file),
        "boot.settle": str(machine.folder / "a.toml"),
    }
    assert settings.number("boot.settle") == 5
    assert settings.text("policy.kprobe") == "drop"


@pytest.mark.parametrize(
    ("cmdline", "expected"),
    [
        ("mbecguard=off", "off"),
        ("mbecguard=audit mbecguard=enforce", "enforce"),
        ("mbecguard=enforce mbecguard=audit", "audit"),
        ("mbecguard=off mbecguard=enforce", "off"),
        ('root="a b" mbecguard="audit"', "audit"),
        ('"mbecguard=audit"', "audit"),
        ('x="mbecguard=off"', None),
        ('x="y mbecguard=off z"', None),
        ("xmbecguard=off mbecguard.x=off MBECGUARD=off", None),
        ("ro\tmbecguard=audit\n", "audit"),
    ],
)
def test_words(machine: Machine, cmdline: str, expected: str | None) -> None:
    machine.boot(cmdline)
    machine.write(mode("audit" if expected == "enforce" else "enforce"))
    if expected:
        assert machine.mode() == (expected, COMMAND_LINE)
    else:
        assert machine.mode() == ("enforce", str(machine.file))


@pytest.mark.parametrize("word", ["mbecguard", "mbecguard=", "mbecguard=of", "mbecguard=OFF", "mbecguard=0"])
def test_an_unknown_word_means_no_lock_and_is_told(machine: Machine, word: str) -> None:
    machine.boot(f"mbecguard=enforce {word}")
    value, origin = machine.mode("lock.mode=enforce")
    assert value == "off"
    assert origin.startswith(COMMAND_LINE)
    assert repr(word.partition("=")[2]) in origin
    machine.boot(f"{word} mbecguard=enforce")
    assert machine.mode() == ("enforce", COMMAND_LINE)


WORD_LIKE = [
    "mbecguard=off",
    '"mbecguard=audit"',
    'mbecguard="enforce"',
    "mbecguard=x",
    'm"becguard=off"',
    'x="a mbecguard=off"',
]


@given(
    st.lists(st.sampled_from([*WORD_LIKE, "quiet", "ambecguard=off", "mbecguard.a=off"]), max_size=6),
    st.text(" \t", min_size=1),
)
def test_words_are_those_of_a_shell(tmp_path_factory: pytest.TempPathFactory, words: list[str], space: str) -> None:
    root = tmp_path_factory.getbasetemp() / "words"
    (root / "proc").mkdir(parents=True, exist_ok=True)
    (root / "proc/cmdline").write_text(space.join(words))
    values = [word.partition("=")[2] for word in shlex.split(" ".join(words)) if word.startswith("mbecguard=")]
    known = {"audit": "audit", "enforce": "enforce"}
    expected = "off" if "off" in values else known.get(values[-1], "off") if values else "enforce"
    assert load(root=root).text("lock.mode") == expected


def test_off_beats_options_and_files(machine: Machine, tmp_path: Path) -> None:
    machine.boot("mbecguard=off")
    machine.write(mode("enforce"))
    own = tmp_path / "own.toml"
    own.write_text(mode("enforce"))
    own.chmod(0o644)
    assert machine.mode("lock.mode=enforce") == ("off", COMMAND_LINE)
    assert machine.mode("lock.mode=enforce", file=own) == ("off", COMMAND_LINE)
    assert load(root=machine.root, flags={"--mode": "lock.mode=enforce"}).text("lock.mode") == "off"


def test_nothing_of_the_machine_counts_without_a_root(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mbecguard.settings.load.SYSTEM_FILE", machine.file)
    monkeypatch.setattr("mbecguard.settings.load.SYSTEM_FOLDER", machine.folder)
    machine.write(mode("off"))
    assert load().origins == {}
    assert load(root=machine.root).origins == {"lock.mode": str(machine.file)}, "else this would prove nothing"


#: Mistakes in a file, and what stands beside them and can be read.
MISTAKES: dict[str, tuple[str, dict[str, Value]]] = {
    "unknown name": ('[policy]\nbfp = "drop"\ndeny_unexplained = true\n', {"policy.deny_unexplained": True}),
    "wrong value": ('[policy]\nbpf = "no"\ndeny_unexplained = true\n', {"policy.deny_unexplained": True}),
    "wrong type": ("[boot]\nsettle = true\n[policy]\ndeny_unexplained = true\n", {"policy.deny_unexplained": True}),
    "unknown section": ("[polici]\n[policy]\ndeny_unexplained = true\n", {"policy.deny_unexplained": True}),
    "outside": ("deny_unexplained = true\n[boot]\nsettle = 5\n", {"boot.settle": 5}),
    "two": ('[policy]\nbfp = "drop"\n[boot]\nsettle = -1\nhealth_check = "x"\n', {"boot.health_check": "x"}),
    "no TOML": ("[policy]\ndeny_unexplained = true\n[", {}),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_right_counts_and_what_is_wrong_is_told(machine: Machine, name: str) -> None:
    text, right = MISTAKES[name]
    file = machine.write(text, "50.toml")
    other = machine.write('[policy]\nkprobe = "drop"\n', "60.toml")
    settings = load(root=machine.root)
    changed = {key: value for key, value in settings.values.items() if value != load().values[key]}
    assert changed == {**right, "policy.kprobe": "drop"}
    assert settings.origins == {**dict.fromkeys(right, str(file)), "policy.kprobe": str(other)}
    assert len(settings.problems) == (2 if name == "two" else 1)
    assert all(str(file) in problem.message and problem.hint for problem in settings.problems)
    with pytest.raises(UserError) as caught:
        settings.clean()
    assert caught.value.message.startswith(settings.problems[0].message)
    assert ("1 more" in caught.value.message) == (name == "two")
    file.unlink()
    assert load(root=machine.root).clean().problems == ()


def test_nothing_of_a_file_counts_that_others_may_write(machine: Machine) -> None:
    machine.write(mode("audit"), "50.toml").chmod(0o666)
    machine.write("[policy]\ndeny_unexplained = true\n")
    settings = load(root=machine.root)
    assert (settings.text("lock.mode"), settings.enabled("policy.deny_unexplained")) == ("enforce", True)
    machine.folder.parent.chmod(0o777)
    assert load(root=machine.root).origins == {}


def test_a_mistake_of_the_caller_is_fatal(machine: Machine, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text("[policy]\nbfp = 1\n")
    own.chmod(0o644)
    missing = tmp_path / "none"
    for file, overrides in ((own, []), (missing, []), (None, ["policy.bfp=drop"])):
        with pytest.raises(UserError) as caught:
            load(file, overrides, root=machine.root)
        assert caught.value.hint
    assert "leave --config out" in machine.fails(missing).hint


def foreign(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
    else:
        monkeypatch.setattr("os.geteuid", lambda: 12345)


@pytest.mark.parametrize("bits", [0o664, 0o646, 0o666])
def test_files_that_others_may_write_are_refused(machine: Machine, bits: int) -> None:
    file = machine.write(mode("audit"))
    file.chmod(bits)
    assert machine.fails().message == f"{file} can be written by others than its owner"
    assert machine.fails(file).hint == f"chmod go-w {file}"
    assert load(file).text("lock.mode") == "audit", "a captured guest is no matter of trust"
    file.chmod(0o644)
    machine.folder.chmod(0o777)
    assert str(machine.folder) in machine.fails().message


@pytest.mark.parametrize("what", ["file", "folder", "parent"])
def test_files_of_others_are_refused(machine: Machine, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    file = machine.write(mode("audit"))
    path = {"file": file, "folder": machine.folder, "parent": file.parent}[what]
    foreign(path, monkeypatch)
    assert "belongs to another user" in machine.fails().message


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


MISPLACED: dict[str, Callable[[Path], None]] = {
    "folder": lambda path: path.mkdir(mode=0o755),
    "pipe": lambda path: os.mkfifo(path, 0o644),
    "loop": _loop,
    "dangling link": _dangling,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("name", [None, "50.toml"])
@pytest.mark.parametrize("what", MISPLACED)
def test_what_is_no_file_is_refused(machine: Machine, what: str, name: str | None) -> None:
    path = machine.folder / name if name else machine.file
    MISPLACED[what](path)
    assert str(path) in machine.fails().message


@pytest.mark.parametrize("what", ["file", "loop", "dangling link"])
def test_what_is_no_folder_is_refused(machine: Machine, what: str) -> None:
    machine.folder.rmdir()
    machine.folder.write_text("") if what == "file" else MISPLACED[what](machine.folder)
    assert str(machine.folder) in machine.fails().message


def test_a_link_to_a_good_file_is_followed(machine: Machine) -> None:
    target = machine.write(mode("audit"), "target")
    machine.file.symlink_to(target)
    assert machine.mode() == ("audit", str(machine.file))
    target.chmod(0o666)
    assert "can be written" in machine.fails().message


def test_names_that_are_no_text_can_be_shown(machine: Machine) -> None:
    machine.write(mode("audit"), os.fsdecode(b"\xff.toml"))
    machine.mode()[1].encode()


def test_without_any_file(tmp_path: Path) -> None:
    assert load(root=tmp_path) == load() == Settings({s.key: s.default for s in SETTINGS}, {})


def uncommented() -> str:
    return re.sub(r"^#(?=\w+ = )", "", default_file(), flags=re.MULTILINE)


def test_the_default_file_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "default.toml"
    file.write_text(default_file())
    assert load(file) == load()


def test_the_default_file_uncommented_says_every_default(tmp_path: Path) -> None:
    file = tmp_path / "default.toml"
    file.write_text(uncommented())
    settings = load(file)
    assert settings.values == load().values
    assert set(settings.origins) == {s.key for s in SETTINGS}
    sections = tomllib.loads(uncommented())
    assert [f"{section}.{name}" for section in sections for name in sections[section]] == [s.key for s in SETTINGS]


def test_the_default_file_explains_every_setting() -> None:
    blocks = default_file().split("\n\n")
    for s in SETTINGS:
        name = s.key.partition(".")[2]
        (block,) = [block for block in blocks if re.search(rf"^#{name} = ", block, re.MULTILINE) and s.help in block]
        assert s.allowed in block
        assert s.risk in block


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main(list(arguments))
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def live(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Commands without --guest see this machine's settings."""
    monkeypatch.setattr("mbecguard.face.run._ROOT", machine.root)
    return machine


def test_config_shows_values_and_origins(live: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    live.write('[policy]\nbpf = "drop"\nkprobe = "keep"\n')
    live.boot("mbecguard=audit")
    status, out, err = run(capsys, "config", "--show", "--set", "boot.settle=3")
    rows = {line[2:].split("  ")[0].strip(): line for line in out.splitlines()}
    assert (status, err, list(rows)) == (Exit.OK, "", [s.key for s in SETTINGS])
    assert re.fullmatch(rf'\* policy\.bpf +"drop" +{re.escape(str(live.file))}', rows["policy.bpf"])
    assert re.fullmatch(rf'  policy\.kprobe +"keep" +{re.escape(str(live.file))}', rows["policy.kprobe"])
    assert re.fullmatch(r'\* lock\.mode +"audit" +kernel command line', rows["lock.mode"])
    assert re.fullmatch(r"\* boot\.settle +3 +--set", rows["boot.settle"])
    assert re.fullmatch(r"  policy\.deny_unexplained +false +default", rows["policy.deny_unexplained"])
    assert len({line.rindex("  ") for line in out.splitlines()}) == 1, "the columns are aligned"
    assert run(capsys, "config", "--set", "boot.settle=3") == (status, out, err)


def test_config_as_json(live: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    live.write("[policy]\ndeny_unexplained = true\n")
    status, out, _ = run(capsys, "config", "--json")
    document = json.loads(out)
    found = {row["key"]: row for row in document["settings"]}
    assert (status, document["schema"], set(found)) == (Exit.OK, "mbecguard.config/1", {s.key for s in SETTINGS})
    assert found["policy.deny_unexplained"]["value"] is True
    assert found["policy.deny_unexplained"]["default"] is False
    assert found["policy.deny_unexplained"]["origin"] == str(live.file)
    assert found["boot.settle"]["value"] == 10
    assert all(row["help"] and row["values"] for row in found.values())


def test_changed_settings_stand_out_on_a_terminal() -> None:
    plain, colour = (list(Text(c).settings(load(None, ["policy.bpf=drop"]))) for c in (False, True))
    assert [line for line in colour if "\x1b" in line] == [f"\x1b[33m{plain[0]}\x1b[0m"]
    assert colour[1:] == plain[1:]


def test_the_default_file_comes_out_whatever_is_wrong(live: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    live.write("[")
    assert run(capsys, "config")[2].startswith(f"mbecguard: warning: {live.file} is not TOML")
    assert run(capsys, "config", "--default") == (Exit.OK, default_file(), "")
    file = live.root / "copy.toml"
    assert run(capsys, "config", "--default", "-o", str(file)) == (Exit.OK, "", "")
    assert file.read_text() == default_file()


def test_show_and_default_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "--show", "--default"]) == Exit.USAGE
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cmdline", "hint"),
    [
        ("mbecguard=off", "boot again without that word"),
        ("mbecguard=no", "mbecguard=off, mbecguard=audit, mbecguard=enforce"),
    ],
)
def test_a_lock_is_refused_on_a_guest_booted_with_off(
    live: Machine, capsys: pytest.CaptureFixture[str], cmdline: str, hint: str
) -> None:
    live.boot(cmdline)
    status, out, err = run(
        capsys, "lock", "--mode", "enforce", "--host", "simulator", "--state-dir", str(live.root / "s")
    )
    assert (status, out) == (Exit.REFUSED, "")
    assert "lock.mode is off (kernel command line" in err
    assert hint in err
    assert not (live.root / "s").exists(), "nothing was begun"


def test_a_lock_is_refused_by_the_setting(tmp_path: Path) -> None:
    folder = SCATTERED.write(tmp_path / "guest")
    places = Places(tmp_path / "state", tmp_path / "cache")

    def tell(event: Event, _facts: dict[str, str]) -> None:
        assert event is not Event.LOCK_STARTED

    session = Session(load(None, ["lock.mode=off"]), places, folder)
    with pytest.raises(UserError, match=r"lock\.mode is off \(--set\)") as caught:
        session.transaction(tell)
    assert caught.value.status is Exit.REFUSED
    assert "switched-off" in {f.id for f in session.check().findings}
    assert "switched-off" not in {f.id for f in Session(load(), places, folder).check().findings}
    assert caught.value.message.startswith("not locked: ")
    Session(load(), places, folder).transaction(lambda _event, _facts: None).run()
    with pytest.raises(UserError, match=r"^the guest stays sealed until it is reset: lock\.mode is off"):
        Session(load(None, ["lock.mode=off"]), places, folder).transaction(tell)


@pytest.mark.parametrize("command", ["plan", "check", "lock"])
def test_a_recorded_guest_is_the_same_everywhere(
    live: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    folder = SCATTERED.with_file("proc/cmdline", "mbecguard=off\n").write(tmp_path / "guest")

    def kept(name: str) -> tuple[int, object]:
        state = str(tmp_path / name)
        status, out, _ = run(
            capsys, command, "--json", "--guest", str(folder), "--state-dir", state, "--cache-dir", state
        )
        document = json.loads(out)
        plan = document.get("plan", document)
        return status, plan.get("digest", document.get("ok"))

    honest = kept("before")
    live.boot("mbecguard=off")
    live.write("[policy]\ndeny_unexplained = true\n[")
    assert kept("after") == honest
    assert honest[0] == Exit.OK
