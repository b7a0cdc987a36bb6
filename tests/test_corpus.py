# SPDX-License-Identifier: GPL-2.0-or-later
"""Real guests: what is planned for them, against the host-side walk of the same paused guest, and readelf."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import random
import re
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mbecguard.guest.captured import captured_guest
from mbecguard.guest.execmap import load
from mbecguard.guest.survey import Survey, survey
from mbecguard.guest.tree import Tree
from mbecguard.host.simulated.ept import Mode
from mbecguard.host.simulated.host import SimulatedHost
from mbecguard.host.simulated.hypervisor import Options
from mbecguard.host.wire import Limits
from mbecguard.lock.request import request
from mbecguard.plan.planner import build_plan
from mbecguard.plan.policy import CodeKind, Policy
from mbecguard.plan.value import Plan, plan_from_json
from mbecguard.values.codec import decode, encode
from mbecguard.values.facts import known
from mbecguard.values.pages import PAGE_SHIFT, PageRange, PageSet
from tests import corpus, golden, readelf
from tests.looked import looked

html5lib = pytest.importorskip("html5lib", reason="run tools/setup.sh")

GUESTS = corpus.names()
LINKED_AT = 0xFFFFFFFF81000000


@dataclass(frozen=True)
class Case:
    """One unpacked guest with everything that the tests ask about it."""

    name: str
    folder: Path
    survey: Survey
    plan: Plan
    witness: dict[str, Any]

    @property
    def executable(self) -> dict[int, int]:
        """Virtual page -> page frame by the host-side walk, supervisor-executable ones only."""
        leaves = [leaf for table in self.witness["tables"].values() for leaf in table if not leaf["user"]]
        return {
            (leaf["va"] >> PAGE_SHIFT) + i: (leaf["pa"] >> PAGE_SHIFT) + i
            for leaf in leaves
            for i in range(leaf["bytes"] >> PAGE_SHIFT)
        }


@pytest.fixture(scope="session", params=GUESTS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(request.param, tmp_path_factory.mktemp("corpus"))


def make_case(name: str, into: Path) -> Case:
    folder = corpus.unpack(name, into)
    facts, symbols = survey(captured_guest(folder), into / "cache")
    return Case(name, folder, facts, build_plan(facts, Policy(), symbols.nearest), corpus.witness(name))


def test_the_corpus_covers_what_it_should() -> None:
    series = {re.match(r"\d+\.\d+", corpus.about(name)["release"])[0] for name in GUESTS}  # type: ignore[index]
    assert {"6.1", "6.12"} < series
    assert any(tuple(map(int, s.split("."))) >= (7, 2) for s in series)
    assert any(corpus.about(name)["uefi"] for name in GUESTS)


def test_the_guest_is_a_real_one(case: Case) -> None:
    assert case.survey.kernel.text_va != LINKED_AT, "KASLR"
    assert len(case.survey.modules) >= 60
    assert any(symbol.tag == "bpf" for symbol in case.survey.symbols)
    assert readelf.build_id(case.folder / "boot/vmlinuz") == case.survey.kernel.build_id


def test_no_fact_is_missing(case: Case, tmp_path: Path) -> None:
    found = {finding.id for finding in looked(case.folder, tmp_path).check().findings}
    assert not found & {"source-unknown", "freeze-unknown", "start-page-kept", "guest-unreadable"}


def test_recorded_page_tables_are_those_that_the_host_saw(case: Case) -> None:
    mappings = load(Tree(case.folder).text("execmap.json") or "")
    ours = {
        page: m.frames.start + page - m.virtual.start
        for m in mappings
        if not m.user
        for page in range(m.virtual.start, m.virtual.end)
    }
    assert ours == case.executable
    assert PageSet(known(case.survey.memory.int3_pages, ())) == PageSet(
        PageRange(*run) for run in case.witness["int3_pages"]
    )


def test_plan_is_clean_and_tiles_the_physical_space(case: Case) -> None:
    assert not case.plan.blockers
    parts = sorted([k.pages for k in case.plan.keep] + list(case.plan.deny))
    assert parts[0].start == 0
    assert parts[-1].end == case.survey.kernel.max_pfn == case.plan.max_pfn
    assert all(a.end == b.start for a, b in pairwise(parts))


def test_exactly_the_executable_pages_are_kept(case: Case) -> None:
    kept = {pfn for k in case.plan.keep for pfn in range(k.start, k.end)}
    assert kept == set(case.executable.values())
    assert all(k.kind and k.owner for k in case.plan.keep)


def test_addresses_of_kept_ranges_are_right(case: Case) -> None:
    for k in case.plan.keep:
        page = k.va >> PAGE_SHIFT
        assert [case.executable[page + i] for i in range(len(k.pages))] == list(range(k.start, k.end))


def frames_of(case: Case, va: int, size: int) -> set[int]:
    pages = range(va >> PAGE_SHIFT, (va + size - 1 >> PAGE_SHIFT) + 1)
    return {case.executable[page] for page in pages}


def kept_as(case: Case, kind: CodeKind) -> set[int]:
    return {pfn for k in case.plan.keep if k.kind is kind for pfn in range(k.start, k.end)}


def test_kernel_text_is_what_readelf_says(case: Case) -> None:
    (text,) = (s for s in readelf.sections(case.folder / "boot/vmlinuz") if s.name == ".text")
    assert kept_as(case, CodeKind.KERNEL_TEXT) == frames_of(
        case, text.va - LINKED_AT + case.survey.kernel.text_va, text.bytes
    )


def test_module_text_is_what_readelf_says(case: Case, tmp_path: Path) -> None:
    expected: set[int] = set()
    for file in sorted(case.folder.glob("lib/modules/**/*.ko.xz")):
        plain = tmp_path / file.stem
        plain.write_bytes(lzma.decompress(file.read_bytes()))
        loaded = case.folder / "sys/module" / file.name.split(".")[0].replace("-", "_") / "sections"
        for section in readelf.sections(plain):
            if {"A", "X"} <= set(section.flags) and section.bytes and not section.name.startswith(".init"):
                expected |= frames_of(case, int((loaded / section.name).read_text(), 16), section.bytes)
    assert kept_as(case, CodeKind.MODULE_TEXT) == expected


def test_its_thunks_are_found_where_the_kernel_has_them(case: Case) -> None:
    thunks = kept_as(case, CodeKind.ITS_THUNK)
    assert bool(thunks) == ("its" in case.name)


def test_efi_runtime_code_is_exact(case: Case) -> None:
    exact = {
        (leaf["pa"] >> PAGE_SHIFT) + i
        for leaf in case.witness["tables"].get("efi_mm", [])
        for i in range(leaf["bytes"] >> PAGE_SHIFT)
    }
    assert kept_as(case, CodeKind.EFI_RUNTIME) == exact
    assert bool(exact) == corpus.about(case.name)["uefi"]


def test_tight_policy_drops_exactly_the_padding(case: Case) -> None:
    tight = build_plan(case.survey, Policy(tight=True, free=(CodeKind.BPF,)))
    kept = {pfn for k in tight.keep for pfn in range(k.start, k.end)}
    padding = {pfn for start, end in case.witness["int3_pages"] for pfn in range(start, end)}
    assert kept == set(case.executable.values()) - padding


def test_plans_are_the_same_to_the_byte_in_any_process(case: Case, tmp_path: Path) -> None:
    options = ["--json", "--guest", str(case.folder), "--cache-dir", str(tmp_path)]
    command = [sys.executable, "-m", "mbecguard", "plan", *options]
    outputs = [
        subprocess.run(command, capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert plan_from_json(json.loads(outputs[0])) == looked(case.folder, tmp_path / "other").look().plan


def test_survey_and_plan_round_trip(case: Case) -> None:
    assert decode(Survey, json.loads(json.dumps(encode(case.survey)))) == case.survey
    assert plan_from_json(json.loads(json.dumps(case.plan.to_json()))) == case.plan


def test_simulator_enforces_the_plan(case: Case) -> None:
    host = SimulatedHost(Options(limits=Limits(max_pfn=case.plan.max_pfn)), case.plan.max_pfn - 1)
    rng = random.Random(case.name)
    executable = set(case.executable.values())
    sampled = [rng.randrange(d.start, d.end) for d in case.plan.deny for _ in range(4)]
    edges = [pfn for d in case.plan.deny for pfn in (d.start, d.end - 1)]
    denied, kept = sorted({*sampled, *edges}), sorted(executable)

    def runs(pfn: int, mode: Mode) -> bool:
        return host.hypervisor.fetch(pfn << PAGE_SHIFT, mode) is None

    assert all(runs(pfn, Mode.SUPERVISOR) for pfn in (*denied, *kept)), "before the lock everything runs"
    host.protect(request(case.plan, host.canary_pfn, immutable=True))
    assert not any(runs(pfn, Mode.SUPERVISOR) for pfn in denied)
    assert all(runs(pfn, Mode.SUPERVISOR) for pfn in kept)
    assert all(runs(pfn, Mode.USER) for pfn in (*denied, *kept))


@pytest.fixture(scope="session")
def answers(case: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An audit of the guest, after a lock on the simulator, in each format."""
    return golden.answers(case.folder, tmp_path_factory.mktemp("answers"))


