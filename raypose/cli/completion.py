"""What TAB completes: keys of a verb, their values, and the names of releases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

from raypose.cli.verbs import Verb, known_keys
from raypose.config.settings import Config

__all__ = ["complete"]

RELEASES = ("RELEASE", "NAME", "A", "B")
TAXONOMIES = ("TAXONOMY",)
GRAMMARS = ("GRAMMAR",)


def complete(verb: Verb, given: Sequence[str], incomplete: str) -> list[str]:
    """Return what may stand where something incomplete does; files are the shell's to complete.

    Args:
        verb: what is called.
        given: the words before.
        incomplete: what has been typed of this one.
    """
    key, equals, value = incomplete.partition("=")
    if equals:
        return [f"{key}={word}" for word in _values(verb, key) if word.startswith(value)]
    placed = sum("=" not in word and not word.startswith("-") for word in given)
    names = list(_names(verb, placed, given)) if placed < len(verb.words) else []
    keys = [f"{name}=" for name in known_keys(verb)]
    return [word for word in [*names, *keys] if word.startswith(incomplete)]


def _names(verb: Verb, placed: int, given: Sequence[str]) -> Iterator[str]:
    """Yield the names that may stand in place of a verb's next word."""
    word = verb.words[placed].name
    if word in RELEASES:
        yield from _releases(given)
    elif word in TAXONOMIES:
        from raypose.captions import taxonomy

        yield from taxonomy.shipped()
    elif word in GRAMMARS:
        from raypose.captions import PRESETS

        yield from PRESETS


def _releases(given: Sequence[str]) -> list[str]:
    from raypose import storage
    from raypose.errors import RayposeError
    from raypose.releases import registry

    named = [word.partition("=")[2] for word in given if word.startswith("storage=")]
    try:
        return registry.names(named[0] if named else storage.default_root())
    except RayposeError:
        return []


def _values(verb: Verb, key: str) -> list[str]:
    """Return the words that a key may take, where they can be listed."""
    from raypose.config.reading import annotation_of

    own = key in verb.keys.model_fields
    wanted: Any = annotation_of(verb.keys if own else Config, key)
    if wanted is bool:
        return ["true", "false"]
    if get_origin(wanted) is Literal:
        return [str(word) for word in get_args(wanted)]
    if key in ("data.taxonomy", "taxonomy"):
        from raypose.captions import taxonomy

        return taxonomy.shipped()
    if key == "captions.preset":
        from raypose.captions import PRESETS

        return list(PRESETS)
    return []
