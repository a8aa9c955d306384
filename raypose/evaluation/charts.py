"""Plots of an evaluation and of a few-shot study, by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raypose import metrics
from raypose.captions.taxonomy import Taxonomy
from raypose.pages import plots
from raypose.pages.plots import BLUE, GREEN, GREY, ORANGE

__all__ = [
    "NAMES",
    "confusion_plot",
    "few_shot_plot",
    "phases",
    "reliability_plot",
    "risk_plot",
    "seeds_plot",
    "time_plot",
    "training_plots",
]

PHASES = {
    "computing": BLUE,
    "waiting for pictures": ORANGE,
    "validating": GREEN,
    "waiting for checkpoints": GREY,
}
"""What the time of an epoch goes into."""
COLORS = (BLUE, ORANGE, GREEN)
NAMES = {
    "top1": "top-1",
    "top5": "top-5",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "nll": "NLL",
    "ece": "ECE",
    "aurc": "risk over coverages",
}


def few_shot_plot(document: Mapping[str, Any]) -> Figure:
    """Draw accuracy over pictures a class: each draw, the mean and its interval."""
    figure, axes = plots.axes("pictures a class", "top-1", wide=True)
    sizes = document["per_class"]
    for (method, points), color in zip(document["methods"].items(), COLORS, strict=False):
        means = [point["mean"] for point in points]
        low = [point["interval"][0] for point in points]
        high = [point["interval"][1] for point in points]
        axes.fill_between(sizes, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(sizes, means, color=color, marker="o", markersize=4, label=method)
        for size, point in zip(sizes, points, strict=True):
            axes.scatter([size] * len(point["top1"]), point["top1"], color=color, s=8, alpha=0.5)
    axes.axhline(document["zero_shot"], color=GREY, linestyle=":", label="zero-shot")
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    top = axes.get_ylim()[1]
    axes.set_ylim(0, max(min(1.02, top), 1.0))
    axes.legend(framealpha=0.9, edgecolor="none", loc="lower right")
    return figure


def reliability_plot(document: Mapping[str, Any]) -> Figure:
    """Draw accuracy over confidence, the size of a point being its number of pictures."""
    figure, axes = plots.axes("confidence", "share that is right")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    points = np.array(document["reliability"])
    sizes = 12 + 160 * points[:, 2] / points[:, 2].max()
    axes.plot(points[:, 0], points[:, 1], color=BLUE, linewidth=1)
    axes.scatter(points[:, 0], points[:, 1], s=sizes, color=BLUE, alpha=0.6)
    axes.set_title(f"reliability: ECE {document['ece']:.3f}", fontsize=10)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    return figure


def risk_plot(document: Mapping[str, Any]) -> Figure:
    """Draw the share of wrong answers over the share of pictures answered, the surest first."""
    figure, axes = plots.axes(
        "share of pictures answered, the surest first", "share of these wrong"
    )
    points = np.array(document["risk_coverage"])
    axes.plot(points[:, 0], points[:, 1], color=BLUE, marker=".")
    axes.set_title(f"risk over coverage: mean {document['aurc']:.3f}", fontsize=10)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, max(0.02, 1.1 * points[:, 1].max()))
    return figure


def training_plots(lines: Sequence[Mapping[str, Any]]) -> tuple[Figure, Figure]:
    """Draw loss and accuracy over the epochs of a run: see `tracking.read`."""
    epochs = [line["epoch"] for line in lines]
    loss, axes = plots.axes("epoch", "loss (nats)")
    axes.plot(epochs, [line["train_loss"] for line in lines], color=BLUE, marker=".", label="train")
    scored = [line for line in lines if "val_nll" in line]
    at = [line["epoch"] for line in scored]
    axes.plot(at, [line["val_nll"] for line in scored], color=ORANGE, marker=".", label="val NLL")
    axes.legend(frameon=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    accuracy, axes = plots.axes("epoch", "on validation")
    for name, color in (("val_top1", BLUE), ("val_balanced_accuracy", ORANGE)):
        words = NAMES[name.removeprefix("val_")]
        axes.plot(at, [line[name] for line in scored], color=color, marker=".", label=words)
    axes.legend(frameon=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return loss, accuracy


def seeds_plot(runs: Mapping[str, Sequence[Mapping[str, Any]]], key: str) -> Figure:
    """Draw a figure over the epochs of several runs: name → lines, see `tracking.read`."""
    figure, axes = plots.axes("epoch", NAMES.get(key.removeprefix("val_"), key))
    for name, lines in runs.items():
        known = [line for line in lines if key in line]
        at = [line["epoch"] for line in known]
        axes.plot(at, [line[key] for line in known], marker=".", label=name)
    axes.legend(frameon=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def time_plot(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw what the time of each epoch went into: see `phases`."""
    figure, axes = plots.axes("seconds", "epoch", wide=True)
    left = np.zeros(len(lines))
    epochs = [line["epoch"] for line in lines]
    for name, color in PHASES.items():
        widths = np.array([phases(line)[name] for line in lines])
        axes.barh(epochs, widths, left=left, color=color, label=name, height=0.7)
        left += widths
    axes.invert_yaxis()
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.25))
    return figure


def phases(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds of an epoch by what they went into, the keys of `PHASES`."""
    waited = line["train_s"] * line["data_wait"]
    return dict(
        zip(
            PHASES,
            (line["train_s"] - waited, waited, line.get("val_s", 0.0), line["checkpoint_s"]),
            strict=True,
        )
    )


def confusion_plot(counts: metrics.Counts, order: Sequence[int], classes: Taxonomy) -> Figure:
    """Draw a confusion matrix; lines part the highest level of the tree.

    Args:
        counts: int64 (C, C), rows true.
        order: of the classes.
        classes: their cards.
    """
    share = counts[np.ix_(order, order)] / np.maximum(counts[order].sum(1, keepdims=True), 1)
    figure = Figure(figsize=(7.2, 6.6))
    axes = figure.add_subplot()
    shown = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    names = [classes.cards[k].name for k in order]
    small = len(order) > 30
    axes.set_yticks(range(len(order)), names, fontsize=4.2 if small else 8)
    axes.set_xticks(range(len(order)), names, fontsize=4.2 if small else 8, rotation=90)
    axes.tick_params(length=0)
    tops = [classes.cards[k].parents[-1] if classes.cards[k].parents else "" for k in order]
    for row in range(1, len(order)):
        if tops[row] != tops[row - 1]:
            axes.axhline(row - 0.5, color=ORANGE, linewidth=0.5)
            axes.axvline(row - 0.5, color=ORANGE, linewidth=0.5)
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    figure.colorbar(shown, ax=axes, shrink=0.6, label="share of the class's pictures")
    return figure
