"""What a checkpoint costs the loop: ours, written meanwhile, beside `torch.save` of the same state.

    python benchmarks/checkpoint.py [rounds=4]

A ViT-B/32's shape with AdamW and a running mean of the weights: 2.4 GB. Each round saves in both
ways, with time between, and prints how long the loop stood still. The last line is JSON.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from raypose.clip import model
from raypose.config import Config, ModelConfig, OptimConfig
from raypose.training import checkpoint, optim, saver
from raypose.training.context import LocalContext

BETWEEN_S = 15.0
"""Steps between checkpoints take longer than this in earnest."""


def main(rounds: int = 4) -> None:
    """Print seconds of each way, and their ratio."""
    clip = model.build(ModelConfig(backbone="ViT-B-32"))
    optimizer = optim.build(clip.model, OptimConfig())
    for parameter in clip.model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    mean = {name: value.clone() for name, value in clip.model.state_dict().items()}
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        writer = saver.Saver(LocalContext(Config(), {}, print), name)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for step in range(1, rounds + 1):
            named = dict(clip.model.named_parameters())
            moments = {key: optimizer.state[value] for key, value in named.items()}
            training = {"optimizer": moments, "weights": clip.model.state_dict()}
            record = checkpoint.Checkpoint(step, step, None, {}, 1, 128)
            writer.waited = 0.0
            writer.save(record, clip, mean, training)
            ours.append(writer.waited)
            time.sleep(BETWEEN_S)
            if step == 1:
                used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
            began = time.monotonic()
            torch.save({"mean": mean, **training}, Path(name, "theirs.pt"))
            theirs.append(time.monotonic() - began)
            print(f"round {step}: ours {ours[-1]:.2f} s, torch.save {theirs[-1]:.2f} s", flush=True)
        writer.wait()
    size = sum(value.nbytes for value in mean.values()) * 2
    size += sum(v.nbytes for entry in moments.values() for v in entry.values())
    after_first, saved = statistics.median(ours[1:]), statistics.median(theirs)
    print(f"state {size / 1e9:.2f} GB; memory beside it {used / size:.2f} times as much")
    print(f"the first, into fresh buffers, {ours[0]:.2f} s; after it {after_first:.2f} s")
    ratios = {"torch_save_over_ours": saved / after_first, "memory_over_state": used / size}
    print(json.dumps({**ratios, "wait_s": after_first}))


if __name__ == "__main__":
    main(**{key: int(value) for key, value in (word.split("=") for word in sys.argv[1:])})
