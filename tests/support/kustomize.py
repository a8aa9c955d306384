"""What Kustomize makes of a folder, as far as ours use it: resources, a namespace, JSON patches.

A key or an operation that is not known here is refused, so that nothing passes unread.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

KEYS = {"apiVersion", "kind", "namespace", "resources", "patches"}
WITHOUT_NAMESPACE = {"Namespace", "NodePool", "StorageClass"}


def build(folder: Path) -> list[Object]:
    """Return the objects that `kubectl apply -k FOLDER` would send."""
    document = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(document) <= KEYS, f"{folder}: {set(document) - KEYS}"
    objects: list[Object] = []
    for name in document["resources"]:
        path = folder / name
        assert path.exists(), f"{folder}: {name} is not there"
        objects += build(path) if path.is_dir() else documents(path)
    if "namespace" in document:
        for each in objects:
            if each["kind"] not in WITHOUT_NAMESPACE:
                each["metadata"]["namespace"] = document["namespace"]
    for patch in document.get("patches", []):
        assert set(patch) == {"path", "target"}, patch
        operations = yaml.safe_load((folder / patch["path"]).read_text())
        (found,) = [each for each in objects if matches(each, patch["target"])]
        for operation in operations:
            apply(found, operation)
    return objects


def documents(path: Path) -> list[Object]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def matches(found: Object, target: dict[str, str]) -> bool:
    assert set(target) == {"kind", "name"}, target
    return found["kind"] == target["kind"] and found["metadata"]["name"] == target["name"]


def apply(found: Object, operation: dict[str, Any]) -> None:
    """Apply `add` or `replace` of RFC 6902 in place."""
    assert set(operation) == {"op", "path", "value"}, operation
    *above, last = [
        part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
    ]
    inner: Any = found
    for part in above:
        inner = inner[int(part)] if isinstance(inner, list) else inner[part]
    value = copy.deepcopy(operation["value"])
    if operation["op"] == "add" and isinstance(inner, list):
        inner.insert(len(inner) if last == "-" else int(last), value)
        return
    assert operation["op"] in {"add", "replace"}, operation
    key = int(last) if isinstance(inner, list) else last
    if operation["op"] == "replace":
        inner[key]  # there must be something to replace
    inner[key] = value
