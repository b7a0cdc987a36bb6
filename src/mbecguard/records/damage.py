# SPDX-License-Identifier: GPL-2.0-or-later
"""What was kept and is not there any more as it was written."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

from mbecguard.values.clock import now
from mbecguard.values.errors import UserError, die
from mbecguard.values.files import CHANGED, sync_folder

ASIDE = "damaged"  #: the folder for what is kept aside
GONE = "it is gone"


class DamagedError(UserError):
    """A file of the state folder cannot be believed."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}", "the next `mbecguard lock` keeps it aside; compare it with the journal")
        self.path = path
        self.problem = problem


class ForeignError(DamagedError):
    """Others could have written what is in a folder."""

    def __init__(self, path: Path, found: os.stat_result) -> None:
        super().__init__(path, f"others may write there (user {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o})")
        self.hint = f"find out who did; then, if you trust what is in it: chown -R {os.geteuid()} and chmod 700 it"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever is wrong with a file raises DamagedError; dies where it may not be read at all."""
    try:
        yield
    except PermissionError as error:
        die(f"{path} cannot be read: {error.strerror}", "run as root, or give --state-dir")
    except FileNotFoundError as error:
        raise DamagedError(path, GONE) from error
    except OSError as error:
        raise DamagedError(path, str(error.strerror)) from error
    except (ValueError, RecursionError) as error:
        raise DamagedError(path, str(error) or CHANGED) from error


def keep_aside(state: Path, path: Path) -> None:
    """Rename what is damaged, if it is there, into a folder of the state folder, which is made. Raises OSError."""
    folder = next(f for f in _names(state / ASIDE) if f.is_dir() or not os.path.lexists(f))
    folder.mkdir(mode=0o700, exist_ok=True)
    culprit = path if path.parent.is_dir() else path.parent  # a file in the place of a folder
    if os.path.lexists(culprit):
        culprit.rename(next(f for f in _names(folder / culprit.name) if not os.path.lexists(f)))
    sync_folder(folder)


def _names(path: Path) -> Iterator[Path]:
    yield path
    yield from (path.with_name(f"{path.name}.{number}") for number in count(1))


class Loss(NamedTuple):
    """Damage that was found in the state folder: of the records `first` to `last`, or of what has no number (0)."""

    first: int
    last: int
    what: str  #: the file and what was wrong with it
    time: str  #: of its discovery; UTC, ISO 8601

    @classmethod
    def of(cls, number: int, error: DamagedError) -> Loss:
        """As it is found now."""
        return cls(number, number, f"{error.path.name}: {error.problem}", now())

    def __str__(self) -> str:
        return self.what
