"""A run from recipe to best checkpoint, on any number of workers.

A run lies under ``runs/<run_id>``: config.json, metrics.jsonl, checkpoints, and result.json when it
is finished. The same document again resumes where the last checkpoint stands, or says that it is
done. Checkpoints are raypose's own, alike for a Ray Train worker and a process of one's own.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from ray.exceptions import RayError
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.util.queue import Empty, Queue

from raypose import (
    captions,
    checkpoint,
    data,
    errors,
    finish,
    inputs,
    loop,
    model,
    provenance,
    runtime,
    storage,
)
from raypose.config import Config, dump, parse_config
from raypose.console import bar, say
from raypose.errors import DataError, RayposeError, TrainError
from raypose.order import Part
from raypose.surroundings import Surroundings

__all__ = ["TrainResult", "finished", "run"]

RESULT = "result.json"
FAILING_TOGETHER = timedelta(seconds=5)
"""How long a worker that has failed waits for the others to fail too."""
SLOW_DATA = 0.03
"""Share of the time that workers may wait for pictures before it is told."""
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        run_id: name and hash of its document.
        url: where it lies.
        checkpoint: where its final model lies: the best checkpoint's, see `finish`.
        metrics: of that checkpoint's epoch, those of validation being the final model's.
    """

    run_id: str
    url: str
    checkpoint: str
    metrics: dict[str, Any]


class RayWorker:
    """Surroundings of a Ray Train worker."""

    def __init__(self, config: Config, readers: dict[str, data.Reader], events: Queue) -> None:
        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self.device: torch.device = get_device()
        self.config = config
        self.readers = readers
        self.events = events

    def batches(
        self, split: str, *, batch_size: int, epoch: int, start: int = 0
    ) -> Iterator[data.Batch]:
        """Return this rank's share of a split, less its first batches."""
        part = Part(self.rank, self.world_size, batch_size)
        return _batches(self.readers[split], split, self.config, part, epoch=epoch, start=start)

    def progress(self, event: dict[str, Any]) -> None:
        """Send an event to the driver."""
        self.events.put(event)

    def report(self, values: dict[str, Any]) -> None:
        """Tell Ray Train, and the driver once."""
        if self.rank == 0:
            self.events.put({"kind": "epoch", **values})
        ray.train.report(values)


class Alone:
    """Surroundings of a process of one's own: a trial, a test, a notebook."""

    rank = 0
    world_size = 1

    def __init__(self, config: Config, readers: dict[str, data.Reader], report: Report) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.config = config
        self.readers = readers
        self.report = report

    def batches(
        self, split: str, *, batch_size: int, epoch: int, start: int = 0
    ) -> Iterator[data.Batch]:
        """Return all of a split, less its first batches."""
        part = Part(batch_size=batch_size)
        return _batches(self.readers[split], split, self.config, part, epoch=epoch, start=start)

    def progress(self, event: dict[str, Any]) -> None:
        """Keep silent: whoever holds this process reports."""


def run(
    config: Config, *, alone: bool = False, report: Report = lambda values: None
) -> TrainResult:
    """Train a recipe to its end, from its last checkpoint where there is one.

    Args:
        config: the document.
        alone: train in this process, with one worker, for a trial.
        report: told the metrics of each epoch, where `alone`.

    Raises:
        RayposeError: for what the user can mend; the run stays as it was.
    """
    url = config.run_url
    done = finished(config)
    if done:
        say(f"{config.run_id} is finished already: nothing to train; see {url}")
        return done
    readers, counts = _readers(config)
    _note_origin(config, url=url)
    storage.write_json(storage.join(url, "config.json"), dump(config))
    state = checkpoint.latest(url)
    if state:
        within = f", step {state.epoch_step} of the next" if state.epoch_step else ""
        done_of = f"{state.epoch} of {config.optim.epochs}"
        say(f"resuming {config.run_id} after epoch {done_of}{within}")
    if alone:
        _train(config, Alone(config, readers, report), readers, counts, url=url)
    else:
        _fit(config, readers, counts, url=url)
    final = finish.url_of(url)
    outcome = storage.read_json(storage.join(final, finish.FINAL))
    result = TrainResult(config.run_id, url, final, outcome["metrics"])
    storage.write_json(storage.join(url, RESULT), asdict(result))
    return result


