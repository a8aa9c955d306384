"""What the pictures of a data set are like: sizes, near-duplicates, and what looks wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from raypose.config import MAX_PIXELS
from raypose.data import images, manifests, shards, twins
from raypose.data.looks import THUMB_SIDE, Look, look
from raypose.data.manifests import Shard
from raypose.data.packing import Run, serial
from raypose.errors import BadPicture, DataError

__all__ = ["Row", "cluster", "inspect", "suspicious"]

SMALL_PX = 64
MAX_ASPECT = 3.0
BLANK = 0.002


class Row(NamedTuple):
    """One picture.

    Attributes:
        data: location of its data set.
        detail: share of pixels, in 0..1, that differ from the commonest brightness.
        hashes: perceptual, of the picture and of its mirror image; see `twins`.
        error: why it cannot be decoded; empty for a good one.
        thumb: uint8 (32, 32), brightness; empty where it cannot be decoded.
        digest: of its bytes; empty where all of it is of one brightness.
    """

    data: str
    id: str
    label: str
    width: int
    height: int
    num_bytes: int
    detail: float
    hashes: tuple[int, int]
    error: str = ""
    thumb: bytes = b""
    digest: bytes = b""


def inspect(
    urls: Sequence[str],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    run: Run = serial,
) -> list[Row]:
    """Look at every picture of some data sets, in the order of their shards.

    Packing has noted what there is to see of the pictures that it decoded; others are read.

    Args:
        urls: of the data sets.
        progress: called with (pictures done, in all).
        run: runs a task for each shard.
    """
    sets = [(url, manifests.read_manifest(url)) for url in urls]
    files = [(url, shard) for url, manifest in sets for shard in manifest.shards]
    tasks = [(number, *file) for number, file in enumerate(files)]
    total = sum(manifest.num_rows for _, manifest in sets)
    found: dict[int, list[Row]] = {}
    done = 0
    for number, rows in run(_inspect_shard, tasks, None):
        found[number] = rows
        done += len(rows)
        progress(done, total)
    rows = [row for number in sorted(found) for row in found[number]]
    told = {(row.data, row.id) for row in rows}
    if len(told) < len(rows) and len(set(urls)) == len(urls):
        raise DataError(f"{', '.join(urls)}: pictures bear the same id; build it again")
    return rows


def cluster(
    rows: Sequence[Row],
    *,
    max_distance: int = 6,
    min_correlation: float = 0.9,
    features: npt.NDArray[np.float32] | None = None,
    min_cosine: float = 0.96,
) -> list[list[int]]:
    """Group near-duplicates: rows' numbers, the largest group first.

    Args:
        rows: of `inspect`.
        max_distance: bits in which the hashes of twins may differ. Copies in other sizes and
            qualities, and mirrored ones, differ in 4 or less nearly always.
        min_correlation: of the brightness of twins, in -1..1: at 6 bits, more than half of the
            pairs among photographs are other people in one pose.
        features: (N, D), each row of length 1; where given, their cosine tells twins too.
        min_cosine: of twins.
    """
    hashes = np.array([row.hashes for row in rows], dtype=np.uint64).reshape(-1, 2)
    # blank pictures are alike, but no copies
    looked_at = np.flatnonzero([not row.error and row.detail >= BLANK for row in rows])
    pairs = looked_at[twins.near_hashes(hashes[looked_at], max_distance=max_distance)]
    side = THUMB_SIDE
    known = np.array([bool(row.thumb) for row in rows], dtype=bool)
    thumbs = np.frombuffer(
        b"".join(row.thumb or bytes(side * side) for row in rows), dtype=np.uint8
    ).reshape(-1, side, side)
    told = known[pairs].all(axis=1)
    confirmed = twins.alike(thumbs, pairs[told], min_correlation=min_correlation)
    pairs = np.concatenate([confirmed, pairs[~told]])
    if features is not None:
        pairs = np.concatenate([pairs, twins.near_features(features, min_cosine=min_cosine)])
    first: dict[bytes, int] = {}
    same = [
        (first.setdefault(row.digest, number), number)
        for number, row in enumerate(rows)
        if row.digest
    ]
    copies = np.array([pair for pair in same if pair[0] != pair[1]], dtype=pairs.dtype)
    return twins.clusters(len(rows), np.concatenate([pairs, copies.reshape(-1, 2)]))


def suspicious(rows: Sequence[Row], groups: Sequence[Sequence[int]]) -> Iterator[tuple[int, str]]:
    """Yield the numbers of pictures that somebody should look at, and why.

    Args:
        rows: of `inspect`.
        groups: of `cluster`.
    """
    for number, row in enumerate(rows):
        if row.error:
            yield number, row.error
        elif row.detail < BLANK:
            yield number, "nearly blank"
        elif min(row.width, row.height) < SMALL_PX:
            yield number, f"small: {row.width} × {row.height} px"
        elif max(row.width, row.height) > MAX_ASPECT * min(row.width, row.height):
            yield number, f"a strip: {row.width} × {row.height} px"
    for group in groups:
        labels = {rows[number].label: number for number in group}
        for number in group if len(labels) > 1 else ():
            other = next(rows[k] for label, k in labels.items() if label != rows[number].label)
            yield number, f"a twin is labelled {other.label}: {other.id}"


def _inspect_shard(task: tuple[int, str, Shard], common: Any) -> tuple[int, list[Row]]:
    """Take what packing noted; where it noted nothing, read the pictures and look at them."""
    number, url, shard = task
    noted = shards.read_looks(url, shard)
    if noted is not None:
        return number, [_row(url, *some) for some in noted]
    return number, [_inspect_row(url, row) for row in shards.read_shard(url, shard).to_pylist()]


def _inspect_row(url: str, row: Mapping[str, Any]) -> Row:
    content = row["image"]["bytes"] or b""
    try:
        pixels = images.decode(content, max_pixels=MAX_PIXELS)
    except BadPicture as error:
        return Row(url, row["id"], row["label"], 0, 0, len(content), 0.0, (0, 0), str(error))
    return _row(url, row["id"], row["label"], look(content, pixels))


def _row(url: str, key: str, label: str, seen: Look) -> Row:
    thumb = np.frombuffer(seen.thumb, dtype=np.uint8).reshape(1, THUMB_SIDE, THUMB_SIDE)
    plain, mirrored = twins.hashes(thumb)[0].tolist()
    size = (seen.width, seen.height, seen.num_bytes)
    digest = seen.digest if seen.detail else b""
    return Row(
        url, key, label, *size, seen.detail, (plain, mirrored), thumb=seen.thumb, digest=digest
    )
