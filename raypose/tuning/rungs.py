"""Who goes on: asynchronous successive halving (Li et al., 2020) over the records of a search."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from raypose.tuning.records import Trial

__all__ = ["Rungs"]


class Rungs:
    """Epochs at which trials are held against each other, and the scores reached there.

    Args:
        grace: epoch of the first rung.
        factor: one in so many goes on, and the next rung is as many times as far; 0 stops none.
        num_epochs: of a whole trial; there is no rung at its end.
    """

    def __init__(self, *, grace: int, factor: int, num_epochs: int) -> None:
        self.factor = factor
        self.epochs: list[int] = []
        epoch = grace
        while factor > 1 and epoch < num_epochs:
            self.epochs.append(epoch)
            epoch *= factor
        self.scores: dict[int, dict[int, float]] = {epoch: {} for epoch in self.epochs}

    def fill(self, trials: Iterable[Trial]) -> None:
        """Take in what was reached before: a search that goes on holds new trials against it."""
        for trial in trials:
            for epoch in self.epochs:
                if epoch in trial.scores:
                    self.scores[epoch][trial.number] = trial.scores[epoch]

    def passed(self, epoch: int) -> int:
        """Return how many rungs lie at or before an epoch."""
        return sum(rung <= epoch for rung in self.epochs)

    def goes_on(self, number: int, epoch: int, score: float) -> bool:
        """Note what a trial has reached, and return whether it goes on.

        The first at a rung has nothing to be held against, and goes on.
        """
        if epoch not in self.scores:
            return True
        others = [value for other, value in self.scores[epoch].items() if other != number]
        self.scores[epoch][number] = score
        return not others or score >= float(np.percentile(others, 100 * (1 - 1 / self.factor)))
