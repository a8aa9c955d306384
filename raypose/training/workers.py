"""A group of Ray Train workers, started, watched, and replaced where killed; `ray.train` is here.

What the user can mend comes back as a worker's result, so that it is not tried again.
"""

from __future__ import annotations

import itertools
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from ray.exceptions import RayError
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.util.queue import Empty, Queue

from raypose import data, errors, runtime, storage
from raypose.config import Config, TrainConfig, dump, parse_config
from raypose.console import about, bar, in_context, known, plural, status, waiting
from raypose.data.order import Part
from raypose.errors import DataError, RayposeError, TrainError
from raypose.training import finish, heap, loop
from raypose.training.context import WorkerContext, read_batches
from raypose.training.costs import Costs

__all__ = ["RayTrainContext", "make_room", "run_group", "run_worker"]

FAILING_TOGETHER = timedelta(seconds=5)
"""How long a worker that has failed waits for the others to fail too."""


ELASTIC_START_S = "60"
"""After the loss of a node Ray counts it once more, and waits so long for the workers on it."""


BACKENDS = "cpu:gloo,cuda:nccl"
"""Counts of pictures go from CPU to CPU, gradients from GPU to GPU."""


WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
"""In the environment: whether Ray watches."""


RESIZE_S = 15.0
"""How often a group that may grow looks for room."""


SLOW_DATA = 0.03
"""Share of the time that workers may wait for pictures before it is shown."""


CERTAIN = (
    ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError, TypeError,
    ValueError,
)  # fmt: skip
"""Errors that come again when the same is done again, where all workers meet them."""


class RayTrainContext:
    """The context of a Ray Train worker."""

    def __init__(self, config: Config, readers: dict[str, data.Reader], events: Queue) -> None:
        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self.device: torch.device = get_device()
        self.config = config
        self.readers = readers
        self.events = events
        self.costs = Costs()

    def batches(
        self, split: str, *, batch_size: int, epoch: int, start: int = 0
    ) -> Iterator[data.Batch]:
        """Return this rank's share of a split, less its first batches."""
        part = Part(self.rank, self.world_size, batch_size)
        return read_batches(self, self.readers[split], part, split, epoch=epoch, start=start)

    def progress(self, event: dict[str, Any]) -> None:
        """Send an event to the driver."""
        self.events.put(event)

    def leaving(self) -> bool:
        """Whether a node of the group is about to be taken back, as far as this worker knows.

        Ray's own question is a barrier, too dear for each step: the step's sum is one already.
        """
        return get_train_context().preemption_context.preemption_info is not None

    def report(self, values: dict[str, Any]) -> None:
        """Report to Ray Train, and once to the driver."""
        if self.rank == 0:
            self.events.put({"kind": "epoch", **values})
        ray.train.report(values)


def run_group(
    config: Config,
    readers: dict[str, data.Reader],
    counts: tuple[int, ...],
    *,
    url: str,
    needs: Mapping[str, float],
    callbacks: Sequence[Any] = (),
) -> None:
    """Train on a group of Ray Train workers, each of which `needs` as much; see `make_room`.

    A killed one is replaced.
    """
    settings, least = config.train, config.train.least_workers
    use_gpu = bool(needs.get("GPU"))
    run_id = url.rpartition("/")[2]
    _feed(config, readers["train"].num_rows)
    fs, path = storage.filesystem(url)
    what = f"starting {plural(least, 'worker')}{' or more' * settings.is_elastic} for {run_id}"
    _set_patience(settings)
    # trials come and go: their series bear the name of them all
    meters = runtime.Meters(run=config.name if "trial" in known() else run_id)
    with _shown(what, config.optim.epochs, meters) as events:
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "config": dump(config),
                "readers": readers,
                "counts": counts,
                "events": events,
                "run_url": url,
            },
            torch_config=TorchConfig(backend=BACKENDS if use_gpu else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=settings.num_workers,
                use_gpu=use_gpu,
                resources_per_worker=dict(needs),
                elastic_resize_monitor_interval_s=RESIZE_S,
            ),
            run_config=ray.train.RunConfig(
                # a name of its own each time: what Ray left of an interrupted run is not read
                name=f"ray-{uuid.uuid4().hex[:8]}",
                storage_path=path,
                storage_filesystem=fs,
                worker_runtime_env={} if use_gpu else {"env_vars": heap.ENVIRONMENT},
                callbacks=list(callbacks),
                failure_config=ray.train.FailureConfig(
                    max_failures=settings.max_failures,
                    max_preemption_failures=settings.max_preemption_failures,
                    controller_failure_limit=2,
                ),
            ),
        )
        try:
            with _watched():
                failure = runtime.interruptible(trainer.fit).return_value
        except (TrainingFailedError, RayError) as error:
            raise _explained(error, run_id) from error
    if failure:
        raise getattr(errors, failure["error"])(failure["message"])


def _set_patience(settings: TrainConfig) -> None:
    """Have Ray wait less for an elastic group to start, where nobody has set how long."""
    name, usual = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", runtime.SETTINGS
    if settings.is_elastic and os.environ.get(name) == usual[name]:
        os.environ[name] = ELASTIC_START_S


