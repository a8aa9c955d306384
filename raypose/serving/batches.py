"""Requests gathered into batches for one thread: whatever came while a pass ran shares the next.

A request that is alone waits for nobody; one that would have to wait too long is refused as it
comes; one whose client has left is not worked on. Here is no Ray, and nothing of pictures.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["Batches", "Full"]

T = TypeVar("T")
R = TypeVar("R")
REMEMBERED = 15
"""Passes whose median says how long an item takes: one that was slow sways nothing."""


class Full(Exception):  # noqa: N818  it is the queue that is full
    """No more can wait.

    Attributes:
        retry_after_s: after which there should be room.
    """

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"too many requests are waiting; try again in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type[Full], tuple[float]]:
        return Full, (self.retry_after_s,)


class Batches(Generic[T, R]):
    """Gives items to a function in batches, one batch at a time, in a thread of its own.

    Args:
        work: items → for each, in order, a result, or an exception that is its alone.
        size: of a batch, at most.
        wait_s: for more items, before a batch that is not full begins.
        limit: of items that wait.
        max_wait_s: an item that would begin later than this is refused.
    """

    def __init__(
        self,
        work: Callable[[Sequence[T]], Sequence[R | Exception]],
        *,
        size: int,
        wait_s: float = 0.0,
        limit: int = 256,
        max_wait_s: float = 10.0,
    ) -> None:
        self._work, self._size, self._wait_s = work, size, wait_s
        self._limit, self._max_wait_s = limit, max_wait_s
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._running = 0
        self._took: deque[float] = deque(maxlen=REMEMBERED)
        self._takes_s = 0.0
        self._thread = ThreadPoolExecutor(1, "batches")
        self._more = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Return how many wait or are worked on."""
        return len(self._waiting) + self._running

    def check(self, others: int = 0) -> None:
        """Refuse an item that is to come where there is no room.

        Args:
            others: that are on their way here.

        Raises:
            Full: saying when there may be.
        """
        wait_s = (len(self) + others) * self._takes_s
        if len(self._waiting) + others >= self._limit or wait_s > self._max_wait_s:
            raise Full(max(1.0, wait_s))

    async def submit(self, item: T) -> R:
        """Return what becomes of an item; raise the exception that does.

        Raises:
            Full: at once, where it would wait too long.
        """
        self.check()
        if self._loop is None:
            self._loop = asyncio.get_running_loop().create_task(self._run())
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._more.set()
        return await future

    async def _run(self) -> None:
        """Work on batches, for good."""
        loop = asyncio.get_running_loop()
        while True:
            await self._more.wait()
            if self._wait_s and len(self._waiting) < self._size:
                await asyncio.sleep(self._wait_s)
            batch = self._taken()
            if not batch:
                continue
            self._running = len(batch)
            began = time.perf_counter()
            outcomes: Sequence[R | Exception]
            try:
                outcomes = await loop.run_in_executor(
                    self._thread, self._work, [item for item, _ in batch]
                )
            except Exception as error:  # of them all: the loop goes on
                outcomes = [error] * len(batch)
            self._took.append((time.perf_counter() - began) / len(batch))
            self._takes_s = statistics.median(self._took)
            self._running = 0
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                _settle(future, outcome)

    def _taken(self) -> list[tuple[T, asyncio.Future[R]]]:
        """Take the next batch off the queue, without those that nobody waits for."""
        batch: list[tuple[T, asyncio.Future[R]]] = []
        while self._waiting and len(batch) < self._size:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        if not self._waiting:
            self._more.clear()
        return batch


def _settle(future: asyncio.Future[R], outcome: R | Exception) -> None:
    if future.done():  # its client left
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
