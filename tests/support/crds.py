"""Objects held against the schema of their CustomResourceDefinition, unknown fields refused.

Kubernetes drops what a CRD does not know without a word; a misspelt field is lost. Here it is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # these are a million characters each


def load(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return API version and kind → schema, of what one file defines."""
    defined = yaml.load(path.read_text(), Loader=LOADER)["spec"]
    return {
        (f"{defined['group']}/{version['name']}", defined["names"]["kind"]): version["schema"][
            "openAPIV3Schema"
        ]
        for version in defined["versions"]
    }


def complaints(schema: dict[str, Any], value: Any) -> list[str]:
    """Return all that is wrong, with where it is."""
    wrong = [
        f"{error.json_path}: {error.message}"
        for error in Draft202012Validator(schema).iter_errors(value)
    ]
    return [*wrong, *unknown(schema, value)]


def unknown(schema: dict[str, Any], value: Any, at: str = "$") -> Iterator[str]:
    """Yield the fields that a schema has no word for."""
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from unknown(schema.get("items", {}), each, f"{at}[{number}]")
    if not isinstance(value, dict) or (schema.get("type") == "object" and at == "$.metadata"):
        return  # metadata is Kubernetes' own
    known, others = schema.get("properties", {}), schema.get("additionalProperties")
    for key, each in value.items():
        if key in known:
            yield from unknown(known[key], each, f"{at}.{key}")
        elif isinstance(others, dict):
            yield from unknown(others, each, f"{at}.{key}")
        elif not (others or schema.get("x-kubernetes-preserve-unknown-fields")):
            yield f"{at}.{key}: unknown field"
