"""`runs`: what lies in a storage root, and what of it may go."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.contexts import InMemory, batch, recipe

from raypose import config as recipes
from raypose import storage
from raypose.cli.main import main
from raypose.cli.places import check_out
from raypose.clip import model
from raypose.config import Config, dump
from raypose.data import shards
from raypose.errors import CheckpointError, UsageError
from raypose.releases import registry
from raypose.training import checkpoint, finish, loop, runs


@pytest.fixture
def done(tmp_path: Path) -> Config:
    """A run that is finished, and one that was cut off after an epoch."""
    made = recipe(storage=str(tmp_path / "st"), **{"data.val": "memory"})
    for config, ends in ((made, True), (recipe(storage=made.storage, seed=1), False)):
        url = runs.locate(config).url
        context = InMemory([batch(list(range(8)))])
        storage.write_json(f"{url}/config.json", dump(config))
        loop.train_worker(config, context, run_url=url, num_rows=8)
        if ends:
            finish.finish(config, context, run_url=url)
            result = {"run_id": config.run_id, "url": url, "checkpoint": f"{url}/final",
                      "metrics": {"epoch": 1, "val_top1": 0.5}}  # fmt: skip
            storage.write_json(f"{url}/result.json", result)
            origin = {"run_id": config.run_id, "owner": "anna", "began": 1.7e9}
            storage.write_json(f"{url}/provenance.json", origin)
    return made


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    code = main([*words, "--json"])
    out = capsys.readouterr().out
    return code, json.loads(out) if out else None


def test_runs_are_listed_shown_cleaned_and_removed(
    done: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    at = f"storage={done.storage}"
    code, document = asked(capsys, "runs", at)
    assert code == 0
    found = {row["run"]: row for row in document["runs"]}
    assert [row["finished"] for row in found.values()].count(True) == 1
    mine = found[done.run_id]
    assert mine["epochs"] == 1
    other = next(row for name, row in found.items() if name != done.run_id)
    assert other["cpu_hours"] == 4 * other["gpu_hours"] > 0
    assert (mine["owner"], mine["began"]) == ("anna", 1.7e9)
    code = main(["runs", at])
    assert f"{done.run_id}  " in (said := capsys.readouterr().out)
    assert re.search(r"finished  2023-11-1\d \d\d:13 by anna", said)
    assert mine["bytes"] > 100_000
    _, shown = asked(capsys, "runs", "show", done.run_id, at)
    assert sum(shown["parts"].values()) == shown["bytes"] == mine["bytes"]
    assert shown["metrics"]["val_top1"] == 0.5
    _, freed = asked(capsys, "runs", "clean", at)
    assert set(freed["runs"]) == {done.run_id}
    assert runs.finished(done) is not None
    assert (Path(done.storage) / "runs" / done.run_id / "final/final.json").exists()
    other = next(name for name in found if name != done.run_id)
    assert checkpoint.latest(found[other]["url"]) is not None  # it may be gone on with
    folder = Path(done.storage) / "release"
    folder.mkdir()
    (folder / "provenance.json").write_text(json.dumps({"run_id": done.run_id}))
    made = registry.publish(done.storage, "tiny", folder)
    code, _ = asked(capsys, "runs", "rm", done.run_id, at)
    assert code == 3
    code, _ = asked(capsys, "runs", "rm", done.run_id, at, "force=true")
    assert code == 0
    assert [row["run"] for row in runs.overview(done.storage)] == [other]
    assert registry.resolve(done.storage, str(made)) == made
    code, _ = asked(capsys, "runs", "rm", "../releases", at)
    assert code == 3
    assert registry.names(done.storage) == ["tiny"]


DAMAGED = [
    ("provenance.json", '{"began": "yesterday"}'), ("provenance.json", '{"began": NaN}'),
    ("provenance.json", '{"owner": ["anna"]}'), ("provenance.json", "null"),
    ("provenance.json", '{"began": 1e30}'), ("provenance.json", "{"),
    ("metrics.jsonl", "[1, 2]"), ("metrics.jsonl", "null"), ("metrics.jsonl", "{"),
    ("metrics.jsonl", "[" * 60_000), ("result.json", '{"metrics": null}'),
    ("result.json", '{"metrics": [1]}'), ("result.json", "{"),
]  # fmt: skip


def test_a_run_that_is_not_there_names_those_that_are(
    done: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`publish` with other keys than `train` had means another run."""
    other = recipes.override(done, {"optim.epochs": 77})
    assert runs.beside(done) == {}
    assert runs.beside(other) == {done.run_id: ["optim.epochs"]}
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(recipes.sparse(other)))
    assert main(["publish", str(path)]) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(rf": not finished; run: raypose train .*; {done.run_id} is, with other ", told)
    assert told.endswith("optim.epochs")


