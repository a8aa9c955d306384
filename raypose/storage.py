"""Files on ``s3://`` and local paths: read, list, atomic and conditional write, copy.

S3-compatible servers are reached by the standard variables (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION): by pyarrow to read within a file, by `objects` for all
else; both try again what was refused or cut off.
A write is atomic: a reader sees the old object, or the new one whole.

That a file is not there, that it could not be read, and that another wrote it meanwhile are three
errors: NotFoundError, StorageError, ConflictError.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from raypose import disks, objects
from raypose.disks import Stat
from raypose.errors import DataError, NotFoundError, StorageError

__all__ = [
    "absolute",
    "clear_parts",
    "default_root",
    "delete_file",
    "delete_folder",
    "download_folder",
    "exists",
    "filesystem",
    "finite",
    "holds",
    "is_file",
    "is_link",
    "is_s3",
    "join",
    "list_files",
    "list_folders",
    "list_stats",
    "make_bucket",
    "new_file",
    "open_file",
    "open_stream",
    "overlap",
    "prune",
    "read_bytes",
    "read_json",
    "read_tagged",
    "resolved",
    "sha256",
    "stat",
    "upload_file",
    "upload_folder",
    "walk",
    "write_bytes",
    "write_json",
]


DEFAULT_ROOT = "raypose-data"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def is_s3(url: str) -> bool:
    """Tell whether a location is on S3."""
    return url.startswith("s3://")


def default_root() -> str:
    """Return the storage root where none is named: RAYPOSE_STORAGE, or raypose-data.

    A folder of that name is looked for from here upwards; where there is none, it will be here.
    """
    named = os.environ.get("RAYPOSE_STORAGE")
    if named:
        return absolute(named)
    here = Path.cwd()
    found = (folder / DEFAULT_ROOT for folder in (here, *here.parents))
    return str(next((folder for folder in found if folder.is_dir()), here / DEFAULT_ROOT))


def absolute(url: str) -> str:
    """Return a location that means the same wherever it is read: workers have other folders.

    Raises:
        DataError: where it has a scheme other than s3, or means something else to each server.
    """
    if is_s3(url):
        if {".", ".."} & {*url.split("/")}:
            raise DataError(f"{url}: . and .. mean nothing on S3; write the key itself")
        return url
    if _SCHEME.match(url):
        raise DataError(f"{url}: unknown scheme; use s3://bucket/key or a local path")
    try:
        return str(Path(url).expanduser().absolute())
    except RuntimeError:
        raise DataError(f"{url}: no such user's home; write the path from /") from None


def filesystem(url: str) -> tuple[pafs.FileSystem, str]:
    """Return pyarrow's file system for a location, and the path within it.

    Raises:
        DataError: where the location names no bucket, or a scheme other than s3.
    """
    if not is_s3(url):
        return pafs.LocalFileSystem(), absolute(url)
    path = url.removeprefix("s3://").strip("/")
    bucket = path.split("/")[0]
    if not bucket:
        raise DataError(f"{url}: names no bucket; write s3://bucket/key")
    settings = tuple(os.environ.get(name) for name in objects.SETTINGS)
    with _explained(url):
        return _bucket(bucket, os.getpid(), settings), path


@lru_cache(maxsize=32)
def _bucket(name: str, process: int, settings: tuple[str | None, ...]) -> pafs.FileSystem:
    """Return the one client of a bucket in a process, for as long as the variables are the same.

    It is made from the bucket's name alone: keys may hold what a URI may not.
    """
    return pafs.FileSystem.from_uri(f"s3://{name}")[0]


def join(url: str, *parts: str) -> str:
    """Append path parts to a location.

    Raises:
        DataError: where it names no bucket.
    """
    if url.startswith("s3:") and not url.removeprefix("s3:").strip("/"):
        raise DataError(f"{url}: names no bucket; write s3://bucket/key")
    return "/".join([url.rstrip("/"), *parts])


def exists(url: str) -> bool:
    """Tell whether a file or folder is there."""
    _, path = filesystem(url)
    return objects.exists(f"s3://{path}") if is_s3(url) else _found(url, path) is not None


def is_file(url: str) -> bool:
    """Tell whether a file is there, and not a folder or what else has a name."""
    return stat(url) is not None


def stat(url: str) -> Stat | None:
    """Return what is known of a file; None where there is none."""
    _, path = filesystem(url)
    if is_s3(url):
        return objects.stat(f"s3://{path}") if "/" in path else None
    found = _found(url, path)
    if found is None or not S_ISREG(found.st_mode):
        return None
    real = os.path.realpath(path) if os.path.islink(path) else ""
    return Stat(found.st_size, found.st_mtime_ns, real=real)


def read_bytes(url: str, *, offset: int = 0, size: int = -1) -> bytes:
    """Return a file's content, or `size` bytes of it from `offset` on.

    Raises:
        NotFoundError: where it is absent.
        DataError: where it cannot be read.
    """
    if is_s3(url):  # one request, where a file that is opened takes two
        _, path = filesystem(url)
        return objects.get(f"s3://{path}", offset=offset, size=size)[0]
    with _explained(url), open(filesystem(url)[1], "rb") as file:
        file.seek(offset)
        content = file.read(size)
    if size >= 0 and len(content) < size:
        raise DataError(f"{url}: ends before what was asked of it; it has changed")
    return content


def read_tagged(url: str) -> tuple[bytes, str]:
    """Return a file's content and its tag, to write over it by: see `write_bytes`.

    Raises:
        NotFoundError: where it is absent.
    """
    if is_s3(url):
        return objects.get(url)
    content = read_bytes(url)
    return content, disks.tag(content)


@contextmanager
def open_file(url: str) -> Iterator[pa.NativeFile]:
    """Open a file for reading anywhere in it."""
    fs, path = filesystem(url)
    with _explained(url):
        with fs.open_input_file(path) as file:
            yield file


@contextmanager
def open_stream(url: str) -> Iterator[tuple[pa.NativeFile, int]]:
    """Open a file for reading from its start, some megabytes at a time; also tell its bytes."""
    fs, path = filesystem(url)
    with _explained(url):
        info = fs.get_file_info(path)
        with fs.open_input_stream(path, buffer_size=8 << 20) as stream:
            yield stream, info.size


def write_bytes(url: str, content: bytes | memoryview, *, instead_of: str | None = None) -> str:
    """Write a file whole or not at all; folders above it are made.

    Args:
        url: of the file.
        content: all of it.
        instead_of: tag of what is to be there, of which of several writers only one is right;
            empty for nothing. None writes over anything.

    Returns:
        The file's tag.

    Raises:
        ConflictError: where something else is there.
        StorageError: where it cannot be written; what was there before is still.
    """
    if is_s3(url):
        return objects.put(url, bytes(memoryview(content)), instead_of=instead_of)
    with _explained(url):
        return disks.write(Path(filesystem(url)[1]), content, instead_of)


@contextmanager
def new_file(url: str) -> Iterator[Any]:
    """Write a file of any size piece by piece, in little memory; yields what takes bytes.

    It takes the place of what is there when the block ends. Where the block raises, what was there
    stays. What goes to S3 lies on a disk here until all of it is there.

    Raises:
        StorageError: where it cannot be written.
    """
    if is_s3(url):
        filesystem(url)  # refuses a location without a bucket
        with tempfile.NamedTemporaryFile() as file:
            yield file
            file.flush()
            objects.upload(file.name, url)
        return
    with _explained(url), disks.new_file(Path(filesystem(url)[1])) as file:
        yield file


def read_json(url: str) -> Any:
    """Return a JSON file's content."""
    try:
        return json.loads(read_bytes(url))
    except ValueError as error:
        raise DataError(f"{url}: not JSON ({error})") from None


