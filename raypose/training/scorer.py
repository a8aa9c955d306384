"""Scores a model on pictures, over all ranks: features, figures of the validation set."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from raypose import metrics
from raypose.captions import taxonomy
from raypose.captions.nodes import Node
from raypose.clip import model, zeroshot
from raypose.clip.text import TextCache
from raypose.clip.towers import Towers, is_sharded
from raypose.config import Config
from raypose.data import Batch
from raypose.data.tolerance import check_bad
from raypose.errors import TrainError
from raypose.training.context import WorkerContext, gather
from raypose.training.precision import dtype_of

__all__ = ["Scorer", "val_figures"]


@dataclass
class Scorer:
    """Scores the validation set, over all ranks.

    Attributes:
        config: the resolved document.
        context: where this runs.
        clip: the model.
        towers: the model as it is called.
        classes: the taxonomy.
        grammar: of the captions.
        texts: features of captions, where the text tower is locked.
        head: (C, D) in place of the captions' features, where one was fitted.
        bad: id → error of the bad pictures that this rank met in this epoch.
        final: encode pictures as a release will, by `model.inference`, not as training does.
    """

    config: Config
    context: WorkerContext
    clip: model.Clip
    towers: Towers
    classes: taxonomy.Taxonomy
    grammar: Node
    texts: TextCache | None = None
    head: torch.Tensor | None = None
    bad: dict[str, str] = field(default_factory=dict)
    final: bool = False

    @property
    def local_batch_size(self) -> int:
        """Pictures that this rank takes in a step."""
        return max(1, self.config.optim.batch_size // self.context.world_size)

    def classifier(self) -> torch.Tensor:
        """Return float32 (C, D): the head, or the captions' features."""
        if self.head is not None:
            return self.head.to(self.context.device)

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

        Raises:
            DataError: at the end, where more pictures are bad than `data.max_bad_fraction` allows.
        """
        self.clip.model.eval()
        source = self.context.batches(split, batch_size=self.local_batch_size, epoch=0)
        seen = 0
        bad: dict[str, str] = {}
        while True:
            batch = next(source, None)
            if not sum(gather(self.context, batch is not None)):
                self._check_set(split, seen, bad)
                return
            seen += len(batch) if batch else 0
            batch = batch or self.empty_batch()
            features = self._encoded(batch)
            bad.update({key: error for key, error in batch.bad.items() if key})
            self.bad.update(bad)
            keep = torch.tensor([not error for error in batch.errors])
            yield features[keep.to(features.device)], batch.targets[keep]

    def _encoded(self, batch: Batch) -> torch.Tensor:
        if self.final:
            return zeroshot.embed(self.clip, batch.pixels, self.config.model)

        def encode(images: torch.Tensor) -> torch.Tensor:
            return self.towers(images, None)[0]  # type: ignore[no-any-return]

        images = self.prepared(batch)
        with self.autocast():
            if is_sharded(self.towers):  # whose ranks call it equally often
                features = encode(images)
            else:
                features = zeroshot.by_parts(encode, images, self.clip.model)
        return features.float()

    def _check_set(self, split: str, seen: int, bad: dict[str, str]) -> None:
        """Stop on all ranks at once when more pictures of a set are bad than is tolerated."""
        ranks = gather(self.context, (seen, bad))
        check_bad(
            {key: error for _, found in ranks for key, error in found.items()},
            num_rows=sum(number for number, _ in ranks),
            where=getattr(self.config.data, split),
            allowed=self.config.data.max_bad_fraction,
        )

    def validate(self) -> dict[str, float]:
        """Score the validation set.

        Returns:
            val_top1, val_top5, val_balanced_accuracy in 0..1 and val_nll in nats.
        """
        size, classifier = len(self.classes), self.classifier()
        scale = self.clip.model.logit_scale.exp().item()
        confusion, top5, nll = np.zeros((size, size), np.int64), 0, 0.0
        for features, targets in self.features("val"):
            probabilities = zeroshot.probabilities(features, classifier, scale).cpu().numpy()
            true = targets.numpy()
            confusion += metrics.confusion_matrix(true, probabilities.argmax(1), num_classes=size)
            top5 += metrics.top_k_hits(probabilities, true, 5)
            nll += metrics.nll(probabilities, true) * len(true)
        parts = gather(self.context, (confusion, top5, nll))
        if not math.isfinite(sum(part[2] for part in parts)):
            raise TrainError(
                "validation: probabilities are not finite, so the weights are of no use; lower "
                "optim.learning_rate or set train.precision=fp32"
            )
        counts = np.sum([part[0] for part in parts], axis=0)
        return val_figures(counts, sum(part[1] for part in parts), sum(part[2] for part in parts))

    def embedded(self, split: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all ranks' features (N, D) and class numbers (N,), on the CPU."""
        mine = [(features.cpu(), targets) for features, targets in self.features(split)]
        parts = [part for rank in gather(self.context, mine) for part in rank]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def all_bad(self) -> dict[str, str]:
        """Return id → error of the bad pictures of all ranks; called on every one."""
        ranks = gather(self.context, self.bad)
        return {key: error for bad in ranks for key, error in bad.items()}

    def prepared(self, batch: Batch) -> torch.Tensor:
        """Return a batch's pictures as the tower takes them."""
        last = self.config.model.channels_last
        return zeroshot.normalized(self.clip, batch.pixels, channels_last=last)

    def empty_batch(self) -> Batch:
        """Return a batch that does not count, for a rank that has run out."""
        side = self.clip.image_size
        pixels = torch.zeros(1, 3, side, side, dtype=torch.uint8)
        return Batch(pixels, torch.zeros(1, dtype=torch.long), ids=[""], errors=["none"])

    def autocast(self) -> torch.autocast:
        """Return the context in which towers are called."""
        device = self.context.device
        dtype = dtype_of(self.config.train, device)
        return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


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
