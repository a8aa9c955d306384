"""One way to take a model over a data set: workers that Ray allots, a shard at a time.

Each worker holds one CPU, and one GPU where the cluster has any; it gets the model once, through
the object store, so that a model which only this machine has can be used on all. It reads a shard,
decodes it in threads some batches ahead, and gives back what little is made of it. Results are
handed on in the order of the shards, and few shards are under way: memory here does not grow with
their number.

A shard whose worker died is done again by another. Starting one takes seconds: within a block of
`kept` the next pass takes those of the last.
"""

from __future__ import annotations

import heapq
import io
import math
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import ray
import torch
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError

from raypose import runtime
from raypose.console import status
from raypose.data import Batch, Decode
from raypose.data.manifests import Shard
from raypose.data.shards import read_shard
from raypose.errors import ResourceError

__all__ = ["BATCH_SIZE", "Numbered", "Work", "kept", "run"]

BATCH_SIZE = 64


PER_WORKER = 128
"""Pictures that are worth another worker's start, some seconds."""


AT_ONCE = 2
"""Shards that a worker has: one is read and decoded while the other is computed."""


ATTEMPTS = 3
"""Workers that may die of one shard, or as they start."""


MAX_DECODERS = 8
"""Threads that decode for a GPU."""


PATIENCE_S = 30.0
"""A wait for the first worker that is longer is told."""


R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Numbered = tuple[int, Shard]
"""A shard, and its number in the data set."""
DIED = (RayActorError, OutOfMemoryError, ObjectLostError)
Needs = dict[str, float]
"""Ray resource → what each worker holds."""
_KEPT: ContextVar[list[tuple[Needs, Any]] | None] = ContextVar("kept", default=None)


class Work(Protocol[R_co]):
    """What is made of each shard. It travels to the workers, its model with it."""

    @property
    def decode(self) -> Decode:
        """How a shard becomes pixels."""

    def to(self, device: torch.device) -> None:
        """Move the model to a device."""

    def shard(self, number: int, batches: Iterator[Batch]) -> R_co:
        """Return what is made of a shard, from its rows in batches of `BATCH_SIZE`."""


def run(
    work: Work[R],
    url: str,
    shards: Sequence[Numbered],
    *,
    num_workers: int = 0,
    use_gpu: bool | None = None,
) -> Iterator[R]:
    """Yield what is made of each of some shards, in their order; Ray is connected.

    Args:
        work: what is done.
        url: of the data set, where the workers see it.
        shards: those to take.
        num_workers: 0 for as many as there is room for and the pictures are worth.
        use_gpu: one GPU each; by default where the cluster has any.

    Raises:
        RayposeError: what a shard raised for the user.
        ResourceError: where the cluster has no room, or workers die again and again.
    """
    if not shards:
        return
    gpu = runtime.wants_gpu(use_gpu, count=1)
    needs: Needs = {"GPU": 1.0, "CPU": 1.0} if gpu else {"CPU": 1.0}
    runtime.require(needs, what="a worker", mend="raise cluster.num_cpus, or ask for no GPU")
    size = num_workers or _room(needs, sum(shard.num_rows for _, shard in shards))
    crew = _Crew(_packed(work), url, shards, needs, min(size, len(shards)))
    try:
        yield from crew.results()
    finally:
        crew.dismiss()


@contextmanager
def kept() -> Iterator[None]:
    """Keep the workers of passes in this block for the next ones in it; Ray is connected."""
    if _KEPT.get() is not None:
        yield
        return
    stock: list[tuple[Needs, Any]] = []
    before = _KEPT.set(stock)
    try:
        yield
    finally:
        _KEPT.reset(before)
        for _, worker in stock:
            ray.kill(worker)


def _packed(work: Work[Any]) -> ray.ObjectRef[Any]:
    """Put work into the object store, its tensors fit to be loaded onto any device."""
    content = io.BytesIO()
    torch.save(work, content)
    return ray.put(np.frombuffer(content.getbuffer(), np.uint8))


