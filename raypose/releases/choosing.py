"""Which backend a release is served by here: of those it admits, the fastest that proves itself."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from raypose.console import status
from raypose.errors import RayposeError
from raypose.releases import documents, golden
from raypose.releases.backends import REFERENCE, lacking

__all__ = ["admitted", "fastest"]

ROUNDS = 5
Proven = TypeVar("Proven", bound=golden.Classifies)


def admitted(folder: Path) -> list[str]:
    """Return the backends that a release was published with and this machine has, torch first.

    Raises:
        RegistryError: where the document that says so is damaged.
    """
    if not (folder / documents.BACKENDS).exists():  # published before there were any
        return [REFERENCE]
    url = str(folder / documents.BACKENDS)
    found = documents.read(documents.Backends, url, mend="publish it again").admitted
    return [REFERENCE, *(name for name in found if name != REFERENCE and _is_here(name))]


def fastest(
    build: Callable[[str], Proven], names: Sequence[str], folder: Path, *, side: int
) -> Proven:
    """Return a predictor by the fastest of some backends, by a short measurement.

    What cannot be made here, or whose golden logits do not hold, is told and left out.

    Args:
        build: name of a backend → the release's predictor by it.
        names: torch first, which needs no proof against itself.
        folder: of the release.
        side: pixels that the model takes.
    """
    rivals = {REFERENCE: build(REFERENCE)}
    for name in names:
        if name == REFERENCE:
            continue
        try:
            rival = build(name)
            if golden.prove(rival, folder):
                rivals[name] = rival
        except RayposeError as error:
            status(f"backend {name} is left out: {error}")
    if len(rivals) == 1:
        return rivals[REFERENCE]
    medians = _timed(rivals, side)
    best = min(medians, key=lambda name: medians[name])
    told = ", ".join(f"{name} {seconds * 1000:.1f} ms" for name, seconds in medians.items())
    status(f"backend {best}: the fastest here of {told} a picture")
    return rivals[best]


def _is_here(name: str) -> bool:
    try:
        return not lacking(name)
    except ValueError:  # a later version's
        return False


def _timed(rivals: Mapping[str, golden.Classifies], side: int) -> dict[str, float]:
    """Return the median seconds of a picture by each; they take turns, as others' work varies."""
    picture = np.zeros((1, 3, side, side), dtype=np.uint8)
    spent: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(ROUNDS + 1):
        for name, rival in rivals.items():
            began = time.perf_counter()
            rival.logits(picture)
            if number:  # the first warms up
                spent[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in spent.items()}