@pytest.mark.parametrize(("name", "content"), DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_run_hides_no_other_and_may_go(
    done: Config, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    at = f"storage={done.storage}"
    (other,) = {row["run"] for row in runs.overview(done.storage)} - {done.run_id}
    storage.write_bytes(f"{done.storage}/runs/{other}/{name}", content.encode())
    code, document = asked(capsys, "runs", at)
    rows = {row["run"]: row for row in document["runs"]}
    assert (code, rows[done.run_id]["damaged"]) == (0, "")
    assert f"{other}/{name}" in rows[other]["damaged"]
    code, shown = asked(capsys, "runs", "show", other, at)
    assert (code, shown["damaged"]) == (0, rows[other]["damaged"])
    assert asked(capsys, "runs", "rm", other, at)[0] == 0
    assert [row["run"] for row in runs.overview(done.storage)] == [done.run_id]


def test_a_damaged_checkpoint_hides_no_unfinished_run(done: Config) -> None:
    (row,) = runs.unfinished(done.storage)
    (state,) = Path(row["url"]).glob("checkpoints/*/state.json")
    state.write_text('{"epoch": "one"}')
    assert [(one["run"], one["epochs"]) for one in runs.unfinished(done.storage)] == [
        (row["run"], 0)
    ]


def test_amounts_that_are_none_are_not_told(
    done: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = {"epoch": 1, "cpu_hours": "many", "gpu_hours": -5, "bytes_read": [1]}
    (other,) = {row["run"] for row in runs.overview(done.storage)} - {done.run_id}
    place = f"{done.storage}/runs/{other}/metrics.jsonl"
    storage.write_bytes(place, f'{json.dumps(odd)}\n{json.dumps(odd)[:-1]}, "x": NaN}}'.encode())
    _, shown = asked(capsys, "runs", "show", other, f"storage={done.storage}")
    assert [shown[key] for key in ("cpu_hours", "gpu_hours", "bytes_read")] == [0, 0, 0]


def test_names_of_strangers_do_not_steer_the_terminal(
    done: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "\x1b[31mred\x1b]0;title\x07\nfake-run  1 GB  finished" + "x" * 1000
    origin = {"run_id": done.run_id, "owner": hostile, "began": 1.7e9}
    storage.write_json(f"{runs.locate(done).url}/provenance.json", origin)
    for words in (("runs", "list"), ("runs", "show", done.run_id)):
        assert main([*words, f"storage={done.storage}"]) == 0
        said = capsys.readouterr().out
        assert "\x1b" not in said
        assert not [line for line in said.splitlines() if line.startswith("fake-run")]
        assert max(map(len, said.splitlines())) < 200


def test_a_run_that_has_ended_keeps_no_moments(done: Config) -> None:
    url = runs.locate(done).url
    checkpoint.forget(url)
    assert not [name for name in storage.list_files(url, recursive=True) if name.endswith(".pt")]
    last = checkpoint.latest(url)
    assert last is not None
    with pytest.raises(CheckpointError, match="the run has ended"):
        checkpoint.restore(url, last)


def test_a_dry_run_says_what_a_run_will_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(tmp_path / "d")
    taxonomy = "taxonomy=synthetic12"
    assert main(["synthesize", data, "form=shards", "per_class=2", "size=32", taxonomy]) == 0
    capsys.readouterr()
    config = recipe(
        storage=str(tmp_path / "st"),
        **{"data.train": data, "optim.epochs": 3, "train.num_workers": 2},
    )
    (tmp_path / "r.json").write_text(json.dumps(dump(config)))
    code, found = asked(capsys, "train", str(tmp_path / "r.json"), "--dry-run")
    assert code == 0
    clip = model.build(config.model)
    assert found["parameters"] == sum(value.numel() for value in clip.model.parameters())
    assert 0 < found["learned"] <= found["parameters"]
    assert found["steps_per_epoch"] == 3  # 24 pictures, 8 a step
    assert found["num_steps"] == 9
    assert found["run_s"] == pytest.approx(9 * found["step_s"])
    assert found["memory_bytes"] > 10**7
    assert not (tmp_path / "st").exists()


@pytest.mark.parametrize("name", ["precious.json", "precious", "MANIFEST.json"])
def test_files_of_strangers_are_not_written_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(UsageError, match=r"nothing of raypose's"):
        check_out(str(tmp_path / name))


def test_what_is_filled_up_is_not_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["synthesize", str(tmp_path / "d"), "form=shards", "taxonomy=synthetic12", "size=32"]
    assert main([*words, "per_class=1"]) == 0
    again = [*words, "per_class=2", f"fill={tmp_path}/d", "overwrite=true"]
    assert main(again) == 2
    assert "overlaps" in capsys.readouterr().err
    assert shards.verify(str(tmp_path / "d")).num_rows == 12
