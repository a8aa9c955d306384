from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from raypose import data, inputs, shards, taxonomy
from raypose.config import DataConfig
from raypose.errors import DataError, TaxonomyError
from raypose.transforms import preprocess

CLASSES = taxonomy.load("synthetic12")


def gathered(url: str, config: DataConfig, *, cache: bool, shuffle: int = 0) -> list[data.Batch]:
    rows = data.dataset(url, CLASSES, config, size=24, resize="squash", cache=cache)
    return list(data.batches(rows.iterator(), batch_size=10, shuffle_rows=shuffle, seed=shuffle))


@pytest.mark.parametrize("cache", [True, False])
def test_every_example_once_with_its_pixels(
    cluster: None, dataset: str, pictures: Path, cache: bool
) -> None:
    found = gathered(f"{dataset}/train", DataConfig(), cache=cache)
    ids = [name for batch in found for name in batch.ids]
    assert len(ids) == len(set(ids)) == 96
    assert {len(batch) for batch in found[:-1]} == {10}
    index = CLASSES.index()
    for batch in found:
        assert batch.pixels.dtype == torch.uint8
        assert not any(batch.errors)
        for pixels, target, name in zip(batch.pixels, batch.targets, batch.ids, strict=True):
            assert int(target) == index[name.split("/")[0]]
            content = (pictures / "train" / name).read_bytes()
            expected = preprocess(content, size=24, resize="squash", max_pixels=10**7)
            np.testing.assert_array_equal(pixels.numpy(), expected)


def test_shuffling_follows_from_the_seed(cluster: None, dataset: str) -> None:
    config = DataConfig(preserve_order=True)
    orders = [
        [name for batch in gathered(f"{dataset}/val", config, cache=True, shuffle=s)
         for name in batch.ids]
        for s in (0, 100, 100, 200)
    ]  # fmt: skip
    assert orders[1] == orders[2]
    assert orders[0] != orders[1] != orders[3]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[3])


def test_a_bad_picture_is_a_row_with_an_error(cluster: None, tmp_path: Path) -> None:
    examples = [
        shards.Example(f"{card.id}/{k}", card.id, b"<html>" if k else good())
        for k, card in enumerate(CLASSES.cards[:2])
    ]
    shards.write(iter(examples), str(tmp_path / "d"))
    (batch,) = gathered(str(tmp_path / "d"), DataConfig(), cache=False)
    errors = dict(zip(batch.ids, batch.errors, strict=True))
    assert [bool(errors[example.id]) for example in examples] == [False, True]
    assert "not a picture" in errors[examples[1].id]


def good() -> bytes:
    from test_transforms import encoded, photo

    return encoded(photo())


def test_check_names_what_is_wrong(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.train: .*no data set here"):
        inputs.check(str(tmp_path), CLASSES, key="data.train")
    with pytest.raises(DataError, match=r"data\.train: \(no location\): no data set here"):
        inputs.check("", CLASSES, key="data.train")
    few = taxonomy.Taxonomy("few", CLASSES.cards[:11])
    with pytest.raises(TaxonomyError, match=r'"Warrior_II_Pose.*" not in taxonomy "few"'):
        inputs.check(f"{dataset}/train", few, key="data.train")
