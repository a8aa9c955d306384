"""Faults of a server, by chance and by seed: a layer between S3 and those who ask it.

A fault is drawn for each request; which request draws which depends on their order, as on a real
network, so that what holds must hold for all orders.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["KINDS", "Faults"]

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

KINDS = ("403", "500", "503", "slow", "cut", "lost")
"""Refused, failed, too busy, late, cut off in the middle, and done but with its answer lost."""
SLOW_S = 0.2
_BODIES = {
    "403": ("403 Forbidden", "ExpiredToken"),
    "500": ("500 Internal Server Error", "InternalError"),
    "503": ("503 Service Unavailable", "SlowDown"),
}


@dataclass
class Faults:
    """Which faults a server has, and how often.

    Attributes:
        rates: kind → share of requests, in 0..1.
        seed: of the draws.
        denied_after: requests after which every one is refused with 403, as by an expired token.
        only: what a request's path must hold to be at fault; by default any.
        counts: kind → how many there were; ``requests`` counts all.
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    denied_after: int | None = None
    only: str = ""
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._draws = threading.Lock()
        self._writes = threading.Lock()

    def wrap(self, app: App) -> App:
        """Return an application with these faults in front of another."""

        def faulty(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            kind = self._drawn(environ)
            if kind == "slow":
                time.sleep(SLOW_S)
            if kind in _BODIES:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                return _refuse(environ, start, *_BODIES[kind])
            conditional = "HTTP_IF_MATCH" in environ or "HTTP_IF_NONE_MATCH" in environ
            if environ["REQUEST_METHOD"] == "PUT" and conditional:
                with self._writes:  # moto takes no lock between looking and writing
                    answer = list(app(environ, start))
            else:
                answer = list(app(environ, start))
            if kind == "lost":
                return _refuse(environ, start, *_BODIES["500"])
            body = b"".join(answer)
            return _cut(body) if kind == "cut" and body else [body]

        return faulty

    def _drawn(self, environ: Mapping[str, Any]) -> str:
        """Draw the fault of a request; empty for none."""
        with self._draws:
            self.counts["requests"] += 1
            if self.only not in environ["PATH_INFO"]:
                return ""
            chance = self._random.random()
            kind = ""
            for name, rate in self.rates.items():
                if not kind and chance < rate:
                    kind = name
                chance -= rate
            if self.denied_after is not None and self.counts["requests"] > self.denied_after:
                kind = "403"
            self.counts[kind] += bool(kind)
            return kind


def _refuse(
    environ: Mapping[str, Any], start: Callable[..., Any], status: str, code: str
) -> list[bytes]:
    body = f"<Error><Code>{code}</Code><Message>a fault</Message></Error>".encode()
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    start(status, headers)
    return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]


def _cut(body: bytes) -> Iterator[bytes]:
    """Send half of a body, and break the connection."""
    yield body[: len(body) // 2]
    raise ConnectionError("cut off on purpose")
