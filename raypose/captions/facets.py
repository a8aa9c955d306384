"""Facets: what a body does in a posture, in a closed vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raypose.errors import TaxonomyError, did_you_mean

__all__ = ["FACETS", "POINTS", "Facets", "parse"]

POINTS = (
    "back", "belly", "chair", "feet", "forearms", "hands", "hands and feet", "hands and knees",
    "head", "knees", "nothing", "one foot", "one hand", "one knee", "seat", "shoulders", "side",
    "wall",
)  # fmt: skip

FACETS: Mapping[str, tuple[str, ...]] = {
    "base": POINTS,
    "orientation": ("inverted", "prone", "side", "supine", "upright"),
    "support": POINTS,
    "torso": (
        "arched back", "bent sideways", "folded forward", "leaning forward", "leaning sideways",
        "rounded", "straight", "twisted",
    ),
    "legs": (
        "apart", "behind the head", "bent", "crossed", "folded to one side", "folded under",
        "kneeling", "lunging", "one before the other", "one behind the head", "one bent",
        "one raised", "over the head", "raised", "raised and bent", "slightly apart",
        "soles together", "split", "squatting", "straddling the arms", "together", "tucked",
        "wrapped",
    ),
    "arms": (
        "around the legs", "at the sides", "behind the back", "bent, supporting", "forward",
        "holding a foot", "holding the feet", "on the legs", "one behind the back", "one up",
        "out to the sides", "overhead", "palms together", "reaching down", "supporting",
        "through the legs", "under the legs", "wrapped",
    ),
}  # fmt: skip
"""Facet → the words it may take: what the body rests on above all, which way the trunk points,
every point of support, and what torso, legs and arms do."""


@dataclass(frozen=True)
class Facets:
    """What a body does in a posture, in the words of `FACETS`; None or empty where not said."""

    base: str | None = None
    orientation: str | None = None
    support: tuple[str, ...] = ()
    torso: str | None = None
    legs: str | None = None
    arms: str | None = None


def parse(entry: Mapping[str, str | list[str]], *, where: str) -> Facets:
    """Hold the facets of a card to the vocabulary.

    Raises:
        TaxonomyError: for a facet or a word that is not in it.
    """
    values: dict[str, Any] = {}
    for key, value in entry.items():
        if key not in FACETS:
            near = did_you_mean(key, FACETS)
            raise TaxonomyError(f"{where}: no facet {key!r}{near}; known: {', '.join(FACETS)}")
        words = [value] if isinstance(value, str) else value
        for word in words:
            if word not in FACETS[key]:
                raise TaxonomyError(
                    f"{where}.{key}: {word!r} is not a word for it"
                    f"{did_you_mean(word, FACETS[key])}; known: {', '.join(FACETS[key])}"
                )
        if key != "support" and len(words) != 1:
            raise TaxonomyError(f"{where}.{key}: takes one word, found {len(words)}")
        values[key] = tuple(words) if key == "support" else words[0]
    return Facets(**values)
