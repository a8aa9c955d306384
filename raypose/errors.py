"""The errors a user can cause or mend, each with the exit code that the command line ends with.

A message says what is wrong, where, what was found and what to do; lower case, no trailing stop.
Programming mistakes are not here: they stay the plain exceptions that Python raises.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BadPicture",
    "CaptionError",
    "CheckpointError",
    "ConfigError",
    "ConflictError",
    "DataError",
    "EndpointError",
    "NotFoundError",
    "RayposeError",
    "RegistryError",
    "ResourceError",
    "StorageError",
    "TaxonomyError",
    "TrainError",
    "UsageError",
    "did_you_mean",
]


class RayposeError(Exception):
    """Base of every error that is told to the user in one line."""

    exit_code = 1

    @property
    def called(self) -> str:
        """What a user reads before the line: a kind that he can do something about."""
        return "DataError" if isinstance(self, DataError) else type(self).__name__


class UsageError(RayposeError):
    """The command line itself is wrong."""

    exit_code = 2


class ConfigError(RayposeError):
    """A recipe, a key or a value is wrong."""

    exit_code = 3


class TaxonomyError(RayposeError):
    """A taxonomy is malformed, or a label is not in it."""

    exit_code = 3


class CaptionError(RayposeError):
    """A caption grammar cannot be parsed or rendered."""

    exit_code = 3


class DataError(RayposeError):
    """A data set is missing, incomplete or holds too many bad pictures."""

    exit_code = 3


class BadPicture(DataError):  # noqa: N818  it is the picture that is bad, not the work
    """What a picture holds cannot be used: not that it could not be read from where it lies."""


class CheckpointError(RayposeError):
    """A checkpoint is damaged or of another format."""

    exit_code = 3


class NotFoundError(DataError):
    """A file is not there."""


class StorageError(RayposeError):
    """A place could not be read or written: access, network, disk. What lies there may be good."""


class ConflictError(StorageError):
    """Another was there first: what is to be written over is not what it was."""


class RegistryError(RayposeError):
    """A release or alias is missing, damaged or wrongly named."""

    exit_code = 3


class TrainError(RayposeError):
    """A run or a search failed."""


class EndpointError(RayposeError):
    """An endpoint that does not come up, or does not take what it is given."""


class ResourceError(RayposeError):
    """The cluster cannot ever give what was asked."""

    exit_code = 5


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean "x"?`` for the nearest known word, or an empty string."""
    words = list(known)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    near = near or [other for other in words if word and other.startswith(word)]
    return f'; did you mean "{near[0]}"?' if near else ""
