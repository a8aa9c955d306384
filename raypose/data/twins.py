"""Near-duplicates: pictures that are copies of one another but for size, quality, light or mirror.

A perceptual hash is the signs of the lowest frequencies of a picture's brightness; copies differ in
few of its bits. So do other people in the same pose, whom small pictures side by side tell apart.
A mirrored copy is found by the hash of the mirror image, which is computed too. Where features of a
model are at hand, their cosine finds copies that are cropped or drawn over.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from raypose.data.looks import THUMB_SIDE

__all__ = ["alike", "clusters", "hashes", "near_features", "near_hashes"]

FREQUENCIES = 8
BITS = FREQUENCIES**2 - 1
BLOCK = 2048

Hashes = npt.NDArray[np.uint64]
Pairs = npt.NDArray[np.int64]


def hashes(grey: npt.NDArray[np.uint8]) -> Hashes:
    """Hash pictures and their mirror images.

    Args:
        grey: uint8 (N, 32, 32), brightness.

    Returns:
        uint64 (N, 2), the picture's and its mirror image's.
    """
    rows = np.arange(THUMB_SIDE)
    waves = np.cos(np.pi / THUMB_SIDE * np.outer(np.arange(FREQUENCIES), rows + 0.5))
    both = np.stack([grey, grey[:, :, ::-1]], axis=1).astype(np.float64)
    low = (waves @ both @ waves.T).reshape(len(grey), 2, -1)[:, :, 1:]  # without the mean
    bits = low > np.median(low, axis=2, keepdims=True)
    weights = np.left_shift(np.uint64(1), np.arange(bits.shape[2], dtype=np.uint64))
    summed: Hashes = (bits * weights).sum(axis=2, dtype=np.uint64)
    return summed


def near_hashes(found: Hashes, *, max_distance: int) -> Pairs:
    """Return pairs (i, j), i < j, whose hashes differ in at most that many bits: int64 (P, 2).

    Of d + 1 bands of a hash, two that differ in d bits share one at least, so that only pictures
    that share a band are compared: 10^6 of them in a minute, where all pairs would take a quarter
    of an hour.

    Source: Manber and Wu, 1994 (an algorithm for approximate membership checking).
    """
    size = len(found)
    seen = [np.empty(0, np.int64)]
    for shift, mask in _bands(max_distance + 1):
        keys = (found >> np.uint64(shift)) & np.uint64(mask)
        seen.append(np.unique(np.concatenate(list(_sharing(found, keys, max_distance)))))
    codes = np.unique(np.concatenate(seen))
    return np.stack([codes // max(size, 1), codes % max(size, 1)], axis=1)


def alike(thumbs: npt.NDArray[np.uint8], pairs: Pairs, *, min_correlation: float) -> Pairs:
    """Return the pairs of pictures that correlate at least so much, mirrored or not.

    Hashes of different people in one pose are near each other; their pictures are not.

    Args:
        thumbs: uint8 (N, 32, 32), brightness.
        pairs: (P, 2).
        min_correlation: of the pixels, in -1..1.
    """
    kept = [np.empty((0, 2), np.int64)]
    for first in range(0, len(pairs), BLOCK):
        some = pairs[first : first + BLOCK]
        one, other = (_standard(thumbs[some[:, k]]) for k in (0, 1))
        plain = (one * other).sum(axis=(1, 2))
        mirrored = (one * other[:, :, ::-1]).sum(axis=(1, 2))
        kept.append(some[np.maximum(plain, mirrored) >= min_correlation])
    return np.concatenate(kept)


def near_features(features: npt.NDArray[np.float32], *, min_cosine: float) -> Pairs:
    """Return pairs (i, j), i < j, of rows of (N, D), each of length 1, at least that alike."""
    blocks = range(0, len(features), BLOCK)
    return _pairs(features[k : k + BLOCK] @ features.T >= min_cosine for k in blocks)


def clusters(size: int, pairs: Pairs) -> list[list[int]]:
    """Join pairs into groups of two and more, the largest first.

    Args:
        size: number of pictures.
        pairs: (P, 2).
    """
    ones = np.ones(len(pairs), dtype=np.int8)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    _, group_of = connected_components(graph, directed=False)
    members = np.flatnonzero(np.bincount(group_of, minlength=1)[group_of] > 1)
    order = members[np.argsort(group_of[members], kind="stable")]
    cuts = np.flatnonzero(np.diff(group_of[order])) + 1
    groups = [group.tolist() for group in np.split(order, cuts) if len(group)]
    return sorted(groups, key=lambda group: (-len(group), group))


def _bands(number: int) -> Iterator[tuple[int, int]]:
    """Yield shift and mask of bands that cut a hash into parts of about equal width."""
    edges = [BITS * k // number for k in range(number + 1)]
    for low, high in pairwise(edges):
        yield low, (1 << (high - low)) - 1


def _sharing(found: Hashes, keys: Hashes, max_distance: int) -> Iterator[Pairs]:
    """Yield codes i * N + j of near pairs, i < j: one has the key of the other, or of its mirror.

    Args:
        found: (N, 2), hashes of pictures and of their mirror images.
        keys: (N, 2), one band of them.
        max_distance: bits in which near hashes differ.
    """
    yield np.empty(0, np.int64)
    order = np.argsort(keys[:, 0], kind="stable")
    values = keys[order, 0]
    for side in (0, 1):
        theirs = np.argsort(keys[:, side], kind="stable")
        low = np.searchsorted(values, keys[theirs, side], side="left")
        cuts = np.flatnonzero(np.diff(low, prepend=-1))  # where another key begins
        for first, last in pairwise([*cuts.tolist(), len(theirs)]):
            start = int(low[first])
            end = int(np.searchsorted(values, keys[theirs[first], side], side="right"))
            if start < end:
                yield from _near(found, order[start:end], theirs[first:last], side, max_distance)


def _near(
    found: Hashes, ours: Pairs, theirs: Pairs, side: int, max_distance: int
) -> Iterator[Pairs]:
    """Yield codes of the near pairs between two lists of pictures."""
    step = max(1, BLOCK * BLOCK // len(ours))
    for first in range(0, len(theirs), step):
        some = theirs[first : first + step]
        distances = np.bitwise_count(found[some, side][:, None] ^ found[ours, 0])
        rows, columns = np.nonzero(distances <= max_distance)
        one, other = some[rows], ours[columns]
        apart = one != other
        low, high = np.minimum(one, other)[apart], np.maximum(one, other)[apart]
        if len(low):
            yield low * len(found) + high


def _standard(thumbs: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return float32 (P, 32, 32) of mean 0 and length 1; zeros where a picture is of one tone."""
    pixels = thumbs.astype(np.float32)
    pixels -= pixels.mean(axis=(1, 2), keepdims=True)
    lengths = np.sqrt((pixels**2).sum(axis=(1, 2), keepdims=True))
    scaled: npt.NDArray[np.float32] = pixels / np.maximum(lengths, 1e-6)
    return scaled


def _pairs(blocks: Iterator[npt.NDArray[np.bool_]]) -> Pairs:
    """Gather where blocks of rows are true, above the diagonal."""
    found, first = [np.empty((0, 2), np.int64)], 0
    for block in blocks:
        rows, columns = np.nonzero(block)
        keep = rows + first < columns
        found.append(np.stack([rows[keep] + first, columns[keep]], axis=1))
        first += len(block)
    return np.concatenate(found)
