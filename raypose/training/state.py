"""A worker's state: what a checkpoint holds of it, and how it is restored from one.

Every rank takes part, since each may hold a part of the weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from raypose.clip import lora
from raypose.clip.towers import are_finite, assign, load_optimizer, optimizer_state
from raypose.errors import TrainError
from raypose.training import checkpoint, optim
from raypose.training.context import gather, note
from raypose.training.precision import LossScale
from raypose.training.saver import Saver
from raypose.training.trainer import Trainer

__all__ = ["EpochProgress", "progress_of", "restore", "save"]


@dataclass
class EpochProgress:
    """How far an epoch has come: steps taken, good pictures in them, summed loss, costs.

    Attributes:
        norm: summed norms of the gradients, of the steps that were of use.
        num_norms: of these steps.
        skipped: steps that fp16 could not hold.
    """

    epoch: int = 0
    step: int = 0
    seen: int = 0
    loss: float = 0.0
    norm: float = 0.0
    num_norms: int = 0
    skipped: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)


def save(
    trainer: Trainer,
    progress: EpochProgress,
    score: float | None,
    values: dict[str, Any],
    *,
    saver: Saver,
    resumable: bool = True,
) -> None:
    """Have a checkpoint written; called on every rank.

    Args:
        trainer: the worker.
        progress: how far the epoch that has begun has come.
        score: validation balanced accuracy, of the end of an epoch.
        values: metrics of the last epoch.
        saver: of the run.
        resumable: with what is needed to go on from here, three times the size of the model.

    Raises:
        TrainError: on all ranks, where the weights are not finite; nothing is written.
    """
    context = trainer.context
    _check_finite(trainer)
    record = checkpoint.Checkpoint(
        epoch=progress.epoch,
        step=trainer.step,
        score=score,
        metrics=values,
        num_workers=context.world_size,
        batch_size=trainer.local_batch_size * context.world_size,
        epoch_step=progress.step,
        seen=progress.seen,
        loss=progress.loss,
        norm=progress.norm,
        num_norms=progress.num_norms,
        skipped=progress.skipped,
        bad=trainer.all_bad() if progress.step else {},
        resumable=resumable,
        costs=progress.costs,
    )
    training = _needed(trainer) if resumable else {}
    if trainer.head is not None:
        training["head"] = trainer.head
    mean = trainer.ema.mean if trainer.ema is not None else {}
    if trainer.lora is None:
        weights = {**trainer.clip.model.state_dict(), **mean}
    else:
        with trainer.averaged():
            weights = lora.merged(trainer.lora).state_dict()  # a copy
    saver.save(record, trainer.clip, weights, training)


def _check_finite(trainer: Trainer) -> None:
    """Refuse weights that are of no use: a finite gradient may still lead there.

    Their running mean is finite as long as they are.
    """
    found = [*optim.learned(trainer.clip.model).values()]
    if trainer.head is not None:
        found.append(trainer.head)
    if not all(gather(trainer.context, are_finite(found))):
        raise TrainError(
            f"weights are not finite after step {trainer.step - 1}, and no checkpoint holds them; "
            "lower optim.learning_rate or optim.weight_decay"
        )


def _needed(trainer: Trainer) -> dict[str, Any]:
    """Return what a run needs to go on, beside the weights as they are scored."""
    found: dict[str, Any] = {"initial_scale": trainer.initial_scale}
    if trainer.loss_scale is not None:
        found["loss_scale"] = asdict(trainer.loss_scale)
    if trainer.head is None:
        found["optimizer"] = optimizer_state(trainer.forward, trainer.optimizer)
    if trainer.lora is not None:  # peft adds to frozen weights and takes away: they drift
        found["weights"] = trainer.clip.model.state_dict()
        found["ema"] = trainer.ema.mean if trainer.ema is not None else {}
    elif trainer.ema is not None:
        found["weights"] = optim.learned(trainer.clip.model)
    return found


def restore(trainer: Trainer, saved: dict[str, Any]) -> None:
    """Restore what a checkpoint holds beside the model.

    Args:
        trainer: of the same recipe.
        saved: as `checkpoint.restore` returns it.
    """
    if trainer.ema is not None and "ema" in saved:
        assign(trainer.ema.mean, saved["ema"])
    if "weights" in saved:
        tensors = trainer.clip.model.state_dict()
        assign({name: tensors[name] for name in saved["weights"]}, saved["weights"])
    if "optimizer" in saved:
        load_optimizer(trainer.forward, trainer.optimizer, saved["optimizer"])
    if trainer.loss_scale is not None and "loss_scale" in saved:
        trainer.loss_scale = LossScale(**saved["loss_scale"])
    trainer.head = saved.get("head")


def progress_of(trainer: Trainer, last: checkpoint.Checkpoint) -> EpochProgress:
    """Return where a run stands, counted in steps of as many pictures as now; say what changed."""
    context = trainer.context
    now = trainer.local_batch_size * context.world_size
    changed = last.num_workers != context.world_size
    step = last.epoch_step
    if changed or now != last.batch_size:
        step = round(last.epoch_step * last.batch_size / now)
        note(context, _what_changed(trainer, last, batch_size=now))
    return EpochProgress(
        epoch=last.epoch,
        step=step,
        seen=last.seen,
        loss=last.loss,
        norm=last.norm,
        num_norms=last.num_norms,
        skipped=last.skipped,
        bad=dict(last.bad),
        costs=last.costs,
    )


def _what_changed(trainer: Trainer, last: checkpoint.Checkpoint, *, batch_size: int) -> str:
    resumes = f"resumes on {trainer.context.world_size} workers where it was {last.num_workers}"
    if batch_size != last.batch_size:
        return f"{resumes}: {batch_size} pictures a step where it was {last.batch_size}"
    if not trainer.config.data.preserve_order:
        part = "some of this epoch's pictures may come twice, and " if last.epoch_step else ""
        return (
            f"{resumes}: {part}pictures meet in other steps; "
            "data.preserve_order=true would keep them the same"
        )
    return f"{resumes}: the same pictures a step, sums rounded otherwise"
