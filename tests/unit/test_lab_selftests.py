# SPDX-License-Identifier: GPL-2.0-or-later
"""The judgement over the kernel's KVM selftests: equal is not enough, and silence is never success."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbecguard.values.errors import UserError
from tests.lab.selftests import SELFTESTS, Machine, Selftest, find, of_series, problems, read, table

INTEL = Machine.INTEL
TESTS = [Selftest("x86/one_nested_test", "-v 2"), Selftest("two_test.sh", unfit={INTEL: "needs SVM"})]
FINISHED = '{"lab":"finished"}'


def row(name: str, kvm: str, status: int = 0, passes: int = 0, reason: str = "") -> str:
    values = {"selftest": name, "kvm": kvm, "status": status, "passes": passes, "seconds": 3, "reason": reason}
    return json.dumps(values)


def fared(kvm: str, mode: str, mbec: str = "Y", unloaded: int = 0, complaints: int = 0) -> str:
    return json.dumps({"kvm": kvm, "mode": mode, "mbec": mbec, "unloaded": unloaded, "complaints": complaints})


def entered(kvm: str, *counts: int) -> str:
    return json.dumps({"kvm": kvm, "entries": ",".join(map(str, counts))})


GOOD = {
    "one stock": row("one_nested_test", "stock"),
    "one ours": row("one_nested_test", "ours"),
    "two stock": row("two_test.sh", "stock", 4, reason="# SKIP no SVM"),
    "two ours": row("two_test.sh", "ours", 4, reason="# SKIP no SVM"),
    "stock": fared("stock", "none"),
    "ours": fared("ours", "enforce"),
    "entries": entered("ours", 0, 7, 5, 0),
    "end": FINISHED,
}


def found(**changes: str) -> list[str]:
    lines = GOOD | {name.replace("_", " "): line for name, line in changes.items()}
    return problems(TESTS, INTEL, read("".join(f"{line}\r\n" for line in lines.values())))


def test_equal_passed_and_unfit_as_expected() -> None:
    assert found() == []


@pytest.mark.parametrize("missing", GOOD)
def test_each_line_is_needed(missing: str) -> None:
    assert found(**{missing.replace(" ", "_"): ""})


@pytest.mark.parametrize(
    "changes",
    [
        {"one_ours": row("one_nested_test", "ours", 254)},
        {"one_stock": row("one_nested_test", "stock", 254)},
        {"one_ours": row("one_nested_test", "ours", passes=1)},
        {"two_ours": row("two_test.sh", "ours", 0)},
        {"one_stock": row("one_nested_test", "stock", 4), "one_ours": row("one_nested_test", "ours", 4)},
        {"one_stock": row("one_nested_test", "stock", 137), "one_ours": row("one_nested_test", "ours", 137)},
        {"ours": fared("ours", "none")},
        {"ours": fared("ours", "off")},
        {"ours": fared("ours", "enforce", mbec="N")},
        {"ours": fared("ours", "enforce", unloaded=1)},
        {"ours": fared("ours", "enforce", complaints=1)},
        {"stock": fared("stock", "enforce")},
        {"entries": entered("ours", 1, 7, 5, 0)},
        {"entries": entered("ours", 0, 0, 5, 0)},
        {"entries": entered("ours", 0, 7, 5, 1)},
        {"entries": entered("ours", 0, 7, 0, 0)},
        {"entries": json.dumps({"kvm": "ours", "entries": "none"})},
    ],
)
def test_what_is_not_success(changes: dict[str, str]) -> None:
    assert len(found(**changes)) == 1


def test_a_test_that_fails_alike_for_a_known_reason_is_no_problem() -> None:
    assert found(two_stock=row("two_test.sh", "stock", 254), two_ours=row("two_test.sh", "ours", 254)) == []


def test_half_a_line_is_not_read() -> None:
    assert read(FINISHED + "\n").finished
    assert not read(FINISHED).finished


@given(st.lists(st.one_of(st.text(), st.builds(json.dumps, st.dictionaries(st.text(), st.integers() | st.text())))))
def test_nothing_on_the_port_stops_the_reader(lines: list[str]) -> None:
    assert problems(TESTS, INTEL, read("".join(f"{line}\n" for line in lines)))


def test_the_table() -> None:
    text = table(TESTS, INTEL, read(f"{row('one_nested_test', 'stock', 254, reason='x.c:1: a == b')}\n"))
    assert text.splitlines()[1:] == [
        "one_nested_test                     failed (254)   3 s  no result           x.c:1: a == b",
        "two_test.sh                         no result           no result           needs SVM",
        "set_memory_region_test              left out                                Bochs hangs, with stock KVM too",
    ]


def test_commands() -> None:
    assert [test.command for test in TESTS] == ["./x86/one_nested_test -v 2", "sh ./two_test.sh "]


def test_names_are_unique_and_most_tests_have_to_pass() -> None:
    assert len({test.name for test in SELFTESTS}) == len(SELFTESTS)
    for machine in Machine:
        assert sum(machine not in test.unfit for test in find([], machine)) >= 20


def test_find() -> None:
    with pytest.raises(UserError, match="no such selftest: nope"):
        find(["smm_test", "nope"], INTEL)
    assert [test.name for test in find(["state_test", "smm_test"], INTEL)] == ["smm_test", "state_test"]
    assert [test.name for test in find(["set_memory_region_test"], INTEL)] == ["set_memory_region_test"]
    assert "set_memory_region_test" not in {test.name for test in find([], INTEL)}
    assert len(find([], Machine.AMD)) == len(SELFTESTS)


def test_older_trees_have_other_names() -> None:
    assert of_series("7.2") == SELFTESTS
    paths = {test.path for test in of_series("6.12")}
    assert {"x86_64/smm_test", "x86_64/vmx_dirty_log_test", "dirty_log_test"} <= paths
    assert len(paths) == len(SELFTESTS) - 3
    assert not any(path.startswith("x86/") for path in paths)


def test_a_stock_kvm_without_mbec_is_no_problem_where_none_has_it() -> None:
    text = "".join(f"{line}\r\n" for line in (GOOD | {"stock": fared("stock", "none", "none")}).values())
    assert problems(TESTS, INTEL, read(text), "6.12") == []
    assert len(problems(TESTS, INTEL, read(text))) == 1
