# SPDX-License-Identifier: GPL-2.0-or-later
"""One guest from power-on to the capture: QEMU, the verdict port, the pause, the oracle."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mbecguard.values.errors import die

from . import guests, oracle
from .archive import Kernel, kernel
from .cache import built, cache_dir, digest, say
from .guests import Guest
from .qmp import Qmp
from .roots import root_image

PAYLOAD = Path(__file__).parent / "payload"
PRODUCT = Path(__file__).parents[2] / "src" / "mbecguard"
OUT_BYTES = 128 << 20
BOOT_LIMIT = 1500.0  #: seconds; six minutes on a machine that does nothing else
FIRMWARE = Path("/usr/share/OVMF")
BASE_CMDLINE = "console=ttyS0,115200 root=/dev/vda rw panic=-1 systemd.show_status=0 quiet"


def boot(guest: Guest, *, product: bool) -> Path:
    """Folder with the full capture, `oracle.json`, `boot.json` and `console.log`, made once per set of inputs.

    The capture is `guest/` (plain copies) and, with `product`, `product/` (what the product itself recorded).
    """
    of = kernel(guest.suite)
    machine = root_image(of)
    payload = _payload(guest, product)
    key = digest(machine.name, payload, repr(guest), BASE_CMDLINE, Path(oracle.__file__).read_bytes())
    folder = cache_dir() / "boots" / f"{guest.name}-{key}"
    built(folder, lambda scratch: _boot(guest, of, machine, payload, scratch))
    for older in folder.parent.glob(f"{guest.name}-{'?' * len(key)}"):
        if older != folder:
            shutil.rmtree(older)
    return folder


def _payload(guest: Guest, product: bool) -> bytes:
    """The tar that the guest reads from its second disk."""
    settings = {
        "STEPS": guest.steps,
        "MODULES": guests.MODULES,
        "REMOVED_MODULES": guests.REMOVED_MODULES,
    }
    environment = "".join(f"{name}='{' '.join(words)}'\n" for name, words in settings.items())
    files = {"guest.env": environment.encode()}
    files |= {path.name: path.read_bytes() for path in sorted(PAYLOAD.iterdir()) if path.is_file()}
    if product:
        files |= {
            f"src/mbecguard/{path.relative_to(PRODUCT)}": path.read_bytes() for path in sorted(PRODUCT.rglob("*.py"))
        }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _boot(guest: Guest, of: Kernel, machine: Path, payload: bytes, into: Path) -> None:
    say(f"{guest.name}: booting {of.release} ({guest.cpu}{', UEFI' if guest.uefi else ''})")
    (into / "in.tar").write_bytes(payload)
    with (into / "out.tar").open("wb") as out:
        out.truncate(OUT_BYTES)
    started = time.monotonic()
    try:
        with _started(_qemu(guest, of, machine, into), into / "qemu.log") as monitor:
            _await_verdict(guest, monitor, into)
            monitor.command("stop")
            seconds = time.monotonic() - started
            _collect(guest, of, into, monitor.registers(), seconds)
    finally:
        _keep_logs(guest, into)
    for scratch in ("ram", "in.tar", "out.tar", "vars.fd"):
        (into / scratch).unlink(missing_ok=True)


@contextmanager
def _started(command: list[str], log: Path) -> Iterator[Qmp]:
    """A running QEMU, ended with the block."""
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0)
    try:
        yield Qmp(process)
    finally:
        process.kill()
        process.wait()


def _qemu(guest: Guest, of: Kernel, machine: Path, into: Path) -> list[str]:
    memory = f"memory-backend-file,id=ram,size={guest.memory_mib}M,mem-path={into / 'ram'},share=on"
    # Debian 12's QEMU 7.2 leaves junk in EFLAGS after cmpxchg16b: the slab allocator dies of it under load.
    words = f"-accel tcg,thread=multi -cpu {guest.cpu},-cx16 -smp 2 -m {guest.memory_mib} -nodefaults -no-user-config"
    words += " -display none -no-reboot -qmp stdio -M q35,memory-backend=ram"
    words += " -device virtio-net-pci -device virtio-rng-pci -device virtio-balloon-pci"
    command = ["qemu-system-x86_64", *words.split(), "-object", memory]
    command += ["-serial", f"file:{into / 'console.log'}", "-serial", f"file:{into / 'verdict.log'}"]
    command += ["-kernel", str(of.image), "-initrd", str(machine / "initrd")]
    command += ["-append", f"{BASE_CMDLINE} {guest.cmdline}".strip()]
    # The root disk is never written: TCG guests share one cached image.
    disks = [(machine / "root.img", ",snapshot=on"), (into / "in.tar", ",snapshot=on"), (into / "out.tar", "")]
    for path, options in disks:
        command += ["-drive", f"file={path},format=raw,if=virtio{options}"]
    if guest.uefi:
        shutil.copy(firmware("VARS"), into / "vars.fd")
        command += ["-drive", f"if=pflash,format=raw,readonly=on,file={firmware('CODE')}"]
        command += ["-drive", f"if=pflash,format=raw,file={into / 'vars.fd'}"]
    return command


def firmware(part: str, kind: str = "") -> Path:
    path = FIRMWARE / f"OVMF_{part}_4M{kind}.fd"
    if not path.is_file():
        die(f"no UEFI firmware {path.name}", hint="apt install ovmf")
    return path


def _await_verdict(guest: Guest, monitor: Qmp, into: Path) -> None:
    deadline = time.monotonic() + BOOT_LIMIT
    hint = f"console log: {_kept_log(guest)}"
    while time.monotonic() < deadline:
        text = _text(into / "verdict.log")
        if "CORPUS-RECORDED" in text:
            return
        if "CORPUS-FAILED" in text:
            die(f"{guest.name}: the guest gave up: {text.strip()}", hint=hint)
        if not monitor.alive() or "Kernel panic" in _text(into / "console.log"):
            die(f"{guest.name}: the guest died", hint=hint)
        time.sleep(0.5)
    die(f"{guest.name}: no verdict within {BOOT_LIMIT:.0f} s", hint=hint)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _kept_log(guest: Guest) -> Path:
    return cache_dir() / f"console-{guest.name}.log"


def _keep_logs(guest: Guest, into: Path) -> None:
    """A failed boot's folder goes away; what QEMU and the console said stays."""
    _kept_log(guest).write_text(_text(into / "qemu.log") + _text(into / "console.log"))


