"""One training loop in two surroundings: a Ray Train worker, or a process of one's own.

The loop asks its surroundings for rank, device, batches and a place to report to, and knows nothing
else of where it runs. Ranks agree at every step on how many pictures there are, so that unequal
shares, bad pictures and errors never leave one rank waiting for another.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raypose import (
    captions,
    checkpoint,
    errors,
    loss,
    metrics,
    model,
    optim,
    storage,
    taxonomy,
    zeroshot,
)
from raypose.augment import augment, normalize
from raypose.config import Config, override
from raypose.data import Batch
from raypose.errors import DataError, RayposeError, TrainError
from raypose.grammar import Node
from raypose.tracking import Tracker

__all__ = ["Surroundings", "Trainer", "prepare", "train_worker"]

T = TypeVar("T")
PROGRESS_PERIOD_S = 0.5


class Surroundings(Protocol):
    """What the loop needs of the place it runs in."""

    rank: int
    world_size: int
    device: torch.device

    def batches(self, split: str, *, batch_size: int, epoch: int) -> Iterator[Batch]:
        """Return this rank's share of ``train`` or ``val``."""

    def progress(self, event: dict[str, Any]) -> None:
        """Show something to the person who waits; called on rank 0."""

    def report(self, values: dict[str, Any]) -> None:
        """Hand over the metrics of an epoch; called on every rank."""


