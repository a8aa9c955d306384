"""Who builds a data set: one at a time. A claim names its holder, and lapses with him.

It keeps two builders from working against each other; what keeps them from harm is that shards bear
the digest of their content, and that a manifest is written only over the one that was seen.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Annotated

from pydantic import Field

from raypose import storage
from raypose.config import Stored, parse_stored
from raypose.console import owner
from raypose.errors import ConflictError, DataError, NotFoundError, StorageError

__all__ = ["CLAIM", "Claim", "hold"]

CLAIM = "claim.json"
RENEWED_S, LAPSES_S = 15.0, 120.0
_ACTIVE: set[str] = set()
"""Holders of this process, whose number says nothing of a claim that it could not let go."""


class Claim(Stored):
    """Who holds a place, and when he last said so."""

    holder: str
    """A number that no other has."""
    host: str
    pid: Annotated[int, Field(ge=1, lt=1 << 31)]
    at: Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
    """Seconds since 1970."""
    who: str = ""

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.at, UTC).strftime("%H:%M:%S UTC")
        return f"{self.who or 'somebody'} on {self.host}, process {self.pid}, last seen {since}"

    @property
    def has_lapsed(self) -> bool:
        """Its holder has been silent for long, or is a process of this machine that has ended."""
        silent = abs(time.time() - self.at) > LAPSES_S
        if silent or self.host != socket.gethostname():
            return silent
        return self.holder not in _ACTIVE if self.pid == os.getpid() else not _is_alive(self.pid)


@contextmanager
def hold(folder: str, *, what: str) -> Iterator[Callable[[], None]]:
    """Hold a folder; yields what raises where it was taken by another meanwhile.

    Args:
        folder: in which the claim lies.
        what: the place that is held, for messages.

    Raises:
        ConflictError: naming who holds it.
    """
    url = storage.join(folder, CLAIM)
    mine = Claim(
        holder=uuid.uuid4().hex, host=socket.gethostname(), pid=os.getpid(), at=0, who=owner()
    )
    tag = [_taken(url, mine, what)]
    _ACTIVE.add(mine.holder)
    lost: list[Exception] = []
    over = threading.Event()

    def renew() -> None:
        while not over.wait(RENEWED_S):
            try:
                tag[0] = storage.write_bytes(url, _now(mine), instead_of=tag[0])
            except (ConflictError, NotFoundError) as error:
                lost.append(error)
                return
            except StorageError:
                continue  # it is tried again well before the claim lapses

    def check() -> None:
        if lost:
            raise ConflictError(f"{what}: was taken over by {_holder(url)}; this build has ended")

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield check
    finally:
        over.set()
        thread.join()
        _ACTIVE.discard(mine.holder)
        if not lost:
            with suppress(StorageError):  # it lapses, and what ended the work is told
                storage.delete_file(url)
                storage.prune(folder)


def _taken(url: str, mine: Claim, what: str) -> str:
    """Take a place that is free, or whose holder is gone; return the claim's tag."""
    for _ in range(3):
        try:
            return storage.write_bytes(url, _now(mine), instead_of="")
        except ConflictError:
            pass
        try:
            content, tag = storage.read_tagged(url)
        except NotFoundError:
            continue  # let go this moment
        held = parse_stored(Claim, content, url, what="a claim", mend="delete it")
        if not held.has_lapsed:
            raise ConflictError(f"{what}: is being written by {held}; wait for it to end")
        try:
            return storage.write_bytes(url, _now(mine), instead_of=tag)
        except (ConflictError, NotFoundError):
            continue
    raise ConflictError(f"{what}: is being written by {_holder(url)}; wait for it to end")


def _holder(url: str) -> str:
    try:
        content = storage.read_bytes(url)
        return str(parse_stored(Claim, content, url, what="a claim", mend="delete it"))
    except (DataError, StorageError):
        return "another"


def _now(claim: Claim) -> bytes:
    return claim.model_copy(update={"at": time.time()}).model_dump_json().encode()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
