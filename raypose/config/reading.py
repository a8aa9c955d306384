"""Text to values: YAML in which no key stands twice, and a value is text where text is wanted.

YAML makes a number of 2024, a truth value of no, and cuts a path at `` #``. Here scalars stay text
until it is known what their key takes: only where that is no text are they read as what they look
like. The same holds for ``key=value`` on the command line.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from raypose.errors import ConfigError

__all__ = ["annotation_of", "is_text", "parse_value", "parse_yaml", "typed"]

MAX_VALUES = 1_000_000
MAX_DIGITS = 1000
"""Of a whole number; a longer one is read as text, or as a number that is not finite."""
NOTHING = ("", "~", "null", "none")
TRUTH = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
}
_INTEGER = re.compile(r"[-+]?\d[\d_]*")
_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?|[-+]?\.inf|\.nan", re.I)


class Plain(str):
    """A scalar written without quotes: its text, until it is known what is wanted."""


class _Loader(yaml.SafeLoader):
    """Reads scalars as text, and no key twice."""

    where = ""

    def plain(self, node: yaml.ScalarNode) -> str:
        """Return a scalar's text, marked where it has no quotes."""
        text = self.construct_scalar(node)
        return Plain(text) if node.style is None else str(text)

    def mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        """Return a mapping with text for keys."""
        first: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in first:
                raise ConfigError(
                    f"{self.where}: line {line}: {name} stands here again, first in line "
                    f"{first[name]}; keep one"
                )
            first[name] = line
        self.flatten_mapping(node)
        return {
            str(self.construct_object(key, deep=True)): self.construct_object(value, deep=True)
            for key, value in node.value
        }


_TAGS = ("null", "bool", "int", "float", "timestamp", "str")
for _tag in _TAGS:
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.plain)
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.mapping)


def parse_yaml(text: str, *, where: str) -> Any:
    """Return what a YAML text holds, scalars as text: see `typed`.

    Raises:
        ConfigError: naming the line where it is not YAML, or where a key stands again.
    """
    try:
        loader = _Loader(text)
        loader.where = where
        document = loader.get_single_data()
        if _size(document, {}) > MAX_VALUES:
            raise ConfigError(f"{where}: its aliases make over {MAX_VALUES} values of it")
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML ({' '.join(str(error).split())[:160]})") from None
    except RecursionError:
        raise ConfigError(f"{where}: not YAML (nested too deep)") from None
    return document


def parse_value(text: str, wanted: Any, *, where: str) -> Any:
    """Return the value of ``key=text`` for a key that takes `wanted`.

    A list may be written without brackets: ``5,10,20``. What is no YAML stays text.
    """
    if is_text(wanted):
        return typed(Plain(text), wanted)
    brackets = text.strip()[:1]
    if brackets in ("[", "{"):
        return typed(parse_yaml(text, where=where), wanted)
    alone = "," not in text and int in _alternatives(wanted)  # a number or two of them
    listed = _container(wanted, Sequence) is not None and not alone
    if listed and text.strip().lower() not in NOTHING:
        return typed([Plain(part.strip()) for part in text.split(",")], wanted)
    return typed(Plain(text), wanted)


def typed(value: Any, wanted: Any) -> Any:
    """Return a value of `parse_yaml` as an annotation wants it; pydantic checks it afterwards.

    Args:
        value: of text, lists and mappings.
        wanted: an annotation, such as that of a pydantic field; Any reads what it looks like, and
            str makes text of all that is in it.
    """
    if isinstance(value, Plain):
        if not is_text(wanted):
            return _scalar(value)
        empty = value.lower() in NOTHING and types.NoneType in _alternatives(wanted)
        return None if empty else str(value)
    rest = wanted if is_text(wanted) else Any
    if isinstance(value, Mapping):
        model = next((one for one in _alternatives(wanted) if _is_model(one)), None)
        inner = _container(wanted, Mapping)
        return {
            key: typed(item, _field(model, key) if model else inner[-1] if inner else rest)
            for key, item in value.items()
        }
    if isinstance(value, list):
        inner = _container(wanted, Sequence) or (rest,)
        kinds = [one for one in inner if one is not Ellipsis] or [Any]
        return [typed(item, kinds[min(k, len(kinds) - 1)]) for k, item in enumerate(value)]
    return value


def is_text(wanted: Any) -> bool:
    """Return whether an annotation takes text."""
    return any(
        one is str
        or (get_origin(one) is Literal and any(isinstance(word, str) for word in get_args(one)))
        for one in _alternatives(wanted)
    )


def annotation_of(model: type[BaseModel], dotted: str) -> Any:
    """Return what a dotted key takes; Any where there is no such key."""
    wanted: Any = model
    for part in dotted.split("."):
        owner = next((one for one in _alternatives(wanted) if _is_model(one)), None)
        inner = _container(wanted, Mapping)
        wanted = _field(owner, part) if owner else inner[-1] if inner else Any
    return wanted


def _size(value: Any, known: dict[int, int]) -> int:
    """Return how many values there are once aliases are written out, without writing them out."""
    if id(value) not in known and isinstance(value, (dict, list)):
        items = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(item, known) for item in items)
    return known.get(id(value), 1)


def _field(model: type[BaseModel] | None, name: str) -> Any:
    field = model.model_fields.get(name) if model else None
    return field.annotation if field else Any


def _is_model(wanted: Any) -> bool:
    return isinstance(wanted, type) and issubclass(wanted, BaseModel)


def _alternatives(wanted: Any) -> list[Any]:
    """Return what a union takes, each without its metadata."""
    if get_origin(wanted) is Annotated:
        return _alternatives(get_args(wanted)[0])
    if get_origin(wanted) in (Union, types.UnionType):
        return [inner for one in get_args(wanted) for inner in _alternatives(one)]
    return [wanted]


def _container(wanted: Any, kind: type) -> tuple[Any, ...] | None:
    """Return what a list, tuple or mapping among the alternatives holds."""
    for one in _alternatives(wanted):
        origin = get_origin(one) or one
        if isinstance(origin, type) and origin is not str and issubclass(origin, kind):
            return get_args(one) or (Any,)
    return None


def _scalar(text: str) -> Any:
    """Return what a scalar looks like: nothing, a truth value, a number, or text."""
    word = text.lower()
    if word in NOTHING:
        return None
    if word in TRUTH:
        return TRUTH[word]
    if _INTEGER.fullmatch(text) and len(text) <= MAX_DIGITS:
        return int(text.replace("_", ""))
    if _NUMBER.fullmatch(text):
        return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
    return str(text)
