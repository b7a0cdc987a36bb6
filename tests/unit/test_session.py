# SPDX-License-Identifier: GPL-2.0-or-later
"""What the faces share: where evidence is kept, and what stops a lock."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbecguard import settings
from mbecguard.errors import UserError
from mbecguard.session import Places, Session
from tests.plans import make_record


def session(folder: Path, host: str, guest: Path | None = None) -> Session:
    return Session(settings.load(overrides=[f"lock.host={host}"]), Places(folder / "state", folder / "cache"), guest)


@pytest.mark.parametrize(("host", "guest"), [("simulator", None), ("auto", Path("recorded"))])
def test_a_simulated_lock_is_no_evidence_of_a_real_one(tmp_path: Path, host: str, guest: Path | None) -> None:
    simulated, real = session(tmp_path, host, guest), session(tmp_path, "shim")
    simulated.store.append(make_record(boot_id="this"))
    assert simulated.store.last("this")
    assert real.store.records() == ()
    assert real.store.folder == session(tmp_path, "auto").store.folder == tmp_path / "state"


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(UserError, match="cannot be written") as caught:
        _ = session(tmp_path, "simulator").host
    assert caught.value.hint
