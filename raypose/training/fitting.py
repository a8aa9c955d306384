"""A step that does not fit into a device's memory is taken in more parts: the same pictures a step.

It is tried before training begins, on all ranks together, with room for what the optimiser will
hold. Recipes that share a batch size over backbones, as a search does, then run on any GPU.
"""

from __future__ import annotations

import gc

import torch
from torch.nn.parallel import DistributedDataParallel

from raypose.clip.augment import copy_size
from raypose.config import override
from raypose.data import Batch
from raypose.training.context import gather, note
from raypose.training.trainer import Trainer, is_full_memory

__all__ = ["fit"]

MOMENTS = 2
"""Of AdamW, each as large as the weights that learn."""


def fit(trainer: Trainer) -> None:
    """Double `optim.accumulate` until a part of a step fits; called on every rank.

    Nothing learns meanwhile. Where no number of parts fits, or the loss compares all pictures of a
    step and cannot be taken in parts, the first step will say so.
    """
    asked = trainer.config.optim.accumulate
    if trainer.config.loss.name != "class_ce":
        return
    count = asked
    while not _fits(trainer, count) and count < trainer.local_batch_size:
        count *= 2
    if count == asked:
        return
    trainer.config = override(trainer.config, {"optim.accumulate": count})
    size = trainer.local_batch_size
    note(
        trainer.context,
        f"a step of {size} pictures does not fit into the memory of {trainer.context.device}: it "
        f"is taken in {count} parts (optim.accumulate={count})",
    )


def _fits(trainer: Trainer, count: int) -> bool:
    """Try a part of a step on all ranks; tell whether it fits on each."""
    size = max(1, -(-trainer.local_batch_size // count))
    failed = False
    try:
        _try(trainer, size)
    except RuntimeError as error:
        if not is_full_memory(error):
            raise
        failed = True
    trainer.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if trainer.context.device.type == "cuda":
        torch.cuda.empty_cache()
    return not any(gather(trainer.context, failed))


def _try(trainer: Trainer, size: int) -> None:
    """Go forward and back over made-up pictures, beside room for the moments."""
    device = trainer.context.device
    side = copy_size(trainer.config.augment, trainer.clip.image_size)
    pictures = torch.zeros(size, 3, side, side, dtype=torch.uint8)
    pictures[:, :, ::2] = 255
    numbers = torch.arange(size) % len(trainer.classes)
    batch = Batch(pictures, numbers, [str(number) for number in range(size)], [""] * size)
    room = []
    if not trainer.optimizer.state:
        learned = [value for value in trainer.clip.model.parameters() if value.requires_grad]
        room = [torch.empty_like(value) for value in learned for _ in range(MOMENTS)]
    wrapped = trainer.forward
    if isinstance(wrapped, DistributedDataParallel):  # it would wait for ranks that have failed
        trainer.forward = trainer.towers
    kept = {name: value.clone() for name, value in trainer.clip.model.named_buffers()}
    random = torch.get_rng_state()
    try:
        trainer.loss(batch, total=size, epoch=0).backward()  # type: ignore[no-untyped-call]
    finally:
        del room
        trainer.forward = wrapped
        torch.set_rng_state(random)
        with torch.no_grad():
            for name, value in trainer.clip.model.named_buffers():
                value.copy_(kept[name])
    if device.type == "cuda":
        torch.cuda.synchronize(device)
