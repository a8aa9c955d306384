"""Documents that were stored: each kind is a model, and all are read in one way.

What lies in a bucket or a folder may have been written by anybody: names are held to patterns, and
what is not of its form is one line that says where and what to do.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from raypose import storage
from raypose.errors import DataError, RayposeError

__all__ = ["Stored", "parse_stored", "read_stored"]


class Stored(BaseModel):
    """Base of what is read: keys that a later version adds are let through."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


Form = TypeVar("Form")


def read_stored(
    form: type[Form],
    url: str,
    *,
    what: str,
    mend: str,
    error: type[RayposeError] = DataError,
) -> Form:
    """Read a document.

    Args:
        form: what it should be: a model, a dataclass, or another type.
        url: where it lies.
        what: what it is called, for the message.
        mend: what to do where it is something else, for the message.
        error: to raise there.

    Raises:
        RayposeError: `error`, where it is not of that form.
        NotFoundError: where it is absent.
        StorageError: where it cannot be read.
    """
    return parse_stored(form, storage.read_bytes(url), url, what=what, mend=mend, error=error)


def parse_stored(
    form: type[Form],
    content: bytes,
    url: str,
    *,
    what: str,
    mend: str,
    error: type[RayposeError] = DataError,
) -> Form:
    """Return a document from the bytes of its JSON: see `read_stored`."""
    try:
        return TypeAdapter(form).validate_json(content)
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        key = ".".join(str(part)[:40] for part in first["loc"])
        reason = f"{key}: {first['msg']}" if key else first["msg"]
        short = " ".join(reason.split())[:120]
        raise error(f"{url}: not {what} ({short}); {mend}") from None
