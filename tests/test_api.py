from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from support.patience import PATIENCE_S

import raypose
from raypose import config, evaluation, storage, training
from raypose.config import Config
from raypose.releases import registry

HEAVY = "sorted({'torch', 'ray', 'pyarrow', 'pandas', 'open_clip', 'PIL'} & set(sys.modules))"
WHOLE = """
import json, sys
import raypose

run = raypose.train("recipe.yaml", {"optim.epochs": 1})
import ray
assert not ray.is_initialized()
release = raypose.publish("recipe.yaml", {"optim.epochs": 1})
model = raypose.load(release)
named = raypose.load(str(release), storage="store")
figures = raypose.evaluate(model, "data/val")
print(json.dumps([run.run_id, model.release, named.release, figures["release"],
                  figures["num_examples"], ray.is_initialized()]))
"""
AGAIN = f"""
import json, sys
import raypose

run = raypose.train("recipe.yaml", {{"optim.epochs": 1}})
print(json.dumps([run.run_id, {HEAVY}]))
"""


def python(code: str, folder: Path) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "RAY_ADDRESS": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_importing_it_loads_nothing_heavy(tmp_path: Path) -> None:
    code = f"import json, sys, raypose; print(json.dumps([raypose.__version__, {HEAVY}]))"
    found, _ = python(code, tmp_path)
    assert found == [raypose.__version__, []]
    assert raypose.__version__.count(".") == 2
    names = {"Model", "RayposeError", "evaluate", "load", "publish", "search", "train"}
    assert set(raypose.__all__) == names
    for name in names:
        assert getattr(raypose, name).__doc__


@pytest.mark.own
def test_a_script_of_its_own(document: dict[str, Any], pictures: Path, tmp_path: Path) -> None:
    """From relative paths alone; Ray is started and stopped by each that needs one."""
    from raypose.data import packing

    for split in ("train", "val"):
        packing.build(str(pictures / split), str(tmp_path / "data" / split))
    changes = {"data.train": "data/train", "data.val": "data/val", "storage": "store"}
    recipe = config.override(
        config.parse_config(document), {**changes, "cluster.num_cpus": 3, "optim.epochs": 4}
    )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(config.sparse(recipe)))
    found, told = python(WHOLE, tmp_path)
    run_id, *releases, num_examples, connected = found
    assert run_id.startswith("tiny-")
    assert len(set(releases)) == 1
    assert releases[0].startswith("tiny:v1-")
    assert num_examples == 36
    assert not connected
    assert "epoch 1/1" in told
    assert {path.name for path in tmp_path.iterdir()} == {"data", "store", "recipe.yaml"}
    again, told = python(AGAIN, tmp_path)
    assert again == [run_id, ["pyarrow"]]
    assert f"{run_id} is finished already: nothing to train; see {tmp_path}/store/runs" in told


def test_recipes_may_be_files_dictionaries_or_documents(trained: Config, tmp_path: Path) -> None:
    """The same run, whichever way it is written; it is finished, so that nothing is trained."""
    path = tmp_path / "r.yaml"
    document = config.sparse(trained)
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    assert "epochs" in document["optim"]
    other = {**document, "optim": {**document["optim"], "epochs": 7}}
    back = {"optim.epochs": document["optim"]["epochs"]}
    for recipe, overrides in (
        (path, None),
        (str(path), {}),
        (document, None),
        (trained, None),
        (other, back),
        (config.parse_config(other), back),
    ):
        assert raypose.train(recipe, overrides).run_id == trained.run_id
        assert raypose.publish(recipe, overrides) == registry.resolve(trained.storage, "tiny")
    with pytest.raises(raypose.RayposeError, match="not finished; run: raypose train"):
        raypose.publish(other)
    assert ray.is_initialized()  # it was before


def test_a_model_or_its_reference_is_evaluated(
    trained: Config, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = raypose.load("tiny", storage=trained.storage)
    expected = evaluation.evaluate(trained.storage, "tiny", f"{dataset}/val", with_baselines=False)
    folder = registry.fetch(registry.resolve(trained.storage, "tiny"), tmp_path / "release")
    assert raypose.evaluate(model, f"{dataset}/val") == expected
    assert raypose.evaluate(folder, f"{dataset}/val") == expected
    beside = raypose.evaluate("tiny", f"{dataset}/val", storage=trained.storage, baselines=True)
    assert beside["baselines"]["probe"]["num_examples"] == 36
    assert beside["top1"] == expected["top1"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(raypose.RayposeError, match=f"{tmp_path}/none: no data set here"):
        raypose.evaluate(model, "none")
    assert ray.is_initialized()


def test_a_search_and_its_winner(
    recipe: Config, searched: tuple[Config, dict[str, Any]], cluster: None
) -> None:
    made, answered = searched
    result = raypose.search(config.override(made, {"optim.epochs": 9}), {"optim.epochs": 1})
    assert len(result.trials) == 2
    assert (result.values, result.recipe) == (answered["values"], answered["recipe"])
    assert result.config == config.load(answered["recipe"])
    trained = training.train(result.config, in_process=True)
    run = raypose.train(result.recipe)
    assert run.run_id == result.config.run_id == trained.run_id
    assert storage.exists(run.checkpoint)
    with pytest.raises(raypose.RayposeError, match=r"search\.space: empty"):
        raypose.search(recipe)


def test_mistakes_are_told_before_anything_starts(
    recipe: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYPOSE_STORAGE", raising=False)
    for ask, message in (
        (lambda: raypose.train("none.yaml"), "none.yaml: not found; check the path"),
        (lambda: raypose.train({"optim": {"epoch": 3}}), "recipe: optim.epoch: unknown key; did"),
        (lambda: raypose.train(recipe, {"optim.epoch": 3}), "override: optim.epoch: unknown key"),
        (lambda: raypose.train(recipe, {"data.train": "none"}), f"{tmp_path}/none: no data set"),
        (lambda: raypose.search(recipe, {"data.taxonomy": "yoga83"}), 'did you mean "yoga82"'),
        (lambda: raypose.load("yoga"), f'no release "yoga" in {tmp_path}/raypose-data'),
        (lambda: raypose.load("./yoga"), "not a name, and no such folder"),
        (lambda: raypose.evaluate("yoga", "none"), f"{tmp_path}/none: no data set here"),
    ):
        with pytest.raises(raypose.RayposeError, match=message) as caught:
            ask()
        assert "\n" not in str(caught.value)
    for given in ((None,), (5,), (["a"],), (recipe, 5), (recipe, "x"), (recipe, {5: 1})):
        with pytest.raises(TypeError, match=r"^(recipe|overrides): found .* mapping is wanted"):
            raypose.train(*given)
    assert list(tmp_path.iterdir()) == []
    assert storage.list_folders(recipe.storage) == []


def test_storage_is_found_from_here_upwards(
    trained: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = registry.fetch(registry.resolve(trained.storage, "tiny"), tmp_path / "release")
    root = str(tmp_path / "raypose-data")
    release = registry.promote(root, str(registry.publish(root, "mine", folder)))
    (tmp_path / "deep/down").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep/down")
    monkeypatch.delenv("RAYPOSE_STORAGE", raising=False)
    assert raypose.load("mine").release == str(release)
    with pytest.raises(raypose.RayposeError, match=r"not finished.*raypose train"):
        raypose.publish({**config.sparse(trained), "storage": "raypose-data", "seed": 9})
