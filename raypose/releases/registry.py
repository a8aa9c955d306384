"""Releases: immutable folders under ``releases/<name>/<version>``, and aliases that move.

A release is complete when its MANIFEST.json, written last, is there; every file is checked against
it on the way out. A version is a count and a hash of the content (``v3-1a2b3c4d``): publishing the
same folder again gives the same version, and two publishers at once cannot mix their files.

References: ``name`` (its alias production), ``name@alias``, ``name:version`` or ``name:v3``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raypose import storage
from raypose.config import NAME_PATTERN
from raypose.errors import RegistryError, did_you_mean

__all__ = [
    "PRODUCTION",
    "Release",
    "fetch",
    "names",
    "overview",
    "promote",
    "publish",
    "resolve",
    "rollback",
]

PRODUCTION = "production"
MANIFEST = "MANIFEST.json"
FORMAT = "raypose-release/1"
_VERSION = re.compile(r"v(\d+)-[0-9a-f]{8}")


@dataclass(frozen=True)
class Release:
    """Where one version of a model lies."""

    name: str
    version: str
    url: str

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


def names(root: str) -> list[str]:
    """Return the names under which anything was published."""
    return storage.list_folders(storage.join(root, "releases"))


def overview(root: str) -> list[dict[str, Any]]:
    """Return every complete release with the aliases that point at it."""
    rows = []
    for name in names(root):
        folder = storage.join(root, "releases", name, "aliases")
        aliases = [file.removesuffix(".json") for file in storage.list_files(folder)]
        targets = {alias: _read_alias(root, name, alias) or {} for alias in aliases}
        for version in _versions(root, name):
            there = [alias for alias in aliases if targets[alias].get("version") == version]
            rows.append({"release": str(_release(root, name, version)), "aliases": there})
    return rows


def publish(root: str, name: str, folder: Path) -> Release:
    """Copy a folder into the registry as the next version.

    Args:
        root: the storage root.
        name: of the release.
        folder: the finished files; a MANIFEST.json in it is ignored.

    Raises:
        RegistryError: where the name is not one.
    """
    _check_name(name)
    files = {
        str(path.relative_to(folder)): storage.sha256(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    content = storage.sha256("\n".join(f"{k} {v}" for k, v in files.items()).encode())[:8]
    taken = _versions(root, name)
    for version in taken:
        if version.endswith(content):
            return _release(root, name, version)
    number = max((_number(version) for version in taken), default=0) + 1
    release = _release(root, name, f"v{number}-{content}")
    for file in files:
        storage.write_bytes(storage.join(release.url, file), (folder / file).read_bytes())
    document = {"format": FORMAT, "name": name, "version": release.version, "files": files}
    storage.write_json(storage.join(release.url, MANIFEST), document)
    return release


def resolve(root: str, reference: str) -> Release:
    """Find the release that a reference means.

    Raises:
        RegistryError: naming what there is instead.
    """
    name, separator, rest = re.match(r"([^:@]*)([:@]?)(.*)", reference).groups()  # type: ignore[union-attr]
    _check_name(name)
    versions = _versions(root, name)
    if not versions:
        known = names(root)
        listed = f"; there are: {', '.join(known)}" if known else "; nothing is published there"
        raise RegistryError(
            f'{reference}: no release "{name}" in {root}{did_you_mean(name, known)}{listed}'
        )
    if separator == ":":
        for version in versions:
            if rest in (version, version.split("-")[0]):
                return _release(root, name, version)
        raise RegistryError(f"{reference}: no such version; there are: {', '.join(versions)}")
    alias = rest or PRODUCTION
    document = _read_alias(root, name, alias)
    if document is None:
        raise RegistryError(
            f'{reference}: alias "{alias}" is not set; run: raypose promote {name}:{versions[-1]}'
        )
    return _release(root, name, str(document["version"]))


def promote(root: str, reference: str, *, alias: str = PRODUCTION) -> Release:
    """Point an alias at a release; what it pointed at before is remembered."""
    release = resolve(root, reference)
    _check_name(alias)
    before = _read_alias(root, release.name, alias)
    if before is None or before["version"] != release.version:
        _write_alias(root, release, alias, previous=before["version"] if before else None)
    return release


def rollback(root: str, name: str, *, alias: str = PRODUCTION) -> Release:
    """Point an alias back at what it pointed at before.

    Raises:
        RegistryError: where there is nothing to go back to.
    """
    now = resolve(root, f"{name}@{alias}")
    previous = (_read_alias(root, name, alias) or {}).get("previous")
    if not previous:
        raise RegistryError(f"{name}@{alias}: has no earlier version to go back to")
    release = resolve(root, f"{name}:{previous}")
    _write_alias(root, release, alias, previous=now.version)
    return release


def fetch(release: Release, folder: Path) -> Path:
    """Copy a release to a local folder, each file checked against the manifest.

    Raises:
        RegistryError: naming the file that is not what was published.
    """
    document = storage.read_json(storage.join(release.url, MANIFEST))
    if document.get("format") != FORMAT:
        raise RegistryError(f"{release}: not a release of format {FORMAT}")
    for file, digest in document["files"].items():
        content = storage.read_bytes(storage.join(release.url, file))
        if storage.sha256(content) != digest:
            raise RegistryError(f"{release}: {file} is not what was published; publish it again")
        target = folder / file
        if not target.resolve().is_relative_to(folder.resolve()):
            raise RegistryError(f"{release}: {file} points out of the release")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return folder


def _versions(root: str, name: str) -> list[str]:
    """Return the complete versions of a release, oldest first."""
    folder = storage.join(root, "releases", name, "versions")
    found = [name for name in storage.list_folders(folder) if _VERSION.fullmatch(name)]
    complete = [v for v in found if storage.exists(storage.join(folder, v, MANIFEST))]
    return sorted(complete, key=lambda version: (_number(version), version))


def _number(version: str) -> int:
    return int(version[1:].split("-")[0])


def _release(root: str, name: str, version: str) -> Release:
    return Release(name, version, storage.join(root, "releases", name, "versions", version))


def _alias_url(root: str, name: str, alias: str) -> str:
    return storage.join(root, "releases", name, "aliases", f"{alias}.json")


def _read_alias(root: str, name: str, alias: str) -> dict[str, str | None] | None:
    url = _alias_url(root, name, alias)
    document: dict[str, str | None] | None = storage.read_json(url) if storage.exists(url) else None
    return document


def _write_alias(root: str, release: Release, alias: str, *, previous: str | None) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    document = {"version": release.version, "previous": previous, "at": now}
    storage.write_json(_alias_url(root, release.name, alias), document)


def _check_name(name: str) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        raise RegistryError(
            f'"{name}": not a name; use letters, digits, dot, dash and underscore, '
            "such as yoga:v3 or yoga@production"
        )
