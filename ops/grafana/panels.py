"""What the dashboard's panels look like: the Grafana SDK, with our choices made."""

import re
from itertools import count
from typing import NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, text, timeseries
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
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.text import TextMode

from ops.grafana.runbooks import Runbook

UID = "pulse"
PROMETHEUS = DataSourceRef("prometheus", "prometheus")
GREEN, YELLOW, ORANGE, RED = "green", "yellow", "orange", "red"


class Query(NamedTuple):
    """An expression and what its series are called."""

    expr: str
    legend: str


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
        """Up or down now; unknown without a current value, never the last known one."""
        mapping = ValueMap({"1": ValueMappingResult("up", GREEN), "0": ValueMappingResult("down", RED)})
        panel = self.number(
            title, description, expr, units.NoUnit, steps=[(1, GREEN)], runbook=runbook, below=RED, width=2
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
        below: str = GREEN,
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

    def text(self, runbook: Runbook) -> text.Panel:
        """A runbook; links to other sections lead to their panels."""
        content = re.sub(r"\(#([a-z-]+)\)", lambda link: f"({self._url(link[1])})", runbook.text)
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

    def _link(self, anchor: str) -> dashboard.DashboardLink:
        title = f"Runbook: {self._runbooks[anchor].title}"
        return dashboard.DashboardLink(title).type(DashboardLinkType.LINK).url(self._url(anchor))

    def _url(self, anchor: str) -> str:
        return f"/d/{UID}?viewPanel={self._runbooks[anchor].panel}"


def _target(query: Query, ref: str) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery().datasource(PROMETHEUS).expr(query.expr).legend_format(query.legend).ref_id(ref).range()
    )
