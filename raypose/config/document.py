"""The document of a run: load a recipe, override dotted keys, dump the result.

One document travels: the recipe that a person writes is resolved here, rides into the job, and is
stored in checkpoint and release. One override serves the command line, search and tests.
This module reads no data and imports nothing heavy.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from pydantic import BaseModel, ValidationError

from raypose import storage
from raypose.config import reading, space
from raypose.config.complaints import explain
from raypose.config.identity import NOT_OF_A_RUN, SPREAD
from raypose.config.settings import Config
from raypose.errors import ConfigError, DataError, UsageError, did_you_mean

__all__ = [
    "absolute",
    "dump",
    "keys",
    "load",
    "lookup",
    "override",
    "parse_assignments",
    "parse_config",
    "prove",
    "read_yaml",
    "shipped",
    "sparse",
]

SPACE = "search.space."
COMPARED = ("data.val", "data.test", "data.taxonomy")
"""Keys by which the scores of trials are what they are."""


def parse_config(document: Mapping[str, Any], *, where: str = "config") -> Config:
    """Validate a document.

    Raises:
        ConfigError: for the first key or value that is wrong, with its place.
    """
    try:
        config = Config.model_validate(included(document))
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, Config)}") from None
    _check_space(config, where=where)
    return config


def load(path: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a recipe and apply overrides to it.

    Args:
        path: of a YAML file, local or on S3, or the name of a recipe that ships.
        overrides: dotted key → value.
    """
    document = read_yaml(_named(path, "recipes", "recipe"))
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of keys to values")
    return parse_config(_assign(_typed(document), overrides or {}), where=path)


def shipped(kind: str = "recipes") -> dict[str, Path]:
    """Return the recipes, or sub-spaces, that come with raypose, by name."""
    package = Path(__file__).parents[1]
    folders = (package / kind, package.parent / "jobs" / kind)  # installed, or a checkout
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def _named(path: str, kind: str, what: str) -> str:
    """Return where what ships under a name lies; what looks like a file is that file."""
    if storage.is_s3(path) or Path(path).suffix or Path(path).exists() or "/" in path:
        return path
    known = shipped(kind)
    if path not in known:
        raise ConfigError(
            f"{path}: no such {what}{did_you_mean(path, known)}; shipped are "
            f"{', '.join(known)}; or give the path of a YAML file"
        )
    return str(known[path])


def override(config: Config, overrides: Mapping[str, Any]) -> Config:
    """Return the config with dotted keys replaced: ``{"optim.learning_rate": 3e-5}``."""
    document = config.model_dump(mode="python")
    return parse_config(_assign(document, overrides), where="override")


def parse_assignments(words: Sequence[str], model: type[BaseModel] = Config) -> dict[str, Any]:
    """Turn ``key=value`` words into overrides, each value as its key wants it: see `reading`.

    Args:
        words: the pairs.
        model: whose keys they are.

    Raises:
        UsageError: for a word that is no pair, or a key that stands twice, be it in its section.
    """
    overrides: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f'{word}: expected key=value, such as "optim.epochs=5"')
        if key in overrides:
            raise UsageError(f"{word}: {key} is given twice; keep one")
        for other in overrides:
            part, whole = max(key, other, key=len), min(key, other, key=len)
            if part.startswith(f"{whole}."):
                raise UsageError(f"{word}: {part} is a part of {whole}, which is given, too")
        if value.strip()[:1] == "{" and not reading.is_text(reading.annotation_of(model, key)):
            nested = _typed(_assign({}, {key: reading.parse_yaml(value, where=key)}))
            overrides[key] = _lookup(nested, key)
        else:
            wanted = reading.annotation_of(model, key)
            overrides[key] = reading.parse_value(value, wanted, where=key)
    return overrides


