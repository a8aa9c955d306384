"""The constants of growth.py, seen at small sizes.

    python benchmarks/growth_measured.py [shards=20_000] [release=PLACE picture=FILE]

Prints what each formula says over what is seen here: near 1, it holds. The last line is JSON: these
ratios. Those of seconds depend on the machine. With a release and a picture, the milliseconds of
CPU of one answer, without HTTP, are measured too.
"""

from __future__ import annotations

import io
import json
import pickle
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import growth
import numpy as np
from PIL import Image

from raypose import storage
from raypose.config import Config, Packing, override
from raypose.data import decoding, manifests, packing, shards
from raypose.data.order import Part, epoch_spans, rank_rows
from raypose.data.reader import Reader
from raypose.testing import Faults, embedded_s3
from raypose.tuning import records
from raypose.tuning.course import Course


def measured(count: int = 20_000) -> dict[str, tuple[float, float]]:
    """Return of each constant what its formula says and what is seen, at small sizes.

    Args:
        count: shards of the manifest.
    """
    with tempfile.TemporaryDirectory() as folder:
        return {**_manifest(folder, count), **_order(), **_packed(), **_record(folder)}


def _manifest(folder: str, count: int) -> dict[str, tuple[float, float]]:
    named = tuple(
        manifests.Shard(
            name=f"shard-{k:05d}-{k:08x}.parquet", num_rows=256, num_bytes=20_000_000,
            sha256=storage.sha256(str(k).encode()),
        )
        for k in range(count)
    )  # fmt: skip
    made = manifests.Manifest(num_rows=256 * count, labels={"a": 256 * count}, shards=named)
    place = storage.join(folder, manifests.MANIFEST)
    storage.write_json(place, made.to_dict())
    decode = decoding.Decode({"a": 0}, 224, "squash", 25_000_000, False)
    files = tuple(("s3://a-bucket/with-a-folder/train", shard) for shard in named)
    reader = Reader(files, tuple(shard.num_rows for shard in named), decode, count)
    rows = 256 * count
    return {
        "manifest_bytes": (growth.manifest_bytes(rows), len(storage.read_bytes(place))),
        "manifest_held": (
            growth.manifest_held(rows),
            held(lambda: manifests.read_manifest(folder)),
        ),
        "reader_bytes": (growth.reader_bytes(rows), len(pickle.dumps(reader))),
    }


def _order() -> dict[str, tuple[float, float]]:
    def ordered(count: int, workers: int) -> float:
        sizes = np.full(count, 256)

        def work() -> Any:
            spans = epoch_spans(sizes, seed=0, epoch=0)
            part = Part(7, workers)
            return rank_rows(spans, part, window=2048, seed=0, epoch=0, preserve_order=False)

        return held(work)

    return {
        "order_bytes, shards": (
            growth.order_bytes(256 * 100_000, 10_000),
            ordered(100_000, 10_000),
        ),
        "order_bytes, rows": (growth.order_bytes(256 * 20_000, 10), ordered(20_000, 10)),
    }


def _packed() -> dict[str, tuple[float, float]]:
    buffer, faults, size, rows = io.BytesIO(), Faults(), 64, 16
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    content = buffer.getvalue()
    with embedded_s3(faults):
        storage.make_bucket("s3://raypose-growth")
        source, dest = "s3://raypose-growth/in", "s3://raypose-growth/d"
        for k in range(size):
            storage.write_bytes(f"{source}/{'ab'[k % 2]}/{k}.jpg", content)
        began = faults.counts["requests"]
        packing.build(source, dest, Packing(rows_per_shard=rows))
        asked = faults.counts["requests"] - began
        found = manifests.read_manifest(dest).shards
        began = faults.counts["requests"]
        for shard in found:
            shards.read_shard(dest, shard)
        read = faults.counts["requests"] - began
    return {
        "requests_to_pack": (growth.requests_to_pack(size, rows), asked),
        "gets_per_epoch": (growth.gets_per_epoch(size, 1, rows), read),
        "shard_bytes": (growth.shard_bytes(len(content), rows), found[0].num_bytes),
    }


def _record(folder: str) -> dict[str, tuple[float, float]]:
    values = {
        "optim.learning_rate": 1.2345678901234e-05, "optim.weight_decay": 0.123456789012345,
        "optim.batch_size": 128, "model.backbone": "ViT-B-32-256/datacomp_s34b_b86k",
        "captions.preset": "words",
    }  # fmt: skip
    floats = '{"name": "FloatDistribution", "attributes": {"low": 1e-06, "high": 0.001}}'
    made = records.Records(storage.join(folder, "search"))
    made.write(
        records.Trial(
            number=0, state="stopped", values=values, params=values, seconds=123.4567, began=1.7e9,
            distributions=dict.fromkeys(values, floats), run="postures-trial-1a2b3c4d",
            scores={1: 0.51234567890123, 2: 0.61234567890123},
        )
    )  # fmt: skip
    place = storage.join(folder, "search", records.TRIALS, "000000.json")
    return {"record_bytes": (growth.record_bytes(1), len(storage.read_bytes(place)))}


def held(work: Callable[[], Any]) -> float:
    """Return the bytes of memory that something takes at most, beside what was there."""
    tracemalloc.start()
    try:
        kept = work()
        peak = tracemalloc.get_traced_memory()[1]
        del kept
    finally:
        tracemalloc.stop()
    return float(peak)


def driver(trials: int = 10_000) -> dict[str, tuple[float, float]]:
    """Return of a search's driver the seconds of CPU that formulas say, and that are seen."""
    from records import drawn

    space = {
        "optim.learning_rate": {"loguniform": [1e-6, 1e-3]},
        "optim.weight_decay": {"uniform": [0.0, 0.5]},
    }
    with tempfile.TemporaryDirectory() as folder:
        made = records.Records(folder)
        made.trials = {number: drawn(number) for number in range(trials)}
        search = {"space": space, "num_trials": 10**6}
        course = Course(override(Config(), {"search": search}), made)
        course.next()  # the first is the recipe itself
        began = time.process_time()
        begun = [each for each in (course.next() for _ in range(5)) if each]
        drew = (time.process_time() - began) / 5
        began = time.process_time()
        for trial in begun:
            course.report(trial.number, {"epoch": 1, "val_balanced_accuracy": 0.5})
        told = (time.process_time() - began) / 5
    return {"draw_s": (growth.DRAW_S * trials, drew), "report_s": (growth.REPORT_S * trials, told)}


def answer_ms(release: str, picture: str, count: int = 50) -> float:
    """Return the milliseconds of CPU that a release takes for an answer."""
    import raypose

    model = raypose.load(release)
    model.predict(picture)
    began = time.process_time()
    for _ in range(count):
        model.predict(picture)
    return (time.process_time() - began) / count * 1000


def main() -> None:
    """Measure, and print what formulas say over what is seen."""
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    ratios = {}
    found = measured(int(given.get("shards", "20_000"))) | driver()
    for name, (said, seen) in found.items():
        ratios[name] = round(said / seen, 3)
        print(f"{name:<20} said {said:14,.4g}  seen {seen:14,.4g}  ratio {said / seen:.2f}")
    if "release" in given:
        ratios["answer_ms"] = round(answer_ms(given["release"], given["picture"]), 3)
        print(f"{'answer':<20} {ratios['answer_ms']:.2f} ms of CPU, without HTTP")
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
