"""The grammars that are shipped, and where a grammar comes from: a preset, a file, its own text."""

from __future__ import annotations

import json
from pathlib import Path

from raypose.captions.grammar import from_json, from_templates, parse
from raypose.captions.nodes import Node
from raypose.config import CaptionConfig
from raypose.errors import CaptionError, did_you_mean

__all__ = ["PRESETS", "load", "read"]

PRESETS = {
    "name": "<name>",
    "photo": "a photo of a person in <name>",
    "words": "a {photo|picture|snapshot} of {a person|someone|somebody} "
    "{in|doing|practising|holding} [the ]<name>",
    "ensemble": "{ensemble: a photo of a person in <name>|a picture of someone doing <name>"
    "|<name>, a body posture}",
    "sanskrit": "a photo of a person in <name>[fixed:, <sanskrit>]",
    "tree": "a photo of a person in (<name>;<parent>)",
    "posture": "a photo of a person in <name>"
    "[fixed:: torso <torso>][fixed:, legs <legs>][fixed:, arms <arms>]",
    "searched": "{search:a photo of a person in |a picture of someone doing |}<name>"
    "[search:, <sanskrit>][search:{search:, <parent>|, <orientation>, weight on <support>"
    "|: torso <torso>, legs <legs>, arms <arms>}]",
}


def load(config: CaptionConfig) -> Node:
    """Return the grammar that a recipe names or spells out."""
    if config.grammar is not None:
        return parse(config.grammar)
    if config.preset not in PRESETS:
        raise CaptionError(
            f"captions.preset: no preset {config.preset!r}{did_you_mean(config.preset, PRESETS)}"
            f"; shipped are {', '.join(PRESETS)}"
        )
    return parse(PRESETS[config.preset])


def read(source: str) -> Node:
    """Return a grammar by preset, by file (.json: stored form; .txt: templates), or by its text."""
    if source in PRESETS:
        return parse(PRESETS[source])
    if not source.endswith((".json", ".txt")):
        return parse(source)
    try:
        text = Path(source).read_text(encoding="utf-8")
        if source.endswith(".json"):
            return from_json(json.loads(text))
        return from_templates(line for line in text.splitlines() if line.strip())
    except OSError as error:
        raise CaptionError(f"{source}: {(error.strerror or 'not readable').lower()}") from None
    except ValueError as error:
        raise CaptionError(f"{source}: not JSON ({error})") from None
    except RecursionError:
        raise CaptionError(f"{source}: nested too deep") from None
