"""A data set → image features: decoded by Ray Data, encoded in this process, on its GPU if any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from raypose import data
from raypose.clip import model, zeroshot
from raypose.config import DataConfig, ModelConfig
from raypose.data.manifests import read_manifest
from raypose.data.order import Part
from raypose.data.tolerance import check_bad
from raypose.data.transforms import Resize

__all__ = ["Embedded", "Progress", "embed", "encode"]

BATCH_SIZE = 64
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


def encode(
    clip: model.Clip,
    url: str,
    index: Mapping[str, int],
    config: DataConfig,
    *,
    resize: Resize,
    progress: Progress = lambda done, total: None,
) -> Embedded:
    """Encode every picture of a data set.

    Args:
        clip: the model, moved to the GPU where there is one.
        url: of the shards.
        index: label → class number.
        config: limits of decoding.
        resize: the way to a square.
        progress: called with (pictures done, in all).
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clip.model.to(device).eval()
    reader = data.load(url, index, config, size=clip.image_size, resize=resize, room=0)
    features, targets, good = [], [], []
    ids: list[str] = []
    bad: dict[str, str] = {}
    for batch in reader.batches(reader.share(Part()), batch_size=BATCH_SIZE):
        keep = np.array([not error for error in batch.errors])
        found = zeroshot.embed(clip, batch.pixels).cpu().numpy()
        features.append(found * keep[:, None])
        targets.append(batch.targets.numpy())
        good.append(keep)
        ids += batch.ids
        bad |= batch.bad
        progress(len(ids), reader.num_rows)
    check_bad(bad, num_rows=reader.num_rows, where=url, allowed=config.max_bad_fraction)
    return Embedded(np.concatenate(features), np.concatenate(targets), ids, np.concatenate(good))


def embed(
    url: str, config: ModelConfig, *, progress: Progress = lambda done, total: None
) -> npt.NDArray[np.float32]:
    """Return the features of a data set by the model of a recipe, as in `Embedded.features`."""
    index = {label: number for number, label in enumerate(read_manifest(url).labels)}
    clip = model.build(config)
    return encode(clip, url, index, DataConfig(), resize=config.resize, progress=progress).features
