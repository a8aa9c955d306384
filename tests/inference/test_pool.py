"""Passes over data sets by workers of a real cluster: order, kills, errors."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from support.pictures import encoded, pack, photo
from support.processes import descendants

from raypose import storage
from raypose.captions import taxonomy
from raypose.clip import model, zeroshot
from raypose.config import Config, DataConfig
from raypose.data import manifests, shards
from raypose.data.transforms import preprocess
from raypose.errors import DataError, ResourceError
from raypose.inference import embedding

INDEX = taxonomy.load("synthetic12").index()
DATA = DataConfig()


def test_rows_come_in_the_order_of_the_shards(
    cluster: None, recipe: Config, dataset: str, pictures: Path
) -> None:
    clip = model.build(recipe.model)
    clip.model.eval()
    told: list[tuple[int, int]] = []
    how = {"num_workers": 2, "progress": lambda *counts: told.append(counts)}
    url = f"{dataset}/train"
    found = embedding.encode(clip, url, INDEX, DATA, recipe.model, **how)
    manifest = manifests.read_manifest(url)
    assert len(manifest.shards) == 5
    read = [shards.read_shard(url, shard)["id"].to_pylist() for shard in manifest.shards]
    assert found.ids == [name for names in read for name in names]
    assert told == [(20, 96), (40, 96), (60, 96), (80, 96), (96, 96)]
    squares = [
        preprocess(
            (pictures / "train" / name).read_bytes(), size=32, resize="squash", max_pixels=10**7
        )
        for name in found.ids
    ]
    expected = zeroshot.embed(clip, torch.from_numpy(np.stack(squares)), recipe.model).numpy()
    np.testing.assert_allclose(found.features, expected, atol=1e-5)
    assert [INDEX[name.split("/")[0]] for name in found.ids] == found.targets.tolist()


def test_a_killed_worker_loses_nothing(cluster: None, recipe: Config, dataset: str) -> None:
    clip = model.build(recipe.model)
    url = f"{dataset}/train"
    whole = embedding.encode(clip, url, INDEX, DATA, recipe.model, num_workers=2)
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if not killed:
            killed.extend(descendants("ray::_Worker"))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    found = embedding.encode(clip, url, INDEX, DATA, recipe.model, num_workers=2, progress=kill)
    assert killed
    assert found.ids == whole.ids
    np.testing.assert_array_equal(found.features, whole.features)


def test_what_a_user_can_mend_is_one_line(
    cluster: None, recipe: Config, dataset: str, bucket: str
) -> None:
    for name in storage.list_files(f"{dataset}/val"):
        content = storage.read_bytes(f"{dataset}/val/{name}")
        storage.write_bytes(f"{bucket}/torn/{name}", content[:-9] if "00001" in name else content)
    clip = model.build(recipe.model)
    with pytest.raises(DataError, match=r"is not what the manifest says") as caught:
        embedding.encode(clip, f"{bucket}/torn", INDEX, DATA, recipe.model)
    assert "\n" not in str(caught.value)


def test_bad_pictures_are_zeros_and_are_tolerated_as_asked(
    cluster: None, recipe: Config, bucket: str, tmp_path: Path
) -> None:
    label = next(iter(INDEX))
    contents = {f"{label}/good.jpg": encoded(photo()), f"{label}/bad.jpg": b"<html>"}
    pack(contents, f"{bucket}/some", tmp_path / "some")
    clip = model.build(recipe.model)
    with pytest.raises(DataError, match="1 of 2 pictures are bad"):
        embedding.encode(clip, f"{bucket}/some", INDEX, DATA, recipe.model)
    half = DataConfig(max_bad_fraction=0.5)
    found = embedding.encode(clip, f"{bucket}/some", INDEX, half, recipe.model)
    assert dict(zip(found.ids, found.good.tolist(), strict=True)) == {
        f"{label}/good.jpg": True,
        f"{label}/bad.jpg": False,
    }
    assert (np.linalg.norm(found.features, axis=1) > 0.5).tolist() == found.good.tolist()


def test_more_than_the_cluster_has_is_refused_at_once(
    cluster: None, recipe: Config, dataset: str
) -> None:
    from raypose.inference import pool

    manifest = manifests.read_manifest(f"{dataset}/val")
    work = object()
    with pytest.raises(ResourceError, match="a worker needs 1 GPU at once"):
        list(pool.run(work, "", list(enumerate(manifest.shards)), use_gpu=True))  # type: ignore[arg-type]