def test_programs_get_what_they_got_before(case: Case, answers: dict[str, str]) -> None:
    kept = (golden.FOLDER / f"{case.name}.json").read_text()
    assert golden.text_of(answers["json"]) == kept, "if that is wanted, and docs/JSON.md allows it: make golden"


def test_each_format_tells_of_the_same_audit(case: Case, answers: dict[str, str]) -> None:
    audit = json.loads(answers["json"])
    owners = {(one["owner"], str(one["pages"])) for one in audit["locked"]["owners"]}
    told = re.findall(
        r'<tr><th scope="row">([^<]+)</th><td class="short">.*?<td class="number">(\d+)</td>', answers["html"]
    )
    assert set(told) == owners
    html5lib.HTMLParser(strict=True).parse(answers["html"])
    assert 30_000 < len(answers["html"]) < 200_000
    for claim in audit["claims"]:
        assert f'<span class="id">{claim["id"]}</span>' in answers["html"]
        told_as_text = re.search(rf"^ +\S.* {claim['id']} ", answers["text"], re.MULTILINE)
        assert bool(told_as_text) is (claim["result"] != "not_applicable")


def test_the_content_digest_is_of_build_ids_alone(case: Case, answers: dict[str, str], tmp_path: Path) -> None:
    """Those that readelf finds in the files."""
    found = json.loads(answers["json"])["locked"]
    files = {file.name.split(".")[0].replace("-", "_"): file for file in case.folder.glob("lib/modules/**/*.ko.xz")}
    modules = []
    for name in sorted(one["owner"] for one in found["owners"] if one["kind"] == "module-text"):
        (tmp_path / name).write_bytes(lzma.decompress(files[name].read_bytes()))
        modules.append([name, readelf.build_id(tmp_path / name)])
    content = {"kernel": readelf.build_id(case.folder / "boot/vmlinuz"), "modules": modules}
    text = json.dumps(content, separators=(",", ":"))
    assert found["content_digest"] == hashlib.sha256(text.encode()).hexdigest()


