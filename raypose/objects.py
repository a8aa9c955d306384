"""Objects on S3: listed, read, written whole, and written only if nobody else has.

boto3 makes the requests, since pyarrow has no conditional ones and completes an upload that failed
half-way. Trying again is done here, where it is counted, bounded and said; a body that was cut off
is asked for again. One client serves all threads of a process.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from typing import Any, TypeVar

from raypose.console import status
from raypose.disks import Stat
from raypose.errors import ConflictError, DataError, NotFoundError, StorageError

__all__ = [
    "SETTINGS",
    "delete",
    "delete_folder",
    "exists",
    "get",
    "inside",
    "make_bucket",
    "put",
    "tag",
]

TRIES, DEADLINE_S = 10, 40.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 3.0
SAID_FROM = 4
"""The try from which on it is said that there are several."""
SETTINGS = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_PROFILE",
)
"""Variables by which a client is chosen."""
AGAIN = {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "TooManyRequests"}
ABSENT = {"NoSuchKey", "NoSuchBucket", "404", "NotFound"}
TAKEN = {"PreconditionFailed", "412"}
BUSY = {"ConditionalRequestConflict", "409"}
"""Another conditional write was under way: ours may be asked again."""

T = TypeVar("T")


def get(url: str, *, offset: int = 0, size: int = -1) -> tuple[bytes, str]:
    """Return an object's content, or `size` bytes of it from `offset` on; and its tag.

    Raises:
        NotFoundError: where it is absent.
        StorageError: where it cannot be read: access, network.
    """
    place = _place(url)
    if offset or size >= 0:
        place["Range"] = f"bytes={offset}-{offset + size - 1 if size >= 0 else ''}"
    if size == 0:
        return b"", ""

    def request() -> tuple[bytes, str]:
        answer = _client().get_object(**place)
        with answer["Body"] as body:
            return bytes(body.read()), str(answer["ETag"])

    return _persist(url, request)


def stat(url: str) -> Stat | None:
    """Return what is known of an object; None where it is absent."""
    try:
        head = _persist(url, lambda: _client().head_object(**_place(url)))
    except NotFoundError:
        return None
    return _stat(head["ContentLength"], head)


def tag(url: str) -> str:
    """Return the tag of an object, which changes with its content; empty where it is absent."""
    found = stat(url)
    return found.tag if found else ""


def put(url: str, content: bytes, *, instead_of: str | None = None) -> str:
    """Write an object whole, and return its tag.

    Args:
        url: of the object.
        content: all of it.
        instead_of: tag of what is to be there; empty for nothing. None writes over anything.

    Raises:
        ConflictError: where something else is there.
        StorageError: where it cannot be written; what was there before is still.
    """
    place = _place(url)
    condition = {"": {"IfNoneMatch": "*"}, None: {}}.get(instead_of, {"IfMatch": instead_of})
    try:
        return _persist(
            url, lambda: str(_client().put_object(**place, Body=content, **condition)["ETag"])
        )
    except (ConflictError, NotFoundError) as error:
        # an earlier try may have been done although its answer was lost
        if instead_of is None or tag(url) == "":
            raise
        there, current = get(url)
        if there == content:
            return current
        raise ConflictError(f"{url}: was written by another meanwhile") from error


def upload(source: str, url: str) -> None:
    """Write an object of a local file's content, whole or not at all, a part in memory at a time.

    Raises:
        StorageError: where it cannot be written; what was there before is still.
    """
    place = _place(url)

    def request() -> None:
        with open(source, "rb") as file:  # read anew by each try
            _client().upload_fileobj(file, place["Bucket"], place["Key"])

    _persist(url, request)


def inside(url: str, *, recursive: bool) -> Iterator[tuple[str, Stat | None]]:
    """Yield what lies below a folder, names relative to it; folders, made of slashes, have None."""
    bucket, _, prefix = url.removeprefix("s3://").strip("/").partition("/")
    prefix = f"{prefix}/" if prefix else ""
    asked: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
    if not recursive:
        asked["Delimiter"] = "/"
    for page in _pages(url, asked):
        for found in page.get("Contents", ()):
            name = found["Key"][len(prefix) :]
            if name and not name.endswith("/"):  # what consoles make to show a folder
                yield name, _stat(found["Size"], found)
        for found in page.get("CommonPrefixes", ()):
            yield found["Prefix"][len(prefix) :].rstrip("/"), None


def _pages(url: str, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the pages of a listing; none where there is no such bucket."""
    while True:
        try:
            page = _persist(url, lambda: _client().list_objects_v2(**asked))
        except NotFoundError:
            return
        yield page
        if not page.get("IsTruncated"):
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]


def _stat(size: int, found: Mapping[str, Any]) -> Stat:
    return Stat(size, int(found["LastModified"].timestamp() * 1e9), str(found["ETag"]))


