# SPDX-License-Identifier: GPL-2.0-or-later
"""How the agent ends: the exit statuses, and the one exception for what a person can put right.

Anything else that escapes is a bug and shows a traceback.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NoReturn


class Exit(IntEnum):
    """Exit statuses of the command line; a contract with scripts and units."""

    meaning: str

    OK = 0, "yes, locked, in order"
    ERROR = 1, "operational error: something cannot be read, written or understood"
    USAGE = 2, "wrong command line"  # argparse's own
    REFUSED = 3, "refused: by a blocker, the policy, the host, or an unconfirmed boot"
    NOT_ENFORCED = 4, "not enforced, degraded: denied code still ran, or what was locked does not hold"
    DRIFT = 5, "drift: audit found executable pages that the sealed plan does not know; fleet: not everything passes"
    OPEN = 6, "open: nothing is locked"
    NOTHING = 7, "nothing to report: no lock was tried in this boot, or no boot was watched"
    AUDIT_MODE = 8, "audit mode: denied code is logged, nothing is stopped"

    def __new__(cls, number: int, meaning: str = "") -> Exit:
        """The meaning belongs to the status; manuals are made from it."""
        status = int.__new__(cls, number)
        status._value_, status.meaning = number, meaning
        return status


class UserError(Exception):
    """Something a person can put right: what happened, what to do, how to exit."""

    def __init__(self, message: str, hint: str = "", status: Exit = Exit.ERROR) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.status = status


def die(message: str, hint: str = "", status: Exit = Exit.ERROR) -> NoReturn:
    """Raise `UserError`; the command line's one handler prints it to stderr and exits with `status`."""
    raise UserError(message, hint, status)


def plainly(error: Exception) -> str:
    """What went wrong, as a person says it: of the system's errors the words, without number and path."""
    return str((isinstance(error, OSError) and error.strerror) or error)
