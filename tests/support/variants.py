"""Releases made from another: with other words, or broken in a way that only shows when used."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from raypose.releases import registry
from raypose.releases.predictor import CLASSIFIER
from raypose.releases.registry import Release


def altered(root: str, release: Release, *, note: str) -> Release:
    """Publish the same again under a version of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = registry.fetch(release, Path(name) / "release")
        with (folder / "README.md").open("a", encoding="utf-8") as card:
            card.write(f"\n{note}\n")
        return registry.publish(root, release.name, folder)


def broken(root: str, release: Release, *, turn: int = 1) -> Release:
    """Publish one whose files are whole and load, and whose classes are mixed up."""
    with tempfile.TemporaryDirectory() as name:
        folder = registry.fetch(release, Path(name) / "release")
        tensors = load_file(folder / CLASSIFIER)
        tensors["text_features"] = torch.roll(tensors["text_features"], turn, 0).contiguous()
        save_file(tensors, folder / CLASSIFIER)
        return registry.publish(root, release.name, folder)


def without(root: str, release: Release, file: str) -> Release:
    """Publish one that lacks a file."""
    with tempfile.TemporaryDirectory() as name:
        folder = registry.fetch(release, Path(name) / "release")
        (folder / file).unlink()
        return registry.publish(root, release.name, folder)


@contextmanager
def promoted(root: str, reference: str, *, alias: str = "production") -> Iterator[None]:
    """Point an alias at a release within a block, and back at its end."""
    release = registry.promote(root, reference, alias=alias)
    try:
        yield
    finally:
        registry.rollback(root, release.name, alias=alias)
