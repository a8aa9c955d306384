"""An epoch in one worker: its steps, each read when the next is under way, and what they give."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F

from raypose.clip import probe
from raypose.errors import DataError, TrainError
from raypose.training import state
from raypose.training.context import gather, note
from raypose.training.costs import added
from raypose.training.outcome import Outcome
from raypose.training.prefetcher import Prefetcher
from raypose.training.saver import Saver
from raypose.training.state import EpochProgress
from raypose.training.trainer import Trainer

__all__ = ["fit_probe", "train"]

PROGRESS_PERIOD_S = 0.5


def train(trainer: Trainer, progress: EpochProgress, saver: Saver | None = None) -> dict[str, Any]:
    """Go through the training set once, or through what is left of an epoch.

    Args:
        trainer: the worker's state.
        progress: where the epoch stands; moved on.
        saver: writes checkpoints within the epoch, if the recipe asks for them.

    Returns:
        train_loss (nats), images_per_s over all workers, data_wait (share of the time in 0..1 that
        this worker waited for pictures), train_s, the learning_rate that comes next, the mean
        gradient_norm before clipping, and num_bad pictures; in fp16 also skipped_steps, whose
        gradients were too large for it.

    Raises:
        DataError: where there was no good picture.
        TrainError: where a loss or gradient is not finite, or no step of a run was of use.
    """
    context, config = trainer.context, trainer.config
    trainer.set_training()
    trainer.bad.clear()
    trainer.bad.update(progress.bad if context.rank == 0 else {})
    source = context.batches(
        "train", batch_size=trainer.local_batch_size, epoch=progress.epoch, start=progress.step
    )
    prefetcher = Prefetcher(source, context.device)
    began, before, shown, saved = time.monotonic(), progress.seen, 0.0, False
    tally = _Tally(trainer, progress)
    while True:
        outcome = trainer.take_step(
            prefetcher.take(), epoch=progress.epoch, meanwhile=prefetcher.fetch
        )
        tally.add(outcome)
        if outcome is None:
            break
        progress.step += 1
        now = time.monotonic()
        if context.rank == 0 and progress.seen > before and now - shown > PROGRESS_PERIOD_S:
            shown, rate = now, (progress.seen - before) / (now - began)
            _tell_step(trainer, progress.epoch, loss=tally.loss, rate=rate)
        every = config.train.checkpoint_steps
        due = every and trainer.step % every == 0
        if saver and (due or (trainer.leaving and not saved)):
            tally.settle()
            _save(trainer, progress, saver)
            saved = trainer.leaving
    _check_use(trainer, progress)
    spent = time.monotonic() - began
    return {
        **progress.costs,
        "train_loss": progress.loss / progress.seen,
        "images_per_s": (progress.seen - before) / spent,
        "data_wait": prefetcher.waited / spent,
        "train_s": spent,
        "learning_rate": trainer.learning_rate,
        "gradient_norm": progress.norm / max(1, progress.num_norms),
        **({"skipped_steps": progress.skipped} if trainer.loss_scale else {}),
        "num_bad": sum(gather(context, len(trainer.bad))),
    }


def _check_use(trainer: Trainer, progress: EpochProgress) -> None:
    """Refuse an epoch without a picture, and a run without a step that was of use."""
    config = trainer.config
    if progress.seen == 0:
        raise DataError(f"{config.data.train}: holds no good picture")
    last = progress.epoch + 1 == config.optim.epochs
    if trainer.loss_scale is not None and last and not trainer.has_learned:
        raise TrainError(
            "train.precision=fp16: no step's gradients were finite, so nothing was learned; take "
            "more steps, or set train.precision=fp32"
        )


@dataclass
class _Tally:
    """What steps come to: each is read when a device has the next one to compute.

    Attributes:
        trainer: takes them.
        progress: of the epoch.
        loss: of the last one that was read.
    """

    trainer: Trainer
    progress: EpochProgress
    loss: float = 0.0
    _last: Outcome | None = None

    def add(self, outcome: Outcome | None) -> None:
        """Take a step in, and wait for the one before."""
        self.settle()
        self._last = outcome

    def settle(self) -> None:
        """Wait for the last one."""
        last, self._last = self._last, None
        if last is None or not last.count:
            return
        self.loss = self.trainer.settle(last)
        self.progress.loss += self.loss * last.count
        self.progress.seen += last.count
        if last.is_finite:
            self.progress.norm += self.trainer.gradient_norm
            self.progress.num_norms += 1
        else:
            self.progress.skipped += 1


def fit_probe(trainer: Trainer) -> dict[str, Any]:
    """Fit a head to the training pictures' features; every rank fits the same.

    Returns:
        train_loss (nats), images_per_s, num_bad, and the penalty.
    """
    began = time.monotonic()
    start = trainer.classifier().cpu()
    features, targets = trainer.embedded("train")
    if not len(features):
        raise DataError(f"{trainer.config.data.train}: holds no good picture")
    scale = trainer.clip.model.logit_scale.exp().item()
    asked = trainer.config.optim.probe_penalty
    head, penalty = probe.fit_best(features, targets, start, logit_scale=scale, penalty=asked)
    trainer.head = head
    logits = scale * features @ head.T
    return {
        "train_loss": float(F.cross_entropy(logits, targets)),
        "images_per_s": len(features) / (time.monotonic() - began),
        "num_bad": sum(gather(trainer.context, len(trainer.bad))),
        "penalty": penalty,
    }


def _tell_step(trainer: Trainer, epoch: int, *, loss: float, rate: float) -> None:
    event = {"kind": "step", "epoch": epoch, "step": trainer.step}
    more = {"num_steps": trainer.num_steps, "loss": loss, "images_per_s": rate}
    trainer.context.progress({**event, **more})


def _save(trainer: Trainer, progress: EpochProgress, saver: Saver) -> None:
    """Write a checkpoint within an epoch; where a node goes, wait for it and say so."""
    context = trainer.context
    progress.costs = added([progress.costs, *gather(context, context.costs.taken())])
    state.save(trainer, progress, None, {}, saver=saver)
    if trainer.leaving:
        saver.wait()
        note(context, f"a node is about to go: checkpoint at step {trainer.step}")
