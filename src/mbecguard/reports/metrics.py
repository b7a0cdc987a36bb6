# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of a guest as metrics, in Prometheus' text format: a node_exporter's textfile collector reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from enum import Enum

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mbecguard.audit.report import Measured
from mbecguard.audit.value import Audit, Result, Verdict
from mbecguard.records.record import State
from mbecguard.records.status import Status
from mbecguard.values.escaped import escaped


def metrics(found: Measured) -> str:
    """All of them. What nobody can tell is left out: there is no number for it."""
    registry = CollectorRegistry()
    registry.register(_Families((*_of_status(found.status), *_of_seal(found), *_of_audit(found.audit))))
    return generate_latest(registry).decode()


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self.families = tuple(families)

    def collect(self) -> Iterable[Metric]:
        """As a registry asks for them."""
        return self.families


def _of_status(status: Status) -> Iterator[Metric]:
    yield _choice("mbecguard_state", "1 for the state of the guest", "state", status.state)
    yield _choice("mbecguard_host_mode", "1 for what the host does with a denied fetch", "mode", status.mode)
    reasons = {reason.id: 1 for reason in status.reasons}
    yield _gauges("mbecguard_state_reason", "Why the state is not better, by the reason's id", "id", reasons)
    yield _gauge("mbecguard_simulated", "1 if the host is the simulator, which protects nothing", status.simulated)
    yield from _counter("mbecguard_denied_fetches", "Denied fetches since the reset", status.denied)
    yield from _counter("mbecguard_refused_changes", "What a pin or the seal forbade since the reset", status.refused)

    if status.text and status.text.pages:
        yield _gauge("mbecguard_text_pages", "Pages of kernel text that the host holds", status.text.pages)
        yield from _counter("mbecguard_text_patches", "Stores of patches to them since the reset", status.text.patches)
        yield from _counter("mbecguard_bad_stores", "Other stores to them since the reset", status.text.bad)


def _of_seal(found: Measured) -> Iterator[Metric]:
    record = found.status.record
    if record and record.state is State.SEALED:
        yield _gauge("mbecguard_seal_timestamp_seconds", "When the guest was sealed", _seconds(record.time))
        yield _choice("mbecguard_level", "1 for what the seal protects", "level", record.level)
    kinds = {share.kind.value: share.pages for share in found.kinds}
    yield _gauges("mbecguard_kept_pages", "Pages of 4 KiB that stay executable, by kind of code", "kind", kinds)
    if who := found.identity:
        names = ("version", "kernel", "build_id", "vm_uuid", "content")
        content = found.audit.locked.content_digest if found.audit and found.audit.locked else ""
        family = GaugeMetricFamily("mbecguard_info", "Agent, kernel, machine, and the digest of its code", labels=names)
        told = (who.agent, who.release, who.build_id, who.vm_uuid, content)
        family.add_metric([escaped(one or "") for one in told], 1)
        yield family


def _of_audit(audit: Audit | None) -> Iterator[Metric]:
    """Of the newest in this boot."""
    if audit is None:
        return
    yield _gauge("mbecguard_audit_timestamp_seconds", "When the newest audit was made", _seconds(audit.time))
    yield _choice("mbecguard_audit_verdict", "1 for the verdict of the newest audit", "verdict", audit.verdict)
    results = {one.value: sum(claim.result is one for claim in audit.claims) for one in Result}
    yield _gauges("mbecguard_audit_claims", "Claims of the newest audit, by result", "result", results)
    if audit.verdict in (Verdict.PASS, Verdict.FAIL) and audit.locked:
        text = "Executable ranges that the seal does not know, by the newest audit"
        yield _gauge("mbecguard_unknown_ranges", text, audit.unknown)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _counter(name: str, text: str, value: int | None) -> Iterator[Metric]:
    if value is not None:
        yield CounterMetricFamily(name, text, value=value)


def _gauges(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _choice(name: str, text: str, label: str, now: Enum) -> Metric:
    """One of each that can be, of which one is 1: so an alert can tell "not so" from "not told"."""
    return _gauges(name, text, label, {one.value: int(one is now) for one in type(now)})


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
