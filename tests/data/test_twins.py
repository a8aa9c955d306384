from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from raypose import synthesis
from raypose.captions import taxonomy
from raypose.data import looks, twins
from raypose.data.inspection import Row, cluster

LABELS = taxonomy.load("yoga82").ids


def grey(image: Image.Image) -> np.ndarray:  # type: ignore[type-arg]
    side = looks.THUMB_SIDE
    return np.asarray(image.convert("L").resize((side, side), Image.Resampling.BOX))


def recoded(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    return Image.open(buffer)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((70, 90)),
        lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda image: ImageEnhance.Contrast(image).enhance(0.7),
        recoded,
    ],
    ids=["size", "mirror", "contrast", "quality"],
)
def test_copies_are_found_and_others_are_not(change: object) -> None:
    originals = [synthesis.render(label, seed=3, size=128) for label in LABELS[:24]]
    copies = [change(image) for image in originals]  # type: ignore[operator]
    hashes = twins.hashes(np.stack([grey(image) for image in originals + copies]))
    pairs = twins.near_hashes(hashes, max_distance=6)
    assert {(k, k + 24) for k in range(24)} == set(map(tuple, pairs.tolist()))


def test_every_pair_is_compared_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, size=(50, 2), dtype=np.uint64)
    hashes[37] = hashes[4]
    hashes[49] = hashes[37] ^ np.uint64(5)
    monkeypatch.setattr(twins, "BLOCK", 7)
    pairs = twins.near_hashes(hashes, max_distance=2).tolist()
    assert sorted(pairs) == [[4, 37], [4, 49], [37, 49]]


def test_features_are_compared_by_cosine() -> None:
    rows = np.array([[1, 0], [0, 1], [0.8, 0.6], [0.999, 0.0447]], dtype=np.float32)
    assert twins.near_features(rows, min_cosine=0.99).tolist() == [[0, 3]]
    assert twins.near_features(rows, min_cosine=0.79).tolist() == [[0, 2], [0, 3], [2, 3]]


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=20))
def test_groups_are_connected_and_apart(edges: list[tuple[int, int]]) -> None:
    pairs = [sorted(edge) for edge in edges if edge[0] != edge[1]]
    groups = twins.clusters(12, np.array(pairs, dtype=np.int64).reshape(-1, 2))
    members = [number for group in groups for number in group]
    assert sorted(members) == sorted({number for pair in pairs for number in pair})
    for one, other in pairs:
        assert any(one in group and other in group for group in groups)
    assert [len(group) for group in groups] == sorted(map(len, groups), reverse=True)


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(0, 12), st.integers(1, 6))
def test_bands_miss_no_pair(seed: int, size: int, max_distance: int, few: int) -> None:
    """Against every pair compared, also where many share their bits."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 2**63, size=(few, 2), dtype=np.uint64)
    hashes = centres[rng.integers(0, few, size)]
    for _ in range(6):
        hashes = hashes ^ (np.uint64(1) << rng.integers(0, 63, size=(size, 2), dtype=np.uint64))
    distances = np.minimum(
        np.bitwise_count(hashes[:, :1] ^ hashes[:, 0]),
        np.bitwise_count(hashes[:, :1] ^ hashes[:, 1]),
    )
    near = distances <= max_distance
    wanted = {(i, j) for i in range(size) for j in range(i + 1, size) if near[i, j] or near[j, i]}
    found = twins.near_hashes(hashes, max_distance=max_distance)
    assert set(map(tuple, found.tolist())) == wanted


def test_other_people_in_one_pose_are_no_twins() -> None:
    """Their hashes are equal, and their pictures are not; a copy and its mirror image are."""
    rng = np.random.default_rng(1)
    scene = rng.integers(0, 256, (32, 32)).astype(np.uint8)
    softer = np.clip(scene * 0.7 + 40, 0, 255).astype(np.uint8)
    stranger = rng.integers(0, 256, (32, 32)).astype(np.uint8)
    thumbs = np.stack([scene, softer, scene[:, ::-1], stranger])
    pairs = np.array([[0, 1], [0, 2], [0, 3], [2, 3]])
    assert twins.alike(thumbs, pairs, min_correlation=0.9).tolist() == [[0, 1], [0, 2]]
    flat = np.full((2, 32, 32), 7, dtype=np.uint8)
    assert not len(twins.alike(flat, np.array([[0, 1]]), min_correlation=0.9))


def test_pictures_that_only_hash_alike_do_not_chain() -> None:
    rng = np.random.default_rng(2)
    rows = [
        Row("d", f"{k}", "a", 90, 60, 1000, 0.5, (5 ^ (1 << k), 2**40), thumb=rng.bytes(1024))
        for k in range(12)
    ]
    assert cluster(rows) == []
    twin = rows[3]._replace(id="copy")
    assert cluster([*rows, twin]) == [[3, 12]]
    assert len(cluster([row._replace(thumb=b"") for row in rows])) == 1  # none to tell them by
