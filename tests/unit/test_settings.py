# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of settings, and the three places they come from."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mbecguard.plan.policy import DROPPABLE, FREE_SPACE, CodeKind, Policy, from_settings
from mbecguard.settings.declared import SETTINGS, Setting, toml_value
from mbecguard.settings.load import load
from mbecguard.switches import SWITCHES
from mbecguard.values.errors import UserError


def toml(folder: Path, text: str | bytes) -> Path:
    file = folder / "mbecguard.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def test_the_table_is_consistent() -> None:
    keys = [s.key for s in SETTINGS]
    assert len(set(keys)) == len(keys)
    for s in SETTINGS:
        assert s.key.count(".") == 1
        assert s.help
        assert s.allows(s.default)
        assert not s.choices or isinstance(s.default, str)
        assert s.risk or s.key.startswith("simulator."), "who changes it has to know what can go wrong"


def test_the_risks_that_others_tell_are_there() -> None:
    assert all(setting.risks["drop"] for setting in DROPPABLE.values())
    assert all(switch.risk for switch in SWITCHES)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.key)
def test_risks_are_those_of_its_values(setting: Setting) -> None:
    values = set(setting.choices) or {""}
    assert set(setting.risks) <= values
    assert all(text in setting.risk for value, text in setting.risks.items() if not value or value != setting.default)


def test_defaults() -> None:
    values = load()
    assert values.text("policy.bpf") == "keep"
    assert values.text("policy.kexec") == "drop"
    assert values.text("freeze.modules") == "auto"
    assert not values.enabled("policy.deny_unexplained")
    assert from_settings(values) == Policy(open=(CodeKind.TRAMPOLINE, *FREE_SPACE))


def test_file_then_overrides(tmp_path: Path) -> None:
    file = toml(tmp_path, '[policy]\nbpf = "drop"\ndeny_unexplained = true\n[lock]\nmode = "audit"\n')
    values = load(file, ["lock.mode=enforce", "policy.kexec=keep", "policy.kexec=drop", "freeze.ftrace=off"])
    assert values.text("policy.bpf") == "drop"
    assert values.enabled("policy.deny_unexplained")
    assert values.text("lock.mode") == "enforce"
    assert values.text("policy.kexec") == "drop"
    assert values.text("freeze.ftrace") == "off"
    assert load(toml(tmp_path, "")).values == load().values


@pytest.mark.parametrize("seconds", [0, 1, 600])
def test_numbers(tmp_path: Path, seconds: int) -> None:
    for values in (load(None, [f"boot.settle={seconds}"]), load(toml(tmp_path, f"[boot]\nsettle = {seconds}"))):
        assert values.number("boot.settle") == seconds


@pytest.mark.parametrize("text", ["", "true", "1", "/bin/sh -c 'exit 1' = é", 'a "b" \\c'])
def test_texts(tmp_path: Path, text: str) -> None:
    assert load(None, [f"boot.health_check={text}"]).text("boot.health_check") == text
    file = toml(tmp_path, f"[boot]\nhealth_check = {toml_value(text)}")
    assert load(file).text("boot.health_check") == text


@pytest.mark.parametrize("kind", DROPPABLE)
@pytest.mark.parametrize("choice", ["keep", "drop"])
def test_every_choice_reaches_the_policy(kind: CodeKind, choice: str) -> None:
    policy = from_settings(load(None, [f"{DROPPABLE[kind].key}={choice}"]))
    assert policy.keeps(kind) == (choice == "keep")
    assert set(policy.dropped) ^ set(Policy().dropped) <= {kind}


def test_flags_reach_the_policy() -> None:
    flags = ["policy.crash_kernel=keep", "policy.tight=on", "policy.deny_unexplained=true"]
    start = (CodeKind.TRAMPOLINE, CodeKind.BPF)
    found = from_settings(load(None, flags))
    assert found == Policy(keep_crash_kernel=True, tight=True, deny_unexplained=True, open=start)