def _collect(guest: Guest, of: Kernel, into: Path, registers: dict[str, int], seconds: float) -> None:
    with tarfile.open(into / "out.tar") as archive:
        if hasattr(tarfile, "data_filter"):  # from 3.11.4; Debian 12 has 3.11.2
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(into)
    facts = json.loads((into / "facts.json").read_text())
    symbols = _symbols(into / "guest/proc/kallsyms")
    witness = oracle.survey(oracle.Ram(into / "ram"), registers, symbols, facts)
    (into / "oracle.json").write_text(json.dumps(witness))
    _check_or_write_execmap(guest, into, witness["tables"])
    about = {
        "name": guest.name,
        "release": of.release,
        "cpu": guest.cpu,
        "uefi": guest.uefi,
        "memory_mib": guest.memory_mib,
        "seconds": round(seconds),
    }
    (into / "boot.json").write_text(json.dumps(about, indent=1) + "\n")
    say(f"{guest.name}: recorded after {seconds:.0f} s")


def _check_or_write_execmap(guest: Guest, into: Path, tables: dict[str, list[dict[str, int]]]) -> None:
    """The product's own walk has to agree with the oracle; without one the capture gets the oracle's."""
    own = into / "product/execmap.json"
    if own.exists():
        wrong = oracle.differences(tables, json.loads(own.read_text())["mappings"])
        if wrong:
            va, pa = min(wrong)
            die(
                f"{guest.name}: {len(wrong)} pages differ between capture and oracle, first {va:#x} at {pa:#x}",
                hint="either a walk is wrong or the guest was not at rest",
            )
        say(f"{guest.name}: the product's page-table walk and the oracle agree")
    else:
        mappings = sorted((row for rows in tables.values() for row in rows), key=lambda row: row["va"])
        document = {"schema": "mbecguard.execmap/1", "mappings": mappings}
        (into / "guest/execmap.json").write_text(json.dumps(document))


def _symbols(kallsyms: Path) -> dict[str, int]:
    rows = (line.split() for line in kallsyms.read_text().splitlines())
    return {row[2]: int(row[0], 16) for row in rows if len(row) == 3}
