"""Release × data set → probabilities of every picture, by workers that Ray allots."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from raypose import storage
from raypose.captions.taxonomy import Taxonomy
from raypose.config import Config
from raypose.data import Batch, Decode, inputs
from raypose.data.shards import manifest_hash
from raypose.data.tolerance import check_bad
from raypose.errors import DataError
from raypose.inference import pool
from raypose.inference.embedding import Progress
from raypose.releases import Model, Predictor

__all__ = ["Mistake", "Scored", "score"]


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
    num_workers: int = 0,
    progress: Progress = lambda done, total: None,
) -> Scored:
    """Classify a data set by a release.

    Args:
        root: the storage root.
        reference: of the release, or the release itself.
        url: of the shards.
        num_mistakes: pictures to keep of those that were taken for something else.
        max_bad_fraction: of the pictures; by default what the release was trained with.
        num_workers: 0 for as many as the cluster has room for and the pictures are worth.
        progress: called with (pictures done, in all), shard by shard.

    Raises:
        DataError: where no picture can be read, or too many are bad.
    """
    model = reference if isinstance(reference, Model) else _loaded(reference, root)
    predictor, classes, config = model.predictor, model.taxonomy, model.config
    manifest = inputs.check(url, classes, key="data")
    work = _Scoring(predictor, predictor.decode(classes.index()), num_mistakes)
    probabilities, targets, ids, done = [], [], [], 0
    bad: dict[str, str] = {}
    worst: list[Mistake] = []
    shards = list(enumerate(manifest.shards))
    for part in pool.run(work, storage.absolute(url), shards, num_workers=num_workers):
        probabilities.append(part.probabilities)
        targets.append(part.targets)
        ids += part.ids
        bad |= part.bad
        worst = heapq.nlargest(num_mistakes, [*worst, *part.mistakes])
        done += len(part.ids) + len(part.bad)
        progress(done, manifest.num_rows)
    allowed = config.data.max_bad_fraction if max_bad_fraction is None else max_bad_fraction
    check_bad(bad, num_rows=manifest.num_rows, where=url, allowed=allowed, key="max_bad_fraction")
    _check(model, url, ids, probabilities)
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


@dataclass(frozen=True)
class _Part:
    """What a shard's good pictures are taken for, as in `Scored`."""

    ids: list[str]
    targets: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    bad: dict[str, str]
    mistakes: list[Mistake]


@dataclass(frozen=True)
class _Scoring:
    """`pool.Work`: the probabilities of a shard, and its worst mistakes."""

    predictor: Predictor
    decode: Decode
    num_mistakes: int

    def to(self, device: torch.device) -> None:
        self.predictor.to(device)

    def shard(self, number: int, batches: Iterator[Batch]) -> _Part:
        probabilities = [np.zeros((0, len(self.predictor.classes)), np.float32)]
        targets = [np.zeros(0, np.int64)]
        ids: list[str] = []
        bad: dict[str, str] = {}
        worst: list[Mistake] = []
        for batch in batches:
            bad |= batch.bad
            good = batch.good()
            if good is None:
                continue
            pixels, true = good.pixels.numpy(), good.targets.numpy()
            probabilities.append(self.predictor.probabilities(pixels))
            targets.append(true)
            ids += good.ids
            found = _mistakes(probabilities[-1], true, good.ids, pixels)
            worst = heapq.nlargest(self.num_mistakes, [*worst, *found])
        return _Part(ids, np.concatenate(targets), np.concatenate(probabilities), bad, worst)


def _loaded(reference: str, root: str) -> Model:
    """Load a release to be sent to workers: a GPU here would be taken from them."""
    return Model.load(reference, storage=root, device="cpu")


def _check(
    model: Model, url: str, ids: list[str], probabilities: list[npt.NDArray[np.float32]]
) -> None:
    if not ids:
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
