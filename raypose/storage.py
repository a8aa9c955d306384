"""Files on ``s3://`` and local paths, through pyarrow: read, list, atomic write, copy.

S3-compatible servers are reached by the standard variables (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION). pyarrow retries refused and cut-off answers itself.
A write is atomic: a reader sees the old object, or the new one whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from raypose.errors import DataError, NotFoundError

__all__ = [
    "default_root",
    "delete_file",
    "delete_folder",
    "download_folder",
    "exists",
    "filesystem",
    "is_s3",
    "join",
    "list_files",
    "list_folders",
    "make_bucket",
    "open_file",
    "open_stream",
    "read_bytes",
    "read_json",
    "sha256",
    "upload_folder",
    "write_bytes",
    "write_json",
]


DEFAULT_ROOT = "raypose-data"


def is_s3(url: str) -> bool:
    """Tell whether a location is on S3."""
    return url.startswith("s3://")


def default_root() -> str:
    """Return the storage root where none is named: RAYPOSE_STORAGE, or raypose-data.

    A folder of that name is looked for from here upwards; where there is none, it will be here.
    """
    named = os.environ.get("RAYPOSE_STORAGE")
    if named:
        return named if is_s3(named) else str(Path(named).expanduser())
    here = Path.cwd()
    found = (folder / DEFAULT_ROOT for folder in (here, *here.parents))
    return str(next((folder for folder in found if folder.is_dir()), here / DEFAULT_ROOT))


def filesystem(url: str) -> tuple[pafs.FileSystem, str]:
    """Return pyarrow's file system for a location, and the path within it.

    Raises:
        DataError: where the location names no bucket, or a scheme other than s3.
    """
    if not is_s3(url):
        if "://" in url:
            raise DataError(f"{url}: unknown scheme; use s3://bucket/key or a local path")
        return pafs.LocalFileSystem(), str(Path(url).absolute())
    path = url.removeprefix("s3://").strip("/")
    bucket = path.split("/")[0]
    if not bucket:
        raise DataError(f"{url}: names no bucket; write s3://bucket/key")
    with _explained(url):  # of the bucket alone: keys may hold what a URI may not
        found, _ = pafs.FileSystem.from_uri(f"s3://{bucket}")
    return found, path


def join(url: str, *parts: str) -> str:
    """Append path parts to a location."""
    return "/".join([url.rstrip("/"), *parts])


def exists(url: str) -> bool:
    """Tell whether a file or folder is there."""
    fs, path = filesystem(url)
    with _explained(url):
        return bool(fs.get_file_info(path).type != pafs.FileType.NotFound)


def read_bytes(url: str, *, offset: int = 0, size: int = -1) -> bytes:
    """Return a file's content, or `size` bytes of it from `offset` on.

    Raises:
        NotFoundError: where it is absent.
        DataError: where it cannot be read.
    """
    with open_file(url) as file:  # one request, where a stream asks many
        return bytes(file.read() if size < 0 else file.read_at(size, offset))


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


def write_bytes(url: str, content: bytes) -> None:
    """Write a file whole or not at all; folders above it are made."""
    fs, path = filesystem(url)
    with _explained(url):
        if is_s3(url):  # an S3 object appears only when its upload is complete
            with fs.open_output_stream(path) as stream:
                stream.write(content)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


def read_json(url: str) -> Any:
    """Return a JSON file's content."""
    try:
        return json.loads(read_bytes(url))
    except ValueError as error:
        raise DataError(f"{url}: not JSON ({error})") from None


def write_json(url: str, document: Any) -> None:
    """Write JSON, indented and with a final line break."""
    write_bytes(url, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())


def list_files(url: str, *, recursive: bool = False) -> list[str]:
    """Return the paths of the files below a folder, relative to it, sorted; none if absent."""
    return _list(url, kind=pafs.FileType.File, recursive=recursive)


def list_folders(url: str) -> list[str]:
    """Return the names of the folders in a folder, sorted; none if it is absent."""
    return _list(url, kind=pafs.FileType.Directory, recursive=False)


def upload_folder(folder: Path, url: str, *, last: str) -> None:
    """Copy a local folder to a location; the file named `last` closes the set, so it comes last."""
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    for name in sorted(names, key=lambda name: (name == last, name)):
        write_bytes(join(url, name), (folder / name).read_bytes())


def download_folder(url: str, folder: Path) -> Path:
    """Copy the files of a location into a local folder and return it."""
    for name in list_files(url, recursive=True):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(read_bytes(join(url, name)))
    return folder


def delete_folder(url: str) -> None:
    """Remove a folder and all below it; an absent one is no error."""
    fs, path = filesystem(url)
    with _explained(url):
        if fs.get_file_info(path).type == pafs.FileType.Directory:
            fs.delete_dir(path)


def delete_file(url: str) -> None:
    """Remove a file; an absent one is no error."""
    fs, path = filesystem(url)
    with _explained(url):
        if fs.get_file_info(path).type == pafs.FileType.File:
            fs.delete_file(path)


def make_bucket(url: str) -> None:
    """Create the bucket of an S3 location where it is missing."""
    fs, path = filesystem(url)
    bucket = path.split("/")[0]
    with _explained(url):
        if fs.get_file_info(bucket).type == pafs.FileType.NotFound:
            allowed = pafs.S3FileSystem(
                endpoint_override=os.environ.get("AWS_ENDPOINT_URL"), allow_bucket_creation=True
            )
            allowed.create_dir(bucket)


def sha256(content: bytes) -> str:
    """Return the hex digest by which contents are told apart."""
    return hashlib.sha256(content).hexdigest()


def _list(url: str, *, kind: pafs.FileType, recursive: bool) -> list[str]:
    fs, path = filesystem(url)
    selector = pafs.FileSelector(path, allow_not_found=True, recursive=recursive)
    with _explained(url):
        infos = fs.get_file_info(selector)
    names = [info.path[len(path) :].strip("/") for info in infos if info.type == kind]
    return sorted(name for name in names if not Path(name).name.startswith("."))


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn what a file system raises into one line that names the location."""
    try:
        yield
    except FileNotFoundError:
        raise NotFoundError(f"{url}: not found; check the path") from None
    except PermissionError:
        raise DataError(f"{url}: access denied; check the credentials and the path") from None
    except IsADirectoryError:
        raise DataError(f"{url}: is a folder, not a file") from None
    except (OSError, pa.ArrowInvalid) as error:
        text = " ".join(str(error).split())
        raise DataError(f"{url}: {text[:200]}") from None
