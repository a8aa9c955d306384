"""The document of a run: load a recipe, override dotted keys, dump the result.

One document travels: the recipe that a person writes is resolved here, rides into the job, and is
stored in checkpoint and release. One override serves the command line, search and tests.
This module reads no data and imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from raypose import storage
from raypose.config import reading
from raypose.config.settings import Config
from raypose.errors import ConfigError, DataError, UsageError, did_you_mean

__all__ = [
    "absolute",
    "dump",
    "explain",
    "load",
    "override",
    "parse_assignments",
    "parse_config",
    "read_yaml",
    "shipped",
    "sparse",
]

SPACE = "search.space."
PLAINLY = {
    "string_pattern_mismatch": "letters, digits, dots, dashes and underscores are wanted",
    "model_type": "is a section; keys and values are wanted under it",
    "model_attributes_type": "is a section; keys and values are wanted under it",
    "tuple_type": "a list of values is wanted, such as [0.1, 0.2]",
    "list_type": "a list of values is wanted, such as [a, b]",
    "dict_type": "a mapping of keys to values is wanted",
    "missing": "too few values",
    "finite_number": "a finite number is wanted",
}
"""What pydantic's complaints are called here, where its own words are its own."""


def parse_config(document: Mapping[str, Any], *, where: str = "config") -> Config:
    """Validate a document.

    Raises:
        ConfigError: for the first key or value that is wrong, with its place.
    """
    try:
        config = Config.model_validate(dict(document))
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error)}") from None
    _check_space(config, where=where)
    return config


def load(path: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a recipe and apply overrides to it.

    Args:
        path: of a YAML file, local or on S3, or the name of a recipe that ships.
        overrides: dotted key → value.
    """
    document = read_yaml(_shipped(path))
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of keys to values")
    return parse_config(_assign(_typed(document), overrides or {}), where=path)


def shipped() -> dict[str, Path]:
    """Return the recipes that come with raypose, by name."""
    package = Path(__file__).parents[1]
    folders = (package / "recipes", package.parent / "jobs/recipes")  # installed, or a checkout
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def _shipped(path: str) -> str:
    """Return where the recipe of a name lies; what is a file, or looks like one, is that file."""
    if storage.is_s3(path) or Path(path).suffix or Path(path).exists() or "/" in path:
        return path
    known = shipped()
    if path not in known:
        raise ConfigError(
            f"{path}: no such recipe{did_you_mean(path, known)}; shipped are "
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
        UsageError: for a word that is no pair, or a key that stands twice.
    """
    overrides: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f'{word}: expected key=value, such as "optim.epochs=5"')
        if key in overrides:
            raise UsageError(f"{word}: {key} is given twice; keep one")
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
    for key, distribution in space.items() if isinstance(space, Mapping) else ():
        if isinstance(distribution, dict) and isinstance(distribution.get("choice"), list):
            wanted = reading.annotation_of(Config, key)
            distribution["choice"] = [reading.typed(v, wanted) for v in distribution["choice"]]
    found: dict[str, Any] = reading.typed(document, Config)
    return found


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


def _check_space(config: Config, *, where: str) -> None:
    """Prove that each key of the search space exists and takes its values."""
    document = config.model_dump(mode="python", exclude={"search"})
    for key, distribution in config.search.space.items():
        for value in distribution.examples():
            try:
                Config.model_validate(_assign(document, {key: value}))
            except ValidationError as error:
                raise ConfigError(f"{where}: search.space: {explain(error)}") from None


def explain(error: ValidationError, root: type[BaseModel] = Config) -> str:
    """Put pydantic's first complaint into one line with the dotted key."""
    first = error.errors()[0]
    loc = [part for part in first["loc"] if isinstance(part, str)]
    dotted = ".".join(str(part) for part in first["loc"]) or "document"
    if first["type"] == "extra_forbidden":
        return f"{dotted}: unknown key{_suggest(loc, root)}"
    message = PLAINLY.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    if not loc:
        return message
    return f"{dotted}: {message[0].lower()}{message[1:]}, found {_short(first['input'])}"


def _suggest(loc: Sequence[str], root: type[BaseModel]) -> str:
    """Name the nearest key of the section, or the section in which the key lives."""
    section = root
    for part in loc[:-1]:
        field = section.model_fields.get(part)
        inner = field.annotation if field else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            section = inner
    near = did_you_mean(loc[-1], section.model_fields)
    if near:
        return near
    homes = {
        leaf: f"{name}.{leaf}"
        for name, field in root.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        for leaf in field.annotation.model_fields
    }
    home = homes.get(loc[-1])
    return f'; did you mean "{home}"?' if home else f"; known: {', '.join(section.model_fields)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
