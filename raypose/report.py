"""One HTML page of an evaluation, or of a few-shot study, that needs nothing beside it.

Plots are SVG by matplotlib, pictures JPEG, both inside the page; no script, no network.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raypose import images, markup, metrics
from raypose.evaluate import Mistake, Scored
from raypose.taxonomy import Taxonomy

__all__ = ["evaluation_page", "few_shot_page", "few_shot_plot"]

INK = "#20242c"
BLUE, ORANGE, GREEN, GREY = "#3b6fd6", "#d9762b", "#2f8f5b", "#98a0ad"
COLORS = (BLUE, ORANGE, GREEN)
MAX_PAIRS = 15
NAMES = {
    "top1": "top-1",
    "top5": "top-5",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "nll": "NLL",
    "ece": "ECE",
    "aurc": "risk over coverages",
}
FINAL = "this release"


def evaluation_page(
    document: Mapping[str, Any], scored: Scored, lines: Sequence[Mapping[str, Any]]
) -> str:
    """Return the page of an evaluation.

    Args:
        document: of `evaluate.figures`.
        scored: what it was made of, with its mistakes.
        lines: metrics of the run by epoch; none where the run is out of reach.
    """
    classes = scored.classes
    size = f"{document['num_examples']} pictures, {document['num_classes']} classes"
    bad = f", {document['num_bad']} that cannot be read" if document["num_bad"] else ""
    parts = [
        f"<p>{escape(document['data'])}: {size}{bad}. Intervals are 95 %, from drawing pictures "
        "anew.</p>",
        _section("Figures", _figures(document)),
        _section("Training", _training(lines)) if lines else "",
        _section("What is taken for what", _confusions(document, classes)),
        _section(
            "Can its probabilities be relied on?",
            f"<div class=pair>{_svg(_reliability(document))}{_svg(_risk(document))}</div>",
        ),
        _section("The worst mistakes", _mistakes(scored, classes)),
        _section("Classes, worst first", _per_class(document, classes)),
        _section("How it was made", _made(scored)),
    ]
    return markup.page(document["release"], "".join(parts), style=STYLE)


def few_shot_page(document: Mapping[str, Any]) -> str:
    """Return the page of a few-shot study: see `fewshot.run`."""
    sizes = document["per_class"]
    head = "".join(f"<th>{size} a class" for size in sizes)
    rows = "".join(
        f"<tr><td>{escape(method)}"
        + "".join(
            f"<td>{point['mean']:.3f} ± {point['sd']:.3f}<br><small>{point['interval'][0]:.3f} to "
            f"{point['interval'][1]:.3f}</small>"
            for point in points
        )
        for method, points in document["methods"].items()
    )
    draws = len(next(iter(document["methods"].values()))[0]["top1"])
    classes = "".join(f"<li>{escape(name)}" for name in document["classes"])
    note = f" ({escape(document['note'])})" if document["note"] else ""
    text = (
        f"<p>{draws} draws of the training pictures; each is scored once on the same "
        f"{document['num_test']} pictures of {escape(document['test'])}. Mean ± standard deviation "
        "over draws, and the 95 % interval of the mean (Student's t). Chance is "
        f"{1 / len(document['classes']):.3f}; without any training picture, by captions alone, "
        f"{document['zero_shot']:.3f}{note}.</p>"
    )
    body = (
        f"{text}{_svg(few_shot_plot(document))}"
        f"<div class=wide><table><tr><th>top-1{head}{rows}</table></div>"
        f"<h2>Classes</h2><ul>{classes}</ul>"
    )
    return markup.page(f"{document['name']}: from few pictures", body, style=STYLE)


def few_shot_plot(document: Mapping[str, Any]) -> Figure:
    """Draw accuracy over pictures a class: each draw, the mean and its interval."""
    figure, axes = _axes("pictures a class", "top-1", wide=True)
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


def _figures(document: Mapping[str, Any]) -> str:
    """Return the table of figures: a row for each way and level."""
    beside = document.get("baselines", {})
    words = {"zero_shot": "zero-shot", "probe": "probe"}
    ways = {FINAL: document} | {words[k]: beside[k] for k in words if k in beside}
    head = "".join(f"<th>{NAMES[name]}" for name in metrics.FIGURES)
    rows = []
    for level in range(1 + len(document["parents"])):
        for way, found in ways.items():
            at = found if level == 0 else found["parents"][level - 1]
            cells = "".join(_cell(at, name) for name in metrics.FIGURES)
            kind = " class=main" if way == FINAL else ""
            rows.append(f"<tr{kind}><td>{at['num_classes']} classes<td>{way}{cells}")
    notes = [f"{words[k]}: {beside[k]['note']}" for k in words if beside.get(k, {}).get("note")]
    notes += [f"no baselines: {beside['note']}"] if "note" in beside else []
    far = document["tree_distances"]
    if sum(far["counts"]):
        steps = [f"{count} at {k + 1}" for k, count in enumerate(far["counts"])]
        notes.append(
            f"mistakes by distance in the tree, 1 being under the same nearest parent: "
            f"{', '.join(steps)}; mean {far['mean']:.2f}"
        )
    text = "".join(f"<p class=note>{escape(note)}</p>" for note in notes)
    return f"<div class=wide><table><tr><th>level<th>{head}{''.join(rows)}</table></div>{text}"


def _cell(found: Mapping[str, Any], name: str) -> str:
    low, high = found["intervals"][name]
    return f"<td>{found[name]:.3f}<br><small>{low:.3f}–{high:.3f}</small>"


def _training(lines: Sequence[Mapping[str, Any]]) -> str:
    epochs = [line["epoch"] for line in lines]
    loss, axes = _axes("epoch", "loss (nats)")
    axes.plot(epochs, [line["train_loss"] for line in lines], color=BLUE, marker=".", label="train")
    scored = [line for line in lines if "val_nll" in line]
    at = [line["epoch"] for line in scored]
    axes.plot(at, [line["val_nll"] for line in scored], color=ORANGE, marker=".", label="val NLL")
    axes.legend(frameon=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    accuracy, axes = _axes("epoch", "on validation")
    for name, color in (("val_top1", BLUE), ("val_balanced_accuracy", ORANGE)):
        words = NAMES[name.removeprefix("val_")]
        axes.plot(at, [line[name] for line in scored], color=color, marker=".", label=words)
    axes.legend(frameon=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return f"<div class=pair>{_svg(loss)}{_svg(accuracy)}</div>"


def _confusions(document: Mapping[str, Any], classes: Taxonomy) -> str:
    """Return the matrix in the order of the tree, and the pairs that are confused most."""
    counts = np.array(document["confusion"])
    order = sorted(range(len(classes)), key=lambda k: (*reversed(classes.cards[k].parents), k))
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
    for place in range(1, len(order)):
        if tops[place] != tops[place - 1]:
            axes.axhline(place - 0.5, color=ORANGE, linewidth=0.5)
            axes.axvline(place - 0.5, color=ORANGE, linewidth=0.5)
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    figure.colorbar(shown, ax=axes, shrink=0.6, label="share of the class's pictures")
    wrong = counts - np.diag(counts.diagonal())
    pairs = np.dstack(np.unravel_index(np.argsort(-wrong, axis=None), wrong.shape))[0][:MAX_PAIRS]
    rows = "".join(
        f"<tr><td>{escape(classes.cards[is_].name)}<td>{escape(classes.cards[told].name)}"
        f"<td>{wrong[is_, told]} of {counts[is_].sum()}"
        for is_, told in pairs
        if wrong[is_, told]
    )
    pairs_table = (
        f"<table class=words><tr><th>is<th>taken for<th>how often{rows}</table>" if rows else ""
    )
    return (
        "<p class=note>Rows and columns in the order of the tree; lines part its highest level."
        f"</p><div class=wide><div class=matrix>{_svg(figure)}</div></div>"
        f"<div class=wide>{pairs_table}</div>"
    )


def _reliability(document: Mapping[str, Any]) -> Figure:
    figure, axes = _axes("confidence", "share that is right")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    points = np.array(document["reliability"])
    sizes = 12 + 160 * points[:, 2] / points[:, 2].max()
    axes.plot(points[:, 0], points[:, 1], color=BLUE, linewidth=1)
    axes.scatter(points[:, 0], points[:, 1], s=sizes, color=BLUE, alpha=0.6)
    axes.set_title(f"reliability: ECE {document['ece']:.3f}", fontsize=10)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    return figure


def _risk(document: Mapping[str, Any]) -> Figure:
    figure, axes = _axes("share of pictures answered, the surest first", "share of these wrong")
    points = np.array(document["risk_coverage"])
    axes.plot(points[:, 0], points[:, 1], color=BLUE, marker=".")
    axes.set_title(f"risk over coverage: mean {document['aurc']:.3f}", fontsize=10)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, max(0.02, 1.1 * points[:, 1].max()))
    return figure


def _mistakes(scored: Scored, classes: Taxonomy) -> str:
    if not scored.mistakes:
        return "<p>None.</p>"
    return f"<div class=row>{''.join(_mistake(m, scored, classes) for m in scored.mistakes)}</div>"


def _mistake(mistake: Mistake, scored: Scored, classes: Taxonomy) -> str:
    pixels = np.ascontiguousarray(mistake.pixels.transpose(1, 2, 0))
    source = markup.jpeg_source(images.encode(pixels, quality=82))
    is_, told = classes.cards[mistake.target], classes.cards[mistake.predicted]
    return (
        f'<figure><img src="{source}" alt="{escape(is_.name, quote=True)}">'
        f"<figcaption><b>{escape(is_.name)}</b> taken for <b>{escape(told.name)}</b>, "
        f"{mistake.confidence:.0%} sure<br>“{escape(scored.captions[told.id][0])}”"
        f"<br><small>{escape(mistake.id)}</small></figcaption></figure>"
    )


def _per_class(document: Mapping[str, Any], classes: Taxonomy) -> str:
    names = {card.id: card.name for card in classes.cards}
    seen = [row for row in document["per_class"] if row["support"]]
    rows = "".join(
        f"<tr><td>{escape(names[row['label']])}<td>{row['support']}"
        + "".join(
            f"<td>{'–' if row[key] is None else f'{row[key]:.3f}'}"
            for key in ("precision", "recall", "f1")
        )
        for row in sorted(seen, key=lambda row: row["f1"])
    )
    table = (
        f"<table class=words><tr><th>class<th>pictures<th>precision<th>recall<th>F1{rows}</table>"
    )
    return f"<details><summary>{len(seen)} classes</summary><div class=wide>{table}</div></details>"


def _made(scored: Scored) -> str:
    config = scored.config
    rows = {
        "backbone": config.model.backbone,
        "trained on": config.data.train,
        "validated on": config.data.val or "nothing",
        "method": config.optim.method,
        "objective": config.loss.name,
        "learning rate": f"{config.optim.learning_rate:g}",
        "epochs": str(config.optim.epochs),
        "pictures a step": str(config.optim.batch_size),
        "a caption": scored.captions[scored.classes.cards[0].id][0],
    }
    cells = "".join(f"<tr><td>{name}<td>{escape(value)}" for name, value in rows.items())
    return f"<div class=wide><table class=plain>{cells}</table></div>"


def _axes(xlabel: str, ylabel: str, *, wide: bool = False) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 3.8) if wide else (4.6, 3.3))
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e9ee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    return figure, axes


def _svg(figure: Figure) -> str:
    """Return a plot as an SVG element that scales to its place."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    return f"<div class=plot>{text}</div>"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:24px auto;padding:0 16px;max-width:1080px;
color:#20242c;background:#fff}
h1{font-size:22px;overflow-wrap:anywhere}h2{font-size:17px;margin:32px 0 8px}
p,li{overflow-wrap:anywhere}small,.note{color:#646b78}.note{font-size:13px;margin:6px 0}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px;margin:8px 0}
th,td{text-align:right;padding:4px 10px;border-bottom:1px solid #e6e9ee;vertical-align:top;
white-space:nowrap;font-variant-numeric:tabular-nums}
th{font-weight:600;color:#646b78}td:first-child,th:first-child,td:nth-child(2),th:nth-child(2){text-align:left}
.words td{white-space:normal}
.main td{background:#f2f6fe;font-weight:600}.main small{font-weight:400}
.plain td{text-align:left;white-space:normal;overflow-wrap:anywhere}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:16px}
.plot svg{display:block;width:100%;height:auto;max-width:720px}.matrix{min-width:640px}
.matrix svg{max-width:860px}
.row{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:14px}
figure{margin:0}figure img{display:block;width:100%;border-radius:4px;background:#eee}
figcaption{font-size:12px;line-height:1.4;margin-top:4px;overflow-wrap:anywhere}
summary{cursor:pointer}
"""
