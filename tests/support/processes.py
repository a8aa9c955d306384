"""Processes that a test started, found by name or by mark."""

from __future__ import annotations

import os
import time
from pathlib import Path

from support.patience import PATIENCE_S

TRIAL = "ray::ImplicitFunc"
"""What a process is called in which a trial runs."""


def descendants(name: str, *, of: int = 0) -> list[int]:
    """Process ids below one, by default this, whose title starts with a name; never another's."""
    above = of or os.getpid()
    parent, title = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                title[int(entry.name)] = (entry / "cmdline").read_bytes().decode()
                parent[int(entry.name)] = int(stat.rsplit(")", 1)[1].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue

    def ours(pid: int) -> bool:
        while pid in parent:
            pid = parent[pid]
            if pid == above:
                return True
        return False

    return [pid for pid in title if title[pid].startswith(name) and ours(pid)]


def environ_of(pid: int) -> set[str]:
    """What a process was started with, as NAME=value."""
    return set(Path(f"/proc/{pid}/environ").read_text().split("\0"))


def marked(mark: str) -> list[str]:
    """Command lines of the processes that inherited a mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except (FileNotFoundError, PermissionError, ProcessLookupError):
                continue
    return found


def none_left(mark: str, name: str = "") -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if not any(name in title for title in marked(mark)):
            return True
        time.sleep(0.5)
    return False
