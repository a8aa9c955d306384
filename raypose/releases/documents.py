"""What the registry keeps in JSON, each kind read in one way: manifests and aliases.

A document that is not what it should be is an error of one line that names its place; one that
cannot be read at all is the storage's own.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeVar

from pydantic import Field

from raypose.config import NAME_PATTERN, Stored, read_stored
from raypose.errors import RegistryError

__all__ = ["FORMAT", "VERSION_PATTERN", "Alias", "Manifest", "Settings", "read"]

FORMAT: Final = "raypose-release/1"
VERSION_PATTERN = r"^v(\d+)-[0-9a-f]{8}$"

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Version = Annotated[str, Field(pattern=VERSION_PATTERN)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


Form = TypeVar("Form", bound=Stored)


class Manifest(Stored):
    """A release's MANIFEST.json: what it is, and the SHA-256 of each of its files."""

    format: Literal["raypose-release/1"] = FORMAT
    name: Name
    version: Version
    files: dict[str, Digest]
    """Path within the release → digest in hex."""


class Alias(Stored):
    """Where an alias points, and where it pointed before."""

    version: Version
    previous: Version | None = None
    at: str
    """When it was moved, in ISO 8601."""


class Settings(Stored):
    """What of a release's config.json says what it is called."""

    name: Name


def read(form: type[Form], url: str, *, mend: str) -> Form:
    """Read a document of a release.

    Raises:
        RegistryError: where it is not of that form.
        NotFoundError: where it is absent.
        StorageError: where it cannot be read.
    """
    what = f"the {form.__name__.lower()} of a release"
    return read_stored(form, url, what=what, mend=mend, error=RegistryError)
