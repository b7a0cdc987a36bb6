# SPDX-License-Identifier: GPL-2.0-or-later
"""A session that looks at a guest once, where a test asks for several answers about one moment."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mbecguard.lock.context import Seen
from mbecguard.plan.policy import Policy
from mbecguard.session import Places, Session
from mbecguard.settings.load import load
from mbecguard.values.errors import UserError


@dataclass(frozen=True)
class Looked(Session):
    """What the first look came to is true for ever, its failure as well."""

    @cached_property
    def _first(self) -> Seen | UserError:
        try:
            return Session.look(self)
        except UserError as error:
            return error

    def look(self, policy: Policy | None = None) -> Seen:
        """The first look, which is by the settings."""
        assert policy is None
        if isinstance(self._first, UserError):
            raise self._first
        return self._first


def looked(folder: Path, cache_dir: Path, *options: str) -> Looked:
    """Of a captured guest, on the simulator."""
    overrides = ["lock.host=simulator", *options]
    return Looked(load(overrides=overrides), Places(cache_dir / "state", cache_dir), folder)
