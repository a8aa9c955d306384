"""A step of MobileNetV2 on a CPU whose BatchNorm statistics stay: torch's way, folded, heap held.

    python benchmarks/batch_norm.py [rounds=3] [size=193] [batch=64] [steps=2]

Forward and back, as torch does it and with each BatchNorm carried out by the convolution before it
(`clip.batch_norm.fold`); both in a process as it starts, and in one that keeps what a step gives
back (`training.heap`). All four take turns in each round. The last line is JSON: the ratios of the
medians to torch's way in a process as it starts.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

import timm
import torch
from torch import nn

from raypose.clip import batch_norm
from raypose.training import heap

WARM_UP = 4
"""Steps until every block has found its place in the heap."""


class Tower(nn.Module):
    """A MobileNetV2 in the layout of pictures, as `fold` takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = timm.create_model("mobilenetv2_100", num_classes=66)
        self.to(memory_format=torch.channels_last).eval()

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Return what it says of pictures (B, 3, S, S)."""
        made: torch.Tensor = self.visual(images)
        return made


def main(rounds: int = 3, size: int = 193, batch: int = 64, steps: int = 2) -> None:
    """Print images/s of each, and their ratios."""
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, given in (("", {}), (" held", heap.ENVIRONMENT)):
            made = subprocess.run(
                [sys.executable, __file__, "alone", f"size={size}", f"batch={batch}",
                 f"steps={steps}"],
                env={**os.environ, **given}, stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            for way, taken in json.loads(made.stdout).items():
                seconds.setdefault(way + name, []).extend(taken)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{name:<12} {batch / value:6.1f} images/s  {value:.3f} s")
    ratios = {
        f"{name.replace(' ', '_')}_to_torch": round(medians["torch"] / value, 3)
        for name, value in medians.items()
        if name != "torch"
    }
    print(json.dumps(ratios))


def alone(size: int, batch: int, steps: int) -> None:
    """Print the seconds of steps in this process, by either way, as JSON."""
    torch.manual_seed(0)
    pictures = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    towers = {"torch": Tower(), "folded": Tower()}
    batch_norm.fold(towers["folded"], size=size)
    seconds: dict[str, list[float]] = {name: [] for name in towers}
    for number in range(WARM_UP + steps):
        for name, tower in towers.items():
            began = time.perf_counter()
            tower.encode_image(pictures).square().mean().backward()
            tower.zero_grad()
            if number >= WARM_UP:
                seconds[name].append(time.perf_counter() - began)
    print(json.dumps(seconds))


if __name__ == "__main__":
    words = sys.argv[1:]
    run = alone if words[:1] == ["alone"] else main
    run(**{k: int(v) for k, v in (word.split("=") for word in words if "=" in word)})
