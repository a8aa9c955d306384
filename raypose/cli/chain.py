"""The whole chain on one machine, from drawn pictures on an embedded S3 to an answer over HTTP."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from raypose import config, evaluation, runtime, storage, synthesis, training, tuning
from raypose.captions import taxonomy
from raypose.cli.verbs import Call
from raypose.console import bar, status
from raypose.data import packing
from raypose.errors import DataError, TrainError
from raypose.releases import registry
from raypose.serving import endpoint
from raypose.testing.s3 import embedded_s3

__all__ = ["RECIPE", "mark", "run"]

BUCKET = "s3://raypose-demo"
SEEDS = {"train": 0, "val": 1_000_000, "test": 2_000_000}
"""Split → seed of its first picture: no picture is in two splits."""
SEARCH_EPOCHS = 3
MARK = ".raypose-demo"
"""File of a folder whose content the demo may replace."""

RECIPE: dict[str, Any] = {
    "name": "demo",
    "storage": BUCKET,
    "data": {
        "train": f"{BUCKET}/data/train",
        "val": f"{BUCKET}/data/val",
        "taxonomy": "synthetic12",
    },
    "model": {
        "backbone": "small",
        "architectures": {
            name: {
                "embed_dim": width,
                "vision_cfg": {
                    "timm_model_name": "test_resnet",
                    "timm_model_pretrained": False,
                    "timm_pool": "avg",
                    "timm_proj": "linear",
                    "image_size": 64,
                },
                "text_cfg": {
                    "context_length": 32,
                    "vocab_size": 49408,
                    "width": width,
                    "heads": 2,
                    "layers": 1,
                },
            }
            for name, width in (("slim", 32), ("small", 64))
        },
    },
    "augment": {"min_area": 0.85, "erase": 0.0},
    "optim": {"learning_rate": 5e-3, "text_scale": 0.1, "epochs": 20, "batch_size": 128},
    "train": {"num_workers": 2},
    "search": {
        "num_trials": 4,
        "max_concurrent": 2,
        "grace_epochs": 1,
        "finalists": 0,
        "space": {
            "optim.learning_rate": {"loguniform": [3e-3, 8e-3]},
            "model.backbone": {"choice": ["slim", "small"]},
            "captions.preset": {"choice": ["name", "photo"]},
        },
    },
    "serve": {"port": 0},
    "cluster": {"num_cpus": 8},
}


def run(
    folder: Path,
    call: Call,
    *,
    per_class: int = 450,
    epochs: int = 20,
    trials: int = 4,
    keep: bool = False,
) -> None:
    """Run the chain and print what came of it; the last line on stdout is one JSON object.

    Args:
        folder: for pictures, figures and the release, in place of an earlier demo's: see `mark`.
        call: how to answer.
        per_class: training pictures of each posture.
        epochs: of the winner's training.
        trials: of the search.
        keep: leave the endpoint up until interrupted.
    """
    started = time.monotonic()
    changes = {"optim.epochs": epochs, "search.num_trials": trials}
    recipe = config.override(config.parse_config(RECIPE, where="demo"), changes)
    with embedded_s3() as server, runtime.connect(recipe.cluster, verbose=call.verbose):
        _prepare(server, folder, per_class)
        found = _search(recipe)
        winner = config.override(recipe, found.values)
        training.train(winner)
        release = registry.promote(BUCKET, str(evaluation.publish(winner)))
        with bar("evaluating") as update:
            figures = evaluation.evaluate(
                BUCKET, str(release), f"{BUCKET}/data/test", progress=update
            )
        with endpoint.running(winner, f"{release.name}@{registry.PRODUCTION}") as served:
            truth, picture = _example(folder)
            answer = _ask(served.url, picture)
            outcome = {
                "top1": round(figures["top1"], 4),
                "release": answer["release"],
                "trials": len(found.trials),
                "seconds": round(time.monotonic() - started, 1),
                "predicted": answer["label"],
                "truth": truth,
            }
            _keep_copy(folder, release, figures)
            if not call.json:
                Console(soft_wrap=True).print(evaluation.table(figures))
                _show_answer(truth, picture, answer)
                _show_places(folder, found, release, served.url)
                if keep:
                    _show_usage(served.url, picture)
            print(json.dumps(outcome), flush=True)
            copy, example = shlex.quote(f"{folder}/release"), shlex.quote(str(picture))
            call.next(
                f"raypose classify {copy} {example}",
                f"raypose serve {copy} serve.port=8000",
            )
            if keep:
                signal.pause()


def _prepare(server: str, folder: Path, per_class: int) -> None:
    """Make what the chain goes by: a bucket, and pictures in it."""
    endpoint.check_alone()  # now, rather than after minutes
    status(f"embedded S3 at {server}")
    storage.make_bucket(BUCKET)
    _draw(folder, per_class)


def _search(recipe: config.Config) -> tuning.SearchResult:
    """Search in few epochs, a process a trial."""
    epochs = min(SEARCH_EPOCHS, recipe.optim.epochs)
    return tuning.search(config.override(recipe, {"optim.epochs": epochs, "train.num_workers": 1}))


def mark(folder: Path) -> None:
    """Mark a folder as the demo's; refuse one that holds what the demo would replace, unmarked.

    Raises:
        DataError: naming what is there.
    """
    ours = folder / MARK
    for name in ("pictures", "release", "evaluation.json"):
        if (folder / name).exists() and not ours.exists():
            raise DataError(
                f"{folder / name}: is there already, and not of a demo; give another folder="
            )
    folder.mkdir(parents=True, exist_ok=True)
    ours.write_text("what lies here is replaced by the next raypose demo\n", encoding="utf-8")


def _draw(folder: Path, per_class: int) -> None:
    """Draw each split and pack it to S3."""
    pictures = folder / "pictures"
    shutil.rmtree(pictures, ignore_errors=True)
    labels = taxonomy.load(RECIPE["data"]["taxonomy"]).ids
    for split, seed in SEEDS.items():
        count = per_class if split == "train" else max(1, per_class // 10)
        with bar(f"drawing {split}") as update:
            counts = dict.fromkeys(labels, count)
            synthesis.synthesize(pictures / split, counts, size=96, seed=seed, progress=update)
        with bar(f"packing {split}") as update:
            packing.build(str(pictures / split), f"{BUCKET}/data/{split}", progress=update)


def _example(folder: Path) -> tuple[str, Path]:
    """Return a class and a picture of it from the test split."""
    label = "Tree_Pose_or_Vrksasana_"
    return label, min((folder / "pictures" / "test" / label).iterdir())


def _ask(url: str, picture: Path) -> dict[str, Any]:
    answer = httpx.post(f"{url}/v1/classify", content=picture.read_bytes(), timeout=60)
    if answer.status_code != httpx.codes.OK:
        raise TrainError(f"{url}: answered {answer.status_code}: {answer.text[:200]}")
    document: dict[str, Any] = answer.json()
    return document


def _keep_copy(folder: Path, release: registry.Release, figures: dict[str, Any]) -> None:
    """Save what outlives the embedded S3: the release and its figures."""
    target = folder / "release"
    with tempfile.TemporaryDirectory(dir=folder) as name:
        registry.fetch(release, Path(name) / "release")
        shutil.rmtree(target, ignore_errors=True)
        (Path(name) / "release").replace(target)
    storage.write_json(str(folder / "evaluation.json"), figures)


def _show_answer(truth: str, picture: Path, answer: dict[str, Any]) -> None:
    print(f"picture   {picture}")
    print(f"truth     {truth}")
    print(f"answer    {answer['label']}  {answer['probability']:.3f}  {answer['ms']} ms")


def _show_places(
    folder: Path, found: tuning.SearchResult, release: registry.Release, url: str
) -> None:
    lines = {
        "pictures": f"{folder.resolve()}/pictures",
        "shards": f"{BUCKET}/data (in memory, gone at the end)",
        "search": found.recipe,
        "release": f"{release.url}, a copy at {folder.resolve()}/release",
        "figures": f"{folder.resolve()}/evaluation.json",
        "endpoint": url,
    }
    print("\n".join(f"{name:<9} {place}" for name, place in lines.items()))


def _show_usage(url: str, picture: Path) -> None:
    print(f"use it    curl --data-binary @{picture} {url}/v1/classify")
    print(f"          a page to try it: {url}/docs")
    print(f"stop it   Ctrl-C here, or: kill {os.getpid()}")
