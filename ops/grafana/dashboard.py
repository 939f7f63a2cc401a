"""The Grafana dashboard, as code. `python -m ops.grafana.dashboard` writes the JSON that Grafana reads.

A panel's runbook is a link to a text panel at the end of the dashboard, which has that section of docs/operations.md.
"""

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, text, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphGradientMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.text import TextMode

ROOT = Path(__file__).parent.parent.parent
FILE = ROOT / "ops" / "grafana" / "dashboards" / "pulse.json"
RUNBOOKS = ROOT / "docs" / "operations.md"
UID = "pulse"
PROMETHEUS = DataSourceRef("prometheus", "prometheus")

_GREEN, _YELLOW, _ORANGE, _RED = "green", "yellow", "orange", "red"
_TRACKING = 'path=~"/api/.*"'
_FIRST_RUNBOOK = 100


class Query(NamedTuple):
    """An expression and what its series are called."""

    expr: str
    legend: str


class Runbook(NamedTuple):
    """A section of the runbooks, as a panel."""

    panel: int
    title: str
    text: str


class Panels:
    """Makes panels that look alike, each with an id of its own."""

    def __init__(self, runbooks: dict[str, Runbook]) -> None:
        """`runbooks` by anchor."""
        self._runbooks = runbooks
        self._ids = count(1)

    def row(self, title: str) -> dashboard.Row:
        """What begins a row."""
        return dashboard.Row(title).id(next(self._ids))

    def state(self, title: str, description: str, expr: str, runbook: str) -> stat.Panel:
        """Up or down now; unknown when nobody tells, and not what was told last."""
        mapping = ValueMap({"1": ValueMappingResult("up", _GREEN), "0": ValueMappingResult("down", _RED)})
        panel = self.number(
            title, description, expr, units.NoUnit, steps=[(1, _GREEN)], runbook=runbook, below=_RED, width=2
        )
        now = _target(Query(expr, title), "A").instant()
        return panel.targets([now]).mappings([mapping]).no_value("unknown").graph_mode(BigValueGraphMode.NONE)

    def number(
        self,
        title: str,
        description: str,
        expr: str,
        unit: str,
        *,
        steps: list[tuple[float, str]],
        runbook: str,
        below: str = _GREEN,
        width: int = 3,
        empty: str = "none yet",
    ) -> stat.Panel:
        """One number on a coloured ground: `below` the first of `steps`, then each step's own colour."""
        thresholds = [Threshold(None, below), *(Threshold(value, color) for value, color in steps)]
        return (
            stat.Panel()
            .id(next(self._ids))
            .title(title)
            .description(description)
            .datasource(PROMETHEUS)
            .with_target(_target(Query(expr, title), "A"))
            .unit(unit)
            .decimals(1 if unit == units.PercentUnit else 0)
            .no_value(empty)
            .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(thresholds))
            .color_mode(BigValueColorMode.BACKGROUND)
            .graph_mode(BigValueGraphMode.AREA)
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
            .links([self._link(runbook)])
            .span(width)
            .height(4)
        )

    def graph(
        self,
        title: str,
        description: str,
        unit: str,
        *queries: Query,
        runbook: str | None = None,
        width: int = 6,
        height: int = 7,
        stacked: bool = False,
        most: float | None = None,
        empty: str = "nothing yet",
    ) -> timeseries.Panel:
        """Lines over time, from 0."""
        panel = (
            timeseries.Panel()
            .id(next(self._ids))
            .title(title)
            .description(description)
            .datasource(PROMETHEUS)
            .targets([_target(query, chr(ord("A") + number)) for number, query in enumerate(queries)])
            .unit(unit)
            .min(0)
            .no_value(empty)
            .line_width(2)
            .fill_opacity(40 if stacked else 12)
            .gradient_mode(GraphGradientMode.OPACITY)
            .show_points(VisibilityMode.NEVER)
            .legend(
                common.VizLegendOptions()
                .display_mode(LegendDisplayMode.LIST)
                .placement(LegendPlacement.BOTTOM)
                .show_legend(True)
            )
            .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
            .span(width)
            .height(height)
        )
        if stacked:
            panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
        if most is not None:
            panel.max(most)
        if runbook is not None:
            panel.links([self._link(runbook)])
        return panel

    def _link(self, anchor: str) -> dashboard.DashboardLink:
        runbook = self._runbooks[anchor]
        return (
            dashboard.DashboardLink(f"Runbook: {runbook.title}")
            .type(DashboardLinkType.LINK)
            .url(f"/d/{UID}?viewPanel={runbook.panel}")
        )


