"""One worker's training step, and its way to score: what is computed, not how long or where from.

Ranks agree at every step on how many pictures there are, so that unequal shares, bad pictures and
errors never leave one rank waiting for another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raypose import captions, loss, metrics, model, optim, taxonomy, zeroshot
from raypose.augment import augment
from raypose.config import Config
from raypose.data import Batch
from raypose.errors import DataError, TrainError
from raypose.grammar import Node
from raypose.text import TextCache
from raypose.towers import Towers, clip_gradients

__all__ = ["Scorer", "Surroundings", "Trainer", "gather", "val_figures"]

T = TypeVar("T")
FULL_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class Surroundings(Protocol):
    """What training needs of the place it runs in."""

    rank: int
    world_size: int
    device: torch.device

    def batches(
        self, split: str, *, batch_size: int, epoch: int, start: int = 0
    ) -> Iterator[Batch]:
        """Return this rank's share of ``train`` or ``val``, less its first `start` batches."""

    def progress(self, event: dict[str, Any]) -> None:
        """Show something to the person who waits; called on rank 0.

        An event's ``kind`` is ``step``, with epoch, step, num_steps, loss and images_per_s; or
        ``note``, with a text.
        """

    def report(self, values: dict[str, Any]) -> None:
        """Hand over the metrics of an epoch; called on every rank."""


