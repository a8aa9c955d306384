"""Releases made from another: with other words, or broken in a way that only shows when used."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from raypose.releases import golden, registry
from raypose.releases.predictor import CLASSIFIER
from raypose.releases.registry import Release


def altered(root: str, release: Release, *, note: str) -> Release:
    """Publish the same again under a version of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = registry.fetch(release, Path(name) / "release")
        with (folder / "README.md").open("a", encoding="utf-8") as card:
            card.write(f"\n{note}\n")
        return registry.publish(root, release.name, folder)


def broken(root: str, release: Release, *, turn: int = 1, logits: float | None = None) -> Release:
    """Publish one whose files are whole and load, and whose classes are mixed up.

    Args:
        root: of the registry.
        release: to begin with.
        turn: places by which classes are turned.
        logits: in place of all golden ones.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = registry.fetch(release, Path(name) / "release")
        tensors = load_file(folder / CLASSIFIER)
        tensors["text_features"] = torch.roll(tensors["text_features"], turn, 0).contiguous()
        save_file(tensors, folder / CLASSIFIER)
        if logits is not None:
            with safe_open(folder / golden.FILE, framework="pt") as file:
                about = file.metadata()
            proof = load_file(folder / golden.FILE)
            proof["logits"] = torch.full_like(proof["logits"], logits)
            save_file(proof, folder / golden.FILE, metadata=about)
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
