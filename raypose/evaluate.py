"""Release × data set → figures, two releases compared, and the way from a run to a release.

Pictures are decoded by Ray Data on the cluster and scored here, on this process's GPU if any.
"""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from raypose import data, finish, inputs, metrics, provenance, registry, storage, train
from raypose.baselines import Baseline, baselines
from raypose.config import Config
from raypose.console import say
from raypose.embedding import Progress
from raypose.errors import DataError, RayposeError, TrainError
from raypose.order import Part
from raypose.predictor import Predictor, write_release
from raypose.taxonomy import Taxonomy

__all__ = [
    "Mistake",
    "Scored",
    "compare",
    "comparison_table",
    "evaluate",
    "figures",
    "publish",
    "score",
    "table",
]

BATCH_SIZE = 64
COLUMNS = ("precision", "recall", "f1")


@dataclass(frozen=True, order=True)
class Mistake:
    """A picture that was taken for something else.

    Attributes:
        confidence: of the wrong class, in 0..1.
        id: of the picture.
        target: the true class's number.
        predicted: the other's.
        pixels: uint8 (3, S, S), as the model sees it.
    """

    confidence: float
    id: str
    target: int = field(compare=False)
    predicted: int = field(compare=False)
    pixels: npt.NDArray[np.uint8] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Scored:
    """A data set as a release sees it.

    Attributes:
        release: which.
        url: of the data set.
        config: of the release.
        classes: of the release.
        captions: of each class, at evaluation.
        ids: N example ids, of good pictures.
        targets: int64 (N,), class numbers.
        probabilities: float32 (N, C).
        bad: id → error of pictures that cannot be read.
        mistakes: the most confident, worst first.
    """

    release: str
    url: str
    config: Config
    classes: Taxonomy
    captions: Mapping[str, list[str]]
    ids: list[str]
    targets: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    bad: Mapping[str, str]
    mistakes: list[Mistake]


def score(
    root: str,
    reference: str,
    url: str,
    *,
    num_mistakes: int = 0,
    progress: Progress = lambda done, total: None,
) -> Scored:
    """Classify a data set by a release.

    Args:
        root: the storage root.
        reference: of the release.
        url: of the shards.
        num_mistakes: pictures to keep of those that were taken for something else.
        progress: told (pictures done, in all).

    Raises:
        DataError: where no picture can be read.
    """
    release = registry.resolve(root, reference)
    with tempfile.TemporaryDirectory() as name:
        folder = registry.fetch(release, Path(name))
        predictor = Predictor.load(folder)
        spoken = storage.read_json(str(folder / "captions.json"))["captions"]
    classes, config = predictor.classes, predictor.config
    manifest = inputs.check(url, classes, key="data")
    reader = data.load(
        url,
        classes.index(),
        config.data,
        size=predictor.clip.image_size,
        resize=config.model.resize,
        cache=False,
    )
    odds, targets, ids, done = [], [], [], 0
    bad: dict[str, str] = {}
    worst: list[Mistake] = []
    for batch in reader.batches(reader.share(Part()), batch_size=BATCH_SIZE):
        good = [row for row, error in enumerate(batch.errors) if not error]
        bad |= batch.bad
        if good:
            pixels, true = batch.pixels[good].numpy(), batch.targets[good].numpy()
            odds.append(predictor.probabilities(pixels))
            targets.append(true)
            ids += [batch.ids[row] for row in good]
            found = _mistakes(odds[-1], true, ids[-len(good) :], pixels)
            worst = heapq.nlargest(num_mistakes, [*worst, *found])
        done += len(batch)
        progress(done, manifest.num_rows)
    if not targets:
        raise DataError(f"{url}: holds no good picture")
    return Scored(
        release=str(release),
        url=url,
        config=config,
        classes=classes,
        captions=spoken,
        ids=ids,
        targets=np.concatenate(targets),
        probabilities=np.concatenate(odds),
        bad=bad,
        mistakes=worst,
    )


def evaluate(
    root: str,
    reference: str,
    url: str,
    *,
    beside: bool = True,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Score a release on a data set: see `score` and `figures`."""
    return figures(score(root, reference, url, progress=progress), beside=beside, progress=progress)


def figures(
    scored: Scored, *, beside: bool = True, progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """Return all figures of a scored data set.

    Args:
        scored: by a release.
        beside: score the model it came from too, by its captions and by a probe.
        progress: told of the sets read for that.

    Returns:
        release, data, bad, num_bad, the figures of `metrics.summarize`, in `parents` those of
        `metrics.at_parents` for each level of the tree, nearest first, `tree_distances`, and in
        `baselines` the same figures without classes for ``zero_shot`` and ``probe``, each with a
        note; or only a note, why they are not there.
    """
    classes = scored.classes
    levels = [classes.parents(level) for level in range(len(classes.levels))]
    guesses = scored.probabilities.argmax(axis=1)
    document = {
        "release": scored.release,
        "data": scored.url,
        "bad": dict(scored.bad),
        "num_bad": len(scored.bad),
        **_levels(scored.probabilities, scored.targets, classes),
        "tree_distances": metrics.tree_distances(scored.targets, guesses, levels),
    }
    if not beside:
        return document
    try:
        found = baselines(scored.config, classes, scored.url, progress=progress)
    except RayposeError as error:
        say(f"no baselines beside it: {error}")
        return {**document, "baselines": {"note": str(error)}}
    return {**document, "baselines": {k: _beside(v, scored) for k, v in found.items()}}


def compare(a: Scored, b: Scored) -> dict[str, Any]:
    """Hold two releases against each other on the same pictures.

    Returns:
        a, b, data, num_examples; figures: for each of `metrics.FIGURES` a, b, their difference and
        its 95 % interval; only_a and only_b, the pictures that one alone has right, and p, of
        McNemar's exact test.

    Raises:
        DataError: where they do not know the same classes, or read other pictures.
    """
    if a.classes.ids != b.classes.ids:
        raise DataError(f"{a.release} and {b.release} know other classes; nothing to compare")
    places = {name: row for row, name in enumerate(b.ids)}
    mine = [row for row, name in enumerate(a.ids) if name in places]
    theirs = [places[a.ids[row]] for row in mine]
    if not mine:
        raise DataError(f"{a.url}: no picture that both {a.release} and {b.release} can read")
    targets = a.targets[mine]
    ours, other = a.probabilities[mine], b.probabilities[theirs]
    right, rival = ours.argmax(1) == targets, other.argmax(1) == targets
    only_a, only_b = int((right & ~rival).sum()), int((rival & ~right).sum())
    return {
        "a": a.release,
        "b": b.release,
        "data": a.url,
        "num_examples": len(mine),
        "figures": metrics.paired(ours, other, targets),
        "only_a": only_a,
        "only_b": only_b,
        "p": metrics.mcnemar(only_a, only_b),
    }


def publish(config: Config) -> registry.Release:
    """Make a release of a finished run's final model.

    Raises:
        TrainError: where the run is not finished.
    """
    result = train.finished(config)
    if result is None:
        raise TrainError(f"{config.run_id}: not finished; run: raypose train with the same recipe")
    origin = storage.read_json(storage.join(result.url, provenance.PROVENANCE))
    end = storage.read_json(storage.join(finish.url_of(result.url), finish.FINAL))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = storage.download_folder(result.checkpoint, folder / "final")
        write_release(source, folder / "release", config, result.metrics, {**origin, "final": end})
        return registry.publish(config.storage, config.name, folder / "release")


def table(document: Mapping[str, Any]) -> Table:
    """Lay the figures of an evaluation out for a terminal: totals, and classes worst first."""
    low, high = document["intervals"]["top1"]
    title = (
        f"{document['release']} on {document['num_examples']} pictures: "
        f"top-1 {document['top1']:.3f} ({low:.3f} to {high:.3f}), top-5 {document['top5']:.3f}, "
        f"balanced {document['balanced_accuracy']:.3f}, macro-F1 {document['macro_f1']:.3f}, "
        f"nll {document['nll']:.3f}, ece {document['ece']:.3f}"
    )
    for level in document["parents"]:
        title += f"; of {level['num_classes']} parents {level['top1']:.3f}"
    for name, words in (("zero_shot", "zero-shot"), ("probe", "probe")):
        other = document.get("baselines", {}).get(name)
        if other:
            low, high = other["intervals"]["top1"]
            note = f" ({other['note']})" if other["note"] else ""
            title += f"\n{words} beside it: top-1 {other['top1']:.3f} ({low:.3f} to {high:.3f})"
            title += note
    shown = Table("class", "pictures", "precision", "recall", "F1", title=title)
    for column in shown.columns[1:]:
        column.justify = "right"
    seen = [row for row in document["per_class"] if row["support"]]
    for row in sorted(seen, key=lambda row: row["f1"]):
        cells = ["–" if row[key] is None else f"{row[key]:.3f}" for key in COLUMNS]
        shown.add_row(row["label"], str(row["support"]), *cells)
    return shown


def comparison_table(document: Mapping[str, Any]) -> Table:
    """Lay a comparison out for a terminal."""
    title = (
        f"{document['a']} and {document['b']} on {document['num_examples']} pictures: "
        f"{document['only_a']} that a alone has right, {document['only_b']} that b alone has; "
        f"p {document['p']:.3g} (McNemar)"
    )
    shown = Table("figure", "a", "b", "a - b", "95 % interval", title=title)
    for column in shown.columns[1:]:
        column.justify = "right"
    for name, row in document["figures"].items():
        low, high = row["interval"]
        cells = [f"{row[key]:.4f}" for key in ("a", "b")]
        shown.add_row(name, *cells, f"{row['difference']:+.4f}", f"{low:+.4f} to {high:+.4f}")
    return shown


def _levels(
    probabilities: npt.NDArray[np.float32], targets: npt.NDArray[np.int64], classes: Taxonomy
) -> dict[str, Any]:
    """Return the figures of classes, and in `parents` those of each level above."""
    above = [
        metrics.at_parents(probabilities, targets, classes.parents(level), names)
        for level, names in enumerate(classes.levels)
    ]
    return {**metrics.summarize(probabilities, targets, classes.ids), "parents": above}


def _beside(baseline: Baseline, scored: Scored) -> dict[str, Any]:
    """Return a baseline's figures on the pictures that the release could read."""
    rows = [baseline.ids[name] for name in scored.ids]
    found = _levels(baseline.probabilities[rows], scored.targets, scored.classes)
    keep = ("num_examples", "num_classes", "intervals", *metrics.FIGURES)
    short = {name: found[name] for name in keep}
    parents = [{name: level[name] for name in keep} for level in found["parents"]]
    return {"note": baseline.note, **short, "parents": parents}


def _mistakes(
    odds: npt.NDArray[np.float32],
    targets: npt.NDArray[np.int64],
    ids: list[str],
    pixels: npt.NDArray[np.uint8],
) -> list[Mistake]:
    guesses = odds.argmax(axis=1)
    return [
        Mistake(float(odds[row, guesses[row]]), ids[row], int(targets[row]), int(guesses[row]),
                pixels[row].copy())
        for row in np.flatnonzero(guesses != targets)
    ]  # fmt: skip
