"""A run from recipe to best checkpoint, on any number of workers.

The same document again resumes where the last checkpoint stands, or says that it is done.
Checkpoints are raypose's own, alike for a Ray Train worker and a process of one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from raypose import captions, data, storage
from raypose.clip import hub, model
from raypose.clip.augment import copy_size
from raypose.config import Config, dump
from raypose.console import about, status, waiting
from raypose.data import inputs
from raypose.training import checkpoint, finish, provenance, runs, sinks, tracking, workers
from raypose.training.context import LocalContext, Report
from raypose.training.costs import added

__all__ = ["train"]

Load = Callable[..., data.Reader]


def train(
    config: Config,
    *,
    in_process: bool = False,
    report: Report = lambda values: None,
    load: Load = data.load,
    callbacks: Sequence[Any] = (),
) -> runs.TrainResult:
    """Train a recipe to its end, from its last checkpoint where there is one.

    Args:
        config: the document.
        in_process: train in this process, with one worker, for a trial.
        report: given the metrics of each epoch, where `in_process`.
        callbacks: of Ray Train, where not `in_process`.
        load: returns the reader of a data set, as `data.load` does.

    Raises:
        RayposeError: for what the user can mend; the run stays as it was.
    """
    run = runs.locate(config)
    with about(run=run.id):
        done = runs.finished(config)
        if done:
            status(f"{run.id} is finished already: nothing to train; see {run.url}")
            return done
        needs = {} if in_process else workers.make_room(config, run.id)
        hub.fetch(config.model)
        with waiting("reading pictures"):
            readers, counts = _readers(config, load)
        _begin(config, run)
        if in_process:
            context = LocalContext(config, readers, report)
            workers.run_worker(config, context, readers, counts, url=run.url)
        else:
            more: dict[str, Any] = {"url": run.url, "needs": needs, "callbacks": callbacks}
            workers.run_group(config, readers, counts, **more)
        return _conclude(config, run)


def _begin(config: Config, run: runs.Run) -> None:
    """Write down what a run is, and say where it goes on."""
    _note_origin(config, run.id, run.url)
    storage.write_json(storage.join(run.url, "config.json"), dump(config))
    last = checkpoint.latest(run.url)
    if last:
        within = f", step {last.epoch_step} of the next" if last.epoch_step else ""
        done_of = f"{last.epoch} of {config.optim.epochs}"
        status(f"resuming {run.id} after epoch {done_of}{within}")


def _conclude(config: Config, run: runs.Run) -> runs.TrainResult:
    """Write down the result of a run."""
    final = finish.url_of(run.url)
    outcome = storage.read_json(storage.join(final, finish.FINAL))
    epochs = tracking.read(storage.join(run.url, tracking.FILE))
    costs = added([*epochs, outcome.get("costs", {})])
    result = runs.TrainResult(run.id, run.url, final, {**outcome["metrics"], **costs})
    sinks.finished(config, run.url, result.metrics)
    storage.write_json(storage.join(run.url, runs.RESULT), asdict(result))
    checkpoint.forget(run.url)
    return result


def _note_origin(config: Config, run_id: str, url: str) -> None:
    """Write down what a run is made of when it begins; later say what has changed since."""
    record, now = storage.join(url, runs.PROVENANCE), provenance.gather(config)
    if not storage.exists(record):
        storage.write_json(record, now)
        return
    found = provenance.changed(storage.read_json(record), now)
    if found:
        status(f"changed since {run_id} began: {', '.join(found)}")


def _readers(config: Config, load: Load) -> tuple[dict[str, data.Reader], tuple[int, ...]]:
    """Check everything that can be checked before workers start.

    Returns:
        Readers of train, and val if set; and how many training pictures each class has.
    """
    found = inputs.load(config)
    classes = found.classes
    if not config.data.val:
        status("data.val is not set: the last epoch counts as the best")
    if config.augment.flip and captions.sides(captions.load(config.captions), classes):
        status("captions or classes tell left from right: pictures are not mirrored")
    counts = found.counts("train")
    unseen = sorted(set(classes.ids) - set(counts))
    if unseen:
        status(f"{len(unseen)} of {len(classes)} classes have no training picture: {unseen[0]}, …")
    size = model.image_size(config.model)
    fitted = config.optim.method == "probe"  # to pictures as they are
    sizes = {"train": size if fitted else copy_size(config.augment, size), "val": size}
    readers: dict[str, data.Reader] = {
        split: load(
            getattr(config.data, split),
            classes.index(),
            config.data,
            size=sizes[split],
            resize=config.model.resize,
            synthetic=config.data.synthetic if split == "train" else "",
        )
        for split in ("train", "val")
        if split in found.manifests
    }
    return readers, tuple(counts.get(label, 0) for label in classes.ids)