def exists(url: str) -> bool:
    """Tell whether a bucket, an object, or one below a folder is there."""
    bucket, _, key = url.removeprefix("s3://").strip("/").partition("/")
    asked = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "MaxKeys": 1}
    try:
        if key and tag(url):
            return True
        page = _persist(url, lambda: _client().list_objects_v2(**asked))
    except NotFoundError:
        return False
    return not key or bool(page.get("Contents"))


def make_bucket(url: str) -> None:
    """Create the bucket of a location where it is missing."""
    bucket = url.removeprefix("s3://").split("/")[0]
    if not exists(f"s3://{bucket}"):
        region = _client().meta.region_name
        where = {"CreateBucketConfiguration": {"LocationConstraint": region}}
        asked = {} if region in (None, "us-east-1", "aws-global") else where
        _persist(url, lambda: _client().create_bucket(Bucket=bucket, **asked))


def delete(url: str) -> None:
    """Remove an object; an absent one is no error."""
    try:
        _persist(url, lambda: _client().delete_object(**_place(url)))
    except NotFoundError:
        return


def delete_folder(url: str) -> None:
    """Remove all objects below a folder, those with a slash at their end too, which show it."""
    bucket, _, prefix = url.removeprefix("s3://").strip("/").partition("/")
    asked = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else ""}
    keys = [found["Key"] for page in _pages(url, asked) for found in page.get("Contents", ())]

    def remove(key: str) -> None:
        with suppress(NotFoundError):
            _persist(url, lambda: _client().delete_object(Bucket=bucket, Key=key))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(remove, keys))


def _place(url: str) -> dict[str, Any]:
    bucket, _, key = url.removeprefix("s3://").strip("/").partition("/")
    if not bucket or not key:
        raise DataError(f"{url}: names no object; write s3://bucket/key")
    return {"Bucket": bucket, "Key": key}


def _client() -> Any:
    return _client_of(os.getpid(), tuple(os.environ.get(name) for name in SETTINGS))


@lru_cache(maxsize=4)
def _client_of(process: int, settings: tuple[str | None, ...]) -> Any:
    """Return the client of a process, for as long as the variables are the same."""
    import boto3
    from botocore.config import Config

    custom = settings[0] or settings[1]
    how = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=5,
        read_timeout=30,
        max_pool_connections=32,
        s3={"addressing_style": "path" if custom else "auto"},
        # servers that are only like S3 do not all know checksums
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.session.Session().client("s3", endpoint_url=settings[1] or settings[0], config=how)


def _persist(url: str, request: Callable[[], T]) -> T:
    """Make a request again while the server is not to be had, for a while."""
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        HTTPClientError,
        NoCredentialsError,
        PartialCredentialsError,
        ResponseStreamingError,
    )
    from botocore.exceptions import (
        ConnectionError as Unreachable,
    )
    from urllib3.exceptions import HTTPError

    end, pause = time.monotonic() + DEADLINE_S, FIRST_PAUSE_S
    for number in range(1, TRIES + 1):
        try:
            return request()
        except ClientError as error:
            reason = _refused(url, error)
        except (NoCredentialsError, PartialCredentialsError):
            raise StorageError(
                f"{url}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from None
        except (
            Unreachable, HTTPClientError, ResponseStreamingError, HTTPError, OSError
        ) as error:  # fmt: skip
            reason = type(error).__name__
        except BotoCoreError as error:
            reason = " ".join(str(error).split())[:160]
            if "IncompleteRead" not in type(error).__name__:
                raise StorageError(f"{url}: {reason}") from None
        if number == TRIES or time.monotonic() + pause > end:
            break
        if number + 1 >= SAID_FROM:
            status(f"{url}: no answer ({reason}): try {number + 1} of {TRIES}")
        time.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, LONGEST_PAUSE_S)
    raise StorageError(f"{url}: no answer in {number} tries ({reason}); check the network")


def _refused(url: str, error: Any) -> str:
    """Return why a request may be made again; raise what another cannot mend."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    number = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if number >= 500 or number == 429 or code in AGAIN or code in BUSY:
        return code or str(number)
    if code in TAKEN or number == 412:
        raise ConflictError(f"{url}: was written by another meanwhile") from None
    if code == "NoSuchBucket":
        bucket = url.removeprefix("s3://").split("/")[0]
        raise NotFoundError(f"{url}: no bucket {bucket}; make it, or check its name") from None
    if code in ABSENT or number == 404:
        raise NotFoundError(f"{url}: not found; check the path") from None
    if number == 416:
        raise DataError(f"{url}: ends before what was asked of it; it has changed") from None
    if number in (401, 403):
        raise StorageError(f"{url}: access denied; check the credentials and the path") from None
    text = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())[:120]
    raise StorageError(f"{url}: {code} {text}".rstrip()) from None
