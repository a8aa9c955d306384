"""What a search may vary: dotted keys, the values that each may take, and on what that depends."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from pydantic import model_validator

from raypose.config.section import Section
from raypose.errors import ConfigError

__all__ = [
    "Choose",
    "Distribution",
    "Space",
    "at_random",
    "combinations",
    "draw",
    "named",
    "representative",
    "values",
    "wanted_of",
]

MAX_BRANCHES = 20_000
"""Ways to settle the keys on which others depend, up to which points are counted."""
INSIDE = (5**0.5 - 1) / 2
"""Share of the way between two bounds at which a number is whole for no bounds that are."""


class Distribution(Section):
    """Values that a search may give to one key: exactly one of the forms."""

    choice: tuple[Any, ...] | None = None
    """Any of these."""
    uniform: tuple[float, float] | None = None
    """Between the two."""
    loguniform: tuple[float, float] | None = None
    """Between the two, evenly over magnitudes."""
    integers: tuple[int, int] | None = None
    """A whole number, both ends included."""
    step: float | None = None
    """Between neighbouring values, counted from the lower bound (uniform, integers)."""
    when: dict[str, Any] = {}
    """Dotted key → value, or list of values: asked for only where all of these are so."""

    @model_validator(mode="after")
    def _one_form(self) -> Distribution:
        forms = ("choice", "uniform", "loguniform", "integers")
        if sum(getattr(self, name) is not None for name in forms) != 1:
            raise ValueError("wants exactly one of choice, uniform, loguniform, integers")
        bounds = self.uniform or self.loguniform or self.integers
        if bounds and not bounds[0] < bounds[1]:
            raise ValueError(f"the lower bound {bounds[0]} is not below the upper {bounds[1]}")
        if self.loguniform and self.loguniform[0] <= 0:
            raise ValueError("loguniform wants bounds above 0")
        if self.choice is not None:
            self._check_choice(self.choice)
        if self.step is not None:
            self._check_step(self.step)
        return self

    @staticmethod
    def _check_choice(choice: tuple[Any, ...]) -> None:
        if not choice:
            raise ValueError("choice wants at least one value")
        for number, value in enumerate(choice):
            if any(_same(value, other) for other in choice[:number]):
                raise ValueError(f"choice holds {value!r} twice")

    def _check_step(self, step: float) -> None:
        bounds = self.uniform or self.integers
        if bounds is None:
            raise ValueError("step goes with uniform or integers")
        if self.integers and step != int(step):
            raise ValueError(f"integers wants a whole step, not {step}")
        if not 0 < step <= bounds[1] - bounds[0]:
            raise ValueError(f"step {step} does not fit between {bounds[0]} and {bounds[1]}")

    def examples(self) -> Sequence[Any]:
        """Return values that stand for all: each choice, or both ends and what may lie between."""
        between = self.uniform or self.loguniform
        if between and self.step is None:
            low, high = between
            return low, high, low + (high - low) * INSIDE
        if between or self.integers:
            return self.at(0), self.at(1), self.at(INSIDE)
        return self.choice or ()

    def at(self, share: float) -> Any:
        """Return the value at a share of the way, from 0 to 1: evenly drawn, any is as likely."""
        if self.choice is not None:
            return self.choice[min(int(share * len(self.choice)), len(self.choice) - 1)]
        if self.loguniform is not None:
            low, high = map(math.log, self.loguniform)
            bounds = self.loguniform
            return min(max(math.exp(low + share * (high - low)), bounds[0]), bounds[1])
        number = self.size
        if number is None:
            assert self.uniform is not None
            return self.uniform[0] + share * (self.uniform[1] - self.uniform[0])
        return self._on_grid(min(int(share * number), number - 1))

    def grid(self, value: float) -> Any:
        """Return the value of the grid that is nearest: 0.1 + 0.2 and 0.3 are one of them."""
        low = (self.uniform or self.integers or (0,))[0]
        return self._on_grid(round((value - low) / (self.step or 1)))

    def _on_grid(self, number: int) -> Any:
        low = (self.uniform or self.integers or (0,))[0]
        value = low + number * (self.step or 1)
        return int(value) if self.integers else round(value, 12)

    def all(self) -> list[Any]:
        """Return every value, where they are not endlessly many."""
        size = self.size or 0
        return [self.at((number + 0.5) / size) for number in range(size)]

    @property
    def size(self) -> int | None:
        """How many values there are; None for endlessly many."""
        if self.choice is not None:
            return len(self.choice)
        if self.integers is not None or (self.uniform and self.step):
            low, high = self.integers or self.uniform or (0, 0)
            return int((high - low) / (self.step or 1) + 1e-9) + 1
        return None


Space = dict[str, Distribution | tuple[Distribution, ...]]
"""Dotted key → distribution; or several, of which the first counts whose `when` holds."""


Choose = Callable[[str, Distribution], Any]
"""(name of a parameter, its distribution) → its value. A key of several has a name for each."""


def draw(space: Space, choose: Choose, known: Callable[[str], Any]) -> dict[str, Any]:
    """Settle the keys that apply, those first on which others depend.

    Args:
        space: the keys.
        choose: a value.
        known: returns what the recipe says of a key that is not in the space.

    Returns:
        Dotted key → value; without those whose conditions do not hold.

    Raises:
        ConfigError: where keys depend on each other in a circle.
    """
    values: dict[str, Any] = {}
    for key in _ordered(space):
        active = _active(key, space, values, known)
        if active:
            values[key] = choose(*active)
    return {key: values[key] for key in space if key in values}


def at_random(rng: random.Random) -> Choose:
    """Return what chooses evenly."""
    return lambda name, distribution: distribution.at(rng.random())


def representative(rng: random.Random) -> Choose:
    """Return what chooses among the values that stand for all: see `Distribution.examples`."""
    return lambda name, distribution: rng.choice(distribution.examples())


def combinations(space: Space, known: Callable[[str], Any]) -> int | None:
    """Return how many different points there are; None for endlessly many, or too many to count."""
    asked = {key for one in _distributions(space) for key in one.when}
    branches = 0

    def count(keys: list[str], values: dict[str, Any]) -> int | None:
        if not keys:
            return 1
        key, *rest = keys
        active = _active(key, space, values, known)
        if active is None:
            return count(rest, values)
        distribution = active[1]
        if distribution.size is None:
            return None
        if key not in asked:
            below = count(rest, {**values, key: None})
            return None if below is None else distribution.size * below
        nonlocal branches
        branches += distribution.size
        if branches > MAX_BRANCHES:
            return None
        total = 0
        for value in distribution.all():
            below = count(rest, {**values, key: value})
            if below is None:
                return None
            total += below
        return total

    return count(_ordered(space), {})


def values(space: Space, key: str) -> list[Any]:
    """Return values that stand for all that a key may take; none where it is not in the space."""
    found = named(key, space[key]) if key in space else []
    return [value for _, distribution in found for value in distribution.examples()]


def named(
    key: str, distributions: Distribution | tuple[Distribution, ...]
) -> list[tuple[str, Distribution]]:
    """Return the parameters of a key: a name of its own for each of several distributions."""
    if isinstance(distributions, Distribution):
        return [(key, distributions)]
    return [(f"{key}@{number}", each) for number, each in enumerate(distributions)]


def wanted_of(wanted: Any) -> list[Any]:
    """Return the values of which a condition wants one."""
    return list(wanted) if isinstance(wanted, list | tuple) else [wanted]


def _same(one: Any, other: Any) -> bool:
    """Return whether two values mean one thing: 0.3 and 0.1 + 0.2 do, 1 and true do not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-15)
    return bool(one == other)


def _distributions(space: Space) -> list[Distribution]:
    return [each for key in space for _, each in named(key, space[key])]


def _ordered(space: Space) -> list[str]:
    needs = {
        key: [
            other for _, each in named(key, space[key]) for other in each.when if other in space
        ]
        for key in space
    }  # fmt: skip
    try:
        return list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        circle = " → ".join(error.args[1])
        raise ConfigError(f"search.space: keys wait for each other: {circle}") from None


def _active(
    key: str, space: Space, values: Mapping[str, Any], known: Callable[[str], Any]
) -> tuple[str, Distribution] | None:
    """Return the parameter of a key whose conditions hold, and its distribution."""

    def holds(other: str, wanted: Any) -> bool:
        if other in space and other not in values:
            return False
        value = values[other] if other in space else known(other)
        return any(_same(value, one) for one in wanted_of(wanted))

    for name, distribution in named(key, space[key]):
        if all(holds(other, wanted) for other, wanted in distribution.when.items()):
            return name, distribution
    return None
