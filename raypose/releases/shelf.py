"""Releases on a node: each is fetched once, however many processes of the node ask for it.

A folder's name holds the hash of the release's manifest, and each of its files is held against
that manifest whenever it is taken from the shelf, so that nothing else is ever loaded. The folder
is its owner's alone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raypose import storage
from raypose.errors import StorageError
from raypose.releases import documents, registry
from raypose.releases.documents import Manifest
from raypose.releases.registry import MANIFEST, REPUBLISH, Release

__all__ = ["beside", "fetched"]

KEPT = 4
"""Releases that stay on a node; the one longest unused goes first."""


def fetched(release: Release, folder: Path | None = None) -> Path:
    """Return a local copy of a release, held against its manifest; others fetch it no more.

    Args:
        release: with a manifest.
        folder: that holds the shelf; by default one of this user's among temporary files.

    Raises:
        RegistryError: naming the file that is not what was published.
        StorageError: where it cannot be read, or the shelf is somebody else's.
    """
    root = folder or Path(tempfile.gettempdir()) / f"raypose-releases-{os.getuid()}"
    _own(root)
    content = storage.read_bytes(storage.join(release.url, MANIFEST))
    manifest = documents.parse(Manifest, content, release.url, mend=REPUBLISH)
    place = root / f"{release.version}-{storage.sha256(content)[:32]}"
    with _locked(root / f"{place.name}.lock"):
        if not _whole(place, manifest):
            shutil.rmtree(place, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=root) as name:
                registry.fetch(release, Path(name) / "release")
                os.replace(Path(name) / "release", place)
        os.utime(place)
    _tidy(root, place)
    return place


def beside(folder: Path) -> Path:
    """Return where what is made of a release on the shelf is kept; it goes when that goes."""
    return folder.with_name(f"made-{folder.name}")


def _own(root: Path) -> None:
    """Make the shelf; refuse one that others could have filled."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = root.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or root.is_symlink():
        raise StorageError(f"{root}: is not this user's alone; delete it")


def _whole(place: Path, manifest: Manifest) -> bool:
    try:
        return all(
            storage.sha256((place / file).read_bytes()) == digest
            for file, digest in manifest.files.items()
        )
    except OSError:
        return False


def _tidy(root: Path, used: Path) -> None:
    """Delete what is longest unused; who has loaded a release needs its folder no more."""
    folders = [path for path in root.iterdir() if path.is_dir() and path.name.startswith("v")]
    for path in sorted(folders, key=_when, reverse=True)[KEPT:]:
        if path != used:
            with _locked(root / f"{path.name}.lock"):
                shutil.rmtree(path, ignore_errors=True)
                shutil.rmtree(beside(path), ignore_errors=True)


def _when(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another has tidied up
        return 0.0


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
