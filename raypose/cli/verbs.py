"""A verb and what was asked of it: words in place, key=value pairs, flags; and how it answers.

Each verb has a model of its own keys, and may take keys of a recipe's sections beside them. A value
is read as its key wants it: see `raypose.config.reading`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from raypose.config.section import Section
from raypose.config.settings import Config
from raypose.console import JOB, answer, one_line, status
from raypose.errors import UsageError, did_you_mean

__all__ = [
    "ANY",
    "Call",
    "Keys",
    "Verb",
    "Word",
    "arrange",
    "key_rows",
    "known_keys",
    "section_rows",
]

ANY = "a recipe"
"""In place of sections: every key of a recipe."""
_PAIR = re.compile(r"[A-Za-z_][\w.-]*=")


class Keys(Section):
    """Base of a verb's own keys."""


@dataclass(frozen=True)
class Call:
    """What was asked of a verb.

    Attributes:
        words: in place.
        keys: the verb's own.
        overrides: of a recipe: dotted key → value.
        json: answer for a machine.
        verbose: show everything.
        command: as it was given, for saying how to go on.
    """

    words: Sequence[str]
    keys: Any
    overrides: dict[str, Any]
    json: bool = False
    verbose: bool = False
    command: str = ""

    def config(self, location: str | None = None) -> Config:
        """Return the recipe at a location, or the defaults, with the pairs on it.

        Where neither names a storage root, it is RAYPOSE_STORAGE, or the raypose-data that is found
        from here upwards.
        """
        from raypose import config, storage

        if location is None:
            made = config.override(Config(), self.overrides)
        else:
            made = config.load(location, self.overrides)
        stated = "storage" in (self.overrides if location is None else made.model_fields_set)
        if not stated:
            made = config.override(made, {"storage": storage.default_root()})
        from raypose.captions import taxonomy

        return taxonomy.embedded(config.absolute(made))

    def show(self, document: Any, shown: Any) -> None:
        """Print the result: for a machine where asked, else for a person.

        Args:
            document: for a machine.
            shown: for a person: a text, or a table of rich.
        """
        if self.json:
            from raypose import storage

            answer(json.dumps(storage.finite(document), ensure_ascii=False))
        elif isinstance(shown, str):
            # names in it may come from strangers
            answer("\n".join(map(one_line, shown.split("\n"))))
        else:
            from rich.console import Console

            Console(soft_wrap=True).print(shown)

    def at(self, config: Config) -> str:
        """Return the pair that names a storage root; empty for the default one."""
        from raypose import storage

        same = config.storage == storage.default_root()
        return "" if same else f" storage={shlex.quote(config.storage)}"

    def next(self, *commands: str) -> None:
        """Say what comes next; not within a job, where files have other names."""
        if JOB in os.environ:
            return
        for number, command in enumerate(commands):
            status(f"{'next:' if number == 0 else '     '} {command}")


@dataclass(frozen=True)
class Word:
    """A word that is to be given in place: its name in usages, and what it is."""

    name: str
    help: str
    many: bool = False
    least: int = 1

    def __str__(self) -> str:
        name = f"{self.name}…" if self.many else self.name
        return name if self.least else f"[{name}]"


@dataclass(frozen=True)
class Verb:
    """What a command takes, what it is for, and what it does.

    Attributes:
        name: as it is called, "shards build".
        words: to be given in place.
        summary: what it is for.
        run: does it.
        examples: lines to copy.
        keys: its own.
        sections: of a recipe that it takes too, or `ANY`.
        as_job: whether a cluster can carry it out.
    """

    name: str
    words: tuple[Word, ...]
    summary: str
    run: Callable[[Call], None]
    examples: tuple[str, ...]
    keys: type[Keys] = Keys
    sections: tuple[str, ...] = ()
    as_job: bool = False

    @property
    def usage(self) -> str:
        """The command, its words, and whether it takes pairs."""
        pairs = ["[key=value…]"] if self.keys.model_fields or self.sections else []
        return " ".join(["raypose", self.name, *map(str, self.words), *pairs])


def arrange(verb: Verb, words: Sequence[str], **flags: bool) -> Call:
    """Tell a verb's words from its pairs, and read the pairs.

    Raises:
        UsageError: for a word that is missing or too much, or an option that there is not.
        ConfigError: for a key that there is not, or a value that it does not take.
    """
    placed: list[str] = []
    own: list[str] = []
    rest: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        key = word.partition("=")[0]
        if word.startswith("-") and word != "-" and not os.path.exists(word):
            own.append(_flag(verb, word, left))
        elif not _PAIR.match(word) or (os.path.exists(word) and _wants_more(verb, placed)):
            placed.append(word)
        elif key in verb.keys.model_fields:
            own.append(word)
        else:
            rest.append(word)
    _check_words(verb, placed)
    for word in rest:
        _check_key(verb, word.partition("=")[0])
    from raypose.config import parse_assignments

    command = shlex.join(["raypose", *verb.name.split(), *words])
    return Call(placed, _own_keys(verb, own), parse_assignments(rest), command=command, **flags)


