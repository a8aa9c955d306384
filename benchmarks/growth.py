"""What large sizes ask for: the formulas of docs/growth.md.

Each is a function of plain numbers, in bytes, seconds, dollars or counts; every constant was seen
on 2 cores, most at small sizes: `growth_measured.py` measures them anew.
"""

from __future__ import annotations

import math

MANIFEST_SHARD_BYTES = 194
"""Of MANIFEST.json, a shard."""
MANIFEST_SHARD_HELD = 1035
"""Bytes of memory at most while a manifest is read, a shard."""
MANIFEST_SHARD_S = 4.5e-6
"""Seconds to read and check a manifest, a shard: 0.45 s for 100,000."""
READER_SHARD_BYTES = 157
"""Of the reader that goes to each worker, a shard."""
ORDER_SHARD_BYTES, ORDER_ROW_BYTES = 40, 32
"""Of memory for the order of an epoch, on each rank: a shard of all, a row of its own."""
ROW_BYTES = 1100
"""Of a shard beside the picture's own bytes, a row: what packing saw of it."""
PACK_SHARD_REQUESTS, PACK_REQUESTS = 8, 10
"""Beside those for pictures, when a folder is packed: for each file that is made, and in all."""
RECORD_BYTES = 1240
"""Of a trial's record with five keys, as it lies alone."""
RECORD_READ_S = 1e-5
"""Seconds to read a record, a thousand in a file: 0.10 s for 10,000."""
RECORD_ALONE_READ_S = 1.67e-4
"""The same where each lies in a file of its own, on a disk."""
REPORT_S, DRAW_S = 2.2e-6, 1.6e-5
"""CPU of a driver for an epoch that is reported, and to draw a point by TPE over two keys, for each
trial that there has been: 22 ms and 0.16 s at 10,000."""
MODELS_KEPT = 3
"""Copies of a model's fp32 weights that a trial leaves, where its best epoch is not its last."""
MESSAGES_PER_S = 2
"""From a run to its driver, however many workers it has: the first rank alone speaks."""
CLAIM_PUTS_PER_S = 1 / 15
"""By which a driver says that it still holds its search."""
DECODE_MS = 1.2
"""CPU of decoding a photograph of 75 kB."""
ANSWER_MS = {"proxy": 17.0, "haproxy": 7.1}
"""CPU of an answer of our endpoint, all processes together, at 64 clients."""
PROXY_MS = {"proxy": 4.4, "haproxy": 0.28}
"""CPU of that in one proxy, of which each node has one; none of these does two things at once."""
BUSY = 0.7
"""Share of its time that a server should work at most, if answers are not to queue."""


def num_shards(pictures: int, rows_per_shard: int = 256) -> int:
    """Return the files of a data set."""
    return math.ceil(pictures / rows_per_shard)


def shard_bytes(picture_bytes: float, rows_per_shard: int = 256) -> float:
    """Return the size of one file, of pictures of a mean size."""
    return rows_per_shard * (picture_bytes + ROW_BYTES)


def data_bytes(pictures: int, picture_bytes: float) -> float:
    """Return what a data set takes on storage."""
    return pictures * (picture_bytes + ROW_BYTES)


def manifest_bytes(pictures: int, rows_per_shard: int = 256) -> float:
    """Return the size of MANIFEST.json."""
    return MANIFEST_SHARD_BYTES * num_shards(pictures, rows_per_shard)


def manifest_held(pictures: int, rows_per_shard: int = 256) -> float:
    """Return the bytes of memory in which a manifest is read."""
    return MANIFEST_SHARD_HELD * num_shards(pictures, rows_per_shard)


def manifest_s(pictures: int, rows_per_shard: int = 256) -> float:
    """Return the seconds in which a manifest is read."""
    return MANIFEST_SHARD_S * num_shards(pictures, rows_per_shard)


def reader_bytes(pictures: int, rows_per_shard: int = 256, workers: int = 1) -> float:
    """Return what goes from a driver to workers, each of which is given all names of shards."""
    return workers * READER_SHARD_BYTES * num_shards(pictures, rows_per_shard)


def order_bytes(pictures: int, workers: int, rows_per_shard: int = 256) -> float:
    """Return the memory of a rank for the order of its epoch."""
    shards = num_shards(pictures, rows_per_shard)
    return ORDER_SHARD_BYTES * shards + ORDER_ROW_BYTES * pictures / workers


def gets_per_epoch(
    pictures: int, workers: int, rows_per_shard: int = 256, preserve_order: bool = False
) -> int:
    """Return the requests that read an epoch: a shard each, twice where two ranks share one."""
    shards = num_shards(pictures, rows_per_shard)
    return workers * shards if preserve_order else shards + workers - 1


def bytes_per_epoch(
    pictures: int, picture_bytes: float, workers: int = 1, preserve_order: bool = False
) -> float:
    """Return the bytes that leave storage in an epoch."""
    return data_bytes(pictures, picture_bytes) * (workers if preserve_order else 1)


def requests_to_pack(pictures: int, rows_per_shard: int = 256) -> int:
    """Return the requests that pack a folder: a picture each, and some for each file of them."""
    return pictures + PACK_SHARD_REQUESTS * num_shards(pictures, rows_per_shard) + PACK_REQUESTS


