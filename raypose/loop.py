"""A run in one worker: epochs, checkpoints and how it goes on, in whatever surroundings.

The loop asks its surroundings for rank, device, batches and a place to report to, and knows nothing
else of where it runs. What a step computes follows from its number alone, so that a run that was
killed ends as one that was not: bit for bit on a CPU with as many workers, since pictures are read
in an order that the seed gives, and to rounding on another number with `data.preserve_order`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.nn.functional as F

from raypose import captions, checkpoint, errors, lora, model, optim, probe, storage, taxonomy
from raypose.config import Config, override
from raypose.errors import ConfigError, DataError, RayposeError
from raypose.grammar import Node
from raypose.text import TextCache
from raypose.towers import Towers, assign, full, load_optimizer, optimizer_state, wrap
from raypose.tracking import Tracker
from raypose.trainer import Surroundings, Trainer, gather

__all__ = ["Place", "fit_probe", "prepare", "together", "train_epoch", "train_worker"]

T = TypeVar("T")
PROGRESS_PERIOD_S = 0.5


@dataclass
class Place:
    """How far an epoch has come: steps taken, good pictures in them, their summed loss."""

    epoch: int = 0
    step: int = 0
    seen: int = 0
    loss: float = 0.0
    bad: dict[str, str] = field(default_factory=dict)


def train_worker(
    config: Config,
    surroundings: Surroundings,
    *,
    run_url: str,
    num_rows: int,
    counts: tuple[int, ...] = (),
) -> None:
    """Train from the last checkpoint, or from the start, to the end of the last epoch.

    Every error that is raised here is raised on all ranks.

    Args:
        config: the resolved document.
        surroundings: where this runs.
        run_url: of the run.
        num_rows: pictures of an epoch.
        counts: of training pictures by class, for logit adjustment.
    """
    trainer, place = together(
        surroundings,
        lambda: prepare(config, surroundings, run_url=run_url, num_rows=num_rows, counts=counts),
    )
    tracker = Tracker(storage.join(run_url, "metrics.jsonl"), resume_epoch=place.epoch + 1)
    if config.optim.method == "probe":
        if place.epoch == 0:
            _end_epoch(trainer, tracker, {"epoch": 1, **fit_probe(trainer)}, run_url=run_url)
        return
    while place.epoch < config.optim.epochs and not _stalled(tracker, config):
        values = {"epoch": place.epoch + 1, **train_epoch(trainer, place, run_url=run_url)}
        _end_epoch(trainer, tracker, values, run_url=run_url)
        place = Place(epoch=place.epoch + 1)


def train_epoch(trainer: Trainer, place: Place, *, run_url: str = "") -> dict[str, Any]:
    """Go through the training set once, or through what is left of an epoch.

    Args:
        trainer: the worker's state.
        place: where the epoch stands; moved on.
        run_url: where to write checkpoints within the epoch, if the recipe asks for them.

    Returns:
        train_loss (nats), images_per_s over all workers, data_wait (share of the time in 0..1 that
        this worker waited for pictures), and num_bad pictures.
    """
    surroundings, config = trainer.surroundings, trainer.config
    trainer.set_training()
    trainer.bad.clear()
    trainer.bad.update(place.bad if surroundings.rank == 0 else {})
    source = surroundings.batches(
        "train", batch_size=trainer.local_batch_size, epoch=place.epoch, start=place.step
    )
    began, before, waited, told = time.monotonic(), place.seen, 0.0, 0.0
    while True:
        asked = time.monotonic()
        batch = next(source, None)
        waited += time.monotonic() - asked
        outcome = trainer.train_step(batch, epoch=place.epoch)
        if outcome is None:
            break
        value, count = outcome
        place.step += 1
        place.loss, place.seen = place.loss + value * count, place.seen + count
        now = time.monotonic()
        if surroundings.rank == 0 and now - told > PROGRESS_PERIOD_S:
            told, rate = now, (place.seen - before) / (now - began)
            event = {"kind": "step", "epoch": place.epoch, "step": trainer.step}
            more = {"num_steps": trainer.num_steps, "loss": value, "images_per_s": rate}
            surroundings.progress({**event, **more})
        every = config.train.checkpoint_steps
        if every and run_url and trainer.step % every == 0:
            _save(trainer, place, None, {}, run_url=run_url)
    if place.seen == 0:
        raise DataError(f"{config.data.train}: holds no good picture")
    spent = time.monotonic() - began
    return {
        "train_loss": place.loss / place.seen,
        "images_per_s": (place.seen - before) / spent,
        "data_wait": waited / spent,
        "num_bad": sum(gather(surroundings, len(trainer.bad))),
    }


def fit_probe(trainer: Trainer) -> dict[str, Any]:
    """Fit a head to the training pictures' features; every rank fits the same.

    Returns:
        train_loss (nats), images_per_s, num_bad, and the penalty.
    """
    began = time.monotonic()
    start = trainer.classifier().cpu()
    features, targets = trainer.embedded("train")
    if not len(features):
        raise DataError(f"{trainer.config.data.train}: holds no good picture")
    scale = trainer.clip.model.logit_scale.exp().item()
    asked = trainer.config.optim.probe_penalty
    head, penalty = probe.fit_best(features, targets, start, logit_scale=scale, penalty=asked)
    trainer.head = head
    logits = scale * features @ head.T
    return {
        "train_loss": float(F.cross_entropy(logits, targets)),
        "images_per_s": len(features) / (time.monotonic() - began),
        "num_bad": sum(gather(trainer.surroundings, len(trainer.bad))),
        "penalty": penalty,
    }


def prepare(
    config: Config,
    surroundings: Surroundings,
    *,
    run_url: str,
    num_rows: int,
    counts: tuple[int, ...] = (),
) -> tuple[Trainer, Place]:
    """Build or restore one worker's state; return it and where the run stands."""
    classes = taxonomy.load(config.data.taxonomy)
    grammar = captions.load(config.captions)
    state = checkpoint.latest(run_url)
    clip, saved = checkpoint.restore(run_url, state) if state else (None, {})
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
        handle = lora.adapt(clip.model, rank=settings.lora_rank, text=text, seed=config.seed)
    clip.model.to(surroundings.device)
    if config.model.channels_last:
        clip.model.to(memory_format=torch.channels_last)
    towers = Towers(clip.model)
    biased = config.loss.name == "siglip"
    # what learns is settled before it is wrapped: DDP and FSDP look at it
    optim.build(clip.model, settings, logit_bias=biased)
    texts = None
    if settings.text_locked:
        texts = TextCache(clip.model, lambda tokens: towers(None, tokens)[1])
    world_size = surroundings.world_size
    forward = wrap(towers, config.train, device=surroundings.device, world_size=world_size)
    trainer = Trainer(
        config=config,
        surroundings=surroundings,
        clip=clip,
        towers=towers,
        classes=classes,
        grammar=grammar,
        texts=texts,
        forward=forward,
        optimizer=optim.build(clip.model, settings, logit_bias=biased),
        ema=None,
        lora=handle,
        num_rows=num_rows,
        adjustment=_adjustment(config, counts, device=surroundings.device),
        initial_scale=initial_scale,
        step=state.step if state else 0,
    )
    if settings.ema_decay and settings.method != "probe":
        decay, num_steps = settings.ema_decay, trainer.num_steps
        trainer.ema = optim.Ema(clip.model, decay=decay, num_steps=num_steps)
    if state is None:
        return trainer, Place()
    _take_up(trainer, saved)
    return trainer, _place(trainer, state)


