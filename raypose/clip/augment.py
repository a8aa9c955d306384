"""What happens to decoded pictures on the device: random changes in training, then normalisation.

All geometric changes of a batch are one affine resampling. The draws for a picture follow from
(seed, epoch, id): the same on any number of workers and after any restart.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F

from raypose.config import AugmentConfig

__all__ = ["augment", "copy_size", "normalize", "ramp", "train_size"]

Draw = tuple[list[float], list[float], list[float]]


def normalize(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Turn uint8 (B, 3, H, W) into float32 of zero mean and unit deviation per channel."""
    shift, scale = _channels(tuple(mean), pixels.device), _channels(tuple(std), pixels.device)
    return (pixels.float() / 255 - shift) / scale


def ramp(size: int, device: torch.device) -> torch.Tensor:
    """Return a picture to try a tower on, no two values alike: float32 (1, 3, S, S), -1 to 1."""
    return torch.linspace(-1, 1, 3 * size * size, device=device).reshape(1, 3, size, size)


@lru_cache
def _channels(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Return float32 (1, 3, 1, 1) on a device, where it stays: a copy for each step would wait."""
    return torch.tensor(values, device=device).view(1, -1, 1, 1)


def train_size(config: AugmentConfig, image_size: int) -> int:
    """Return the pixels of a side that a tower sees in training.

    Args:
        config: of the changes.
        image_size: what it sees afterwards.
    """
    return (config.enabled and config.image_size) or image_size


def copy_size(config: AugmentConfig, image_size: int) -> int:
    """Return the pixels of a side of the copies that training pictures are cut out of.

    The smallest crop has then as many pixels as the tower sees, and none is blurred. It grows by
    quarters of that side, so that trials of a search whose crops differ share copies.
    """
    side = train_size(config, image_size)
    step = max(1, side // 4)
    wanted = math.ceil(side / math.sqrt(config.min_area)) if config.enabled else side
    return side + step * math.ceil((wanted - side) / step)


def augment(
    images: torch.Tensor,
    ids: Sequence[str],
    config: AugmentConfig,
    *,
    size: int,
    seed: int,
    epoch: int,
) -> torch.Tensor:
    """Change each picture at random: crop, mirror, rotate, brightness, contrast, erase.

    Args:
        images: float (B, 3, H, H), normalised.
        ids: B example ids.
        config: how strong the changes are.
        size: S, pixels of a side.
        seed: of the run.
        epoch: counted from 0.

    Returns:
        float (B, 3, S, S) on the same device.
    """
    draws = [_draw(config, random.Random(f"{seed}/{epoch}/{name}")) for name in ids]
    affine, light, hole = (
        torch.tensor(column, device=images.device) for column in zip(*draws, strict=True)
    )
    shape = [*images.shape[:2], size, size]
    grid = F.affine_grid(affine.view(-1, 2, 3), shape, align_corners=False)
    images = F.grid_sample(
        images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    gain, contrast = light.view(-1, 2, 1, 1, 1).unbind(1)
    images = (images - mean) * contrast + mean + gain
    return images * ~_holes(hole, images.shape[-1])[:, None]


def _draw(config: AugmentConfig, rng: random.Random) -> Draw:
    """Draw one picture's 2x3 matrix, its (gain, contrast), and a rectangle (x, y, w, h) in 0..1."""
    area = rng.uniform(config.min_area, 1)
    stretch = math.exp(rng.uniform(-1, 1) * math.log(config.max_stretch))
    width, height = (min(1.0, math.sqrt(area * factor)) for factor in (stretch, 1 / stretch))
    x, y = rng.uniform(-1, 1) * (1 - width), rng.uniform(-1, 1) * (1 - height)
    mirror = -1.0 if config.flip and rng.random() < 0.5 else 1.0
    angle = math.radians(rng.uniform(-1, 1) * config.max_rotation)
    sine, cosine = math.sin(angle), math.cos(angle)
    affine = [mirror * width * cosine, -height * sine, x, mirror * width * sine, height * cosine, y]
    gain = rng.uniform(-1, 1) * config.brightness
    contrast = 1 + rng.uniform(-1, 1) * config.contrast
    side = rng.uniform(0.1, 0.3) if rng.random() < config.erase else 0.0
    hole = [rng.uniform(0, 1 - side), rng.uniform(0, 1 - side), side, side]
    return affine, [gain, contrast], hole


def _holes(rectangles: torch.Tensor, size: int) -> torch.Tensor:
    """Return bool (B, S, S), true inside each (x, y, w, h) of (B, 4)."""
    x, y, width, height = rectangles.view(-1, 4, 1).unbind(1)
    along = ((torch.arange(size, device=rectangles.device) + 0.5) / size).view(1, -1)
    columns = (along >= x) & (along < x + width)
    rows = (along >= y) & (along < y + height)
    return rows[:, :, None] & columns[:, None, :]
