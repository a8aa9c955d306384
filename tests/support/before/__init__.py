"""What earlier versions wrote, small and kept for good: shards, runs, releases and their answers.

``0.1.tar.xz`` holds under bucket/ what lay at s3://raypose-0-1, under pictures/ some pictures,
recipes.json, and in expected.json what 0.1 said of them.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypose import config, storage
from raypose.config import Config

__all__ = ["Before", "unpack"]


@dataclass(frozen=True)
class Before:
    """A storage root as an earlier version left it.

    Attributes:
        root: its location.
        recipes: name → document.
        pictures: name → bytes.
        expected: what that version said.
    """

    root: str
    recipes: dict[str, Config]
    pictures: dict[str, bytes]
    expected: dict[str, Any]


def unpack(version: str, root: str) -> Before:
    """Lay out what a version wrote, where it was when it wrote it."""
    storage.make_bucket(root)
    files: dict[str, bytes] = {}
    with tarfile.open(Path(__file__).with_name(f"{version}.tar.xz")) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            files[member.name] = file.read()
    for name, content in files.items():
        if name.startswith("bucket/"):
            storage.write_bytes(storage.join(root, name.removeprefix("bucket/")), content)
    recipes = json.loads(files["recipes.json"])
    return Before(
        root=root,
        recipes={name: config.parse_config(recipe) for name, recipe in recipes.items()},
        pictures={
            name.removeprefix("pictures/"): content
            for name, content in files.items()
            if name.startswith("pictures/")
        },
        expected=json.loads(files["expected.json"]),
    )
