"""Places that a command names: releases to be found, files to be written."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raypose.console import waiting
from raypose.errors import ResourceError, UsageError

__all__ = [
    "check_out",
    "is_shared",
    "looked_up",
    "require_answer",
    "require_port",
    "require_shared",
]

ANSWER_S = 3.0
"""How long an address may take to take a connection."""


OURS = {
    ".html": (b"", b"content=raypose"),
    ".htm": (b"", b"content=raypose"),
    ".png": (b"\x89PNG", b"raypose"),
    ".csv": (b"picture,label,name,probability,error", b""),
    ".jsonl": (b'{"picture":', b'"probability":'),
    ".parquet": (b"", b"probability"),
    ".log": (b'{"op_code":', b'"user_attr":{"raypose":'),
}
"""Ending → what a file of ours begins with, and what is in its first bytes, or its last."""


def is_shared(place: str, shared: Sequence[str]) -> bool:
    """Tell whether a place of this machine is in a folder that all nodes of a cluster have."""
    place = os.path.abspath(place)
    return any(place == above or place.startswith(f"{above.rstrip('/')}/") for above in shared)


def require_shared(release: Any, shared: Sequence[str], *, word: str) -> None:
    """Refuse a release that only this machine has, where other nodes of a cluster must read it.

    Args:
        release: found in a registry.
        shared: folders that all nodes have: `cluster.shared`.
        word: as it was named.
    """
    if release.is_local and not is_shared(release.url, shared):
        raise UsageError(
            f"{word}: lies on this machine, where other nodes of the cluster cannot see it; "
            "publish it to s3://, or name a folder that all nodes have by cluster.shared"
        )


def require_port(host: str, port: int) -> None:
    """Refuse a port that is taken, before anything starts; 0 is any that is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise ResourceError(
                f"{host}:{port}: cannot be bound ({reason}); set serve.port=0 for any that is free"
            ) from None


def looked_up(root: str, reference: str) -> Any:
    """Return the release that a reference means: see `registry.resolve`."""
    from raypose.releases import registry

    place = reference.startswith("s3://") or os.path.isdir(reference)
    with waiting(f"looking for {reference}" + ("" if place else f" in {root}")):
        return registry.resolve(root, reference)


def check_out(url: str, endings: tuple[str, ...] = (), *, force: bool = False) -> None:
    """Refuse a file that cannot be written, before what it is to hold is computed.

    Args:
        url: of the file.
        endings: of the forms that can be written; any where none is named.
        force: let what is no work of ours be written over.

    Raises:
        UsageError: for another ending, a folder, a place where nothing can be written, or a file
            that is there and no work of ours.
    """
    if endings and not url.endswith(endings):
        raise UsageError(f"out: {url!r} ends in none of {', '.join(endings)}")
    if not url.startswith("s3://"):
        path = Path(url)
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if path.is_dir() or not above.is_dir() or not os.access(above, os.W_OK):
            what = "is a folder" if path.is_dir() else "cannot be written"
            raise UsageError(f"out: {url}: {what}; name a file to write")
    if not force and not _is_ours(url):
        raise UsageError(
            f"out: {url}: is there already, and nothing of raypose's; name another file"
        )


def _is_ours(url: str) -> bool:
    """Tell whether a place is free, or holds what an earlier command wrote there."""
    from raypose import storage

    found = storage.stat(url)
    if found is None or not found.size:
        return True
    if Path(url).suffix.lower() not in OURS:
        return False
    starts, holds = OURS[Path(url).suffix.lower()]
    first, size = 0, min(found.size, 1024)
    if url.lower().endswith(".parquet"):  # whose columns are named at its end
        size = min(found.size, 64 * 1024)
        first = found.size - size
    seen = storage.read_bytes(url, offset=first, size=size)
    return seen.startswith(starts) and holds in seen


def require_answer(address: str) -> None:
    """Refuse an address where nobody listens, for which Ray itself waits for minutes."""
    named = re.fullmatch(r"(?:\w+://)?\[?([^/@]+?)\]?:(\d+)/?", address)
    if named is None:
        return
    try:
        socket.create_connection((named[1], int(named[2])), timeout=ANSWER_S).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ResourceError(f"{address}: nobody answers ({reason})") from None
