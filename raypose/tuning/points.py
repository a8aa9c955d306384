"""Which point is tried next: an Optuna study that is told of every trial there is.

The study lives in memory and is made anew from records, so that nothing is lost with the process,
and nothing torn. What stopped early is told as such, with the scores of its epochs. Draws follow
from (seed, number of the trial) and from what was told before.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import TrialState

from raypose import captions, config
from raypose.captions import grammar, nodes, taxonomy
from raypose.config import Config, Distribution, canonical_json, space
from raypose.data import inputs
from raypose.data.inputs import GRAMMAR
from raypose.errors import ConfigError
from raypose.tuning.journal import STATES, frozen
from raypose.tuning.records import Trial

__all__ = ["Point", "Points", "default_params", "own_value"]

TRIES, TRIES_BY_CHANCE = 20, 2000
"""Draws of a point that was not tried before: by the sampler, then by chance."""


@dataclass(frozen=True)
class Point:
    """What a trial tries.

    Attributes:
        values: dotted key → value.
        params: Optuna's parameter → value.
        distributions: Optuna's parameter → its distribution, as Optuna writes it.
        parent: whence it came where no sampler drew it.
    """

    values: dict[str, Any]
    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, str] = field(default_factory=dict)
    parent: str = ""


class _Unknown(Exception):  # noqa: N818  it is no error: the point lies outside
    """A point says nothing of a parameter, or what the space does not hold."""


class Points:
    """The points of a search: asked for one by one, told of what became of them."""

    def __init__(self, recipe: Config, trials: Iterable[Trial] = ()) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.recipe = recipe
        self.space = recipe.search.space
        self.num_points = _num_points(recipe)
        self.given_up: set[tuple[str, str]] = set()
        self._seen: set[str] = set()
        self._open: dict[int, optuna.Trial] = {}
        self._starts: list[tuple[dict[str, Any], str]] = []
        self.study = optuna.create_study(
            direction="maximize", sampler=_sampler(recipe.search.sampler, 0)
        )
        for trial in trials:
            self._seen.add(canonical_json(trial.values))
            self.tell(trial)

    def start_with(self, params: Mapping[str, Any], parent: str) -> None:
        """Have a point tried before any that a sampler draws, as far as the space holds it.

        Args:
            params: Optuna's parameter → value; those that are left out are drawn.
            parent: whence it comes.
        """
        self._starts.append((dict(params), parent))

    def learn(self, trial: Trial) -> dict[str, Any]:
        """Tell the study of a trial of another search, where the space holds its point.

        Args:
            trial: that has ended.

        Returns:
            Optuna's parameter → value, to start with; empty where the space does not hold it.
        """
        elsewhere = [key for key in trial.values if key not in self.space and key != GRAMMAR]
        if any(_said(self.recipe, key) != trial.values[key] for key in elsewhere):
            return {}  # it differs in what is settled here
        asked: dict[str, Any] = {}
        kinds: dict[str, str] = {}

        def choose(name: str, distribution: Distribution) -> Any:
            given = trial.values.get(name.partition("@")[0], trial.params.get(name))
            value = given if given is not None else _said(self.recipe, name)
            if not _holds(distribution, value):
                raise _Unknown(name)
            kind = _optuna(distribution)
            if distribution.step is not None:
                value = distribution.grid(value)
            asked[name], kinds[name] = _outside(distribution, value), distribution_to_json(kind)
            return value

        try:
            settled = self._settle(choose)
        except (_Unknown, ConfigError):
            return {}
        if settled.get(GRAMMAR) != trial.values.get(GRAMMAR):
            return {}
        ours = {"params": asked, "distributions": kinds}
        self.study.add_trial(frozen(trial.model_copy(update=ours)))
        return asked

    def ask(self, number: int) -> Point | None:
        """Return the point of a trial; None where all there are have been tried.

        Args:
            number: of the trial.
        """
        if self.num_points is not None and len(self._seen) >= self.num_points:
            return None
        while self._starts:
            params, parent = self._starts.pop(0)
            point = self._fresh(number, params, parent)
            if point:
                return point
        seed = random.Random(f"{self.recipe.seed}/{number}").randrange(2**31)
        self.study.sampler = _sampler(self.recipe.search.sampler, seed)
        for tried in range(TRIES + TRIES_BY_CHANCE):
            if tried == TRIES:
                self.study.sampler = optuna.samplers.RandomSampler(seed=seed)
            point = self._fresh(number, {}, "")
            if point:
                return point
        return None

    def tell(self, trial: Trial) -> None:
        """Tell the study what became of a trial."""
        asked = self._open.pop(trial.number, None)
        if asked is None:
            if trial.state != "running":
                self.study.add_trial(frozen(trial))
            return
        for epoch, score in trial.scores.items():
            asked.report(score, epoch)
        value = trial.score if trial.state == "finished" else None
        self.study.tell(asked, value, state=STATES[trial.state])

    def _fresh(self, number: int, params: dict[str, Any], parent: str) -> Point | None:
        """Ask for one point; None where it was tried before, or holds what was given up."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a value that a sampler starts with may not be held
            if params:
                self.study.enqueue_trial(params)
            asked = self.study.ask()
            values = self._settle(partial(_suggest, asked))
        document = canonical_json(values)
        barred = any((key, canonical_json(value)) in self.given_up for key, value in values.items())
        if document in self._seen or barred:
            self.study.tell(asked, state=TrialState.FAIL)
            return None
        self._seen.add(document)
        self._open[number] = asked
        kinds = {name: distribution_to_json(kind) for name, kind in asked.distributions.items()}
        return Point(values, dict(asked.params), kinds, parent)

    def _settle(self, choose: space.Choose) -> dict[str, Any]:
        """Settle the keys of the space, then what captions leave open.

        Parameters of a grammar are named by their place in it, such as ``photo.2.0``, so that one
        that lies in a branch not taken is not asked for. The trial is given the settled grammar.
        """
        values = space.draw(self.space, choose, partial(config.lookup, self.recipe))
        settings = config.override(self.recipe, {**values, "search": {}}).captions
        node = captions.load(settings)
        if not nodes.searched(node):
            return values
        settled = nodes.bind(
            captions.prune(node, taxonomy.load(self.recipe.data.taxonomy)),
            lambda place, ways: int(choose(place, Distribution(choice=tuple(range(ways))))),
            place="grammar" if settings.grammar is not None else settings.preset,
        )
        return {**values, GRAMMAR: grammar.format_grammar(settled)}