def absolute(config: Config) -> Config:
    """Make local locations absolute: workers do not share the directory that a command ran in."""

    def full(location: str | None) -> str | None:
        return storage.absolute(location) if location else location

    backbone, taxonomy = config.model.backbone, config.data.taxonomy
    overrides = {
        "storage": full(config.storage),
        "data.train": full(config.data.train),
        "data.val": full(config.data.val),
        "data.test": full(config.data.test),
        "data.synthetic": full(config.data.synthetic),
        "model.image_weights": full(config.model.image_weights),
    }
    if backbone.startswith("local-dir:"):
        overrides["model.backbone"] = f"local-dir:{full(backbone.removeprefix('local-dir:'))}"
    if isinstance(taxonomy, str) and taxonomy.endswith((".yaml", ".yml")):
        overrides["data.taxonomy"] = full(taxonomy)
    return override(config, overrides)


def dump(config: Config) -> dict[str, Any]:
    """Return the complete document in JSON's types."""
    return config.model_dump(mode="json")


def sparse(config: Config) -> dict[str, Any]:
    """Return the document less everything that is as by default: a recipe as people write it."""
    return config.model_dump(mode="json", exclude_defaults=True)


def read_yaml(url: str) -> Any:
    """Read a YAML file, local or on S3, scalars as text; an empty one is an empty mapping.

    Raises:
        ConfigError: where it cannot be read, is not YAML, or a key stands twice.
    """
    if not storage.is_s3(url) and Path(url).exists() and not Path(url).is_file():
        raise ConfigError(f"{url}: not a file; give the path of a YAML file")
    try:
        text = storage.read_bytes(url).decode("utf-8-sig")
    except DataError as error:
        raise ConfigError(str(error)) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{url}: not UTF-8 ({error.reason}); save it as UTF-8") from None
    document = reading.parse_yaml(text, where=url)
    return {} if document is None else document


def _typed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe with scalars as their keys want them, and choices as the searched keys do."""
    search = document.get("search")
    space = search.get("space") if isinstance(search, Mapping) else None
    for key, given in space.items() if isinstance(space, Mapping) else ():
        for distribution in given if isinstance(given, list) else [given]:
            if isinstance(distribution, dict):
                _type_choices(key, distribution)
    found: dict[str, Any] = reading.typed(document, Config)
    return found


def _type_choices(key: str, distribution: dict[str, Any]) -> None:
    wanted = reading.annotation_of(Config, key)
    if isinstance(distribution.get("choice"), list):
        distribution["choice"] = [reading.typed(one, wanted) for one in distribution["choice"]]
    when = distribution.get("when")
    if not isinstance(when, dict):
        return
    for other, value in when.items():
        kind = reading.annotation_of(Config, other)
        many = isinstance(value, list)
        when[other] = (
            [reading.typed(v, kind) for v in value] if many else reading.typed(value, kind)
        )


def _lookup(document: Mapping[str, Any], dotted: str) -> Any:
    for part in _parts(dotted):
        document = document[part]
    return document


def _parts(dotted: str) -> list[str]:
    """Cut a dotted key; what a search space holds are dotted keys themselves."""
    if dotted.startswith(SPACE):
        return [*SPACE.rstrip(".").split("."), dotted.removeprefix(SPACE)]
    return dotted.split(".")


def _assign(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Set dotted keys in a copy; sections that are missing are made."""
    result = dict(document)
    for dotted, value in overrides.items():
        inner, (*above, last) = result, _parts(dotted)
        for head in above:
            found = inner.get(head, {})
            if not isinstance(found, Mapping):
                raise ConfigError(f"{dotted}: {head} is a value, not a section")
            inner[head] = dict(found)
            inner = inner[head]
        inner[last] = value
    return result


