# SPDX-License-Identifier: GPL-2.0-or-later
"""The settings as an answer: what `mbecguard config` shows."""

from __future__ import annotations

from dataclasses import dataclass

from mbecguard.settings.declared import SETTINGS, Value
from mbecguard.settings.load import Problem, Settings

SCHEMA, DEFAULT_SCHEMA = "mbecguard.config/1", "mbecguard.config-default/1"


@dataclass(frozen=True, slots=True)
class SettingNow:
    """One setting, its value now and who set it."""

    key: str
    value: Value
    origin: str
    default: Value
    values: str  #: which are allowed, for people
    help: str
    risk: str


@dataclass(frozen=True, slots=True)
class Described:
    """All settings."""

    settings: tuple[SettingNow, ...]
    problems: tuple[Problem, ...]
    schema: str = SCHEMA


@dataclass(frozen=True, slots=True)
class DefaultFile:
    """The default settings as a file, in TOML."""

    toml: str
    schema: str = DEFAULT_SCHEMA


def described(settings: Settings) -> Described:
    """The whole table, and what is wrong with the files."""
    rows = (
        SettingNow(s.key, settings.values[s.key], settings.origin(s.key), s.default, s.allowed, s.help, s.risk)
        for s in SETTINGS
    )
    return Described(tuple(rows), settings.problems)
