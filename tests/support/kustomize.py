"""What Kustomize makes of a folder, as far as ours use it: resources, patches, generated files.

A key or an operation that is not known here is refused, so that nothing passes unread.
"""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

KEYS = {"apiVersion", "kind", "namespace", "resources", "patches", "configMapGenerator"}
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
    for given in document.get("configMapGenerator", []):
        made = config_map(given, folder)
        refer(objects, given["name"], made["metadata"]["name"])
        objects.append(made)
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


def config_map(given: dict[str, Any], folder: Path) -> Object:
    """Make a ConfigMap of files in a folder, with a name that tells of its content."""
    assert set(given) == {"name", "files", "options"}, given
    assert set(given["options"]) == {"labels"}, given["options"]
    data = {}
    for name in given["files"]:
        assert Path(name).name == name, f"{name}: Kustomize reads nothing outside a folder"
        data[name] = (folder / name).read_text()
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"{given['name']}-{suffix(data)}",
            "labels": dict(given["options"]["labels"]),
        },
        "data": data,
    }


def suffix(data: dict[str, Any]) -> str:
    """Hash what a ConfigMap holds as Kustomize does, in ten letters that spell no word."""
    document = {"data": data or "", "kind": "ConfigMap", "name": ""}
    text = json.dumps(document, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    for letter in "<>&\u2028\u2029":  # as Go writes JSON
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    found = hashlib.sha256(text.encode()).hexdigest()[:10]
    return found.translate(str.maketrans("013ae", "ghkmt"))


def refer(objects: list[Object], name: str, made: str) -> None:
    """Have volumes that name a generated ConfigMap name what was made."""
    used = False
    for each in objects:
        template = each.get("spec", {}).get("template", {}).get("spec", {})
        for volume in template.get("volumes", []):
            if volume.get("configMap", {}).get("name") == name:
                volume["configMap"]["name"], used = made, True
    assert used, f"{name}: no volume names it"


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
