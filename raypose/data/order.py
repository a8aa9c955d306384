"""Which rows a rank reads in an epoch, and in which order: a function of (seed, epoch) alone.

The order of shards is drawn anew each epoch; then rows are shuffled within windows of it, so that a
reader never holds more than a window. Every row comes once an epoch, whatever the number of ranks.
Ranks take equal, consecutive parts of the order, or, where the order is to be the same on any
number of ranks, equal parts of every step's rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Part", "epoch_rows", "rank_rows"]

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """Which rank of how many, and the rows that it takes in a step."""

    rank: int = 0
    world_size: int = 1
    batch_size: int = 1


def epoch_rows(
    sizes: Sequence[int], *, seed: int, epoch: int, num_own: int | None = None, num_extra: int = 0
) -> Rows:
    """Return an epoch's rows in the order of its shards.

    Args:
        sizes: rows of each shard; row numbers count through all of them.
        seed: of the run.
        epoch: counted from 0.
        num_own: shards that are read whole; by default all. Those after them are drawn upon for
            `num_extra` rows an epoch.
        num_extra: at most what those shards hold.

    Returns:
        int64 (N,), each row at most once.
    """
    rng = np.random.default_rng((seed, epoch))
    own = len(sizes) if num_own is None else num_own
    starts = np.concatenate([[0], np.cumsum(sizes)])
    pieces = [np.arange(starts[k], starts[k + 1]) for k in range(own)]
    for k in own + rng.permutation(len(sizes) - own):
        piece = np.arange(starts[k], starts[k + 1])[:num_extra]
        num_extra -= len(piece)
        pieces += [piece] if len(piece) else []
    order = rng.permutation(len(pieces))
    return np.concatenate([pieces[k] for k in order]) if pieces else np.empty(0, np.int64)


def rank_rows(
    rows: Rows, part: Part, *, window: int, seed: int, epoch: int, preserve_order: bool
) -> Rows:
    """Return the rows that a rank reads, in order.

    Args:
        rows: of the epoch, as `epoch_rows` gives them.
        part: the rank's.
        window: rows within which the order is shuffled; 0 keeps it.
        seed: of the run.
        epoch: counted from 0.
        preserve_order: the rows of a step, over all ranks together, are the same on any number of
            ranks that divides them.
    """
    if preserve_order:
        rows = _shuffled(rows, window, (seed, epoch, 0))
        step = part.batch_size * part.world_size
        mine: Rows = rows[np.arange(len(rows)) % step // part.batch_size == part.rank]
        return mine
    first, last = (len(rows) * k // part.world_size for k in (part.rank, part.rank + 1))
    return _shuffled(rows[first:last], window, (seed, epoch, part.rank))


def _shuffled(rows: Rows, window: int, key: tuple[int, ...]) -> Rows:
    if window < 2:
        return rows
    rng = np.random.default_rng((*key, 1))
    parts = [rng.permutation(rows[k : k + window]) for k in range(0, len(rows), window)]
    return np.concatenate(parts) if parts else rows
