"""Checkpoints written while training goes on: copied at once, written by a thread of rank 0.

The copies lie in buffers that are kept from one checkpoint to the next, page-locked where there is
a GPU: copying into fresh memory takes thirty times as long. At most one checkpoint is on its way;
the next waits for it. What cannot be written is raised then, on all ranks.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from raypose.clip import model
from raypose.clip.towers import whole
from raypose.training import checkpoint
from raypose.training.context import WorkerContext, collective

__all__ = ["Saver", "saving"]


class Saver:
    """Writes a run's checkpoints.

    Attributes:
        run_url: of the run.
        waited: seconds that the loop has waited for checkpoints.
    """

    def __init__(self, context: WorkerContext, run_url: str) -> None:
        self.waited = 0.0
        self.run_url, self._context = run_url, context
        self._buffers: dict[tuple[Any, ...], torch.Tensor] = {}
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._written = -1

    def save(
        self,
        record: checkpoint.Checkpoint,
        clip: model.Clip,
        weights: Mapping[str, torch.Tensor],
        training: Mapping[str, Any],
    ) -> None:
        """Take a copy of the state, and have it written; called on every rank.

        Args:
            record: where the run stands.
            clip: the model, for its configuration.
            weights: as they are scored and released, by name.
            training: what else is needed to go on, of tensors and plain values; empty for what no
                run goes on from.
        """
        asked = time.monotonic()
        self.wait()
        copies = self._copied(weights, "weights"), self._copied(training, "training")
        if self._context.device.type == "cuda":
            torch.cuda.synchronize(self._context.device)
        if self._context.rank == 0:
            arguments = (record, clip, *copies)
            self._thread = threading.Thread(target=self._write, args=arguments)
            self._thread.start()
        self.waited += time.monotonic() - asked

    def wait(self) -> None:
        """Wait for what is being written; called on every rank.

        Raises:
            RayposeError: on all ranks, where it could not be written.
        """
        collective(self._context, self._join)

    def settle(self) -> None:
        """Wait for what this rank is writing; whether it could is not asked."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _join(self) -> None:
        self.settle()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _write(self, record: checkpoint.Checkpoint, clip: model.Clip, *copies: Any) -> None:
        try:
            again = record.step == self._written
            checkpoint.save(self.run_url, record, clip, *copies, again=again)
            self._written = record.step
            checkpoint.prune(self.run_url)
        except Exception as error:  # raised where the loop comes by
            self._failure = error

    def _copied(self, value: Any, *place: Any) -> Any:
        """Return a copy of nested values; tensors whole, in buffers, on the first rank alone."""
        if isinstance(value, Mapping):
            return {key: self._copied(inner, *place, key) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            inner = [self._copied(one, *place, key) for key, one in enumerate(value)]
            return type(value)(inner)
        if not isinstance(value, torch.Tensor):
            return copy.deepcopy(value)
        tensor = whole(value.detach())  # on every rank: parts are gathered
        if self._context.rank:
            return None
        buffer = self._buffers.get(place)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            pinned = self._context.device.type == "cuda"
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
            self._buffers[place] = buffer
        return buffer.copy_(tensor, non_blocking=True)


@contextmanager
def saving(context: WorkerContext, run_url: str) -> Iterator[Saver]:
    """Yield a saver; what it was given last is written when the block is left."""
    saver = Saver(context, run_url)
    try:
        yield saver
        saver.wait()
    finally:
        saver.settle()
