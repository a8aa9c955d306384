"""The metrics of a run as JSON lines: one object an epoch, rewritten whole so that none is torn."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from raypose import storage
from raypose.errors import DataError

__all__ = ["FILE", "Tracker", "read"]

FILE = "metrics.jsonl"
"""Of a run, in its folder."""


class Tracker:
    """Writes one line for each epoch; a resumed run drops the lines that it will write again.

    Attributes:
        also: is given each line as it is written.
    """

    def __init__(
        self,
        url: str,
        *,
        resume_epoch: int = 0,
        also: Callable[[dict[str, Any]], None] = lambda line: None,
    ) -> None:
        self.url, self.also = url, also
        self.lines = [line for line in read(url) if line["epoch"] < resume_epoch]

    def add(self, metrics: dict[str, Any]) -> None:
        """Add a line; `metrics` holds at least ``epoch``."""
        self.lines.append(metrics)

    def write(self) -> None:
        """Write all lines; one of several workers does."""
        text = "".join(json.dumps(storage.finite(line)) + "\n" for line in self.lines)
        storage.write_bytes(self.url, text.encode())
        self.also(self.lines[-1])


def read(url: str) -> list[dict[str, Any]]:
    """Return the lines of a metrics file; none if it is absent."""
    if not storage.exists(url):
        return []
    try:
        lines = [json.loads(line) for line in storage.read_bytes(url).splitlines()]
    except (RecursionError, ValueError):
        raise DataError(f"{url}: not JSON lines; move it away to go on") from None
    if not all(isinstance(line, dict) and isinstance(line.get("epoch"), int) for line in lines):
        raise DataError(f"{url}: not lines of metrics; move it away to go on")
    return lines
