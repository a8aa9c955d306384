"""An image tower on a CPU, by few pictures at a time and by 64 at once.

    python benchmarks/parts.py [towers=mobilenet,RN50,ViT-B-32] [rounds=5] [sizes=64,16,8,4]

`mobilenet` is the tower of jobs/recipes/yoga66.yaml. Sizes take turns in each round. Weights are
random: they change no times. The last line is JSON: how many times as fast as the first size.
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
import time
from pathlib import Path

import torch

from raypose import config
from raypose.clip import model, zeroshot

RECIPE = Path(__file__).parents[1] / "jobs" / "recipes" / "yoga66.yaml"
BATCH = 64


def main(
    towers: str = "mobilenet,RN50,ViT-B-32", rounds: str = "5", sizes: str = "64,16,8,4"
) -> None:
    """Print images/s of each, and their ratios."""
    logging.disable(logging.INFO)
    ratios: dict[str, float] = {}
    for name in towers.split(","):
        ratios |= measure(name, int(rounds), [int(size) for size in sizes.split(",")])
    print(json.dumps(ratios))


def measure(name: str, rounds: int, sizes: list[int]) -> dict[str, float]:
    """Time a batch's features by each number of pictures at a time."""
    made = config.load(str(RECIPE)).model.model_copy(update={"mirror": False})
    if name != "mobilenet":
        made = made.model_copy(update={"backbone": name})
    clip = model.image_tower(model.build(made))
    model.place(clip, torch.device("cpu"), channels_last=made.channels_last).eval()
    side = clip.image_size
    parts = torch.randint(0, 256, (BATCH, 3, side, side), dtype=torch.uint8)
    spent: dict[int, list[float]] = {size: [] for size in sizes}
    zeroshot.CPU_PART = BATCH  # the sizes are ours
    for turn in range(rounds + 1):
        for size, seconds in spent.items():
            began = time.perf_counter()
            for part in parts.split(size):
                zeroshot.embed(clip, part, made)
            if turn:  # the first warms up
                seconds.append(time.perf_counter() - began)
    medians = {size: statistics.median(seconds) for size, seconds in spent.items()}
    for size, value in medians.items():
        print(f"{name:<10} by {size:<3} {BATCH / value:6.1f} images/s", flush=True)
    return {
        f"{name}_by_{size}": round(medians[sizes[0]] / value, 2)
        for size, value in medians.items()
        if size != sizes[0]
    }


if __name__ == "__main__":
    main(**dict(word.split("=", 1) for word in sys.argv[1:]))
