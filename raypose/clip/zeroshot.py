"""Captions to a classifier, pictures to features, features to probabilities: in this one place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from raypose import captions
from raypose.captions.nodes import Node
from raypose.captions.taxonomy import Taxonomy
from raypose.clip import arithmetic, text
from raypose.clip.augment import normalize
from raypose.clip.model import Clip
from raypose.config import ModelConfig
from raypose.errors import ConfigError

__all__ = [
    "best_scale",
    "build_classifier",
    "by_parts",
    "check_scales",
    "check_side",
    "embed",
    "logits",
    "mean",
    "normalized",
    "probabilities",
    "side_of",
    "views",
]

CPU_PART = 8
"""Pictures that a CPU goes through a convolutional tower with at a time: what lies between two of
its layers then stays in the cache, which is up to 2.4 times as fast as 64 of them."""

EDGE = 32
"""A tower may drop as small a part of a side, where its strides do not fit: no more."""

PRIOR_SD = 0.5
"""Of the logarithm of the factor: two thirds of the prior lie within 1.65 times either way."""


@torch.no_grad()
def build_classifier(
    clip: Clip,
    grammar: Node,
    taxonomy: Taxonomy,
    *,
    encode: Callable[[Any, torch.Tensor], torch.Tensor] = text.encode,
) -> torch.Tensor:
    """Encode each class's evaluation captions, average, and normalise again.

    Args:
        clip: the model.
        grammar: of the captions.
        taxonomy: the classes.
        encode: model and tokens → features of length 1.

    Returns:
        float32 (C, D), rows of length 1, in class order.
    """
    groups = [captions.evaluation_captions(grammar, card) for card in taxonomy.cards]
    unique = list(dict.fromkeys(caption for group in groups for caption in group))
    parts = [
        encode(clip.model, clip.tokenize(unique[k : k + 256])) for k in range(0, len(unique), 256)
    ]
    features = dict(zip(unique, torch.cat(parts).float(), strict=True))
    rows = [torch.stack([features[caption] for caption in group]).mean(0) for group in groups]
    return F.normalize(torch.stack(rows), dim=-1)


def logits(
    image_features: torch.Tensor, classifier: torch.Tensor, logit_scale: float
) -> torch.Tensor:
    """Return what probabilities are made of, float32 (B, C): cosines times their factor.

    Args:
        image_features: (B, D), normalised.
        classifier: (C, D), normalised.
        logit_scale: factor on cosines, the inverse of a temperature.
    """
    return logit_scale * image_features.float() @ classifier.float().T


def probabilities(
    image_features: torch.Tensor, classifier: torch.Tensor, logit_scale: float
) -> torch.Tensor:
    """Return the class probabilities, float32 (B, C): see `logits`."""
    return logits(image_features, classifier, logit_scale).softmax(dim=-1)


def normalized(
    clip: Clip, pixels: torch.Tensor, *, channels_last: bool = False, resized: bool = True
) -> torch.Tensor:
    """Return uint8 pixels (B, 3, H, H) as the image tower takes them, on its device.

    Args:
        clip: the model.
        pixels: of any side.
        channels_last: lay them out so.
        resized: bring them to the side that the tower takes.
    """
    cfg, device, side = clip.preprocess_cfg, next(clip.model.parameters()).device, clip.image_size
    images = normalize(pixels.to(device), cfg["mean"], cfg["std"])
    if resized and images.shape[-1] != side:
        images = F.interpolate(images, (side, side), mode="bicubic", antialias=True)
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


@torch.no_grad()
def embed(clip: Clip, pixels: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    """Return the image features of pictures: as a final model is scored, evaluated and served.

    Args:
        clip: the model.
        pixels: uint8 (B, 3, S, S).
        config: says in what precision and layout, and what is seen of a picture beside it.

    Returns:
        float32 (B, D), of length 1.
    """
    images = normalized(clip, pixels, channels_last=config.channels_last)
    return mean([_encoded(clip, view, config) for view in views(images, config)])


def views(images: torch.Tensor, config: ModelConfig) -> Iterator[torch.Tensor]:
    """Yield pictures as they are seen once training is over: at each size, and mirrored.

    Args:
        images: float (B, 3, S, S), of the side that the tower takes.
        config: says at what sizes, and whether mirrored.
    """
    for scale in config.scales:
        side = side_of(images.shape[-1], scale)
        # of at least half the side no pixel is passed over, and OpenVINO knows no antialias
        sized = images if scale == 1 else F.interpolate(images, side, mode="bilinear")
        yield sized
        if config.mirror:
            yield sized.flip(3)


def check_scales(clip: Clip, config: ModelConfig) -> None:
    """Prove that an image tower takes pictures of all sizes that `views` yields.

    Raises:
        ConfigError: naming one that it does not take.
    """
    for scale in config.scales:
        check_side(clip, side_of(clip.image_size, scale), said=f"model.scales={scale:g}")


@torch.no_grad()
def check_side(clip: Clip, side: int, *, said: str) -> None:
    """Prove that an image tower takes pictures of a side, and sees them to their edges.

    Args:
        clip: the model, its parameters in memory.
        side: in pixels.
        said: key and value that ask for it.

    Raises:
        ConfigError: where it does not.
    """
    usual, training = clip.image_size, clip.model.training
    if side == usual:
        return
    own = torch.Generator().manual_seed(0)  # what is drawn in training stays as it is
    some = torch.rand(1, 3, side, side, generator=own).repeat(2, 1, 1, 1)
    edge = max(1, side // EDGE)
    some[1, :, -edge:], some[1, :, :, -edge:] = 0, 0
    try:
        found = clip.model.eval().encode_image(some.to(next(clip.model.parameters()).device))
    except (AssertionError, RuntimeError, ValueError):
        found = torch.zeros(2, 1)
    finally:
        clip.model.train(training)
    if torch.equal(*found):  # as where pixels that fill no patch are dropped in silence
        raise ConfigError(
            f"{said}: the image tower does not take {side} pixels a side, as it does {usual}"
        )


def side_of(side: int, scale: float) -> int:
    """Return the pixels of a side at a share of it."""
    return round(scale * side)


def mean(seen: list[torch.Tensor]) -> torch.Tensor:
    """Return the mean, of length 1, of features of length 1, (B, D) each."""
    return seen[0] if len(seen) == 1 else F.normalize(torch.stack(seen).sum(0), dim=-1)


def by_parts(
    encode: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, tower: nn.Module
) -> torch.Tensor:
    """Return what a tower makes of pictures that it does not learn from, as many at a time as suit.

    Args:
        encode: float (b, 3, S, S) → (b, D), each row of its picture alone.
        images: float (B, 3, S, S).
        tower: that encodes them.

    Returns:
        (B, D).
    """
    few = len(images) <= CPU_PART  # first: a replica need not look at its tower for each request
    if few or images.device.type != "cpu" or not _is_convolutional(tower):
        return encode(images)
    starts = range(0, len(images), CPU_PART)
    return torch.cat([encode(images[start : start + CPU_PART]) for start in starts])


def _is_convolutional(tower: nn.Module) -> bool:
    """Tell whether a tower has more convolutions than one that cuts pictures into patches."""
    return sum(isinstance(module, nn.Conv2d) for module in tower.modules()) > 1


def _encoded(clip: Clip, images: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    """Return the features of normalised pictures, of length 1."""
    low = config.inference == "bf16" and arithmetic.low(images.device)
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=low):
        features = by_parts(
            lambda part: clip.model.encode_image(part, normalize=False), images, clip.model
        )
    return F.normalize(features.float(), dim=-1)  # in fp32: bf16 has three digits


def best_scale(cosines: torch.Tensor, targets: torch.Tensor, *, start: float) -> float:
    """Return the factor on cosines that pictures and training agree on.

    The summed cross-entropy is minimised together with a normal prior on the factor's logarithm
    around that of training: a few pictures without a mistake would have it grow without end, and
    be sure of the wrong on new ones. Where the likelihood alone is best at a bound, 16 times the
    trained factor or a 16th of it, it says nothing, and the trained factor stays.

    Args:
        cosines: (N, C).
        targets: int64 (N,), class numbers.
        start: the factor of training.
    """
    rows, middle = cosines.double(), math.log(start)

    def likelihood(log_scale: float) -> float:
        scaled = math.exp(log_scale) * rows
        return float(F.cross_entropy(scaled, targets, reduction="sum"))

    def posterior(log_scale: float) -> float:
        return likelihood(log_scale) + ((log_scale - middle) / PRIOR_SD) ** 2 / 2

    reach = math.log(16)
    alone = _lowest(likelihood, middle - reach, middle + reach)
    if abs(alone - middle) > reach - 1e-2:
        return start
    return math.exp(_lowest(posterior, middle - reach, middle + reach))


def _lowest(value: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function of one valley is lowest, by golden sections."""
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = value(a), value(b)
    while high - low > 1e-4:
        if at_a < at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = value(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = value(b)
    return (low + high) / 2
