# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line against guests that lie, lack files, or are garbage: a message and a hint, never a traceback.

And never a plan that differs in silence: the same frames are kept, or a blocker says why not, or there is no plan.
"""

from __future__ import annotations

import json
import lzma
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mbecguard import cli
from mbecguard.errors import Exit
from mbecguard.pages import PageRange, PageSet
from tests.guestmaker import (
    BLOCK_VA,
    EFI_PA,
    FTRACE,
    MODULE_ZONE,
    SCATTERED,
    SHARED_BLOCK,
    Code,
    Description,
    kernel_file,
    module_path,
)

GUESTS = {"scattered": SCATTERED, "block": SHARED_BLOCK}


@dataclass
class Shell:
    """Runs commands in one process, on a recording in `folder`."""

    folder: Path
    capture: pytest.CaptureFixture[str]

    def run(self, command: str, *options: str) -> tuple[int, str, str]:
        """Exit status, stdout, stderr. Whatever fails has to say why and what to do."""
        places = ["--guest", str(self.folder), "--state-dir", str(self.folder.parent / "state")]
        try:
            status = cli.main([command, *places, "--cache-dir", str(self.folder.parent / "cache"), *options])
        except SystemExit as exit_:
            status = int(str(exit_.code))
        out, err = self.capture.readouterr()
        if status == Exit.ERROR:
            assert err.startswith("mbecguard: ")
            assert "\n  hint: " in err
            assert not out
        return status, out, err

    def plan(self, *options: str) -> tuple[int, dict[str, Any], str]:
        """Exit status, the plan as JSON (empty if there is none), stderr."""
        status, out, err = self.run("plan", "--json", *options)
        plan = json.loads(out) if out else {}
        blocked = any(f["severity"] == "blocker" for f in plan.get("findings", ()))
        assert status == (Exit.ERROR if not plan else Exit.REFUSED if blocked else Exit.OK)
        assert all(f["text"] and f["hint"] for f in plan.get("findings", ()))
        return status, plan, err


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path / "guest", capsys)


def kept(plan: dict[str, Any]) -> PageSet:
    return PageSet(PageRange(k["start"], k["end"]) for k in plan["keep"])


def ids(plan: dict[str, Any], severity: str = "blocker") -> set[str]:
    return {f["id"] for f in plan["findings"] if f["severity"] == severity}


def corrupt(path: str, change: Callable[[bytes], bytes]) -> Callable[[Description], Description]:
    return lambda guest: guest.with_file(path, change(guest.content()[path]))


def put(path: str, content: str | bytes | None) -> Callable[[Description], Description]:
    return lambda guest: guest.with_file(path, content)


VIRTIO_SECTIONS = "sys/module/virtio_net/sections"

#: What is wrong, how it is made, and the one blocker (or the words of the error) it has to be called.
LIES: dict[str, tuple[Callable[[Description], Description], str]] = {
    "image of another build": (lambda g: replace(g, image_id=b"\x77" * 20), "kernel-build-id"),
    "running kernel of another build": (lambda g: replace(g, build_id=b"\x77" * 20), "kernel-build-id"),
    "image with more text": (lambda g: replace(g, image_bytes=g.image_bytes + 4096), "kernel-text-size"),
    "image with less text": (lambda g: replace(g, image_bytes=g.image_bytes - 4096), "kernel-text-size"),
    "image cut short": (corrupt("boot/vmlinuz", lambda d: d[:-200]), "kernel-image-unusable"),
    "image cut to nothing": (put("boot/vmlinuz", b""), "kernel-image-unusable"),
    "image with a flipped bit": (
        corrupt("boot/vmlinuz", lambda d: d[:-120] + bytes([d[-120] ^ 1]) + d[-119:]),
        "kernel-image-unusable",
    ),
    "image that is a module": (
        lambda g: g.with_file("boot/vmlinuz", lzma.decompress(g.modules[0].file())),
        "kernel-image-unusable",
    ),
    "image absent": (put("boot/vmlinuz", None), "kernel-image-unusable"),
    "no notes": (put("sys/kernel/notes", None), "kernel-build-id"),
    "garbage notes": (put("sys/kernel/notes", b"\xff" * 40), "kernel-build-id"),
    "module absent": (put(module_path("ext4"), None), "module-image-unusable"),
    "module cut short": (corrupt(module_path("ext4"), lambda d: d[:-30]), "module-image-unusable"),
    "module of another build": (lambda g: g.with_module("ext4", build_id=b"\x77" * 20), "module-build-id"),
    "module with other sections": (
        lambda g: g.with_module("virtio_net", sections=((".text", 0x2300, 16), (".text.unlikely", 0x321, 1))),
        "module-layout",
    ),
    "module going": (lambda g: g.with_module("ext4", state="Unloading"), "module-busy"),
    "module that hides its addresses": (put("sys/module/ext4/sections/.text", "0x0000000000000000\n"), "module-hidden"),
    "module at a user address": (put("sys/module/ext4/sections/.text", "0x400000\n"), "module-hidden"),
    "module section absent": (put(f"{VIRTIO_SECTIONS}/.exit.text", None), "module-layout"),
    "module section moved": (put(f"{VIRTIO_SECTIONS}/.exit.text", "0xffffffffc0400000"), "module-layout"),
    "module section negative": (put(f"{VIRTIO_SECTIONS}/.text", "-5"), "does not hold a number"),
    "module section garbage": (put(f"{VIRTIO_SECTIONS}/.text", b"\xff\0"), "does not hold a number"),
    "module that nobody has": (lambda g: g.with_file("proc/modules", "evil 1 0 - Live 0x0\n"), "module-image-unusable"),
    "no modules file": (put("proc/modules", None), "unexplained-mapping"),
    "garbage modules": (put("proc/modules", b"\0\xff\n"), "malformed line"),
    "modules that climb": (put("proc/modules", "../../../etc 1 0 - Live 0x0\n"), "malformed line"),
    "hidden symbols": (
        corrupt("proc/kallsyms", lambda d: b"".join(b"0" * 16 + x[16:] + b"\n" for x in d.splitlines())),
        "hidden",
    ),
    "no symbols": (put("proc/kallsyms", b""), "empty or absent"),
    "binary symbols": (put("proc/kallsyms", bytes(range(256)) * 9), "lack _text"),
    "symbols without an end": (corrupt("proc/kallsyms", lambda d: d.replace(b"_etext", b"_other")), "kernel-text-size"),
    "symbols of another boot": (lambda g: g.with_file("proc/kallsyms", moved_symbols(g)), "promised-not-executable"),
    "hidden iomem": (put("proc/iomem", "00000000-00000000 : System RAM\n" * 3), "hidden"),
    "iomem without the kernel": (put("proc/iomem", "00001000-0009ffff : System RAM\n"), "kernel-code-missing"),
    "iomem with the kernel elsewhere": (
        corrupt("proc/iomem", lambda d: d.replace(b"6a400000", b"6a300000")),
        "kernel-code-mismatch",
    ),
    "binary iomem": (put("proc/iomem", b"\xff\0" * 99), "kernel-code-missing"),
    "no iomem": (put("proc/iomem", None), "no /proc/iomem"),
    "impossible width": (put("proc/cpuinfo", "address sizes\t: 60 bits physical"), "60 physical address bits"),
    "narrow width": (put("proc/cpuinfo", "address sizes\t: 32 bits physical"), ""),
    "garbage execmap": (put("execmap.json", b"\xff\0{"), "execmap.json is not"),
    "execmap of strings": (
        put("execmap.json", '{"schema":"mbecguard.execmap/1","mappings":"x"}'),
        "execmap.json is not",
    ),
    "execmap of nothing": (
        put("execmap.json", '{"schema":"mbecguard.execmap/1","mappings":[]}'),
        "promised-not-executable",
    ),
    "execmap overlapping": (lambda g: g.with_code(Code(FTRACE, 0x5000), Code(FTRACE, 0x6000)), "overlap"),
    "execmap beyond memory": (lambda g: g.with_code(Code(FTRACE + 0x4000, 1 << 51)), "outside the guest"),
    "execmap negative": (lambda g: g.with_code(Code(FTRACE + 0x4000, -4096)), "execmap.json is not"),
    "execmap too large": (lambda g: g.with_code(Code(FTRACE, 0x5000, 1 << 60)), "execmap.json is not"),
    "garbage memory": (put("memory.json", "[1]"), "memory.json"),
    "memory without thunks": (put("memory.json", '{"schema":"mbecguard.memory/1"}'), "unexplained-mapping"),
    "garbage firmware map": (put("sys/firmware/efi/runtime-map/0/phys_addr", "x"), "does not hold a number"),
    "firmware map with a hole": (put("sys/firmware/efi/runtime-map/0/num_pages", None), "num_pages is missing"),
    "firmware map of data": (put("sys/firmware/efi/runtime-map/0/type", "0x6"), "unexplained-mapping"),
    "unknown code": (lambda g: g.with_code(Code(MODULE_ZONE + 0x900000, 0x9000)), "unexplained-mapping"),
    "kernel page remapped": (
        lambda g: replace(g, text_pa=g.text_pa + (1 << 21)).with_file(*iomem(g)),
        "kernel-code-mismatch",
    ),
    "release that climbs": (put("proc/sys/kernel/osrelease", "../../../etc"), "no kernel release"),
}


def moved_symbols(guest: Description) -> bytes:
    return replace(guest, text_va=guest.text_va + 0x10000000).content()["proc/kallsyms"]


def iomem(guest: Description) -> tuple[str, bytes]:
    return "proc/iomem", guest.content()["proc/iomem"]


@pytest.mark.parametrize("lie", LIES)
def test_every_lie_is_called_by_its_name(shell: Shell, lie: str) -> None:
    make, name = LIES[lie]
    make(SCATTERED).write(shell.folder)
    status, plan, err = shell.plan()
    assert status != Exit.OK or not name
    assert name in (ids(plan) if plan else err) or not name
    assert shell.run("check")[0] == (Exit.REFUSED if name else Exit.OK)


@pytest.mark.parametrize("name", GUESTS)
def test_the_honest_guest(shell: Shell, name: str) -> None:
    guest = GUESTS[name]
    guest.write(shell.folder)
    status, plan, err = shell.plan()
    assert (status, err) == (Exit.OK, "")
    assert plan["schema"] == "mbecguard.plan/1"
    assert not plan["findings"]
    frames = PageSet(PageRange(code.pa >> 12, (code.pa >> 12) + code.pages) for code in guest.mappings())
    assert kept(plan) == frames
    assert PageSet((*frames, *(PageRange(d["start"], d["end"]) for d in plan["deny"]))) == PageSet(
        [PageRange(0, 1 << 34)]
    )
    assert plan["totals"]["keep_pages"] == frames.pages
    assert shell.plan()[1] == plan  # now from the cache
    assert shell.run("check")[0] == Exit.OK


#: Removing or changing these leaves another guest, honestly described: only they say where code lies.
AUTHORITIES = ("execmap.json", "memory.json")


@pytest.mark.parametrize("name", GUESTS)
def test_each_file_removed_in_turn(shell: Shell, name: str) -> None:
    GUESTS[name].write(shell.folder)
    _, honest, _ = shell.plan()
    statuses = set()
    for path in sorted(p for p in shell.folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        path.unlink()
        status, plan, _ = shell.plan()
        statuses.add(status)
        if status == Exit.OK:
            assert kept(plan) == kept(honest), path
        path.write_bytes(data)
    assert statuses == {Exit.OK, Exit.ERROR, Exit.REFUSED}


def mangled(data: bytes, chance: random.Random) -> bytes:
    """`data` with one kind of damage."""
    at = chance.randrange(len(data) + 1)
    kind = chance.randrange(6)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + chance.randbytes(chance.randint(1, 8)) + data[at:]
    if kind == 2:
        return data[:at] + data[at + chance.randint(1, 40) :]
    if kind == 3:
        return data[:at] + chance.choice((b"\0", b"-", b"9" * 30, b"\n", b"\xff\xff", b"/", b"[", b'"')) + data[at:]
    changed = bytearray(data or b"\0")
    for _ in range(chance.randint(1, 3)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("name", GUESTS)
@pytest.mark.parametrize("seed", range(2))
def test_each_file_damaged_at_random(shell: Shell, name: str, seed: int) -> None:
    GUESTS[name].write(shell.folder)
    _, honest, _ = shell.plan()
    chance = random.Random(seed)
    paths = sorted(p for p in shell.folder.rglob("*") if p.is_file())
    weighty = [p for p in paths if p.parts[-2] in ("proc", "boot", "guest") or p.suffix == ".xz"]
    statuses = set()
    for path in (*paths, *weighty * 3):
        data = path.read_bytes()
        path.write_bytes(mangled(data, chance))
        status, plan, _ = shell.plan()
        statuses.add(status)
        if status == Exit.OK and path.name not in AUTHORITIES:
            assert kept(plan) == kept(honest), (path, path.read_bytes())
        path.write_bytes(data)
    assert statuses == {Exit.OK, Exit.ERROR, Exit.REFUSED}


def test_hex_strings_in_the_execmap(shell: Shell) -> None:
    SCATTERED.write(shell.folder)
    honest = shell.plan()[1]
    document = json.loads((shell.folder / "execmap.json").read_text())
    document["mappings"] = [r | {k: hex(r[k]) for k in ("va", "pa", "bytes")} for r in document["mappings"]]
    (shell.folder / "execmap.json").write_text(json.dumps(document))
    assert shell.plan()[1] == honest


def test_plan_to_a_file(shell: Shell, tmp_path: Path) -> None:
    SCATTERED.write(shell.folder)
    plan = shell.plan()[1]
    file = tmp_path / "plan.json"
    assert shell.run("plan", "--json", "-o", str(file)) == (Exit.OK, "", "")
    assert json.loads(file.read_text()) == plan
    assert shell.run("plan", "-o", str(file))[1] == ""
    assert plan["digest"] in file.read_text()
    assert cli.main(["plan", "--guest", str(shell.folder), "-o", str(tmp_path)]) == Exit.ERROR
    assert "cannot be written" in shell.capture.readouterr().err


def test_images_by_option(shell: Shell, tmp_path: Path) -> None:
    SCATTERED.write(shell.folder)
    plan = shell.plan()[1]
    (shell.folder / "boot/vmlinuz").rename(tmp_path / "k")
    (shell.folder / "lib/modules").rename(tmp_path / "m")
    assert {"kernel-image-unusable", "module-image-unusable"} <= ids(shell.plan()[1])
    assert shell.plan("--kernel-image", str(tmp_path / "k"), "--modules-dir", str(tmp_path / "m"))[1] == plan
    (tmp_path / "k").write_bytes(kernel_file(4096, b"\x55" * 20))
    assert "kernel-build-id" in ids(shell.plan("--kernel-image", str(tmp_path / "k"))[1])
    for option in ("--kernel-image", "--modules-dir"):
        assert shell.plan(option, str(tmp_path / "none"))[0] == Exit.ERROR


def test_deny_unexplained(shell: Shell) -> None:
    extra = [Code(MODULE_ZONE + 0x900000 + (i << 13), 0x20000000 + (i << 13)) for i in range(300)]
    SCATTERED.write(shell.folder)
    honest = shell.plan()[1]
    SCATTERED.with_code(*extra).write(shell.folder)
    status, refused, _ = shell.plan()
    assert status == Exit.REFUSED
    assert ids(refused) == {"unexplained-mapping", "unexplained-more"}
    status, plan, _ = shell.plan("--deny-unexplained")
    assert status == Exit.OK
    assert ids(plan, "warning") == {"unexplained-denied", "unexplained-denied-more"}
    assert kept(plan) == kept(refused) == kept(honest)


def test_an_audit_finds_code_that_nobody_explains(shell: Shell) -> None:
    SCATTERED.write(shell.folder)
    assert shell.run("lock")[0] == Exit.OK
    assert shell.run("audit")[0] == Exit.OK
    SCATTERED.with_code(Code(MODULE_ZONE + 0x900000, 0x20000000)).write(shell.folder)
    status, out, _ = shell.run("audit", "--json")
    assert (status, json.loads(out)["ok"]) == (Exit.DRIFT, False)
    assert [f["id"] for f in json.loads(out)["unexplained"]] == ["unexplained-mapping"]
    replace(SCATTERED, image_id=b"\x77" * 20).write(shell.folder)
    status, _, err = shell.run("audit")
    assert status == Exit.ERROR
    assert "cannot be compared with its seal" in err


def test_an_audit_plans_by_the_policy_of_the_seal(shell: Shell) -> None:
    SCATTERED.write(shell.folder)
    drops = ["--set", "policy.ftrace=drop", "--set", "policy.bpf=drop"]
    assert kept(shell.plan(*drops)[1]) != kept(shell.plan()[1])
    assert shell.run("lock", *drops)[0] == Exit.OK
    assert shell.run("audit")[0] == Exit.OK
    assert shell.run("lock")[0] == Exit.OK


@pytest.mark.parametrize(
    ("what", "pfn", "kind"),
    [
        (f"{FTRACE:#x}", 0x13000, "ftrace"),
        (f"{FTRACE + 0xFFF:#x}", 0x13000, "ftrace"),
        ("0x13000fff", 0x13000, "ftrace"),
        (str(0x13000), 0x13000, "ftrace"),
        ("_text", 0x6A400, "kernel-text"),
        ("0x6a5fffff", 0x6A5FF, "kernel-text"),
        (str(0x6A600), 0x6A600, None),
        (f"{EFI_PA:#x}", EFI_PA >> 12, "efi-runtime"),
        ("0", 0, None),
    ],
)
def test_explain(shell: Shell, what: str, pfn: int, kind: str | None) -> None:
    SCATTERED.write(shell.folder)
    status, out, err = shell.run("explain", "--json", what)
    answer = json.loads(out)
    assert (status, err, answer["pfn"]) == (Exit.OK, "", pfn)
    assert (answer["kept"]["kind"] if answer["kept"] else None) == kind
    text = shell.run("explain", what)[1]
    assert ("KEPT" if kind else "DENIED") in text


@pytest.mark.parametrize("what", [f"{BLOCK_VA:#x}", "nobody", "0xfffffffffffffffff", "\udcff", "", "0x"])
def test_explain_the_unknown(shell: Shell, what: str) -> None:
    SCATTERED.write(shell.folder)
    assert shell.run("explain", what)[0] == Exit.ERROR


def test_record(shell: Shell, tmp_path: Path) -> None:
    SCATTERED.write(shell.folder)
    plan = shell.plan()[1]
    assert shell.run("record", str(shell.folder))[0] == Exit.ERROR
    status, out, _ = shell.run("record", str(tmp_path / "copy"))
    assert (status, out.startswith("recorded ")) == (Exit.OK, True)
    assert Shell(tmp_path / "copy", shell.capture).plan()[1] == plan
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o700
    status, out, _ = shell.run("record", "--json", str(tmp_path / "again"))
    assert (status, "execmap.json" in json.loads(out)["files"]) == (Exit.OK, True)


def test_record_leaves_other_peoples_folders_alone(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may write there could plant links for root to follow."""
    SCATTERED.write(shell.folder)
    own, link = tmp_path / "own", tmp_path / "link"
    own.mkdir(mode=0o755)
    assert "made by somebody else" in shell.run("record", str(own))[2]
    own.chmod(0o700)
    link.symlink_to(own)
    assert "made by somebody else" in shell.run("record", str(link))[2]
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert "made by somebody else" in shell.run("record", str(own))[2]
    monkeypatch.undo()
    assert list(own.iterdir()) == []
    assert shell.run("record", str(own))[0] == Exit.OK


