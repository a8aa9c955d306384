"""What the registry keeps in JSON, each kind read in one way: manifests, aliases, backends.

A document that is not what it should be is an error of one line that names its place; one that
cannot be read at all is the storage's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeVar

from pydantic import Field

from raypose import storage
from raypose.config import NAME_PATTERN, Stored, parse_stored
from raypose.errors import RegistryError

__all__ = [
    "BACKENDS",
    "FORMAT",
    "VERSION_PATTERN",
    "Admission",
    "Alias",
    "Backends",
    "Manifest",
    "Number",
    "Settings",
    "check_file",
    "content",
    "content_of",
    "parse",
    "read",
]

FORMAT: Final = "raypose-release/1"
BACKENDS = "backends.json"
VERSION_PATTERN = r"^v(\d+)-[0-9a-f]{8}$"

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Version = Annotated[str, Field(pattern=VERSION_PATTERN)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
File = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f]+$")]


Form = TypeVar("Form", bound=Stored)


class Manifest(Stored):
    """A release's MANIFEST.json: what it is, and the SHA-256 of each of its files."""

    format: Literal["raypose-release/1"] = FORMAT
    name: Name
    version: Version
    files: Annotated[dict[File, Digest], Field(min_length=1)]
    """Path within the release → digest in hex."""
    at: str = ""
    """When it was published, in ISO 8601."""
    by: str = ""
    """Who published it."""

    @property
    def content(self) -> str:
        """The end of the version of what holds these files."""
        return content_of(self.files)


class Alias(Stored):
    """Where an alias points, and where it pointed before."""

    version: Version
    previous: Version | None = None
    earlier: list[Version] = []
    """Where it pointed before that, last first: a replica that finds neither of the two to be of
    use starts with the first of these that is."""
    at: str
    """When it was moved, in ISO 8601."""
    by: str = ""
    """Who moved it."""


class Number(Stored):
    """Whose a version's number is: one content has it, for good."""

    number: Annotated[int, Field(ge=1)]
    content: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    by: str = ""
    """Who took it."""


class Admission(Stored):
    """How a backend did beside torch, and whether a release may be served by it."""

    admitted: bool
    why: str = ""
    """Why it is not, or was not held against torch."""
    precision: str = ""
    """What it computes in."""
    num_pictures: Annotated[int, Field(ge=0)] = 0
    """On how many pictures."""
    changed_top1: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of them that are taken for another class."""
    largest_difference: Annotated[float, Field(ge=0)] | None = None
    """Of any logit."""
    allowed_difference: Annotated[float, Field(ge=0)] | None = None
    """The bound on it."""


class Backends(Stored):
    """A release's backends.json: by what its image tower may be computed."""

    format: Literal["raypose-backends/1"] = "raypose-backends/1"
    data: str = ""
    """SHA-256 of the manifest of the pictures; empty where there were none."""
    backends: dict[str, Admission]
    """Name → how it did."""

    @property
    def admitted(self) -> list[str]:
        """Names of those that a release may be served by."""
        return [name for name, one in self.backends.items() if one.admitted]


class Settings(Stored):
    """What of a release's config.json says what it is called."""

    name: Name


def content_of(files: Mapping[str, str]) -> str:
    """Return eight digits of a hash of file names and digests."""
    return storage.sha256("\n".join(f"{k} {v}" for k, v in files.items()).encode())[:8]


def check_file(url: str) -> None:
    """Refuse what is there and no file: a pipe would be waited for without end.

    Raises:
        RegistryError: where it is so.
    """
    if not storage.is_s3(url) and storage.exists(url) and not storage.is_file(url):
        raise RegistryError(f"{url}: is no file; delete it")


def content(url: str) -> bytes:
    """Return a file of a release.

    Raises:
        RegistryError: where it is none.
        NotFoundError: where it is absent.
        StorageError: where it cannot be read.
    """
    check_file(url)
    return storage.read_bytes(url)


def read(form: type[Form], url: str, *, mend: str) -> Form:
    """Read a document of a release.

    Raises:
        RegistryError: where it is not of that form.
        NotFoundError: where it is absent.
        StorageError: where it cannot be read.
    """
    return parse(form, content(url), url, mend=mend)


def parse(form: type[Form], content: bytes, url: str, *, mend: str) -> Form:
    """Return a document of a release from the bytes of its JSON: see `read`."""
    what = f"the {form.__name__.lower()} of a release"
    return parse_stored(form, content, url, what=what, mend=mend, error=RegistryError)
