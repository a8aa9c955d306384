"""What a worker's state leaves in a checkpoint, and how a run goes on from there.

Every rank takes part, since each may hold a part of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from raypose import checkpoint, lora, optim
from raypose.surroundings import together
from raypose.towers import assign, full, load_optimizer, optimizer_state
from raypose.trainer import Trainer

__all__ = ["Place", "place_of", "save", "take_up"]


@dataclass
class Place:
    """How far an epoch has come: steps taken, good pictures in them, their summed loss."""

    epoch: int = 0
    step: int = 0
    seen: int = 0
    loss: float = 0.0
    bad: dict[str, str] = field(default_factory=dict)


def save(
    trainer: Trainer, place: Place, score: float | None, values: dict[str, Any], *, run_url: str
) -> None:
    """Write a checkpoint."""
    surroundings, clip = trainer.surroundings, trainer.clip
    training: dict[str, Any] = {"initial_scale": trainer.initial_scale}
    if trainer.head is not None:
        training["head"] = trainer.head
    else:
        training["optimizer"] = optimizer_state(trainer.forward, trainer.optimizer)
    if trainer.lora is not None:  # peft adds to frozen weights and takes away: they drift
        training["weights"] = full(clip.model.state_dict())
    elif trainer.ema is not None:
        training["weights"] = full(optim.learned(clip.model))
    with trainer.averaged():
        if trainer.lora is not None:
            training["ema"] = full(optim.learned(clip.model))
            weights = full(lora.merged(trainer.lora).state_dict())
        else:
            weights = full(clip.model.state_dict())
    state = checkpoint.State(
        epoch=place.epoch,
        step=trainer.step,
        score=score,
        metrics=values,
        num_workers=surroundings.world_size,
        batch_size=trainer.local_batch_size * surroundings.world_size,
        epoch_step=place.step,
        seen=place.seen,
        loss=place.loss,
        bad=trainer.all_bad() if place.step else {},
    )

    def write() -> None:
        if surroundings.rank == 0:
            checkpoint.save(run_url, state, clip, weights, training)
            checkpoint.prune(run_url)

    together(surroundings, write)


def take_up(trainer: Trainer, saved: dict[str, Any]) -> None:
    """Go on from what a checkpoint holds beside the model."""
    if trainer.ema is not None and "ema" in saved:
        assign(trainer.ema.mean, saved["ema"])
    if "weights" in saved:
        tensors = trainer.clip.model.state_dict()
        assign({name: tensors[name] for name in saved["weights"]}, saved["weights"])
    if "optimizer" in saved:
        load_optimizer(trainer.forward, trainer.optimizer, saved["optimizer"])
    trainer.head = saved.get("head")


def place_of(trainer: Trainer, state: checkpoint.State) -> Place:
    """Return where a run stands, counted in steps of as many pictures as now; say what changed."""
    surroundings = trainer.surroundings
    now = trainer.local_batch_size * surroundings.world_size
    changed = state.num_workers != surroundings.world_size
    step = state.epoch_step
    if changed or now != state.batch_size:
        step = round(state.epoch_step * state.batch_size / now)
        if surroundings.rank == 0:
            text = _what_changed(trainer, state, batch_size=now)
            surroundings.progress({"kind": "note", "text": text})
    return Place(state.epoch, step, state.seen, state.loss, dict(state.bad))


def _what_changed(trainer: Trainer, state: checkpoint.State, *, batch_size: int) -> str:
    told = f"resumes on {trainer.surroundings.world_size} workers where it was {state.num_workers}"
    if batch_size != state.batch_size:
        return f"{told}: {batch_size} pictures a step where it was {state.batch_size}"
    if not trainer.config.data.preserve_order:
        part = "some of this epoch's pictures may come twice, and " if state.epoch_step else ""
        return (
            f"{told}: {part}pictures meet in other steps; "
            "data.preserve_order=true would keep them the same"
        )
    return f"{told}: the same pictures a step, sums rounded otherwise"