def _num_points(recipe: Config) -> int | None:
    """Return how many points there are; None for endlessly many, or more than can be told."""
    if GRAMMAR in inputs.searched_keys(recipe) and GRAMMAR not in recipe.search.space:
        return None  # a grammar's branches too
    return space.combinations(recipe.search.space, partial(config.lookup, recipe))


def _sampler(name: str, draw: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some of these are experimental
        if name == "random":
            return optuna.samplers.RandomSampler(seed=draw)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=draw, deterministic_objective=False)
        return optuna.samplers.TPESampler(
            seed=draw, multivariate=True, group=True, constant_liar=True
        )


def _optuna(distribution: Distribution) -> BaseDistribution:
    if distribution.choice is not None:
        return CategoricalDistribution([_category(value) for value in distribution.choice])
    if distribution.integers is not None:
        low, high = distribution.integers
        return IntDistribution(low, high, step=int(distribution.step or 1))
    low_high = distribution.uniform or distribution.loguniform
    assert low_high is not None
    return FloatDistribution(
        *low_high, log=distribution.loguniform is not None, step=distribution.step
    )


def _suggest(trial: optuna.Trial, name: str, distribution: Distribution) -> Any:
    kind = _optuna(distribution)
    if distribution.choice is not None:
        said = trial.suggest_categorical(name, [_category(value) for value in distribution.choice])
        return next(value for value in distribution.choice if _category(value) == said)
    if isinstance(kind, IntDistribution):
        return trial.suggest_int(name, kind.low, kind.high, step=kind.step)
    assert isinstance(kind, FloatDistribution)
    said = trial.suggest_float(name, kind.low, kind.high, log=kind.log, step=kind.step)
    return said if kind.step is None else distribution.grid(said)


def _category(value: Any) -> Any:
    """Return what stands for a choice in a study, which holds scalars alone."""
    scalar = value is None or isinstance(value, bool | int | float | str)
    return value if scalar else canonical_json(value)


def _outside(distribution: Distribution, value: Any) -> Any:
    return _category(value) if distribution.choice is not None else value


def _holds(distribution: Distribution, value: Any) -> bool:
    kind = _optuna(distribution)
    if distribution.choice is not None:
        return any(one == value and type(one) is type(value) for one in distribution.choice)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    near = distribution.step is not None and math.isclose(distribution.grid(value), value)
    value = distribution.grid(value) if near else value
    return bool(kind._contains(kind.to_internal_repr(value)))


def _said(recipe: Config, name: str) -> Any:
    """Return what a recipe says of a parameter; None where it is no key."""
    try:
        return config.lookup(recipe, name.partition("@")[0])
    except ConfigError:
        return None


def own_value(recipe: Config, key: str) -> Any:
    """Return what a recipe trains with of a dotted key: of the rate, where unset, its method's."""
    value = config.lookup(recipe, key)
    return recipe.optim.peak_rate if value is None and key == "optim.learning_rate" else value


def default_params(recipe: Config) -> dict[str, Any]:
    """Return the recipe's own values as parameters of its space, those that it holds."""
    found: dict[str, Any] = {}

    def choose(name: str, distribution: Distribution) -> Any:
        value = own_value(recipe, name.partition("@")[0])
        if _holds(distribution, value):
            found[name] = _outside(distribution, value)
            return value
        return distribution.at(0.5)

    space.draw(recipe.search.space, choose, partial(config.lookup, recipe))
    return found