def test_it_is_equal_for_two_boots_with_the_same_code() -> None:
    """Which lies elsewhere, as the last test says; a third boot has two modules of its own."""
    one, two, other = (
        json.loads((golden.FOLDER / f"trixie-6.12-{name}.json").read_text()) for name in ("a", "b", "uefi")
    )
    assert one["subject"]["boot_id"] != two["subject"]["boot_id"]
    assert one["locked"]["content_digest"] == two["locked"]["content_digest"] != other["locked"]["content_digest"]
    assert one["locked"]["kinds"] != two["locked"]["kinds"]  # what the kernel makes by itself is no content


def test_two_boots_of_one_kernel_differ_only_in_addresses(tmp_path: Path) -> None:
    one, two = (make_case(name, tmp_path / name).plan for name in ("trixie-6.12-a", "trixie-6.12-b"))
    assert one.kernel.build_id == two.kernel.build_id
    assert one.kernel.text_va != two.kernel.text_va
    assert one.kernel.text_pa != two.kernel.text_pa

    def text(plan: Plan) -> list[tuple[int, int, str, str, int]]:
        base, va = plan.kernel.text_pa >> PAGE_SHIFT, plan.kernel.text_va
        kept = (k for k in plan.keep if k.kind is CodeKind.KERNEL_TEXT)
        return [(k.start - base, k.end - base, k.owner, k.section, k.va - va) for k in kept]

    assert text(one) == text(two)