@dataclass
class Trainer:
    """One worker's state.

    Attributes:
        config: the resolved document.
        surroundings: where this runs.
        clip: the model, not wrapped.
        forward: the model as called in training, wrapped where there are several workers.
        optimizer: over the parameters that learn.
        classes: the taxonomy.
        grammar: of the captions.
        num_rows: pictures in the training set.
        initial_scale: logarithm of the logit scale at the start.
        step: optimiser steps done.
        bad: id → error of the bad pictures that this rank met in this epoch.
    """

    config: Config
    surroundings: Surroundings
    clip: model.Clip
    forward: nn.Module
    optimizer: torch.optim.Optimizer
    classes: taxonomy.Taxonomy
    grammar: Node
    num_rows: int
    initial_scale: float
    step: int = 0
    bad: dict[str, str] = field(default_factory=dict)

    @property
    def local_batch_size(self) -> int:
        """Pictures that this rank takes in a step."""
        return max(1, self.config.optim.batch_size // self.surroundings.world_size)

    @property
    def num_steps(self) -> int:
        """Steps of the whole run; at least one an epoch, however small the set."""
        per_step = self.local_batch_size * self.surroundings.world_size
        return self.config.optim.epochs * math.ceil(self.num_rows / per_step)

    def train_epoch(self, epoch: int) -> dict[str, Any]:
        """Go once through the training set.

        Returns:
            train_loss (nats), images_per_s over all workers, and num_bad pictures.
        """
        self.clip.model.train()
        if self.config.model.freeze_batch_norm:
            model.freeze_batch_norm(self.clip.model)
        self.bad.clear()
        source = self.surroundings.batches("train", batch_size=self.local_batch_size, epoch=epoch)
        summed, seen, started, told = 0.0, 0, time.monotonic(), 0.0
        while True:
            outcome = self.train_step(next(source, None), epoch=epoch)
            if outcome is None:
                break
            value, count = outcome
            summed, seen = summed + value * count, seen + count
            now = time.monotonic()
            if self.surroundings.rank == 0 and now - told > PROGRESS_PERIOD_S:
                told = now
                rate = seen / (now - started)
                self._progress(epoch, loss=value, images_per_s=rate)
        if seen == 0:
            raise DataError(f"{self.config.data.train}: holds no good picture")
        rate = seen / (time.monotonic() - started)
        (num_bad,) = self._sum(len(self.bad))
        return {"train_loss": summed / seen, "images_per_s": rate, "num_bad": int(num_bad)}

    def train_step(self, batch: Batch | None, *, epoch: int) -> tuple[float, int] | None:
        """Take one optimiser step over all ranks' batches; None in where this rank has run out.

        Returns:
            Mean loss over all good pictures, and their number; None when all ranks have run out.

        Raises:
            DataError: on all ranks, where too many pictures are bad.
            TrainError: on all ranks, where the loss is not finite; nothing is updated.
        """
        bad = batch.bad if batch else {}
        good = len(batch) - len(bad) if batch else 0
        self.bad.update(bad)
        ranks, total, num_bad = self._sum(float(batch is not None), good, len(self.bad))
        if not ranks:
            return None
        self._check_bad(int(num_bad))
        if not total:
            return 0.0, 0
        self.optimizer.zero_grad(set_to_none=True)
        # dropout follows from the step, so that a resumed run draws what it would have drawn
        torch.manual_seed(((self.config.seed << 32) + self.step) * 1009 + self.surroundings.rank)
        value = self.loss(batch, num_good=good, total=int(total), epoch=epoch)
        mean = self._sum(value.item())[0] / self.surroundings.world_size
        if not math.isfinite(mean):  # alike on all ranks, and before anything is updated
            ids = ", ".join(batch.ids[:4]) if batch else "of another worker"
            raise TrainError(
                f"loss is not finite at step {self.step} of epoch {epoch + 1} (examples {ids}); "
                "nothing was updated; lower optim.learning_rate or set train.precision=fp32"
            )
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.clip.model.parameters(), self.config.optim.clip_norm)
        warmup = self.config.optim.warmup_fraction
        factor = optim.schedule(self.step, num_steps=self.num_steps, warmup_fraction=warmup)
        optim.set_learning_rate(self.optimizer, self.config.optim.learning_rate * factor)
        self.optimizer.step()
        optim.clamp_scale(self.clip.model, initial=self.initial_scale)
        self.step += 1
        return mean, int(total)

    def loss(self, batch: Batch | None, *, num_good: int, total: int, epoch: int) -> torch.Tensor:
        """Return this rank's share of the loss: the mean over ranks is the mean over pictures."""
        images, targets, weights = self._inputs(batch, epoch=epoch)
        spoken = [
            captions.sample(self.grammar, card, seed=self.config.seed, step=self.step)
            for card in self.classes.cards
        ]
        if self.config.loss.name == "class_ce":
            image_features, text_features, scale = self._features(images, spoken)
            summed = loss.class_ce(
                image_features,
                text_features,
                scale,
                targets,
                weights=weights,
                label_smoothing=self.config.loss.label_smoothing,
            )
            return summed * self.surroundings.world_size / total
        # the pairwise loss wants as many rows on every rank; with none it still takes part
        rows = int(self._reduce([num_good], dist.ReduceOp.MIN)[0])
        chosen = weights.nonzero().flatten()[:rows] if rows else torch.zeros(1, dtype=torch.long)
        paired = [spoken[number] for number in targets[chosen].tolist()]
        image_features, text_features, scale = self._features(images[chosen], paired)
        value = loss.clip(
            image_features,
            text_features,
            scale,
            rank=self.surroundings.rank,
            world_size=self.surroundings.world_size,
        )
        return value if rows else value * 0.0

    @torch.no_grad()
    def validate(self, epoch: int) -> dict[str, float]:
        """Score the validation set over all ranks.

        Returns:
            val_top1, val_top5, val_balanced_accuracy in 0..1 and val_nll in nats.
        """
        self.clip.model.eval()
        size, device = len(self.classes), self.surroundings.device
        with self._autocast():
            classifier = zeroshot.build_classifier(
                self.clip, self.grammar, self.classes, device=device
            )
        scale = self.clip.model.logit_scale.exp().item()
        confusion, top5, nll = torch.zeros(size * size), 0.0, 0.0
        for batch in self.surroundings.batches(
            "val", batch_size=self.local_batch_size, epoch=epoch
        ):
            with self._autocast():
                images = self._laid_out(self._normalized(batch.pixels))
                features = self.clip.model.encode_image(images, normalize=True)
            self.bad.update(batch.bad)
            keep = torch.tensor([not error for error in batch.errors])
            targets = batch.targets[keep]
            odds = zeroshot.probabilities(features, classifier, scale).cpu()[keep]
            confusion += torch.bincount(targets * size + odds.argmax(1), minlength=size * size)
            top5 += metrics.top_k_hits(odds.numpy(), targets.numpy(), 5)
            nll -= float(odds[torch.arange(len(targets)), targets].clamp(min=1e-12).log().sum())
        *cells, top5, nll = self._sum(*confusion.tolist(), top5, nll)
        counts = torch.tensor(cells).view(size, size).long().numpy()
        total = max(1, int(counts.sum()))
        return {
            "val_top1": float(counts.trace() / total),
            "val_top5": top5 / total,
            "val_balanced_accuracy": metrics.balanced_accuracy(counts),
            "val_nll": nll / total,
        }

    def _features(
        self, images: torch.Tensor, spoken: Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        tokens = self.clip.tokenize(spoken).to(self.surroundings.device)
        with self._autocast():
            image_features, text_features, scale = self.forward(images, tokens)[:3]
        return image_features, text_features, scale

    def _inputs(
        self, batch: Batch | None, *, epoch: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return images, targets, weights; a rank that has run out takes part with weight 0."""
        if batch is None:
            side = self.clip.image_size
            nothing = torch.zeros(1, 3, side, side, dtype=torch.uint8)
            batch = Batch(nothing, torch.zeros(1, dtype=torch.long), ids=[""], errors=["none"])
        images = self._normalized(batch.pixels)
        if self.config.augment.enabled:
            seed = self.config.seed
            images = augment(images, batch.ids, self.config.augment, seed=seed, epoch=epoch)
        device = self.surroundings.device
        weights = torch.tensor([float(not error) for error in batch.errors], device=device)
        return self._laid_out(images), batch.targets.to(device), weights

    def _normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        cfg = self.clip.preprocess_cfg
        return normalize(pixels.to(self.surroundings.device), cfg["mean"], cfg["std"])

    def _laid_out(self, images: torch.Tensor) -> torch.Tensor:
        if not self.config.model.channels_last:
            return images
        return images.contiguous(memory_format=torch.channels_last)

    def _autocast(self) -> torch.autocast:
        kind, precision = self.surroundings.device.type, self.config.train.precision
        enabled = precision == "bf16" or (precision == "auto" and kind == "cuda")
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=enabled)

    def _check_bad(self, num_bad: int) -> None:
        """Stop on all ranks at once when more pictures are bad than is tolerated."""
        allowed = self.config.data.max_bad_fraction
        if num_bad <= allowed * self.num_rows:
            return
        bad = [item for part in _gather(self.surroundings, self.bad) for item in part.items()]
        raise DataError(
            f"{self.config.data.train}: {num_bad} of {self.num_rows} pictures are bad, more than "
            f"data.max_bad_fraction={allowed:g} allows; first {bad[0][0]}: {bad[0][1]}; "
            "build the shards again, or raise it"
        )

    def _progress(self, epoch: int, **values: float) -> None:
        place = {"epoch": epoch, "step": self.step, "num_steps": self.num_steps}
        self.surroundings.progress({"kind": "step", **place, **values})

    def _sum(self, *values: float) -> list[float]:
        return self._reduce(values, dist.ReduceOp.SUM)

    def _reduce(self, values: Sequence[float], how: Any) -> list[float]:
        if self.surroundings.world_size == 1:
            return list(values)
        vector = torch.tensor(values, dtype=torch.float64, device=self.surroundings.device)
        dist.all_reduce(vector, op=how)
        reduced: list[float] = vector.tolist()
        return reduced


def train_worker(
    config: Config, surroundings: Surroundings, *, run_url: str, num_rows: int
) -> None:
    """Train from the last checkpoint, or from the start, to the end of the last epoch.

    Every error that is raised here is raised on all ranks.
    """
    trainer, first_epoch = _together(
        surroundings, lambda: prepare(config, surroundings, run_url=run_url, num_rows=num_rows)
    )
    tracker = Tracker(storage.join(run_url, "metrics.jsonl"), resume_epoch=first_epoch + 1)
    for epoch in range(first_epoch, config.optim.epochs):
        values: dict[str, Any] = {"epoch": epoch + 1, **trainer.train_epoch(epoch)}
        if config.data.val:
            values |= trainer.validate(epoch)
        values["step"] = trainer.step
        bad = _gather(surroundings, trainer.bad)

        def close(values: dict[str, Any] = values, bad: list[dict[str, str]] = bad) -> None:
            if surroundings.rank == 0:
                _close_epoch(trainer, tracker, values, bad, run_url=run_url)

        _together(surroundings, close)
        surroundings.report(values)


def prepare(
    config: Config, surroundings: Surroundings, *, run_url: str, num_rows: int
) -> tuple[Trainer, int]:
    """Build or restore one worker's state; return it and the number of epochs done."""
    classes = taxonomy.load(config.data.taxonomy)
    grammar = captions.load(config.captions)
    state = checkpoint.latest(run_url)
    clip, saved = (
        checkpoint.restore(run_url, state)
        if state
        else (model.build(config.model, seed=config.seed), None)
    )
    captions.check(
        grammar,
        classes,
        tokenize=lambda texts: model.token_lists(clip, texts),
        context_length=clip.context_length,
    )
    if captions.sides(grammar, classes):
        config = override(config, {"augment.flip": False})
    initial_scale = clip.model.logit_scale.item()
    clip.model.to(surroundings.device)
    if config.model.channels_last:
        clip.model.to(memory_format=torch.channels_last)
    optimizer = optim.build(clip.model, config.optim)
    if saved is not None:
        optimizer.load_state_dict(saved)
    forward: nn.Module = clip.model
    if surroundings.world_size > 1:
        gpu = surroundings.device.type == "cuda"
        forward = DistributedDataParallel(
            clip.model, device_ids=[surroundings.device] if gpu else None
        )
    trainer = Trainer(
        config=config,
        surroundings=surroundings,
        clip=clip,
        forward=forward,
        optimizer=optimizer,
        classes=classes,
        grammar=grammar,
        num_rows=num_rows,
        initial_scale=initial_scale,
        step=state.step if state else 0,
    )
    return trainer, state.epoch if state else 0


def _close_epoch(
    trainer: Trainer,
    tracker: Tracker,
    values: dict[str, Any],
    bad: list[dict[str, str]],
    *,
    run_url: str,
) -> None:
    """Write what an epoch leaves behind: metrics, quarantined keys, and last the checkpoint."""
    tracker.log(values)
    quarantined = {key: error for part in bad for key, error in part.items()}
    if quarantined:
        storage.write_json(storage.join(run_url, "quarantine.json"), quarantined)
    state = checkpoint.State(
        epoch=values["epoch"],
        step=trainer.step,
        score=values.get("val_balanced_accuracy"),
        metrics=values,
        num_workers=trainer.surroundings.world_size,
    )
    checkpoint.save(run_url, trainer.clip, trainer.optimizer, state)
    checkpoint.prune(run_url)


def _together(surroundings: Surroundings, work: Callable[[], T]) -> T:
    """Do something on every rank; an error on one is raised on all, so that none waits."""
    result, failure = None, None
    try:
        result = work()
    except RayposeError as error:
        failure = (type(error).__name__, str(error))
    failures = [found for found in _gather(surroundings, failure) if found]
    if failures:
        name, message = failures[0]
        raise getattr(errors, name)(message)
    return result  # type: ignore[return-value]


def _gather(surroundings: Surroundings, item: T) -> list[T]:
    """Return every rank's item."""
    if surroundings.world_size == 1:
        return [item]
    items: list[Any] = [None] * surroundings.world_size
    dist.all_gather_object(items, item)
    return items
