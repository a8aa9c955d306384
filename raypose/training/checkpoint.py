"""Training state ↔ folders under a run: ``checkpoints/step-0000042``, state.json written last.

A folder holds open_clip's two files, what is needed to go on (readable without unpickling anything
but tensors), and state.json. One without state.json was cut off and is passed over.
"""

from __future__ import annotations

import math
import pickle
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from raypose import storage
from raypose.clip import model
from raypose.config import parse_stored
from raypose.errors import CheckpointError, NotFoundError

__all__ = [
    "Checkpoint",
    "best",
    "complete",
    "forget",
    "latest",
    "prune",
    "restore",
    "save",
    "url_of",
]

FORMAT = 2
STATE = "state.json"
TRAINING = "training.pt"


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stood when a checkpoint was written.

    Attributes:
        epoch: epochs done.
        step: optimiser steps done.
        score: validation balanced accuracy of this checkpoint; none without validation, and
            within an epoch.
        metrics: of the last epoch.
        num_workers: that trained it.
        batch_size: pictures of a step over all workers.
        epoch_step: steps done of the epoch that had begun.
        seen: good pictures of those steps.
        loss: their summed loss.
        norm: summed norms of their gradients, where finite.
        num_norms: of how many of them.
        skipped: those that fp16 could not hold.
        bad: id → error of the bad pictures among them.
        resumable: whether a run can go on from here.
        costs: of those steps; see `costs.COSTS`.
        format: version of the folder's layout.
    """

    epoch: int
    step: int
    score: float | None
    metrics: dict[str, Any]
    num_workers: int
    batch_size: int
    epoch_step: int = 0
    seen: int = 0
    loss: float = 0.0
    norm: float = 0.0
    num_norms: int = 0
    skipped: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    resumable: bool = True
    costs: dict[str, float] = field(default_factory=dict)
    format: int = FORMAT


def url_of(run_url: str, step: int) -> str:
    """Return where the checkpoint after a step lies."""
    return storage.join(run_url, "checkpoints", f"step-{step:07d}")


def save(
    run_url: str,
    state: Checkpoint,
    clip: model.Clip,
    weights: Mapping[str, torch.Tensor],
    training: Mapping[str, Any],
    *,
    again: bool = False,
) -> str:
    """Write a checkpoint, its state.json last, and return its location.

    Args:
        run_url: of the run.
        state: where it stands.
        clip: the model, for its configuration.
        weights: by their stock names, as they are scored and released.
        training: what else is needed, of tensors and plain values.
        again: the same run has written this step before, so that what is there holds meanwhile.
    """
    url = url_of(run_url, state.step)
    if not again:
        storage.delete_file(storage.join(url, STATE))  # of a run of before, that was cut off here
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save(clip, folder, weights)
        torch.save(dict(training), folder / TRAINING)
        storage.upload_folder(folder, url, last="")
    storage.write_json(storage.join(url, STATE), asdict(state))
    return url


def complete(run_url: str) -> list[Checkpoint]:
    """Return a run's complete checkpoints, oldest first.

    Raises:
        CheckpointError: where one is of another format.
    """
    folder = storage.join(run_url, "checkpoints")
    found = []
    for name in storage.list_folders(folder):
        url = storage.join(folder, name, STATE)
        what, mend = "the state of a checkpoint", "train under another name"
        how: dict[str, Any] = {"what": what, "mend": mend, "error": CheckpointError}
        try:
            content = storage.read_bytes(url)
        except NotFoundError:  # cut off, or pruned since it was listed
            continue
        written = parse_stored(dict[str, Any], content, url, **how).get("format")
        if written != FORMAT:
            raise CheckpointError(f"{url}: format {written} where {FORMAT} is known; {mend}")
        found.append(parse_stored(Checkpoint, content, url, **how))
    return sorted(found, key=lambda state: state.step)


def latest(run_url: str) -> Checkpoint | None:
    """Return the last complete checkpoint that a run can go on from."""
    found = [state for state in complete(run_url) if state.resumable]
    return found[-1] if found else None


def restore(run_url: str, state: Checkpoint) -> tuple[model.Clip, dict[str, Any]]:
    """Load a checkpoint: the model, and what was saved as `training`.

    Raises:
        CheckpointError: where a file of it does not load.
    """
    url = url_of(run_url, state.step)
    with tempfile.TemporaryDirectory() as name:
        folder = storage.download_folder(url, Path(name))
        clip = model.load(folder)
        if not (folder / TRAINING).is_file():
            raise CheckpointError(f"{url}: the run has ended, and cannot be gone on with from here")
        try:
            training = torch.load(folder / TRAINING, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:120]
            raise CheckpointError(f"{url}/{TRAINING}: does not load ({reason})") from None
    return clip, training


def best(found: list[Checkpoint]) -> Checkpoint:
    """Return the one with the best score, the latest among equals and where there is none."""

    def key(state: Checkpoint) -> tuple[float, int]:
        known = state.score is not None and math.isfinite(state.score)
        return (state.score or 0.0) if known else -1.0, state.step

    return max(found, key=key)


def forget(run_url: str) -> None:
    """Drop what is only there to go on training: of a run that has ended, most of its size."""
    folder = storage.join(run_url, "checkpoints")
    for name in storage.list_folders(folder):
        storage.delete_file(storage.join(folder, name, TRAINING))


def prune(run_url: str) -> None:
    """Drop all checkpoints but the best, the last, and the last to go on from; and cut-off ones."""
    found = complete(run_url)
    kept = {found[-1].step, best(found).step} if found else set()
    kept |= {state.step for state in [s for s in found if s.resumable][-1:]}
    keep = {url_of(run_url, step) for step in kept}
    folder = storage.join(run_url, "checkpoints")
    for name in storage.list_folders(folder):
        url = storage.join(folder, name)
        if found and url not in keep:
            storage.delete_file(storage.join(url, STATE))  # first: half a folder is no checkpoint
            storage.delete_folder(url)
