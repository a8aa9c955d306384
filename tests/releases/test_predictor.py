from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from support.releases import make

from raypose import captions
from raypose.captions import taxonomy
from raypose.captions.grammar import parse
from raypose.config import Config
from raypose.errors import CheckpointError, DataError
from raypose.releases import registry
from raypose.releases.predictor import Predictor


@pytest.fixture
def folder(trained: Config, tmp_path: Path) -> Path:
    return registry.fetch(registry.resolve(trained.storage, "tiny"), tmp_path / "release")


def test_a_release_holds_what_is_promised(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "config.json",
        "taxonomy.json",
        "captions.json",
        "classifier.safetensors",
        "golden.safetensors",
        "backends.json",
        "metrics.json",
        "provenance.json",
        "README.md",
        "MANIFEST.json",
    }


def test_plain_open_clip_gives_the_same_answers(folder: Path, pictures: Path) -> None:
    """The whole way by open_clip alone: its preprocessing, its towers, its classifier."""
    predictor = Predictor.load(folder, device="cpu")
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    paths = sorted((pictures / "val").glob("*/*.jpg"))[::7]
    images = torch.stack([preprocess(Image.open(path)) for path in paths])
    grammar = parse(captions.PRESETS["photo"])
    spoken = [
        captions.evaluation_captions(grammar, card)[0]
        for card in taxonomy.load("synthetic12").cards
    ]
    with torch.no_grad():
        image_features, text_features, _ = model(images, tokenizer(spoken))
        expected = (predictor.logit_scale * image_features @ text_features.T).softmax(-1).numpy()
    pixels = np.stack([predictor.pixels(path.read_bytes()) for path in paths])
    np.testing.assert_allclose(predictor.probabilities(pixels), expected, atol=1e-5)


def test_predict_ranks_and_sums(folder: Path, pictures: Path) -> None:
    predictor = Predictor.load(folder, device="cpu")
    path = next((pictures / "val").glob("*/*.jpg"))
    (ranked,) = predictor.predict([path.read_bytes()], k=12)
    odds = [prediction.probability for prediction in ranked]
    assert odds == sorted(odds, reverse=True)
    assert sum(odds) == pytest.approx(1, abs=1e-5)
    assert {prediction.label for prediction in ranked} == set(predictor.classes.ids)
    with pytest.raises(DataError, match="not a picture"):
        predictor.predict([b"no"])


def test_a_release_with_a_hole_is_refused(folder: Path) -> None:
    (folder / "classifier.safetensors").unlink()
    with pytest.raises(CheckpointError, match="not a whole release"):
        Predictor.load(folder)


def test_a_picture_whose_answer_is_no_number_is_one_among_many(tmp_path: Path) -> None:
    """The others of a list or a data set get theirs."""
    predictor = Predictor.load(make(tmp_path), device="cpu")
    chances = np.full((2, 12), 1 / 12, dtype=np.float32)
    chances[1, 3] = np.nan
    how: dict[str, Any] = {"top_k": 3, "level": 0, "abstain_below": 0.0}
    good, bad = (predictor.predicted(str(k), row, **how) for k, row in enumerate(chances))
    assert (len(good.top), good.error) == (3, "")
    assert (bad.source, bad.label, bad.probability) == ("1", None, None)
    assert "is no number" in bad.error