def together(surroundings: Surroundings, work: Callable[[], T]) -> T:
    """Do something on every rank; an error on one is raised on all, so that none waits."""
    result, failure = None, None
    try:
        result = work()
    except RayposeError as error:
        failure = (type(error).__name__, str(error))
    failures = [found for found in gather(surroundings, failure) if found]
    if failures:
        name, message = failures[0]
        raise getattr(errors, name)(message)
    return result  # type: ignore[return-value]


def _check(config: Config, clip: model.Clip, grammar: Node, classes: taxonomy.Taxonomy) -> None:
    """Prove that captions fit the text tower, and the objective the model."""
    captions.check(
        grammar,
        classes,
        tokenize=lambda texts: model.token_lists(clip, texts),
        context_length=clip.context_length,
    )
    if config.loss.name == "siglip" and getattr(clip.model, "logit_bias", None) is None:
        raise ConfigError(
            f"loss.name=siglip: {config.model.backbone} has no logit_bias; use a SigLIP backbone, "
            "or set init_logit_bias in its architecture"
        )


def _end_epoch(trainer: Trainer, tracker: Tracker, values: dict[str, Any], *, run_url: str) -> None:
    """Score, write what an epoch leaves behind, and last the checkpoint; then report."""
    if trainer.config.data.val:
        with trainer.averaged():
            values |= trainer.validate()
    values["step"] = trainer.step
    found = [item for part in gather(trainer.surroundings, trainer.bad) for item in part.items()]
    tracker.add(values)

    def write() -> None:
        if trainer.surroundings.rank == 0:
            tracker.write()
            if found:
                storage.write_json(storage.join(run_url, "quarantine.json"), dict(found))

    together(trainer.surroundings, write)
    score = values.get("val_balanced_accuracy")
    _save(trainer, Place(epoch=values["epoch"]), score, values, run_url=run_url)
    trainer.surroundings.report(values)


def _save(
    trainer: Trainer, place: Place, score: float | None, values: dict[str, Any], *, run_url: str
) -> None:
    """Write a checkpoint; every rank takes part, since each may hold a part of the weights."""
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
    bad = [item for part in gather(surroundings, trainer.bad) for item in part.items()]
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
        bad=dict(bad) if place.step else {},
    )

    def write() -> None:
        if surroundings.rank == 0:
            checkpoint.save(run_url, state, clip, weights, training)
            checkpoint.prune(run_url)

    together(surroundings, write)


def _take_up(trainer: Trainer, saved: dict[str, Any]) -> None:
    """Go on from what a checkpoint holds beside the model."""
    if trainer.ema is not None and "ema" in saved:
        assign(trainer.ema.mean, saved["ema"])
    if "weights" in saved:
        tensors = trainer.clip.model.state_dict()
        assign({name: tensors[name] for name in saved["weights"]}, saved["weights"])
    if "optimizer" in saved:
        load_optimizer(trainer.forward, trainer.optimizer, saved["optimizer"])
    trainer.head = saved.get("head")


def _place(trainer: Trainer, state: checkpoint.State) -> Place:
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
