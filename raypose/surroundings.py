"""What training needs of the place it runs in, and how its ranks keep together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist

from raypose import errors
from raypose.data import Batch
from raypose.errors import RayposeError

__all__ = ["Surroundings", "gather", "together"]

T = TypeVar("T")


class Surroundings(Protocol):
    """What training needs of the place it runs in."""

    rank: int
    world_size: int
    device: torch.device

    def batches(
        self, split: str, *, batch_size: int, epoch: int, start: int = 0
    ) -> Iterator[Batch]:
        """Return this rank's share of ``train`` or ``val``, less its first `start` batches."""

    def progress(self, event: dict[str, Any]) -> None:
        """Show something to the person who waits; called on rank 0.

        An event's ``kind`` is ``step``, with epoch, step, num_steps, loss and images_per_s; or
        ``note``, with a text.
        """

    def report(self, values: dict[str, Any]) -> None:
        """Hand over the metrics of an epoch; called on every rank."""


def gather(surroundings: Surroundings, item: T) -> list[T]:
    """Return every rank's item."""
    if surroundings.world_size == 1:
        return [item]
    items: list[Any] = [None] * surroundings.world_size
    dist.all_gather_object(items, item)
    return items


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
