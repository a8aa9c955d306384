from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Sequence

import pytest

from raypose.serving.batches import Batches, Full


class Slow:
    """Doubles numbers, a batch at a time, each when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Semaphore(0)

    def __call__(self, items: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(items))
        self.gate.acquire()
        return [ValueError(f"{item} is odd") if item % 2 else 2 * item for item in items]


async def begun(slow: Slow, num: int) -> None:
    while len(slow.batches) < num:
        await asyncio.sleep(0.001)


def test_what_comes_while_a_pass_runs_shares_the_next() -> None:
    slow = Slow()

    async def run() -> list[object]:
        batches: Batches[int, int] = Batches(slow, size=3)
        first = asyncio.create_task(batches.submit(0))
        await begun(slow, 1)
        rest = [asyncio.create_task(batches.submit(k)) for k in (2, 3, 4, 6)]
        await asyncio.sleep(0)
        assert len(batches) == 5
        for _ in range(3):
            slow.gate.release()
        return await asyncio.gather(first, *rest, return_exceptions=True)

    answers = asyncio.run(run())
    assert slow.batches == [[0], [2, 3, 4], [6]]  # one that is alone waits for nobody
    assert [str(answer) for answer in answers] == ["0", "4", "3 is odd", "8", "12"]


def test_those_who_leave_are_not_worked_on() -> None:
    slow = Slow()

    async def run() -> int:
        batches: Batches[int, int] = Batches(slow, size=4)
        first = asyncio.create_task(batches.submit(0))
        await begun(slow, 1)
        leaving, staying = (asyncio.create_task(batches.submit(k)) for k in (2, 4))
        await asyncio.sleep(0)
        leaving.cancel()
        slow.gate.release()
        slow.gate.release()
        assert await first == 0
        return await staying

    assert asyncio.run(run()) == 8
    assert slow.batches == [[0], [4]]


def test_more_than_can_wait_are_refused_at_once() -> None:
    slow = Slow()

    async def run() -> None:
        batches: Batches[int, int] = Batches(slow, size=1, limit=2)
        tasks = [asyncio.create_task(batches.submit(0))]
        await begun(slow, 1)
        tasks += [asyncio.create_task(batches.submit(k)) for k in (2, 4)]
        await asyncio.sleep(0)
        with pytest.raises(Full, match="too many requests are waiting; try again in 1 s"):
            await batches.submit(6)
        for _ in range(3):
            slow.gate.release()
        assert await asyncio.gather(*tasks) == [0, 4, 8]
        slow.gate.release()
        assert await batches.submit(8) == 16  # there is room again

    asyncio.run(run())


def test_who_would_wait_too_long_is_refused() -> None:
    slow = Slow()

    async def run() -> float:
        batches: Batches[int, int] = Batches(slow, size=1, max_wait_s=0.15)
        batches._takes_s = 0.1  # as if each took so long
        tasks = [asyncio.create_task(batches.submit(0))]
        await begun(slow, 1)
        tasks.append(asyncio.create_task(batches.submit(2)))  # in 0.1 s
        await asyncio.sleep(0)
        with pytest.raises(Full) as refused:
            await batches.submit(4)  # in 0.2 s
        for _ in range(2):
            slow.gate.release()
        await asyncio.gather(*tasks)
        return refused.value.retry_after_s

    assert asyncio.run(run()) == 1.0


def test_a_pass_that_fails_ends_nothing_else() -> None:
    def work(items: Sequence[int]) -> list[int | Exception]:
        if 13 in items:
            raise MemoryError("too large")
        return list(items)

    async def run() -> None:
        batches: Batches[int, int] = Batches(work, size=4)
        with pytest.raises(MemoryError, match="too large"):
            await batches.submit(13)
        assert await batches.submit(1) == 1

    asyncio.run(run())


def test_a_refusal_travels() -> None:
    again = pickle.loads(pickle.dumps(Full(2.5)))
    assert (again.retry_after_s, str(again)) == (2.5, str(Full(2.5)))
