"""`make picture`: draws the dashboard as Grafana would, from the data of a Prometheus that runs.

For docs/images/dashboard.png, where no Grafana is at hand.
"""

import argparse
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import requests
from matplotlib import dates
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from ops.grafana.dashboard import FILE

PICTURE = Path(__file__).parent.parent.parent / "docs" / "images" / "dashboard.png"
STEP_SECONDS = 5

_PAGE, _PANEL, _LINE, _TEXT, _FAINT = "#111217", "#181b1f", "#2c3235", "#d8d9da", "#9fa7b3"
_COLORS = {"green": "#3f9142", "yellow": "#b8950b", "orange": "#d9730d", "red": "#c4162a"}
_SERIES = ("#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#e02f44", "#b877d9", "#8ab8ff", "#fade2a")
# Of Grafana's grid: its width in cells, a cell's size in pixels, and the room between panels, in cells.
_CELLS, _CELL_WIDTH, _CELL_HEIGHT, _GAP = 24, 66, 27, (0.08, 0.2)
_DPI = 100


class Line(NamedTuple):
    """A series: its legend, its times and values."""

    legend: str
    times: list[datetime]
    values: list[float]


class Prometheus:
    """Where the data come from."""

    def __init__(self, url: str, minutes: float) -> None:
        self._url = url
        self._end = time.time()
        self._start = self._end - minutes * 60
        self._variables = {"$__rate_interval": f"{4 * STEP_SECONDS}s", "$__range": f"{round(minutes * 60)}s"}

    def lines(self, target: dict[str, Any]) -> Iterator[Line]:
        """The series of a panel's target. Blocks; raises requests' errors."""
        expr = target["expr"]
        for variable, value in self._variables.items():
            expr = expr.replace(variable, value)
        query = {"query": expr, "start": self._start, "end": self._end, "step": STEP_SECONDS}
        answer = requests.get(f"{self._url}/api/v1/query_range", params=query, timeout=30)
        answer.raise_for_status()
        for series in answer.json()["data"]["result"]:
            legend = target["legendFormat"]
            for label, value in series["metric"].items():
                legend = legend.replace(f"{{{{{label}}}}}", value)
            times = [datetime.fromtimestamp(at, UTC) for at, _ in series["values"]]
            yield Line(legend, times, [float(value) for _, value in series["values"]])


def draw(board: dict[str, Any], prometheus: Prometheus) -> Figure:
    """The dashboard, but for its texts."""
    mpl.rcParams.update({"font.family": "DejaVu Sans", "font.size": 7.5, "text.color": _TEXT, "axes.edgecolor": _LINE})
    panels = [panel for panel in board["panels"] if panel["type"] in {"stat", "timeseries"}]
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    rows = [panel for panel in board["panels"] if panel["type"] == "row" and panel["gridPos"]["y"] < bottom]
    size = (_CELLS * _CELL_WIDTH / _DPI, (bottom + 0.4) * _CELL_HEIGHT / _DPI)
    figure = Figure(figsize=size, dpi=_DPI, facecolor=_PAGE)
    whole = figure.add_axes((0, 0, 1, 1))
    whole.set_xlim(0, _CELLS)
    whole.set_ylim(bottom + 0.2, -0.2)
    whole.axis("off")
    for row in rows:
        whole.text(0.15, row["gridPos"]["y"] + 0.65, f"⌄  {row['title']}", fontsize=9.5, weight="bold", va="center")
    for panel in panels:
        lines = [line for target in panel["targets"] for line in prometheus.lines(target)]
        _frame(whole, panel, lines)
        draw_one = _stat if panel["type"] == "stat" else _graph
        draw_one(figure, whole, panel, lines)
    return figure


def _frame(whole: Axes, panel: dict[str, Any], lines: list[Line]) -> None:
    x, y, width, height = _place(panel)
    background = _PANEL
    if panel["type"] == "stat" and lines:
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        reached = [step for step in steps if step["value"] is None or lines[0].values[-1] >= step["value"]]
        background = _COLORS[reached[-1]["color"]]
    box = FancyBboxPatch((x, y), width, height, "round,pad=0,rounding_size=0.06", fc=background, ec=_LINE, lw=0.8)
    whole.add_patch(box)
    whole.text(x + 0.14, y + 0.62, panel["title"], fontsize=8.5, weight="bold", va="center")


def _stat(figure: Figure, whole: Axes, panel: dict[str, Any], lines: list[Line]) -> None:
    x, y, width, height = _place(panel)
    defaults = panel["fieldConfig"]["defaults"]
    if panel["options"]["graphMode"] == "area" and lines:
        axes = _axes(figure, whole, (x, y + 0.55 * height, width, 0.45 * height))
        axes.axis("off")
        axes.fill_between(lines[0].times, lines[0].values, color="white", alpha=0.18, lw=0)
        axes.set_ylim(0, max(*lines[0].values, 1e-9) * 1.05)
        axes.margins(x=0)
    value = _stat_text(defaults, lines[0].values[-1]) if lines else defaults["noValue"]
    whole.text(
        x + width / 2, y + 0.6 * height, value, fontsize=18, weight="bold", ha="center", va="center", color="white"
    )