def key_rows(verb: Verb) -> Iterator[tuple[str, str, str]]:
    """Yield of each own key its name, its default and what it does."""
    yield from _rows(verb.keys)


def section_rows(
    model: type[BaseModel] = Config, above: str = ""
) -> Iterator[tuple[str, str, str]]:
    """Yield of each key of a recipe its dotted name, its default and what it does."""
    for name, default, text in _rows(model):
        inner = model.model_fields[name].annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from section_rows(inner, f"{above}{name}.")
        else:
            yield f"{above}{name}", default, text


def _rows(model: type[BaseModel]) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield name, "", ""
            continue
        shown = default if isinstance(default, str) else json.dumps(_plain(default))
        text = " ".join((field.description or "").split())
        limits = _limits(field)
        yield name, shown or '""', f"{text} {limits}".strip()


def _limits(field: Any) -> str:
    """Return the range or the choices of a key."""
    found = field.annotation
    if get_origin(found) is Literal:
        return f"[{' | '.join(map(str, get_args(found)))}]"
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    parts = [
        f"{signs[name]} {getattr(rule, name):g}"
        for rule in field.metadata
        for name in signs
        if getattr(rule, name, None) is not None
    ]
    return f"[{', '.join(parts)}]" if parts else ""


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _wants_more(verb: Verb, placed: Sequence[str]) -> bool:
    return len(placed) < len(verb.words) or any(word.many for word in verb.words)


def _check_words(verb: Verb, placed: Sequence[str]) -> None:
    if len(placed) < sum(word.least for word in verb.words):
        missing = verb.words[len(placed)]
        raise UsageError(
            f"{verb.name}: {missing.name} is missing, {missing.help}; usage: {verb.usage}"
        )
    if not any(word.many for word in verb.words) and len(placed) > len(verb.words):
        over = placed[len(verb.words)]
        raise UsageError(f"{verb.name}: {over!r} is too much, or lacks key=; usage: {verb.usage}")


def known_keys(verb: Verb) -> list[str]:
    """Return the dotted keys that a verb takes."""
    keys = [name for name, _, _ in section_rows()]
    taken = [
        key
        for key in keys
        if ANY in verb.sections or key in verb.sections or key.partition(".")[0] in verb.sections
    ]
    return [*verb.keys.model_fields, *taken]


def _check_key(verb: Verb, key: str) -> None:
    """Refuse a key that a verb does not take; those of a recipe are checked with it."""
    if ANY in verb.sections:
        return
    known = known_keys(verb)
    if not known:
        raise UsageError(f"{verb.name}: {key}=: this takes no keys; usage: {verb.usage}")
    if key not in known:
        near = did_you_mean(key, known) or _elsewhere(key, known)
        listed = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
        raise UsageError(f"{verb.name}: {key}: unknown key{near}; known: {listed}")


def _elsewhere(key: str, known: Sequence[str]) -> str:
    """Name the dotted key that ends in what was given."""
    home = next((name for name in known if name.rpartition(".")[2] == key), "")
    return f'; did you mean "{home}"?' if home else ""


def _flag(verb: Verb, word: str, following: list[str]) -> str:
    """Take ``--keep`` for ``keep=true`` and ``--then train`` for ``then=train``.

    Any other option is answered with what to write instead.

    Args:
        verb: whose keys are known.
        word: the option.
        following: the words after it; the one that is its value is taken away.
    """
    name, equals, value = word.lstrip("-").partition("=")
    name = name.replace("-", "_")
    field = verb.keys.model_fields.get(name)
    if field is not None and field.annotation is bool and not equals:
        return f"{name}=true"
    if not equals and following and not following[0].startswith("-"):
        value = following[0]
    if field is not None and value:
        del following[: 0 if equals else 1]
        return f"{name}={value}"
    known = known_keys(verb)
    home = next((key for key in known if key == name or key.rpartition(".")[2] == name), "")
    near = did_you_mean(name, known)
    advice = f"; write {home}={value or '…'}" if home else near or "; options are written key=value"
    raise UsageError(f"{verb.name}: {word}: no such option{advice}; usage: {verb.usage}")


def _own_keys(verb: Verb, pairs: Sequence[str]) -> Keys:
    from raypose.config import explain, parse_assignments

    values = parse_assignments(pairs, verb.keys)
    try:
        return verb.keys.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{verb.name}: {explain(error, verb.keys)}") from None
