"""A run in one worker: epochs, checkpoints and how it goes on, in whatever context.

The loop asks its context for rank, device, batches and somewhere to report to, and knows nothing
else of where it runs. What a step computes follows from its number alone, so that a run that was
killed ends as one that was not: bit for bit on a CPU with as many workers, since pictures are read
in an order that the seed gives, and to rounding on another number with `data.preserve_order`.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from raypose import captions, storage
from raypose.captions import taxonomy
from raypose.captions.nodes import Node
from raypose.clip import depthwise, lora, model, tokens, zeroshot
from raypose.clip.augment import train_size
from raypose.clip.text import TextCache
from raypose.clip.towers import Towers, share_buffers, unused, wrap
from raypose.config import Config, override
from raypose.errors import ConfigError
from raypose.training import checkpoint, epochs, heap, optim, sinks, state, tracking
from raypose.training.context import WorkerContext, collective, gather, note
from raypose.training.costs import added
from raypose.training.fitting import fit
from raypose.training.precision import dtype_of
from raypose.training.saver import Saver, saving
from raypose.training.state import EpochProgress
from raypose.training.tracking import Tracker
from raypose.training.trainer import Trainer

__all__ = ["prepare", "train_worker"]


def train_worker(
    config: Config,
    context: WorkerContext,
    *,
    run_url: str,
    num_rows: int,
    counts: tuple[int, ...] = (),
) -> None:
    """Train from the last checkpoint, or from the start, to the end of the last epoch.

    Errors are raised on all ranks but where one alone can meet them: pictures that it cannot read,
    a step that does not fit into its memory. The others then wait, until they are ended.

    Args:
        config: the resolved document.
        context: where this runs.
        run_url: of the run.
        num_rows: pictures of an epoch.
        counts: of training pictures by class, for logit adjustment.
    """
    if context.device.type == "cpu":
        heap.hold()
    trainer, progress = collective(
        context,
        lambda: prepare(config, context, run_url=run_url, num_rows=num_rows, counts=counts),
    )
    if context.device.type == "cuda" and config.optim.method != "probe":
        trainer.set_training()
        fit(trainer)
    place = storage.join(run_url, tracking.FILE)
    with (
        saving(context, run_url) as saver,
        sinks.opened(config, run_url, step=trainer.step, rank=context.rank) as also,
    ):
        tracker = Tracker(place, resume_epoch=progress.epoch + 1, also=also)
        if config.optim.method == "probe":
            if progress.epoch == 0:
                _end_epoch(trainer, tracker, {"epoch": 1, **epochs.fit_probe(trainer)}, saver)
            return
        while progress.epoch < config.optim.epochs and not _stalled(tracker, config):
            values = {"epoch": progress.epoch + 1, **epochs.train(trainer, progress, saver)}
            _end_epoch(trainer, tracker, values, saver)
            progress = EpochProgress(epoch=progress.epoch + 1)


def prepare(
    config: Config,
    context: WorkerContext,
    *,
    run_url: str,
    num_rows: int,
    counts: tuple[int, ...] = (),
) -> tuple[Trainer, EpochProgress]:
    """Build or restore one worker's state; return it and where the run stands."""
    classes = taxonomy.load(config.data.taxonomy)
    grammar = captions.load(config.captions)
    last = checkpoint.latest(run_url)
    clip, saved = checkpoint.restore(run_url, last) if last else (None, {})
    settings = config.optim
    if clip is None or settings.method == "lora":  # its checkpoints hold merged weights
        clip = model.build(config.model, seed=config.seed)
    _check(config, clip, grammar, classes)
    if captions.sides(grammar, classes):
        config = override(config, {"augment.flip": False})
    initial_scale = saved.get("initial_scale", clip.model.logit_scale.item())
    handle = None
    if settings.method == "lora":
        text = not settings.text_locked
        handle = lora.adapt(clip.model, settings, text=text, seed=config.seed)
    _place(clip, context.device, channels_last=config.model.channels_last)
    towers = Towers(clip.model)
    biased = config.loss.name == "siglip"
    # what learns is settled before it is wrapped: DDP and FSDP look at it
    idle = unused(clip.model, clip.tokenize(["a"]), size=clip.image_size)
    optim.build(clip.model, settings, logit_bias=biased, unused=idle)
    texts = None
    if settings.text_locked:
        texts = TextCache(clip.model, lambda tokens: towers(None, tokens)[1])
    dtype, world_size = dtype_of(config.train, context.device), context.world_size
    forward = wrap(towers, config.train, device=context.device, world_size=world_size, dtype=dtype)
    trainer = Trainer(
        config=config,
        context=context,
        clip=clip,
        towers=towers,
        classes=classes,
        grammar=grammar,
        texts=texts,
        forward=forward,
        optimizer=optim.build(clip.model, settings, logit_bias=biased, unused=idle),
        ema=None,
        lora=handle,
        num_rows=num_rows,
        adjustment=_adjustment(config, counts, device=context.device),
        initial_scale=initial_scale,
        step=last.step if last else 0,
    )
    if settings.ema_decay and settings.method != "probe":
        decay, num_steps = settings.ema_decay, trainer.num_steps
        trainer.ema = optim.Ema(clip.model, decay=decay, num_steps=num_steps)
    if last is None:
        _tell_rounding(trainer)
        return trainer, EpochProgress()
    state.restore(trainer, saved)
    return trainer, state.progress_of(trainer, last)


