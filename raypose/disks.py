"""Files on local disks: written whole, or only if nobody else has; and folders walked through."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from raypose.errors import ConflictError

__all__ = ["LOCK", "NOWHERE", "TWICE", "Stat", "clear_parts", "tag", "walk", "write"]


class Stat(NamedTuple):
    """What is known of a file without reading it.

    Attributes:
        size: bytes; `NOWHERE` or `TWICE` for a link that is not followed.
        mtime_ns: when it was last written, in ns since 1970.
        tag: changes with its content, where it has one.
        real: path of the file, where the name is a link to it or leads over one.
    """

    size: int
    mtime_ns: int
    tag: str = ""
    real: str = ""


NOWHERE = -1
"""Size of a link that leads nowhere."""
TWICE = -2
"""Size of a link to a folder that is gone through without it."""


LOCK = r"\..+\.lock"
"""Names of the files by which writers keep others out for a moment."""


def tag(content: bytes | memoryview) -> str:
    """Return what changes with a file's content."""
    return hashlib.sha256(content).hexdigest()


def write(target: Path, content: bytes | memoryview, instead_of: str | None) -> str:
    """Write a file whole or not at all; return its tag: see `storage.write_bytes`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex[:8]}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if instead_of is None:
            part.replace(target)
        elif instead_of == "":
            _place_first(part, target)
        else:
            with _locked(target):
                if not target.exists() or tag(target.read_bytes()) != instead_of:
                    raise ConflictError(f"{target}: was written by another meanwhile")
                part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return tag(content)


def _place_first(part: Path, target: Path) -> None:
    """Give a file its name where none has it."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise ConflictError(f"{target}: was written by another meanwhile") from None


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Keep other processes from writing over a file; the lock goes with the process."""
    import fcntl

    with target.with_name(f".{target.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def clear_parts(folder: str, names: str, *, before: float) -> None:
    """Remove what writers left that were killed while they wrote.

    Args:
        folder: in which they lie.
        names: pattern of the files that they wrote.
        before: seconds since 1970; what was written to later may be at work.
    """
    with suppress(FileNotFoundError), os.scandir(folder) as found:
        for entry in found:
            if re.fullmatch(rf"\.({names})\.[0-9a-f]{{8}}\.part", entry.name):
                with suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime < before:
                        os.unlink(entry.path)


def walk(folder: str, *, recursive: bool) -> Iterator[tuple[str, Stat | None]]:
    """Yield what lies below a folder, hidden files aside; folders have no `Stat`.

    Links are followed. A folder is gone through once, by its own name where it lies below, so that
    links from folder to folder neither loop nor multiply.

    Args:
        folder: its real path.
        recursive: go down into the folders in it.
    """
    yield from _walk(folder, "", _Walk(folder, recursive, {folder}))


class _Walk(NamedTuple):
    """A walk through a folder, and the real paths of the folders that it has been in."""

    root: str
    recursive: bool
    seen: set[str]

    def comes_by(self, real: str) -> bool:
        """Tell whether a folder that a link leads to is gone through without it, or has been."""
        if real in self.seen:
            return True
        below = os.path.relpath(real, self.root)
        return not any(part.startswith(".") for part in below.split("/"))


def _walk(folder: str, above: str, walk: _Walk, linked: bool = False) -> Iterator[Any]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        name = f"{above}{entry.name}"
        is_link = entry.is_symlink()
        real = os.path.realpath(entry.path) if is_link else entry.path
        kind = _kind(entry)
        if kind == "folder":
            if not walk.recursive:
                yield name, None
            elif is_link and f"{entry.path}/".startswith(f"{real}/"):
                yield name, None  # back to where it lies
            elif is_link and walk.comes_by(real):
                yield name, Stat(TWICE, 0)
            else:
                yield name, None
                walk.seen.add(real)
                yield from _walk(real, f"{name}/", walk, linked or is_link)
        elif entry.name.startswith("."):
            continue
        elif kind == "file":
            stat = entry.stat()
            yield name, Stat(stat.st_size, stat.st_mtime_ns, real=real if linked or is_link else "")
        elif kind == "nowhere":
            yield name, Stat(NOWHERE, 0)


def _kind(entry: os.DirEntry[str]) -> str:
    """Tell what a name stands for; a link may lead to itself, below a file, or nowhere."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR):
            raise
        return "nowhere"
    return "nowhere" if entry.is_symlink() and not os.path.exists(entry.path) else "other"
