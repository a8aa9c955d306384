"""What grows with the number of pictures, and how: order, pieces, manifest, plan, requests, twins.

    python benchmarks/scale.py [max_rows=1_000_000_000] [entries=1_000_000] [twins=100_000]

Each figure is of one process. The peer is what raypose 0.1 did: all rows of an epoch written out on
each rank, a sum over all shards for each piece, every pair of pictures compared, a client and two
requests for each read. It is run up to the sizes that take seconds, and its time there is scaled to
the whole by its own law (linear, or square for twins): these are marked. The last line is JSON: the
ratios, and figures of which a limit is known.
"""

from __future__ import annotations

import io
import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from raypose import storage
from raypose.config import Packing
from raypose.data import manifests, packing, shards, twins
from raypose.data.order import Part, epoch_spans, rank_rows
from raypose.data.sources import Entry, Listing
from raypose.testing import Faults, embedded_s3

RANKS = 1000
ROWS_PER_SHARD = 1000
WINDOW = 2048
WRITTEN_OUT = 30_000_000
"""Rows that are written out whole for the peer."""
COMPARED = 20_000
"""Pictures of which every pair is compared for the peer."""
NUM_SHARDS = 100_000
NUM_PICTURES = 64


def main() -> None:
    """Measure all, and print the ratios."""
    given = dict(word.split("=") for word in sys.argv[1:])
    largest = int(given.get("max_rows", "1_000_000_000"))
    found: dict[str, float] = {}
    found |= order(largest)
    found |= manifest()
    found |= plan(int(given.get("entries", "1_000_000")))
    found |= requests()
    found |= pairs(int(given.get("twins", "100_000")))
    print(json.dumps({key: round(value, 4) for key, value in found.items()}))


