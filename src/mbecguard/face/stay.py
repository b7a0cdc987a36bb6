# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon from its options. What is imported here stays in its memory; what a child needs, `_look` imports."""

from __future__ import annotations

import argparse
from functools import cache, partial
from typing import TYPE_CHECKING

from mbecguard.service.daemon import Daemon, Seen
from mbecguard.values.errors import Exit

if TYPE_CHECKING:
    from mbecguard.device import ShimDevice


def stay(options: argparse.Namespace) -> Exit:
    """Watch the guest until told to stop."""
    Daemon(partial(_look, options), _announce, _ask).run()
    return Exit.OK


def _look(options: argparse.Namespace, memory: str, reload: bool) -> Seen:
    from mbecguard.face.run import session_of, settings_of
    from mbecguard.service.watch import look

    return look(lambda: session_of(options), memory, (lambda: settings_of(options).clean()) if reload else None)


def _announce(event: str, facts: dict[str, str], real: bool) -> None:
    from mbecguard.face.tell import tell
    from mbecguard.values.events import Event

    tell(Event[event], facts, journal=real)


def _ask(word: int) -> int:
    return _device().query(word)


@cache
def _device() -> ShimDevice:
    from mbecguard.device import open_device

    return open_device()
