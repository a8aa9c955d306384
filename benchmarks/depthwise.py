"""A step of MobileNetV2 on a CPU in bfloat16, strided depthwise convolutions ours and torch's.

    python benchmarks/depthwise.py [rounds=5] [size=193] [batch=64]

Both take turns in each round, forward and back. The last line is JSON: the ratio of the medians.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import timm
import torch
from torch import nn

from raypose.clip import depthwise


def main(rounds: int = 5, size: int = 193, batch: int = 64) -> None:
    """Print images/s of each, and their ratio."""
    torch.manual_seed(0)
    pictures = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    models = {"torch": tower(), "ours": tower()}
    count = depthwise.hasten(models["ours"])
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for number in range(rounds + 1):
        for name, model in models.items():
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16):
                made = model(pictures)
            made.float().square().mean().backward()
            model.zero_grad()
            if number:  # the first warms up
                seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{name:<6} {batch / value:6.1f} images/s  {value:.3f} s")
    ratio = medians["torch"] / medians["ours"]
    print(f"{count} layers, {size} pixels, {torch.get_num_threads()} threads: {ratio:.2f} times")
    print(json.dumps({"depthwise_to_torch": round(ratio, 3)}))


def tower() -> nn.Module:
    """Return a MobileNetV2 in the layout of pictures."""
    made: nn.Module = timm.create_model("mobilenetv2_100", num_classes=66)
    return made.to(memory_format=torch.channels_last).train()


if __name__ == "__main__":
    main(**{k: int(v) for k, v in (word.split("=") for word in sys.argv[1:])})
