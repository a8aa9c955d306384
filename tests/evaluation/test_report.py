from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from raypose import config, evaluation
from raypose.cli import main as cli
from raypose.config import Config
from raypose.errors import DataError, UsageError
from raypose.evaluation import fewshot, report
from raypose.training import tracking

LABELS = [
    "Tree_Pose_or_Vrksasana_",
    "Plank_Pose_or_Kumbhakasana_",
    "Boat_Pose_or_Paripurna_Navasana_",
]


def is_alone(page: str) -> bool:
    """Whether nothing but the page itself is asked for."""
    outside = re.findall(r"""(?:src|href)=["']?(?!data:|#)([^"'>\s]+)""", page)
    return not outside and "<script" not in page and "@import" not in page


def test_the_page_holds_everything_itself(trained: Config, cluster: None, dataset: str) -> None:
    scored = evaluation.score(trained.storage, "tiny", f"{dataset}/val", num_mistakes=7)
    document = evaluation.figures(scored)
    run = f"{trained.storage}/runs/{trained.run_id}/metrics.jsonl"
    page = report.evaluation_page(document, scored, tracking.read(run))
    assert is_alone(page)
    assert page.count("data:image/jpeg;base64,") == 7 == len(scored.mistakes)
    sure = [mistake.confidence for mistake in scored.mistakes]
    assert sure == sorted(sure, reverse=True)
    assert page.count("<svg") == 6
    assert f"{document['top1']:.3f}" in page
    assert "zero-shot: its text tower was not trained: chance" in page
    worst = scored.mistakes[0]
    assert scored.classes.cards[worst.target].name in page
    assert scored.captions[scored.classes.cards[worst.predicted].id][0] in page


def test_baselines_stand_beside_on_the_same_pictures(
    trained: Config, cluster: None, dataset: str
) -> None:
    document = evaluation.evaluate(trained.storage, "tiny", f"{dataset}/val")
    beside = document["baselines"]
    assert beside["probe"]["num_examples"] == beside["zero_shot"]["num_examples"] == 36
    assert beside["probe"]["nll"] < beside["zero_shot"]["nll"]
    assert len(beside["probe"]["parents"]) == len(document["parents"])
    again = evaluation.evaluate(trained.storage, "tiny", f"{dataset}/val")  # from storage
    assert again["baselines"] == beside
    alone = evaluation.evaluate(trained.storage, "tiny", f"{dataset}/val", with_baselines=False)
    assert "baselines" not in alone


def test_two_releases_are_compared_on_the_same_pictures(
    trained: Config, cluster: None, dataset: str
) -> None:
    scored = evaluation.score(trained.storage, "tiny", f"{dataset}/val")
    found = evaluation.compare(scored, scored)
    assert (found["only_a"], found["only_b"], found["p"]) == (0, 0, 1.0)
    assert found["figures"]["top1"]["interval"] == [0.0, 0.0]
    shuffled = np.random.default_rng(0).permutation(36)
    other = evaluation.Scored(
        **{
            **vars(scored),
            "ids": [scored.ids[row] for row in shuffled],
            "targets": scored.targets[shuffled],
            "probabilities": scored.probabilities[shuffled],
        }
    )
    assert evaluation.compare(scored, other)["figures"] == found["figures"]
    apart = evaluation.Scored(**{**vars(scored), "ids": [f"other/{name}" for name in scored.ids]})
    with pytest.raises(DataError, match="no picture that both"):
        evaluation.compare(scored, apart)


def test_few_pictures_go_some_way(recipe: Config, cluster: None) -> None:
    given = config.override(recipe, {"optim.batch_size": 8})
    found = fewshot.run(
        given, per_class=(2, 5), num_draws=2, num_steps=3, methods=fewshot.METHODS, classes=LABELS
    )
    assert sorted(found["classes"]) == sorted(LABELS)
    assert found["num_test"] == 9
    for points in found["methods"].values():
        assert [point["per_class"] for point in points] == [2, 5]
        for point in points:
            assert len(point["top1"]) == 2
            assert point["mean"] == pytest.approx(np.mean(point["top1"]))
            assert point["sd"] == pytest.approx(np.std(point["top1"], ddof=1))
            assert point["interval"][0] <= point["mean"] <= point["interval"][1]
    two, five = found["supports"]["2"], found["supports"]["5"]
    assert [len(ids) for ids in (*two, *five)] == [6, 6, 15, 15]
    for draw in range(2):
        assert set(two[draw]) < set(five[draw])
        assert sorted({name.split("/")[0] for name in two[draw]}) == sorted(LABELS)
    assert len({tuple(ids) for ids in two}) == 2
    probe_only = fewshot.run(given, per_class=(2, 5), num_draws=2, classes=LABELS)
    assert probe_only["methods"]["probe"] == found["methods"]["probe"]
    page = report.few_shot_page(found)
    assert is_alone(page)
    assert page.count("<svg") == 1
    assert f"{found['methods']['full'][1]['mean']:.3f} ±" in page


def test_what_cannot_be_drawn_says_so(recipe: Config, cluster: None) -> None:
    with pytest.raises(DataError, match=r"8 pictures of .* where 9 a class are to be drawn"):
        fewshot.run(recipe, per_class=(9,))
    with pytest.raises(UsageError, match="'prob' is none; did you mean \"probe\""):
        fewshot.run(recipe, methods=("prob",))
    with pytest.raises(UsageError, match="classes: 'Tree' is not in synthetic12"):
        fewshot.run(recipe, classes=("Tree",))


def test_the_commands_write_pages(
    trained: Config,
    cluster: None,
    dataset: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def call(*words: str) -> dict[str, Any]:
        on_term = signal.getsignal(signal.SIGTERM)
        try:
            assert cli.main([*words, f"storage={trained.storage}", "--json"]) == 0
        finally:
            signal.signal(signal.SIGTERM, on_term)
        document: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return document

    page = tmp_path / "page.html"
    shown = call("report", "tiny", f"{dataset}/val", f"out={page}", "mistakes=3", "baselines=false")
    assert shown["page"] == str(page)
    assert is_alone(page.read_text())
    assert page.read_text().count("data:image/jpeg;base64,") == 3
    compared = call("compare", "tiny", "tiny:v1", f"{dataset}/val")
    assert compared["p"] == 1.0
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(config.sparse(trained)))
    place = tmp_path / "few"
    drawn = call("few-shot", str(recipe), "per_class=[2]", "draws=2", f"out={place}")
    assert drawn["methods"]["probe"][0]["per_class"] == 2
    assert json.loads((place / "draws.json").read_text())["supports"] == drawn["supports"]
    assert is_alone((place / "report.html").read_text())
