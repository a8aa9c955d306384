"""Shards → decoded batches, on Ray Data: read from S3 or disk, decode in tasks, hand out tensors.

A `Reader` travels to the workers. Each asks it for the rows that `order` gives to its rank; Ray
Data decodes just these, shard by shard in the order of need, and the reader hands them out in
theirs. A set that is small enough is decoded once and stays in Ray's object store, from which every
worker reads without a copy.

A picture that cannot be decoded does not end the job: its row carries the error, and the loop
counts it, names it and stops over `data.max_bad_fraction`. Nothing here knows captions or models.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data.block import BlockAccessor

from raypose import runtime
from raypose.config import DataConfig
from raypose.data.decoding import Batch, Columns, Decode
from raypose.data.manifests import Manifest, Shard, read_manifest
from raypose.data.order import Part, Rows, epoch_spans, rank_rows
from raypose.data.transforms import Resize
from raypose.errors import DataError

__all__ = ["Reader", "cache_room", "load"]

STORE_SHARE = 0.4
"""Of the object store, that decoded sets may take: more of it would be spilled to disk."""


@dataclass(frozen=True)
class Reader:
    """A data set that any rank can read.

    Attributes:
        files: of each shard, the data set that it is of, and what its manifest says of it.
        sizes: rows of each shard, or of each block where decoded blocks are kept.
        decode: how a shard becomes pixels.
        num_own: shards that an epoch reads whole; the others are drawn upon.
        num_extra: rows that an epoch takes of the others.
        blocks: decoded blocks in the object store; empty where each epoch decodes.
        num_read_bytes: of shards, that were read for these blocks.
    """

    files: tuple[tuple[str, Shard], ...]
    sizes: tuple[int, ...]
    decode: Decode
    num_own: int
    num_extra: int = 0
    blocks: tuple[ray.ObjectRef[pa.Table], ...] = ()
    num_read_bytes: int = 0

    @cached_property
    def ends(self) -> Rows:
        """int64 (S,): rows up to the end of each shard or block."""
        return np.cumsum(np.asarray(self.sizes, dtype=np.int64))

    @property
    def num_rows(self) -> int:
        """Rows of an epoch."""
        return sum(self.sizes[: self.num_own]) + self.num_extra

    @property
    def num_kept_bytes(self) -> int:
        """Of the object store, taken by decoded pictures."""
        return sum(self.sizes) * self.decode.num_bytes if self.blocks else 0

    def epoch(
        self, part: Part, *, window: int, seed: int, epoch: int, preserve_order: bool
    ) -> Rows:
        """Return the rows of one rank in an epoch of training, in order: see `order`."""
        rows = epoch_spans(
            self.sizes, seed=seed, epoch=epoch, num_own=self.num_own, num_extra=self.num_extra
        )
        return rank_rows(
            rows, part, window=window, seed=seed, epoch=epoch, preserve_order=preserve_order
        )

    def share(self, part: Part) -> Rows:
        """Return one rank's part of all rows, in their own order, for evaluation."""
        total = int(self.ends[-1]) if len(self.ends) else 0
        first, last = (total * k // part.world_size for k in (part.rank, part.rank + 1))
        return np.arange(first, last)

    def batches(
        self, rows: Rows, *, batch_size: int, told: Callable[[int], None] = lambda num_bytes: None
    ) -> Iterator[Batch]:
        """Hand out rows in the order given, the last batch shorter.

        Args:
            rows: to hand out.
            batch_size: rows a batch.
            told: the bytes of each shard that is read.
        """
        pieces = self._pieces(rows)
        arrived = self._kept(pieces) if self.blocks else self._decoded(pieces, told)
        order = np.concatenate(pieces) if pieces else rows
        sorter = np.argsort(order)
        places = sorter[np.searchsorted(order, rows, sorter=sorter)]
        shelf = _Shelf(arrived)
        for first in range(0, len(places), batch_size):
            yield shelf.take(places[first : first + batch_size])

    def keep(self) -> Reader:
        """Decode everything once, into the object store."""
        starts = np.cumsum([0, *self.sizes])
        whole = [np.arange(starts[k], starts[k + 1]) for k in range(len(self.sizes))]
        with runtime.unwrapped():
            rows = self._dataset(whole).materialize()
        bundles = list(rows.iter_internal_ref_bundles())
        sizes = [one.num_rows or 0 for bundle in bundles for one in bundle.metadata]
        # a large shard may have become several blocks, but no block holds rows of two
        num_own = int(np.searchsorted(np.cumsum(sizes), starts[self.num_own])) + 1
        return replace(
            self,
            sizes=tuple(sizes),
            num_own=num_own,
            blocks=tuple(block for bundle in bundles for block in bundle.block_refs),
            num_read_bytes=sum(shard.num_bytes for _, shard in self.files),
        )

    def _pieces(self, rows: Rows) -> list[Rows]:
        """Group rows by shard, shards in the order of need."""
        shards = np.searchsorted(self.ends, rows, side="right")
        _, needed, ranks = np.unique(shards, return_index=True, return_inverse=True)
        ranks = np.argsort(np.argsort(needed))[ranks]
        together = np.lexsort((rows, ranks))
        return np.split(rows[together], np.cumsum(np.bincount(ranks))[:-1]) if len(rows) else []

    def _dataset(self, pieces: Sequence[Rows]) -> ray.data.Dataset:
        items = []
        for piece in pieces:
            shard, rows = self._within(piece)
            url, file = self.files[shard]
            items.append({"url": url, "shard": file.model_dump(), "rows": rows.tolist()})
        # importing ray.data set its level anew, after the connection was made
        logging.getLogger("ray.data").setLevel(runtime.data_level())
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        context.raise_original_map_exception = True
        most = runtime.at_once()
        return ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            self.decode,
            batch_size=1,
            batch_format="pyarrow",
            concurrency=most and min(most, len(items)),  # Ray warns of more than there are
        )

    def _decoded(
        self, pieces: Sequence[Rows], told: Callable[[int], None]
    ) -> Iterator[tuple[Columns, Rows]]:
        if not pieces:
            return
        with runtime.unwrapped():
            blocks = self._dataset(pieces).iter_batches(
                batch_size=None, batch_format="numpy", prefetch_batches=2
            )
            ends, arrived, read = np.cumsum([len(piece) for piece in pieces]), 0, 0
            for columns in blocks:
                arrived += len(columns["target"])
                whole = int(np.searchsorted(ends, arrived, side="right"))
                for piece in pieces[read:whole]:  # a large shard may come in several blocks
                    told(self.files[self._within(piece)[0]][1].num_bytes)
                read = whole
                yield columns, np.arange(len(columns["target"]))

    def _kept(self, pieces: Sequence[Rows]) -> Iterator[tuple[Columns, Rows]]:
        for piece in pieces:
            block, rows = self._within(piece)
            yield BlockAccessor.for_block(ray.get(self.blocks[block])).to_numpy(), rows

    def _within(self, piece: Rows) -> tuple[int, Rows]:
        """Return the shard or block that a piece is of, and its rows counted within it."""
        number = int(np.searchsorted(self.ends, piece[0], side="right"))
        return number, piece - (self.ends[number] - self.sizes[number])


