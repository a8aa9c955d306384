"""What a run will take, from a few steps on made-up pictures, before hours are spent."""

from __future__ import annotations

import math
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass

import torch

from raypose.clip import hub
from raypose.clip.augment import copy_size
from raypose.config import Config, override
from raypose.data import Batch
from raypose.training import loop
from raypose.training.context import LocalContext
from raypose.training.trainer import Trainer

__all__ = ["Estimate", "estimate"]

WARM, TIMED = 1, 2
"""Steps that are not timed, which allocate, and those that are."""


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    Attributes:
        parameters: of the model.
        learned: of these, what training changes.
        num_steps: of the whole run.
        steps_per_epoch: of them.
        step_s: seconds of a step.
        epoch_s: seconds of an epoch's steps.
        run_s: seconds of all steps; reading, validation and checkpoints come on top.
        memory_bytes: most that a worker held, of the GPU where there is one.
        device: that it was measured on.
    """

    parameters: int
    learned: int
    num_steps: int
    steps_per_epoch: int
    step_s: float
    epoch_s: float
    run_s: float
    memory_bytes: int
    device: str


def estimate(config: Config, num_rows: int) -> Estimate:
    """Take a few steps with one worker's share of the pictures, in this process.

    What workers tell each other is not in it.

    Args:
        config: the recipe.
        num_rows: pictures of an epoch.

    Raises:
        TrainError: where a step does not fit into memory.
    """
    hub.fetch(config.model)
    workers = config.train.least_workers
    share = max(1, config.optim.batch_size // workers)
    alone = {"optim.batch_size": max(share, 2), "train.num_workers": 1, "train.sharding": "ddp"}
    context = LocalContext(config, {}, lambda values: None)
    with tempfile.TemporaryDirectory() as nowhere:
        trainer, _ = loop.prepare(
            override(config, alone), context, run_url=f"{nowhere}/run", num_rows=num_rows
        )
    trainer.set_training()
    batch = _made_up(trainer, share)
    if context.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(context.device)
    spent = []
    for _ in range(WARM + TIMED):
        began = time.monotonic()
        trainer.train_step(batch, epoch=0)  # it ends by reading the loss: nothing is left to do
        spent.append(time.monotonic() - began)
    step_s = statistics.median(spent[WARM:])
    steps = math.ceil(num_rows / (share * workers))
    values = list(trainer.clip.model.parameters())
    return Estimate(
        parameters=sum(value.numel() for value in values),
        learned=sum(value.numel() for value in values if value.requires_grad),
        num_steps=steps * config.optim.epochs,
        steps_per_epoch=steps,
        step_s=step_s,
        epoch_s=step_s * steps,
        run_s=step_s * steps * config.optim.epochs,
        memory_bytes=_peak(context.device),
        device=str(context.device),
    )


def _made_up(trainer: Trainer, size: int) -> Batch:
    """Return a batch of noise, of any classes."""
    generator = torch.Generator().manual_seed(trainer.config.seed)
    side = copy_size(trainer.config.augment, trainer.clip.image_size)
    return Batch(
        torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, generator=generator),
        torch.arange(size) % len(trainer.classes),
        [str(number) for number in range(size)],
        [""] * size,
    )


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
