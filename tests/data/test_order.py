from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypose.data.order import Part, epoch_rows, epoch_spans, rank_rows

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@given(sizes, st.integers(1, 7), st.integers(0, 64), st.booleans(), st.integers(1, 9))
def test_every_row_once_whatever_the_number_of_ranks(
    sizes: list[int], ranks: int, window: int, preserve_order: bool, batch_size: int
) -> None:
    rows = epoch_rows(sizes, seed=1, epoch=2)
    parts = [
        rank_rows(rows, Part(rank, ranks, batch_size), window=window, seed=1, epoch=2,
                  preserve_order=preserve_order)
        for rank in range(ranks)
    ]  # fmt: skip
    assert sorted(np.concatenate(parts).tolist()) == list(range(sum(sizes)))
    steps = [-(-len(part) // batch_size) for part in parts]
    assert max(steps) == -(-sum(sizes) // (batch_size * ranks))
    if not preserve_order:
        lengths = [len(part) for part in parts]
        assert max(lengths) - min(lengths) <= 1


@given(sizes, st.integers(0, 64), st.sampled_from([2, 3, 4, 6]))
def test_steps_are_alike_on_any_number_of_ranks(sizes: list[int], window: int, ranks: int) -> None:
    def steps(ranks: int) -> list[list[int]]:
        rows = epoch_rows(sizes, seed=5, epoch=0)
        local = 12 // ranks
        parts = [
            rank_rows(rows, Part(rank, ranks, local), window=window, seed=5, epoch=0,
                      preserve_order=True)
            for rank in range(ranks)
        ]  # fmt: skip
        num = -(-sum(sizes) // 12)
        return [
            [row for part in parts for row in part[k * local : (k + 1) * local].tolist()]
            for k in range(num)
        ]

    assert steps(ranks) == steps(1)


@given(sizes, st.integers(0, 50), st.integers(0, 50))
def test_the_order_follows_from_seed_and_epoch(sizes: list[int], seed: int, epoch: int) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        rows = epoch_rows(sizes, seed=seed, epoch=epoch)
        return rank_rows(
            rows, Part(), window=16, seed=seed, epoch=epoch, preserve_order=False
        ).tolist()

    assert order(seed, epoch) == order(seed, epoch)
    if sum(sizes) > 60:
        assert order(seed, epoch) != order(seed, epoch + 1) != order(seed + 1, epoch + 1)


def test_rows_stay_within_their_window() -> None:
    rows = np.arange(100)
    shuffled = rank_rows(rows, Part(), window=10, seed=0, epoch=0, preserve_order=False)
    assert (shuffled // 10 == rows // 10).all()
    assert (shuffled != rows).any()
    kept = rank_rows(rows, Part(), window=0, seed=0, epoch=0, preserve_order=False)
    assert (kept == rows).all()


@given(sizes, sizes, st.floats(0, 1), st.integers(0, 9))
def test_others_are_drawn_upon(own: list[int], more: list[int], share: float, epoch: int) -> None:
    wanted = round(share * sum(more))
    rows = epoch_rows([*own, *more], seed=0, epoch=epoch, num_own=len(own), num_extra=wanted)
    assert len(set(rows.tolist())) == len(rows) == sum(own) + wanted
    assert (rows < sum(own)).sum() == sum(own)


@pytest.mark.parametrize("preserve_order", [True, False])
def test_fewer_rows_than_ranks(preserve_order: bool) -> None:
    lengths = [
        len(rank_rows(np.arange(2), Part(rank, 3, 4), window=8, seed=0, epoch=0,
                      preserve_order=preserve_order))
        for rank in range(3)
    ]  # fmt: skip
    assert sum(lengths) == 2


def rows_of_before(
    sizes: list[int], *, seed: int, epoch: int, num_own: int, num_extra: int
) -> np.ndarray:
    """All rows of an epoch, written out: how it was defined, and is to stay."""
    rng = np.random.default_rng((seed, epoch))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    pieces = [np.arange(starts[k], starts[k + 1]) for k in range(num_own)]
    for k in num_own + rng.permutation(len(sizes) - num_own):
        piece = np.arange(starts[k], starts[k + 1])[:num_extra]
        num_extra -= len(piece)
        pieces += [piece] if len(piece) else []
    order = rng.permutation(len(pieces))
    return np.concatenate([pieces[k] for k in order]) if pieces else np.empty(0, np.int64)


def share_of_before(
    rows: np.ndarray, part: Part, *, window: int, seed: int, epoch: int, preserve_order: bool
) -> np.ndarray:
    def shuffled(rows: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
        if window < 2:
            return rows
        rng = np.random.default_rng((*key, 1))
        parts = [rng.permutation(rows[k : k + window]) for k in range(0, len(rows), window)]
        return np.concatenate(parts) if parts else rows

    if preserve_order:
        rows = shuffled(rows, (seed, epoch, 0))
        step = part.batch_size * part.world_size
        return rows[np.arange(len(rows)) % step // part.batch_size == part.rank]
    first, last = (len(rows) * k // part.world_size for k in (part.rank, part.rank + 1))
    return shuffled(rows[first:last], (seed, epoch, part.rank))


@given(sizes, sizes, st.floats(0, 1), st.integers(0, 5), st.integers(1, 5), st.integers(0, 40),
       st.booleans(), st.integers(1, 7))  # fmt: skip
def test_the_order_is_that_of_before(
    own: list[int], more: list[int], share: float, epoch: int, ranks: int, window: int,
    preserve_order: bool, batch_size: int,
) -> None:  # fmt: skip
    drawn = {"num_own": len(own), "num_extra": round(share * sum(more))}
    before = rows_of_before([*own, *more], seed=3, epoch=epoch, **drawn)
    spans = epoch_spans([*own, *more], seed=3, epoch=epoch, **drawn)
    assert (spans.take(np.arange(len(spans))) == before).all()
    for rank in range(ranks):
        part = Part(rank, ranks, batch_size)
        how = {"window": window, "seed": 3, "epoch": epoch, "preserve_order": preserve_order}
        assert (rank_rows(spans, part, **how) == share_of_before(before, part, **how)).all()


def test_a_rank_writes_out_its_own_rows_alone() -> None:
    """A thousand million rows, of which a rank of a thousand holds a million."""
    sizes = np.full(1_000_000, 1000)
    tracemalloc.start()
    try:
        spans = epoch_spans(sizes, seed=0, epoch=0)
        rows = rank_rows(spans, Part(7, 1000), window=2048, seed=0, epoch=0, preserve_order=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(rows) == len(np.unique(rows)) == 1_000_000
    assert peak < 150e6