class _Shelf:
    """Holds decoded pieces until all their rows are taken."""

    def __init__(self, arriving: Iterator[tuple[Columns, Rows]]) -> None:
        self.arriving = arriving
        self.ends: list[int] = []
        self.pieces: dict[int, tuple[Columns, Rows]] = {}
        self.left: dict[int, int] = {}

    def take(self, places: Rows) -> Batch:
        """Return the rows that arrived at some places, counted from 0; wait for them if need be."""
        while not self.ends or self.ends[-1] <= places.max():
            columns, rows = next(self.arriving)
            self.pieces[len(self.ends)], self.left[len(self.ends)] = (columns, rows), len(rows)
            self.ends.append((self.ends[-1] if self.ends else 0) + len(rows))
        where = np.searchsorted(self.ends, places, side="right")
        taken: Columns = {}
        for number in np.unique(where):
            columns, rows = self.pieces[number]
            chosen = where == number
            first = self.ends[number] - len(rows)
            for name, column in columns.items():
                target = taken.setdefault(
                    name, np.empty((len(places), *column.shape[1:]), column.dtype)
                )
                target[chosen] = column[rows[places[chosen] - first]]
            self.left[number] -= int(chosen.sum())
            if not self.left[number]:
                del self.pieces[number], self.left[number]
        return Batch.of(taken)


def load(
    url: str,
    index: Mapping[str, int],
    config: DataConfig,
    *,
    size: int,
    resize: Resize,
    synthetic: str = "",
    room: int | None = None,
) -> Reader:
    """Return a reader of a data set.

    Args:
        url: of the shards.
        index: label → class number.
        config: limits of decoding and caching, and the share of synthetic pictures.
        size: pixels of a side.
        resize: the way to a square.
        synthetic: of the shards that are drawn upon; empty for none.
        room: bytes of the object store in which to keep what is decoded once for all epochs; 0 for
            none, None for `cache_room`.

    Raises:
        DataError: where the synthetic set is too small for its share.
    """
    sets = [(each, read_manifest(each)) for each in (url, synthetic) if each]
    num_own, num_extra = len(sets[0][1].shards), 0
    if synthetic:
        num_extra = _num_extra(sets[0][1], sets[1][1], config, where=synthetic)
    files = [(place, shard) for place, manifest in sets for shard in manifest.shards]
    sizes = [shard.num_rows for _, shard in files]
    decode = Decode(dict(index), size, resize, config.max_pixels, config.dct_scaled)
    reader = Reader(tuple(files), tuple(sizes), decode, num_own, num_extra)
    room = cache_room(config) if room is None else room
    return reader.keep() if sum(sizes) * decode.num_bytes <= room else reader


def cache_room(config: DataConfig) -> int:
    """Return how many bytes of the object store decoded sets may take."""
    return min(config.cache_bytes, int(STORE_SHARE * runtime.store_bytes()))


def _num_extra(manifest: Manifest, synthetic: Manifest, config: DataConfig, *, where: str) -> int:
    """Return how many synthetic pictures an epoch takes, so that they are the share asked for."""
    share = config.synthetic_share
    wanted = round(manifest.num_rows * share / (1 - share))
    if wanted > synthetic.num_rows:
        raise DataError(
            f"{where}: {synthetic.num_rows} pictures where data.synthetic_share={share:g} of an "
            f"epoch wants {wanted}; synthesize more, or lower it"
        )
    return wanted
