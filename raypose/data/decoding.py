"""Rows of a shard → decoded batches: what Ray's tasks do for training, and workers for inference.

A picture that cannot be decoded does not end the work: its row carries the error, and zeros.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from raypose.data.manifests import Shard
from raypose.data.shards import read_shard
from raypose.data.transforms import Resize, preprocess
from raypose.errors import BadPicture

__all__ = ["Batch", "Columns", "Decode"]

AHEAD = 2
"""Batches that are decoded while one is computed with."""
Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Batch:
    """Rows for one step of one worker.

    Attributes:
        pixels: uint8 (B, 3, S, S), channels last in memory; zeros where the picture is bad.
        targets: int64 (B,), class numbers.
        ids: B example ids.
        errors: B texts, empty for good pictures.
    """

    pixels: torch.Tensor
    targets: torch.Tensor
    ids: list[str]
    errors: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, columns: Columns) -> Batch:
        """Return decoded rows as tensors, without a copy."""
        return cls(
            pixels=torch.from_numpy(columns["pixels"]).permute(0, 3, 1, 2),
            targets=torch.from_numpy(columns["target"]),
            ids=list(columns["id"]),
            errors=list(columns["error"]),
        )

    def rows(self, first: int, last: int) -> Batch | None:
        """Return some of the rows; None where there are none."""
        if first >= min(last, len(self)):
            return None
        part = slice(first, last)
        return Batch(self.pixels[part], self.targets[part], self.ids[part], self.errors[part])

    def good(self) -> Batch | None:
        """Return the rows of good pictures; None where there are none."""
        if not any(self.errors):
            return self
        rows = [row for row, error in enumerate(self.errors) if not error]
        ids = [self.ids[row] for row in rows]
        return Batch(self.pixels[rows], self.targets[rows], ids, [""] * len(rows)) if rows else None

    @property
    def bad(self) -> dict[str, str]:
        """Id → error of the bad pictures."""
        return {key: error for key, error in zip(self.ids, self.errors, strict=True) if error}


@dataclass(frozen=True)
class Decode:
    """Rows of a shard → pixels, target, id, error; called, it is the function Ray Data maps."""

    index: Mapping[str, int]
    size: int
    resize: Resize
    max_pixels: int
    dct_scaled: bool = False

    @property
    def num_bytes(self) -> int:
        """Of a decoded picture."""
        return 3 * self.size**2

    def __call__(self, table: pa.Table) -> Columns:
        """Read and decode the rows that a table of one task names; the bad become zeros."""
        torch.set_num_threads(1)  # the tasks side by side are the parallelism
        (task,) = table.to_pylist()
        rows = read_shard(task["url"], Shard(**task["shard"])).take(task["rows"])
        return self._columns(rows, map(self._square, _contents(rows)))

    def batches(self, rows: pa.Table, *, batch_size: int, pool: Executor) -> Iterator[Batch]:
        """Decode a shard's rows in their order, some batches ahead of the one that is asked for.

        Args:
            rows: as `read_shard` returns them.
            batch_size: pictures a batch, the last one shorter.
            pool: its threads decode, which leaves the interpreter's lock.
        """
        waiting: deque[tuple[pa.Table, Any]] = deque()
        for first in range(0, len(rows), batch_size):
            some = rows.slice(first, batch_size)
            waiting.append((some, pool.map(self._square, _contents(some))))
            if len(waiting) > AHEAD:
                yield Batch.of(self._columns(*waiting.popleft()))
        while waiting:
            yield Batch.of(self._columns(*waiting.popleft()))

    def _square(self, picture: pa.Scalar) -> npt.NDArray[np.uint8] | str:
        """Return uint8 (S, S, 3) of a picture's bytes, or why it is bad."""
        try:
            square = preprocess(
                picture.as_py() or b"",
                size=self.size,
                resize=self.resize,
                max_pixels=self.max_pixels,
                dct_scaled=self.dct_scaled,
            )
        except BadPicture as error:
            return str(error)
        return square.transpose(1, 2, 0)

    def _columns(self, rows: pa.Table, squares: Iterable[npt.NDArray[np.uint8] | str]) -> Columns:
        pixels = np.zeros((len(rows), self.size, self.size, 3), dtype=np.uint8)
        errors = [""] * len(rows)
        for row, square in enumerate(squares):
            if isinstance(square, str):
                errors[row] = square
            else:
                pixels[row] = square
        return {
            "pixels": pixels,
            "target": np.array([self.index[label] for label in rows["label"].to_pylist()]),
            "id": np.array(rows["id"].to_pylist(), dtype=object),
            "error": np.array(errors, dtype=object),
        }


def _contents(rows: pa.Table) -> pa.Array:
    return rows["image"].combine_chunks().field("bytes")
