# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes packaging/grafana/mbecguard.json: a dashboard of the metrics, by Grafana's own foundation SDK.

`python -m tools.dashboard`. Import the file into Grafana; it asks which Prometheus to use. docs/FLEET.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueColorMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FILE = Path(__file__).parents[1] / "packaging/grafana/mbecguard.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
OURS = 'instance=~"$instance"'  #: in each query about guests
HOSTS = 'instance=~"$host"'  #: about hosts
GOOD_AT_0 = ((None, "green"), (1.0, "red"))
PLAIN = ((None, "blue"),)


@dataclass(frozen=True)
class View:
    """A panel: what is asked, and how it is shown. It is `width` of 24 columns wide."""

    kind: Any  #: module of the SDK
    title: str
    about: str
    query: str
    legend: str = ""
    unit: str = "short"
    width: int = 6
    height: int = 7
    colours: tuple[tuple[float | None, str], ...] = PLAIN


VIEWS: dict[str, tuple[View, ...]] = {
    "Now": (
        View(
            stat,
            "Guests by state",
            "Only sealed is locked.",
            f"count by (state) (mbecguard_state{{{OURS}}} == 1)",
            "{{state}}",
        ),
        View(
            stat,
            "Guests that are not sealed",
            "Each boot that comes up open wants a look.",
            f'sum(mbecguard_state{{{OURS}, state!="sealed"}})',
            colours=GOOD_AT_0,
        ),
        View(
            stat,
            "Claims that do not hold",
            "Of the newest audits.",
            f'sum(mbecguard_audit_claims{{{OURS}, result="fail"}})',
            colours=GOOD_AT_0,
        ),
        View(
            stat,
            "Executable ranges that no seal knows",
            "Take them for an intrusion until you know better.",
            f"sum(mbecguard_unknown_ranges{{{OURS}}})",
            colours=GOOD_AT_0,
        ),
    ),
    "What needs somebody": (
        View(table, "Not sealed", "By guest.", f'mbecguard_state{{{OURS}, state!="sealed"}} == 1', width=8),
        View(table, "Why", "Ids as `mbecguard status --json` has them.", f"mbecguard_state_reason{{{OURS}}}", width=8),
        View(
            table,
            "Audits that did not pass",
            "`mbecguard audit` in the guest tells more.",
            f'mbecguard_audit_verdict{{{OURS}, verdict!="pass"}} == 1',
            width=8,
        ),
    ),
    "Over time": (
        View(
            timeseries,
            "Denied fetches",
            "A lock runs into some itself; what comes later is an attack, or a mistake in the kernel.",
            f"increase(mbecguard_denied_fetches_total{{{OURS}}}[$__rate_interval])",
            "{{instance}}",
            width=12,
        ),
        View(
            timeseries,
            "Refused changes",
            "What a pin or a seal forbade.",
            f"increase(mbecguard_refused_changes_total{{{OURS}}}[$__rate_interval])",
            "{{instance}}",
            width=12,
        ),
        View(
            timeseries,
            "Age of the newest audit",
            "mbecguard-audit.timer makes one every day.",
            f"time() - mbecguard_audit_timestamp_seconds{{{OURS}}}",
            "{{instance}}",
            "s",
            12,
        ),
        View(
            timeseries,
            "Time since the seal",
            "It lasts until the machine is reset.",
            f"time() - mbecguard_seal_timestamp_seconds{{{OURS}}}",
            "{{instance}}",
            "s",
            12,
        ),
    ),
    "What is locked": (
        View(
            timeseries,
            "Kernel code that stays executable",
            "By kind, of all guests.",
            f"sum by (kind) (mbecguard_kept_pages{{{OURS}}}) * 4096",
            "{{kind}}",
            "bytes",
            12,
        ),
        View(
            table,
            "Kernels and their code",
            "Guests with one kernel should have one content; `mbecguard fleet` names the modules that differ.",
            f'count by (kernel, content) (mbecguard_info{{{OURS}, content!=""}})',
            width=12,
        ),
    ),
    "What the hosts see": (
        View(
            stat,
            "Machines by state",
            "As their hosts enforce it, whatever their guests tell.",
            f"count by (state) (mbecguard_host_machine_state{{{HOSTS}}} == 1)",
            "{{state}}",
        ),
        View(
            table,
            "Machines without a seal",
            "`mbecguard-host check` there says what keeps each from being locked.",
            f'mbecguard_host_machine_state{{{HOSTS}, state!="sealed"}} == 1',
            width=18,
        ),
        View(
            timeseries,
            "Denied fetches by machine",
            "`mbecguard-host witness` has the last ones.",
            f"increase(mbecguard_host_machine_denied_fetches_total{{{HOSTS}}}[$__rate_interval])",
            "{{machine}}",
            width=12,
        ),
        View(
            timeseries,
            "Age of what each host tells",
            "mbecguard-host-metrics.timer asks it every minute.",
            f"time() - mbecguard_host_witness_time_seconds{{{HOSTS}}}",
            "{{instance}}",
            "s",
            12,
        ),
    ),
}


def _panel(view: View) -> Any:
    query = prometheus.Dataquery().ref_id("A").expr(view.query).legend_format(view.legend or "__auto")
    if view.kind is table:
        query = query.instant().format(PromQueryFormat.TABLE)
    elif view.kind is stat:
        query = query.instant()
    steps = [Threshold(value=value, color=colour) for value, colour in view.colours]
    panel = (
        view.kind.Panel()
        .title(view.title)
        .description(view.about)
        .datasource(SOURCE)
        .with_target(query)
        .unit(view.unit)
        .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .span(view.width)
        .height(view.height)
    )
    if view.kind is stat:
        return panel.color_mode(BigValueColorMode.BACKGROUND).reduce_options(
            common.ReduceDataOptions().calcs(["lastNotNull"])
        )
    return panel


def _instances(name: str, label: str, metric: str) -> Any:
    """Of whom to show something: all who tell a metric."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(f"label_values({metric}, instance)")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def queries() -> Iterator[tuple[str, str]]:
    """Each panel's title and query."""
    return ((view.title, view.query) for views in VIEWS.values() for view in views)


def text() -> str:
    """The content of the file."""
    made = (
        dashboard.Dashboard("Kernel code locked by hypervisors (mbecguard)")
        .uid("mbecguard")
        .tags(["mbecguard", "security"])
        .readonly()
        .refresh("1m")
        .time("now-24h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_instances("instance", "Guest", "mbecguard_state"))
        .with_variable(_instances("host", "Host", "mbecguard_host_witness_time_seconds"))
    )
    for title, views in VIEWS.items():
        made = made.with_row(dashboard.Row(title))
        for view in views:
            made = made.with_panel(_panel(view))
    return JSONEncoder(sort_keys=True, indent=1).encode(made.build()) + "\n"


def main() -> None:
    """Write the file anew."""
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text())


if __name__ == "__main__":
    main()
