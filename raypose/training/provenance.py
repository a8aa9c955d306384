"""Where a model comes from: hashes of its recipe, captions, classes, data and of this code."""

from __future__ import annotations

import hashlib
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import raypose
from raypose import captions, storage
from raypose.captions import taxonomy
from raypose.captions.grammar import grammar_hash
from raypose.clip import hub
from raypose.config import Config, document_hash, dump
from raypose.console import owner
from raypose.data.shards import manifest_hash

__all__ = ["changed", "code_hash", "gather"]

PACKAGES = ("open_clip_torch", "ray", "torch")


def gather(config: Config) -> dict[str, Any]:
    """Return what a run is made of.

    Returns:
        run_id; owner, for whom it was begun, and when it began, in seconds since 1970;
        config, taxonomy and code as SHA-256; captions as the grammar's hash; data, for each split
        its location and the SHA-256 of its manifest, which holds those of its shards;
        weights, where they were kept: backbone, repository, revision and sha256;
        version of raypose, and those of the packages that compute.
    """
    classes, grammar = taxonomy.load(config.data.taxonomy), captions.load(config.captions)
    urls = {split: getattr(config.data, split) for split in ("train", "val", "test", "synthetic")}
    return {
        "run_id": config.run_id,
        "owner": owner(),
        "began": time.time(),
        "config": document_hash(dump(config)),
        "taxonomy": document_hash(classes.to_dict()),
        "captions": grammar_hash(grammar),
        "data": {
            split: {"url": url, "manifest": manifest_hash(url)}
            for split, url in urls.items()
            if url
        },
        **_weights(config),
        "version": raypose.__version__,
        "code": code_hash(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def _weights(config: Config) -> dict[str, Any]:
    place = config.model.kept
    return {"weights": storage.read_json(storage.join(place, hub.ORIGIN))} if place else {}


def changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Name what a run goes on with that it did not begin with."""
    found = [name for name in ("taxonomy", "captions", "code") if before.get(name) != now[name]]
    data = before.get("data", {})
    found += [f"data.{split}" for split, source in now["data"].items() if data.get(split) != source]
    return found


def code_hash() -> str:
    """Return the SHA-256 of this package's source files."""
    summed = hashlib.sha256()
    folder = Path(raypose.__file__).parent
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".py", ".yaml"):
            summed.update(str(path.relative_to(folder)).encode())
            summed.update(path.read_bytes())
    return summed.hexdigest()