def finished(config: Config) -> TrainResult | None:
    """Return the result of a run that is done, or None."""
    place = storage.join(config.run_url, RESULT)
    return TrainResult(**storage.read_json(place)) if storage.exists(place) else None


def _note_origin(config: Config, *, url: str) -> None:
    """Write down what a run is made of when it begins; later say what has changed since."""
    place, now = storage.join(url, provenance.PROVENANCE), provenance.gather(config)
    if not storage.exists(place):
        storage.write_json(place, now)
        return
    found = provenance.changed(storage.read_json(place), now)
    if found:
        say(f"changed since {config.run_id} began: {', '.join(found)}")


def _train(
    config: Config,
    surroundings: Surroundings,
    readers: dict[str, data.Reader],
    counts: tuple[int, ...],
    *,
    url: str,
) -> None:
    """Train and finish in one worker."""
    num_rows = readers["train"].num_rows
    loop.train_worker(config, surroundings, run_url=url, num_rows=num_rows, counts=counts)
    finish.finish(config, surroundings, run_url=url)


def _readers(config: Config) -> tuple[dict[str, data.Reader], tuple[int, ...]]:
    """Check everything that can be checked before workers start.

    Returns:
        Readers of train, and val if set; and how many training pictures each class has.
    """
    found = inputs.load(config)
    classes = found.classes
    if not config.data.val:
        say("data.val is not set: the last epoch counts as the best")
    if config.augment.flip and captions.sides(captions.load(config.captions), classes):
        say("captions or classes tell left from right: pictures are not mirrored")
    unseen = sorted(set(classes.ids) - set(found.manifests["train"].labels))
    if unseen:
        say(f"{len(unseen)} of {len(classes)} classes have no training picture: {unseen[0]}, …")
    size = model.image_size(config.model)
    labels = found.manifests["train"].labels
    readers: dict[str, data.Reader] = {
        split: data.load(
            getattr(config.data, split),
            classes.index(),
            config.data,
            size=size,
            resize=config.model.resize,
            synthetic=config.data.synthetic if split == "train" else "",
        )
        for split in ("train", "val")
        if split in found.manifests
    }
    return readers, tuple(labels.get(label, 0) for label in classes.ids)


def _fit(
    config: Config, readers: dict[str, data.Reader], counts: tuple[int, ...], *, url: str
) -> None:
    """Train on a group of Ray Train workers; a killed one is replaced."""
    num_workers, settings = config.train.num_workers, config.train
    use_gpu = runtime.wants_gpu(settings.use_gpu, count=num_workers)
    wanted = {"CPU": num_workers * settings.cpus_per_worker + 1}  # one decodes
    if use_gpu:
        wanted["GPU"] = num_workers
    runtime.require(
        wanted,
        what=f"train.num_workers={num_workers}",
        mend="lower it, or raise cluster.num_cpus where Ray is started here",
    )
    num_rows = readers["train"].num_rows
    if num_rows < num_workers:
        raise DataError(
            f"{config.data.train}: {num_rows} pictures cannot feed {num_workers} workers; "
            "lower train.num_workers"
        )
    fs, path = storage.filesystem(url)
    say(f"starting {num_workers} worker{'s' if num_workers > 1 else ''} for {config.run_id}")
    with _shown(config.optim.epochs) as events:
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "config": dump(config),
                "readers": readers,
                "counts": counts,
                "events": events,
                "run_url": url,
            },
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=num_workers,
                use_gpu=use_gpu,
                resources_per_worker={"CPU": settings.cpus_per_worker}
                | ({"GPU": 1} if use_gpu else {}),
            ),
            run_config=ray.train.RunConfig(
                # a name of its own each time: what Ray left of an interrupted run is not read
                name=f"ray-{uuid.uuid4().hex[:8]}",
                storage_path=path,
                storage_filesystem=fs,
                failure_config=ray.train.FailureConfig(
                    max_failures=settings.max_failures, controller_failure_limit=2
                ),
            ),
        )
        try:
            failure = runtime.interruptible(trainer.fit).return_value
        except (TrainingFailedError, RayError) as error:
            raise _explained(error, config.run_id) from error
    if failure:
        raise getattr(errors, failure["error"])(failure["message"])