@dataclass
class Scorer:
    """Scores the validation set, over all ranks.

    Attributes:
        config: the resolved document.
        surroundings: where this runs.
        clip: the model.
        towers: the model as it is called.
        classes: the taxonomy.
        grammar: of the captions.
        texts: features of captions, where the text tower is locked.
        head: (C, D) in place of the captions' features, where one was fitted.
        bad: id → error of the bad pictures that this rank met in this epoch.
    """

    config: Config
    surroundings: Surroundings
    clip: model.Clip
    towers: Towers
    classes: taxonomy.Taxonomy
    grammar: Node
    texts: TextCache | None = None
    head: torch.Tensor | None = None
    bad: dict[str, str] = field(default_factory=dict)

    @property
    def local_batch_size(self) -> int:
        """Pictures that this rank takes in a step."""
        return max(1, self.config.optim.batch_size // self.surroundings.world_size)

    def classifier(self) -> torch.Tensor:
        """Return float32 (C, D): the head, or the captions' features."""
        if self.head is not None:
            return self.head.to(self.surroundings.device)

        def encode(_: Any, tokens: torch.Tensor) -> torch.Tensor:
            if self.texts is not None:
                return self.texts.encode(tokens)
            with self.autocast():
                return self.towers(None, tokens)[1]  # type: ignore[no-any-return]

        return zeroshot.build_classifier(self.clip, self.grammar, self.classes, encode=encode)

    @torch.no_grad()
    def features(self, split: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield float32 (B, D) and class numbers (B,) of this rank's good pictures, by batches.

        Ranks go together: one that has run out yields empty batches.
        """
        self.clip.model.eval()
        source = self.surroundings.batches(split, batch_size=self.local_batch_size, epoch=0)
        while True:
            batch = next(source, None)
            if not sum(gather(self.surroundings, batch is not None)):
                return
            batch = batch or self.nothing()
            with self.autocast():
                features = self.towers(self.prepared(batch), None)[0]
            self.bad.update({key: error for key, error in batch.bad.items() if key})
            keep = torch.tensor([not error for error in batch.errors])
            yield features.float()[keep.to(features.device)], batch.targets[keep]

    def validate(self) -> dict[str, float]:
        """Score the validation set.

        Returns:
            val_top1, val_top5, val_balanced_accuracy in 0..1 and val_nll in nats.
        """
        size, classifier = len(self.classes), self.classifier()
        scale = self.clip.model.logit_scale.exp().item()
        confusion, top5, nll = np.zeros((size, size), np.int64), 0, 0.0
        for features, targets in self.features("val"):
            odds = zeroshot.probabilities(features, classifier, scale).cpu().numpy()
            true = targets.numpy()
            confusion += metrics.confusion_matrix(true, odds.argmax(1), num_classes=size)
            top5 += metrics.top_k_hits(odds, true, 5)
            nll += metrics.nll(odds, true) * len(true)
        parts = gather(self.surroundings, (confusion, top5, nll))
        counts = np.sum([part[0] for part in parts], axis=0)
        return val_figures(counts, sum(part[1] for part in parts), sum(part[2] for part in parts))

    def embedded(self, split: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all ranks' features (N, D) and class numbers (N,), on the CPU."""
        mine = [(features.cpu(), targets) for features, targets in self.features(split)]
        parts = [part for rank in gather(self.surroundings, mine) for part in rank]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def prepared(self, batch: Batch) -> torch.Tensor:
        """Return a batch's pictures as the tower takes them."""
        last = self.config.model.channels_last
        return zeroshot.normalized(self.clip, batch.pixels, channels_last=last)

    def nothing(self) -> Batch:
        """Return a batch that does not count, for a rank that has run out."""
        side = self.clip.image_size
        pixels = torch.zeros(1, 3, side, side, dtype=torch.uint8)
        return Batch(pixels, torch.zeros(1, dtype=torch.long), ids=[""], errors=["none"])

    def autocast(self) -> torch.autocast:
        """Return the context in which towers are called."""
        kind, precision = self.surroundings.device.type, self.config.train.precision
        enabled = precision == "bf16" or (precision == "auto" and kind == "cuda")
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=enabled)


@dataclass
class Trainer(Scorer):
    """Takes steps.

    Attributes:
        forward: the towers as called in training, wrapped where there are several workers.
        optimizer: over the parameters that learn.
        ema: the running mean of the weights; None where the last weights count.
        lora: peft's handle, where the method is lora.
        num_rows: pictures in the training set.
        adjustment: (C,), added to logits in training.
        initial_scale: logarithm of the logit scale at the start.
        step: optimiser steps done.
    """

    forward: nn.Module = field(kw_only=True)
    optimizer: torch.optim.Optimizer = field(kw_only=True)
    ema: optim.Ema | None = field(kw_only=True)
    lora: Any = None
    num_rows: int = 0
    adjustment: torch.Tensor | None = None
    initial_scale: float = field(kw_only=True)
    step: int = 0

    @property
    def num_steps(self) -> int:
        """Steps of the whole run; at least one an epoch, however small the set."""
        per_step = self.local_batch_size * self.surroundings.world_size
        return self.config.optim.epochs * math.ceil(self.num_rows / per_step)

    def set_training(self) -> None:
        """Put the towers into training, less what stays as it is."""
        self.clip.model.train()
        if self.config.model.freeze_batch_norm or self.lora is not None:
            model.freeze_batch_norm(self.clip.model)

    def averaged(self) -> Any:
        """Return a context in which the model carries the mean of its weights."""
        return self.ema.swapped() if self.ema is not None else nullcontext()

    def train_step(self, batch: Batch | None, *, epoch: int) -> tuple[float, int] | None:
        """Take one optimiser step over all ranks' batches; None in where this rank has run out.

        Returns:
            Mean loss over all good pictures, and their number; None when all ranks have run out.

        Raises:
            DataError: on all ranks, where too many pictures are bad.
            TrainError: on all ranks, where the loss is not finite, and nothing is updated; where a
                step does not fit into memory.
        """
        self.bad.update(batch.bad if batch else {})
        good = len(batch) - len(batch.bad) if batch else 0
        ranks, total, num_bad = self._sum(float(batch is not None), good, len(self.bad))
        if not ranks:
            return None
        self._check_bad(int(num_bad))
        if not total:
            return 0.0, 0
        self.optimizer.zero_grad(set_to_none=True)
        # dropout follows from the step, so that a resumed run draws what it would have drawn
        torch.manual_seed(((self.config.seed << 32) + self.step) * 1009 + self.surroundings.rank)
        with self._fitting():
            value = self._accumulate(batch, total=int(total), epoch=epoch)
        mean = self._sum(value)[0] / self.surroundings.world_size
        if not math.isfinite(mean):  # alike on all ranks, and before anything is updated
            ids = ", ".join(batch.ids[:4]) if batch else "of another worker"
            raise TrainError(
                f"loss is not finite at step {self.step} of epoch {epoch + 1} (examples {ids}); "
                "nothing was updated; lower optim.learning_rate or set train.precision=fp32"
            )
        self._update()
        return mean, int(total)

    def loss(self, batch: Batch | None, *, total: int, epoch: int) -> torch.Tensor:
        """Return this rank's share of the loss: the mean over ranks is the mean over pictures.

        Args:
            batch: of this rank; None where it has run out.
            total: good pictures of the step, over all ranks.
            epoch: counted from 0.
        """
        batch = batch or self.nothing()
        settings, world_size = self.config.loss, self.surroundings.world_size
        if settings.name == "class_ce":
            spoken = [self._say(card) for card in self.classes.cards]
            seen, said, scale, _ = self._features(self._changed(batch, epoch=epoch), spoken)
            targets, weights = self._labels(batch)
            summed = loss.class_ce(
                seen,
                said,
                scale,
                targets,
                weights=weights,
                label_smoothing=settings.label_smoothing,
                adjustment=self.adjustment,
                parents=self._parents() if settings.parents_weight else (),
                parents_weight=settings.parents_weight,
            )
            return summed * world_size / total
        cards = [self.classes.cards[number] for number in batch.targets.tolist()]
        spoken = [self._say(card, key) for card, key in zip(cards, batch.ids, strict=True)]
        seen, said, scale, bias = self._features(self._changed(batch, epoch=epoch), spoken)
        rows = int(self._reduce([len(batch)], dist.ReduceOp.MAX)[0])
        seen, said, targets, weights = (
            _padded(x, rows) for x in (seen, said, *self._labels(batch))
        )
        if settings.name == "siglip":
            assert bias is not None
            more: dict[str, Any] = {"weights": weights, "world_size": world_size}
            summed = loss.siglip(seen, said, scale, bias, targets, **more)
        else:
            groups = targets
            if settings.name == "clip":  # each picture for itself
                groups = torch.arange(rows, device=seen.device) + rows * self.surroundings.rank
            summed = loss.contrastive(
                seen,
                said,
                scale,
                groups,
                weights=weights,
                label_smoothing=settings.label_smoothing,
                world_size=world_size,
            )
        return summed * world_size / total

    def _accumulate(self, batch: Batch | None, *, total: int, epoch: int) -> float:
        """Add up the gradients of a step, part by part; return this rank's share of the loss."""
        count = self.config.optim.accumulate
        size = math.ceil(len(batch) / count) if batch else 0
        value = 0.0
        for number in range(count):
            part = batch and batch.rows(number * size, (number + 1) * size)
            last = number == count - 1
            waits = isinstance(self.forward, DistributedDataParallel) and not last
            with self.forward.no_sync() if waits else nullcontext():  # type: ignore[operator]
                share = self.loss(part, total=total, epoch=epoch)
                share.backward()  # type: ignore[no-untyped-call]
            value += share.item()
        return value

    def _update(self) -> None:
        settings = self.config.optim
        world_size = self.surroundings.world_size
        clip_gradients(self.clip.model.parameters(), settings.clip_norm, world_size=world_size)
        factor = optim.schedule(
            self.step, num_steps=self.num_steps, warmup_fraction=settings.warmup_fraction
        )
        optim.set_learning_rate(self.optimizer, settings.learning_rate * factor)
        self.optimizer.step()
        optim.clamp_scale(self.clip.model, initial=self.initial_scale)
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.step)

    def _say(self, card: taxonomy.Card, key: str = "") -> str:
        return captions.sample(self.grammar, card, seed=self.config.seed, step=self.step, key=key)

    def _features(
        self, images: torch.Tensor, spoken: Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return features of pictures and of captions, each different caption encoded once."""
        unique = list(dict.fromkeys(spoken))
        tokens = self.clip.tokenize(unique)
        with self.autocast():
            if self.texts is not None:
                seen, _, scale, bias = self.forward(images, None)
                said = self.texts.encode(tokens)
            else:
                seen, said, scale, bias = self.forward(images, tokens)
        if len(unique) < len(spoken):
            places = {caption: number for number, caption in enumerate(unique)}
            said = said[[places[caption] for caption in spoken]]
        return seen, said, scale, bias

    def _changed(self, batch: Batch, *, epoch: int) -> torch.Tensor:
        """Return a batch's pictures as the tower takes them, changed at random."""
        images = self.prepared(batch)
        if not self.config.augment.enabled:
            return images
        seed = self.config.seed
        images = augment(images, batch.ids, self.config.augment, seed=seed, epoch=epoch)
        if self.config.model.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images

    def _labels(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.surroundings.device
        weights = torch.tensor([float(not error) for error in batch.errors], device=device)
        return batch.targets.to(device), weights

    def _parents(self) -> list[torch.Tensor]:
        device = self.surroundings.device
        levels = range(len(self.classes.levels))
        return [torch.tensor(self.classes.parents(k), device=device) for k in levels]

    def _check_bad(self, num_bad: int) -> None:
        """Stop on all ranks at once when more pictures are bad than is tolerated."""
        allowed = self.config.data.max_bad_fraction
        if num_bad <= allowed * self.num_rows:
            return
        bad = [item for part in gather(self.surroundings, self.bad) for item in part.items()]
        raise DataError(
            f"{self.config.data.train}: {num_bad} of {self.num_rows} pictures are bad, more than "
            f"data.max_bad_fraction={allowed:g} allows; first {bad[0][0]}: {bad[0][1]}; "
            "build the shards again, or raise it"
        )

    @contextmanager
    def _fitting(self) -> Iterator[None]:
        """Say what to set where a step does not fit into memory."""
        try:
            yield
        except RuntimeError as error:
            if not any(sign in str(error).lower() for sign in FULL_MEMORY):
                raise
            settings = self.config.optim
            raise TrainError(
                f"optim.batch_size={settings.batch_size}: a step of {self.local_batch_size} "
                f"pictures does not fit into the memory of {self.surroundings.device}; set "
                f"optim.accumulate={2 * settings.accumulate} or "
                "train.activation_checkpointing=true, or lower it"
            ) from error

    def _sum(self, *values: float) -> list[float]:
        return self._reduce(values, dist.ReduceOp.SUM)

    def _reduce(self, values: Sequence[float], how: Any) -> list[float]:
        if self.surroundings.world_size == 1:
            return list(values)
        vector = torch.tensor(values, dtype=torch.float64, device=self.surroundings.device)
        dist.all_reduce(vector, op=how)
        reduced: list[float] = vector.tolist()
        return reduced


def val_figures(confusion: metrics.Counts, top5: int, nll: float) -> dict[str, float]:
    """Return the figures of a validation set.

    Args:
        confusion: int64 (C, C), rows true.
        top5: pictures whose class is among the five most probable.
        nll: summed over the pictures, in nats.
    """
    total = max(1, int(confusion.sum()))
    return {
        "val_top1": float(confusion.trace() / total),
        "val_top5": top5 / total,
        "val_balanced_accuracy": metrics.balanced_accuracy(confusion),
        "val_nll": nll / total,
    }


def gather(surroundings: Surroundings, item: T) -> list[T]:
    """Return every rank's item."""
    if surroundings.world_size == 1:
        return [item]
    items: list[Any] = [None] * surroundings.world_size
    dist.all_gather_object(items, item)
    return items


def _padded(rows: torch.Tensor, size: int) -> torch.Tensor:
    """Return rows with zeros after them, `size` in all."""
    missing = size - len(rows)
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows
