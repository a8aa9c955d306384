"""The gate at publishing: by which backends a release may be served, beside torch.

Each that this machine has is held against torch on validation pictures, as the release decodes
them. It is admitted where hardly a picture is taken for another class, and no logit is further off
than half of what `golden.bound` allows. What is found goes into backends.json, without times and
with rounded figures: the same run again is the same release. Which of those admitted is the fastest
is found where the release is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raypose import storage
from raypose.clip.arithmetic import one_thread
from raypose.data.manifests import read_manifest
from raypose.data.shards import manifest_hash, read_shard
from raypose.errors import DataError, RayposeError
from raypose.releases import golden
from raypose.releases.backends import NAMES, REFERENCE, Maker, lacking
from raypose.releases.documents import BACKENDS, Admission, Backends
from raypose.releases.predictor import Predictor

__all__ = ["MAX_CHANGED", "NUM_PICTURES", "hold", "open_to", "refused", "write"]

MAX_CHANGED = 0.005
"""Share of pictures that may be taken for another class: those between two anyway."""
MARGIN = 0.5
"""Of what is allowed of golden pictures: what is admitted here must prove itself elsewhere."""
NUM_PICTURES = 1000
"""Enough to see half a percent: of 1,000 it is 5."""
WORTH = 1_000_000
"""Parameters of an image tower from which on a faster backend is looked for. A smaller one takes
a millisecond by torch, and a backend seconds to be made each time it is loaded."""
BATCH_SIZE = 16
DECODERS = 2
SEED = 0
DIGITS = 3
"""Of the figures: what the last bits of a sum are must not make another release."""
Progress = Callable[[int, int], None]


def open_to(
    predictor: Predictor,
    url: str,
    *,
    asked: bool | None = None,
    progress: Progress = lambda done, total: None,
) -> Backends:
    """Return by which backends a release may be served.

    Args:
        predictor: of the release, torch on a CPU.
        url: of the validation pictures; empty for none.
        asked: whether to hold backends against torch; by default where the image tower is so large
            that a faster one is worth its while.
        progress: called with (pictures done, in all).
    """
    lacks = {name: lacking(name) for name in NAMES if name != REFERENCE}
    if asked is False:
        lacks = dict.fromkeys(lacks, "not held against torch, as was asked")
    elif asked is None and not _worth(predictor):
        lacks = dict.fromkeys(lacks, "not held against torch: the image tower is small")
    elif not url:
        lacks = dict.fromkeys(lacks, "not held against torch: there is no validation set")
    held = {name: refused(why) for name, why in lacks.items() if why}
    digest, names = "", [name for name in lacks if name not in held]
    if names:
        try:
            digest, found = manifest_hash(url), hold(predictor, url, names, progress=progress)
        except DataError as error:  # gone since training: no reason not to publish
            found = dict.fromkeys(names, refused(f"not held against torch: {error}"))
        held |= found
    first = Admission(admitted=True, precision=predictor.backend.precision)
    return Backends(data=digest, backends={REFERENCE: first, **{n: held[n] for n in lacks}})


def hold(
    predictor: Predictor,
    url: str,
    names: Sequence[str],
    *,
    num_pictures: int = NUM_PICTURES,
    progress: Progress = lambda done, total: None,
) -> dict[str, Admission]:
    """Hold backends against torch on pictures of a data set.

    Args:
        predictor: of the release, torch on a CPU.
        url: of the shards; few rows are taken of each, drawn by a fixed seed.
        names: of the backends.
        num_pictures: to take; all where there are fewer.
        progress: called with (pictures done, in all).

    Returns:
        Name → how it did.

    Raises:
        DataError: where there is no such data set, or no picture of it can be read.
    """
    rivals, refusals = _made(predictor, names)
    if not rivals:
        return refusals
    counts = {name: _Count() for name in rivals}
    expected = []
    with one_thread():
        for pixels in _pictures(predictor, url, num_pictures, progress):
            expected.append(predictor.logits(pixels))
            for name, rival in rivals.items():
                counts[name].add(rival.logits(pixels), expected[-1])
    if not expected:
        raise DataError(f"{url}: holds no good picture")
    reference = np.concatenate(expected)
    judged = {}
    for name, rival in rivals.items():
        precisions = (predictor.backend.precision, rival.backend.precision)
        allowed = MARGIN * golden.bound(reference, *precisions)
        judged[name] = counts[name].judged(precisions[1], len(reference), allowed)
    return {name: {**judged, **refusals}[name] for name in names}


def refused(why: str) -> Admission:
    """Return that a backend was not held against torch."""
    return Admission(admitted=False, why=why)


def write(backends: Backends, folder: Path) -> None:
    """Write backends.json into the folder of a release."""
    document = backends.model_dump(mode="json", exclude_none=True)
    storage.write_json(str(folder / BACKENDS), document)


@dataclass
class _Count:
    """What was seen of one backend so far."""

    changed: int = 0
    largest: float = 0.0

    def add(self, found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> None:
        """Take in the logits of a batch, (B, C)."""
        self.changed += int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())
        self.largest = max(self.largest, float(golden.difference(found, expected).max()))

    def judged(self, precision: str, total: int, allowed: float) -> Admission:
        """Return how it did on so many pictures."""
        share = self.changed / total
        reasons = []
        if share > MAX_CHANGED:
            reasons.append(f"{self.changed} of {total} pictures are taken for another class")
        if not np.isfinite(self.largest):
            reasons.append("a logit is not finite")
        elif self.largest > allowed:
            off = f"{self.largest:.{DIGITS}g} where {allowed:.{DIGITS}g} is allowed"
            reasons.append(f"a logit is off by {off}")
        return Admission(
            admitted=not reasons,
            why="; ".join(reasons),
            precision=precision,
            num_pictures=total,
            changed_top1=_rounded(share),
            largest_difference=_rounded(self.largest),
            allowed_difference=_rounded(allowed),
        )


def _worth(predictor: Predictor) -> bool:
    sizes = (int(value.numel()) for value in predictor.clip.model.parameters())
    return sum(sizes) >= WORTH


def _made(
    predictor: Predictor, names: Sequence[str]
) -> tuple[dict[str, Predictor], dict[str, Admission]]:
    """Make backends; return those made, and why the others cannot be."""
    maker = Maker(predictor.clip, predictor.config.model)
    made, refusals = {}, {}
    for name in names:
        try:
            made[name] = predictor.by(maker.make(name))
        except RayposeError as error:
            refusals[name] = refused(str(error))
    return made, refusals


def _pictures(
    predictor: Predictor, url: str, num_pictures: int, progress: Progress
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield uint8 (B, 3, S, S) of good pictures, taken evenly over the shards."""
    manifest = read_manifest(url)
    total = min(num_pictures, manifest.num_rows)
    decode = predictor.decode({name: number for number, name in enumerate(manifest.labels)})
    places = np.random.default_rng(SEED).permutation(manifest.num_rows)[:total]
    places.sort()
    done, first = 0, 0
    with ThreadPoolExecutor(DECODERS) as pool:
        for shard in manifest.shards:
            ours = places[(places >= first) & (places < first + shard.num_rows)] - first
            first += shard.num_rows
            if not len(ours):
                continue
            rows = read_shard(url, shard).take(ours)
            for batch in decode.batches(rows, batch_size=BATCH_SIZE, pool=pool):
                good = batch.good()
                if good is not None:
                    yield good.pixels.numpy()
                done += len(batch)
                progress(done, total)


def _rounded(value: float) -> float | None:
    """Return the first digits of a figure; nothing for one that JSON has no word for."""
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
