"""Class cards: the one source of which classes there are, in which order, under which names.

A taxonomy is a YAML file of cards, or of the ids of cards in another taxonomy (``base``). Those
shipped lie in ``raypose/taxonomies``; anything else is given by path. Labels in a data set are
card ids, or aliases of them. Facets say what a body does in a posture, in a closed vocabulary, so
that captions can be made of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raypose.config import read_yaml
from raypose.errors import ConfigError, TaxonomyError, did_you_mean

__all__ = [
    "FACETS",
    "Card",
    "Facets",
    "Taxonomy",
    "format_taxonomy",
    "from_folders",
    "load",
    "parse",
    "shipped",
]

SHIPPED = Path(__file__).parent / "taxonomies"


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


class _CardModel(BaseModel):
    """The form of a card in YAML."""

    model_config = ConfigDict(extra="forbid")
    id: Annotated[str, Field(min_length=1)]
    names: Annotated[list[str], Field(min_length=1)]
    sanskrit: list[str] = []
    parents: list[str] = []
    aliases: list[str] = []
    facets: dict[str, str | list[str]] = {}


@dataclass(frozen=True)
class Facets:
    """What a body does in a posture, in the words of `FACETS`; None or empty where not said."""

    base: str | None = None
    orientation: str | None = None
    support: tuple[str, ...] = ()
    torso: str | None = None
    legs: str | None = None
    arms: str | None = None


@dataclass(frozen=True)
class Card:
    """One class: its id (the label in data sets), names in order of preference, parents, facets.

    ``parents`` runs from the nearest level to the farthest.
    """

    id: str
    names: tuple[str, ...]
    sanskrit: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    facets: Facets = Facets()

    @property
    def name(self) -> str:
        """The preferred name."""
        return self.names[0]


@dataclass(frozen=True)
class Taxonomy:
    """Cards in class order: the index of a card is the class number everywhere."""

    name: str
    cards: tuple[Card, ...]

    def __len__(self) -> int:
        return len(self.cards)

    @property
    def ids(self) -> tuple[str, ...]:
        """The card ids in class order."""
        return tuple(card.id for card in self.cards)

    @property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """The parents at each level, nearest first, in the order of their first class."""
        levels = zip(*(card.parents for card in self.cards), strict=True)
        return tuple(tuple(dict.fromkeys(parents)) for parents in levels)

    def parents(self, level: int) -> list[int]:
        """Return each class's parent at a level, nearest first, as its number in `levels`."""
        numbers = {name: number for number, name in enumerate(self.levels[level])}
        return [numbers[card.parents[level]] for card in self.cards]

    def index(self) -> dict[str, int]:
        """Return label → class number, aliases included."""
        table = {card.id: number for number, card in enumerate(self.cards)}
        for number, card in enumerate(self.cards):
            table.update(dict.fromkeys(card.aliases, number))
        return table

    def require(self, labels: Iterable[str], *, where: str) -> None:
        """Raise a TaxonomyError that names the labels no card has."""
        known = self.index()
        absent = sorted(set(labels) - set(known))
        if absent:
            shown = ", ".join(f'"{label}"' for label in absent[:3])
            near = did_you_mean(absent[0], known) if len(absent) == 1 else ""
            more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
            raise TaxonomyError(
                f'{where}: {shown}{more} not in taxonomy "{self.name}" of {len(self)} classes'
                f"; add a card, or choose another by data.taxonomy{near}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the document that a release stores; `parse` reads it."""
        return {"name": self.name, "classes": [_sparse(card) for card in self.cards]}


def shipped() -> list[str]:
    """Return the names of the taxonomies that come with raypose."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load(source: str) -> Taxonomy:
    """Load a shipped taxonomy by name, or a YAML file by path.

    Raises:
        TaxonomyError: where there is none, or its cards contradict one another.
    """
    path = SHIPPED / f"{source}.yaml" if "/" not in source else Path(source)
    if not path.is_file():
        path = Path(source)
    if not path.is_file():
        raise TaxonomyError(
            f"{source}: no such taxonomy{did_you_mean(source, shipped())}; shipped are "
            f"{', '.join(shipped())}; or give the path of a YAML file"
        )
    try:
        document = read_yaml(str(path))
    except ConfigError as error:
        raise TaxonomyError(str(error)) from None
    return parse(document, where=source)


def parse(document: Any, *, where: str) -> Taxonomy:
    """Build a taxonomy from its document and check it."""
    if not isinstance(document, Mapping) or not isinstance(document.get("classes"), Sequence):
        raise TaxonomyError(f"{where}: expected a mapping with name and a list of classes")
    unknown = set(document) - {"name", "base", "classes"}
    if unknown:
        raise TaxonomyError(
            f"{where}: {sorted(unknown)[0]}: unknown key; known: name, base, classes"
        )
    base = {card.id: card for card in load(document["base"]).cards} if "base" in document else {}
    cards = tuple(
        _card(entry, base=base, where=f"{where}: classes.{number}")
        for number, entry in enumerate(document["classes"])
    )
    _check(cards, where=where)
    return Taxonomy(name=str(document.get("name", Path(where).stem)), cards=cards)


def from_folders(folder: str) -> Taxonomy:
    """Make a taxonomy from the folder names of an ImageFolder; names are the folders', tidied."""
    root = Path(folder)
    if not root.is_dir():
        raise TaxonomyError(f"{folder}: not a folder; give one that holds a folder for each class")
    ids = sorted(path.name for path in root.iterdir() if path.is_dir())
    if not ids:
        raise TaxonomyError(f"{folder}: holds no folders; expected one for each class")
    cards = tuple(Card(id=name, names=(" ".join(name.replace("_", " ").split()),)) for name in ids)
    _check(cards, where=folder)
    return Taxonomy(name=root.resolve().name, cards=cards)


def format_taxonomy(taxonomy: Taxonomy) -> str:
    """Return the YAML text of a taxonomy."""
    return yaml.safe_dump(taxonomy.to_dict(), sort_keys=False, allow_unicode=True, width=100)


def _sparse(card: Card | Facets) -> dict[str, Any]:
    """Return a document without what is empty."""
    document = {}
    for field in fields(card):
        value = getattr(card, field.name)
        if isinstance(value, Facets):
            value = _sparse(value)
        if value:
            document[field.name] = list(value) if isinstance(value, tuple) else value
    return document


def _card(entry: Any, *, base: Mapping[str, Card], where: str) -> Card:
    if isinstance(entry, str):
        if entry not in base:
            raise TaxonomyError(
                f'{where}: "{entry}" is no card of the base{did_you_mean(entry, base)}'
            )
        return base[entry]
    try:
        model = _CardModel.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise TaxonomyError(f"{where}: {key}: {first['msg'].lower()}") from None
    return Card(
        id=model.id,
        names=tuple(model.names),
        sanskrit=tuple(model.sanskrit),
        parents=tuple(model.parents),
        aliases=tuple(model.aliases),
        facets=_facets(model.facets, where=f"{where}: facets"),
    )


def _facets(entry: Mapping[str, str | list[str]], *, where: str) -> Facets:
    """Hold facets to the vocabulary."""
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


def _check(cards: Sequence[Card], *, where: str) -> None:
    """Refuse what would make two classes one, or a tree crooked."""
    if len(cards) < 2:
        raise TaxonomyError(f"{where}: has {len(cards)} classes; at least 2 are needed")
    _unique(((label, card) for card in cards for label in (card.id, *card.aliases)), where, "label")
    for spelling in ("names", "sanskrit"):
        names = ((name.casefold(), card) for card in cards for name in getattr(card, spelling))
        _unique(names, where, "name")
    depths = {len(card.parents) for card in cards}
    if len(depths) > 1:
        odd = next(card for card in cards if len(card.parents) != max(depths))
        raise TaxonomyError(
            f'{where}: "{odd.id}" has {len(odd.parents)} parents where others have {max(depths)}'
        )
    above: dict[str, tuple[str, ...]] = {}
    for card in cards:
        for level, parent in enumerate(card.parents):
            if above.setdefault(f"{level}/{parent}", card.parents[level:]) != card.parents[level:]:
                raise TaxonomyError(f'{where}: "{parent}" of "{card.id}" lies under two parents')


def _unique(pairs: Iterable[tuple[str, Card]], where: str, what: str) -> None:
    owner: dict[str, Card] = {}
    for word, card in pairs:
        if word in owner:
            raise TaxonomyError(
                f'{where}: {what} "{word}" belongs to "{owner[word].id}" and to "{card.id}"'
            )
        owner[word] = card
