# SPDX-License-Identifier: GPL-2.0-or-later
"""Header, wire.py and document of the host ABI tell the same numbers."""

from __future__ import annotations

import re
from pathlib import Path

from mbecguard.host import wire
from mbecguard.host.base import HostErrno, HostMode, HostStatus, Permission
from mbecguard.host.simulated import hypervisor
from mbecguard.host.simulated.eptmodel import ENFORCED
from mbecguard.host.simulated.hypervisor import Options
from mbecguard.host.wire import Limits

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "kvm-host/src"
DOCUMENT = (ROOT / "docs/HOST-ABI.md").read_text()


def defines() -> dict[str, int]:
    """The numbers that the header defines."""
    text = (SOURCES / "mbecg_abi.h").read_text()
    found = re.findall(r"^#define MBECG_(\w+)\s+(0x[0-9a-f]+|\d+)(?:ULL)?\b", text, re.MULTILINE)
    return {name: int(value, 0) for name, value in found}


def row(name: str) -> list[str]:
    """The cells after the first of the document's one table row of that name."""
    (cells,) = re.findall(rf"^\| `?{re.escape(name)}`? \|(.*)\|$", DOCUMENT, re.MULTILINE)
    return [cell.strip() for cell in cells.split("|")]


def test_numbers_of_the_calls() -> None:
    header = defines()
    assert header["HC_LOCK_CR_UPDATE"] == wire.LOCK_CR_UPDATE == int(row("LOCK_CR_UPDATE")[0])
    assert header["HC_PROTECT_MEMORY"] == wire.PROTECT_MEMORY == int(row("PROTECT_MEMORY")[0])
    assert header["QUERY_MAGIC"] == wire.QUERY_MAGIC == int(row("QUERY_MAGIC")[0], 16)
    assert header["ABI_VERSION"] == wire.ABI_VERSION == int(row("ABI_VERSION")[0])
    assert f"version {wire.ABI_VERSION}\n" in DOCUMENT


def test_permissions() -> None:
    header = defines()
    for permission in Permission:
        name = str(permission.name)
        assert header[name] == permission == int(row(name)[0])
        assert row(name)[1].startswith("enforced") == (permission in ENFORCED)
    assert "#define MBECG_ENFORCED\t\t(MBECG_EXEC | MBECG_IMMUTABLE)" in (SOURCES / "mbecg_abi.h").read_text()
    assert f"here {int(ENFORCED)}," in row("0-3")[0]


def test_errors() -> None:
    assert {error.name: int(row(error.name)[0]) for error in HostErrno} == {e.name: e.value for e in HostErrno}


def test_limits() -> None:
    header, limits = defines(), Limits()
    assert header["RANGES_PER_PAGE"] == wire.ENTRIES_PER_PAGE == int(row("entries of a list page")[0])
    assert header["MAX_LIST_PAGES"] == limits.list_pages == int(row("list pages of a request")[0])
    assert header["MAX_BOUNDARIES"] == limits.boundaries == int(row("boundaries of the map")[0])
    assert header["MAX_GRANTS"] == Options().max_grants
    assert f"{header['MAX_GRANTS']} pages are remembered as granted" in DOCUMENT


def test_text_objects() -> None:
    header = defines()
    assert header["TEXT_MAGIC"] == wire.TEXT_MAGIC == int(row("TEXT_MAGIC")[0], 16)
    limits = f"{header['TEXT_LIST_PAGES']} pages, {header['TEXT_PAGES']} page frames, 2^20 sites or targets"
    assert limits in " ".join(DOCUMENT.split())
    assert f"{header['TEXT_OBJECTS']} objects and {header['TEXT_PAGES']} page frames in all" in " ".join(
        DOCUMENT.split()
    )


def test_forms_of_patch_sites() -> None:
    """Each form of the judge is in its kind's row, by the bytes that are given and where the rest leads."""
    kinds = re.findall(r"MBECG_SITE_(\w+)(?: = 1)?,\t", (SOURCES / "mbecg_abi.h").read_text())
    goals = {
        "SITE_TARGET": " to its target",
        "FUNCTION": " to a function",
        "FTRACE": " to one of `ftrace`",
        "HOOK": " into `hooks`",
    }
    code = (SOURCES / "mbecg_judge.c").read_text()
    forms = re.findall(r"\{ MBECG_SITE_(\w+), (\d), \d, 0x\w+, (\w+), \{ (.*?) \} \}", code)
    assert len(forms) == code.count("{ MBECG_SITE_") > 10
    rows = {
        cells[:3:2]: cells[3] for cells in re.findall(r"^\| (\d) ([^|]*) \| (\d) \| (.*) \|$", DOCUMENT, re.MULTILINE)
    }
    assert len(rows) == len({form[:2] for form in forms})
    for kind, length, goal, given in forms:
        told = rows[str(kinds.index(kind) + 1), length].replace("`, `e9` to", "` to a function; `e9` to")
        bytes_ = given.replace("0x", "").replace(",", "")
        assert any(part.startswith(f"`{bytes_}`") and goals.get(goal, "") in part for part in told.split("; "))


