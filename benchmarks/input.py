"""How fast pictures reach a training worker, against what people use, in one run.

    pip install 'raypose[bench]'
    python benchmarks/input.py [num=1024] [size=224] [rounds=5] [pictures=FOLDER]

First one core and bytes in memory: our decoder against Pillow's open-convert-resize, and against
the floor that nobody passes, entropy decoding. Then whole pipelines from an S3 server on loopback,
in a process of its own, to uint8 batches of 64: ours against stock Ray Data, torch's DataLoader and
WebDataset, all of these with Pillow. Speed there is images for each second of CPU that the
pipeline's processes used, the server's left out: images a second alone would flatter whoever takes
more cores. Workers are started before the clock is. Rounds are interleaved and medians given. The
last line is JSON: the ratios.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow.parquet as pq
import simplejpeg
import torch
from PIL import Image

from raypose import config, data, runtime, storage, synthesis
from raypose.captions import taxonomy
from raypose.data import images, manifests, packing, shards, transforms
from raypose.data.order import Part

BATCH_SIZE = 64
NUM_WORKERS = 2
BUCKET = "s3://raypose-input"
MAX_PIXELS = 25_000_000
LABELS = taxonomy.load("yoga82").ids


def drawn(number: int) -> bytes:
    """A picture of 640 × 480 with texture, some 70 kB, as a camera would give it."""
    rng = np.random.default_rng(number)
    figure = synthesis.render(LABELS[number % len(LABELS)], seed=number, size=320)
    pixels = np.asarray(figure.resize((640, 480), Image.Resampling.BICUBIC), dtype=np.float64)
    coarse = np.kron(rng.normal(0, 9, (120, 160, 3)), np.ones((4, 4, 1)))
    pixels = np.clip(pixels + coarse + rng.normal(0, 3, pixels.shape), 0, 255)
    return images.encode(pixels.astype(np.uint8), quality=85)


def gathered(options: dict[str, str]) -> dict[str, bytes]:
    """Id → bytes: from a folder of pictures, or drawn."""
    num = int(options.get("num", 1024))
    if folder := options.get("pictures"):
        paths = sorted(Path(folder).rglob("*.jpg"))[:num]
        return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in paths}
    return {f"{LABELS[k % len(LABELS)]}/{k:06d}.jpg": drawn(k) for k in range(num)}


# one core, bytes in memory


def pillow(content: bytes, size: int) -> Any:
    """What most loaders do."""
    with Image.open(io.BytesIO(content)) as image:
        square = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(square).transpose(2, 0, 1)


def exact(content: bytes, size: int) -> Any:
    """Ours."""
    return transforms.preprocess(content, size=size, resize="squash", max_pixels=MAX_PIXELS)


def scaled(content: bytes, size: int) -> Any:
    """Ours, decoding at a fraction of the size."""
    return transforms.preprocess(
        content, size=size, resize="squash", max_pixels=MAX_PIXELS, dct_scaled=True
    )


def floor(content: bytes, size: int) -> Any:
    """Entropy decoding and as little else as libjpeg-turbo allows: an eighth of the size."""
    return simplejpeg.decode_jpeg(content, min_height=1, min_width=1, min_factor=8)


def decoders(contents: Sequence[bytes], size: int, rounds: int) -> dict[str, float]:
    """Print one core's images/s of each decoder; return ratios to Pillow."""
    small = [presized(content) for content in contents]
    work: dict[str, tuple[Callable[[bytes, int], Any], Sequence[bytes]]] = {
        "pillow": (pillow, contents),
        "exact": (exact, contents),
        "dct_scaled": (scaled, contents),
        "presized_320": (exact, small),
        "floor": (floor, contents),
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, (function, pictures) in work.items():
            started = time.perf_counter()
            for content in pictures:
                function(content, size)
            times[name].append((time.perf_counter() - started) / len(pictures))
    seconds = {name: statistics.median(values[1:]) for name, values in times.items()}
    worst, noise = 0, []
    for content in contents:
        truth = pillow(content, size).astype(int)
        worst = max(worst, int(np.abs(truth - exact(content, size)).max()))
        noise.append(np.square(truth - scaled(content, size)).mean())
    decibels = 10 * np.log10(255**2 / np.mean(noise))
    print(f"one core, {np.mean([len(c) for c in contents]) / 1000:.0f} kB a picture, to {size} px")
    for name, value in seconds.items():
        print(f"  {name:<14}{1 / value:8.0f} images/s  {seconds['pillow'] / value:5.2f} x pillow")
    print(f"  exact is within {worst} level of Pillow's; dct_scaled at {decibels:.1f} dB")
    ratios = {name: round(seconds["pillow"] / value, 2) for name, value in seconds.items()}
    return ratios | {"max_difference": worst, "dct_scaled_db": round(float(decibels), 1)}


def presized(content: bytes) -> bytes:
    """As `raypose shards build max_side=320` stores it."""
    pixels = images.shrink(images.decode(content, max_pixels=MAX_PIXELS), max_side=320)
    return images.encode(pixels, quality=packing.Packing().quality)


# whole pipelines: each yields the sizes of its batches


def ours(url: str, size: int, *, dct_scaled: bool = False) -> Iterator[int]:
    """Shards from S3, decoded by Ray Data."""
    index = {label: number for number, label in enumerate(LABELS)}
    index |= {label: 0 for label in manifests.read_manifest(url).labels if label not in index}
    settings = config.DataConfig(dct_scaled=dct_scaled)
    reader = data.load(url, index, settings, size=size, resize="squash", room=0)
    rows = reader.epoch(
        Part(batch_size=BATCH_SIZE), window=512, seed=0, epoch=0, preserve_order=False
    )
    for batch in reader.batches(rows, batch_size=BATCH_SIZE):
        yield len(batch)


def stock_ray(url: str, size: int) -> Iterator[int]:
    """`read_images` as its documentation has it: Pillow in read tasks."""
    import ray.data

    fs, path = storage.filesystem(url)
    rows = ray.data.read_images(path, filesystem=fs, size=(size, size), mode="RGB")
    for batch in rows.iter_torch_batches(batch_size=BATCH_SIZE):
        yield len(batch["image"])


class Shards(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """The same shards, each worker its share, decoded by Pillow."""

    def __init__(self, url: str, size: int) -> None:
        self.urls, self.size = shards.shard_urls(url), size

    def __iter__(self) -> Iterator[torch.Tensor]:
        worker = torch.utils.data.get_worker_info()
        for url in self.urls[worker.id :: worker.num_workers]:
            table = pq.read_table(io.BytesIO(storage.read_bytes(url)), columns=["image"])
            for row in table["image"].to_pylist():
                yield torch.from_numpy(np.ascontiguousarray(pillow(row["bytes"], self.size)))


@cache
def loader(url: str, size: int) -> Iterable[Any]:
    """A DataLoader whose workers stay."""
    return torch.utils.data.DataLoader(
        Shards(url, size),
        batch_size=BATCH_SIZE,
        num_workers=NUM_WORKERS,
        persistent_workers=True,
        multiprocessing_context="spawn",  # pyarrow's S3 does not survive a fork
    )


def data_loader(url: str, size: int) -> Iterator[int]:
    """The DataLoader of torch."""
    for batch in loader(url, size):
        yield len(batch)


@cache
def web_loader(url: str, size: int) -> Iterable[Any]:
    """A WebLoader whose workers stay."""
    import webdataset as wds

    def square(image: Image.Image) -> torch.Tensor:
        resized = image.resize((size, size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.asarray(resized).transpose(2, 0, 1).copy())

    rows = wds.WebDataset(tars(url), shardshuffle=False).decode("pil").to_tuple("jpg")
    rows = rows.map_tuple(square).batched(BATCH_SIZE)
    return wds.WebLoader(rows, batch_size=None, num_workers=NUM_WORKERS, persistent_workers=True)


def web_dataset(url: str, size: int) -> Iterator[int]:
    """Tars through WebDataset's own pipe to curl, decoded by Pillow."""
    for (batch,) in web_loader(url, size):
        yield len(batch)


def tars(url: str) -> list[str]:
    """Signed locations of a bucket's tars over plain HTTP."""
    bucket, _, folder = url.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    return [
        client.generate_presigned_url(
            "get_object", Params={"Bucket": bucket, "Key": f"{folder}/{name}"}
        )
        for name in storage.list_files(url)
    ]


def lay_out(contents: dict[str, bytes]) -> None:
    """Put the same pictures on S3 as files, tars and shards, and as shards of smaller ones."""
    storage.make_bucket(BUCKET)
    for name, content in contents.items():
        storage.write_bytes(f"{BUCKET}/files/{name}", content)
    names = list(contents)
    for first in range(0, len(names), 256):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name in names[first : first + 256]:
                info = tarfile.TarInfo(name)
                info.size = len(contents[name])
                archive.addfile(info, io.BytesIO(contents[name]))
        storage.write_bytes(f"{BUCKET}/tars/{first:06d}.tar", buffer.getvalue())
    packing.build(f"{BUCKET}/files", f"{BUCKET}/shards")
    packing.build(f"{BUCKET}/files", f"{BUCKET}/small", packing.Packing(max_side=320))


def pipelines(num: int, size: int, rounds: int) -> dict[str, float]:
    """Print each pipeline's images for a second of CPU; return ratios of ours to the others."""
    work: dict[str, tuple[Callable[[str, int], Iterator[int]], str]] = {
        "ours": (ours, "shards"),
        "ours_scaled": (partial(ours, dct_scaled=True), "shards"),
        "ours_presized": (ours, "small"),
        "ray_data": (stock_ray, "files"),
        "data_loader": (data_loader, "shards"),
        "web_dataset": (web_dataset, "tars"),
    }
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for number in range(rounds + 1):  # the first is to warm up
        for name, (function, folder) in work.items():
            started, used = time.perf_counter(), cpu_seconds()
            count = sum(function(f"{BUCKET}/{folder}", size))
            assert count == num, f"{name} gave {count} of {num} pictures"
            if number:
                spent[name].append((cpu_seconds() - used, time.perf_counter() - started))
    print("whole pipelines from S3, batches of 64")
    cpu = {name: statistics.median(used for used, _ in runs) / num for name, runs in spent.items()}
    for name, runs in spent.items():
        wall = statistics.median(wall for _, wall in runs) / num
        print(
            f"  {name:<14}{1 / cpu[name]:8.0f} images for a second of CPU  {1 / wall:7.0f} images/s"
        )
    return {
        f"{mine}_to_{peer}": round(cpu[peer] / cpu[mine], 2)
        for mine in ("ours", "ours_scaled", "ours_presized")
        for peer in ("ray_data", "data_loader", "web_dataset")
    }


def cpu_seconds() -> float:
    """CPU used so far by this process and all below it, those that ended included."""
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)] = int(fields[1])
            used[int(entry.name)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    own, grown = {os.getpid()}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in own} - own - {SERVER}
        own |= more
        grown = bool(more)
    return sum(used[pid] for pid in own)


SERVER = 0


def main() -> None:
    """Run everything."""
    global SERVER
    options = dict(word.split("=", 1) for word in sys.argv[1:])
    size, rounds = int(options.get("size", 224)), int(options.get("rounds", 5))
    torch.set_num_threads(1)
    contents = gathered(options)
    ratios = decoders(list(contents.values())[:256], size, rounds)
    with tempfile.TemporaryDirectory() as folder:
        script = "import raypose.testing as t, signal\nwith t.embedded_s3() as e:\n"
        script += " print(e, flush=True)\n signal.pause()"
        server = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=folder
        )
        assert server.stdout
        SERVER = server.pid
        endpoint = server.stdout.readline().strip()
        key = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
        os.environ.update(AWS_ENDPOINT_URL=endpoint, AWS_DEFAULT_REGION="us-east-1", **key)
        try:
            lay_out(contents)
            with runtime.connect(config.ClusterConfig(num_cpus=NUM_WORKERS + 1)):
                ratios |= pipelines(len(contents), size, rounds)
        finally:
            server.terminate()
            server.wait()
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