def test_report_as_json(shell: Shell) -> None:
    SCATTERED.write(shell.folder)
    assert shell.run("lock")[0] == Exit.OK
    assert all(json.loads(shell.run("report", *words)[1]) for words in (["--json"], ["--format", "json"]))


@pytest.mark.parametrize(
    "arguments",
    [[], ["bogus"], ["plan", "--bogus"], ["explain"], ["record"], ["plan", "--host", "x"], ["report", "--format", "x"]],
    ids=" ".join,
)
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == Exit.USAGE
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("override", ["policy.bfp=drop", "policy.bpf=x", "policy.tight=1", "x", "=", "\udcff=1"])
def test_wrong_settings(shell: Shell, override: str) -> None:
    SCATTERED.write(shell.folder)
    assert shell.plan("--set", override)[0] == Exit.ERROR


def test_no_guest_at_all(shell: Shell) -> None:
    assert shell.plan()[0] == Exit.ERROR
    assert shell.run("check", "--json")[0] == Exit.REFUSED


def test_the_program_itself(tmp_path: Path) -> None:
    folder = SCATTERED.write(tmp_path / "guest")
    command = [sys.executable, "-m", "mbecguard.cli", "plan", "--guest", str(folder), "--json"]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    command += ["--cache-dir", str(tmp_path / "cache"), "--state-dir", str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert (done.returncode, done.stderr) == (Exit.OK, "")
    assert json.loads(done.stdout)["keep"]


def test_check_names_a_host_that_refuses(shell: Shell) -> None:
    SCATTERED.write(shell.folder)
    status, out, _ = shell.run("check", "--json", "--set", "simulator.mode=off")
    found = {finding["id"]: finding for finding in json.loads(out)["findings"]}
    assert status == Exit.REFUSED
    assert "NO_HYPERCALL" in found["host-unusable"]["text"]
    assert found["host-unusable"]["hint"]
    status, out, _ = shell.run("check", "--json")
    assert status == Exit.OK
    assert "host-un" not in out


@pytest.mark.parametrize(("host", "asked"), [("audit", "enforce"), ("enforce", "audit")])
def test_check_and_lock_agree_about_the_mode(shell: Shell, host: str, asked: str) -> None:
    SCATTERED.write(shell.folder)
    words = ("--set", f"simulator.mode={host}", "--set", f"lock.mode={asked}")
    status, out, _ = shell.run("check", "--json", *words)
    assert (status, [f["id"] for f in json.loads(out)["findings"] if f["severity"] == "blocker"]) == (
        Exit.REFUSED,
        ["host-unfit"],
    )
    status, _, err = shell.run("lock", *words)
    assert (status, f"the host's mode is {host}" in err) == (Exit.REFUSED, True)
