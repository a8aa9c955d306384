"""What `--help` prints: verbs by what they are about, and a verb's words, keys and examples."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from raypose.cli.verbs import ANY, Verb, key_rows
from raypose.config.settings import Config

__all__ = ["document", "group_help", "laid_out", "root_help", "verb_help"]

MAX_WIDTH, NAMES = 80, 30
FLAGS = (
    ("--json", "", "print the result for a machine: stdout holds JSON and nothing else"),
    ("--quiet", "", "print no progress and no advice"),
    ("--verbose", "", "show everything, tracebacks too"),
    ("--log-format=json", "", "print progress and errors as JSON, an object a line"),
)


def root_help(panels: Mapping[str, Sequence[Verb]]) -> str:
    """Return the help of the whole command: its verbs, by what they are about."""
    lines = ["raypose: recognise human postures with CLIP, at any scale", ""]
    lines += ["usage: raypose VERB [words] [key=value…]"]
    for panel, verbs in panels.items():
        lines += ["", panel]
        rows, groups = [], set()
        for verb in verbs:
            group, _, _ = verb.name.rpartition(" ")
            if group and group not in groups:
                groups.add(group)
                members = [
                    v.name.rpartition(" ")[2] for v in verbs if v.name.startswith(f"{group} ")
                ]
                rows.append((f"{group} …", "", ", ".join(members)))
            if not group:
                rows.append((" ".join([verb.name, *map(str, verb.words)]), "", verb.summary))
        lines += laid_out(rows)
    lines += ["", *laid_out(FLAGS)]
    lines += [
        "",
        "raypose VERB --help shows its keys and examples, raypose config every key of a recipe;",
        "raypose --install-completion makes TAB complete verbs, keys and releases",
    ]
    return "\n".join(lines)


def group_help(group: str, verbs: Sequence[Verb]) -> str:
    """Return the help of a group: its verbs."""
    rows = [
        (" ".join([verb.name, *map(str, verb.words)]), "", verb.summary)
        for verb in verbs
        if verb.name.startswith(f"{group} ")
    ]
    lines = [f"usage: raypose {group} VERB [words] [key=value…]", "", *laid_out(rows)]
    return "\n".join([*lines, "", f"raypose {group} VERB --help shows its keys and examples"])


def verb_help(verb: Verb) -> str:
    """Return the help of a verb: words, keys with defaults, sections of a recipe, examples."""
    lines = [f"usage: {verb.usage}", "", f"{verb.summary[0].upper()}{verb.summary[1:]}."]
    if verb.words:
        lines += ["", "words", *laid_out([(str(word), "", word.help) for word in verb.words])]
    own = list(key_rows(verb))
    if own:
        lines += ["", "keys", *laid_out(own)]
    if verb.sections:
        lines += ["", "keys of a recipe", *laid_out(_sections(verb))]
        lines += ["  raypose config prints every one of them, raypose config WORD some"]
    lines += ["", "options", *laid_out(FLAGS)]
    lines += ["", "examples", *(f"  {example}" for example in verb.examples)]
    return "\n".join(lines)


def document(verb: Verb) -> dict[str, Any]:
    """Return the help of a verb for a machine."""
    return {
        "verb": verb.name,
        "usage": verb.usage,
        "help": verb.summary,
        "keys": [dict(zip(("key", "default", "help"), row, strict=True)) for row in key_rows(verb)],
        "sections": list(Config.model_fields) if ANY in verb.sections else list(verb.sections),
        "examples": list(verb.examples),
    }


def laid_out(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """Lay out (name, default, text) in columns that fit the terminal, 80 wide at most."""
    width = min(MAX_WIDTH, shutil.get_terminal_size((MAX_WIDTH, 24)).columns)
    names = [f"{name}={default}" if default else name for name, default, _ in rows]
    column = min(NAMES, max(map(len, names), default=0))
    lines: list[str] = []
    for name, (_, _, text) in zip(names, rows, strict=True):
        wrapped = textwrap.wrap(text, max(20, width - column - 4)) or [""]
        if len(name) > column:
            lines += [f"  {name}"]
            name = ""
        lines.append(f"  {name:<{column}}  {wrapped[0]}".rstrip())
        lines += [f"  {'':<{column}}  {more}" for more in wrapped[1:]]
    return lines


def _sections(verb: Verb) -> list[tuple[str, str, str]]:
    names = list(Config.model_fields) if ANY in verb.sections else list(verb.sections)
    rows = []
    for name in names:
        field = Config.model_fields[name]
        inner = field.annotation
        if isinstance(inner, type) and hasattr(inner, "model_fields"):
            doc = " ".join((inner.__doc__ or "").split())
            rows.append((f"{name}.…", "", doc))
        else:
            rows.append((f"{name}=…", "", " ".join((field.description or "").split())))
    return rows