def _work(arguments: dict[str, Any]) -> dict[str, str] | None:
    """Run in each Ray Train worker. What the user can mend is returned: it is not to be retried.

    A worker that fails alone raises instead, since Ray has to end the others, which wait for it.
    """
    config = parse_config(arguments["config"])
    readers: dict[str, data.Reader] = arguments["readers"]
    surroundings = RayWorker(config, readers, arguments["events"])
    try:
        counts, url = arguments["counts"], arguments["run_url"]
        _train(config, surroundings, readers, counts, url=url)
    except RayposeError as error:
        if not _all_failed(surroundings):
            raise
        return {"error": type(error).__name__, "message": str(error)}
    return None


def _all_failed(surroundings: RayWorker) -> bool:
    """Return whether all ranks come here within a while."""
    if surroundings.world_size == 1:
        return True
    store = dist.distributed_c10d._get_default_store()
    store.set(f"failed/{surroundings.rank}", "")
    ranks = range(surroundings.world_size)
    try:
        store.wait([f"failed/{rank}" for rank in ranks], FAILING_TOGETHER)
    except dist.DistStoreError:
        return False
    return True


def _explained(error: Exception, run_id: str) -> RayposeError:
    """Put a failure of the group into one line."""
    cause: BaseException = error
    if isinstance(error, WorkerGroupError):
        # an error within a worker is wrapped, with its traceback for a text
        failures = [getattr(e, "_base_exc", e) for e in error.worker_failures.values()]
        told = [failure for failure in failures if isinstance(failure, RayposeError)]
        if told:
            return told[0]
        cause = next(iter(failures), error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [repr(cause)]
    return TrainError(
        f"{run_id}: training failed: {lines[-1][:200]}; its checkpoints stay, run it again to "
        "resume; --verbose shows everything"
    )


def _batches(
    reader: data.Reader, split: str, config: Config, part: Part, *, epoch: int, start: int
) -> Iterator[data.Batch]:
    rows = reader.share(part)
    if split == "train":
        rows = reader.epoch(
            part,
            window=config.data.shuffle_rows,
            seed=config.seed,
            epoch=epoch,
            preserve_order=config.data.preserve_order,
        )
    return reader.batches(rows[start * part.batch_size :], batch_size=part.batch_size)


@contextmanager
def _shown(num_epochs: int) -> Iterator[Queue]:
    """Yield a queue whose events are shown while the block runs."""
    events = Queue()
    over = threading.Event()

    def drain() -> None:
        with bar("training") as update:
            while not over.is_set():
                try:
                    _show(events.get(timeout=0.5), num_epochs, update)
                except Empty:
                    continue
                except RayError:  # the cluster is going down; the main thread says why
                    return

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    try:
        yield events
    finally:
        while thread.is_alive() and not events.empty():
            thread.join(timeout=0.1)
        over.set()
        thread.join(timeout=5)
        events.shutdown()


def _show(event: dict[str, Any], num_epochs: int, update: Callable[..., None]) -> None:
    if event["kind"] == "note":
        say(event["text"])
        return
    if event["kind"] == "step":
        note = f"loss {event['loss']:.3f}  {event['images_per_s']:.0f} images/s"
        update(event["step"], event["num_steps"], note)
        return
    parts = [f"loss {event['train_loss']:.3f}"]
    if "val_top1" in event:
        parts.append(f"val top-1 {event['val_top1']:.3f}")
        parts.append(f"balanced {event['val_balanced_accuracy']:.3f}")
    parts.append(f"{event['images_per_s']:.0f} images/s")
    if event.get("data_wait", 0) > SLOW_DATA:
        parts.append(f"{event['data_wait']:.0%} of the time waiting for pictures")
    if event["num_bad"]:
        parts.append(f"{event['num_bad']} bad pictures quarantined")
    say(f"epoch {event['epoch']}/{num_epochs}  {'  '.join(parts)}")
