"""One HTML page of an evaluation, or of a few-shot study, that needs nothing beside it.

Plots are SVG by matplotlib, pictures JPEG, both inside the page; no script, no network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from raypose import metrics
from raypose.captions.taxonomy import Taxonomy
from raypose.console import plural
from raypose.data import images
from raypose.evaluation import charts
from raypose.evaluation.scoring import Mistake, Scored
from raypose.pages import markup, plots

__all__ = ["evaluation_page", "few_shot_page", "seeds_page"]


MAX_PAIRS = 15
FINAL = "this release"


def evaluation_page(
    document: Mapping[str, Any], scored: Scored, lines: Sequence[Mapping[str, Any]]
) -> str:
    """Return the page of an evaluation.

    Args:
        document: of `evaluation.figures`.
        scored: what it was made of, with its mistakes.
        lines: metrics of the run by epoch; none where the run is out of reach.
    """
    classes = scored.classes
    pictures = plural(document["num_examples"], "picture")
    size = f"{pictures}, {plural(document['num_classes'], 'class')}"
    worse = f"This release is {document['verdict']}." if document["verdict"] else ""
    bad = f", {document['num_bad']} that cannot be read" if document["num_bad"] else ""
    parts = [
        f"<p>{escape(document['data'])}: {size}{bad}. Intervals are 95 %, from drawing pictures "
        "anew.</p>",
        f"<p class=verdict>{escape(worse)}</p>" if worse else "",
        markup.section("Figures", _figures(document)),
        markup.section("Training", _training(lines)) if lines else "",
        markup.section("What is taken for what", _confusions(document, classes)),
        markup.section(
            "Can its probabilities be relied on?",
            _pair(charts.reliability_plot(document), charts.risk_plot(document)),
        ),
        markup.section("The worst mistakes", _mistakes(scored, classes)),
        markup.section("Classes, worst first", _per_class(document, classes)),
        markup.section("How it was made", _made(scored)),
    ]
    return markup.page(document["release"], "".join(parts), style=markup.REPORT)


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
    told = ", ".join(f"{method} {rate:g}" for method, rate in document["rates"].items())
    rates = f" Peak learning rates: {told}." if told else ""
    text = (
        f"<p>{draws} draws of the training pictures; each is scored once on the same "
        f"{document['num_test']} pictures of {escape(document['test'])}. Mean ± standard deviation "
        "over draws, and the 95 % interval of the mean (Student's t). Chance is "
        f"{1 / len(document['classes']):.3f}; without any training picture, by captions alone, "
        f"{document['zero_shot']:.3f}{note}.{rates}</p>"
    )
    body = (
        f"{text}{plots.svg(charts.few_shot_plot(document))}"
        f"<div class=wide><table><tr><th>top-1{head}{rows}</table></div>"
        f"<h2>Classes</h2><ul>{classes}</ul>"
    )
    return markup.page(f"{document['name']}: from few pictures", body, style=markup.REPORT)


def seeds_page(
    document: Mapping[str, Any], lines: Mapping[str, Sequence[Mapping[str, Any]]]
) -> str:
    """Return the page of a recipe that was trained with several seeds.

    Args:
        document: of `seeds.conclude`.
        lines: name of a run → its metrics by epoch.
    """
    head = "".join(f"<th>{escape(name)}" for name in lines)
    rows = "".join(
        f"<tr><td>{escape(key)}<td>{found['mean']:.4f} ± {found['sd']:.4f}<br>"
        f"<small>{found['interval'][0]:.4f} to {found['interval'][1]:.4f}</small>"
        + "".join(f"<td>{run['metrics'][key]:.4f}" for run in document["runs"])
        for key, found in document["figures"].items()
    )
    where = "".join(
        f"<li>{escape(run['run_id'])}: {escape(run['url'])}" for run in document["runs"]
    )
    scored = f" scored on {escape(document['data'])}" if document["data"] else ""
    body = (
        f"<p>{plural(len(document['runs']), 'run')} that differ in their seed alone,{scored}. Mean "
        "± standard deviation over seeds, and the 95 % interval of the mean (Student's t).</p>"
        f"<div class=wide><table><tr><th><th>mean{head}{rows}</table></div>"
    )
    shown = [key for key in ("train_loss", "val_balanced_accuracy") if key in document["figures"]]
    drawn = "".join(plots.svg(charts.seeds_plot(lines, key)) for key in shown)
    body += f"<div class=pair>{drawn}</div><h2>Runs</h2><ul>{where}</ul>"
    return markup.page(f"{document['name']}: over seeds", body, style=markup.REPORT)


def _figures(document: Mapping[str, Any]) -> str:
    """Return the table of figures: a row for each model and level."""
    baselines = document.get("baselines", {})
    words = {"zero_shot": "zero-shot", "probe": "probe"}
    models = {FINAL: document} | {words[k]: baselines[k] for k in words if k in baselines}
    head = "".join(f"<th>{charts.NAMES[name]}" for name in metrics.FIGURES)
    rows = []
    for level in range(1 + len(document["parents"])):
        for model, found in models.items():
            at = found if level == 0 else found["parents"][level - 1]
            cells = "".join(_cell(at, name) for name in metrics.FIGURES)
            kind = " class=main" if model == FINAL else ""
            rows.append(f"<tr{kind}><td>{plural(at['num_classes'], 'class')}<td>{model}{cells}")
    notes = [document["note"]] if document["note"] else []
    notes += [
        f"{words[k]}: {baselines[k]['note']}" for k in words if baselines.get(k, {}).get("note")
    ]
    notes += [f"no baselines: {baselines['note']}"] if "note" in baselines else []
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
    around = found["intervals"].get(name)
    shown = f"<br><small>{around[0]:.3f}–{around[1]:.3f}</small>" if around else ""
    return f"<td>{found[name]:.3f}{shown}"


def _training(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return loss, accuracy, and what the time went into, of a run that noted it."""
    drawn = _pair(*charts.training_plots(lines))
    if not all({"train_s", "data_wait", "checkpoint_s"} <= line.keys() for line in lines):
        return drawn
    spent: dict[str, float] = {}
    for line in lines:
        for name, seconds in charts.phases(line).items():
            spent[name] = spent.get(name, 0.0) + seconds
    total = sum(spent.values())
    told = ", ".join(f"{name} {seconds / total:.1%}" for name, seconds in spent.items())
    return f"{drawn}<p>The time went into: {told}.</p>{plots.svg(charts.time_plot(lines))}"


