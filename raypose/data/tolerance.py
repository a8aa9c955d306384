"""How many bad pictures are tolerated: `data.max_bad_fraction`, in training and scoring alike."""

from __future__ import annotations

from collections.abc import Mapping

from raypose.errors import DataError

__all__ = ["check_bad"]


def check_bad(
    bad: Mapping[str, str], *, num_rows: int, where: str, allowed: float, key: str = ""
) -> None:
    """Refuse a data set of which more pictures are bad than is tolerated.

    Args:
        bad: id → error.
        num_rows: pictures in all.
        where: location of the data set.
        allowed: share in 0..1.
        key: of the share, for the message.

    Raises:
        DataError: naming how many, and the first.
    """
    if len(bad) <= allowed * num_rows:
        return
    first, error = next(iter(bad.items()))
    raise DataError(
        f"{where}: {len(bad)} of {num_rows} pictures are bad, more than "
        f"{key or 'data.max_bad_fraction'}={allowed:g} allows; first {first}: {error}; "
        "build the shards again, or raise it"
    )
