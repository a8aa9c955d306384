"""Files on local disks: written whole, or only if nobody else has; and folders walked through."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from raypose.errors import ConflictError

__all__ = ["Stat", "tag", "walk", "write"]


class Stat(NamedTuple):
    """Bytes of a file, when it was last written, in ns since 1970, and its tag where it has one."""

    size: int
    mtime_ns: int
    tag: str = ""


def tag(content: bytes) -> str:
    """Return what changes with a file's content."""
    return hashlib.sha256(content).hexdigest()


def write(target: Path, content: bytes, instead_of: str | None) -> str:
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


def walk(
    folder: str, *, recursive: bool, above: str = "", parents: tuple[str, ...] = ()
) -> Iterator[tuple[str, Stat | None]]:
    """Yield what lies below a folder, hidden files aside; folders have no `Stat`.

    Args:
        folder: its real path.
        above: what its names begin with.
        recursive: go down into the folders in it.
        parents: real paths of it and of the folders that it lies in.
    """
    parents = parents or (folder,)
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        name = f"{above}{entry.name}"
        if entry.is_dir():
            yield name, None
            real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
            if recursive and real not in parents:
                yield from walk(real, recursive=True, above=f"{name}/", parents=(*parents, real))
        elif entry.name.startswith("."):
            continue
        elif entry.is_file():
            stat = entry.stat()
            yield name, Stat(stat.st_size, stat.st_mtime_ns)
        elif entry.is_symlink():
            yield name, Stat(-1, 0)