def order(largest: int) -> dict[str, float]:
    """The rows of one rank of a thousand in an epoch."""
    rows, spent, peak = 1_000_000, 0.0, 0.0
    while rows <= largest:
        sizes = np.full(rows // ROWS_PER_SHARD, ROWS_PER_SHARD)
        spent = timed(lambda: rank(sizes))  # noqa: B023
        peak = peak_mb(lambda: rank(sizes))  # noqa: B023
        print(f"order       {rows:>13,} rows  {spent:8.3f} s  {peak:7.1f} MB")
        rows *= 10
    whole = np.arange(WRITTEN_OUT)
    before = timed(lambda: shuffled(whole)) * (rows // 10) / WRITTEN_OUT
    print(f"  written out                {before:8.1f} s, scaled from {WRITTEN_OUT:,} rows")
    return {"order_s": spent, "order_mb": peak, "order_ratio": before / spent}


def rank(sizes: Any) -> Any:
    """Return the rows of one rank."""
    spans = epoch_spans(sizes, seed=0, epoch=0)
    return rank_rows(spans, Part(7, RANKS), window=WINDOW, seed=0, epoch=0, preserve_order=False)


def shuffled(rows: Any) -> Any:
    """Join an epoch's shards, as each rank once did."""
    pieces = [rows[k : k + ROWS_PER_SHARD].copy() for k in range(0, len(rows), ROWS_PER_SHARD)]
    chosen = np.random.default_rng(0).permutation(len(pieces))
    return np.concatenate([pieces[k] for k in chosen])


def manifest() -> dict[str, float]:
    """A manifest of a hundred thousand shards, written and read."""
    made = manifests.Manifest(
        num_rows=NUM_SHARDS * 256,
        labels={f"class {k}": NUM_SHARDS * 256 // 100 for k in range(100)},
        shards=tuple(
            manifests.Shard(
                name=f"shard-{k:05d}-{k:08x}.parquet", num_rows=256, num_bytes=9, sha256=f"{k:064x}"
            )
            for k in range(NUM_SHARDS)
        ),
    )
    with embedded_s3():
        storage.make_bucket("s3://raypose-scale")
        place = "s3://raypose-scale/d/MANIFEST.json"
        written = timed(lambda: storage.write_json(place, made.to_dict()))
        read = timed(lambda: manifests.read_manifest("s3://raypose-scale/d"))
    print(f"manifest    {NUM_SHARDS:>13,} shards  written in {written:.2f} s, read in {read:.2f} s")
    return {"manifest_read_s": read, "manifest_write_s": written}


def plan(entries: int) -> dict[str, float]:
    """What a driver holds while a source is packed."""
    folder, labels = "s3://bucket/pictures/", [f"Pose_{k}" for k in range(82)]

    def planned() -> Any:
        listing = Listing(folder)
        for k in range(entries):
            label = labels[k % len(labels)]
            listing.entries.append(Entry(f"{label}/{k:08d}.jpg", label, folder))
        return packing._plan(listing, Packing())

    spent, peak = timed(planned), peak_mb(planned)
    print(f"plan        {entries:>13,} pictures  {spent:6.1f} s  {peak:7.1f} MB")
    return {"plan_s": spent, "plan_mb": peak}


def requests() -> dict[str, float]:
    """Requests to S3 for each picture: packing a folder, and reading the shards."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG")
    faults = Faults()
    with embedded_s3(faults):
        storage.make_bucket("s3://raypose-requests")
        for k in range(NUM_PICTURES):
            url = f"s3://raypose-requests/in/{'ab'[k % 2]}/{k}.jpg"
            storage.write_bytes(url, buffer.getvalue())
        before = faults.counts["requests"]
        spent = timed(lambda: packing.build("s3://raypose-requests/in", "s3://raypose-requests/d"))
        packed = (faults.counts["requests"] - before) / NUM_PICTURES
        before = faults.counts["requests"]
        whole = manifests.read_manifest("s3://raypose-requests/d")
        for shard in whole.shards:
            shards.read_shard("s3://raypose-requests/d", shard)
        read = (faults.counts["requests"] - before) / NUM_PICTURES
        alone = timed(lambda: storage.read_bytes("s3://raypose-requests/in/a/0.jpg"))
    print(f"requests    {packed:.2f} a picture packed ({spent:.1f} s), {read:.3f} a picture read,")
    print(f"            {alone * 1e3:.0f} ms for a read of one")
    return {"requests_packed": packed, "requests_read": read}


def pairs(size: int) -> dict[str, float]:
    """Near pairs of hashes, by bands and by comparing all."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, size=(size, 2), dtype=np.uint64)
    spent = timed(lambda: twins.near_hashes(hashes, max_distance=6))
    peak = peak_mb(lambda: twins.near_hashes(hashes, max_distance=6))
    few = hashes[:COMPARED]
    before = timed(lambda: compared(few)) * (size / COMPARED) ** 2
    print(f"twins       {size:>13,} pictures  {spent:6.1f} s  {peak:7.1f} MB")
    print(f"  all compared               {before:8.1f} s, scaled from {COMPARED:,} pictures")
    return {"twins_s": spent, "twins_mb": peak, "twins_ratio": before / spent}


def compared(hashes: Any) -> int:
    """Compare every pair, in blocks of rows."""
    near = 0
    for first in range(0, len(hashes), WINDOW):
        rows = hashes[first : first + WINDOW, :1]
        distances = np.minimum(
            np.bitwise_count(rows ^ hashes[:, 0]), np.bitwise_count(rows ^ hashes[:, 1])
        )
        near += int((distances <= 6).sum())
    return near


def timed(work: Callable[[], Any]) -> float:
    """Return the seconds that something takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def peak_mb(work: Callable[[], Any]) -> float:
    """Return the megabytes that something takes at most, beside what was there."""
    tracemalloc.start()
    try:
        held = work()
        peak = tracemalloc.get_traced_memory()[1] / 1e6
        del held
    finally:
        tracemalloc.stop()
    return peak


if __name__ == "__main__":
    main()
