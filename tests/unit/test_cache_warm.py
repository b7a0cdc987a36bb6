# SPDX-License-Identifier: GPL-2.0-or-later
"""`mbecguard cache warm`: what a package's trigger makes, and what a first boot then finds."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.guest.captured import captured_guest
from mbecguard.guest.survey import survey
from mbecguard.guest.warm import WarmKernel, warm
from mbecguard.image import cache as cache_module
from mbecguard.image import stamp as stamp_module
from mbecguard.image.cache import SectionCache, remembered
from mbecguard.plan.planner import attribute
from mbecguard.plan.policy import Policy
from tests.guestmaker import RELEASE, SCATTERED, VIRTIO, Description, module_path

OTHER = "6.13.0-toy"
ID, OTHER_ID = SCATTERED.build_id.hex(), "ab" * 20


def install(root: Path, guest: Description, release: str = RELEASE) -> None:
    """The files of a kernel as a package installs them."""
    made = guest.write(root.with_name("made"))
    (root / "boot").mkdir(parents=True, exist_ok=True)
    shutil.copy(made / "boot/vmlinuz", root / f"boot/vmlinuz-{release}")
    shutil.copytree(made / "lib/modules" / RELEASE, root / "lib/modules" / release)
    shutil.rmtree(made)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with two kernels, whose files nobody has changed for long enough."""
    install(tmp_path / "root", SCATTERED)
    install(tmp_path / "root", replace(SCATTERED, image_id=bytes.fromhex(OTHER_ID)), OTHER)
    monkeypatch.setattr(stamp_module, "SETTLED", 10**7)
    time.sleep(0.03)
    return tmp_path / "root"


def remove(root: Path, release: str) -> None:
    (root / f"boot/vmlinuz-{release}").unlink()
    shutil.rmtree(root / "lib/modules" / release)


def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are parsed from now on."""
    seen: list[str] = []
    for name in ("_KERNEL", "_MODULE"):
        kind = getattr(cache_module, name)

        def read(data: bytes, file: str, kind: object = kind) -> object:
            seen.append(file)
            return kind.read(data, file)  # type: ignore[attr-defined]

        monkeypatch.setattr(cache_module, name, replace(kind, read=read))
    return seen


def test_the_first_boot_of_a_new_kernel_parses_nothing(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = warm(tmp_path / "cache", root)
    assert found.kernels == (WarmKernel(RELEASE, ID, 3), WarmKernel(OTHER, OTHER_ID, 3))
    guest = captured_guest(SCATTERED.write(tmp_path / "g"))._replace(
        kernel_images=(root / f"boot/vmlinuz-{RELEASE}",),
        modules_dirs=(root / "lib/modules" / RELEASE,),
    )
    cold, _ = survey(guest, None)
    files = parsed(monkeypatch)
    assert survey(guest, tmp_path / "cache")[0] == cold
    assert files == []
    assert warm(tmp_path / "cache", root) == found
    assert files == []


def test_what_is_gone_is_forgotten(tmp_path: Path, root: Path) -> None:
    warm(tmp_path / "cache", root)
    remove(root, OTHER)
    (root / "lib/modules" / RELEASE / "kernel/drivers/ext4.ko.xz").unlink()
    found = warm(tmp_path / "cache", root)
    assert (found.kernels, found.dropped) == ((WarmKernel(RELEASE, ID, 2),), (OTHER_ID,))
    assert remembered(tmp_path / "cache") == {ID}
    assert SectionCache(tmp_path / "cache", ID).module_files("ext4", "22" * 20) == []


def test_the_running_kernel_is_kept_though_its_package_is_gone(tmp_path: Path, root: Path) -> None:
    warm(tmp_path / "cache", root)
    notes = SCATTERED.write(tmp_path / "g") / "sys/kernel/notes"
    (root / "sys/kernel").mkdir(parents=True)
    shutil.copy(notes, root / "sys/kernel/notes")
    remove(root, RELEASE)
    assert warm(tmp_path / "cache", root).dropped == ()
    assert remembered(tmp_path / "cache") == {ID, OTHER_ID}


def test_a_rebuilt_module_is_read_again(tmp_path: Path, root: Path) -> None:
    warm(tmp_path / "cache", root)
    file = root / module_path("virtio_net")
    file.write_bytes(replace(VIRTIO, build_id=b"\x77" * 20).file())
    time.sleep(0.03)
    warm(tmp_path / "cache", root)
    cache = SectionCache(tmp_path / "cache", ID)
    assert cache.module_files("virtio_net", "77" * 20) == [file]
    assert cache.module_files("virtio_net", VIRTIO.build_id.hex()) == []


def test_what_cannot_be_read_is_left_out(tmp_path: Path, root: Path) -> None:
    (root / "lib/modules" / RELEASE / "broken.ko").write_bytes(b"no module")
    (root / f"boot/vmlinuz-{OTHER}").write_bytes(b"no kernel")
    (root / "lib/modules/none").mkdir()
    assert warm(tmp_path / "cache", root).kernels == (WarmKernel(RELEASE, ID, 3),)
    assert warm(tmp_path / "cache", tmp_path / "nowhere").kernels == ()


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_may_write_to_is_not_believed(
    mode: int, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They could put back an older cache of this user's own."""
    warm(tmp_path / "cache", root)
    file = root / module_path("ext4")
    files = parsed(monkeypatch)
    (tmp_path / "cache").chmod(mode)
    SectionCache(tmp_path / "cache", ID).module_file(file, Path.read_bytes)
    assert files == [file.name]


def test_an_entry_of_another_layout_does_not_pass(tmp_path: Path) -> None:
    """Whatever a cache says of a build, it has to fit the addresses that the kernel tells."""
    guest = captured_guest(SCATTERED.write(tmp_path / "g"))
    facts, symbols = survey(guest, tmp_path / "cache")
    assert not [f for f in attribute(facts, Policy(), symbols.nearest).plan.findings if f.id == "module-layout"]
    file = tmp_path / "cache" / f"{ID}.json"
    content = json.loads(file.read_bytes().split(b"\n")[1])
    entry = next(entry for key, entry in content["entries"].items() if key.startswith("module:virtio_net:"))
    entry["sections"][0]["bytes"] += 0x1000
    file.write_bytes(cache_module._packed(content["entries"], content["files"]))
    facts, symbols = survey(guest, tmp_path / "cache")
    found = attribute(facts, Policy(), symbols.nearest).plan.findings
    assert [f.id for f in found if f.id == "module-layout"], "the slow path would have read the true size"


def test_a_cache_of_another_build_is_not_used(tmp_path: Path) -> None:
    guest = captured_guest(SCATTERED.write(tmp_path / "g"))
    fresh, _ = survey(guest, tmp_path / "cache")
    other = replace(SCATTERED, build_id=b"\x99" * 20, image_id=b"\x99" * 20)
    (tmp_path / "cache" / f"{ID}.json").rename(tmp_path / "cache" / f"{'99' * 20}.json")
    found, _ = survey(captured_guest(other.write(tmp_path / "other")), tmp_path / "cache")
    assert found.kernel.image
    assert fresh.kernel.image
    assert found.kernel.image.build_id == "99" * 20 != fresh.kernel.image.build_id
