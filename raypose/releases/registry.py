"""Releases: immutable folders under ``releases/<name>/<version>``, and aliases that move.

A release is complete when its MANIFEST.json, written last, is there; every file is checked against
it on the way out. A version is a count and a hash of the content (``v3-1a2b3c4d``): publishing the
same folder again gives the same version, and two publishers at once cannot mix their files.

A number is taken, and an alias moved, by writes that only one of several can make.

References: ``name`` (its alias production), ``name@alias``, ``name:version`` or ``name:v3``; or the
place of a release, be it in a registry or a copy: a folder, or ``s3://…``.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raypose import storage
from raypose.config import NAME_PATTERN
from raypose.console import owner, status
from raypose.errors import ConflictError, RegistryError, did_you_mean
from raypose.releases import aliases, documents, references
from raypose.releases.documents import VERSION_PATTERN, Alias, Manifest, Number, Settings

__all__ = [
    "PRODUCTION",
    "Release",
    "described",
    "earlier",
    "fetch",
    "followed",
    "manifest_of",
    "names",
    "overview",
    "pointed",
    "promote",
    "publish",
    "resolve",
    "rollback",
]

PRODUCTION = "production"
MANIFEST = "MANIFEST.json"
LOCAL = "local"
"""Version of a folder that says none: what demos before 0.2 left."""
WITHOUT_MANIFEST = ("config.json", "classifier.safetensors")
"""Files by which such a folder is known."""
REPUBLISH = "publish it again"
READERS = 16
"""Manifests that are read side by side."""
NOT_THERE = "not a name, and no such folder"


@dataclass(frozen=True)
class Release:
    """Where one version of a model lies."""

    name: str
    version: str
    url: str

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"

    @property
    def is_local(self) -> bool:
        """Lies on a disk of this machine, which other nodes of a cluster may not see."""
        return not storage.is_s3(self.url)


def names(root: str) -> list[str]:
    """Return the names under which anything was published.

    Raises:
        RegistryError: where the registry would be a file.
    """
    if storage.is_file(root):
        raise RegistryError(f"{root}: is a file, so no releases lie in it; check the path")
    return storage.list_folders(storage.join(root, "releases"))


def overview(root: str) -> list[dict[str, Any]]:
    """Return every complete release with the aliases that point at it; say which are damaged."""
    rows = []
    for name in names(root):
        targets: dict[str, Alias | None] = {}
        for alias in aliases.names(root, name):
            try:
                targets[alias], _ = aliases.read(root, name, alias)
            except RegistryError as error:
                status(f"left out: {error}")
        for version in _versions(root, name):
            there = [alias for alias, to in targets.items() if to and to.version == version]
            rows.append({"release": str(_release(root, name, version)), "aliases": there})
    return rows


def described(root: str) -> list[dict[str, Any]]:
    """Return what `overview` does, and whose each release is and when it came.

    A file of each is read. Of a damaged one it is not known: both are empty.
    """

    def about(row: dict[str, Any]) -> dict[str, Any]:
        release = _release(root, *row["release"].split(":"))
        place = storage.join(release.url, MANIFEST)
        try:
            made = documents.read(Manifest, place, mend=REPUBLISH)
        except RegistryError:
            return {**row, "owner": "", "at": ""}
        return {**row, "owner": made.by, "at": made.at}

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(about, overview(root)))


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
    content = documents.content_of(files)
    for version in _versions(root, name):
        if version.endswith(content):
            return _release(root, name, version)
    release = _release(root, name, f"v{_claimed(root, name, content)}-{content}")
    for file in files:
        storage.write_bytes(storage.join(release.url, file), (folder / file).read_bytes())
    at = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = Manifest(name=name, version=release.version, files=files, at=at, by=owner())
    storage.write_json(storage.join(release.url, MANIFEST), manifest.model_dump(mode="json"))
    return release


def _claimed(root: str, name: str, content: str) -> int:
    """Return the number that some content has, or take the next one that nobody has.

    A number is taken by one publisher, also where several ask at once, and for good: content whose
    publishing was cut off finds its own again.
    """
    folder = storage.join(root, "releases", name, "numbers")
    begun = storage.list_folders(storage.join(root, "releases", name, "versions"))
    known = [_number(version) for version in begun if re.fullmatch(VERSION_PATTERN, version)]
    for file in storage.list_files(folder):
        claim = documents.read(Number, storage.join(folder, file), mend="delete it")
        if claim.content == content:
            return claim.number
        known.append(claim.number)
    number = max(known, default=0) + 1
    while True:
        url = storage.join(folder, f"v{number}.json")
        mine = Number(number=number, content=content, by=aliases.ourselves())
        try:
            storage.write_json(url, mine.model_dump(mode="json"), instead_of="")
            return number
        except ConflictError:
            first = documents.read(Number, url, mend="delete it")
        if first.content == content:
            return number
        number += 1
        status(f"{name}:v{first.number} was taken by {first.by} meanwhile: this is v{number}")


def resolve(root: str, reference: str | Path) -> Release:
    """Find the release that a reference means.

    A name is looked up in the registry first, then as a folder here.

    Args:
        root: the storage root; may be empty where the reference is a place.
        reference: see the module.

    Raises:
        RegistryError: naming what there is instead.
    """
    text = str(reference)
    if references.is_place(text):
        return _at(text)
    name, separator, rest = references.parts(text)
    named = bool(re.fullmatch(NAME_PATTERN, name))
    versions = _versions(root, name) if named and root else []
    if not versions:
        return _here(root, text, name if named else "")
    if separator == ":":
        meant = [version for version in versions if rest in (version, version.split("-")[0])]
        if len(meant) > 1:
            raise RegistryError(f"{text}: may be any of {', '.join(meant)}; give one of them whole")
        if meant:
            return _release(root, name, meant[0])
        raise RegistryError(f"{text}: no such version; there are: {', '.join(versions)}")
    alias = rest or PRODUCTION
    _check_name(alias)
    target, _ = aliases.read(root, name, alias)
    if target is None:
        pair = "" if alias == PRODUCTION else f" alias={alias}"
        raise RegistryError(
            f'{text}: alias "{alias}" is not set; run: raypose promote {name}:{versions[-1]}{pair}'
        )
    if target.version not in versions:
        raise RegistryError(
            f'{text}: alias "{alias}" points at {target.version}, which is gone; there are: '
            f"{', '.join(versions)}"
        )
    return _release(root, name, target.version)


def followed(root: str, reference: str) -> tuple[str, str] | None:
    """Return name and alias of a reference that goes through an alias of a registry, else None."""
    found = re.fullmatch(r"([^:@]+)(?:@(.+))?", reference)
    if references.is_place(reference) or not found or not root or not _versions(root, found[1]):
        return None
    return found[1], found[2] or PRODUCTION


def pointed(root: str, name: str, alias: str) -> Release:
    """Return what an alias points at: one small file is read.

    Raises:
        RegistryError: where there is no such alias, or it is damaged.
    """
    target, _ = aliases.read(root, name, alias)
    if target is None:
        raise RegistryError(f'{name}@{alias}: alias "{alias}" is not set')
    return _release(root, name, target.version)


def earlier(root: str, name: str, alias: str) -> list[Release]:
    """Return what an alias pointed at before, last first, as far as it is remembered."""
    target, _ = aliases.read(root, name, alias)
    versions = [target.previous, *target.earlier] if target else []
    return [_release(root, name, version) for version in versions if version]


def promote(root: str, reference: str, *, alias: str = PRODUCTION) -> Release:
    """Point an alias at a release; what it pointed at before is remembered.

    Raises:
        RegistryError: where there is no such release in this registry, or another moved the alias
            meanwhile.
    """
    release = resolve(root, reference)
    _check_name(alias)
    entry = _release(root, release.name, release.version)
    if not root or _normal(entry.url) != _normal(release.url):
        raise RegistryError(
            f"{reference}: lies at {release.url}, which is no release of {root or 'a registry'}; "
            "aliases point at what is published there, such as NAME:v3"
        )
    before, tag = aliases.read(root, release.name, alias)
    if before is None or before.version != release.version:
        aliases.write(
            root,
            release.name,
            alias,
            release.version,
            before=before,
            instead_of=tag,
        )
    return entry


def rollback(root: str, name: str, *, alias: str = PRODUCTION) -> Release:
    """Point an alias back at what it pointed at before.

    Raises:
        RegistryError: where there is nothing to go back to.
    """
    if references.is_place(name):
        raise RegistryError(f"{name}: a place has no aliases; give the name of what was published")
    if not re.fullmatch(NAME_PATTERN, name):
        bare, _, _ = references.parts(name)
        known = bare or "NAME"
        raise RegistryError(f"{name}: an alias is rolled back; give {known}, and alias=ALIAS")
    resolve(root, f"{name}@{alias}")  # says what is wrong with it
    target, tag = aliases.read(root, name, alias)
    if target is None or target.previous is None:
        raise RegistryError(
            f"{name}@{alias}: has no earlier version to go back to; point it at another: "
            f"raypose promote {name}:VERSION"
        )
    release = resolve(root, f"{name}:{target.previous}")
    aliases.write(root, name, alias, release.version, before=target, instead_of=tag)
    return release


def manifest_of(release: Release) -> tuple[Manifest, bytes]:
    """Return a release's manifest, and its bytes.

    Raises:
        RegistryError: where it is damaged, or another's: a version is a hash of its files.
        NotFoundError: where it is absent.
    """
    place = storage.join(release.url, MANIFEST)
    content = documents.content(place)
    found = documents.parse(Manifest, content, place, mend=REPUBLISH)
    if (found.name, found.version) != (release.name, release.version):
        raise RegistryError(
            f"{release}: its {MANIFEST} is that of {found.name}:{found.version}; {REPUBLISH}"
        )
    if not found.version.endswith(f"-{found.content}"):
        raise RegistryError(
            f"{release}: the files in its {MANIFEST} are not those that it was named after; "
            f"{REPUBLISH}"
        )
    return found, content


def fetch(release: Release, folder: Path) -> Path:
    """Copy a release to a local folder, each file checked against the manifest, which comes last.

    Raises:
        RegistryError: naming the file that is not what was published.
    """
    place = storage.join(release.url, MANIFEST)
    if release.version == LOCAL and not storage.exists(place):  # nothing to check against
        for file in storage.list_files(release.url):
            content = storage.read_bytes(storage.join(release.url, file))
            storage.write_bytes(str(folder / file), content)
        return folder
    manifest, written = manifest_of(release)
    # weights last: what lacks a small file is refused before gigabytes are copied
    for file in sorted(manifest.files, key=lambda name: name.endswith(".safetensors")):
        target = folder / file
        if not target.resolve().is_relative_to(folder.resolve()):
            raise RegistryError(f"{release}: {file} points out of the release")
        content = documents.content(storage.join(release.url, file))
        if storage.sha256(content) != manifest.files[file]:
            raise RegistryError(f"{release}: {file} is not what was published; {REPUBLISH}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    storage.write_bytes(str(folder / MANIFEST), written)
    return folder


def _at(reference: str) -> Release:
    """Return the release that lies at a place.

    Raises:
        RegistryError: saying what the place lacks.
    """
    if storage.is_s3(reference):
        url = reference.rstrip("/")
    else:
        url = os.path.abspath(os.path.expanduser(reference))
        if not reference or not os.path.isdir(url):
            what = "a file, not the folder of a release" if os.path.isfile(url) else NOT_THERE
            raise RegistryError(f'"{reference}": {what}; {references.FORMS}')
    place = storage.join(url, MANIFEST)
    if storage.exists(place):
        manifest = documents.read(Manifest, place, mend="give the folder of a release")
        return Release(manifest.name, manifest.version, url)
    if storage.is_s3(url) or any(not Path(url, file).is_file() for file in WITHOUT_MANIFEST):
        raise RegistryError(f"{reference}: no release: it lacks {MANIFEST}{_within(url)}")
    config = documents.read(Settings, storage.join(url, "config.json"), mend=REPUBLISH)
    return Release(config.name, LOCAL, url)


def _within(url: str) -> str:
    """Return a hint at a release that lies in a folder, where one does."""
    if storage.is_s3(url):
        return ""
    found = sorted(Path(url).glob(f"*/{WITHOUT_MANIFEST[1]}"))
    return f"; did you mean {found[0].parent}?" if found else ""


def _here(root: str, reference: str, name: str) -> Release:
    """Return the release in a folder here, for a reference that is not in the registry.

    Args:
        root: where it was looked for.
        reference: the whole.
        name: that it begins with; empty where that is none.

    Raises:
        RegistryError: saying where it was looked for, and what a folder of that name lacks.
    """
    if not name:
        return _at(reference)
    reason = ""
    if os.path.isdir(reference):
        try:
            return _at(reference)
        except RegistryError as error:
            reason = f"; nor is the folder here: {error}"
    if not root:
        raise RegistryError(f"{reference}: no such folder, and no storage to look in{reason}")
    known = names(root)
    listed = f"; there are: {', '.join(known)}" if known else "; nothing is published there"
    near = did_you_mean(name, known)
    raise RegistryError(f'{reference}: no release "{name}" in {root}{near}{listed}{reason}')


def _normal(url: str) -> str:
    return url.rstrip("/") if storage.is_s3(url) else os.path.realpath(url)


def _versions(root: str, name: str) -> list[str]:
    """Return the complete versions of a release, oldest first."""
    folder = storage.join(root, "releases", name, "versions")
    found = [v for v in storage.list_folders(folder) if re.fullmatch(VERSION_PATTERN, v)]
    complete = [v for v in found if storage.exists(storage.join(folder, v, MANIFEST))]
    return sorted(complete, key=lambda version: (_number(version), version))


def _number(version: str) -> int:
    return int(version[1:].split("-")[0])


def _release(root: str, name: str, version: str) -> Release:
    return Release(name, version, storage.join(root, "releases", name, "versions", version))


def _check_name(name: str) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        raise RegistryError(
            f'"{name}": not a name; use letters, digits, dot, dash and underscore, '
            "such as yoga:v3 or yoga@production"
        )