@contextmanager
def _watched() -> Iterator[None]:
    """Have Ray watch for nodes that are taken back, but on a machine alone, which has but itself.

    The watcher is a process, and starts as slowly as a worker.
    """
    if WATCHER in os.environ or not runtime.is_alone():
        yield
        return
    os.environ[WATCHER] = "0"
    try:
        yield
    finally:
        del os.environ[WATCHER]


def _feed(config: Config, num_rows: int) -> None:
    """Refuse more workers than there are pictures."""
    least = config.train.least_workers
    if num_rows < least:
        raise DataError(
            f"{config.data.train}: {num_rows} pictures cannot feed {least} workers; "
            "lower train.num_workers"
        )


def make_room(config: Config, run_id: str) -> dict[str, float]:
    """Refuse a group that the cluster can never place; wait for one that it can.

    Args:
        config: of the run.
        run_id: who waits.

    Returns:
        What each worker needs: Ray resource → amount.
    """
    settings, least = config.train, config.train.least_workers
    use_gpu = runtime.wants_gpu(settings.use_gpu, count=least)
    needs = settings.needs(float(use_gpu))
    what = f"train.num_workers={least}"
    runtime.make_room(needs, least, config.cluster, what=what, who=run_id)
    return needs


def _work(arguments: dict[str, Any]) -> dict[str, str] | None:
    """Run in each Ray Train worker. What the user can mend is returned: it is not to be retried.

    A worker that fails alone raises instead, since Ray has to end the others, which wait for it.
    """
    config = parse_config(arguments["config"])
    readers: dict[str, data.Reader] = arguments["readers"]
    context = RayTrainContext(config, readers, arguments["events"])
    try:
        counts, url = arguments["counts"], arguments["run_url"]
        with about(run=url.rpartition("/")[2], rank=context.rank):
            run_worker(config, context, readers, counts, url=url)
    except RayposeError as error:
        if not _all_failed(context):
            raise
        return {"error": type(error).__name__, "message": str(error)}
    except CERTAIN as error:
        if not _all_failed(context):
            raise
        line = " ".join(str(error).split())[:200]
        message = f"training failed: {type(error).__name__}: {line}; it would fail again"
        return {"error": "TrainError", "message": message}
    return None


def _all_failed(context: WorkerContext) -> bool:
    """Return whether all ranks come here within a while."""
    if context.world_size == 1:
        return True
    store = dist.distributed_c10d._get_default_store()
    store.set(f"failed/{context.rank}", "")
    ranks = range(context.world_size)
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
        expected = [failure for failure in failures if isinstance(failure, RayposeError)]
        if expected:
            return expected[0]
        cause = next(iter(failures), error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [repr(cause)]
    return TrainError(
        f"{run_id}: training failed: {lines[-1][:200]}; its checkpoints stay, run it again to "
        "resume; --verbose shows everything"
    )


@contextmanager
def _shown(what: str, num_epochs: int, meters: runtime.Meters) -> Iterator[Queue]:
    """Yield a queue whose events are shown, and told to meters, while the block runs.

    Until the first comes, `what` is.
    """
    # it waits, and has no slot to take from workers
    events = Queue(actor_options={"num_cpus": 0, **runtime.beside_driver()})
    over = threading.Event()

    def arriving() -> Iterator[dict[str, Any]]:
        while not over.is_set():
            try:
                yield events.get(timeout=0.5)
            except Empty:
                continue
            except RayError:  # the cluster is going down; the main thread says why
                return

    def drain() -> None:
        source = arriving()
        with waiting(what):
            first = next(source, None)
        with bar("training") as update:
            for event in itertools.chain([first] if first else [], source):
                _measure(event, num_epochs, meters)
                _show(event, num_epochs, update)

    thread = threading.Thread(target=in_context(drain), daemon=True)
    thread.start()
    try:
        yield events
    finally:
        while thread.is_alive() and not events.empty():
            thread.join(timeout=0.1)
        over.set()
        thread.join(timeout=5)
        events.shutdown()


def _measure(event: dict[str, Any], num_epochs: int, meters: runtime.Meters) -> None:
    if event["kind"] == "step":
        meters.step(event)
    elif event["kind"] == "epoch":
        meters.epoch(event, num_epochs=num_epochs)


def _show(event: dict[str, Any], num_epochs: int, update: Callable[..., None]) -> None:
    if event["kind"] == "note":
        status(event["text"])
        return
    if event["kind"] == "step":
        epoch = f"epoch {event['epoch'] + 1}/{num_epochs}"
        note = f"{epoch}  loss {event['loss']:.3f}  {event['images_per_s']:.0f} images/s"
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
    status(f"epoch {event['epoch']}/{num_epochs}  {'  '.join(parts)}")


def run_worker(
    config: Config,
    context: WorkerContext,
    readers: dict[str, data.Reader],
    counts: tuple[int, ...],
    *,
    url: str,
) -> None:
    """Train and finish in one worker."""
    num_rows = readers["train"].num_rows
    if context.rank == 0:
        context.costs.read(sum(reader.num_read_bytes for reader in readers.values()))
    loop.train_worker(config, context, run_url=url, num_rows=num_rows, counts=counts)
    finish.finish(config, context, run_url=url)
