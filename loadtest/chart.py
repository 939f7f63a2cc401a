"""The chart of a load test: the number of events in each place over time, and the latency of each answer."""

from itertools import accumulate
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from loadtest.report import Run, Unknown

_TEXT, _FAINT, _GRID = "#24292f", "#6e7781", "#d8dee4"
_ACCEPTED, _KAFKA, _MONGODB, _PERCENTILES = "#54aeff", "#bf8700", "#1a7f37", "#8250df"


def draw(run: Run, file: Path) -> None:
    """Write a PNG. Raises OSError if that fails."""
    figure = Figure(figsize=(9.6, 4.2), dpi=125, layout="constrained")
    figure.suptitle(_title(run), x=0.01, ha="left", fontsize=11, weight="bold", color=_TEXT)
    places, answers = figure.subplots(1, 2, width_ratios=(4, 3))
    _draw_places(places, run)
    _draw_answers(answers, run)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


def _title(run: Run) -> str:
    ends = {"Kafka": run.in_kafka, "MongoDB": run.in_mongodb}
    known = [f"{len(times):,} in {name}" for name, times in ends.items() if not isinstance(times, Unknown)]
    return ", ".join((f"{run.events:,} events sent by {run.users} users: {run.accepted:,} accepted", *known))


def _draw_places(axes: Axes, run: Run) -> None:
    answers = sorted(run.answers, key=lambda answer: answer.at)
    accepted = [answer.at for answer in answers], list(accumulate(answer.events for answer in answers))
    lines = {"accepted": (_ACCEPTED, *accepted)}
    for name, color, times in (("in Kafka", _KAFKA, run.in_kafka), ("in MongoDB", _MONGODB, run.in_mongodb)):
        if not isinstance(times, Unknown):
            lines[name] = color, times, list(range(1, len(times) + 1))
    end = max(at for _, times, _ in lines.values() for at in (*times, run.sending))
    # The first line is the widest, so it stays visible under the others.
    for width, (name, (color, times, counts)) in zip((5, 2.5, 1.5), lines.items(), strict=False):
        level = [0, *counts, counts[-1] if counts else 0]
        axes.step([0, *times, end], level, where="post", color=color, lw=width, label=name, solid_capstyle="butt")
    axes.set_title("Where the events are", loc="left", fontsize=9.5, color=_TEXT)
    axes.set_xlabel("seconds after the first was sent", color=_FAINT)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlim(0, end * 1.02)
    axes.set_ylim(0, run.events * 1.06)
    axes.legend(loc="lower right", frameon=False, labelcolor=_TEXT)
    _plain(axes)


def _draw_answers(axes: Axes, run: Run) -> None:
    took = [answer.took * 1000 for answer in run.answers]
    axes.scatter([answer.at for answer in run.answers], took, s=14, color=_ACCEPTED, alpha=0.7, lw=0)
    top = max(took) * 1.15
    at = 0.0
    for name, seconds in run.percentiles.items():
        axes.axhline(seconds * 1000, color=_PERCENTILES, lw=1, ls="--")
        # The labels are beside the plot, and apart even if the lines are close together.
        at = max(seconds * 1000, at)
        axes.text(1.02, at, name, transform=axes.get_yaxis_transform(), va="center", fontsize=8, color=_PERCENTILES)
        at += top / 24
    axes.set_title(f"Answers: {run.answer_times}", loc="left", fontsize=9.5, color=_TEXT)
    axes.set_xlabel("seconds after the first was sent", color=_FAINT)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f} ms"))
    axes.set_xlim(0, run.sending * 1.02)
    axes.set_ylim(0, top)
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.grid(color=_GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_FAINT, length=0, labelsize=8, pad=7)
    for side in axes.spines.values():
        side.set_visible(False)
