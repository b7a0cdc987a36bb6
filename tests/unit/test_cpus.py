# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists of processors as sysfs writes them."""

from __future__ import annotations

import pytest

from mbecguard.values.cpus import cpu_list


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", [0]), ("0-3\n", [0, 1, 2, 3]), ("0,2-3,17\n", [0, 2, 3, 17]), ("4-4", [4]), ("0-3,8", [0, 1, 2, 3, 8])],
)
def test_a_list(text: str, expected: list[int]) -> None:
    assert cpu_list(text) == expected


@pytest.mark.parametrize("text", ["", "\n", "all", "1-0", "0-", "-1", "0,,1", "1-2-3", "999999", "0-9999999999", "٣"])
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(ValueError, match="no list"):
        cpu_list(text)