def build() -> Dashboard:
    """The dashboard."""
    runbooks = {anchor(runbook.title): runbook for runbook in read_runbooks()}
    panels = Panels(runbooks)
    board = (
        dashboard.Dashboard("Pulse Pipeline")
        .uid(UID)
        .description("Events on their way: API, Kafka, MongoDB. Generated by ops/grafana/dashboard.py.")
        .tags(["pulse"])
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-15m", "now")
        .refresh("5s")
        .readonly()
        .link(
            dashboard.DashboardLink("Alerts")
            .type(DashboardLinkType.LINK)
            .url("http://localhost:9090/alerts")
            .tooltip("The alerts in Prometheus")
            .target_blank(True)
        )
    )
    rows = {
        "Health": _health,
        "Flow": _flow,
        "Throughput, latency, errors": _essentials,
        "API": _api,
        "Consumer": _consumer,
    }
    for title, row in rows.items():
        board.with_row(panels.row(title))
        for panel in row(panels):
            board.with_panel(panel)
    board.with_row(panels.row("What to do when"))
    for runbook in runbooks.values():
        board.with_panel(_text(runbook, runbooks))
    return board.build()


def _health(panels: Panels) -> Iterator[stat.Panel]:
    yield panels.state(
        "API", "Whether Prometheus gets an answer from every API.", 'min(up{job="pulse-api"})', "api-down"
    )
    yield panels.state(
        "Consumer",
        "Whether Prometheus gets an answer from every consumer.",
        'min(up{job="pulse-consumer"})',
        "consumer-down",
    )
    yield panels.state(
        "Kafka",
        "Whether every consumer has its place in the group and polls.",
        'min(pulse_consumer_dependency_up{dependency="kafka"})',
        "consumer-outside-group",
    )
    yield panels.state(
        "MongoDB",
        "Whether MongoDB takes the writes of every consumer.",
        'min(pulse_consumer_dependency_up{dependency="mongodb"})',
        "mongodb-away",
    )
    yield panels.number(
        "Requests failed",
        "The share of requests of the last 5 minutes that the API answered 5xx; the alert is at 5 %.",
        f'(sum(rate(pulse_api_requests_total{{{_TRACKING},status=~"5.."}}[5m])) or vector(0))'
        f" / (sum(rate(pulse_api_requests_total{{{_TRACKING}}}[5m])) > 0)",
        units.PercentUnit,
        steps=[(0.01, _YELLOW), (0.05, _RED)],
        runbook="api-errors",
        empty="no requests",
    )
    yield panels.number(
        "Oldest unsent event",
        "How long the oldest accepted event has waited for Kafka; the alert is at 2 minutes.",
        "clamp_min(time() - min(pulse_api_oldest_unsent_timestamp_seconds), 0)",
        units.Seconds,
        steps=[(30, _YELLOW), (120, _RED)],
        runbook="events-unsent",
    )
    yield panels.number(
        "Lag",
        "Records in Kafka that are not read yet; the alert is at 10,000. It stands still while MongoDB is away.",
        "sum(pulse_consumer_kafka_lag)",
        units.Short,
        steps=[(1_000, _YELLOW), (10_000, _RED)],
        runbook="lag-high",
    )
    yield panels.number(
        "Dead letters",
        "Events that could not be stored, within the time shown.",
        "sum(increase(pulse_consumer_dlq_total[$__range]))"
        ' + sum(increase(pulse_api_refused_events_total{kept_in="dlq"}[$__range]))',
        units.Short,
        steps=[(1, _ORANGE)],
        runbook="dead-letters-arrive",
    )
    yield panels.number(
        "Alerts",
        "How many alerts fire now; the link above shows them.",
        # No series means that none fires.
        'count(ALERTS{alertstate="firing"}) or vector(0)',
        units.Short,
        steps=[(1, _RED)],
        runbook="api-down",
        width=4,
    )


