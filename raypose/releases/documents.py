"""What the registry keeps in JSON, each kind read in one way: manifests and aliases.

A document that is not what it should be is an error of one line that names its place; one that
cannot be read at all is the storage's own.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raypose import storage
from raypose.config import NAME_PATTERN
from raypose.errors import RegistryError

__all__ = ["FORMAT", "VERSION_PATTERN", "Alias", "Manifest", "Settings", "read"]

FORMAT: Final = "raypose-release/1"
VERSION_PATTERN = r"^v(\d+)-[0-9a-f]{8}$"

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Version = Annotated[str, Field(pattern=VERSION_PATTERN)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Document(BaseModel):
    """Base of what is read: keys that a later version adds are let through."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class Manifest(_Document):
    """A release's MANIFEST.json: what it is, and the SHA-256 of each of its files."""

    format: Literal["raypose-release/1"] = FORMAT
    name: Name
    version: Version
    files: dict[str, Digest]
    """Path within the release → digest in hex."""


class Alias(_Document):
    """Where an alias points, and where it pointed before."""

    version: Version
    previous: Version | None = None
    at: str
    """When it was moved, in ISO 8601."""


class Settings(_Document):
    """What of a release's config.json says what it is called."""

    name: Name


Form = TypeVar("Form", bound=_Document)


def read(form: type[Form], url: str, *, mend: str) -> Form:
    """Read a document.

    Args:
        form: what it should be.
        url: where it lies.
        mend: what to do where it is something else, for the message.

    Raises:
        RegistryError: where it is not of that form.
        DataError: where it cannot be read.
    """
    content = storage.read_bytes(url)
    try:
        return form.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        reason = f"{key}: {first['msg']}" if key else first["msg"]
        short = " ".join(reason.split())[:120]
        what = form.__name__.lower()
        raise RegistryError(f"{url}: not the {what} of a release ({short}); {mend}") from None
