"""One worker's training step: what is computed, not how long or where from.

Ranks agree at every step on how many pictures there are, so that unequal shares, bad pictures and
errors never leave one rank waiting for another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raypose import captions
from raypose.captions import taxonomy
from raypose.clip import batch_norm, loss, text, zeroshot
from raypose.clip.augment import augment, train_size
from raypose.clip.towers import gradient_norm, is_sharded
from raypose.data import Batch
from raypose.data.tolerance import check_bad
from raypose.errors import TrainError
from raypose.training import optim
from raypose.training.outcome import Outcome
from raypose.training.parts import Texts
from raypose.training.precision import LossScale, dtype_of
from raypose.training.scorer import Scorer

__all__ = ["Trainer", "is_full_memory"]

FULL_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


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
        leaving: whether a rank's node is known to go soon.
        gradient_norm: of the last step, before it was clipped.
        loss_scale: where towers compute in fp16.
    """

    forward: nn.Module = field(kw_only=True)
    optimizer: torch.optim.Optimizer = field(kw_only=True)
    ema: optim.Ema | None = field(kw_only=True)
    lora: Any = None
    num_rows: int = 0
    adjustment: torch.Tensor | None = None
    initial_scale: float = field(kw_only=True)
    step: int = 0
    gradient_norm: float = 0.0
    leaving: bool = False
    loss_scale: LossScale | None = None

    def __post_init__(self) -> None:
        if dtype_of(self.config.train, self.context.device) == torch.float16:
            self.loss_scale = LossScale()

    @property
    def loss_factor(self) -> float:
        """On the loss, and so on the gradients until they are used."""
        return self.loss_scale.factor if self.loss_scale else 1.0

    @property
    def learning_rate(self) -> float:
        """Peak rate times the schedule's factor, of the step to be taken."""
        settings = self.config.optim
        return settings.peak_rate * optim.schedule(
            self.step, num_steps=self.num_steps, warmup_fraction=settings.warmup_fraction
        )

    @property
    def num_steps(self) -> int:
        """Steps of the whole run; at least one an epoch, however small the set."""
        per_step = self.local_batch_size * self.context.world_size
        return self.config.optim.epochs * math.ceil(self.num_rows / per_step)

    @property
    def has_learned(self) -> bool:
        """Whether any step of the run, as far as it has come, was of use."""
        return any(float(moments["step"]) > 0 for moments in self.optimizer.state.values())

    def set_training(self) -> None:
        """Put the towers into training, less what stays as it is."""
        self.clip.model.train()
        every = self.config.model.freeze_batch_norm or self.lora is not None
        batch_norm.freeze(self.clip.model, every=every)

    def averaged(self) -> Any:
        """Return a context in which the model carries the mean of its weights."""
        return self.ema.swapped() if self.ema is not None else nullcontext()

    def train_step(
        self,
        batch: Batch | None,
        *,
        epoch: int,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> tuple[float, int] | None:
        """Take one optimiser step over all ranks' batches, and wait for it: see `take_step`.

        Returns:
            Mean loss over all good pictures, and their number; None when all ranks have run out.
        """
        outcome = self.take_step(batch, epoch=epoch, meanwhile=meanwhile)
        return (self.settle(outcome), outcome.count) if outcome else None

    def take_step(
        self,
        batch: Batch | None,
        *,
        epoch: int,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Outcome | None:
        """Have one optimiser step over all ranks' batches computed.

        A step whose loss or gradient is not finite updates nothing: the device itself sees to
        that, so that it need not be waited for. `settle` tells.

        Args:
            batch: of this rank; None where it has run out.
            epoch: counted from 0.
            meanwhile: done while a device computes; not called where nothing is computed.

        Returns:
            What to give to `settle`; None when all ranks have run out.

        Raises:
            DataError: on all ranks, where too many pictures are bad.
            TrainError: where a step does not fit into memory.
        """
        self.bad.update(batch.bad if batch else {})
        good = batch.good() if batch else None
        counts = (float(batch is not None), len(good or ()), len(self.bad), self.context.leaving())
        ranks, total, num_bad, leaving = self._sum(*counts)
        self.leaving = leaving > 0
        if not ranks:
            return None
        self._check_bad(int(num_bad))
        if not total:
            return Outcome()
        self.optimizer.zero_grad(set_to_none=True)
        # dropout follows from the step, so that a resumed run draws what it would have drawn
        torch.manual_seed(optim.step_seed(self.config.seed, self.step, self.context.rank))
        with self._fitting():
            value = self._accumulate(good, total=int(total), epoch=epoch)
            norm = gradient_norm(self.clip.model, world_size=self.context.world_size)
        figures = torch.stack([value, norm.double() / self.loss_factor])
        if self.context.world_size > 1:
            dist.all_reduce(figures)
            figures /= self.context.world_size
        ids = batch.ids if batch else []
        outcome = Outcome(figures, int(total), self.step, epoch, ids, self.loss_factor)
        self._update(outcome)
        meanwhile()
        return outcome

    def settle(self, outcome: Outcome) -> float:
        """Wait for a step, and return its mean loss; in fp16, an overflow makes the factor smaller.

        Raises:
            TrainError: on all ranks, where the loss or a gradient is not finite.
        """
        if not outcome.count:
            return 0.0
        mean, norm = outcome.read()
        overflown = math.isfinite(mean) and outcome.factor > 1
        if not (outcome.is_finite or overflown):
            low = dtype_of(self.config.train, self.context.device) is not None
            raise outcome.refused(low=low)
        if outcome.is_finite:
            self.gradient_norm = norm
        if self.loss_scale is not None:
            self.loss_scale.update(finite=outcome.is_finite, factor=outcome.factor)
        return mean

    def loss(
        self, batch: Batch | None, *, total: int, epoch: int, texts: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return this rank's share of the loss: the mean over ranks is the mean over pictures.

        Args:
            batch: of this rank; None where it has run out.
            total: good pictures of the step, over all ranks.
            epoch: counted from 0.
            texts: (C, D), features of this step's captions, one a class; else they are computed.
        """
        batch = batch or self.empty_batch()
        settings, world_size = self.config.loss, self.context.world_size
        if settings.name == "class_ce":
            image_features, text_features, scale, _ = self._features(
                self._changed(batch, epoch=epoch), texts if texts is not None else self._captions()
            )
            targets, weights = self._labels(batch)
            summed = loss.class_ce(
                image_features,
                text_features,
                scale,
                targets,
                weights=weights,
                label_smoothing=settings.label_smoothing,
                adjustment=self.adjustment,
                parents=self._parents if settings.parents_weight else (),
                parents_weight=settings.parents_weight,
            )
            return summed * world_size / total
        cards = [self.classes.cards[number] for number in batch.targets.tolist()]
        sampled = [self._caption(card, key) for card, key in zip(cards, batch.ids, strict=True)]
        image_features, text_features, scale, bias = self._features(
            self._changed(batch, epoch=epoch), sampled
        )
        rows = int(self._reduce([len(batch)], dist.ReduceOp.MAX)[0])
        image_features, text_features, targets, weights = (
            _padded(x, rows) for x in (image_features, text_features, *self._labels(batch))
        )
        if settings.name == "siglip":
            assert bias is not None
            more: dict[str, Any] = {"weights": weights, "world_size": world_size}
            summed = loss.siglip(image_features, text_features, scale, bias, targets, **more)
        else:
            groups = targets
            if settings.name == "clip":  # each picture for itself
                groups = torch.arange(rows, device=image_features.device) + rows * self.context.rank
            summed = loss.contrastive(
                image_features,
                text_features,
                scale,
                groups,
                weights=weights,
                label_smoothing=settings.label_smoothing,
                world_size=world_size,
            )
        return summed * world_size / total

    def _accumulate(self, batch: Batch | None, *, total: int, epoch: int) -> torch.Tensor:
        """Add up the gradients of a step, part by part; return this rank's share of the loss.

        Parts are as even as can be. What does not count leaves BatchNorm's statistics alone, and so
        does a picture by itself, which has no spread. A device may still be computing when this
        returns.

        Args:
            batch: of good pictures; None where this rank has none.
            total: good pictures of the step, over all ranks.
            epoch: counted from 0.
        """
        count = min(self.config.optim.accumulate, self.local_batch_size)  # none has less than one
        size = len(batch) if batch else 0
        value = torch.zeros((), dtype=torch.float64, device=self.context.device)
        texts = self._shared_texts()
        for number in range(count):
            part = batch and batch.rows(size * number // count, size * (number + 1) // count)
            if not part and self.context.world_size == 1:
                continue
            last = number == count - 1
            waits = isinstance(self.forward, DistributedDataParallel) and not last
            if is_sharded(self.forward):
                self.forward.set_requires_gradient_sync(last)
            few = len(part or ()) < 2
            with (
                self.forward.no_sync() if waits else nullcontext(),  # type: ignore[operator]
                batch_norm.frozen(self.clip.model, when=few),
            ):
                shown = texts.of_part(last=last) if texts else None
                share = self.loss(part, total=total, epoch=epoch, texts=shown)
                owed = texts.gathered() if texts and last else 0.0
                (share * self.loss_factor + owed).backward()  # type: ignore[no-untyped-call]
            value += share.detach()
        return value

    def _shared_texts(self) -> Texts | None:
        """Encode a step's captions for all of its parts; None where each part does so itself.

        Where weights lie in shards, they are only there while the wrapped model is called.
        """
        if self.config.optim.accumulate == 1 or self.texts is not None:
            return None
        if is_sharded(self.forward):
            return None
        return Texts(self._caption_features(self._captions()))

    def _update(self, outcome: Outcome) -> None:
        """Have the optimiser take its step, and the mean its own, where the figures are finite.

        The optimiser divides gradients by what fp16 needed, and clips them, on its way over them.
        """
        assert outcome.figures is not None
        finite, norm = outcome.finite(), outcome.figures[1].float()
        clipped = ((norm + 1e-6) / self.config.optim.clip_norm).clamp(min=1)
        optim.guard(self.optimizer, divisor=clipped * outcome.factor, finite=finite)
        optim.set_learning_rate(self.optimizer, self.learning_rate)
        self.optimizer.step()
        optim.clamp_scale(self.clip.model, initial=self.initial_scale)
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.step, finite=finite)

    def _caption(self, card: taxonomy.Card, key: str = "") -> str:
        return captions.sample(self.grammar, card, seed=self.config.seed, step=self.step, key=key)

    def _captions(self) -> list[str]:
        """Return this step's caption of each class."""
        return [self._caption(card) for card in self.classes.cards]

    def _features(
        self, images: torch.Tensor, sampled: Sequence[str] | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return features of pictures and of captions, each different caption encoded once.

        Args:
            images: as the tower takes them.
            sampled: captions, or their features.
        """
        if isinstance(sampled, torch.Tensor):
            with self.autocast():
                image_features, _, scale, bias = self.forward(images, None)
            return image_features, sampled, scale, bias
        unique, rows = _once(sampled)
        tokens = self.clip.tokenize(unique)
        with self.autocast():
            if self.texts is not None:
                image_features, _, scale, bias = self.forward(images, None)
                text_features = self.texts.encode(tokens)
            else:
                image_features, text_features, scale, bias = self.forward(images, tokens)
        return image_features, text_features if rows is None else text_features[rows], scale, bias

    def _caption_features(self, sampled: Sequence[str]) -> torch.Tensor:
        """Return features of captions alone."""
        unique, rows = _once(sampled)
        with self.autocast():
            features = text.encode(self.clip.model, self.clip.tokenize(unique))
        return features if rows is None else features[rows]

    def _changed(self, batch: Batch, *, epoch: int) -> torch.Tensor:
        """Return a batch's pictures as the tower takes them, changed at random."""
        settings, seed = self.config.augment, self.config.seed
        if not settings.enabled:
            return self.prepared(batch)
        images = zeroshot.normalized(self.clip, batch.pixels, resized=False)
        size = train_size(settings, self.clip.image_size)
        images = augment(images, batch.ids, settings, size=size, seed=seed, epoch=epoch)
        if self.config.model.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images

    def _labels(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.context.device
        if any(batch.errors):
            weights = torch.tensor([float(not error) for error in batch.errors], device=device)
        else:  # nothing to copy there, and so to wait for
            weights = torch.ones(len(batch), device=device)
        return batch.targets.to(device), weights

    @cached_property
    def _parents(self) -> list[torch.Tensor]:
        device = self.context.device
        levels = range(len(self.classes.levels))
        return [torch.tensor(self.classes.parents(k), device=device) for k in levels]

    def _check_bad(self, num_bad: int) -> None:
        """Stop on all ranks at once when more pictures are bad than is tolerated."""
        settings = self.config.data
        if num_bad > settings.max_bad_fraction * self.num_rows:
            check_bad(
                self.all_bad(),
                num_rows=self.num_rows,
                where=settings.train,
                allowed=settings.max_bad_fraction,
            )

    @contextmanager
    def _fitting(self) -> Iterator[None]:
        """Say what to set where a step does not fit into memory."""
        try:
            yield
        except RuntimeError as error:
            if not is_full_memory(error):
                raise
            settings = self.config.optim
            raise TrainError(
                f"optim.batch_size={settings.batch_size}: a step of {self.local_batch_size} "
                f"pictures does not fit into the memory of {self.context.device}; set "
                f"optim.accumulate={2 * settings.accumulate} or "
                "train.activation_checkpointing=true, or lower it"
            ) from error

    def _sum(self, *values: float) -> list[float]:
        return self._reduce(values, dist.ReduceOp.SUM)

    def _reduce(self, values: Sequence[float], how: Any) -> list[float]:
        """Reduce over ranks, from CPU to CPU: what is read off a device waits for it."""
        if self.context.world_size == 1:
            return list(values)
        vector = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(vector, op=how)
        reduced: list[float] = vector.tolist()
        return reduced


def is_full_memory(error: RuntimeError) -> bool:
    """Tell whether an error says that a device's memory is full."""
    return any(sign in str(error).lower() for sign in FULL_MEMORY)


def _once(sampled: Sequence[str]) -> tuple[list[str], list[int] | None]:
    """Return the different captions, and where each is among them; None where all differ."""
    unique = list(dict.fromkeys(sampled))
    places = {caption: number for number, caption in enumerate(unique)}
    all_differ = len(unique) == len(sampled)
    return unique, None if all_differ else [places[caption] for caption in sampled]


def _padded(rows: torch.Tensor, size: int) -> torch.Tensor:
    """Return rows with zeros after them, `size` in all."""
    missing = size - len(rows)
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows
