"""Release × data set → probabilities of every picture.

Pictures are decoded by Ray Data on the cluster and scored here, on this process's GPU if any.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from raypose import data
from raypose.captions.taxonomy import Taxonomy
from raypose.config import Config
from raypose.data import inputs
from raypose.data.order import Part
from raypose.data.shards import manifest_hash
from raypose.data.tolerance import check_bad
from raypose.errors import DataError
from raypose.inference.embedding import Progress
from raypose.releases import Model

__all__ = ["BATCH_SIZE", "Mistake", "Scored", "score"]

BATCH_SIZE = 64


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
        note: what to know when reading its figures: that these pictures chose the release.
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
    note: str = ""


def score(
    root: str,
    reference: str | Model,
    url: str,
    *,
    num_mistakes: int = 0,
    max_bad_fraction: float | None = None,
    progress: Progress = lambda done, total: None,
) -> Scored:
    """Classify a data set by a release.

    Args:
        root: the storage root.
        reference: of the release, or the release itself.
        url: of the shards.
        num_mistakes: pictures to keep of those that were taken for something else.
        max_bad_fraction: of the pictures; by default what the release was trained with.
        progress: called with (pictures done, in all).

    Raises:
        DataError: where no picture can be read, or too many are bad.
    """
    model = reference if isinstance(reference, Model) else Model.load(reference, storage=root)
    predictor, classes, config = model.predictor, model.taxonomy, model.config
    manifest = inputs.check(url, classes, key="data")
    size, resize = predictor.clip.image_size, config.model.resize
    index = classes.index()
    reader = data.load(url, index, config.data, size=size, resize=resize, room=0)
    probabilities, targets, ids, done = [], [], [], 0
    bad: dict[str, str] = {}
    worst: list[Mistake] = []
    for batch in reader.batches(reader.share(Part()), batch_size=BATCH_SIZE):
        good = [row for row, error in enumerate(batch.errors) if not error]
        bad |= batch.bad
        if good:
            pixels, true = batch.pixels[good].numpy(), batch.targets[good].numpy()
            probabilities.append(predictor.probabilities(pixels))
            targets.append(true)
            ids += [batch.ids[row] for row in good]
            found = _mistakes(probabilities[-1], true, ids[-len(good) :], pixels)
            worst = heapq.nlargest(num_mistakes, [*worst, *found])
        done += len(batch)
        progress(done, manifest.num_rows)
    allowed = config.data.max_bad_fraction if max_bad_fraction is None else max_bad_fraction
    check_bad(bad, num_rows=manifest.num_rows, where=url, allowed=allowed, key="max_bad_fraction")
    _check(model, url, probabilities)
    return Scored(
        release=model.release,
        url=url,
        config=config,
        classes=classes,
        captions=model.captions,
        ids=ids,
        targets=np.concatenate(targets),
        probabilities=np.concatenate(probabilities),
        bad=bad,
        mistakes=worst,
        note=_note(model, url),
    )


def _check(model: Model, url: str, probabilities: list[npt.NDArray[np.float32]]) -> None:
    if not probabilities:
        raise DataError(f"{url}: holds no good picture")
    if not all(np.isfinite(rows).all() for rows in probabilities):
        raise DataError(
            f"{model.release}: its probabilities are not finite, so its weights are of no use"
        )


def _note(model: Model, url: str) -> str:
    """Say where a data set had a part in making a release: told by its manifest, not its place."""
    parts = [split for split, digest in model.sources.items() if digest == manifest_hash(url)]
    if "train" in parts or "synthetic" in parts:
        return f"{model.release} was trained on these pictures: its figures say nothing of new ones"
    if "val" in parts:
        return (
            f"these pictures chose {model.release}'s epoch, mixing weight and temperature: its "
            "figures lean to the high side; data.test is for pictures that choose nothing"
        )
    return ""


def _mistakes(
    probabilities: npt.NDArray[np.float32],
    targets: npt.NDArray[np.int64],
    ids: list[str],
    pixels: npt.NDArray[np.uint8],
) -> list[Mistake]:
    guesses = probabilities.argmax(axis=1)
    return [
        Mistake(
            confidence=float(probabilities[row, guesses[row]]),
            id=ids[row],
            target=int(targets[row]),
            predicted=int(guesses[row]),
            pixels=pixels[row].copy(),
        )
        for row in np.flatnonzero(guesses != targets)
    ]
