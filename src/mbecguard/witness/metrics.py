# SPDX-License-Identifier: GPL-2.0-or-later
"""What a host saw in Prometheus's text form, for the textfile collector of node_exporter.

Written here and not by prometheus_client: a host needs Python alone, and the form is a line each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from mbecguard.readiness.machines import Guarded
from mbecguard.witness.look import HostWitness, Seen
from mbecguard.witness.told import Told


@dataclass(frozen=True, slots=True)
class Metric:
    """A family of numbers, one or several of each machine that the host tells of."""

    name: str
    kind: str
    help: str
    values: Callable[[Told], dict[str, int]]  #: by the value of `label`
    label: str = ""


METRICS = (
    Metric(
        "pages",
        "gauge",
        "Page frames of the machine's map.",
        lambda told: {"kept": told.kept_pages, "denied": told.denied_pages, "sealed": told.sealed_pages},
        "kind",
    ),
    Metric("generation", "gauge", "Another one after each change and each reset.", lambda told: {"": told.generation}),
    Metric("denied_fetches_total", "counter", "Denied fetches since the reset.", lambda told: {"": told.denied}),
    Metric("refused_total", "counter", "What a pin or the seal forbade since the reset.", lambda t: {"": t.refused}),
    Metric(
        "text_pages",
        "gauge",
        "Pages of kernel text that the host holds.",
        lambda t: {"": t.text.pages} if t.text else {},
    ),
    Metric(
        "text_patches_total",
        "counter",
        "Stores to it since the reset that are patches of the kernel's own.",
        lambda told: {"": told.text.patches} if told.text else {},
    ),
    Metric(
        "bad_stores_total",
        "counter",
        "Other stores to it since the reset.",
        lambda told: {"": told.text.bad} if told.text else {},
    ),
    Metric("pinned", "gauge", "Bits that cannot be cleared.", lambda told: dict.fromkeys(told.pins, 1), "bit"),
)
PREFIX = "mbecguard_host"


def metrics(found: HostWitness) -> Iterator[str]:
    """The lines of a file."""
    when = datetime.fromisoformat(found.time).timestamp()
    yield from _head(f"{PREFIX}_witness_time_seconds", "gauge", "When the host was asked.")
    yield f"{PREFIX}_witness_time_seconds {when:.0f}"
    yield from _head(f"{PREFIX}_machine_state", "gauge", "What the host enforces of a machine: 1 for the one that is.")
    for seen in found.machines:
        for state in Guarded:
            yield f"{PREFIX}_machine_state{_labels(seen, state=state)} {int(state is seen.state)}"
    for metric in METRICS:
        name = f"{PREFIX}_machine_{metric.name}"
        yield from _head(name, metric.kind, metric.help)
        for seen in found.machines:
            for value, number in (metric.values(seen.told) if seen.told else {}).items():
                yield f"{name}{_labels(seen, **({metric.label: value} if metric.label else {}))} {number}"


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _labels(seen: Seen, **more: str) -> str:
    """The process tells two machines of one name apart; a file with two equal lines would be refused as a whole."""
    labels = {"machine": seen.name, "uuid": seen.uuid or "", "pid": str(seen.pid), **more}
    return "{" + ",".join(f'{name}="{_quoted(value)}"' for name, value in labels.items()) + "}"


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