def _flow(panels: Panels) -> Iterator[timeseries.Panel]:
    yield panels.graph(
        "Accepted, in Kafka, stored",
        "The same events at three places. Where the lines part, events wait between two of them; they are not lost.",
        units.EventsPerSecond,
        Query(_rate("pulse_api_events_accepted_total"), "accepted (202)"),
        Query(_rate("pulse_api_events_produced_total"), "in Kafka"),
        Query(_rate("pulse_consumer_events_stored_total"), "stored"),
        width=14,
        height=9,
    )
    yield panels.graph(
        "Where events wait",
        "Events on their way, by place. Those in the API's memory are in its journal too, where that is on.",
        units.Short,
        Query("sum(pulse_api_queue_depth)", "API: memory"),
        Query("sum(pulse_api_journal_events)", "API: journal"),
        Query("sum(pulse_consumer_kafka_lag)", "Kafka"),
        Query("sum(pulse_consumer_buffer_size)", "consumer"),
        width=10,
        height=9,
    )


def _essentials(panels: Panels) -> Iterator[timeseries.Panel]:
    yield panels.graph(
        "Events",
        "Events acknowledged by Kafka.",
        units.EventsPerSecond,
        Query(_rate("pulse_api_events_produced_total"), "in Kafka"),
        runbook="events-unsent",
    )
    yield panels.graph(
        "API latency",
        "Time to answer a request that sends events. The alert is at half a second for the slowest 1 %.",
        units.Seconds,
        *_quantiles("pulse_api_request_duration_seconds", _TRACKING),
        runbook="api-slow",
    )
    yield panels.graph(
        "Consumed",
        "Events read from Kafka.",
        units.EventsPerSecond,
        Query(_rate("pulse_consumer_events_consumed_total"), "consumed"),
        runbook="lag-grows",
    )
    yield panels.graph(
        "MongoDB write latency",
        "Time of a bulk write. The alert is at a second for the slowest 1 %.",
        units.Seconds,
        *_quantiles("pulse_consumer_write_duration_seconds"),
        runbook="writes-slow",
    )
    yield panels.graph(
        "Error rate",
        "The share of requests answered 4xx (the client's fault) and 5xx (ours; the alert is at 5 %).",
        units.PercentUnit,
        *(
            Query(
                f'(sum(rate(pulse_api_requests_total{{{_TRACKING},status=~"{of}.."}}[$__rate_interval])) or vector(0))'
                f" / (sum(rate(pulse_api_requests_total{{{_TRACKING}}}[$__rate_interval])) > 0)",
                f"{of}xx",
            )
            for of in (4, 5)
        ),
        runbook="api-errors",
        empty="no requests",
    )
    yield panels.graph(
        "Events by type",
        "Events accepted, by their event_type.",
        units.EventsPerSecond,
        Query(_rate("pulse_api_events_accepted_total", "event_type"), "{{event_type}}"),
        stacked=True,
    )
    yield panels.graph(
        "Consumer buffer",
        "Records read and not yet stored: at most two batches (CONSUMER_BATCH_SIZE).",
        units.Short,
        Query("sum(pulse_consumer_buffer_size)", "records"),
        runbook="mongodb-away",
    )
    yield panels.graph(
        "Dead letters",
        "Records that could not be stored, by the class of the error.",
        units.RecordsPerSecond,
        Query(_rate("pulse_consumer_dlq_total", "reason"), "{{reason}}"),
        runbook="dead-letters-arrive",
    )


def _api(panels: Panels) -> Iterator[timeseries.Panel]:
    yield panels.graph(
        "Requests by answer",
        "Requests that send events, by route and status.",
        units.RequestsPerSecond,
        Query(
            f"sum by (path, status) (rate(pulse_api_requests_total{{{_TRACKING}}}[$__rate_interval]))",
            "{{status}} {{path}}",
        ),
        runbook="api-errors",
        width=8,
    )
    yield panels.graph(
        "Rejected by reason",
        "Requests refused as a whole. Our fault are queue_full and journal_full, and crowded at times.",
        units.RequestsPerSecond,
        Query(_rate("pulse_api_rejected_total", "reason") + " > 0", "{{reason}}"),
        runbook="api-errors",
        width=8,
        empty="nothing rejected",
    )
    yield panels.graph(
        "Failed tries to send to Kafka",
        "Each failed try of each event; it is tried again until Kafka has it.",
        units.EventsPerSecond,
        Query(_rate("pulse_api_produce_errors_total"), "failed tries"),
        runbook="events-unsent",
        width=8,
    )
    yield panels.graph(
        "Queue and journal",
        "Events accepted that Kafka has not acknowledged, in memory and on disk; the latter are all of them.",
        units.Short,
        Query("sum(pulse_api_queue_depth)", "queue"),
        Query("sum(pulse_api_journal_events)", "journal"),
        runbook="queue-filling",
        width=8,
    )
    yield panels.graph(
        "Queue and journal, how full",
        "Of the worker that has most. The alerts are at 80 % of a queue and 70 % of a journal.",
        units.PercentUnit,
        Query("max(pulse_api_queue_filled_ratio)", "queue"),
        Query("max(pulse_api_journal_filled_ratio)", "journal"),
        runbook="journal-filling",
        width=8,
        most=1,
    )
    yield panels.graph(
        "Oldest unsent event",
        "How long the oldest accepted event has waited for Kafka; the alert is at 2 minutes.",
        units.Seconds,
        Query("clamp_min(time() - min(pulse_api_oldest_unsent_timestamp_seconds), 0)", "age"),
        runbook="events-unsent",
        width=8,
    )


