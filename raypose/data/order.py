"""Which rows a rank reads in an epoch, and in which order: a function of (seed, epoch) alone.

The order of shards is drawn anew each epoch; then rows are shuffled within windows of it, so that a
reader never holds more than a window. Every row comes once an epoch, whatever the number of ranks.
Ranks take equal, consecutive parts of the order, or, where the order is to be the same on any
number of ranks, equal parts of every step's rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Part", "Spans", "epoch_rows", "epoch_spans", "rank_rows"]

Rows = npt.NDArray[np.int64]
CHUNK = 1 << 20


@dataclass(frozen=True)
class Part:
    """Which rank of how many, and the rows that it takes in a step."""

    rank: int = 0
    world_size: int = 1
    batch_size: int = 1


@dataclass(frozen=True)
class Spans:
    """Rows in the order of their shards, computed where they are asked for.

    Attributes:
        firsts: int64 (P,), number of the first row of each span.
        ends: int64 (P,), rows up to the end of each span, in their order.
    """

    firsts: Rows
    ends: Rows

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def take(self, places: Rows) -> Rows:
        """Return the rows at some places, counted from 0."""
        spans = np.searchsorted(self.ends, places, side="right")
        before = np.where(spans > 0, self.ends[spans - 1], 0)
        rows: Rows = self.firsts[spans] + places - before
        return rows


def epoch_spans(
    sizes: Sequence[int] | Rows,
    *,
    seed: int,
    epoch: int,
    num_own: int | None = None,
    num_extra: int = 0,
) -> Spans:
    """Return an epoch's rows in the order of its shards: as `epoch_rows`, but not written out.

    Time and memory grow with shards, not with rows.
    """
    rng = np.random.default_rng((seed, epoch))
    lengths = np.asarray(sizes, dtype=np.int64)
    own = len(lengths) if num_own is None else num_own
    firsts = np.cumsum(lengths) - lengths
    more = own + rng.permutation(len(lengths) - own)
    if len(more):
        drawn = np.minimum(np.cumsum(lengths[more]), num_extra)
        taken = np.diff(drawn, prepend=0)
        more, taken = more[taken > 0], taken[taken > 0]
        lengths = np.concatenate([lengths[:own], taken])
        firsts = np.concatenate([firsts[:own], firsts[more]])
    order = rng.permutation(len(lengths))
    return Spans(firsts[order], np.cumsum(lengths[order]))


def epoch_rows(
    sizes: Sequence[int] | Rows,
    *,
    seed: int,
    epoch: int,
    num_own: int | None = None,
    num_extra: int = 0,
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
    spans = epoch_spans(sizes, seed=seed, epoch=epoch, num_own=num_own, num_extra=num_extra)
    return spans.take(np.arange(len(spans)))


def rank_rows(
    rows: Spans | Rows, part: Part, *, window: int, seed: int, epoch: int, preserve_order: bool
) -> Rows:
    """Return the rows that a rank reads, in order; those of other ranks are not written out.

    Args:
        rows: of the epoch, as `epoch_spans` or `epoch_rows` give them.
        part: the rank's.
        window: rows within which the order is shuffled; 0 keeps it.
        seed: of the run.
        epoch: counted from 0.
        preserve_order: the rows of a step, over all ranks together, are the same on any number of
            ranks that divides them.
    """
    if preserve_order:
        places = _steps_of(len(rows), part, window, (seed, epoch, 0))
    else:
        first, last = (len(rows) * k // part.world_size for k in (part.rank, part.rank + 1))
        places = _joined(_shuffled(first, last, window, (seed, epoch, part.rank)))
    return rows.take(places)


def _steps_of(num_rows: int, part: Part, window: int, key: tuple[int, ...]) -> Rows:
    """Return the places of a rank's parts of all steps."""
    step = part.batch_size * part.world_size
    mine, first = [], 0
    for places in _shuffled(0, num_rows, window, key):
        where = np.arange(first, first + len(places)) % step // part.batch_size
        mine.append(places[where == part.rank])
        first += len(places)
    return _joined(mine)


def _shuffled(first: int, last: int, window: int, key: tuple[int, ...]) -> Iterator[Rows]:
    """Yield places from first to last in windows, each in an order of its own."""
    if window < 2:
        for start in range(first, last, CHUNK):
            yield np.arange(start, min(start + CHUNK, last))
        return
    rng = np.random.default_rng((*key, 1))
    for start in range(first, last, window):
        yield rng.permutation(np.arange(start, min(start + window, last)))


def _joined(parts: Iterable[Rows]) -> Rows:
    kept = list(parts)
    return np.concatenate(kept) if kept else np.empty(0, np.int64)
