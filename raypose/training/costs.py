"""What a run costs: hours of the CPUs and GPUs that its workers hold, and bytes that they read.

Counted from within, epoch by epoch, so that what a killed worker did since its last checkpoint is
left out, and so are tasks that decode pictures elsewhere.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from raypose import runtime

__all__ = ["COSTS", "Costs", "added"]

COSTS = ("cpu_hours", "gpu_hours", "bytes_read")
"""Keys of metrics: what all workers together took."""


class Costs:
    """Counts what one worker takes.

    Args:
        held: Ray resource → amount, of this worker; by default what Ray has given it.

    Attributes:
        bytes_read: of shards, since `taken` was last called.
    """

    def __init__(self, held: Mapping[str, float] | None = None) -> None:
        self.held = runtime.held() if held is None else held
        self.bytes_read = 0
        self._since = time.monotonic()

    def read(self, num_bytes: int) -> None:
        """Count bytes that were read."""
        self.bytes_read += num_bytes

    def taken(self) -> dict[str, float]:
        """Return what was taken since this was last called, by the keys `COSTS`."""
        now = time.monotonic()
        hours, self._since = (now - self._since) / 3600, now
        count, self.bytes_read = self.bytes_read, 0
        cpus, gpus = (self.held.get(name, 0.0) for name in ("CPU", "GPU"))
        return {"cpu_hours": hours * cpus, "gpu_hours": hours * gpus, "bytes_read": count}


def added(parts: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the sum of what some workers or epochs took; what is absent or no amount is 0."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update({name: _amount(part.get(name)) for name in COSTS})
    return {name: total[name] for name in COSTS}


def _amount(value: Any) -> Any:
    whole = isinstance(value, int | float) and not isinstance(value, bool)
    return value if whole and math.isfinite(value) and value >= 0 else 0