def _consumer(panels: Panels) -> Iterator[timeseries.Panel]:
    yield panels.graph(
        "Lag by partition",
        "Records in Kafka that are not read yet. One partition alone: one customer sends very much.",
        units.Short,
        Query("max by (partition) (pulse_consumer_kafka_lag)", "partition {{partition}}"),
        runbook="lag-grows",
    )
    yield panels.graph(
        "End to end",
        "From an event's arrival at the API until it is stored. At low rates the flush interval (1 s) shows.",
        units.Seconds,
        *_quantiles("pulse_consumer_end_to_end_seconds"),
        runbook="lag-grows",
    )
    yield panels.graph(
        "Writes and retries",
        "Bulk writes by outcome, and flushes tried again after MongoDB or the dead letter topic failed.",
        units.WritesPerSecond,
        Query(_rate("pulse_consumer_writes_total", "status"), "{{status}}"),
        Query(_rate("pulse_consumer_retries_total"), "retries"),
        runbook="writes-retried",
    )
    yield panels.graph(
        "Duplicates skipped",
        "Events that were stored already: sent twice by a client, or read twice after something died.",
        units.EventsPerSecond,
        Query(_rate("pulse_consumer_duplicates_skipped_total"), "duplicates"),
        runbook="consumer-stuck",
    )


def _rate(counter: str, *by: str) -> str:
    grouping = f" by ({', '.join(by)}) " if by else ""
    return f"sum{grouping}(rate({counter}[$__rate_interval]))"


def _quantiles(histogram: str, selector: str = "") -> Iterator[Query]:
    series = f"{histogram}_bucket{{{selector}}}" if selector else f"{histogram}_bucket"
    for quantile, legend in ((0.5, "p50"), (0.99, "p99")):
        yield Query(f"histogram_quantile({quantile}, sum by (le) (rate({series}[$__rate_interval])))", legend)


def _target(query: Query, ref: str) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery().datasource(PROMETHEUS).expr(query.expr).legend_format(query.legend).ref_id(ref).range()
    )


def anchor(heading: str) -> str:
    """A heading's anchor, as Markdown pages have it."""
    return heading.lower().replace(" ", "-")


def read_runbooks() -> Iterator[Runbook]:
    """The sections of docs/operations.md."""
    sections = re.split(r"^## (.+)\n", RUNBOOKS.read_text(), flags=re.MULTILINE)[1:]
    for number, (title, body) in enumerate(zip(sections[::2], sections[1::2], strict=True)):
        yield Runbook(_FIRST_RUNBOOK + number, title, body.strip())


def _text(runbook: Runbook, runbooks: dict[str, Runbook]) -> text.Panel:
    # Links to other sections lead to their panels.
    content = re.sub(r"\(#([a-z-]+)\)", lambda link: f"(/d/{UID}?viewPanel={runbooks[link[1]].panel})", runbook.text)
    return (
        text.Panel()
        .id(runbook.panel)
        .title(runbook.title)
        .description("From docs/operations.md.")
        .mode(TextMode.MARKDOWN)
        .content(content)
        .span(8)
        .height(12)
    )


def render() -> str:
    """The dashboard's JSON."""
    return JSONEncoder(sort_keys=True, indent=2).encode(build()) + "\n"


if __name__ == "__main__":
    FILE.write_text(render())
