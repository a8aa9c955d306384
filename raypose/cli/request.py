"""A command and what was asked of it: words in place, key=value pairs, flags; and how to answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from raypose.errors import UsageError, did_you_mean

__all__ = ["PAIRS", "Command", "Request", "options_of", "parse", "recipe", "show"]


PAIRS = "[key=value…]"
"""Stands in a usage for what overrides settings."""


@dataclass(frozen=True)
class Request:
    """A parsed command line: words in place, key=value pairs, flags, a command's own options."""

    words: list[str]
    assignments: list[str]
    flags: frozenset[str]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def json(self) -> bool:
        """Results are for a machine."""
        return "--json" in self.flags

    @property
    def verbose(self) -> bool:
        """Show everything."""
        return "--verbose" in self.flags


@dataclass(frozen=True)
class Command:
    """A verb: what it takes, what it is for, and what it does."""

    usage: str
    summary: str
    run: Callable[[Request], None]
    flags: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    """Keys of its own beside those of a recipe, with their defaults."""

    @property
    def words(self) -> list[str]:
        """Names of the words that must be given, in order."""
        return [word for word in self.usage.split() if word.isupper()]


def parse(name: str, command: Command, rest: list[str], flags: frozenset[str]) -> Request:
    """Tell words in place from key=value pairs."""
    usage = f"usage: raypose {name} {command.usage}"
    pairs = [word for word in rest if re.match(r"[A-Za-z_][\w.-]*=", word)]
    words = [word for word in rest if word not in pairs]
    wanted = [word.removesuffix("…") for word in command.words]
    if len(words) < len(wanted):
        raise UsageError(f"{name}: {wanted[len(words)]} is missing; {usage}")
    if len(words) > len(wanted) and "…" not in "".join(command.words):
        raise UsageError(f"{name}: {words[len(wanted)]!r} is too much, or lacks key=; {usage}")
    return _parted(Request(words, pairs, flags), command.options)


def recipe(request: Request, location: str | None) -> Any:
    """Return the recipe at a location, or the defaults, with the pairs on it."""
    from raypose import config

    overrides = config.parse_assignments(request.assignments)
    if location is None:
        return config.absolute(config.override(config.Config(), overrides))
    return config.absolute(config.load(location, overrides))


def options_of(request: Request, **defaults: Any) -> dict[str, Any]:
    """Read the key=value pairs of a command that has no recipe; types are the defaults'."""
    from raypose.config import parse_assignments

    options = dict(defaults)
    for key, value in parse_assignments(request.assignments).items():
        if key not in defaults:
            known = ", ".join(defaults) or "none"
            raise UsageError(f"{key}: unknown key{did_you_mean(key, defaults)}; known: {known}")
        kind = type(defaults[key]) if defaults[key] is not None else int
        fits = isinstance(value, (int, float) if kind is float else kind)
        if not fits or (kind is not bool and isinstance(value, bool)):
            raise UsageError(f"{key}: expected {kind.__name__}, found {value!r}")
        options[key] = value
    return options


def _parted(request: Request, defaults: dict[str, Any]) -> Request:
    """Take a command's own options from among the keys of its recipe; a list may be one value."""
    own = [word for word in request.assignments if word.partition("=")[0] in defaults]
    rest = [word for word in request.assignments if word not in own]
    own = [
        f"{key}=[{value}]" if isinstance(defaults[key], list) and value[:1] != "[" else word
        for word in own
        for key, _, value in [word.partition("=")]
    ]
    options = options_of(Request(request.words, own, request.flags), **defaults)
    return Request(request.words, rest, request.flags, options)


def show(request: Request, document: dict[str, Any], shown: Any) -> None:
    """Print a result: for a machine where asked, else for a person.

    Args:
        request: which of the two.
        document: for a machine.
        shown: for a person: a text, or a table of rich.
    """
    if request.json:
        print(json.dumps(document, ensure_ascii=False))
    elif isinstance(shown, str):
        print(shown)
    else:
        from rich.console import Console

        Console(soft_wrap=True).print(shown)