def _pair(left: Figure, right: Figure) -> str:
    return f"<div class=pair>{plots.svg(left)}{plots.svg(right)}</div>"


def _confusions(document: Mapping[str, Any], classes: Taxonomy) -> str:
    """Return the matrix in the order of the tree, and the pairs that are confused most."""
    counts = np.array(document["confusion"])
    order = sorted(range(len(classes)), key=lambda k: (*reversed(classes.cards[k].parents), k))
    figure = charts.confusion_plot(counts, order, classes)
    wrong = counts - np.diag(counts.diagonal())
    pairs = np.dstack(np.unravel_index(np.argsort(-wrong, axis=None), wrong.shape))[0][:MAX_PAIRS]
    rows = "".join(
        f"<tr><td>{escape(classes.cards[true].name)}<td>{escape(classes.cards[predicted].name)}"
        f"<td>{wrong[true, predicted]} of {counts[true].sum()}"
        for true, predicted in pairs
        if wrong[true, predicted]
    )
    pairs_table = (
        f"<table class=words><tr><th>is<th>taken for<th>how often{rows}</table>" if rows else ""
    )
    return (
        "<p class=note>Rows and columns in the order of the tree; lines part its highest level."
        f"</p><div class=wide><div class=matrix>{plots.svg(figure)}</div></div>"
        f"<div class=wide>{pairs_table}</div>"
    )


def _mistakes(scored: Scored, classes: Taxonomy) -> str:
    if not scored.mistakes:
        return "<p>None.</p>"
    return f"<div class=row>{''.join(_mistake(m, scored, classes) for m in scored.mistakes)}</div>"


def _mistake(mistake: Mistake, scored: Scored, classes: Taxonomy) -> str:
    pixels = np.ascontiguousarray(mistake.pixels.transpose(1, 2, 0))
    source = markup.jpeg_source(images.encode(pixels, quality=82))
    true, predicted = classes.cards[mistake.target], classes.cards[mistake.predicted]
    return (
        f'<figure><img src="{source}" alt="{escape(true.name, quote=True)}">'
        f"<figcaption><b>{escape(true.name)}</b> taken for <b>{escape(predicted.name)}</b>, "
        f"{mistake.confidence:.0%} sure<br>“{escape(scored.captions[predicted.id][0])}”"
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
    head = f"<summary>{plural(len(seen), 'class')}</summary>"
    return f"<details>{head}<div class=wide>{table}</div></details>"


def _made(scored: Scored) -> str:
    config = scored.config
    rows = {
        "backbone": config.model.backbone,
        "trained on": config.data.train,
        "validated on": config.data.val or "nothing",
        "method": config.optim.method,
        "objective": config.loss.name,
        "learning rate": f"{config.optim.peak_rate:g}",
        "epochs": str(config.optim.epochs),
        "pictures a step": str(config.optim.batch_size),
        "a caption": scored.captions[scored.classes.cards[0].id][0],
    }
    cells = "".join(f"<tr><td>{name}<td>{escape(value)}" for name, value in rows.items())
    return f"<div class=wide><table class=plain>{cells}</table></div>"
