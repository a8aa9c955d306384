"""A data set → image features, by workers that Ray allots: see `pool`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from raypose import storage
from raypose.clip import model, zeroshot
from raypose.config import DataConfig, ModelConfig
from raypose.data import Batch, Decode
from raypose.data.manifests import Manifest, read_manifest
from raypose.data.tolerance import check_bad
from raypose.inference import pool

__all__ = ["Embedded", "Progress", "embed", "encode", "spread"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Embedded:
    """Rows of a data set in the order of its shards.

    Attributes:
        features: float32 (N, D), rows of length 1; 0 where the picture cannot be read.
        targets: int64 (N,), class numbers.
        ids: N example ids.
        good: bool (N,), whether the picture could be read.
    """

    features: npt.NDArray[np.float32]
    targets: npt.NDArray[np.int64]
    ids: list[str]
    good: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Encoding:
    """`pool.Work`: the features of a shard, and id → error of what is bad in it."""

    tower: model.Clip
    config: ModelConfig
    decode: Decode

    def to(self, device: torch.device) -> None:
        last = self.config.channels_last
        model.place(self.tower, device, channels_last=last).eval()

    def shard(self, number: int, batches: Iterator[Batch]) -> tuple[Embedded, dict[str, str]]:
        parts: list[Embedded] = []
        bad: dict[str, str] = {}
        for batch in batches:
            keep = np.array([not error for error in batch.errors])
            found = zeroshot.embed(self.tower, batch.pixels, self.config).cpu().numpy()
            parts.append(Embedded(found * keep[:, None], batch.targets.numpy(), batch.ids, keep))
            bad |= batch.bad
        return _joined(parts), bad


def encode(
    clip: model.Clip,
    url: str,
    index: Mapping[str, int],
    data: DataConfig,
    config: ModelConfig,
    *,
    num_workers: int = 0,
    max_pictures: int = 0,
    progress: Progress = lambda done, total: None,
) -> Embedded:
    """Encode every picture of a data set, or those of some of its shards.

    Args:
        clip: the model; its image tower is sent to the workers.
        url: of the shards.
        index: label → class number.
        data: limits of decoding.
        config: the way to a square, precision and layout.
        num_workers: 0 for as many as the cluster has room for and the pictures are worth.
        max_pictures: of a larger set as many shards are taken, evenly, as hold no more, but at
            least one: see `spread`. 0 takes all.
        progress: called with (pictures done, in all), shard by shard.

    Raises:
        DataError: where more pictures are bad than is tolerated.
    """
    manifest = read_manifest(url)
    decode = Decode(dict(index), clip.image_size, config.resize, data.max_pixels, data.dct_scaled)
    work = _Encoding(model.image_tower(clip), config, decode)
    shards = spread(manifest, max_pictures)
    num_rows = sum(shard.num_rows for _, shard in shards)
    parts: list[Embedded] = []
    bad: dict[str, str] = {}
    num_done = 0
    for part, errors in pool.run(work, storage.absolute(url), shards, num_workers=num_workers):
        parts.append(part)
        bad |= errors
        num_done += len(part.ids)
        progress(num_done, num_rows)
    check_bad(bad, num_rows=num_rows, where=url, allowed=data.max_bad_fraction)
    return _joined(parts)


def spread(manifest: Manifest, max_pictures: int) -> list[pool.Numbered]:
    """Return a data set's shards with their numbers, or evenly spaced ones: the same each time.

    Args:
        manifest: of the data set, whose rows are in random order.
        max_pictures: that they may hold together; the first is taken however many it holds. 0 for
            all.
    """
    shards = list(enumerate(manifest.shards))
    if not max_pictures or manifest.num_rows <= max_pictures:
        return shards
    for size in range(len(shards) * max_pictures // manifest.num_rows, 1, -1):
        taken = [shards[place * len(shards) // size] for place in range(size)]
        if sum(shard.num_rows for _, shard in taken) <= max_pictures:
            return taken
    return shards[:1]


def embed(
    url: str, config: ModelConfig, *, progress: Progress = lambda done, total: None
) -> npt.NDArray[np.float32]:
    """Return the features of a data set by the model of a recipe, as in `Embedded.features`."""
    index = {label: number for number, label in enumerate(read_manifest(url).labels)}
    clip = model.build(config)
    return encode(clip, url, index, DataConfig(), config, progress=progress).features


def _joined(parts: list[Embedded]) -> Embedded:
    return Embedded(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.targets for part in parts]),
        [key for part in parts for key in part.ids],
        np.concatenate([part.good for part in parts]),
    )
