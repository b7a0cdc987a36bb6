# SPDX-License-Identifier: GPL-2.0-or-later
"""For all tests: names of parametrised tests have to be the same in every process (pytest-xdist)."""

from __future__ import annotations

import pytest
from hypothesis import settings

# No test fails because a machine is slow.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    # Compressed data can hold the time at which it was made.
    return argname if isinstance(val, bytes) else None