def _stat_text(defaults: dict[str, Any], value: float) -> str:
    for mapping in defaults.get("mappings", []):
        for key, result in mapping["options"].items():
            if float(key) == value:
                return str(result["text"])
    return in_unit(defaults["unit"], round(value) if defaults["decimals"] == 0 else value)


def _graph(figure: Figure, whole: Axes, panel: dict[str, Any], lines: list[Line]) -> None:
    x, y, width, height = _place(panel)
    defaults = panel["fieldConfig"]["defaults"]
    if not lines:
        whole.text(x + width / 2, y + height / 2, defaults["noValue"], color=_FAINT, ha="center", va="center")
        return
    axes = _axes(figure, whole, (x + 0.85, y + 1.15, width - 1.05, height - 3.0))
    if defaults["custom"].get("stacking", {}).get("mode") == "normal":
        axes.stackplot(lines[0].times, *(line.values for line in lines), colors=_SERIES, alpha=0.8, lw=0)
        for color, line in zip(_SERIES, lines, strict=False):
            axes.plot([], [], color=color, label=line.legend)
    else:
        for color, line in zip(_SERIES, lines, strict=False):
            axes.plot(line.times, line.values, color=color, lw=1.2, label=line.legend)
            axes.fill_between(line.times, line.values, color=color, alpha=0.1, lw=0)
    axes.set_facecolor(_PANEL)
    axes.grid(color=_LINE, lw=0.5)
    axes.tick_params(colors=_FAINT, length=0, labelsize=7)
    axes.set_ylim(0, defaults.get("max") or max(axes.get_ylim()[1], 1e-3))
    axes.margins(x=0)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: in_unit(defaults["unit"], value)))
    minutes = (lines[0].times[-1] - lines[0].times[0]).total_seconds() / 60
    axes.xaxis.set_major_locator(dates.MinuteLocator(interval=max(1, round(minutes / width * 1.5))))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    whole.legend(
        *axes.get_legend_handles_labels(),
        loc="lower left",
        bbox_to_anchor=(x + 0.05, y + height - 0.1),
        bbox_transform=whole.transData,
        ncols=6,
        frameon=False,
        handlelength=1.0,
        columnspacing=0.7,
        labelcolor=_TEXT,
        fontsize=6.5,
    )
    # One figure can have one legend an axes: keep it, and let the next panel add its own.
    whole.add_artist(whole.get_legend())


def in_unit(unit: str, value: float) -> str:
    """A value as Grafana shows it."""
    if unit == "percentunit":
        return f"{value * 100:.3g}%"
    if unit == "s":
        for least, factor, name in ((60, 1 / 60, "min"), (1, 1, "s"), (0.001, 1e3, "ms")):
            if abs(value) >= least:
                return f"{value * factor:.3g} {name}"
        return "0 s" if value == 0 else f"{value * 1e6:.3g} µs"
    names = {"eps": " evt/s", "reqps": " req/s", "recps": " rec/s", "wps": " wr/s"}
    number = f"{value / 1000:.3g} K" if abs(value) >= 1000 else f"{value:.3g}"
    return number + names.get(unit, "")


def _place(panel: dict[str, Any]) -> tuple[float, float, float, float]:
    at = panel["gridPos"]
    return at["x"] + _GAP[0], at["y"] + _GAP[1], at["w"] - 2 * _GAP[0], at["h"] - 2 * _GAP[1]


def _axes(figure: Figure, whole: Axes, cells: tuple[float, float, float, float]) -> Axes:
    """Axes over these cells of the grid: left, top, width, height."""
    left, top, width, height = cells
    to_figure = whole.transData + figure.transFigure.inverted()
    (x0, y1), (x1, y0) = to_figure.transform([(left, top), (left + width, top + height)])
    return figure.add_axes((x0, y0, x1 - x0, y1 - y0))


def main() -> None:
    """Draws the last minutes into the file."""
    parser = argparse.ArgumentParser(prog="python -m ops.grafana.picture", description=__doc__)
    parser.add_argument("url", help="of Prometheus, such as http://localhost:9090")
    parser.add_argument("--minutes", type=float, default=15, help="how many of the last minutes to draw")
    parser.add_argument("--output", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    figure = draw(json.loads(FILE.read_text()), Prometheus(arguments.url, arguments.minutes))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output, facecolor=_PAGE)
    # A quarter of the size, without a visible difference.
    with Image.open(arguments.output) as picture:
        picture.convert("RGB").quantize(96, dither=Image.Dither.NONE).save(arguments.output, optimize=True)


if __name__ == "__main__":
    main()
