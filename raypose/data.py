"""Shards → decoded batches, on Ray Data: read from S3 or disk, decode in tasks, hand out tensors.

A picture that cannot be decoded does not end the job: its row carries the error, and the loop
counts it, names it and stops over `data.max_bad_fraction`. Nothing here knows captions or models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch
from ray.data import DataIterator, Dataset

from raypose import storage
from raypose.config import DataConfig
from raypose.errors import DataError
from raypose.shards import read_manifest, shard_urls
from raypose.taxonomy import Taxonomy
from raypose.transforms import Resize, preprocess

__all__ = ["Batch", "Decode", "batches", "dataset"]

DECODE_ROWS = 64


@dataclass(frozen=True)
class Batch:
    """Rows for one step of one worker.

    Attributes:
        pixels: uint8 (B, 3, S, S); zeros where the picture is bad.
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

    @property
    def bad(self) -> dict[str, str]:
        """Id → error of the bad pictures."""
        return {key: error for key, error in zip(self.ids, self.errors, strict=True) if error}


class Decode:
    """Arrow rows of a shard → pixels, target, id, error: the function that Ray Data maps."""

    def __init__(
        self, index: Mapping[str, int], *, size: int, resize: Resize, max_pixels: int
    ) -> None:
        self.index = index
        self.size = size
        self.resize = resize
        self.max_pixels = max_pixels

    def __call__(self, table: pa.Table) -> dict[str, Any]:
        """Decode some rows; a bad picture becomes zeros and an error."""
        rows = table["image"].combine_chunks().field("bytes").to_pylist()
        pixels = np.zeros((len(rows), 3, self.size, self.size), dtype=np.uint8)
        errors = [""] * len(rows)
        for row, content in enumerate(rows):
            try:
                pixels[row] = preprocess(
                    content or b"", size=self.size, resize=self.resize, max_pixels=self.max_pixels
                )
            except DataError as error:
                errors[row] = str(error)
        labels = table["label"].to_pylist()
        return {
            "pixels": pixels,
            "target": np.array([self.index[label] for label in labels], dtype=np.int64),
            "id": np.array(table["id"].to_pylist(), dtype=object),
            "error": np.array(errors, dtype=object),
        }


def dataset(
    url: str,
    taxonomy: Taxonomy,
    config: DataConfig,
    *,
    size: int,
    resize: Resize,
    cache: bool = True,
) -> Dataset:
    """Return the decoded rows of a data set, lazily, or from memory where they fit.

    Args:
        url: of the shards.
        taxonomy: gives the class numbers.
        config: limits of decoding and caching.
        size: pixels of a side.
        resize: the way to a square.
        cache: allow decoding once for all epochs.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = config.preserve_order
    fs, _ = storage.filesystem(url)
    paths = [storage.filesystem(shard)[1] for shard in shard_urls(url)]
    decode = Decode(taxonomy.index(), size=size, resize=resize, max_pixels=config.max_pixels)
    rows = ray.data.read_parquet(
        paths, filesystem=fs, columns=["image", "label", "id"], override_num_blocks=len(paths)
    ).map_batches(decode, batch_size=DECODE_ROWS, batch_format="pyarrow")
    decoded_bytes = read_manifest(url).num_rows * 3 * size * size
    return rows.materialize() if cache and decoded_bytes <= config.cache_bytes else rows


def batches(
    rows: DataIterator, *, batch_size: int, shuffle_rows: int = 0, seed: int = 0
) -> Iterator[Batch]:
    """Hand out batches, the last one shorter; shuffled within a window where `shuffle_rows` > 0."""
    shuffle: dict[str, Any] = {}
    if shuffle_rows:
        shuffle = {
            "local_shuffle_buffer_size": max(shuffle_rows, batch_size),
            "local_shuffle_seed": seed,
        }
    for columns in rows.iter_batches(batch_size=batch_size, batch_format="numpy", **shuffle):
        yield Batch(
            pixels=torch.from_numpy(np.array(columns["pixels"])),
            targets=torch.from_numpy(np.array(columns["target"])),
            ids=list(columns["id"]),
            errors=list(columns["error"]),
        )
