"""Class cards: the one source of which classes there are, in which order, under which names.

A taxonomy is a YAML file of cards, or of the ids of cards in another taxonomy (``base``). Those
shipped lie in ``raypose/captions/taxonomies``; anything else is given by path. Labels in a data set
are card ids, or aliases of them. What a card says of a body is in `facets`.
"""

from __future__ import annotations

import functools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raypose import storage
from raypose.captions import facets, folders
from raypose.config import SOURCE, Cards, Config, override, read_yaml, typed
from raypose.console import plural
from raypose.errors import ConfigError, TaxonomyError, did_you_mean

__all__ = [
    "FACETS",
    "Card",
    "Facets",
    "Taxonomy",
    "embedded",
    "format_taxonomy",
    "from_folders",
    "load",
    "matching",
    "parse",
    "shipped",
]

SHIPPED = Path(__file__).parent / "taxonomies"


FACETS = facets.FACETS
Facets = facets.Facets


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
class Card:
    """One class: its id (the label in data sets), names in order of preference, parents, facets.

    ``parents`` runs from the nearest level to the farthest.
    """

    id: str
    names: tuple[str, ...]
    sanskrit: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    facets: Facets = field(default_factory=Facets)

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

    def counts(self, labels: Mapping[str, int]) -> dict[str, int]:
        """Return card id → pictures, of labels that may be aliases; those with none are left out.

        Raises:
            TaxonomyError: where a label has no card.
        """
        self.require(labels, where="labels")
        known = self.index()
        found = Counter[str]()
        for label, count in labels.items():
            found[self.ids[known[label]]] += count
        return {name: count for name, count in found.items() if count}

    def require(self, labels: Iterable[str], *, where: str) -> None:
        """Raise a TaxonomyError that names the labels no card has."""
        known = self.index()
        absent = sorted(set(labels) - set(known))
        if absent:
            shown = ", ".join(f'"{label[:60]}"' for label in absent[:3])
            near = did_you_mean(absent[0], known) if len(absent) == 1 else ""
            more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
            raise TaxonomyError(
                f'{where}: {shown}{more} not in taxonomy "{self.name}" of {len(self)} classes'
                f"; add a card, or choose another taxonomy{near}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the document that a release stores; `parse` reads it."""
        return {"name": self.name, "classes": [_sparse(card) for card in self.cards]}


def shipped() -> list[str]:
    """Return the names of the taxonomies that come with raypose."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def embedded(config: Config) -> Config:
    """Return a document with the cards in it, where it names a file: see `DataConfig.taxonomy`.

    Raises:
        TaxonomyError: where there is no such file, or its cards contradict one another.
    """
    source = config.data.taxonomy
    if not isinstance(source, str) or source in shipped():
        return config
    try:
        document = {**load(source).to_dict(), SOURCE: source}
    except TaxonomyError as error:
        raise TaxonomyError(f"data.taxonomy: {error}") from None
    return override(config, {"data.taxonomy": document})


def load(source: str | Cards, *, within: tuple[str, ...] = ()) -> Taxonomy:
    """Load a shipped taxonomy by name, a YAML file by path, or the one that a document holds.

    Args:
        source: which.
        within: the files whose base it is, one after another.

    Raises:
        TaxonomyError: where there is none, or its cards contradict one another.
    """
    if not isinstance(source, str):
        return parse(source, where="data.taxonomy")
    if source in within:
        raise TaxonomyError(f"{within[-1]}: base: {source} is based on this itself")
    if storage.is_s3(source):
        return _read(source, within=within)
    if source in shipped():
        return _shipped(source)
    if not Path(source).is_file():
        raise TaxonomyError(
            f"{source}: no such taxonomy{did_you_mean(source, shipped())}; shipped are "
            f"{', '.join(shipped())}; or give the path of a YAML file"
        )
    return _read(source, within=within)


@functools.cache
def _shipped(name: str) -> Taxonomy:
    return _read(str(SHIPPED / f"{name}.yaml"), where=name)


def _read(url: str, *, where: str = "", within: tuple[str, ...] = ()) -> Taxonomy:
    try:
        document = typed(read_yaml(url), str)
    except ConfigError as error:
        raise TaxonomyError(str(error)) from None
    return parse(document, where=where or url, within=(*within, url))


def parse(document: Any, *, where: str, within: tuple[str, ...] = ()) -> Taxonomy:
    """Build a taxonomy from its document and check it: see `load`."""
    if not isinstance(document, Mapping) or not isinstance(document.get("classes"), Sequence):
        raise TaxonomyError(f"{where}: expected a mapping with name and a list of classes")
    unknown = set(document) - {"name", "base", "classes", SOURCE}
    if unknown:
        raise TaxonomyError(
            f"{where}: {sorted(unknown)[0]}: unknown key; known: name, base, classes"
        )
    base: dict[str, Card] = {}
    if "base" in document:
        if not isinstance(document["base"], str):
            raise TaxonomyError(f"{where}: base: the name or the path of a taxonomy is wanted")
        base = {card.id: card for card in load(document["base"], within=within).cards}
    cards = tuple(
        _card(entry, base=base, where=f"{where}: classes.{number}")
        for number, entry in enumerate(document["classes"])
    )
    _check(cards, where=where)
    return Taxonomy(name=str(document.get("name", Path(where).stem)), cards=cards)


def matching(labels: Iterable[str]) -> list[tuple[str, int]]:
    """Return the shipped taxonomies that know some labels, best first, and how many each knows.

    Labels are compared as `Taxonomy.index` does, so that one that knows all of them can stand in
    ``data.taxonomy`` as it is. Of those that know as many the smallest comes first.
    """
    asked = set(labels)
    found = [(len(asked & set(one.index())), one) for one in map(load, shipped())]
    best = sorted(found, key=lambda pair: (-pair[0], len(pair[1]), pair[1].name))
    return [(one.name, count) for count, one in best if count]


def from_folders(folder: str) -> Taxonomy:
    """Make a taxonomy of the class folders in a folder: see `folders`.

    Ids are the folder names. Where folders are classes of a shipped taxonomy, by label or by name,
    their cards say what its cards say; parents only where all are, for a tree has no gaps.

    Raises:
        TaxonomyError: where it is no folder, holds none, or two of its folders are one class.
    """
    if not storage.is_s3(folder) and not Path(folder).is_dir():
        raise TaxonomyError(f"{folder}: not a folder; give one that holds a folder for each class")
    ids = sorted({_composed(name) for name in folders.class_folders(folder)})
    if not ids:
        raise TaxonomyError(f"{folder}: holds no folders; expected one for each class")
    known = _known(ids)
    names = folders.names(ids, {name: card.names for name, card in known.items()})
    complete = len(known) == len(ids)
    cards = []
    for name in ids:
        card = known.get(name, Card(id=name, names=names[name]))
        parents = card.parents if complete else ()
        cards.append(Card(name, names[name], card.sanskrit, parents, facets=card.facets))
    _check(cards, where=folder)
    return Taxonomy(name=folders.title(folder), cards=tuple(cards))


def format_taxonomy(taxonomy: Taxonomy) -> str:
    """Return the YAML text of a taxonomy."""
    return yaml.safe_dump(taxonomy.to_dict(), sort_keys=False, allow_unicode=True, width=100)


def _known(ids: Sequence[str]) -> dict[str, Card]:
    """Return folder name → card, in the shipped taxonomy that knows most of them."""
    read = folders.names(ids)
    return max((_cards_of(read, classes) for classes in map(load, shipped())), key=len)


def _cards_of(read: Mapping[str, tuple[str, ...]], classes: Taxonomy) -> dict[str, Card]:
    """Return folder name → card, by labels, then by the names read; no card twice."""
    index = classes.index()
    by_name = {
        folders.tidy(name).casefold(): number
        for number, card in enumerate(classes.cards)
        for name in (*card.sanskrit, *card.names)
    }
    folder_of: dict[int, str] = {}
    for name in read:
        if name in index:
            folder_of.setdefault(index[name], name)
    for name, words in read.items():
        numbers = [by_name[word.casefold()] for word in words if word.casefold() in by_name]
        if numbers and name not in index:
            folder_of.setdefault(numbers[0], name)
    return {name: classes.cards[number] for number, name in folder_of.items()}


def _sparse(card: Card | Facets) -> dict[str, Any]:
    """Return a document without what is empty."""
    document = {}
    for each in fields(card):
        value = getattr(card, each.name)
        if isinstance(value, Facets):
            value = _sparse(value)
        if value:
            document[each.name] = list(value) if isinstance(value, tuple) else value
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
    for key in ("id", "names", "sanskrit", "parents", "aliases"):
        said = [model.id] if key == "id" else getattr(model, key)
        if not all(text.strip() and folders.is_line(text) for text in said):
            raise TaxonomyError(f"{where}: {key}: text is wanted, of one line, found {said!r:.60}")
    return Card(
        id=_composed(model.id),
        names=tuple(model.names),
        sanskrit=tuple(model.sanskrit),
        parents=tuple(model.parents),
        aliases=tuple(map(_composed, model.aliases)),
        facets=facets.parse(model.facets, where=f"{where}: facets"),
    )


def _composed(label: str) -> str:
    """Return a label as data sets have it: with each accent in one character with its letter."""
    return unicodedata.normalize("NFC", label)


def _check(cards: Sequence[Card], *, where: str) -> None:
    """Refuse what would make two classes one, or a tree crooked."""
    if len(cards) < 2:
        raise TaxonomyError(f"{where}: has {plural(len(cards), 'class')}; at least 2 are needed")
    _unique(((label, card) for card in cards for label in (card.id, *card.aliases)), where, "label")
    _unique(((card.id.casefold(), card) for card in cards), where, "label, case aside,")
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
