# SPDX-License-Identifier: GPL-2.0-or-later
"""The time, as everything has it that is kept."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
