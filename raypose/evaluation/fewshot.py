"""How far a few pictures of each class go: drawn supports, several methods, one test set.

Every draw is written down. Nothing is chosen on the test set: a probe's penalty comes from
cross-validation on its support, and the others train for the steps that the recipe says.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from raypose import metrics
from raypose.captions import taxonomy
from raypose.clip import model, probe, zeroshot
from raypose.clip.augment import copy_size
from raypose.config import Config, override
from raypose.data import Batch
from raypose.errors import UsageError, did_you_mean
from raypose.evaluation.supports import (
    BATCH_SIZE,
    SupportContext,
    draw_supports,
    narrow,
    read_pictures,
    take,
)
from raypose.training import epochs, loop, state
from raypose.training.scorer import Scorer

__all__ = ["METHODS", "rate", "run"]

METHODS = ("probe", "lora", "full")


def run(
    config: Config,
    *,
    per_class: Sequence[int] = (5, 10, 20, 50),
    num_draws: int = 5,
    num_steps: int = 100,
    methods: Sequence[str] = ("probe",),
    classes: Sequence[str] = (),
    progress: Any = lambda done, total, note="": None,
) -> dict[str, Any]:
    """Train on few pictures a class and score on the recipe's validation set.

    Args:
        config: the recipe; its `data.train` is drawn from, its `data.test` scored on, or its
            `data.val` where there is none. A method's rate is its own where the recipe says none.
        per_class: pictures of each class, for each point of the curve.
        num_draws: supports for each point.
        num_steps: of each training, about: whole passes over the support; a probe takes none.
        methods: of `METHODS`.
        classes: ids of those to tell apart; by default all of the taxonomy.
        progress: called with (runs done, in all, a note).

    Returns:
        name, classes, per_class, test, num_test, zero_shot (top-1 by captions alone) and a note on
        it; rates, the peak learning rate of each method that trains; methods: for each, at each
        point per_class, top1 and balanced_accuracy of each draw, mean and sd of top1 and the 95 %
        interval of its mean; supports: at each point, for each draw, the ids drawn.

    Raises:
        UsageError: for a method that is none, or a point without pictures.
        DataError: where a class has too few pictures.
    """
    _check(methods, per_class, num_draws)
    with tempfile.TemporaryDirectory() as name:
        config = narrow(config, classes)
        shown = _counted(progress, len(methods) * len(per_class) * num_draws)
        study = _Study.load(config, max(per_class), num_draws, nowhere=f"{name}/run")
        points = {
            method: study.curve(method, per_class, num_steps=num_steps, progress=shown)
            for method in methods
        }
        start = study.zero_shot()
    return {
        "name": config.name,
        "classes": list(study.classes.ids),
        "per_class": list(per_class),
        "num_draws": num_draws,
        "num_steps": num_steps,
        "rates": {method: rate(config, method) for method in methods if method != "probe"},
        "seed": config.seed,
        "train": config.data.train,
        "test": config.data.test or config.data.val,
        "num_test": len(study.test),
        "zero_shot": start,
        "note": "" if model.has_weights(config.model) else "its text tower was not trained",
        "methods": points,
        "supports": {
            str(size): [study.ids(size, draw) for draw in range(num_draws)] for size in per_class
        },
    }


@dataclass
class _Study:
    """What all runs share: pictures, and their features by the model as it is."""

    config: Config
    classes: taxonomy.Taxonomy
    pool: Batch
    test: Batch
    draws: list[list[npt.NDArray[np.int64]]]
    """For each draw and class, rows of the pool; those of K pictures are the first K."""
    scorer: Scorer
    start: torch.Tensor
    """(C, D), the captions' features."""
    pool_features: torch.Tensor
    test_features: torch.Tensor
    nowhere: str
    """Location of a run that does not exist: every training starts anew."""

    @classmethod
    def load(cls, config: Config, most: int, num_draws: int, *, nowhere: str) -> _Study:
        """Read the pictures that any draw needs, and the test set."""
        classes = taxonomy.load(config.data.taxonomy)
        size = model.image_size(config.model)
        pool_rows, draws = draw_supports(config, classes, most, num_draws)
        side = copy_size(config.augment, size)
        pool = read_pictures(config, config.data.train, classes, side, pool_rows)
        test = read_pictures(config, config.data.test or config.data.val, classes, size, None)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        held = SupportContext({"train": pool, "val": test}, config.seed, device)
        as_is = override(config, {"optim.method": "probe"})
        trainer, _ = loop.prepare(as_is, held, run_url=nowhere, num_rows=len(pool))
        trainer.clip.model.eval()

        def encoded(batch: Batch) -> torch.Tensor:
            clip, how = trainer.clip, config.model
            parts = (batch.rows(k, k + BATCH_SIZE) for k in range(0, len(batch), BATCH_SIZE))
            return torch.cat(
                [zeroshot.embed(clip, part.pixels, how).cpu() for part in parts if part]
            )

        features = trainer.classifier().cpu(), encoded(pool), encoded(test)
        return cls(config, classes, pool, test, draws, trainer, *features, nowhere)

    def ids(self, size: int, draw: int) -> list[str]:
        """Return the ids of a support."""
        return [self.pool.ids[row] for row in self._rows(size, draw)]

    def zero_shot(self) -> float:
        """Return top-1 by captions alone."""
        return self._scored(self.start)["val_top1"]

    def curve(
        self,
        method: str,
        per_class: Sequence[int],
        *,
        num_steps: int,
        progress: Callable[[str], None],
    ) -> list[dict[str, Any]]:
        """Train on every support of a method; return its points: see `run`."""
        points = []
        for size in per_class:
            scores = []
            for draw in range(len(self.draws)):
                scores.append(self.train(method, size, draw, num_steps=num_steps))
                progress(f"{method} {size} a class: {scores[-1]['val_top1']:.3f}")
            points.append(_point(size, scores))
        return points

    def train(self, method: str, size: int, draw: int, *, num_steps: int) -> dict[str, float]:
        """Return top-1 and balanced accuracy after training on one support."""
        rows = self._rows(size, draw)
        if method == "probe":
            return self._probe(rows)
        per_epoch = math.ceil(len(rows) / self.config.optim.batch_size)
        num_epochs = max(1, round(num_steps / per_epoch))
        changes = {"optim.method": method, "optim.learning_rate": rate(self.config, method)}
        config = override(self.config, {**changes, "optim.epochs": num_epochs})
        sets = {"train": take(self.pool, rows), "val": self.test}
        held = SupportContext(sets, config.seed + draw, self.scorer.context.device)
        trainer, _ = loop.prepare(config, held, run_url=self.nowhere, num_rows=len(rows))
        for epoch in range(num_epochs):
            epochs.train(trainer, state.EpochProgress(epoch))
        with trainer.averaged():
            found = trainer.validate()
        return {key: found[key] for key in ("val_top1", "val_balanced_accuracy")}

    def _rows(self, size: int, draw: int) -> npt.NDArray[np.int64]:
        return np.concatenate([rows[:size] for rows in self.draws[draw]])

    def _probe(self, rows: npt.NDArray[np.int64]) -> dict[str, float]:
        features, targets = self.pool_features[rows], self.pool.targets[rows]
        scale = self.scorer.clip.model.logit_scale.exp().item()
        asked = self.config.optim.probe_penalty
        head, _ = probe.fit_best(features, targets, self.start, logit_scale=scale, penalty=asked)
        return self._scored(head)

    def _scored(self, head: torch.Tensor) -> dict[str, float]:
        """Return top-1 and balanced accuracy of a head on the test set's features."""
        guesses = (self.test_features @ head.T).argmax(1).numpy()
        counts = metrics.confusion_matrix(
            self.test.targets.numpy(), guesses, num_classes=len(self.classes)
        )
        return {
            "val_top1": float(counts.trace() / len(guesses)),
            "val_balanced_accuracy": metrics.balanced_accuracy(counts),
        }


