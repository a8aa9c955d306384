"""The heap of a process that trains on a CPU: what a step gives back stays, for the next one.

glibc gives large blocks back to the system at once, and each page of them is had anew, and zeroed,
when the next step asks for as much: a quarter of a step of a convolutional tower.
"""

from __future__ import annotations

import ctypes
import threading

__all__ = ["ENVIRONMENT", "hold"]

ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "-1",
    "MALLOC_TOP_PAD_": str(1 << 26),
}
"""Of a process that is started to train, in whichever of its threads: other threads than the first
have heaps of 64 MiB, which do go back, unless all share one. Only glibc reads it."""

OPTIONS = {-4: 0, -1: -1, -2: 1 << 26}
"""The same by the numbers of malloc.h, for a process that runs: M_MMAP_MAX, M_TRIM_THRESHOLD and
M_TOP_PAD."""


def hold() -> None:
    """Have this process keep what its first thread gives back; does nothing in another thread."""
    change = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it, and some others
    if change is None or threading.current_thread() is not threading.main_thread():
        return
    for option, value in OPTIONS.items():
        change(option, value)