@pytest.mark.parametrize(
    ("override", "message", "hint"),
    [
        ("policy.bfp=drop", "unknown setting 'policy.bfp'", "did you mean policy.bpf?"),
        ("tihgt=true", "unknown setting 'tihgt'", "did you mean policy.tight?"),
        ("=true", "unknown setting ''", "known settings: policy.bpf"),
        ("#=1", "unknown setting '#'", "known settings: policy.bpf"),
        ("policy.bpf", "is not KEY=VALUE", "for example"),
        ("policy.bpf=perhaps", "one of keep, drop, not 'perhaps'", "BPF JIT"),
        ("policy.bpf=true", "one of keep, drop, not 'true'", "BPF JIT"),
        ("lock.bpf=drop", "unknown setting 'lock.bpf'", "did you mean policy.bpf?"),
        ("boot.mode=audit", "unknown setting 'boot.mode'", "did you mean lock.mode or simulator.mode?"),
        ("boot.settle=-1", "a number from 0 to 600, not '-1'", "udev"),
        ("boot.settle=601", "a number from 0 to 600, not 601", "udev"),
        ("boot.settle=true", "a number from 0 to 600, not 'true'", "udev"),
        ("boot.settle=٣", "a number from 0 to 600, not '٣'", "udev"),
        ("boot.settle=" + "9" * 9999, "a number from 0 to 600", "udev"),
        ("boot.health_check=a\nb", "a text in one line", "command line"),
        ("boot.health_check=\udcff", "a text in one line", "command line"),
        ("policy.tight=yes", "one of auto, on, off, not 'yes'", "free space"),
        ("policy.deny_unexplained=yes", "has to be true or false, not 'yes'", "nothing explains"),
        ("policy.bpf=drop=drop", "not 'drop=drop'", "BPF JIT"),
    ],
)
def test_wrong_overrides(override: str, message: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        load(None, [override])
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('bpf = "drop"', "bpf is outside any section"),
        ('[policy]\nbfp = "drop"', "unknown setting 'policy.bfp'"),
        ('[polic]\nbpf = "drop"', "unknown setting 'polic.bpf'"),
        ("[policy]\nbpf = 1", "one of keep, drop, not 1"),
        ("[policy]\ntight = true", "one of auto, on, off, not True"),
        ("[policy]\ndeny_unexplained = 1", "has to be true or false, not 1"),
        ("[policy]\nbpf = [1]", "one of keep, drop, not"),
        ("[policy.bpf]\nx = 1", "one of keep, drop, not"),
        ("[[policy]]\nx = 1", "policy is outside any section"),
        ("[boot]\nsettle = true", "a number from 0 to 600, not True"),
        ("[boot]\nsettle = 1.0", "a number from 0 to 600, not 1.0"),
        ("[boot]\nhealth_check = 1", "a text in one line, not 1"),
        ("[polici]", "unknown section 'polici'"),
        ("[policy", "is not TOML"),
        (b"#" * (1 << 20) + b"\n", "is larger than 1 MiB"),
        (b"\xff\xfe", "is not TOML"),
        ("a = " + "[" * 20000, "is not TOML"),
        ("[policy]\nbpf = " + "9" * 5000, "is not TOML"),
    ],
    ids=range(18),
)
def test_wrong_files(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(toml(tmp_path, text))
    assert message in caught.value.message
    assert "mbecguard.toml" in caught.value.message
    assert caught.value.hint


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(UserError, match="cannot be read") as caught:
            load(path)
        assert caught.value.hint


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.one_of(st.binary(max_size=40), st.text(alphabet='[]=\n."policybf10ae ', max_size=40).map(str.encode)))
def test_garbage_files(tmp_path: Path, data: bytes) -> None:
    with suppress(UserError):
        assert load(toml(tmp_path, data)).values.keys() == load().values.keys()
