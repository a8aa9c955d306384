"""What pydantic finds wrong, in one line with the dotted key and what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeGuard

from pydantic import BaseModel, ValidationError
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from raypose.console import one_line
from raypose.errors import did_you_mean

__all__ = ["SECRET", "explain"]

_ALTERNATIVE = re.compile(r"\[|^constrained-|^function-")
"""What pydantic puts between keys: the alternatives of a union."""

SECRET: JsonDict = {"writeOnly": True}
"""JSON Schema's word for what is given and never shown: of a field whose values stay unsaid."""

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


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """Put pydantic's first complaint into one line with the dotted key."""
    first = _aptest(error)
    unknown = first["type"] == "extra_forbidden"
    parts = list(map(str, first["loc"]))
    key = parts[-1:] if unknown else []  # of a stranger: it may look like anything
    places = [part for part in parts[: len(parts) - len(key)] if not _ALTERNATIVE.search(part)]
    loc = [part for part in places if not part.isdigit()]
    places, loc = list(map(one_line, places + key)), list(map(one_line, loc + key))
    dotted = ".".join(places) or "document"
    if unknown:
        return f"{dotted}: unknown key{_suggest(loc, root)}"
    _, field = _reached(loc, root)
    message = PLAINLY.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    if first["type"] == "string_pattern_mismatch" and field and field.examples:
        message = f"a value such as {field.examples[0]} is wanted"
    if not loc or first["loc"] == ("search", "space"):
        return f"{dotted}: {message}" if loc else message
    if not message[1:2].isupper():  # a sentence, and no key
        message = f"{message[0].lower()}{message[1:]}"
    message = f"{dotted}: {message}"
    secret = field is not None and field.json_schema_extra == SECRET
    return message if secret else f"{message}, found {_short(first['input'])}"


def _aptest(error: ValidationError) -> ErrorDetails:
    """Return the first complaint; of a list, the first by an alternative that takes lists."""
    found = error.errors()
    if isinstance(found[0]["input"], list | tuple):
        return next((one for one in found if "[" in str(one["loc"])), found[0])
    return found[0]


def _reached(loc: Sequence[str], root: type[BaseModel]) -> tuple[type[BaseModel], FieldInfo | None]:
    """Return the innermost section on the way to a place, and the last field on it."""
    section, field = root, None
    for part in loc:
        if part not in section.model_fields:
            break
        field = section.model_fields[part]
        if not _is_section(field.annotation):
            break
        section = field.annotation
    return section, field


def _is_section(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _suggest(loc: Sequence[str], root: type[BaseModel]) -> str:
    """Name the nearest key of the section, or the section in which the key lives."""
    section, _ = _reached(loc[:-1], root)
    near = did_you_mean(loc[-1], section.model_fields)
    if near:
        return near
    homes = {
        leaf: f"{name}.{leaf}"
        for name, field in root.model_fields.items()
        if _is_section(field.annotation)
        for leaf in field.annotation.model_fields
    }
    home = homes.get(loc[-1])
    return f'; did you mean "{home}"?' if home else f"; known: {', '.join(section.model_fields)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