def test_list_page_layout() -> None:
    offsets = {field: int(at) for at, field in re.findall(r"^\| (\d+) \| `u64 (\w+)`", DOCUMENT, re.MULTILINE)}
    assert offsets == {"next": 0, "next_pa": 8, "npages": 16}
    page = wire._HEADER.pack(1, 2, 3)
    assert [page[at] for at in offsets.values()] == [1, 2, 3]
    assert row("24")[0] == "`{u64 pa, u64 epa, u64 permissions}[169]`"
    assert wire._HEADER.size == 24
    assert 24 + wire.ENTRIES_PER_PAGE * wire._ENTRY.size == 4080


def test_layout_of_the_answer() -> None:
    header = defines()
    fields = {
        "STATUS_MODE": HostStatus(HostMode.ENFORCE, Permission(0), 0, False, False),
        "STATUS_RESTRICTED": HostStatus(HostMode.OFF, Permission(0), 0, True, False),
        "STATUS_SEALED": HostStatus(HostMode.OFF, Permission(0), 0, False, True),
        "STATUS_GENERATION": HostStatus(HostMode.OFF, Permission(0), 1, False, False),
        "STATUS_SMM_OPEN": HostStatus(HostMode.OFF, Permission(0), 0, False, False, smm_open=True),
    }
    version = wire.ABI_VERSION << header["STATUS_VERSION"]
    assert {name: wire.encode_status(status) for name, status in fields.items()} == {
        name: version | 1 << header[name] for name in fields
    }
    assert [row(bits)[0].split(":")[0].split(",")[0] for bits in ("4-5", "6", "7", "16-47", "48")] == [
        "mode",
        "restricted",
        "sealed",
        "generation",
        "SMM open",
    ]
    assert row("8-15")[0].startswith("version")


def test_words_of_the_extended_query() -> None:
    (text,) = re.findall(r"enum mbecg_word \{(.*?)\};", (SOURCES / "mbecg_abi.h").read_text(), re.DOTALL)
    numbers: dict[str, int] = {}
    following = 0
    for name, given in re.findall(r"MBECG_WORD_(\w+)(?: = (\d+))?,", text):
        numbers[name] = following = int(given or following)
        following += 1
    assert numbers == {word.name: word.value for word in wire.Word}
    for word in wire.Word:
        if word is not wire.Word.STATUS:
            assert int(row(word.name)[0].split(":")[0].split()[0]) == word.value
    assert row("DIGEST")[0].startswith(f"1 to {wire.DIGEST_WORDS}:")
    assert wire.Word.DIGEST + wire.DIGEST_WORDS == wire.Word.DENIED


def test_modes() -> None:
    (names,) = re.findall(r"enum mbecg_mode \{ (.*) \};", (SOURCES / "mbecg_abi.h").read_text())
    modes = [name.removeprefix("MBECG_").lower() for name in names.split(", ")]
    assert modes == [mode.value for mode in wire._MODES]
    assert re.findall(r"(\d) (off|enforce|audit)", row("4-5")[0]) == [(str(i), mode) for i, mode in enumerate(modes)]


def pinnable_in_code(cr: int) -> set[str]:
    text = (SOURCES / "mbecg.h").read_text()
    (line,) = re.findall(rf"^#define MBECG_PINNABLE_CR{cr}\t.*$", text, re.MULTILINE)
    return set(re.findall(rf"X86_CR{cr}_(\w+)", line))


def test_pins() -> None:
    bits = {name: int(bit) for name, bit in re.findall(r"`([A-Z]+)`, bit (\d+)", DOCUMENT)}
    assert set(bits) == pinnable_in_code(0) | pinnable_in_code(4)
    for cr, mask in hypervisor._PINNABLE.items():
        assert sum(1 << bits[name] for name in pinnable_in_code(cr)) == mask


def test_storm_guard() -> None:
    code = (SOURCES / "mbecg_fault.c").read_text()
    (denials,) = re.findall(r"STORM_DENIALS\t(\d+)", code)
    (forgiven,) = re.findall(r"STORM_FORGIVEN\t(\d+)", code)
    assert re.search(rf"takes {forgiven} off; above {denials} ", DOCUMENT)
