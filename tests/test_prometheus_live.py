# SPDX-License-Identifier: GPL-2.0-or-later
"""Metrics on their way: files of guests and a host, node_exporters, a Prometheus with our alerts, the queries.

All are Debian's programs. Each is a process of the tests, on a port of its own, and ends with them.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mbecguard.audit.report import Measured
from mbecguard.audit.value import Audit, Code, Result, Verdict
from mbecguard.plan.policy import CodeKind
from mbecguard.records.reasons import reason
from mbecguard.records.record import State
from mbecguard.records.status import Named, Status
from mbecguard.reports.metrics import metrics
from mbecguard.values.clock import now
from tests.corpus.archive import unpacked
from tests.hostmaker import GUARDING
from tests.plans import PLAN, TEXT_VA, make_audit, make_status
from tests.test_prometheus import RULES
from tools import dashboard

pytestmark = pytest.mark.lab

SUITE = "trixie"
GUESTS = ("good", "bad")
HOST = "rack"
LIMIT = 60.0  #: seconds until what was scraped is there
CODE = Code(0x32, 0x34, 0x32000, TEXT_VA, 2, CodeKind.BPF, "bpf", ".x", "a+0x1", writable=False, denied=True)
SEALED = Named("ab" * 32, now(), State.SEALED, PLAN.digest, PLAN.totals, ())
CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: node
    static_configs:
      - targets: {targets}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measured(status: Status, audit: Audit) -> str:
    return metrics(Measured(status, audit.subject, audit.locked.kinds if audit.locked else (), audit))


def good(denied: int) -> str:
    return measured(make_status(record=SEALED, denied=denied, refused=denied, simulated=False), make_audit(time=now()))


def bad() -> str:
    status = make_status(State.DEGRADED, record=SEALED, reasons=(reason("seal-lost"),), simulated=False)
    audit = make_audit(time=now(), verdict=Verdict.FAIL, unexplained=(CODE, CODE))
    claims = tuple(replace(one, result=Result.FAIL) if one.id == "cr-pinned" else one for one in audit.claims)
    return measured(status, replace(audit, claims=claims))


def rack(folder: Path) -> str:
    """Both machines of a host, the second without a seal."""
    return GUARDING.running("kvm -name web2", 2).metrics(folder)


def commands(folder: Path, ports: dict[str, int]) -> Iterator[list[str | Path]]:
    """All exporters, and the server."""
    exporter = unpacked(SUITE, "prometheus-node-exporter") / "usr/bin/prometheus-node-exporter"
    only = ("--collector.disable-defaults", "--collector.textfile")
    for name in (*GUESTS, HOST):
        yield [exporter, *only, f"--collector.textfile.directory={folder / name}", listen(ports[name])]
    server = unpacked(SUITE, "prometheus") / "usr/bin/prometheus"
    places = (f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}")
    yield [server, *places, listen(ports["server"])]


def listen(port: int) -> str:
    return f"--web.listen-address=127.0.0.1:{port}"


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    ports = {name: free_port() for name in (*GUESTS, HOST, "server")}
    texts = good(denied=3), bad(), rack(folder / "files")
    for name, text in zip((*GUESTS, HOST), texts, strict=True):
        (folder / name).mkdir()
        (folder / name / "mbecguard.prom").write_text(text)
    targets = json.dumps([f"127.0.0.1:{ports[name]}" for name in (*GUESTS, HOST)])
    (folder / "prometheus.yml").write_text(CONFIG.format(rules=RULES, targets=targets))
    with (folder / "log").open("w") as log, ExitStack() as ends:
        running = []
        for command in commands(folder, ports):
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
            ends.callback(process.wait, 10)
            ends.callback(process.kill)
            running.append(process)
        yield Prometheus(folder, ports, running)


class Prometheus:
    """The server, and the folders that its guests write to."""

    def __init__(self, folder: Path, ports: dict[str, int], running: list[subprocess.Popen[bytes]]) -> None:
        self.folder, self.ports, self.running = folder, ports, running
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API."""
        url = f"http://127.0.0.1:{self.ports['server']}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with self.opener.open(url, timeout=10) as answer:
            found = json.load(answer)
        assert found["status"] == "success", found
        return found["data"]

    def wait(self, path: str, enough: Callable[[Any], bool], **parameters: str) -> Any:
        """The same, once it is as it has to be."""
        last, until = None, time.monotonic() + LIMIT
        while time.monotonic() < until and not any(process.poll() for process in self.running):
            try:
                last = self.get(path, **parameters)
                if enough(last):
                    return last
            except OSError:  # it is yet to start
                pass
            time.sleep(0.3)
        pytest.fail(f"{path} {parameters}: {last}\n{(self.folder / 'log').read_text()[-2000:]}")

    def ask(self, query: str) -> list[dict[str, Any]]:
        """What a query finds; it has to find something."""
        found: dict[str, Any] = self.wait("query", lambda data: bool(data["result"]), query=query)
        result: list[dict[str, Any]] = found["result"]
        return result

    def instance(self, name: str) -> str:
        """How it calls a guest."""
        return f"127.0.0.1:{self.ports[name]}"


