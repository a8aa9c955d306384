"""A release proves itself by its golden pictures, and what is not as published fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.models import NORMED, TINY
from support.releases import make

from raypose.data import images
from raypose.errors import CheckpointError
from raypose.releases import golden
from raypose.releases.backends import Backend, Maker
from raypose.releases.predictor import CLASSIFIER, Predictor

WEIGHTS, SETTINGS = "open_clip_model.safetensors", "open_clip_config.json"


def published(folder: Path, **changes: object) -> Path:
    release = make(folder, **changes)  # type: ignore[arg-type]
    predictor = Predictor.load(release, device="cpu")
    golden.write(predictor, release, side=predictor.clip.image_size)
    return release


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return published(tmp_path / "one")


def prove(release: Path, **how: object) -> bool:
    return golden.prove(Predictor.load(release, device="cpu", **how), release)  # type: ignore[arg-type]


@pytest.fixture
def threads() -> object:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_pictures_are_of_many_kinds() -> None:
    files = golden.pictures(64)
    assert files == golden.pictures(64)
    decoded = [images.decode(file, max_pixels=10**6) for file in files]
    heights, widths = zip(*(pixels.shape[:2] for pixels in decoded), strict=True)
    assert min(heights) < 64 < max(heights)
    assert min(widths) < 64 < max(widths)
    greys = [bool((np.ptp(pixels.astype(int), axis=2) == 0).all()) for pixels in decoded]
    assert greys.count(True) == 1
    assert decoded[golden.TURNED].shape == (128, 77, 3)  # upright: it lies as 128 × 77


@pytest.mark.parametrize("inference", ["fp32", "bf16"])
@pytest.mark.parametrize("architecture", [TINY, NORMED], ids=["transformer", "convolutions"])
def test_a_release_proves_itself_however_it_is_computed(
    architecture: dict[str, object], inference: str, tmp_path: Path, threads: object
) -> None:
    release = published(tmp_path, architecture=architecture, inference=inference)
    for number in (1, 2):
        assert prove(release, threads=number)
    assert prove(release, backend="torch_bf16")

    class OneByOne:
        backend: Backend

        def __init__(self, predictor: Predictor) -> None:
            self.predictor, self.backend = predictor, predictor.backend

        def pixels(self, content: bytes) -> images.Pixels:
            return self.predictor.pixels(content)

        def logits(self, pixels: images.Pixels) -> np.ndarray:
            return np.concatenate([self.predictor.logits(row[None]) for row in pixels])

    assert golden.prove(OneByOne(Predictor.load(release, device="cpu")), release)


def test_what_is_written_is_the_same_on_any_number_of_threads(
    release: Path, threads: object
) -> None:
    before = (release / golden.FILE).read_bytes()
    for number in (1, 2):
        predictor = Predictor.load(release, device="cpu", threads=number)
        golden.write(predictor, release, side=32)
        assert (release / golden.FILE).read_bytes() == before
        assert torch.get_num_threads() == number


@pytest.mark.parametrize("backend", ["torch", "torch_bf16"])
def test_other_weights_fail(backend: str, release: Path, tmp_path: Path) -> None:
    shutil.copy(make(tmp_path / "two", seed=1) / WEIGHTS, release)
    with pytest.raises(CheckpointError, match=f"by {backend} a logit of golden picture . is off"):
        prove(release, backend=backend)


@pytest.mark.parametrize("backend", ["torch", "torch_bf16"])
def test_classes_in_another_order_fail(backend: str, release: Path) -> None:
    tensors = load_file(release / CLASSIFIER)
    tensors["text_features"] = tensors["text_features"].roll(1, 0).contiguous()
    save_file(tensors, release / CLASSIFIER)
    with pytest.raises(CheckpointError, match="weights, classes or what computes them"):
        prove(release, backend=backend)


@pytest.mark.parametrize("what", ["order", "name"])
def test_classes_named_otherwise_fail(what: str, release: Path) -> None:
    """No logit tells: the answers would be as probable as before, and wrong."""
    path = release / "taxonomy.json"
    document = json.loads(path.read_text())
    cards = document["classes"]
    if what == "order":
        cards.reverse()
    else:
        cards[0]["names"].reverse()
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="its classes are named otherwise, or in another ord"):
        prove(release)


def test_a_proof_without_classes_is_an_older_one(release: Path) -> None:
    with safe_open(release / golden.FILE, framework="pt") as file:
        about = file.metadata()
    tensors = load_file(release / golden.FILE)
    del tensors["classes"]
    save_file(tensors, release / golden.FILE, metadata=about)
    assert prove(release)


def test_what_has_no_proof_has_to_answer_in_numbers(tmp_path: Path) -> None:
    release = make(tmp_path)
    golden.check(Predictor.load(release, device="cpu"), side=32)
    tensors = load_file(release / WEIGHTS)
    tensors["visual.proj"][0, 0] = float("nan")
    save_file(tensors, release / WEIGHTS)
    with pytest.raises(CheckpointError, match="not finite, so its weights are of no use"):
        golden.check(Predictor.load(release, device="cpu"), side=32)


def test_a_class_too_few_is_told_without_a_proof(tmp_path: Path) -> None:
    release = make(tmp_path)
    tensors = load_file(release / CLASSIFIER)
    tensors["text_features"] = tensors["text_features"][1:].clone()
    save_file(tensors, release / CLASSIFIER)
    with pytest.raises(CheckpointError, match="gives 11 logits where 12 were published"):
        Predictor.load(release, device="cpu")


def test_a_class_too_few_fails(release: Path) -> None:
    tensors = load_file(release / CLASSIFIER)
    tensors["text_features"] = tensors["text_features"][1:].clone()
    save_file(tensors, release / CLASSIFIER)
    with pytest.raises(CheckpointError, match="gives 11 logits where 12 were published"):
        prove(release)


@pytest.mark.parametrize("resize", ["shortest", "longest", "trim"])
def test_another_way_to_a_square_fails(resize: str, release: Path) -> None:
    document = json.loads((release / "config.json").read_text())
    assert document["model"]["resize"] == "squash"
    document["model"]["resize"] = resize
    (release / "config.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"decoded to pixels that are off .* model\.resize"):
        prove(release)


def test_other_means_fail(release: Path) -> None:
    document = json.loads((release / SETTINGS).read_text())
    document["preprocess_cfg"]["mean"] = [0.3, 0.5, 0.7]
    (release / SETTINGS).write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="what computes them are not what was published"):
        prove(release)


def test_a_decoder_that_rounds_otherwise_passes(release: Path) -> None:
    class Rounding(Predictor):
        def pixels(self, content: bytes) -> images.Pixels:
            found = super().pixels(content)
            return found + (found % 16 == 7).astype(np.uint8)  # every tenth, say, one level more

    loaded = Predictor.load(release, device="cpu")
    classes = (loaded.clip, loaded.classifier, loaded.logit_scale, loaded.classes, loaded.config)
    assert golden.prove(Rounding(*classes, device=loaded.device), release)


def test_weights_that_are_no_numbers_are_neither_published_nor_proven(
    release: Path, tmp_path: Path
) -> None:
    tensors = load_file(release / WEIGHTS)
    tensors["visual.proj"][0, 0] = float("nan")
    save_file(tensors, release / WEIGHTS)
    with pytest.raises(CheckpointError, match="is off by inf where"):
        prove(release)
    with pytest.raises(CheckpointError, match="not finite, so its weights are of no use"):
        golden.write(Predictor.load(release, device="cpu"), release, side=32)


def test_an_older_release_has_nothing_to_prove(tmp_path: Path) -> None:
    release = make(tmp_path)
    assert not prove(release)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no tensors", "damaged .* publish the release again"),
        ({"logits": torch.zeros(1, 12)}, "damaged"),
        (
            {
                "logits": torch.zeros(1, 12),
                "pixels": torch.zeros(1, 3, 32, 32),
                "picture_0": torch.zeros(3, dtype=torch.uint8),
            },
            "of another form",
        ),
        (
            {
                "logits": torch.zeros(1, 12),
                "pixels": torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
                "picture_0": torch.zeros(3, dtype=torch.uint8),
            },
            "a golden picture is damaged",
        ),
    ],
    ids=["bytes", "parts", "type", "picture"],
)
def test_a_damaged_file_is_told(
    content: bytes | dict[str, torch.Tensor], message: str, release: Path
) -> None:
    if isinstance(content, bytes):
        (release / golden.FILE).write_bytes(content)
    else:
        save_file(content, release / golden.FILE, metadata={"precision": "fp32"})
    with pytest.raises(CheckpointError, match=message) as told:
        prove(release)
    assert "\n" not in str(told.value)


def test_bounds_follow_the_spread_of_logits() -> None:
    rows = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
    assert golden.bound(10 * rows, "fp32", "fp32") == pytest.approx(
        10 * golden.bound(rows, "fp32", "fp32")
    )
    assert golden.bound(rows + 100, "fp32") < 2 * golden.bound(rows, "fp32")
    assert golden.bound(rows, "fp32", "bf16") == golden.bound(rows, "bf16", "fp32")
    assert golden.bound(np.full((1, 3), 5, np.float32), "fp32") > 0


def test_makers_share_nothing_with_the_reference(release: Path) -> None:
    predictor = Predictor.load(release, device="cpu")
    pixels = np.stack([predictor.pixels(file) for file in golden.pictures(32)])
    before = predictor.logits(pixels)
    low = predictor.by(Maker(predictor.clip, predictor.config.model).make("torch_bf16"))
    assert np.abs(low.logits(pixels) - before).max() > 1e-4  # bf16 it is
    np.testing.assert_array_equal(predictor.logits(pixels), before)