def _room(needs: Needs, num_rows: int) -> int:
    """Return how many workers there is room for now, and enough pictures; at least 1."""
    there = ray.available_resources()
    room = min(int(there.get(name, 0) // amount) for name, amount in needs.items())
    room += sum(held == needs for held, _ in _KEPT.get() or ())
    room = min(room, runtime.at_once() or room)
    return max(1, min(room, math.ceil(num_rows / PER_WORKER)))


class _Worker:
    """A process that Ray allots; two shards go through it at a time, one at a time computing."""

    def __init__(self) -> None:
        self.work: Work[Any] | None = None
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        cores = runtime.cores() if self.device.type == "cuda" else 1
        # the workers side by side are the parallelism: no thread is to have threads of its own
        self.decoders = ThreadPoolExecutor(
            min(cores, MAX_DECODERS), initializer=torch.set_num_threads, initargs=(1,)
        )
        self.computing = threading.Lock()

    def load(self, given: Sequence[ray.ObjectRef[Any]]) -> None:
        """Take work out of the object store, in place of what was there."""
        torch.set_num_threads(1)
        self.work = None  # its memory is wanted
        content = io.BytesIO(ray.get(given[0]))
        # weights_only refuses all but tensors, and this was packed by ourselves a moment ago
        work: Work[Any] = torch.load(content, map_location=self.device, weights_only=False)
        work.to(self.device)
        self.work = work

    def run(self, url: str, number: int, shard: Shard) -> Any:
        """Return what is made of a shard."""
        torch.set_num_threads(1)  # of this thread, one of several
        assert self.work is not None
        with closing(self._batches(self.work.decode, url, shard)) as batches:
            return self.work.shard(number, batches)

    def _batches(self, decode: Decode, url: str, shard: Shard) -> Generator[Batch]:
        rows = read_shard(url, shard)
        for batch in decode.batches(rows, batch_size=BATCH_SIZE, pool=self.decoders):
            with self.computing:  # until the next is asked for
                yield batch


@dataclass
class _Crew:
    """The workers of one pass, and what each is at.

    Attributes:
        given: the work, in the object store.
        url: of the data set.
        shards: to take.
        needs: Ray resource → what each worker holds.
        size: how many workers.
        workers: number → worker; one that died is replaced by another number.
        free: number of a worker → shards that it could take beside those it has.
        waiting: what is waited for → number of its worker and place of its shard, None for a
            worker that loads.
        todo: places of shards that no worker has, a heap.
        deaths: place → workers that died of it.
    """

    given: ray.ObjectRef[Any]
    url: str
    shards: Sequence[Numbered]
    needs: Needs
    size: int
    workers: dict[int, Any] = field(default_factory=dict)
    free: dict[int, int] = field(default_factory=dict)
    waiting: dict[Any, tuple[int, int | None]] = field(default_factory=dict)
    todo: list[int] = field(default_factory=list)
    deaths: Counter[int | None] = field(default_factory=Counter)
    num_hired: int = 0

    def results(self) -> Iterator[Any]:
        """Yield what is made of the shards, in order."""
        self.todo = list(range(len(self.shards)))
        for _ in range(self.size):
            self._hire()
        ahead = 2 * AT_ONCE * self.size  # what is done before its turn is held here
        done: dict[int, Any] = {}
        for turn in range(len(self.shards)):
            while turn not in done:
                self._hand_out(turn + ahead)
                done |= self._heard()
            yield done.pop(turn)

    def dismiss(self) -> None:
        """Let the workers go: those that are at nothing may be kept."""
        busy, stock = {number for number, _ in self.waiting.values()}, _KEPT.get()
        for number, worker in self.workers.items():
            if stock is None or number in busy:
                ray.kill(worker)
            else:
                stock.append((self.needs, worker))

    def _hire(self) -> None:
        stock = _KEPT.get() or []
        found = next((place for place, (held, _) in enumerate(stock) if held == self.needs), None)
        worker = self._started() if found is None else stock.pop(found)[1]
        self.workers[self.num_hired] = worker
        self.waiting[worker.load.remote([self.given])] = (self.num_hired, None)
        self.num_hired += 1

    def _started(self) -> Any:
        hired = ray.remote(_Worker).options(
            num_cpus=self.needs["CPU"],
            num_gpus=self.needs.get("GPU", 0),
            max_concurrency=AT_ONCE,
        )
        return hired.remote()

    def _hand_out(self, end: int) -> None:
        """Give shards before a place to workers that could take some."""
        for number, worker in self.workers.items():
            while self.free.get(number) and self.todo and self.todo[0] < end:
                place = heapq.heappop(self.todo)
                job = worker.run.remote(self.url, *self.shards[place])
                self.waiting[job] = (number, place)
                self.free[number] -= 1

    def _heard(self) -> dict[int, Any]:
        """Wait for one answer; return what it brings: place → result."""
        ready, _ = ray.wait(list(self.waiting), timeout=None if self.free else PATIENCE_S)
        if not ready:
            needs = ", ".join(f"{amount:g} {name}" for name, amount in self.needs.items())
            status(f"no worker has started yet: each waits for {needs} of the cluster to be free")
            return {}
        number, place = self.waiting.pop(ready[0])
        try:
            with runtime.unwrapped():
                result = ray.get(ready[0])
        except DIED as error:
            self._replace(number, place, " ".join(str(error).split())[:160])
            return {}
        if place is None:
            self.free[number] = AT_ONCE if len(self.shards) > self.size else 1
            return {}
        self.free[number] += 1
        return {place: result}

    def _replace(self, number: int, place: int | None, reason: str) -> None:
        """Put back what a worker had that has died, and have another.

        Raises:
            ResourceError: where as many as may have died of one shard.
        """
        had = [job for job, (whose, _) in self.waiting.items() if whose == number]
        lost = {place, *(self.waiting.pop(job)[1] for job in had)}
        ray.kill(self.workers.pop(number))  # a worker that answers no more may live on
        self.free.pop(number, None)
        self.deaths.update(lost)
        worst = max(lost, key=lambda each: self.deaths[each])
        if self.deaths[worst] >= ATTEMPTS:
            what = self.url if worst is None else f"{self.url}: {self.shards[worst][1].name}"
            raise ResourceError(
                f"{what}: {ATTEMPTS} workers died of it ({reason}); see that they have the memory"
            )
        for each in lost:
            if each is not None:
                heapq.heappush(self.todo, each)
        self._hire()
