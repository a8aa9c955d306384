"""The document of a run: load a recipe, override dotted keys, dump the result.

One document travels: the recipe that a person writes is resolved here, rides into the job, and is
stored in checkpoint and release. One override serves the command line, search and tests.
This module reads no data and imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from raypose import storage
from raypose.config.settings import Config
from raypose.errors import ConfigError, DataError, UsageError, did_you_mean

__all__ = [
    "absolute",
    "dump",
    "load",
    "override",
    "parse_assignments",
    "parse_config",
    "read_yaml",
    "sparse",
]


def parse_config(document: Mapping[str, Any], *, where: str = "config") -> Config:
    """Validate a document.

    Raises:
        ConfigError: for the first key or value that is wrong, with its place.
    """
    try:
        config = Config.model_validate(dict(document))
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error)}") from None
    _check_space(config, where=where)
    return config


def load(path: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a recipe and apply overrides to it."""
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of keys to values")
    return parse_config(_assign(document, overrides or {}), where=path)


def override(config: Config, overrides: Mapping[str, Any]) -> Config:
    """Return the config with dotted keys replaced: ``{"optim.learning_rate": 3e-5}``."""
    document = config.model_dump(mode="python")
    return parse_config(_assign(document, overrides), where="override")


def parse_assignments(words: Sequence[str]) -> dict[str, Any]:
    """Turn ``key=value`` words into overrides; values are read as YAML."""
    overrides: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f'{word}: expected key=value, such as "optim.epochs=5"')
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            overrides[key] = value
    return overrides


def absolute(config: Config) -> Config:
    """Make local locations absolute: workers do not share the directory that a command ran in."""

    def full(location: str | None) -> str | None:
        if not location or storage.is_s3(location):
            return location
        return str(Path(location).absolute())

    backbone, taxonomy = config.model.backbone, config.data.taxonomy
    overrides = {
        "storage": full(config.storage),
        "data.train": full(config.data.train),
        "data.val": full(config.data.val),
        "data.synthetic": full(config.data.synthetic),
        "model.image_weights": full(config.model.image_weights),
    }
    if backbone.startswith("local-dir:"):
        overrides["model.backbone"] = f"local-dir:{full(backbone.removeprefix('local-dir:'))}"
    if taxonomy.endswith((".yaml", ".yml")):
        overrides["data.taxonomy"] = full(taxonomy)
    return override(config, overrides)


def dump(config: Config) -> dict[str, Any]:
    """Return the complete document in JSON's types."""
    return config.model_dump(mode="json")


def sparse(config: Config) -> dict[str, Any]:
    """Return the document less everything that is as by default: a recipe as people write it."""
    return config.model_dump(mode="json", exclude_defaults=True)


def read_yaml(url: str) -> Any:
    """Read a YAML file, local or on S3; an empty one is an empty mapping."""
    try:
        document = yaml.safe_load(storage.read_bytes(url).decode())
    except DataError as error:
        raise ConfigError(str(error)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{url}: not YAML ({' '.join(str(error).split())[:160]})") from None
    return {} if document is None else document


def _assign(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Set dotted keys in a copy; sections that are missing are made."""
    result = dict(document)
    for dotted, value in overrides.items():
        head, _, rest = dotted.partition(".")
        if not rest:
            result[head] = value
            continue
        inner = result.get(head, {})
        if not isinstance(inner, Mapping):
            raise ConfigError(f"{dotted}: {head} is a value, not a section")
        result[head] = _assign(inner, {rest: value})
    return result


def _check_space(config: Config, *, where: str) -> None:
    """Prove that each key of the search space exists and takes its values."""
    document = config.model_dump(mode="python", exclude={"search"})
    for key, distribution in config.search.space.items():
        for value in distribution.examples():
            try:
                Config.model_validate(_assign(document, {key: value}))
            except ValidationError as error:
                raise ConfigError(f"{where}: search.space: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    """Put pydantic's first complaint into one line with the dotted key."""
    first = error.errors()[0]
    loc = [part for part in first["loc"] if isinstance(part, str)]
    dotted = ".".join(str(part) for part in first["loc"]) or "document"
    if first["type"] == "extra_forbidden":
        return f"{dotted}: unknown key{_suggest(loc)}"
    message = first["msg"].removeprefix("Value error, ")
    if not loc:
        return message
    return f"{dotted}: {message[0].lower()}{message[1:]}, found {_short(first['input'])}"


def _suggest(loc: Sequence[str]) -> str:
    """Name the nearest key of the section, or the section in which the key lives."""
    section: type[BaseModel] = Config
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
        for name, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        for leaf in field.annotation.model_fields
    }
    home = homes.get(loc[-1])
    return f'; did you mean "{home}"?' if home else f"; known: {', '.join(section.model_fields)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
