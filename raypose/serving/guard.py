"""Who may ask, and how often: API keys, of which only hashes are known, and limits by key.

A key is compared with all that there are, each in a time that does not depend on where it differs.
Limits are counted by each process for itself.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import re
import secrets
import time
from collections.abc import Mapping

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from raypose.config import ServeConfig
from raypose.errors import ConfigError

__all__ = ["Guard", "digest", "made"]

PREFIX = "rp_"
_PAIR = re.compile(r"([A-Za-z0-9][\w.-]*):([0-9a-f]{64})")


def made() -> str:
    """Return a new key: 256 bits by chance, so that a plain hash of it tells nothing."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(key: str) -> str:
    """Return what is kept of a key: its SHA-256, in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


class Guard:
    """Knows the keys and what each has asked.

    Raises:
        ConfigError: where the variable that is to hold the keys is not set, or holds other things;
            what it holds is not repeated.
    """

    def __init__(self, settings: ServeConfig) -> None:
        self._keys = {**settings.keys, **_from_environment(settings.keys_env)}
        self._limit: RateLimitItem | None = parse(settings.limit) if settings.limit else None
        self._counts = MovingWindowRateLimiter(MemoryStorage())

    def client(self, headers: Mapping[str, str]) -> str | None:
        """Return whose key a request bears; empty where none is asked for, None for a wrong one."""
        if not self._keys:
            return ""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        mine = digest(given).encode()
        found = None
        for name, known in self._keys.items():
            if hmac.compare_digest(mine, known.encode()):
                found = name
        return found

    def wait_s(self, client: str) -> int:
        """Count a request; return after how many whole seconds it may come, 0 for now."""
        if self._limit is None or self._counts.hit(self._limit, client):
            return 0
        reset = self._counts.get_window_stats(self._limit, client).reset_time
        return max(1, math.ceil(reset - time.time()))


def _from_environment(name: str) -> dict[str, str]:
    """Return name → hash of the keys that a variable holds."""
    if not name:
        return {}
    words = re.split(r"[\s,]+", os.environ.get(name, "").strip())
    if words == [""]:
        raise ConfigError(f"serve.keys_env: {name} is not set where the endpoint runs")
    found = [_PAIR.fullmatch(word) for word in words]
    if None in found:
        raise ConfigError(f"serve.keys_env: {name} holds more than pairs of NAME:SHA256")
    return {match[1]: match[2] for match in found if match}
