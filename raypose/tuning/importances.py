"""How much each parameter decides whether a trial is among the best, and how sure that is.

Optuna's PED-ANOVA, which knows parameters that only some trials have, gives one number each.
Drawing the trials anew shows how far that hangs on which trials there happened to be.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator

from raypose.tuning.journal import quiet, to_study
from raypose.tuning.records import Trial

__all__ = ["FEWEST", "Importance", "importances"]

FEWEST = 10
"""Trials with a score below which nothing is said."""
MOST = 400
"""Trials that are drawn from; of more a part stands for all."""
ROUNDS = 100
AT_LEAST_BEST = 5
"""Trials that Optuna wants among the best."""


@dataclass(frozen=True)
class Importance:
    """Of one parameter.

    Attributes:
        name: Optuna's.
        mean: share of all importances, in 0..1, over draws of the trials.
        interval: 95 % of the draws lie in it.
    """

    name: str
    mean: float
    interval: tuple[float, float]


def importances(trials: Sequence[Trial]) -> list[Importance]:
    """Return the importance of each parameter, the highest first; none where trials are too few.

    Args:
        trials: with a score; over `MOST` of them, a part that is drawn once.
    """
    if len(trials) < FEWEST:
        return []
    rng = np.random.default_rng(0)
    if len(trials) > MOST:
        trials = [trials[k] for k in sorted(rng.choice(len(trials), MOST, replace=False))]
    study = _Drawn(trials)
    names = sorted({name for trial in study.drawn for name in trial.params})
    if not names:
        return []
    top = min(0.5, max(0.1, AT_LEAST_BEST / len(trials)))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=top)
    found = np.zeros((ROUNDS, len(names)))
    with quiet():
        for row in found:
            study.draw(rng)
            shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
            row[:] = [shares.get(name, 0.0) for name in names]
    low, high = np.quantile(found, (0.025, 0.975), axis=0)
    means = found.mean(axis=0)
    order = np.argsort(-means, kind="stable")
    return [Importance(names[k], float(means[k]), (float(low[k]), float(high[k]))) for k in order]


class _Drawn(optuna.Study):
    """A study whose trials can be drawn anew, without a copy of each: that is nearly all it costs.

    Those that are drawn twice stand in it twice: PED-ANOVA looks at values and parameters alone.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        memory = optuna.storages.InMemoryStorage()
        made = to_study("importances", trials, memory)
        super().__init__(made.study_name, memory)
        self.whole = self.drawn = made.get_trials(deepcopy=False)

    def draw(self, rng: np.random.Generator) -> None:
        """Draw as many trials as there are, with replacement."""
        self.drawn = [self.whole[k] for k in rng.integers(len(self.whole), size=len(self.whole))]

    def get_trials(
        self, deepcopy: bool = True, states: Container[optuna.trial.TrialState] | None = None
    ) -> list[optuna.trial.FrozenTrial]:
        """Return those that were drawn."""
        return [trial for trial in self.drawn if states is None or trial.state in states]
