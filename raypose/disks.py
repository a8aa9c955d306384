"""Files on local disks: written whole, or only if nobody else has; and folders walked through."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from raypose.errors import ConflictError, StorageError

__all__ = [
    "COPIED_BYTES",
    "LOCK",
    "MAX_DEPTH",
    "NOWHERE",
    "SYSTEM",
    "TWICE",
    "Stat",
    "clear_parts",
    "copy",
    "make_own",
    "new_file",
    "tag",
    "walk",
    "write",
]


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
"""Size of a link to a folder, within one that a link led to."""


SYSTEM = {"lost+found", "$recycle.bin", "system volume information", "@eadir", "#recycle"}
"""Folders, in small letters, that systems make and keep for themselves."""


COPIED_BYTES = 8 << 20
"""In memory at a time."""


MAX_DEPTH = 500
"""Of folders in each other."""


LOCK = r"\..+\.lock"
"""Names of the files by which writers keep others out for a moment."""


def tag(content: bytes | memoryview) -> str:
    """Return what changes with a file's content."""
    return hashlib.sha256(content).hexdigest()


def write(target: Path, content: bytes | memoryview, instead_of: str | None) -> str:
    """Write a file whole or not at all; return its tag: see `storage.write_bytes`."""
    with _part_of(target) as part:
        with part.open("wb") as file:
            file.write(content)
            _settle(file)
        if instead_of is None:
            part.replace(target)
        elif instead_of == "":
            _place_first(part, target)
        else:
            with _locked(target):
                if not target.exists() or tag(target.read_bytes()) != instead_of:
                    raise ConflictError(f"{target}: was written by another meanwhile")
                part.replace(target)
    return tag(content)


def copy(source: Path, target: Path) -> None:
    """Write a file of another's content, whole or not at all, a little in memory at a time."""
    with source.open("rb") as read, new_file(target) as file:
        shutil.copyfileobj(read, file, COPIED_BYTES)


def make_own(folder: Path) -> None:
    """Make a folder that is this user's alone.

    Raises:
        StorageError: where others could have put something into one that is there.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or folder.is_symlink():
        raise StorageError(f"{folder}: is not this user's alone; delete it")


@contextmanager
def new_file(target: Path) -> Iterator[IO[bytes]]:
    """Write a file piece by piece, whole or not at all: see `storage.new_file`."""
    with _part_of(target) as part:
        with part.open("wb") as file:
            yield file
            _settle(file)
        part.replace(target)


@contextmanager
def _part_of(target: Path) -> Iterator[Path]:
    """Yield where to write what shall become a file; what is left there goes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _settle(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


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

    place = target.with_name(f".{target.name}.lock")
    # a link there would have what it leads to made or touched
    file = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


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
    """Yield what lies below a folder, hidden files and `SYSTEM` aside; folders have no `Stat`.

    Links are followed, but not back to where they lie, nor from within a folder that a link led to:
    so links from folder to folder neither loop nor multiply.

    Args:
        folder: its real path.
        recursive: go down into the folders in it.
    """
    yield from _walk(folder, "", recursive, linked=False, depth=0)


def _walk(folder: str, above: str, recursive: bool, *, linked: bool, depth: int) -> Iterator[Any]:
    if depth > MAX_DEPTH:  # before the interpreter's own end, which is not everywhere the same
        raise RecursionError
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        name = f"{above}{entry.name}"
        if entry.name.lower() in SYSTEM:
            continue
        is_link = entry.is_symlink()
        real = os.path.realpath(entry.path) if is_link else entry.path
        kind = _kind(entry)
        if kind == "folder":
            back = is_link and f"{folder}/".startswith(f"{real.rstrip('/')}/")
            if recursive and is_link and linked and not back:
                yield name, Stat(TWICE, 0)
                continue
            yield name, None
            if recursive and not back:
                both = linked or is_link
                yield from _walk(real, f"{name}/", recursive, linked=both, depth=depth + 1)
        elif entry.name.startswith("."):
            continue
        elif kind == "file":
            try:
                stat = entry.stat()
            except FileNotFoundError:  # has gone since the folder was read
                continue
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
