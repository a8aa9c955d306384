"""The gate: what is held against torch on validation pictures is admitted, or told why not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.releases import make

from raypose.data import packing
from raypose.data.shards import manifest_hash
from raypose.errors import DataError
from raypose.releases import documents, gate
from raypose.releases.backends import NAMES, Maker, lacking
from raypose.releases.documents import BACKENDS, Backends
from raypose.releases.predictor import Predictor

NUM = 36
"""Pictures of the fixture's val/."""


@pytest.fixture(scope="module")
def shards(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("gate") / "val")
    packing.build(str(pictures / "val"), url, packing.Packing(rows_per_shard=7))
    return url


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    return Predictor.load(make(tmp_path), device="cpu")


def test_what_takes_pictures_for_another_class_is_not(tmp_path: Path, shards: str) -> None:
    """A picture lies so near to where two classes meet that bf16 takes it over."""
    plain = Predictor.load(make(tmp_path / "plain"), device="cpu")
    pixels = next(gate._pictures(plain, shards, NUM, lambda done, total: None))
    low = Maker(plain.clip, plain.config.model).make("torch_bf16")
    exact, rounded = (tower(torch.from_numpy(pixels))[:1] for tower in (plain.backend, low))
    off = rounded - exact
    way, far = F.normalize(off, dim=-1), off.norm()
    rows = torch.cat([exact - way, (1 - far) * exact + way, *[-exact] * 10])
    predictor = Predictor.load(make(tmp_path / "torn", classifier=rows), device="cpu")
    found = gate.hold(predictor, shards, ["torch_bf16"])["torch_bf16"]
    assert not found.admitted
    assert "of 36 pictures are taken for another class" in found.why
    assert found.changed_top1 is not None
    assert found.changed_top1 > gate.MAX_CHANGED


def test_weights_that_are_no_numbers_are_admitted_by_nothing(
    predictor: Predictor, shards: str
) -> None:
    with torch.no_grad():
        predictor.clip.model.visual.proj[0, 0] = float("nan")
    found = gate.hold(predictor, shards, ["torch_bf16"])["torch_bf16"]
    assert not found.admitted
    assert "a logit is not finite" in found.why


def test_pictures_are_taken_evenly_and_the_same_each_time(
    predictor: Predictor, shards: str
) -> None:
    seen: list[np.ndarray] = []

    class Watching(Predictor):
        def logits(self, pixels: np.ndarray) -> np.ndarray:
            seen.append(pixels.copy())
            return super().logits(pixels)

    parts = (predictor.clip, predictor.classifier, predictor.logit_scale, predictor.classes)
    watching = Watching(*parts, predictor.config, device=predictor.device)
    held = [gate.hold(watching, shards, ["torch_bf16"], num_pictures=18) for _ in range(2)]
    assert held[0] == held[1]
    assert held[0]["torch_bf16"].num_pictures == 18
    half = len(seen) // 2
    for first, again in zip(seen[:half], seen[half:], strict=True):
        np.testing.assert_array_equal(first, again)
    assert half >= 4  # of the six shards


def test_what_is_not_held_says_why(
    predictor: Predictor, shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def whys(url: str, asked: bool | None) -> set[str]:
        found = gate.open_to(predictor, url, asked=asked)
        assert list(found.backends) == list(NAMES)
        assert found.admitted == ["torch"]
        return {one.why for one in found.backends.values() if one.why}

    assert whys(shards, None) == {"not held against torch: the image tower is small"}
    assert whys(shards, False) == {"not held against torch, as was asked"}
    assert whys("", True) == {"not held against torch: there is no validation set"}
    assert any("gone" in why for why in whys(str(tmp_path / "gone"), True))
    monkeypatch.setitem(sys.modules, "openvino", None)
    if lacking("torch_bf16"):
        found = whys(shards, True)
        assert any("pip install 'raypose[cpu]'" in why for why in found)
        assert "this CPU does not compute in bf16" in found


def test_pictures_that_cannot_be_read_prove_nothing(predictor: Predictor, tmp_path: Path) -> None:
    folder, url = tmp_path / "bad" / predictor.classes.ids[0], str(tmp_path / "shards")
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"no picture")
    packing.build(str(folder.parent), url, packing.Packing(check=False))
    with pytest.raises(DataError, match="holds no good picture"):
        gate.hold(predictor, url, ["torch_bf16"])


def test_what_answers_as_torch_does_is_admitted_and_again_in_the_same_words(
    predictor: Predictor, shards: str, tmp_path: Path
) -> None:
    steps: list[tuple[int, int]] = []
    found = gate.open_to(
        predictor, shards, asked=True, progress=lambda done, total: steps.append((done, total))
    )
    assert steps[-1] == (NUM, NUM)
    assert found.admitted[:1] == ["torch"]
    assert found.data == manifest_hash(shards)
    one = found.backends["openvino"]
    assert one.admitted, one.why
    assert (one.num_pictures, one.precision, one.changed_top1) == (NUM, "fp32", 0)
    assert one.largest_difference is not None
    assert one.allowed_difference is not None
    assert 0 < one.largest_difference < one.allowed_difference
    assert one.largest_difference == float(f"{one.largest_difference:.3g}")
    gate.write(found, tmp_path)
    content = (tmp_path / BACKENDS).read_bytes()
    again = documents.read(Backends, str(tmp_path / BACKENDS), mend="publish it again")
    assert again == found
    gate.write(gate.open_to(predictor, shards, asked=True), tmp_path)
    assert (tmp_path / BACKENDS).read_bytes() == content
