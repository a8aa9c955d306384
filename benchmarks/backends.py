"""A picture and a batch through ViT-B/32 in one thread, by each backend that this machine has.

    python benchmarks/backends.py [rounds=7] [backbone=ViT-B-32] [batches=1,16]

Weights are random: they change no times. Backends take turns in each round, so that other work on
the machine slows all of them. The last line is JSON: how many times as fast as torch in fp32.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import torch

from raypose.clip import model
from raypose.config import ModelConfig
from raypose.releases.backends import NAMES, REFERENCE, Backend, Maker, lacking


def main(rounds: str = "7", backbone: str = "ViT-B-32", batches: str = "1,16") -> None:
    """Print milliseconds of each, and their ratios."""
    torch.set_num_threads(1)
    config = ModelConfig(backbone=backbone)
    clip = model.image_tower(model.build(config))
    clip.model.eval()
    backends = made(Maker(clip, config))
    ratios: dict[str, dict[str, float]] = {}
    for size in map(int, batches.split(",")):
        pixels = torch.randint(0, 256, (size, 3, clip.image_size, clip.image_size)).byte()
        medians = timed(backends, pixels, int(rounds))
        for name, value in medians.items():
            print(
                f"{name:<14} batch {size:<3} {1000 * value:8.1f} ms  {size / value:6.1f} images/s"
            )
        ratios[f"batch_{size}"] = {
            name: round(medians[REFERENCE] / value, 2) for name, value in medians.items()
        }
    print(json.dumps(ratios))


def made(maker: Maker) -> dict[str, Backend]:
    """Return every backend that can be had here, and say what the others lack."""
    backends = {}
    for name in NAMES:
        if reason := lacking(name):
            print(f"{name:<14} left out: {reason}")
            continue
        began = time.perf_counter()
        backends[name] = maker.make(name)
        print(f"{name:<14} made in {time.perf_counter() - began:.1f} s")
    return backends


@torch.inference_mode()
def timed(backends: dict[str, Backend], pixels: torch.Tensor, rounds: int) -> dict[str, float]:
    """Return the median seconds of a batch by each."""
    spent: dict[str, list[float]] = {name: [] for name in backends}
    for number in range(rounds + 1):
        for name, backend in backends.items():
            began = time.perf_counter()
            backend(pixels)
            if number:  # the first warms up
                spent[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in spent.items()}


if __name__ == "__main__":
    main(**dict(word.split("=") for word in sys.argv[1:]))
