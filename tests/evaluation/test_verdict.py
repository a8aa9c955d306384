from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raypose import config, evaluation, storage, training
from raypose.config import Config
from raypose.evaluation import report
from raypose.evaluation.baselines import baselines
from raypose.evaluation.verdict import verdict
from raypose.releases import registry
from raypose.training import TrainResult


def figures(top1: float, balanced: float, num: int = 40) -> dict[str, Any]:
    return {"top1": top1, "balanced_accuracy": balanced, "num_examples": num}


def test_a_model_worse_than_its_probe_is_told_so() -> None:
    found = verdict(
        figures(0.5, 0.45), {"probe": figures(0.625, 0.6), "zero_shot": figures(0.1, 0.1)}
    )
    assert found == (
        "worse than its own probe on 40 pictures: top-1 0.500 against 0.625 (-0.125), balanced "
        "accuracy 0.450 against 0.600 (-0.150); try optim.method=probe, a lower "
        "optim.learning_rate or more optim.epochs"
    )


def test_the_best_baseline_comes_first() -> None:
    beside = {"probe": figures(0.6, 0.6, 1), "zero_shot": figures(0.7, 0.7, 1)}
    found = verdict(figures(0.5, 0.5, 1), beside)
    assert found.startswith("worse than its own zero-shot and probe on 1 picture: top-1 0.500 aga")
    assert "against 0.700 (-0.200)" in found
    assert found.endswith("; try a lower optim.learning_rate or fewer optim.epochs")
    del beside["zero_shot"]
    assert verdict(figures(0.5, 0.5), beside).startswith("worse than its own probe on")


@pytest.mark.parametrize(
    ("ours", "probe", "worse"),
    [
        ((0.5, 0.5), (0.5, 0.5), False),
        ((0.5, 0.5), (0.4, 0.5), False),
        ((0.5, 0.5), (0.5, 0.6), True),
        ((0.5, 0.5), (0.6, 0.3), False),  # more behind in one than ahead in the other
        ((0.5, 0.5), (0.3, 0.8), True),
        ((0.3, 0.3), (0.1 + 0.2, 0.3), False),  # but for rounding the same
    ],
)
def test_both_figures_decide(
    ours: tuple[float, float], probe: tuple[float, float], worse: bool
) -> None:
    assert bool(verdict(figures(*ours), {"probe": figures(*probe)})) is worse


def test_nothing_to_hold_it_against_is_no_verdict() -> None:
    assert verdict(figures(0.5, 0.5), {"note": "out of reach"}) == ""


def test_a_probe_is_not_held_against_a_probe() -> None:
    beside = {"probe": figures(0.6, 0.6), "zero_shot": figures(0.55, 0.55)}
    found = verdict(figures(0.5, 0.5), beside, method="probe")
    assert found.startswith("worse than its own zero-shot on 40 pictures: ")
    assert found.endswith("; its captions alone do better; try more pictures of each class")
    del beside["zero_shot"]
    assert verdict(figures(0.5, 0.5), beside, method="probe") == ""


@pytest.fixture(scope="module")
def harmed(document: dict[str, Any], cluster: None) -> tuple[Config, TrainResult]:
    """A finished run that learnt next to nothing, scored on what its probe is fitted to."""
    storage.make_bucket("s3://test-harmed")
    changes = {
        "data.val": document["data"]["train"],
        "optim.learning_rate": 1e-9,
        "optim.epochs": 1,
        "optim.probe_penalty": 1e-3,
    }
    base = config.parse_config({**document, "storage": "s3://test-harmed", "name": "harmed"})
    made = config.override(base, changes)
    return made, training.train(made, in_process=True)


def published(made: Config, folder: Path) -> tuple[str, dict[str, Any], str]:
    """Publish; return the release, its metrics and its card."""
    release = evaluation.publish(made)
    registry.fetch(release, folder)
    figures = json.loads((folder / "metrics.json").read_text())
    return str(release), figures, (folder / "README.md").read_text()


