"""Supports of a few-shot study: which pictures are drawn, and a worker's context that holds them.

Every draw follows from (seed, number, class). Supports are nested: a draw of ten holds the draw
of five.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from raypose import data
from raypose.captions import taxonomy
from raypose.config import Config, override
from raypose.data import Batch
from raypose.data.manifests import read_manifest
from raypose.data.shards import read_labels
from raypose.errors import DataError, UsageError, did_you_mean
from raypose.training.costs import Costs

__all__ = ["BATCH_SIZE", "SupportContext", "draw_supports", "narrow", "read_pictures", "take"]

BATCH_SIZE = 64


@dataclass
class SupportContext:
    """WorkerContext of one process that holds its pictures: a support, and a test set.

    Attributes:
        sets: split → all its pictures.
        seed: of the order of training pictures.
        device: a GPU where there is one.
    """

    sets: dict[str, Batch]
    seed: int
    device: torch.device
    rank: int = 0
    world_size: int = 1
    costs: Costs = field(default_factory=Costs)

    def batches(
        self, split: str, *, batch_size: int, epoch: int, start: int = 0
    ) -> Iterator[Batch]:
        """Return a split by batches: training pictures in an order of (seed, epoch)."""
        held = self.sets[split]
        rows = np.arange(len(held))
        if split == "train":
            rows = np.random.default_rng((self.seed, epoch)).permutation(rows)
        for first in range(start * batch_size, len(rows), batch_size):
            yield take(held, rows[first : first + batch_size])

    def progress(self, event: dict[str, Any]) -> None:
        """Keep silent: whoever holds this tells."""

    def leaving(self) -> bool:
        """Never: it is short."""
        return False

    def report(self, values: dict[str, Any]) -> None:
        """Keep silent."""


def narrow(config: Config, classes: Sequence[str]) -> Config:
    """Return the recipe with a taxonomy of some of its classes."""
    if not classes:
        return config
    whole = taxonomy.load(config.data.taxonomy)
    index = whole.index()
    for name in classes:
        if name not in index:
            raise UsageError(f"classes: {name!r} is not in {whole.name}{did_you_mean(name, index)}")
    cards = tuple(card for card in whole.cards if index[card.id] in {index[n] for n in classes})
    narrowed = taxonomy.Taxonomy(whole.name, cards)
    return override(config, {"data.taxonomy": narrowed.to_dict()})


def _labelled(url: str, classes: taxonomy.Taxonomy) -> list[npt.NDArray[np.int64]]:
    """Return for each class the rows of a data set that are its pictures, in a fixed order."""
    index = classes.index()
    numbers = np.array([index.get(label, -1) for label in read_labels(url)])
    return [np.flatnonzero(numbers == k) for k in range(len(classes))]


def draw_supports(
    config: Config, classes: taxonomy.Taxonomy, most: int, num_draws: int
) -> tuple[npt.NDArray[np.int64], list[list[npt.NDArray[np.int64]]]]:
    """Return the rows that any draw needs, and each draw by class as places among these."""
    found = _labelled(config.data.train, classes)
    short = [card.id for card, rows in zip(classes.cards, found, strict=True) if len(rows) < most]
    if short:
        have = len(found[classes.ids.index(short[0])])
        raise DataError(
            f"{config.data.train}: {have} pictures of {short[0]} where {most} a class are to be "
            f"drawn{f'; so with {len(short) - 1} more classes' if short[1:] else ''}; "
            "lower per_class, or name other classes"
        )
    drawn = [
        [np.random.default_rng((config.seed, draw, k)).permutation(rows)[:most]
         for k, rows in enumerate(found)]
        for draw in range(num_draws)
    ]  # fmt: skip
    pool = np.unique(np.concatenate([rows for draw in drawn for rows in draw]))
    return pool, [[np.searchsorted(pool, rows) for rows in draw] for draw in drawn]


def read_pictures(
    config: Config,
    url: str,
    classes: taxonomy.Taxonomy,
    size: int,
    rows: npt.NDArray[np.int64] | None,
) -> Batch:
    """Return rows of a data set in one batch; by default all of these classes."""
    # labels of other classes are not read
    index = {**dict.fromkeys(read_manifest(url).labels, 0), **classes.index()}
    reader = data.load(url, index, config.data, size=size, resize=config.model.resize, room=0)
    if rows is None:
        rows = np.sort(np.concatenate(_labelled(url, classes)))
    if not len(rows):
        raise DataError(f"{url}: holds no picture of these classes")
    batches = list(reader.batches(rows, batch_size=BATCH_SIZE))
    bad = {key: error for batch in batches for key, error in batch.bad.items()}
    if bad:
        key = min(bad)
        raise DataError(f"{url}: {key}: {bad[key]}; build the shards again")
    return Batch(
        torch.cat([batch.pixels for batch in batches]),
        torch.cat([batch.targets for batch in batches]),
        [key for batch in batches for key in batch.ids],
        [""] * len(rows),
    )


def take(batch: Batch, rows: npt.NDArray[np.int64]) -> Batch:
    """Return some rows of a batch."""
    picked = torch.from_numpy(rows)
    ids = [batch.ids[row] for row in rows]
    return Batch(batch.pixels[picked], batch.targets[picked], ids, [""] * len(rows))
