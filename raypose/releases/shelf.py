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
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from raypose import disks, storage
from raypose.releases import registry
from raypose.releases.documents import Manifest
from raypose.releases.registry import Release

__all__ = ["beside", "fetched"]

KEPT = 4
"""Releases that stay on a node; the one longest unused goes first."""
GONE = 0
"""When what is not there was used."""


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
    disks.make_own(root)  # none that others could have filled
    manifest, content = registry.manifest_of(release)
    place = root / f"{release.version}-{storage.sha256(content)[:32]}"
    with _locked(_lock(place)):
        if not _whole(place, manifest):
            shutil.rmtree(place, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=root) as name:
                registry.fetch(release, Path(name) / "release")
                os.replace(Path(name) / "release", place)
        now = time.time_ns()  # the system's own stamp counts in ticks
        os.utime(place, ns=(now, now))
    _tidy(root, place)
    return place


def beside(folder: Path) -> Path:
    """Return where what is made of a release on the shelf is kept; it goes when that goes."""
    return folder.with_name(f"made-{folder.name}")


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
    seen = {path: _when(path) for path in (lock.with_suffix("") for lock in root.glob("v*.lock"))}
    for path in sorted(seen, key=seen.__getitem__, reverse=True)[KEPT:]:
        if path != used:
            with suppress(BlockingIOError), _locked(_lock(path), wait=False):
                if _when(path) not in (seen[path], GONE):
                    continue  # another has come to use it since it was looked at
                _remove(root, path, beside(path))
                _lock(path).unlink()


def _remove(root: Path, *folders: Path) -> None:
    """Delete folders; they leave their places first, as each file that goes makes one newer."""
    with tempfile.TemporaryDirectory(dir=root, ignore_cleanup_errors=True) as name:
        for folder in folders:
            with suppress(FileNotFoundError):
                os.replace(folder, Path(name) / folder.name)


def _when(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # another has tidied up
        return GONE


def _lock(place: Path) -> Path:
    return place.with_name(f"{place.name}.lock")


@contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock until the block ends.

    Raises:
        BlockingIOError: where another holds it, and it is not to be waited for.
    """
    while True:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if not _is_at(path, file.fileno()):
                continue  # tidied up while it was waited for
            yield
            return


def _is_at(path: Path, number: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(number))
    except FileNotFoundError:
        return False