def rate(config: Config, method: str) -> float:
    """Return the peak learning rate of a method: the recipe's for its own, else the method's."""
    own = config.optim.learning_rate if method == config.optim.method else None
    return override(config, {"optim.method": method, "optim.learning_rate": own}).optim.peak_rate


def _counted(progress: Any, total: int) -> Callable[[str], None]:
    """Return what counts up to a total with each note that it is given."""
    numbers = itertools.count(1)
    return lambda note: progress(next(numbers), total, note)


def _check(methods: Sequence[str], per_class: Sequence[int], num_draws: int) -> None:
    for method in methods:
        if method not in METHODS:
            near = did_you_mean(method, METHODS)
            raise UsageError(f"methods: {method!r} is none{near}; known: {', '.join(METHODS)}")
    if not methods or not per_class or min(per_class) < 1 or num_draws < 2:
        raise UsageError("few-shot: wants a method, per_class of at least 1 and num_draws of 2")


def _point(size: int, scores: Sequence[dict[str, float]]) -> dict[str, Any]:
    top1 = [score["val_top1"] for score in scores]
    found = metrics.of_mean(top1)
    low, high = found["interval"]
    return {
        "per_class": size,
        "top1": top1,
        "balanced_accuracy": [score["val_balanced_accuracy"] for score in scores],
        **found,
        "interval": [max(0.0, low), min(1.0, high)],
    }
