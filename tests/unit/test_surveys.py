# SPDX-License-Identifier: GPL-2.0-or-later
"""Looking again: what has changed is seen, whatever is remembered of the look before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.guest.captured import captured_guest
from mbecguard.guest.survey import Surveyor, survey
from mbecguard.image import stamp as stamp_module
from mbecguard.plan.planner import Planner, attribute
from mbecguard.plan.policy import Policy
from tests.guestmaker import MODULE_ZONE, RELEASE, SCATTERED, VIRTIO, Code, Description, Mod, module_path

OTHER_BUILD = b"\x77" * 20
NEWCOMER = Mod("newcomer", MODULE_ZONE + 0x700000, (0x15000,), ((".text", 0x100, 16),), b"\x44" * 20)
GREW = tuple((name, size + 0x1000, align) for name, size, align in VIRTIO.sections)

CHANGES: dict[str, Description] = {
    "a module came": replace(SCATTERED, modules=(*SCATTERED.modules, NEWCOMER)),
    "a module moved": SCATTERED.with_module("virtio_net", va=VIRTIO.va + 0x300000),
    "a module of another build": SCATTERED.with_module("virtio_net", build_id=OTHER_BUILD),
    "a module is going": SCATTERED.with_module("virtio_net", state="Unloading"),
    "a module has other sections": SCATTERED.with_module("virtio_net", sections=GREW),
    "a page became executable": SCATTERED.with_code(Code(MODULE_ZONE + 0x900000, 0x5550000)),
    "a kexec image": replace(SCATTERED, kexec_loaded=True),
    "a crash kernel": replace(SCATTERED, crash_kernel=(0x73000000, 0x7B000000)),
    "an area": replace(
        SCATTERED,
        areas="0xffffffffc0520000-0xffffffffc0522000    8192 apply_retpolines+0x39f/0x640 pages=1 vmalloc\n",
    ),
}


def rewrite(folder: Path, guest: Description) -> None:
    """Change what differs, and nothing else."""
    wanted = guest.content()
    for file in [path for path in folder.rglob("*") if path.is_file()]:
        if str(file.relative_to(folder)) not in wanted:
            file.unlink()
    for path, data in wanted.items():
        file = folder / path
        if not file.is_file() or file.read_bytes() != data:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)


@pytest.fixture
def surveyor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Surveyor:
    """One that has looked twice, and has stamps of all files."""
    guest = captured_guest(SCATTERED.write(tmp_path / "g"))
    monkeypatch.setattr(stamp_module, "SETTLED", -(10**12))
    found = Surveyor(guest, tmp_path / "cache")
    assert found.look()[0] == found.look()[0]
    return found


def test_nothing_changed(surveyor: Surveyor) -> None:
    (first, symbols), (second, others) = surveyor.look(), surveyor.look()
    planner = Planner()
    plan = planner.attribute(first, Policy(), symbols.nearest)
    assert planner.attribute(second, Policy(), others.nearest) is plan
    assert planner.attribute(second, Policy()._replace(deny_unexplained=True), others.nearest) is not plan
    assert planner.attribute(second, Policy(), others.nearest, {"freeze.ftrace"}) is not plan


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_between_two_looks(change: str, tmp_path: Path, surveyor: Surveyor) -> None:
    planner, (before, symbols) = Planner(), surveyor.look()
    planner.attribute(before, Policy(), symbols.nearest)
    rewrite(tmp_path / "g", CHANGES[change])
    (after, symbols), (fresh, _) = surveyor.look(), survey(captured_guest(tmp_path / "g"), None)
    assert after == fresh != before
    found = planner.attribute(after, Policy(), symbols.nearest)
    assert found == attribute(fresh, Policy(), symbols.nearest)


def test_symbols_that_changed(tmp_path: Path, surveyor: Surveyor) -> None:
    before, symbols = surveyor.look()
    file = tmp_path / "g/proc/kallsyms"
    text = file.read_text().replace("\t[virtio_net]", "\t[hidden]")
    file.write_text(text)
    after, others = surveyor.look()
    assert others is not symbols
    assert "hidden" in after.tags
    assert "hidden" not in before.tags


def test_a_module_of_a_remembered_build_that_was_replaced(tmp_path: Path, surveyor: Surveyor) -> None:
    """The file that was read is another build now, and the one that fits lies elsewhere."""
    path, updates = tmp_path / "g" / module_path("virtio_net"), tmp_path / "g/lib/modules" / RELEASE / "updates"
    data = path.read_bytes()
    path.write_bytes(replace(VIRTIO, build_id=OTHER_BUILD).file())
    module = next(m for m in surveyor.look()[0].modules if m.name == "virtio_net")
    assert module.image
    assert module.image.build_id == OTHER_BUILD.hex(), "no file fits, so the first of its name"
    updates.mkdir()
    (updates / path.name).write_bytes(data)
    module = next(m for m in surveyor.look()[0].modules if m.name == "virtio_net")
    assert module.image
    assert module.image.build_id == VIRTIO.build_id.hex()


def test_a_remembered_file_outside_the_folders_is_not_looked_at(tmp_path: Path, surveyor: Surveyor) -> None:
    guest = captured_guest(tmp_path / "g")
    surveyor.look()
    elsewhere = tmp_path / "empty"
    elsewhere.mkdir()
    found, _ = survey(guest._replace(modules_dirs=(elsewhere,)), tmp_path / "cache")
    assert all(module.image is None for module in found.modules)