def test_a_run_is_held_up_once_and_its_release_tells(
    harmed: tuple[Config, TrainResult], tmp_path: Path
) -> None:
    made, result = harmed
    place = f"{result.url}/baselines.json"
    storage.delete_file(place)
    before, plain, card = published(made, tmp_path / "before")
    assert "baselines" not in plain
    assert "worse than" not in card
    counts: list[tuple[int, int]] = []
    found = evaluation.hold_up(made, result, progress=lambda *count: counts.append(count))
    assert (96, 96) in counts
    assert found == storage.read_json(place)
    assert found["data"] == made.data.val
    assert found["run"] == {
        "num_examples": 96,
        "top1": result.metrics["val_top1"],
        "balanced_accuracy": result.metrics["val_balanced_accuracy"],
    }
    assert found["zero_shot"]["note"] == "its text tower was not trained: chance"
    assert found["probe"]["note"] == ""
    assert found["verdict"] == verdict(found["run"], found)
    assert found["verdict"].startswith("worse than its own probe")

    told = {**found, "verdict": "as it stands in storage"}
    storage.write_json(place, told)
    assert evaluation.hold_up(made, result) == told  # read, not computed
    storage.write_json(place, found)

    after, full, card = published(made, tmp_path / "after")
    assert after != before
    assert full == {**plain, "baselines": found}
    assert f"This release is **{found['verdict']}**." in card
    assert f"| probe | {found['probe']['top1']:.4f} |" in card
    assert card.index("## Beside what it came from") < card.index("## How it came about")
    assert published(made, tmp_path / "again")[0] == after


def test_it_agrees_with_evaluation(
    harmed: tuple[Config, TrainResult],
) -> None:
    made, result = harmed
    held = evaluation.hold_up(made, result)
    release = evaluation.publish(made)
    scored = evaluation.score(made.storage, str(release), made.data.val)
    document = evaluation.figures(scored)
    for name in ("probe", "zero_shot"):
        for figure in ("top1", "balanced_accuracy", "num_examples"):
            assert held[name][figure] == pytest.approx(document["baselines"][name][figure])
    assert document["verdict"].startswith("worse than its own probe")
    buffer = io.StringIO()
    Console(file=buffer, width=100).print(evaluation.table(document))
    assert document["verdict"] in " ".join(buffer.getvalue().split())
    page = report.evaluation_page(document, scored, [])
    line = f"<p class=verdict>This release is {document['verdict']}.</p>"
    assert page.index(line) < page.index("<h2>Figures</h2>")
    content = {**document, "verdict": ""}
    assert "class=verdict" not in report.evaluation_page(content, scored, [])
    buffer = io.StringIO()
    Console(file=buffer, width=100).print(evaluation.table(content))
    assert "worse" not in buffer.getvalue()
    alone = evaluation.figures(scored, with_baselines=False)
    assert alone["verdict"] == ""


def test_pictures_that_cannot_be_read_do_not_count(
    harmed: tuple[Config, TrainResult], pictures: Path, bucket: str, tmp_path: Path
) -> None:
    from support.pictures import pack

    made, result = harmed
    content = {
        str(path.relative_to(pictures / "train")): path.read_bytes()
        for path in (pictures / "train").glob("*/*.jpg")
    }
    bad = {f"{next(iter(content)).split('/')[0]}/bad.jpg": b"<html>"}
    pack(content | bad, f"{bucket}/some", tmp_path / "some")
    whole = evaluation.hold_up(made, result)
    changed = config.override(made, {"data.val": f"{bucket}/some", "data.max_bad_fraction": 0.1})
    elsewhere = TrainResult(result.run_id, f"{bucket}/run", result.checkpoint, result.metrics)
    found = evaluation.hold_up(changed, elsewhere)
    assert {**found, "data": ""} == {**whole, "data": ""}


def test_without_baselines_it_says_why(
    harmed: tuple[Config, TrainResult], bucket: str, capfd: pytest.CaptureFixture[str]
) -> None:
    made, result = harmed
    elsewhere = TrainResult(result.run_id, f"{bucket}/run", result.checkpoint, result.metrics)
    absent = config.override(made, {"data.val": f"{bucket}/none"})
    found = evaluation.hold_up(absent, elsewhere)
    assert found["verdict"] == ""
    assert found["note"].startswith(f"{bucket}/none")
    assert f"no baselines: {found['note']}" in capfd.readouterr().err
    unset = config.override(made, {"data.val": ""})
    found = evaluation.hold_up(unset, elsewhere)
    assert found == {
        "verdict": "",
        "note": "data.val is not set: nothing to hold the run against",
    }
    assert not storage.exists(f"{bucket}/run/baselines.json")  # to be tried again


def test_baselines_tell_what_pictures_show(
    harmed: tuple[Config, TrainResult], dataset: str
) -> None:
    from raypose.captions import taxonomy

    made, _ = harmed
    classes = taxonomy.load(made.data.taxonomy)
    found = baselines(made, classes, f"{dataset}/val")["probe"]
    assert found.good.all()
    names = {row: name.split("/")[0] for name, row in found.ids.items()}
    assert [classes.ids[target] for target in found.targets] == [names[k] for k in range(36)]