def tasks_per_epoch(
    pictures: int, workers: int, rows_per_shard: int = 256, preserve_order: bool = False
) -> int:
    """Return the tasks of Ray that decode an epoch on one rank: a shard that it reads, each."""
    gets = gets_per_epoch(pictures, workers, rows_per_shard, preserve_order)
    return math.ceil(gets / workers)


def decoded_bytes(pictures: int, image_size: int = 224) -> int:
    """Return what decoded pictures take, in the object store or anywhere."""
    return pictures * 3 * image_size * image_size


def decode_cores(images_per_s: float, ms: float = DECODE_MS) -> float:
    """Return the cores that decode as fast as GPUs take pictures."""
    return images_per_s * ms / 1000


def epoch_hours(pictures: int, workers: int, images_per_s: float) -> float:
    """Return the hours of an epoch, at a rate of each worker."""
    return pictures / workers / images_per_s / 3600


def bytes_per_s(images_per_s: float, picture_bytes: float) -> float:
    """Return what all workers together draw from storage."""
    return images_per_s * (picture_bytes + ROW_BYTES)


def gets_per_s(images_per_s: float, rows_per_shard: int = 256) -> float:
    """Return the requests that read shards, a second."""
    return images_per_s / rows_per_shard


def losses_per_day(machines: int, days_between: float) -> float:
    """Return how often a group loses a machine, where each is lost once in so many days."""
    return machines / days_between


def ring_bytes(parameters: float, workers: int, bytes_each: int = 4) -> float:
    """Return what each worker sends in a step to sum gradients in a ring."""
    return 2 * (workers - 1) / workers * parameters * bytes_each


def zone_bytes(parameters: float, workers: int, zones: int, steps: int) -> float:
    """Return what crosses zones: a ring that goes through each once leaves each once."""
    return 0 if zones < 2 else zones * steps * ring_bytes(parameters, workers)


def messages_per_s(runs: int) -> float:
    """Return what reaches drivers in all, a second."""
    return runs * MESSAGES_PER_S


def actors(workers: int, runs: int = 1) -> int:
    """Return the actors of runs: workers, and of each a controller and a queue."""
    return workers + 2 * runs


def record_puts(trials: int, epochs: float) -> float:
    """Return the writes of a search's records: at a trial's beginning, its epochs, its end."""
    return trials * (2 + epochs)


def record_bytes(trials: int) -> float:
    """Return the size of a search's records."""
    return trials * RECORD_BYTES


def records_s(trials: int, together: bool = True) -> float:
    """Return the seconds in which records are read, a thousand a file or each alone."""
    return trials * (RECORD_READ_S if together else RECORD_ALONE_READ_S)


def models_bytes(trials: int, parameters: float) -> float:
    """Return what trials that have ended leave of their models, at most."""
    return trials * MODELS_KEPT * 4 * parameters


def puts_per_s(trials_at_once: int, epoch_s: float) -> float:
    """Return the writes of a driver a second while a search goes on."""
    return trials_at_once / epoch_s + CLAIM_PUTS_PER_S


def driver_busy(
    trials: int, at_once: int, epoch_s: float, epochs: float, sampler: str = "tpe"
) -> float:
    """Return the share of its time that a search's driver works, when so many trials have been."""
    reports, begun = at_once / epoch_s, at_once / epoch_s / epochs
    drawing = begun * DRAW_S * trials if sampler == "tpe" else 0.0
    return reports * REPORT_S * trials + drawing


def search_hours(trials: int, epochs: float, epoch_s: float, at_once: int) -> float:
    """Return the hours of a search whose trials train as many epochs each, in the mean."""
    return trials * epochs * epoch_s / at_once / 3600


def answer_cores(requests_per_s: float, way: str = "haproxy") -> int:
    """Return the cores of an endpoint on CPUs."""
    return _whole(requests_per_s * ANSWER_MS[way] / 1000 / BUSY)


def proxies(requests_per_s: float, way: str = "haproxy") -> int:
    """Return the proxies, and so the nodes, that take as many requests."""
    return _whole(requests_per_s * PROXY_MS[way] / 1000 / BUSY)


def body_bytes_per_s(requests_per_s: float, picture_bytes: float) -> float:
    """Return what clients send."""
    return requests_per_s * picture_bytes


def waiting(requests_per_s: float, seconds: float) -> float:
    """Return the requests that are under way at once (Little's law)."""
    return requests_per_s * seconds


def request_dollars(requests: float, per_thousand: float) -> float:
    """Return the price of requests."""
    return requests / 1000 * per_thousand


def month_dollars(size_bytes: float, per_gb: float) -> float:
    """Return the price of a month of storage."""
    return size_bytes / 1e9 * per_gb


def transfer_dollars(size_bytes: float, per_gb: float) -> float:
    """Return the price of moving bytes; between zones both sides pay, so give the sum."""
    return size_bytes / 1e9 * per_gb


def machine_dollars(hours: float, count: float, per_hour: float) -> float:
    """Return the price of GPUs, or of cores."""
    return hours * count * per_hour


def _whole(count: float) -> int:
    """Round up, but not for what rounding of floats has left."""
    return math.ceil(round(count, 9))
