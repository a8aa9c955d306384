from __future__ import annotations

import io
import math
import os
import re
import signal
import threading
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support import commands, scrapes
from support.contexts import InMemory, spread
from support.patience import until
from support.pictures import encoded, pack, photo
from support.processes import descendants, environ_of

from raypose import config, console, storage, training
from raypose.captions import taxonomy
from raypose.config import Config
from raypose.data import manifests, packing
from raypose.errors import ConfigError, DataError, ResourceError, TrainError
from raypose.releases import registry
from raypose.runtime.meters import METERS, exported
from raypose.training import heap, runs, tracking


class TwoWorkers(NamedTuple):
    """A finished run of two workers that streamed from S3, and what it told meanwhile."""

    recipe: Config
    result: training.TrainResult
    lines: list[dict[str, Any]]
    """Of JSON, on stderr."""


@pytest.fixture(scope="module")
def two_workers(document: dict[str, Any], cluster: None) -> TwoWorkers:
    storage.make_bucket("s3://test-two")
    made = config.parse_config(
        {**document, "name": "two", "storage": "s3://test-two", "train": {"num_workers": 2}}
    )
    with pytest.MonkeyPatch.context() as changed, redirect_stderr(io.StringIO()) as told:
        commands.tell_as_json(changed)
        result = training.train(made)
    # soon after it: Ray forgets a value that is not told again for twenty seconds
    scrapes.hold(partial(_check_scraped, result))
    return TwoWorkers(made, result, commands.parsed(told.getvalue()))


def _check_scraped(result: training.TrainResult, found: scrapes.Series) -> None:
    run = {"run": result.run_id}
    last = tracking.read(f"{result.url}/metrics.jsonl")[-1]
    of = partial(scrapes.of, found, **run)
    told = {name: of(f"ray_raypose_train_{name}")
            for name in ("epoch", "progress", "loss", "images_per_s", "data_wait", "val_score",
                         "bad_images", "learning_rate", "gradient_norm")}  # fmt: skip
    assert (told["epoch"], told["progress"], told["bad_images"]) == ([2.0], [1.0], [0.0])
    keys = {"loss": "train_loss", "val_score": "val_balanced_accuracy"}
    for name in ("loss", "val_score", "images_per_s", "data_wait"):
        (value,) = told[name]
        assert math.isclose(value, last[keys.get(name, name)], rel_tol=1e-6), name
    assert told["gradient_norm"] > [0.0]
    (images,) = of("ray_raypose_train_images_total")
    assert round(images) == 2 * 96
    assert of("ray_raypose_train_checkpoint_s_count") == [2.0]
    assert of("ray_raypose_train_epoch_s_count") == [2.0]
    (read,) = of("ray_raypose_train_bytes_read_total")
    assert read == result.metrics["bytes_read"]
    held_gpu = result.metrics["gpu_hours"] > 0  # what is none is not counted
    for name in METERS:
        if name.startswith("raypose_train") and (name != "raypose_train_gpu_hours" or held_gpu):
            assert any(of(each) for each in exported(name)), name


def test_a_run_is_seen_in_the_scrape_and_in_lines(two_workers: TwoWorkers) -> None:
    """In the scrape by its fixture."""
    lines = two_workers.lines
    epochs = [line for line in lines if re.match(r"epoch \d/2 ", line["message"])]
    assert len(epochs) == 2
    assert {line["run"] for line in lines} == {two_workers.result.run_id}


