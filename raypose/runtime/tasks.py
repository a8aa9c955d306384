"""Independent tasks on the cluster, and what they raise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import ray
from ray.exceptions import RayTaskError

from raypose.errors import RayposeError

__all__ = ["spread", "unwrapped"]


def spread(num_tasks: int) -> Callable[..., Iterator[Any]]:
    """Return what runs independent tasks on the cluster: see `packing.serial` for its form.

    Args:
        num_tasks: at a time; each holds one CPU. A task whose process dies runs again.
    """

    def run(function: Callable[..., Any], tasks: Sequence[Any], common: Any) -> Iterator[Any]:
        remote = ray.remote(function)
        shared = ray.put(common)
        waiting = iter(tasks)
        running = [remote.remote(task, shared) for task in islice(waiting, num_tasks)]
        while running:
            (ready,), running = ray.wait(running)
            running += [remote.remote(task, shared) for task in islice(waiting, 1)]
            with unwrapped():
                result = ray.get(ready)
            yield result

    return run


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise what a task raised for the user as it was, without Ray's wrapping."""
    try:
        yield
    except RayTaskError as error:
        cause = error.cause
        if not isinstance(cause, RayposeError):
            raise
        # Ray Data has written beneath it how its own retries are set
        raise type(cause)(str(cause).splitlines()[0]) from None