def included(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document in which the keys of `search.include` stand in its space.

    Raises:
        ConfigError: where there is no such sub-space, or it is none.
    """
    search = document.get("search")
    names = search.get("include") if isinstance(search, Mapping) else None
    if not isinstance(names, list | tuple) or not names:
        return dict(document)
    space: dict[str, Any] = {}
    for name in names:
        place = _named(str(name), "spaces", "sub-space")
        found = read_yaml(place)
        if not isinstance(found, dict):
            raise ConfigError(f"{place}: a sub-space is a mapping of dotted keys to distributions")
        typed = _typed({"search": {"space": found}})["search"]["space"]
        space = {**typed, **space}
    assert isinstance(search, Mapping)
    own = search.get("space") or {}
    return {**document, "search": {**search, "include": (), "space": {**space, **own}}}


class Proof(NamedTuple):
    """What drawing points of a search space has shown."""

    num_points: int | None
    """Different points there are; None for endlessly many."""
    idle: list[str]
    """Parameters that no point had: what they depend on does not hold."""


def prove(config: Config, *, num_points: int = 256, where: str = "search.space") -> Proof:
    """Draw points of the search space and resolve each: what is wrong is known before any trains.

    Raises:
        ConfigError: for the first point that is no recipe, with its values.
    """
    document = config.model_dump(mode="python", exclude={"search"})
    rng = random.Random(0)
    asked: set[str] = set()
    for number in range(num_points):
        choose = space.at_random(rng) if number % 2 else space.representative(rng)

        def noted(name: str, one: space.Distribution, choose: space.Choose = choose) -> Any:
            asked.add(name)
            return choose(name, one)

        values = space.draw(config.search.space, noted, partial(lookup, config))
        try:
            Config.model_validate(_assign(document, values))
        except ValidationError as error:
            point = ", ".join(f"{key}={value}" for key, value in values.items())
            raise ConfigError(f"{where}: {explain(error, Config)}; at {point}") from None
    names = [
        name for key, given in config.search.space.items() for name, _ in space.named(key, given)
    ]
    points = space.combinations(config.search.space, partial(lookup, config))
    return Proof(points, [name for name in names if name not in asked])


def lookup(config: Config, dotted: str) -> Any:
    """Return what a document says of a dotted key.

    Raises:
        ConfigError: where there is no such key.
    """
    value: Any = config
    for part in dotted.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, BaseModel) and part in type(value).model_fields:
            value = getattr(value, part)
        else:
            near = did_you_mean(dotted, keys())
            raise ConfigError(f"search.space: when: {dotted}: unknown key{near}")
    return value


def keys(root: type[BaseModel] = Config) -> list[str]:
    """Return the dotted keys of a document."""
    found = []
    for name, field in root.model_fields.items():
        inner = field.annotation
        found += [f"{name}.{leaf}" for leaf in keys(inner)] if is_section(inner) else [name]
    return found


def is_section(wanted: Any) -> TypeGuard[type[BaseModel]]:
    """Return whether an annotation is a section of its own."""
    return isinstance(wanted, type) and issubclass(wanted, BaseModel)


def _check_space(config: Config, *, where: str) -> None:
    """Prove that each key of the search space exists and takes its values."""
    document = config.model_dump(mode="python", exclude={"search"})
    for key, given in config.search.space.items():
        _check_key(key, config.search.space, where=where)
        for _, distribution in space.named(key, given):
            held = {other: _first(value) for other, value in distribution.when.items()}
            for other in held:
                lookup(config, other)
            for value in distribution.examples():
                try:
                    Config.model_validate(_assign(document, {**held, key: value}))
                except ValidationError as error:
                    raise ConfigError(f"{where}: search.space: {explain(error, Config)}") from None
    space.draw(config.search.space, lambda name, one: one.at(0), partial(lookup, config))


def _check_key(key: str, others: Iterable[str], *, where: str) -> None:
    """Refuse a key in which no trial may differ from another."""
    section, _, name = key.partition(".")
    place = f"{where}: search.space: {key}"
    if key in COMPARED:
        raise ConfigError(f"{place}: trials are compared on it; it is the same for all of them")
    if section in (*NOT_OF_A_RUN, "name", "storage") or (section == "train" and name in SPREAD):
        raise ConfigError(f"{place}: it changes nothing that a trial learns; set it for all")
    field = Config.model_fields.get(section)
    if field is not None and not name and is_section(field.annotation):
        raise ConfigError(f"{place}: is a section; name one of its keys")
    within = next((other for other in others if other.startswith(f"{key}.")), "")
    if within:
        raise ConfigError(f"{place}: {within} is a part of it; search one of the two")


def _first(wanted: Any) -> Any:
    return wanted[0] if isinstance(wanted, list | tuple) and wanted else wanted