def _place(clip: model.Clip, device: torch.device, *, channels_last: bool) -> None:
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    depthwise.hasten(clip.model)
    model.place(clip, device, channels_last=channels_last)


def _check(config: Config, clip: model.Clip, grammar: Node, classes: taxonomy.Taxonomy) -> None:
    """Prove that captions fit the text tower, and the objective the model."""
    captions.check(
        grammar,
        classes,
        tokenize=lambda texts: tokens.token_lists(clip, texts),
        context_length=clip.context_length,
    )
    _check_sides(config, clip)
    if config.model.mirror and captions.sides(grammar, classes):
        raise ConfigError(
            "model.mirror=true: captions or classes tell left from right, and mirror images would "
            "be taken for the other side; set it to false"
        )
    if config.loss.parents_weight and not classes.levels:
        raise ConfigError(
            f'loss.parents_weight={config.loss.parents_weight:g}: taxonomy "{classes.name}" has no '
            "parents; set it to 0, or give the cards parents"
        )
    if config.loss.name == "siglip" and getattr(clip.model, "logit_bias", None) is None:
        raise ConfigError(
            f"loss.name=siglip: {config.model.backbone} has no logit_bias; use a SigLIP backbone, "
            "or set init_logit_bias in its architecture"
        )


def _check_sides(config: Config, clip: model.Clip) -> None:
    """Prove that the image tower takes pictures of the sides that it is to be given."""
    zeroshot.check_scales(clip, config.model)
    trained = train_size(config.augment, clip.image_size)
    zeroshot.check_side(clip, trained, said=f"augment.image_size={trained}")


def _tell_rounding(trainer: Trainer) -> None:
    """Say where a step has fewer pictures than was asked for, since workers take equal shares."""
    context, asked = trainer.context, trainer.config.optim.batch_size
    taken = trainer.local_batch_size * context.world_size
    if taken != asked:
        text = f"{taken} pictures a step: optim.batch_size={asked} on {context.world_size} workers"
        note(context, text)


def _end_epoch(trainer: Trainer, tracker: Tracker, values: dict[str, Any], saver: Saver) -> None:
    """Score, write what an epoch leaves behind, and last the checkpoint; then report."""
    began = time.monotonic()
    clip, world_size = trainer.clip.model, trainer.context.world_size
    share_buffers(clip, world_size=world_size)
    with trainer.averaged():
        share_buffers(clip, world_size=world_size)
        if trainer.config.data.val:
            values |= trainer.validate()
            values["val_s"] = time.monotonic() - began
    values["step"] = trainer.step
    values["logit_scale"] = clip.logit_scale.exp().item()
    found = trainer.all_bad()
    values["checkpoint_s"], saver.waited = saver.waited, 0.0
    values |= added([values, *gather(trainer.context, trainer.context.costs.taken())])
    tracker.add(values)

    def write() -> None:
        if trainer.context.rank == 0:
            tracker.write()
            if found:
                storage.write_json(storage.join(saver.run_url, "quarantine.json"), found)

    collective(trainer.context, write)
    score = values.get("val_balanced_accuracy")
    every = trainer.config.train.checkpoint_steps
    resumable = not every or trainer.step % every == 0
    end = EpochProgress(epoch=values["epoch"])
    state.save(trainer, end, score, values, saver=saver, resumable=resumable)
    trainer.context.report(values)


def _stalled(tracker: Tracker, config: Config) -> bool:
    """Return whether the score has not risen for as long as a run may wait."""
    scores = [line.get("val_balanced_accuracy", 0.0) for line in tracker.lines]
    patience = config.train.patience
    if not patience or not config.data.val or not scores:
        return False
    return len(scores) - 1 - scores.index(max(scores)) >= patience


def _adjustment(
    config: Config, counts: tuple[int, ...], *, device: torch.device
) -> torch.Tensor | None:
    """Return what is added to the logits in training; classes without a picture count as one."""
    if not config.loss.logit_adjustment or not counts:
        return None
    logs = [math.log(max(count, 1) / sum(counts)) for count in counts]
    return config.loss.logit_adjustment * torch.tensor(logs, device=device)
