# SPDX-License-Identifier: GPL-2.0-or-later
"""The scenarios: what the guest does, and what has to be seen. One boot runs many, in this order."""

from __future__ import annotations

from collections.abc import Iterable

from mbecguard.values.errors import die

from ..layers import Host, Userland
from . import (
    attacks,
    boots,
    calls,
    costs,
    faults,
    handing,
    hostile,
    level,
    processors,
    product,
    q35,
    races,
    seals,
    service,
    settings,
    smm,
    stores,
    text,
    trouble,
    witnessed,
)
from .scenario import Scenario, Setting

__all__ = ["SCENARIOS", "Scenario", "Setting", "by_setting", "find"]

_HOST = (calls, faults, attacks, seals, processors, hostile, races, smm, stores, handing, settings, costs, trouble)
_PRODUCT = (service, product, text, level, q35, boots, witnessed)
SCENARIOS: tuple[Scenario, ...] = tuple(row for table in (*_HOST, *_PRODUCT) for row in table.SCENARIOS)


def find(names: list[str], host: Host, cpus: int = 1, userland: Userland = Userland.MINIMAL) -> list[Scenario]:
    """The scenarios named, in the table's order. When none is: those made for this user space.

    Those that are slow, or that this guest cannot run, have to be named.
    """
    known = {scenario.name: scenario for scenario in SCENARIOS}
    if unknown := sorted(set(names) - set(known)):
        die(f"no such scenario: {', '.join(unknown)}", hint="python -m tests.lab list")
    if wrong := [f"{name}: {why}" for name in sorted(names) if (why := known[name].obstacle(host, cpus, userland))]:
        die("; ".join(wrong), hint="python -m tests.lab list shows each one's hosts and CPUs")
    wanted = [row for row in SCENARIOS if (row.name in names if names else row.userland is userland and not row.slow)]
    return [row for row in wanted if not row.obstacle(host, cpus, userland)]


def by_setting(scenarios: Iterable[Scenario]) -> dict[Setting, list[Scenario]]:
    """One guest for each setting, in order of first need."""
    guests: dict[Setting, list[Scenario]] = {}
    for scenario in scenarios:
        guests.setdefault(scenario.setting, []).append(scenario)
    return guests
