from __future__ import annotations

from typing import Any

import pytest
import ray

from raypose import data
from raypose.captions import taxonomy
from raypose.config import DataConfig
from raypose.data.order import Part
from raypose.errors import NotFoundError
from raypose.tuning.decoded import Decoded

INDEX = taxonomy.load("synthetic12").index()
SIDES: dict[str, Any] = {"size": 24, "resize": "squash"}


def test_sets_are_decoded_once_for_all_trials(dataset: str, cluster: None) -> None:
    decoded = Decoded()

    @ray.remote(num_cpus=0)
    def trial(decoded: Decoded, config: DataConfig, size: int) -> data.Reader:
        return decoded.load(f"{dataset}/train", INDEX, config, size=size, resize="squash")

    plain = DataConfig()
    one, two, other, larger = ray.get(
        [
            trial.remote(decoded, plain, 24),
            trial.remote(decoded, DataConfig(shuffle_rows=7), 24),
            trial.remote(decoded, DataConfig(max_pixels=10**6), 24),
            trial.remote(decoded, plain, 32),
        ]
    )
    assert one.blocks
    assert one.blocks == two.blocks
    assert not {*one.blocks} & {*other.blocks}
    assert not {*one.blocks} & {*larger.blocks}
    assert (one.num_read_bytes > 0) + (two.num_read_bytes > 0) == 1  # for whoever came first
    assert one.num_kept_bytes == one.num_rows * 24 * 24 * 3
    rows = one.share(Part())
    assert len(next(one.batches(rows, batch_size=8))) == 8  # the trials that asked have ended


def test_what_has_no_room_left_is_not_kept(dataset: str, cluster: None) -> None:
    url = f"{dataset}/train"
    kept = data.load(url, INDEX, DataConfig(), **SIDES).num_kept_bytes
    decoded, tight = Decoded(), DataConfig(cache_bytes=kept + 100)
    assert decoded.load(url, INDEX, tight, **SIDES).blocks
    assert not decoded.load(url, INDEX, tight, size=16, resize="squash").blocks
    assert decoded.load(url, INDEX, tight, **SIDES).blocks


def test_what_cannot_be_read_is_said_as_it_is(dataset: str, cluster: None) -> None:
    with pytest.raises(NotFoundError, match="no data set here"):
        Decoded().load(f"{dataset}/nothing", INDEX, DataConfig(), **SIDES)