def write_json(url: str, document: Any, *, instead_of: str | None = None) -> str:
    """Write JSON, indented and with a final line break; as `write_bytes`.

    What is no number, or endless, is written as null: JSON has neither.
    """
    text = json.dumps(finite(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return write_bytes(url, text.encode(), instead_of=instead_of)


def finite(document: Any) -> Any:
    """Return a document with None in place of what is no finite number."""
    if isinstance(document, float):
        return document if math.isfinite(document) else None
    if isinstance(document, Mapping):
        return {key: finite(value) for key, value in document.items()}
    if isinstance(document, list | tuple) and not hasattr(document, "_asdict"):
        return [finite(value) for value in document]
    return document


def list_files(url: str, *, recursive: bool = False) -> list[str]:
    """Return the paths of the files below a folder, relative to it, sorted; none if absent."""
    return sorted(list_stats(url, recursive=recursive))


def list_folders(url: str) -> list[str]:
    """Return the names of the folders in a folder, sorted; none if it is absent."""
    return sorted(name for name, stat in _inside(url, recursive=False) if stat is None)


def list_stats(url: str, *, recursive: bool = False) -> dict[str, Stat]:
    """Return what is known of the files below a folder: path relative to it → `Stat`.

    Files whose names begin with a dot are passed over, and what is no file, such as a pipe. Links
    are followed, each folder once: one that is not has a size below 0, see `disks.Stat`.
    """
    return {name: stat for name, stat in _inside(url, recursive=recursive) if stat is not None}


def walk(url: str) -> Iterator[tuple[str, Stat]]:
    """Yield all files below a folder, each with what is known of it: see `list_stats`.

    They come in an order that is the same for the same files, and none is held.
    """
    for name, stat in _inside(url, recursive=True):
        if stat is not None:
            yield name, stat


def overlap(one: str, other: str) -> bool:
    """Tell whether two locations are one, or one lies inside the other, however they are written.

    Links and ``..`` are followed on disks.
    """
    return holds(one, other) or holds(other, one)


def holds(folder: str, place: str) -> bool:
    """Tell whether a location is a folder or lies in it: see `overlap`."""
    return f"{resolved(place)}/".startswith(f"{resolved(folder)}/")


def resolved(url: str) -> str:
    """Return the one spelling of a location: links and ``..`` are followed on disks."""
    if is_s3(url):
        return "s3://" + "/".join(part for part in url.removeprefix("s3://").split("/") if part)
    return os.path.realpath(os.path.expanduser(url)).rstrip("/")


def upload_file(source: Path, url: str) -> None:
    """Copy a local file to a location, whole or not at all; it may be larger than memory."""
    if is_s3(url):
        objects.upload(str(source), url)
        return
    with _explained(url):
        disks.copy(source, Path(filesystem(url)[1]))


def upload_folder(folder: Path, url: str, *, last: str) -> None:
    """Copy a local folder to a location; the file named `last` closes the set, so it comes last."""
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    for name in sorted(names, key=lambda name: (name == last, name)):
        upload_file(folder / name, join(url, name))


def download_folder(url: str, folder: Path) -> Path:
    """Copy the files of a location into a local folder and return it."""
    for name in list_files(url, recursive=True):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_stream(join(url, name)) as (stream, _), target.open("wb") as file:
            shutil.copyfileobj(stream, file, disks.COPIED_BYTES)
    return folder


def delete_folder(url: str) -> None:
    """Remove a folder and all below it; an absent one is no error."""
    _, path = filesystem(url)
    if is_s3(url):
        objects.delete_folder(f"s3://{path}")
    elif os.path.isdir(path):
        with _explained(url):
            shutil.rmtree(path)


def delete_file(url: str) -> None:
    """Remove a file; an absent one is no error."""
    if is_s3(url):
        objects.delete(url)
        return
    with _explained(url):
        Path(url).unlink(missing_ok=True)


def prune(url: str) -> None:
    """Remove a folder that holds nothing but locks; on S3 there is none."""
    if not is_s3(url):
        folder = Path(filesystem(url)[1])
        with suppress(OSError):
            if all(re.fullmatch(disks.LOCK, name) for name in os.listdir(folder)):
                for path in folder.iterdir():
                    path.unlink(missing_ok=True)
                folder.rmdir()


def is_link(url: str) -> bool:
    """Tell whether a name on a disk is a link."""
    return not is_s3(url) and os.path.islink(filesystem(url)[1])


def clear_parts(url: str, names: str, *, before: float) -> None:
    """Remove what killed writers left in a folder; on S3 they leave nothing: see `disks`."""
    if not is_s3(url):
        with _explained(url):
            disks.clear_parts(filesystem(url)[1], names, before=before)


def make_bucket(url: str) -> None:
    """Create the bucket of an S3 location where it is missing."""
    objects.make_bucket(url)


def sha256(content: bytes | memoryview) -> str:
    """Return the hex digest by which contents are told apart."""
    return hashlib.sha256(content).hexdigest()


def _found(url: str, path: str) -> os.stat_result | None:
    """Return what has a path; None where there is nothing, which is not access denied."""
    with _explained(url):
        try:
            return os.stat(path)
        except (FileNotFoundError, NotADirectoryError, ValueError):  # zeros in its name
            return None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return None
            raise


def _inside(url: str, *, recursive: bool) -> Iterator[tuple[str, Stat | None]]:
    """Yield what lies below a folder, hidden files aside: folders with None."""
    if not is_s3(url):
        with _explained(url):
            here = os.path.realpath(filesystem(url)[1])
            if os.path.isdir(here):
                yield from disks.walk(here, recursive=recursive)
        return
    filesystem(url)  # refuses a location without a bucket
    for name, stat in objects.inside(url, recursive=recursive):
        if stat is None or not name.rpartition("/")[2].startswith("."):
            yield name, stat


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn what a file system raises into one line that names the location."""
    try:
        yield
    except FileNotFoundError:
        raise NotFoundError(f"{url}: not found; check the path") from None
    except RecursionError:
        raise DataError(
            f"{url}: folders in it lie too deep, over {disks.MAX_DEPTH} in each other"
        ) from None
    except PermissionError as error:
        named = error.filename if isinstance(error.filename, str) and not is_s3(url) else ""
        where = named or url  # what is denied may lie below
        raise StorageError(f"{where}: access denied; check the credentials and the path") from None
    except IsADirectoryError:
        raise DataError(f"{url}: is a folder, not a file") from None
    except NotADirectoryError:
        raise NotFoundError(f"{url}: not found; what is above it is no folder") from None
    except pa.ArrowInvalid as error:
        raise DataError(f"{url}: {' '.join(str(error).split())[:200]}") from None
    except OSError as error:
        text = error.strerror if error.strerror and not is_s3(url) else str(error)
        raise StorageError(f"{url}: {' '.join(text.split())[:200]}") from None