def test_two_workers_train_from_s3(two_workers: TwoWorkers) -> None:
    recipe, result, _ = two_workers
    lines = tracking.read(f"{result.url}/metrics.jsonl")
    assert [line["epoch"] for line in lines] == [1, 2]
    assert {"train_loss", "val_top1", "val_top5", "val_balanced_accuracy", "val_nll",
            "images_per_s", "num_bad", "step"} <= lines[0].keys()  # fmt: skip
    assert lines[1]["step"] == 6  # 96 pictures, 32 a step, 2 epochs
    assert all(line["cpu_hours"] > 0 == line["gpu_hours"] for line in lines)
    read = sum(s.num_bytes for name in ("train", "val") for s in _manifest(recipe, name).shards)
    assert lines[0]["bytes_read"] == read  # once, as they are kept decoded
    assert result.metrics["bytes_read"] == read
    assert result.metrics["cpu_hours"] > sum(line["cpu_hours"] for line in lines)
    assert runs.show(recipe.storage, result.run_id)["owner"] == console.owner()
    files = storage.list_files(result.checkpoint)
    assert {"open_clip_config.json", "open_clip_model.safetensors", "final.json"} <= set(files)
    assert config.parse_config(storage.read_json(f"{result.url}/config.json")) == recipe


def _manifest(recipe: Config, split: str) -> manifests.Manifest:
    return manifests.read_manifest(getattr(recipe.data, split))


