"""Room for what clients send: bytes that the requests of one process may hold, all together.

Each has a share of its own, so that small pictures are taken in whatever others send; what is
beyond it comes out of a room for all, so that a crowd of large bodies costs no more than a few.
Here is no Ray.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from raypose.training import heap

__all__ = ["OWN_BYTES", "NoRoom", "Room", "Share"]

OWN_BYTES = 1 << 20
"""Of each request, whatever there is room for."""
SETTLE_S = 1.0
"""After the last large body, until memory is given back: its bytes are let go of by then."""


class NoRoom(Exception):  # noqa: N818  no error: there is none
    """More is held than there is room for."""


class Room:
    """Counts the bytes beyond each request's own.

    Args:
        size: of the room, in bytes.
    """

    def __init__(self, size: int) -> None:
        self.size, self.taken, self._most = size, 0, 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """Hold what one request sends, until the block ends."""
        share = Share(self)
        try:
            yield share
        finally:
            self.taken -= share.beyond
            # the heap grows with bodies and keeps what they leave, unless it is asked
            if not self.taken and self._most >= self.size // 4:
                self._most = 0
                asyncio.get_running_loop().call_later(SETTLE_S, heap.give_back)

    def take(self, size: int) -> None:
        """Take bytes out of the room.

        Raises:
            NoRoom: where it has not as many.
        """
        if self.taken + size > self.size:
            raise NoRoom
        self.taken += size
        self._most = max(self._most, self.taken)


class Share:
    """What one request holds of a room."""

    def __init__(self, room: Room) -> None:
        self._room, self.size = room, 0

    @property
    def beyond(self) -> int:
        """Bytes that came out of the room."""
        return max(0, self.size - OWN_BYTES)

    def add(self, size: int) -> None:
        """Take in more.

        Raises:
            NoRoom: where the room is full; what came before stays held.
        """
        after = max(0, self.size + size - OWN_BYTES)
        self._room.take(after - self.beyond)
        self.size += size
