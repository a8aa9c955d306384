"""A third form of the loop's context: batches from memory, ranks by torch.distributed."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from raypose import config, synthesis
from raypose.captions import taxonomy
from raypose.clip.towers import whole
from raypose.data import Batch
from raypose.data.transforms import to_square
from raypose.training.costs import Costs
from support.models import TINY
from support.patience import PATIENCE_S

CLASSES = taxonomy.load("synthetic12")


def recipe(**overrides: Any) -> config.Config:
    base = {
        "data": {"train": "memory", "taxonomy": "synthetic12"},
        "model": {"backbone": "tiny", "architectures": {"tiny": TINY}},
        "optim": {"learning_rate": 1e-3, "epochs": 1, "batch_size": 8},
    }
    return config.override(config.parse_config(base), overrides)


def full(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return copies of tensors, put together where they are in parts; called on every rank."""
    return {name: whole(value.detach()).cpu().clone() for name, value in tensors.items()}


def batch(rows: list[int], *, bad: tuple[int, ...] = ()) -> Batch:
    """Drawn pictures number `rows`, some of them marked bad."""
    cards = [CLASSES.cards[row % len(CLASSES)] for row in rows]
    pictures = [
        to_square(np.array(synthesis.render(card.id, seed=row, size=48)), 32, resize="squash")
        for row, card in zip(rows, cards, strict=True)
    ]
    pixels = torch.from_numpy(np.stack(pictures))
    errors = ["damaged" if row in bad else "" for row in rows]
    for k, error in enumerate(errors):
        if error:
            pixels[k] = 0
    return Batch(
        pixels=pixels,
        targets=torch.tensor([row % len(CLASSES) for row in rows]),
        ids=[f"picture-{row}" for row in rows],
        errors=errors,
    )


class InMemory:
    """Hands out given batches; rank and world size are the process group's."""

    device = torch.device("cpu")

    def __init__(self, batches: list[Batch]) -> None:
        together = dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.world_size = dist.get_world_size() if together else 1
        self.given = batches
        self.reports: list[dict[str, Any]] = []
        self.leaves = False
        self.costs = Costs({"CPU": 2.0, "GPU": 0.5})

    def batches(
        self, split: str, *, batch_size: int, epoch: int, start: int = 0
    ) -> Iterator[Batch]:
        yield from self.given[start:]

    def progress(self, event: dict[str, Any]) -> None:
        if event["kind"] == "note":
            sys.stderr.write(f"{event['text']}\n")

    def leaving(self) -> bool:
        return self.leaves

    def report(self, values: dict[str, Any]) -> None:
        self.reports.append(values)


def in_group(rank: int, world_size: int, port: int, path: list[str], job: bytes) -> tuple[Any, str]:
    """Run a job as one rank of a new group; return what it returns, and what it told on stderr.

    Args:
        rank: of this process.
        world_size: of the group.
        port: of the store where the ranks meet, one over TCP as Ray's.
        path: where the test's own module is imported from.
        job: a pickled function and its arguments.
    """
    sys.path[:] = path
    work, arguments = pickle.loads(job)
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            return work(*arguments), told.getvalue()
    finally:
        dist.destroy_process_group()


@cache
def processes(world_size: int) -> ProcessPoolExecutor:
    """As many processes as ranks, kept for the session, each from one that has imported all."""
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["raypose.training.loop", "raypose.clip.towers"])
    return ProcessPoolExecutor(world_size, mp_context=context)


def spread(work: Any, *arguments: Any, world_size: int = 2, fresh: bool = False) -> list[Any]:
    """Run ``work(*arguments)`` on every rank of a new group; return what each returned.

    `fresh` processes are for FSDP, which keeps the mesh of a group that is gone.
    """
    if fresh:
        processes.cache_clear()
    job = pickle.dumps((work, arguments))
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = [
        processes(world_size).submit(in_group, rank, world_size, store.port, sys.path, job)
        for rank in range(world_size)
    ]
    results = [rank.result(timeout=PATIENCE_S) for rank in ranks]
    sys.stderr.writelines(told for _, told in results)
    return [result for result, _ in results]
