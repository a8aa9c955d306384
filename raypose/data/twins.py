"""Near-duplicates: pictures that are copies of one another but for size, quality, light or mirror.

A perceptual hash is the signs of the lowest frequencies of a picture's brightness; copies differ in
few of its bits. A mirrored copy is found by the hash of the mirror image, which is computed too.
Where features of a model are at hand, their cosine finds copies that are cropped or drawn over.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["HASH_SIDE", "clusters", "hashes", "near_features", "near_hashes"]

HASH_SIDE = 32
FREQUENCIES = 8
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
    rows = np.arange(HASH_SIDE)
    waves = np.cos(np.pi / HASH_SIDE * np.outer(np.arange(FREQUENCIES), rows + 0.5))
    both = np.stack([grey, grey[:, :, ::-1]], axis=1).astype(np.float64)
    low = (waves @ both @ waves.T).reshape(len(grey), 2, -1)[:, :, 1:]  # without the mean
    bits = low > np.median(low, axis=2, keepdims=True)
    weights = np.left_shift(np.uint64(1), np.arange(bits.shape[2], dtype=np.uint64))
    summed: Hashes = (bits * weights).sum(axis=2, dtype=np.uint64)
    return summed


def near_hashes(found: Hashes, *, max_distance: int) -> Pairs:
    """Return pairs (i, j), i < j, whose hashes differ in at most that many bits: int64 (P, 2).

    Every pair is compared, some 10^9 in a second and a half: 40,000 pictures take about a second.
    """
    return _pairs(min_distance <= max_distance for min_distance in _distances(found))


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
    above = list(range(size))

    def root(number: int) -> int:
        while above[number] != number:
            above[number] = number = above[above[number]]
        return number

    for one, other in pairs.tolist():
        first, second = sorted((root(one), root(other)))
        above[second] = first
    groups: dict[int, list[int]] = {}
    for number in sorted(set(pairs.flatten().tolist())):
        groups.setdefault(root(number), []).append(number)
    return sorted(groups.values(), key=lambda group: (-len(group), group))


def _distances(found: Hashes) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield blocks of rows of the distances between pictures, mirrored or not."""
    plain, mirrored = found[:, 0], found[:, 1]
    for k in range(0, len(found), BLOCK):
        rows = plain[k : k + BLOCK, None]
        yield np.minimum(np.bitwise_count(rows ^ plain), np.bitwise_count(rows ^ mirrored))


def _pairs(blocks: Iterator[npt.NDArray[np.bool_]]) -> Pairs:
    """Gather where blocks of rows are true, above the diagonal."""
    found, first = [np.empty((0, 2), np.int64)], 0
    for block in blocks:
        rows, columns = np.nonzero(block)
        keep = rows + first < columns
        found.append(np.stack([rows[keep] + first, columns[keep]], axis=1))
        first += len(block)
    return np.concatenate(found)
