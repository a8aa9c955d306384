"""Plots of a search: Optuna's own of where trials lie, ours of what it does not draw.

Optuna draws by pyplot: its figures are closed, and its settings undone, before anything returns.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import optuna
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from raypose.pages import plots
from raypose.pages.plots import BLUE, GREEN, GREY, ORANGE
from raypose.tuning.records import Trial

__all__ = [
    "Row",
    "clip",
    "drawing",
    "front",
    "history_plot",
    "latency_plot",
    "parallel_plot",
    "row_plot",
    "rungs_plot",
    "slice_plot",
]

SCORE = "balanced accuracy"
COLORS = {"finished": BLUE, "stopped": GREY, "running": GREEN, "failed": ORANGE}
MAX_LABEL = 34
"""Characters of a name in a plot."""


@dataclass(frozen=True)
class Row:
    """One line of a plot of figures with intervals.

    Attributes:
        label: what it is of.
        value: the figure.
        interval: around it; none where it is not known.
        points: single figures that it is the mean of.
        color: of it.
    """

    label: str
    value: float
    interval: Sequence[float] | None = None
    points: Sequence[float] = ()
    color: str = BLUE


@contextmanager
def drawing() -> Iterator[None]:
    """Draw without a screen; names are text as they stand, and settings are put back after."""
    plain = {"text.parse_math": False, "svg.hashsalt": "raypose"}  # the same page each time
    with matplotlib.rc_context(plain), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks, what Optuna calls new
        yield


def clip(text: str, size: int = MAX_LABEL) -> str:
    """Return a text with its middle left out where it is long: both ends tell names apart."""
    if len(text) <= size:
        return text
    return f"{text[: size // 2]}…{text[-(size // 2 - 1) :]}"


def history_plot(trials: Sequence[Trial], winner: Trial) -> Figure:
    """Draw the score of each trial over its number, and the best until then."""
    figure, axes = plots.axes("trial", SCORE, wide=True)
    for state in ("stopped", "finished", "running"):
        found = [trial for trial in trials if trial.state == state]
        at = [trial.number for trial in found]
        scores = [trial.score or 0.0 for trial in found]
        axes.scatter(at, scores, s=14, color=COLORS[state], alpha=0.7, linewidth=0, label=state)
    axes.step(
        [trial.number for trial in trials],
        np.maximum.accumulate([trial.score or 0.0 for trial in trials]),
        where="post",
        color=ORANGE,
        linewidth=1.2,
        label="best so far",
    )
    axes.scatter(
        [winner.number],
        [winner.score or 0.0],
        s=70,
        facecolor="none",
        edgecolor=ORANGE,
        label="winner",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend_above(axes, ncols=5)
    return figure


def rungs_plot(trials: Sequence[Trial], winner: Trial) -> Figure:
    """Draw the score of trials over their epochs; those that were stopped are grey."""
    figure, axes = plots.axes("epoch", SCORE, wide=True)
    order = {"stopped": 0, "failed": 1, "finished": 2, "running": 3}
    told: set[str] = set()
    for trial in sorted(trials, key=lambda trial: order[trial.state]):
        label = "" if trial.state in told else trial.state
        told.add(trial.state)
        _curve(axes, trial, COLORS[trial.state], alpha=0.6, linewidth=0.9, label=label)
    _curve(axes, winner, ORANGE, linewidth=2.6, label="winner", zorder=5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend_above(axes, ncols=5)
    return figure


def row_plot(rows: Sequence[Row], xlabel: str) -> Figure:
    """Draw figures with their intervals, one below the other, each with its name above it."""
    figure = Figure(figsize=(4.8, 0.9 + 0.42 * len(rows)))
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#e6e9ee", linewidth=0.8)
    axes.set_axisbelow(True)
    for place, row in enumerate(rows):
        if row.interval:
            low, high = row.interval
            axes.plot([low, high], [place, place], color=row.color, linewidth=2, alpha=0.55)
        axes.scatter(row.points, [place] * len(row.points), s=10, color=row.color, alpha=0.45)
        axes.scatter([row.value], [place], s=36, color=row.color, zorder=3)
        axes.text(
            0.0,
            place - 0.22,
            clip(row.label, 58),
            transform=axes.get_yaxis_transform(),
            fontsize=8.5,
            va="bottom",
        )
    axes.set_ylim(len(rows) - 0.5, -0.85)
    axes.set_yticks([])
    axes.set_xlabel(xlabel)
    axes.margins(x=0.06)
    return figure


def latency_plot(points: Mapping[str, tuple[float, float]], front: Sequence[str]) -> Figure:
    """Draw the best score of each backbone over its latency; a line joins those not surpassed.

    Args:
        points: backbone → milliseconds a picture, score.
        front: the backbones that no other is both faster and better than, the fastest first.
    """
    figure, axes = plots.axes("ms a picture", SCORE, wide=True)
    for name, (ms, score) in points.items():
        color = ORANGE if name in front else GREY
        axes.scatter([ms], [score], s=36, color=color, zorder=3)
        box = {"facecolor": "white", "alpha": 0.8, "pad": 0.8, "linewidth": 0}
        axes.annotate(
            clip(name), (ms, score), (5, 5), textcoords="offset points", fontsize=8, bbox=box
        )
    axes.step(*zip(*(points[name] for name in front), strict=True), where="post", color=ORANGE)
    axes.set_xlim(left=0)
    axes.margins(x=0.25, y=0.15)
    return figure


def parallel_plot(study: optuna.Study, params: Sequence[str]) -> Figure:
    """Draw each trial as a line through its parameters, dark where its score is high."""
    with _of_optuna(2.5 + 1.1 * len(params), 4.4):
        axes: Any = optuna.visualization.matplotlib.plot_parallel_coordinate(
            study, params=list(params), target_name=SCORE
        )
        figure: Figure = axes.figure
        axes.set_title("")
        labels = [clip(label.get_text(), 20) for label in axes.get_xticklabels()]
        axes.set_xticks(range(len(labels)), labels, rotation=12, ha="right", fontsize=8)
        for other in figure.axes[1:]:
            _plain_log(other)
            texts = [label.get_text() for label in other.get_yticklabels()]
            if any(_is_word(text) for text in texts):
                other.set_yticks(other.get_yticks(), [clip(text, 11) for text in texts])
            other.tick_params(labelsize=7.5)
            for label in other.get_yticklabels():
                label.set_bbox({"facecolor": "white", "alpha": 0.8, "pad": 0.8, "linewidth": 0})
        return figure


def slice_plot(study: optuna.Study, name: str) -> Figure:
    """Draw the scores of trials over one parameter, dark for the later ones."""
    with _of_optuna(4.6, 3.3):
        draw: Any = optuna.visualization.matplotlib.plot_slice
        axes = draw(study, params=[name], target_name=SCORE)
        figure: Figure = axes.figure
        figure.axes[-1].set_ylabel("order of trials")
        axes.set_title("")
        axes.set_xlabel(clip(name))
        axes.set_facecolor("white")
        axes.grid(color="#e6e9ee", linewidth=0.8)
        _plain_log(axes)
        return figure


@contextmanager
def _of_optuna(width: float, height: float) -> Iterator[None]:
    """Draw by pyplot in the manner of this page, without a screen; nothing of it is left after."""
    before = set(pyplot.get_fignums())
    style = {"figure.figsize": (width, height), "font.size": 9.0, "text.parse_math": False}
    backend = matplotlib.get_backend()
    pyplot.switch_backend("agg")
    try:
        with matplotlib.rc_context(style):
            yield
    finally:
        for number in set(pyplot.get_fignums()) - before:
            pyplot.close(number)
        pyplot.switch_backend(backend)


def _plain_log(axes: Axes) -> None:
    """Write numbers of an axis over magnitudes as they are: names are not read as formulas."""
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())


def _is_word(text: str) -> bool:
    return any(letter.isalpha() and letter not in "eE" for letter in text)


def _curve(axes: Axes, trial: Trial, color: str, **style: Any) -> None:
    epochs = sorted(trial.scores)
    scores = [trial.scores[epoch] for epoch in epochs]
    axes.plot(epochs, scores, color=color, marker=".", markersize=4, **style)


def _legend_above(axes: Axes, *, ncols: int) -> None:
    axes.legend(
        frameon=False,
        ncols=ncols,
        loc="lower left",
        bbox_to_anchor=(-0.08, 1.0),
        columnspacing=1.0,
        handletextpad=0.4,
        fontsize=9,
    )


def front(points: Iterable[tuple[str, float, float]]) -> list[str]:
    """Return what no other is both faster and better than, the fastest first.

    Args:
        points: of each its name, milliseconds and score.
    """
    found: list[str] = []
    best = -np.inf
    for name, _, score in sorted(points, key=lambda point: (point[1], -point[2])):
        if score > best:
            found.append(name)
            best = score
    return found
