from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from support.pictures import pack

from raypose import config, evaluation, storage
from raypose.captions import taxonomy
from raypose.config import Config
from raypose.data import inspection
from raypose.errors import DataError, TrainError
from raypose.inference import embedding
from raypose.releases import registry
from raypose.releases.predictor import Predictor
from raypose.training import runs


def test_figures_are_those_of_the_predictor(
    trained: Config, dataset: str, pictures: Path, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    made = evaluation.evaluate(
        trained.storage, "tiny", f"{dataset}/val", progress=lambda *counts: told.append(counts)
    )
    folder = registry.fetch(registry.resolve(trained.storage, "tiny"), tmp_path / "release")
    predictor = Predictor.load(folder)
    paths = sorted((pictures / "val").glob("*/*.jpg"))
    ranked = predictor.predict([path.read_bytes() for path in paths])
    right = [r[0].label == path.parent.name for r, path in zip(ranked, paths, strict=True)]
    assert made["num_examples"] == len(paths) == 36
    assert (36, 36) in told  # the training set may follow, for the probe beside
    assert made["top1"] == pytest.approx(np.mean(right))
    assert made["release"].startswith("tiny:v1-")
    assert np.sum(made["confusion"]) == 36
    buffer = io.StringIO()
    Console(file=buffer, width=120).print(evaluation.table(made))
    assert "Warrior_II_Pose_or_Virabhadrasana_II_" in buffer.getvalue()
    assert f"top-1 {made['top1']:.3f}" in buffer.getvalue()
    levels = [len(level) for level in taxonomy.load("synthetic12").levels]
    assert [level["num_classes"] for level in made["parents"]] == levels


def test_bad_pictures_are_counted_and_named(
    trained: Config, cluster: None, bucket: str, tmp_path: Path
) -> None:
    label = taxonomy.load("synthetic12").cards[0].id
    from support.pictures import encoded, photo

    bad = {f"{label}/bad.jpg": b"<html>"}
    pack(bad | {f"{label}/good.jpg": encoded(photo())}, f"{bucket}/some", tmp_path / "some")
    with pytest.raises(DataError, match=r"1 of 2 pictures are bad, more than max_bad_fraction=0"):
        evaluation.evaluate(trained.storage, "tiny", f"{bucket}/some")
    half = {"max_bad_fraction": 0.5}
    made = evaluation.evaluate(trained.storage, "tiny", f"{bucket}/some", **half)
    assert made["num_examples"] == made["num_bad"] == 1
    assert "not a picture" in made["bad"][f"{label}/bad.jpg"]
    pack(bad, f"{bucket}/none", tmp_path / "none")
    with pytest.raises(DataError, match="holds no good picture"):
        evaluation.evaluate(trained.storage, "tiny", f"{bucket}/none", max_bad_fraction=1)


def test_features_of_a_data_set_find_its_copies(
    trained: Config, cluster: None, dataset: str
) -> None:
    features = embedding.embed(f"{dataset}/val", trained.model)
    assert features.shape == (36, 16)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-4)
    rows = inspection.inspect([f"{dataset}/val", f"{dataset}/val"])
    both = np.concatenate([features, features])
    groups = inspection.cluster(rows, max_distance=0, features=both, min_cosine=0.99999)
    assert all(any({k, k + 36} <= set(group) for group in groups) for k in range(36))


def test_only_finished_runs_are_published(trained: Config) -> None:
    with pytest.raises(TrainError, match="not finished; run: raypose train"):
        evaluation.publish(config.override(trained, {"seed": 77}))
    assert str(evaluation.publish(trained)) == str(registry.resolve(trained.storage, "tiny"))


def test_pictures_that_chose_a_release_are_said_so(
    trained: Config, dataset: str, bucket: str
) -> None:
    """Told by the manifest, wherever a copy of it lies."""
    for name in storage.list_files(f"{dataset}/val"):
        content = storage.read_bytes(f"{dataset}/val/{name}")
        storage.write_bytes(f"{bucket}/copy/{name}", content)
    for url, note in (
        (f"{dataset}/val", "these pictures chose tiny:v1"),
        (f"{bucket}/copy", "these pictures chose tiny:v1"),
        (f"{dataset}/train", "was trained on these pictures"),
    ):
        scored = evaluation.score(trained.storage, "tiny", url)
        assert note in scored.note
        made = evaluation.figures(scored, with_baselines=False)
        assert made["note"] == scored.note
        buffer = io.StringIO()
        Console(file=buffer, width=300).print(evaluation.table(made))
        assert note in buffer.getvalue()
        assert evaluation.compare(scored, scored)["note"] == scored.note


def test_a_run_is_held_up_on_pictures_that_chose_nothing(
    trained: Config, dataset: str, cluster: None
) -> None:
    result = runs.finished(trained)
    assert result is not None
    before = storage.join(result.url, runs.BASELINES)
    kept = storage.read_bytes(before) if storage.exists(before) else b""
    storage.delete_file(before)
    tested = config.override(trained, {"data.test": f"{dataset}/train"})
    held = evaluation.hold_up(tested, result)
    assert held["data"] == f"{dataset}/train"
    assert held["chose"] is False
    scored = evaluation.score(trained.storage, "tiny", f"{dataset}/train")
    right = (scored.probabilities.argmax(1) == scored.targets).mean()
    assert held["run"]["top1"] == pytest.approx(right)
    storage.delete_file(before)
    if kept:
        storage.write_bytes(before, kept)
