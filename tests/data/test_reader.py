from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.pictures import pack

from raypose import data
from raypose.captions import taxonomy
from raypose.config import DataConfig
from raypose.data import inputs, packing
from raypose.data.manifests import read_manifest
from raypose.data.order import Part
from raypose.data.transforms import preprocess
from raypose.errors import DataError, TaxonomyError

CLASSES = taxonomy.load("synthetic12")


def reader(url: str, config: DataConfig, *, cache: bool, synthetic: str = "") -> data.Reader:
    how: dict[str, Any] = {"size": 24, "resize": "squash", "room": None if cache else 0}
    return data.load(url, CLASSES.index(), config, synthetic=synthetic, **how)


def epoch(reader: data.Reader, number: int, *, part: Part = Part(batch_size=10),  # noqa: B008
          preserve_order: bool = False) -> list[data.Batch]:  # fmt: skip
    rows = reader.epoch(part, window=32, seed=3, epoch=number, preserve_order=preserve_order)
    return list(reader.batches(rows, batch_size=part.batch_size))


def test_bytes_that_are_read_are_told(cluster: None, dataset: str) -> None:
    url = f"{dataset}/train"
    whole = sum(shard.num_bytes for shard in read_manifest(url).shards)
    kept, streamed = (reader(url, DataConfig(), cache=cache) for cache in (True, False))
    rows = kept.share(Part(batch_size=10))
    read: dict[str, list[int]] = {"kept": [], "streamed": []}
    list(kept.batches(rows, batch_size=10, told=read["kept"].append))
    list(streamed.batches(rows, batch_size=10, told=read["streamed"].append))
    assert (kept.num_read_bytes, sum(read["kept"])) == (whole, 0)
    assert (streamed.num_read_bytes, sum(read["streamed"])) == (0, whole)
    part: list[int] = []
    list(streamed.batches(rows[:1], batch_size=10, told=part.append))
    assert part == [streamed.files[0][1].num_bytes]


def ids_of(batches: list[data.Batch]) -> list[str]:
    return [name for batch in batches for name in batch.ids]


@pytest.mark.parametrize("cache", [True, False])
def test_every_example_once_with_its_pixels(
    cluster: None, dataset: str, pictures: Path, cache: bool
) -> None:
    found = epoch(reader(f"{dataset}/train", DataConfig(), cache=cache), 0)
    ids = ids_of(found)
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


def test_cached_and_streamed_epochs_are_alike_and_epochs_differ(
    cluster: None, dataset: str
) -> None:
    cached, streamed = (
        reader(f"{dataset}/train", DataConfig(), cache=cache) for cache in (True, False)
    )
    assert cached.blocks
    assert not streamed.blocks
    first, second = ids_of(epoch(cached, 0)), ids_of(epoch(cached, 1))
    assert first == ids_of(epoch(streamed, 0))
    assert first != second
    assert sorted(first) == sorted(second)


def test_steps_are_alike_on_one_and_two_ranks(cluster: None, dataset: str) -> None:
    made = reader(f"{dataset}/train", DataConfig(), cache=True)
    one = epoch(made, 4, part=Part(batch_size=12), preserve_order=True)
    two = [epoch(made, 4, part=Part(k, 2, 6), preserve_order=True) for k in range(2)]
    for step, whole in enumerate(one):
        assert whole.ids == two[0][step].ids + two[1][step].ids


def test_evaluation_keeps_the_order_of_the_shards(cluster: None, dataset: str) -> None:
    made = reader(f"{dataset}/val", DataConfig(), cache=True)
    whole = ids_of(list(made.batches(made.share(Part()), batch_size=7)))
    halves = [list(made.batches(made.share(Part(k, 2)), batch_size=7)) for k in range(2)]
    assert whole == ids_of(halves[0]) + ids_of(halves[1])
    assert len(set(whole)) == 36


@pytest.mark.parametrize("cache", [True, False])
def test_synthetic_pictures_take_their_share(cluster: None, dataset: str, cache: bool) -> None:
    config = DataConfig(synthetic_share=0.25)
    made = reader(f"{dataset}/train", config, cache=cache, synthetic=f"{dataset}/val")
    assert made.num_rows == 96 + 32
    ids = ids_of(epoch(made, 0))
    assert len(set(ids)) == len(ids) == 128
    assert sum(int(name.split("/")[1][:6]) >= 1000 for name in ids) == 32
    with pytest.raises(DataError, match=r"/val: 36 pictures where data.synthetic_share=0.5 of an"):
        reader(f"{dataset}/train", DataConfig(synthetic_share=0.5), cache=cache,
               synthetic=f"{dataset}/val")  # fmt: skip


def test_a_bad_picture_is_a_row_with_an_error(cluster: None, tmp_path: Path) -> None:
    names = [f"{card.id}/{k}.jpg" for k, card in enumerate(CLASSES.cards[:2])]
    pack({names[0]: good(), names[1]: b"<html>"}, str(tmp_path / "d"), tmp_path / "p")
    (batch,) = epoch(reader(str(tmp_path / "d"), DataConfig(), cache=False), 0)
    errors = dict(zip(batch.ids, batch.errors, strict=True))
    assert [bool(errors[name]) for name in names] == [False, True]
    assert "not a picture" in errors[names[1]]
    assert not batch.pixels[batch.ids.index(names[1])].any()


def good() -> bytes:
    from support.pictures import encoded, photo

    return encoded(photo())


def test_check_names_what_is_wrong(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.train: .*no data set here"):
        inputs.check(str(tmp_path), CLASSES, key="data.train")
    with pytest.raises(DataError, match=r"data\.train: \(no location\): no data set here"):
        inputs.check("", CLASSES, key="data.train")
    few = taxonomy.Taxonomy("few", CLASSES.cards[:11])
    with pytest.raises(TaxonomyError, match=r'"Warrior_II_Pose.*" not in taxonomy "few"'):
        inputs.check(f"{dataset}/train", few, key="data.train")


def test_a_damaged_shard_is_named_in_one_line(
    cluster: None, pictures: Path, tmp_path: Path
) -> None:
    packing.build(str(pictures / "val"), str(tmp_path), packing.Packing(rows_per_shard=20))
    (torn,) = tmp_path.glob("shard-00001-*.parquet")
    torn.write_bytes(torn.read_bytes()[:500])
    for cache in (False, True):
        with pytest.raises(DataError, match=rf"^\S*/{torn.name}: .*\(500 bytes where it"):
            epoch(reader(str(tmp_path), DataConfig(), cache=cache), 0)
