"""What earlier versions wrote loads, resumes and answers as it did."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.before import Before, unpack

from raypose import config, evaluation, storage, training
from raypose.data import shards
from raypose.releases import registry
from raypose.releases.predictor import Predictor
from raypose.training import tracking


@pytest.fixture(scope="module")
def before(s3: str) -> Before:
    return unpack("0.1", "s3://raypose-0-1")


def test_shards_are_whole(before: Before) -> None:
    for split, num_rows in before.expected["num_rows"].items():
        assert shards.verify(f"{before.root}/{split}").num_rows == num_rows


def test_runs_keep_their_ids(before: Before) -> None:
    for name, recipe in before.recipes.items():
        assert training.locate(recipe).id == before.expected["runs"][name]
        spread = config.override(recipe, {"train.num_workers": 2, "serve.port": 1})
        assert training.locate(spread).id == before.expected["runs"][name]
        other = config.override(recipe, {"seed": 1})
        assert training.locate(other).id == other.run_id


def test_a_finished_run_is_finished(before: Before) -> None:
    result = training.finished(before.recipes["whole"])
    assert result is not None
    assert result.metrics == before.expected["metrics"]
    assert result.run_id == before.expected["runs"]["whole"]


def test_a_run_that_was_cut_off_goes_on(
    before: Before, cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends as the one did that was not cut off, in the folder where it began."""
    result = training.train(before.recipes["cut"], in_process=True)
    assert result.run_id == before.expected["runs"]["cut"]
    told = capsys.readouterr().err
    assert f"resuming {result.run_id} after epoch 1 of 2" in told
    assert [line["epoch"] for line in tracking.read(f"{result.url}/metrics.jsonl")] == [1, 2]
    for key in ("train_loss", "val_top1"):
        assert result.metrics[key] == pytest.approx(before.expected["metrics"][key], abs=1e-4)
    # 0.1 gave its temperature to the validation set, be it of two dozen pictures
    assert result.metrics["val_nll"] == pytest.approx(
        before.expected["metrics"]["val_nll"], abs=0.1
    )
    assert storage.list_folders(f"{before.root}/runs") == sorted(before.expected["runs"].values())


def test_a_release_answers_alike(before: Before, cluster: None, tmp_path: Path) -> None:
    release = registry.resolve(before.root, "whole@production")
    assert str(release) == before.expected["release"]
    predictor = Predictor.load(registry.fetch(release, tmp_path))
    for name, content in before.pictures.items():
        (ranked,) = predictor.predict([content])
        expected = dict(before.expected["answers"][name])
        assert {found.label for found in ranked} == set(expected)
        for found in ranked:
            assert found.probability == pytest.approx(expected[found.label], abs=1e-5)
    figures = evaluation.evaluate(before.root, "whole", f"{before.root}/val", with_baselines=False)
    assert figures["nll"] == pytest.approx(before.expected["nll"], abs=1e-5)
    assert figures["top1"] == before.expected["top1"]


def test_publishing_again_gives_the_same_release(before: Before) -> None:
    assert evaluation.publish(before.recipes["whole"]).name == "whole"
