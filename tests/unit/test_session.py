# SPDX-License-Identifier: GPL-2.0-or-later
"""What the faces share: where evidence is kept, and what stops a lock."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbecguard.session import Places, Session, require_root
from mbecguard.settings.load import load as load_settings
from mbecguard.values.errors import UserError
from tests.guestmaker import SCATTERED
from tests.plans import keep, kept, make_record


def session(folder: Path, host: str, guest: Path | None = None) -> Session:
    return Session(load_settings(overrides=[f"lock.host={host}"]), Places(folder / "state", folder / "cache"), guest)


@pytest.mark.parametrize(("host", "guest"), [("simulator", None), ("auto", Path("recorded"))])
def test_a_simulated_lock_is_no_evidence_of_a_real_one(tmp_path: Path, host: str, guest: Path | None) -> None:
    simulated, real = session(tmp_path, host, guest), session(tmp_path, "shim")
    keep(simulated.store, make_record(boot_id="this"))
    assert simulated.store.last("this")
    assert kept(real.store) == []
    assert real.store.folder == session(tmp_path, "auto").store.folder == tmp_path / "state"


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(UserError, match=r"/state/simulated/simulator\.json cannot be read: Not a directory") as caught:
        _ = session(tmp_path, "simulator").host
    assert caught.value.hint
    with pytest.raises(UserError, match="/state/simulated cannot be written: Not a directory") as caught:
        keep(session(tmp_path, "simulator").store, make_record(boot_id="this"))
    assert caught.value.hint


@pytest.mark.parametrize("look", ["status", "host", "store", "boot_file"])
def test_looking_makes_no_folder(tmp_path: Path, look: str) -> None:
    guest = SCATTERED.write(tmp_path / "guest")
    seen = getattr(session(tmp_path, "simulator", guest), look)
    assert seen() if look == "status" else seen
    assert [path.name for path in tmp_path.iterdir()] == ["guest"]


@pytest.mark.parametrize("user", [0, 4711])
def test_the_state_of_the_running_guest_is_where_it_always_is(monkeypatch: pytest.MonkeyPatch, user: int) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    monkeypatch.setenv("XDG_STATE_HOME", "/elsewhere")
    assert Places.live() == Places(Path("/var/lib/mbecguard"), Path("/var/cache/mbecguard"))


@pytest.mark.parametrize(
    ("given", "state"),
    [
        (None, "/home/me/.local/state"),
        ("", "/home/me/.local/state"),
        ("state", "/home/me/.local/state"),
        ("./state", "/home/me/.local/state"),
        ("/s", "/s"),
    ],
)
def test_captured_guests_have_the_folders_of_the_xdg_specification(
    monkeypatch: pytest.MonkeyPatch, given: str | None, state: str
) -> None:
    """What is not an absolute path counts as not set, says the specification."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    monkeypatch.setenv("XDG_STATE_HOME", given) if given is not None else monkeypatch.delenv("XDG_STATE_HOME", False)
    assert Places.captured() == Places(Path(state) / "mbecguard", Path("/c/mbecguard"))


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(UserError, match="XDG_STATE_HOME is not set") as caught:
        Places.captured()
    assert "--state-dir" in caught.value.hint


def test_only_root_looks_at_the_running_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    require_root()
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    with pytest.raises(UserError, match="only root") as caught:
        require_root()
    assert "run as root" in caught.value.hint


@pytest.mark.parametrize(
    ("kind", "host", "told"), [("tmpfs", "shim", True), ("ext4", "shim", False), ("tmpfs", "simulator", False)]
)
def test_check_tells_of_a_state_folder_in_memory(tmp_path: Path, kind: str, host: str, told: bool) -> None:
    found = session(tmp_path, host, SCATTERED.write(tmp_path / "guest"))
    (tmp_path / "guest/proc/self").mkdir()
    (tmp_path / "guest/proc/self/mountinfo").write_text(f"22 1 0:30 / / rw - {kind} /dev/root rw\n")
    found.__dict__["guest"] = found.guest._replace(live=True)
    assert ("state-volatile" in {one.id for one in found.check().findings}) is told
