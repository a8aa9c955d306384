"""The heap of a process that trains on a CPU: what a step gives back stays, for the next one.

glibc gives large blocks back to the system at once, and each page of them is had anew, and zeroed,
when the next step asks for as much: a quarter of a step of a convolutional tower.
"""

from __future__ import annotations

import ctypes
import threading

__all__ = ["ENVIRONMENT", "give_back", "hold"]

SETTINGS = {
    "MALLOC_MMAP_MAX_": (-4, 0),
    "MALLOC_TRIM_THRESHOLD_": (-1, -1),
    "MALLOC_TOP_PAD_": (-2, 1 << 26),
}
"""Name in the environment → the same by its number in malloc.h, for a process that runs, and its
value."""

ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    **{name: str(value) for name, (_, value) in SETTINGS.items()},
}
"""Of a process that is started to train, in whichever of its threads: other threads than the first
have heaps of 64 MiB, which do go back, unless all share one. Only glibc reads it."""


def hold() -> None:
    """Have this process keep what its first thread gives back; does nothing in another thread."""
    change = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it, and some others
    if change is None or threading.current_thread() is not threading.main_thread():
        return
    for number, value in SETTINGS.values():
        change(number, value)


def give_back() -> None:
    """Give back to the system what is free."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it, and holds on else
    if trim is not None:
        trim(0)
