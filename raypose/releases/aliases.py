"""Aliases of a release: small files that say which version is meant, and move as one.

An alias is moved by a write that only one of several at once can make.
"""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime

from raypose import storage
from raypose.console import owner
from raypose.errors import ConflictError, NotFoundError, RegistryError
from raypose.releases import documents
from raypose.releases.documents import Alias

__all__ = ["names", "ourselves", "read", "write"]

REMEMBERED = 10
"""Versions that an alias pointed at before."""


def names(root: str, name: str) -> list[str]:
    """Return the aliases that a release has."""
    files = storage.list_files(storage.join(root, "releases", name, "aliases"))
    return [file.removesuffix(".json") for file in files]


def read(root: str, name: str, alias: str) -> tuple[Alias | None, str]:
    """Return where an alias points, and the tag by which it is moved; nothing before that."""
    url = _url(root, name, alias)
    documents.check_file(url)
    try:
        content, tag = storage.read_tagged(url)
    except NotFoundError:
        return None, ""
    mend = f"delete it, and run: raypose promote {name}:VERSION"
    return documents.parse(Alias, content, url, mend=mend), tag


def write(
    root: str, name: str, alias: str, version: str, *, before: Alias | None, instead_of: str
) -> None:
    """Move an alias, if it still points where it was seen to, as its tag says.

    Args:
        root: the storage root.
        name: of the release.
        alias: to move.
        version: where to.
        before: where it points now.
        instead_of: the tag that came with that.

    Raises:
        RegistryError: where another moved it first, naming whom and where to.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    behind = [before.version, before.previous, *before.earlier] if before else []
    known = [each for each in dict.fromkeys(behind) if each and each != version]
    target = Alias(
        version=version,
        previous=known[0] if known else None,
        earlier=known[1:REMEMBERED],
        at=now,
        by=ourselves(),
    )
    url = _url(root, name, alias)
    try:
        storage.write_json(url, target.model_dump(mode="json"), instead_of=instead_of)
    except (ConflictError, NotFoundError):
        winner, _ = read(root, name, alias)
        to = f"moved to {winner.version} by {winner.by or 'another'}" if winner else "deleted"
        raise RegistryError(
            f"{name}@{alias}: was {to} meanwhile, and stays so; look, and promote "
            f"{version} again if it is still wanted"
        ) from None


def ourselves() -> str:
    """Return who writes: for whom, the process and its machine."""
    return f"{owner() or 'somebody'}, process {os.getpid()} on {socket.gethostname()}"


def _url(root: str, name: str, alias: str) -> str:
    return storage.join(root, "releases", name, "aliases", f"{alias}.json")
