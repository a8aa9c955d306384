"""The next batch, fetched and sent to the device while a step is computed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from raypose.data import Batch

__all__ = ["Prefetcher"]


class Prefetcher:
    """Batches, the next of which is fetched and sent to the device while a step is computed.

    Attributes:
        waited: seconds that were waited for batches.
    """

    def __init__(self, source: Iterator[Batch], device: torch.device) -> None:
        self.waited = 0.0
        self._source, self._device = source, device
        self._fetched: list[Batch | None] = []

    def fetch(self) -> None:
        """Have the next batch at hand."""
        if self._fetched:
            return
        asked = time.monotonic()
        batch = next(self._source, None)
        self.waited += time.monotonic() - asked
        if batch and self._device.type == "cuda":
            # only from pinned memory does a copy not wait for what the device has yet to do
            pixels, targets = (
                tensor.pin_memory().to(self._device, non_blocking=True)
                for tensor in (batch.pixels, batch.targets)
            )
            batch = replace(batch, pixels=pixels, targets=targets)
        self._fetched.append(batch)

    def take(self) -> Batch | None:
        """Return the next batch; None where there is no more."""
        self.fetch()
        return self._fetched.pop()