def test_guests_and_host_are_scraped_without_an_error(prometheus: Prometheus) -> None:
    up = prometheus.ask("count(up == 1) == 3")
    assert up
    errors = prometheus.ask("node_textfile_scrape_error")
    assert {one["value"][1] for one in errors} == {"0"}
    states = prometheus.ask("mbecguard_state == 1")
    assert {one["metric"]["instance"]: one["metric"]["state"] for one in states} == {
        prometheus.instance("good"): "sealed",
        prometheus.instance("bad"): "degraded",
    }


def test_each_query_of_the_dashboard_finds_something(prometheus: Prometheus) -> None:
    prometheus.ask("mbecguard_denied_fetches_total == 3")
    (prometheus.folder / "good/new").write_text(good(denied=5))
    (prometheus.folder / "good/new").rename(prometheus.folder / "good/mbecguard.prom")
    prometheus.ask("mbecguard_denied_fetches_total == 5")
    panels = [panel for panel in json.loads(dashboard.FILE.read_text())["panels"] if panel["type"] != "row"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    assert asked == [query for _, query in dashboard.queries()]
    for query in asked:
        filled = query.replace("$instance", ".*").replace("$host", ".*").replace("$__rate_interval", "5m")
        assert "$" not in filled
        assert prometheus.ask(filled), query


@pytest.mark.parametrize(("variable", "names"), [("instance", GUESTS), ("host", (HOST,))])
def test_a_variable_of_the_dashboard_lists_guests_or_hosts(
    prometheus: Prometheus, variable: str, names: tuple[str, ...]
) -> None:
    listed = json.loads(dashboard.FILE.read_text())["templating"]["list"]
    (query,) = (one["query"] for one in listed if one["name"] == variable)
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", query).groups()  # type: ignore[union-attr]
    prometheus.ask(metric)
    found = prometheus.get(f"label/{label}/values", **{"match[]": metric})
    assert sorted(found) == sorted(map(prometheus.instance, names))


def test_the_alerts_of_the_bad_guest_fire_and_none_of_the_good_one(prometheus: Prometheus) -> None:
    wanted = {"MbecguardUnknownCode", "MbecguardAuditFailed", "MbecguardDegraded"}

    def active(data: dict[str, Any]) -> set[str]:
        return {
            one["labels"]["alertname"]
            for one in data["alerts"]
            if one["labels"]["instance"] == prometheus.instance("bad")
        }

    data = prometheus.wait("alerts", lambda data: wanted <= active(data))
    assert active(data) == wanted
    others = {(one["labels"]["instance"], one["labels"]["alertname"]) for one in data["alerts"]}
    others -= {(prometheus.instance("bad"), name) for name in wanted}
    # The test of the dashboard has it deny two fetches; whether that is seen in time depends on the machine.
    assert others <= {(prometheus.instance("good"), "MbecguardDeniedFetch")}
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}
    assert len(rules) == RULES.read_text().count("- alert:")
