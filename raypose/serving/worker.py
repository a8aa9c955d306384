"""What a replica does, whether it speaks HTTP itself or not: bytes of a picture → its postures.

A request is answered wholly by the release that was in use when it came. Pictures are decoded in a
few threads, and those that take long in one of their own, so that they hold up none but each other;
what is decoded goes through the tower in batches. Here is no Ray.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from raypose.config import ServeConfig
from raypose.console import status
from raypose.data.images import Pixels, is_cheap
from raypose.errors import BadPicture, CheckpointError, RayposeError
from raypose.releases.predictions import Answer
from raypose.serving.batches import Batches, Full
from raypose.serving.figures import Figures
from raypose.serving.holding import Held, Holder

__all__ = ["Worker"]

DECODERS = 2
"""Threads that decode; on a CPU more would only take turns."""
DEAR = 16
"""Pictures that take long to decode, or are none, that may wait for their one thread."""


Item = tuple[Held, Pixels]


class Worker:
    """Holds a release, a canary beside where there is one, and classifies by them.

    Args:
        storage: where releases/ lies.
        settings: of the endpoint.
        tell: takes a line about releases that are taken or refused.
    """

    def __init__(
        self, storage: str, settings: ServeConfig, tell: Callable[[str], None] = status
    ) -> None:
        self.settings, self._tell = settings, tell
        self.main = Holder(storage, settings, tell=tell)
        self.canary: Holder | None = None
        self.figures: dict[str, Figures] = {}
        self._batches: Batches[Item, Answer] = Batches(
            _classified,
            size=settings.max_batch_size,
            wait_s=settings.batch_wait_s,
            limit=settings.max_queued_requests,
            max_wait_s=settings.max_wait_s,
        )
        self._decoders = ThreadPoolExecutor(DECODERS, "decode")
        self._dear = ThreadPoolExecutor(1, "decode-dear")
        self._decoding = self._decoding_dear = 0
        self._changing = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None

    async def point(self, reference: str) -> None:
        """Answer with what a reference means; follow its alias from then on.

        Raises:
            RayposeError: where nothing is in use, and nothing can be.
        """
        async with self._changing:
            await asyncio.to_thread(self.main.point, reference)
            await asyncio.to_thread(self._point_canary)
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._look())

    def _point_canary(self) -> None:
        name = self.settings.canary
        if not name or self.main.held is None:
            return
        reference = f"{self.main.held.release.partition(':')[0]}@{name}"
        if self.canary is None or self.canary.follows != reference:  # of another name
            self.canary = Holder(
                self.main.storage,
                self.settings,
                tell=lambda line: self._tell(f"canary: {line}"),
            )
        try:
            self.canary.point(reference)
        except RayposeError as error:  # all goes to the other until there is one
            self.canary.trouble = str(error)
            self._tell(f"no canary: {error}")

    async def _look(self) -> None:
        """Follow aliases, for good; not all replicas look at the same moment."""
        while True:
            await asyncio.sleep(self.settings.poll_s * random.uniform(0.75, 1.25))
            async with self._changing:
                for holder in (self.main, self.canary):
                    if holder is not None:
                        await asyncio.to_thread(holder.look)

    @property
    def ready(self) -> bool:
        """Whether a release is in use."""
        return self.main.held is not None

    @property
    def release(self) -> str:
        """What is in use; empty where nothing is."""
        return self.main.held.release if self.main.held else ""

    async def classify(self, content: bytes) -> Answer:
        """Return what the release in use says of a picture.

        Raises:
            BadPicture: where it is none.
            CheckpointError: where the release gives no number for it.
            Full: at once, where it would wait too long.
        """
        held, began = self._chosen(), time.perf_counter()
        figures = self.figures.setdefault(held.release, Figures())
        try:
            pixels = await self._decoded(held, content)
            answer = await self._batches.submit((held, pixels))
        except BadPicture:
            figures.refused += 1
            raise
        figures.answers += 1
        figures.seconds += time.perf_counter() - began
        figures.probability += answer.top[0].probability
        figures.labels[answer.top[0].label] += 1
        return answer

    def _chosen(self) -> Held:
        """Return the release for a request: the canary for its share of them."""
        assert self.main.held is not None
        canary = self.canary.held if self.canary else None
        if canary and random.random() < self.settings.canary_share:
            return canary
        return self.main.held

    async def _decoded(self, held: Held, content: bytes) -> Pixels:
        """Return a picture as the release takes it."""
        predictor = held.predictor
        self._batches.check(self._decoding)
        loop = asyncio.get_running_loop()
        if is_cheap(content):
            self._decoding += 1
            try:
                return await loop.run_in_executor(self._decoders, predictor.pixels, content)
            finally:
                self._decoding -= 1
        if self._decoding_dear >= DEAR:
            raise Full(1.0)
        self._decoding_dear += 1
        try:
            return await loop.run_in_executor(self._dear, predictor.pixels, content)
        finally:
            self._decoding_dear -= 1

    def status(self) -> dict[str, Any]:
        """Return what this replica answers with, what it refused, and its figures."""
        held, canary = self.main.held, self.canary
        return {
            "release": self.release,
            "since": held.since if held else 0.0,
            "proven": bool(held and held.proven),
            "backend": held.predictor.backend.name if held else "",
            "follows": self.main.follows,
            "canary": canary.held.release if canary and canary.held else "",
            "canary_follows": canary.follows if canary else "",
            "refused": self.main.refused,
            "canary_refused": canary.refused if canary else {},
            "awaited": self.main.awaited + (canary.awaited if canary else []),
            "trouble": self.main.trouble or (canary.trouble if canary else ""),
            "waiting": len(self._batches),
            "releases": {name: figures.told() for name, figures in self.figures.items()},
        }


def _classified(items: Sequence[Item]) -> list[Answer | Exception]:
    """Classify pictures, each by its own release: one pass for each release."""
    answers: list[Answer | Exception] = [RuntimeError("not classified")] * len(items)
    places: dict[int, list[int]] = {}
    for place, (held, _) in enumerate(items):
        places.setdefault(id(held), []).append(place)
    for found in places.values():
        held = items[found[0]][0]
        rows = held.predictor.probabilities(np.stack([items[place][1] for place in found]))
        for place, row in zip(found, rows, strict=True):
            try:
                answers[place] = Answer(held.release, held.predictor.rank(row))
            except CheckpointError as error:  # of this picture alone
                answers[place] = error
    return answers
