"""Training state ↔ folders under a run: ``checkpoints/epoch-0003``, state.json written last.

A folder holds open_clip's two files, the optimiser's state (readable without unpickling anything
but tensors), and state.json. One without state.json was cut off and is passed over.
"""

from __future__ import annotations

import pickle
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from raypose import model, storage
from raypose.errors import CheckpointError

__all__ = ["State", "best", "latest", "prune", "restore", "save", "states", "url_of"]

FORMAT = 1
STATE = "state.json"
OPTIMIZER = "optimizer.pt"


@dataclass(frozen=True)
class State:
    """Where a run stood when a checkpoint was written.

    Attributes:
        epoch: epochs done.
        step: optimiser steps done.
        score: validation balanced accuracy of this checkpoint; none without validation.
        metrics: of the last epoch.
        num_workers: that trained it.
        format: version of the folder's layout.
    """

    epoch: int
    step: int
    score: float | None
    metrics: dict[str, Any]
    num_workers: int
    format: int = FORMAT


def url_of(run_url: str, epoch: int) -> str:
    """Return where the checkpoint after an epoch lies."""
    return storage.join(run_url, "checkpoints", f"epoch-{epoch:04d}")


def save(run_url: str, clip: model.Clip, optimizer: torch.optim.Optimizer, state: State) -> str:
    """Write a checkpoint, its state.json last, and return its location."""
    url = url_of(run_url, state.epoch)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save(clip, folder)
        torch.save(optimizer.state_dict(), folder / OPTIMIZER)
        storage.upload_folder(folder, url, last="")
    storage.write_json(storage.join(url, STATE), asdict(state))
    return url


def states(run_url: str) -> list[State]:
    """Return the states of a run's complete checkpoints, oldest first.

    Raises:
        CheckpointError: where one is of another format.
    """
    folder = storage.join(run_url, "checkpoints")
    found = []
    for name in storage.list_folders(folder):
        place = storage.join(folder, name, STATE)
        if not storage.exists(place):
            continue
        document = storage.read_json(place)
        if document.get("format") != FORMAT:
            raise CheckpointError(
                f"{place}: format {document.get('format')} where {FORMAT} is known; "
                "train under another name"
            )
        found.append(State(**document))
    return sorted(found, key=lambda state: state.epoch)


def latest(run_url: str) -> State | None:
    """Return the state of the last complete checkpoint."""
    found = states(run_url)
    return found[-1] if found else None


def restore(run_url: str, state: State) -> tuple[model.Clip, dict[str, Any]]:
    """Load a checkpoint: the model and the optimiser's state.

    Raises:
        CheckpointError: where a file of it does not load.
    """
    url = url_of(run_url, state.epoch)
    with tempfile.TemporaryDirectory() as name:
        folder = storage.download_folder(url, Path(name))
        clip = model.load(folder)
        try:
            optimizer = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:120]
            raise CheckpointError(f"{url}/{OPTIMIZER}: does not load ({reason})") from None
    return clip, optimizer


def best(found: list[State]) -> State:
    """Return the state with the best score, the latest among equals and where there is none."""
    return max(found, key=lambda state: (state.score or 0.0, state.epoch))


def prune(run_url: str) -> None:
    """Drop all checkpoints but the best and the last."""
    found = states(run_url)
    keep = {found[-1].epoch, best(found).epoch} if found else set()
    for state in found:
        if state.epoch not in keep:
            url = url_of(run_url, state.epoch)
            storage.delete_file(storage.join(url, STATE))  # first: half a folder is no checkpoint
            storage.delete_folder(url)
