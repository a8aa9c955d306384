"""How figures are told to a person: sizes, whose something is, what it took."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from raypose.console import one_line

__all__ = ["costs", "origin", "size"]


MAX_OWNER = 40
"""Characters of a name that are shown."""


def size(count: float) -> str:
    """Return bytes in the unit that fits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def origin(owner: str, began: float) -> str:
    """Return for whom something was begun, and when, as far as that is known.

    Args:
        owner: empty where it is not known.
        began: seconds since 1970; 0 where it is not known.
    """
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(began)) if began else ""
    short = one_line(owner if len(owner) <= MAX_OWNER else f"{owner[:MAX_OWNER]}…")
    return " ".join(filter(None, (at, f"by {short}" if owner else "")))


def costs(taken: Mapping[str, Any]) -> str:
    """Return what was taken, by the keys of `training.costs.COSTS`; empty for nothing."""
    parts = [
        f"{taken[key]:.3g} {name} hours"
        for key, name in (("gpu_hours", "GPU"), ("cpu_hours", "CPU"))
        if taken[key]
    ]
    parts += [f"{size(taken['bytes_read'])} read"] if taken["bytes_read"] else []
    return f"took {', '.join(parts)}" if parts else ""
