"""A worker's context: what training needs to know of where it runs, and its collectives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist

from raypose import data, errors
from raypose.config import Config
from raypose.data import Batch
from raypose.data.order import Part
from raypose.errors import RayposeError
from raypose.training.costs import Costs

__all__ = [
    "LocalContext",
    "Report",
    "WorkerContext",
    "collective",
    "gather",
    "note",
    "read_batches",
]

T = TypeVar("T")
Report = Callable[[dict[str, Any]], None]


class WorkerContext(Protocol):
    """What training needs to know of where it runs."""

    rank: int
    world_size: int
    device: torch.device
    costs: Costs

    def batches(
        self, split: str, *, batch_size: int, epoch: int, start: int = 0
    ) -> Iterator[Batch]:
        """Return this rank's share of ``train`` or ``val``, less its first `start` batches."""

    def progress(self, event: dict[str, Any]) -> None:
        """Show something to the person who waits; called on rank 0.

        An event's ``kind`` is ``step``, with epoch, step, num_steps, loss and images_per_s; or
        ``note``, with a text.
        """

    def leaving(self) -> bool:
        """Whether this place is known to go soon, so that a checkpoint is due now."""

    def report(self, values: dict[str, Any]) -> None:
        """Hand over the metrics of an epoch; called on every rank."""


class LocalContext:
    """The context of a process of one's own: a trial, a test, a notebook."""

    rank = 0
    world_size = 1

    def __init__(self, config: Config, readers: dict[str, data.Reader], report: Report) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.config = config
        self.readers = readers
        self.report = report
        self.costs = Costs()

    def batches(
        self, split: str, *, batch_size: int, epoch: int, start: int = 0
    ) -> Iterator[data.Batch]:
        """Return all of a split, less its first batches."""
        part = Part(batch_size=batch_size)
        return read_batches(self, self.readers[split], part, split, epoch=epoch, start=start)

    def progress(self, event: dict[str, Any]) -> None:
        """Keep silent: whoever holds this process reports."""

    def leaving(self) -> bool:
        """Never: nobody tells."""
        return False


def note(context: WorkerContext, text: str) -> None:
    """Say something to the person who waits; called on any ranks, said by the first."""
    if context.rank == 0:
        context.progress({"kind": "note", "text": text})


def gather(context: WorkerContext, item: T) -> list[T]:
    """Return every rank's item."""
    if context.world_size == 1:
        return [item]
    items: list[Any] = [None] * context.world_size
    dist.all_gather_object(items, item)
    return items


def collective(context: WorkerContext, work: Callable[[], T]) -> T:
    """Do something on every rank; an error on one is raised on all, so that none waits."""
    result, failure = None, None
    try:
        result = work()
    except RayposeError as error:
        failure = (type(error).__name__, str(error))
    failures = [found for found in gather(context, failure) if found]
    if failures:
        name, message = failures[0]
        raise getattr(errors, name)(message)
    return result  # type: ignore[return-value]


class _Reading(Protocol):
    config: Config
    costs: Costs


def read_batches(
    context: _Reading, reader: data.Reader, part: Part, split: str, *, epoch: int, start: int
) -> Iterator[data.Batch]:
    """Return a rank's batches of a split, less the first `start`: see `WorkerContext.batches`."""
    config, rows = context.config, reader.share(part)
    if split == "train":
        rows = reader.epoch(
            part,
            window=config.data.shuffle_rows,
            seed=config.seed,
            epoch=epoch,
            preserve_order=config.data.preserve_order,
        )
    rows = rows[start * part.batch_size :]
    return reader.batches(rows, batch_size=part.batch_size, told=context.costs.read)
