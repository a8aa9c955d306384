"""Whether a trained model is worse than what it came from: said in one line, with what to do.

The model it came from needs no training to go by its captions, and seconds for a probe: one that
does worse on the same pictures was trained in vain.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from raypose import metrics, storage
from raypose.captions import taxonomy
from raypose.clip import model, zeroshot
from raypose.config import Config
from raypose.console import plural, status
from raypose.errors import RayposeError
from raypose.evaluation.baselines import Baseline, baselines
from raypose.inference import embedding, pool
from raypose.inference.embedding import Progress
from raypose.releases.predictor import CLASSIFIER
from raypose.training import runs

__all__ = ["FIGURES", "answers", "hold_up", "verdict"]

FIGURES = {"top1": "top-1", "balanced_accuracy": "balanced accuracy"}
"""What decides, summed → its name."""


NAMES = {"zero_shot": "zero-shot", "probe": "probe"}


ADVICE = {
    "zero_shot": "try a lower optim.learning_rate or fewer optim.epochs",
    "probe": "try optim.method=probe, a lower optim.learning_rate or more optim.epochs",
}
"""The one that is furthest ahead → what to do."""


PROBED = "its captions alone do better; try more pictures of each class"
"""What to do where the model is a probe itself."""


def verdict(ours: Mapping[str, Any], beside: Mapping[str, Any], *, method: str = "full") -> str:
    """Say in one line which baselines a model is worse than, by how much, and what to do.

    It is worse than one that is further ahead of it in one of `FIGURES` than behind in the other.

    Args:
        ours: the model's `FIGURES`, and num_examples.
        beside: ``zero_shot`` and ``probe`` → their `FIGURES` on the same pictures; whatever else is
            in it is passed over, and either may be absent.
        method: by which the model was trained; a probe is not held against a probe.

    Returns:
        The line; empty where it is worse than none.
    """
    leads = {
        name: sum(beside[name][figure] - ours[figure] for figure in FIGURES)
        for name in NAMES
        if name in beside and not (name == method == "probe")
    }
    ahead = sorted((name for name in leads if leads[name] > 1e-9), key=lambda name: -leads[name])
    if not ahead:
        return ""
    first, *others = ahead
    named = "".join([f"its own {NAMES[first]}", *(f" and {NAMES[name]}" for name in others)])
    figures = ", ".join(
        f"{words} {ours[figure]:.3f} against {beside[first][figure]:.3f} "
        f"({ours[figure] - beside[first][figure]:+.3f})"
        for figure, words in FIGURES.items()
    )
    advice = PROBED if method == "probe" else ADVICE[first]
    return f"worse than {named} on {plural(ours['num_examples'], 'picture')}: {figures}; {advice}"


def hold_up(
    config: Config,
    result: runs.TrainResult,
    *,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Hold a finished run against its baselines, once; Ray is connected.

    On `data.test`, which chose nothing, where it is set; else on the validation set.

    What comes of it is written to ``RUN/baselines.json`` and read from there ever after.

    Args:
        config: of the run.
        result: of the run.
        progress: called while sets are read.

    Returns:
        data; chose, whether these pictures chose the run's epoch; num_examples, top1 and
        balanced_accuracy of ``run``, ``zero_shot`` and ``probe``,
        of the baselines with a note; and verdict. Where there is nothing to hold it against, an
        empty verdict and a note, why; that is not written.
    """
    before = runs.baselines(result)
    if before:
        return before
    if not (config.data.test or config.data.val):
        return {"verdict": "", "note": "data.val is not set: nothing to hold the run against"}
    classes = taxonomy.load(config.data.taxonomy)
    url = config.data.test or config.data.val
    with pool.kept():
        try:
            found = baselines(config, classes, url, progress=progress)
        except RayposeError as error:
            status(f"no baselines: {error}")
            return {"verdict": "", "note": str(error)}
        beside = {name: _figures(baseline) for name, baseline in found.items()}
        if config.data.test:
            tested = _figures(answers(config, result, url, classes, progress=progress))
            ours = {figure: tested[figure] for figure in FIGURES}
        else:
            ours = {figure: result.metrics[f"val_{figure}"] for figure in FIGURES}
    run = {"num_examples": beside["probe"]["num_examples"], **ours}
    document = {
        "data": url,
        "chose": not config.data.test,
        "run": run,
        **beside,
        "verdict": verdict(run, beside, method=config.optim.method),
    }
    storage.write_json(storage.join(result.url, runs.BASELINES), document)
    return document


def answers(
    config: Config,
    result: runs.TrainResult,
    url: str,
    classes: taxonomy.Taxonomy,
    *,
    progress: Progress = lambda done, total: None,
) -> Baseline:
    """Return what a run's final model makes of a data set; Ray is connected.

    Args:
        config: of the run.
        result: of the run.
        url: of the shards.
        classes: the taxonomy.
        progress: called with (pictures done, in all).
    """
    with tempfile.TemporaryDirectory() as name:
        folder = storage.download_folder(result.checkpoint, Path(name))
        clip = model.load_image_tower(folder)
        final = load_file(folder / CLASSIFIER)
    rows = embedding.encode(
        clip, url, classes.index(), config.data, config.model, progress=progress
    )
    chances = zeroshot.probabilities(
        torch.from_numpy(rows.features), final["text_features"], float(final["logit_scale"])
    )
    ids = {name: row for row, name in enumerate(rows.ids)}
    return Baseline(chances.numpy(), ids, rows.targets, rows.good)


def _figures(baseline: Baseline) -> dict[str, Any]:
    """Return a baseline's figures on the pictures that can be read."""
    probabilities, targets = baseline.probabilities[baseline.good], baseline.targets[baseline.good]
    size = probabilities.shape[1]
    counts = metrics.confusion_matrix(targets, probabilities.argmax(1), num_classes=size)
    return {
        "num_examples": len(targets),
        "top1": float(counts.trace() / max(1, len(targets))),
        "balanced_accuracy": metrics.balanced_accuracy(counts),
        "note": baseline.note,
    }