def test_a_finished_run_is_not_run_again(
    two_workers: TwoWorkers, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, result, _ = two_workers
    assert training.train(recipe) == result
    assert f"{recipe.run_id} is finished already: nothing to train" in capsys.readouterr().err


def test_alone_trains_the_same_way(recipe: Config, cluster: None) -> None:
    seen: list[dict[str, Any]] = []
    result = training.train(recipe, in_process=True, report=seen.append)
    assert [values["epoch"] for values in seen] == [1, 2]
    end = storage.read_json(f"{result.checkpoint}/final.json")
    (at,) = [values for values in seen if values["epoch"] == end["epoch"]]
    assert result.metrics["train_loss"] == at["train_loss"]
    assert result.metrics["val_top1"] == pytest.approx(at["val_top1"])
    assert end["uncalibrated_val_nll"] == pytest.approx(at["val_nll"], abs=1e-4)
    assert result.metrics["val_nll"] <= at["val_nll"] + 1e-6


def test_a_run_goes_on_with_more_workers_and_one_that_is_killed_is_replaced(
    recipe: Config, cluster: None, capsys: pytest.CaptureFixture[str], campaign_round: int
) -> None:
    longer = config.override(recipe, {"optim.epochs": 12})

    def interrupt(values: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(longer, in_process=True, report=interrupt)
    changed = config.override(longer, {"train.num_workers": 2})
    url = training.locate(changed).url
    killed: list[int] = []
    given: set[str] = set()

    def kill_one() -> None:
        # a checkpoint of the two is being written
        until(lambda: len(tracking.read(f"{url}/metrics.jsonl")) > 1)
        killed.extend(descendants("ray::RayTrainWorker")[:1])
        given.update(environ_of(killed[0]))
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill_one)
    thread.start()
    result = training.train(changed)
    thread.join()
    assert killed
    assert {f"{key}={value}" for key, value in heap.ENVIRONMENT.items()} <= given
    lines = tracking.read(f"{result.url}/metrics.jsonl")
    assert [line["epoch"] for line in lines] == list(range(1, 13))
    assert result.run_id == training.locate(longer).id
    told = capsys.readouterr().err
    assert f"resuming {result.run_id} after epoch 1 of 12" in told
    assert "resumes on 2 workers where it was 1: pictures meet in other steps" in told
    assert "kept epoch" in told


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_bad_pictures_stop_a_run_with_one_line(
    recipe: Config, cluster: None, bucket: str, tmp_path: Path, num_workers: int
) -> None:
    classes = taxonomy.load("synthetic12").cards
    contents = {"good": encoded(photo()), "bad": b"<html>gone</html>", "more": encoded(photo())}
    label = classes[0].id
    pack({f"{label}/{k}.jpg": v for k, v in contents.items()}, f"{bucket}/bad", tmp_path)
    changed = config.override(
        recipe,
        {"data.train": f"{bucket}/bad", "train.num_workers": num_workers, "optim.epochs": 1},
    )
    with pytest.raises(DataError) as caught:
        training.train(changed)
    message = str(caught.value)
    assert "1 of 3 pictures are bad, more than data.max_bad_fraction=0 allows" in message
    assert f"{classes[0].id}/bad.jpg: not a picture" in message
    assert "\n" not in message


def failing(*, alone: bool) -> bool | None:
    from raypose.training import workers

    context = InMemory([])
    return None if alone and context.rank == 1 else workers._all_failed(context)


def test_workers_agree_on_whether_all_have_failed() -> None:
    assert spread(partial(failing, alone=False)) == [True, True]
    assert spread(partial(failing, alone=True)) == [False, None]


@pytest.mark.parametrize(
    ("failures", "error", "line"),
    [
        ({0: RuntimeError("peer is gone"), 1: DataError("x.parquet: not found")}, DataError,
         "x.parquet: not found"),
        ({0: RuntimeError("a\n peer is gone\n")}, TrainError,
         "run: training failed: peer is gone; its checkpoints stay"),
    ],
)  # fmt: skip
def test_what_a_worker_raised_is_one_line(
    failures: dict[int, Exception], error: type[Exception], line: str
) -> None:
    """As Ray hands it on; over Ray itself by the next, and by killed ones."""
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
    from ray.train.v2.api.exceptions import WorkerGroupError

    from raypose.training import workers

    wrapped = {rank: UserExceptionWithTraceback(one, "in …") for rank, one in failures.items()}
    made = workers._explained(WorkerGroupError("ranks 0 and 1", wrapped), "run")
    assert type(made) is error
    assert str(made).startswith(line)
    assert "\n" not in str(made)


@pytest.mark.soak  # as what workers agree on, and what all hand back, are tried above
def test_a_worker_that_fails_alone_does_not_leave_the_others_waiting(
    recipe: Config, cluster: None, pictures: Path, tmp_path: Path
) -> None:
    packing.build(
        str(pictures / "train"), str(tmp_path / "train"), packing.Packing(rows_per_shard=8)
    )
    (gone,) = (tmp_path / "train").glob("shard-00004-*.parquet")  # of one worker's share alone
    gone.unlink()
    changed = config.override(
        recipe,
        {"data.train": str(tmp_path / "train"), "data.cache_bytes": 0, "train.num_workers": 2,
         "train.max_failures": 0},
    )  # fmt: skip
    with pytest.raises(DataError, match=rf"^\S*/{gone.name}: not found; check the path$"):
        training.train(changed)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data.train": "s3://test-data/none"}, DataError, "data.train: .*no data set here"),
        ({"data.val": "/none"}, DataError, "data.val: /none: no data set here"),
        (
            {"train.num_workers": 64},
            ResourceError,
            "train.num_workers=64 needs 65 CPUs at once where the cluster has 8; lower it",
        ),
        (
            {"train.use_gpu": True, "train.num_workers": 7},
            ResourceError,
            "needs 7 GPUs at once where the cluster has",
        ),
        (
            {"train.accelerator_type": "A100"},
            ResourceError,
            "train.accelerator_type=A100: no node has such accelerators",
        ),
        (
            {"train.num_workers": 6, "data.train": "{bucket}/few"},
            DataError,
            "/few: 2 pictures cannot feed 6 workers; lower train.num_workers",
        ),
        ({"model.backbone": "tinny"}, ConfigError, 'did you mean "tiny"'),
    ],
)
def test_what_cannot_run_says_so_at_once(
    recipe: Config,
    cluster: None,
    tmp_path: Path,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    if changes.get("data.train") == "{bucket}/few":
        label = taxonomy.load("synthetic12").cards[0].id
        few = {f"{label}/{k}.jpg": encoded(photo()) for k in range(2)}
        pack(few, f"{recipe.storage}/few", tmp_path)
        changes = {**changes, "data.train": f"{recipe.storage}/few"}
    with pytest.raises(error, match=message):
        training.train(config.override(recipe, changes))
    assert registry.names(recipe.storage) == []
