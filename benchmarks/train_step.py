"""Images a second of a training step, ours against open_clip's own, in one run.

    pip install 'raypose[train]'
    python benchmarks/train_step.py [backbone=ViT-B-32] [batch=64] [taxonomy=yoga82] [rounds=5]
                                    [steps=2] [precision=fp32|bf16] [compile=false]

Theirs is `open_clip_train.train.train_one_epoch` as it is, with its ClipLoss, a caption for each
picture padded to the full context, and AdamW as its main builds it. Ours is `Trainer.train_step`:
normalising and augmenting uint8 pictures, class cross-entropy over one caption a class cut to the
longest, clipping, AdamW, the running mean of the weights. Both have the same backbone from the
same seed, batch, precision and threads, and pictures in memory. Rounds are interleaved and medians
given.

Printed beside: how much of the time the arithmetic alone would take at the speed of a large matrix
product in the same precision, measured in the same run (MFU), counting what each step really
computes. The last line is JSON: the ratios.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import open_clip
import torch
from open_clip.loss import ClipLoss
from open_clip_train.train import train_one_epoch
from torch.utils.flop_counter import FlopCounterMode

from raypose import captions, config
from raypose.captions import taxonomy
from raypose.data import Batch
from raypose.training import loop
from raypose.training.context import LocalContext
from raypose.training.prefetcher import Prefetcher as OurPrefetcher
from raypose.training.trainer import Trainer

WARM_UP = 1


def synchronize(device: torch.device) -> None:
    """Wait until what was asked of a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def build_ours(options: dict[str, Any]) -> Trainer:
    """Return a trainer of the recipe that is measured."""
    recipe = config.parse_config(
        {
            "data": {"train": "memory", "taxonomy": options["taxonomy"]},
            "model": {"backbone": options["backbone"]},
            "optim": {"batch_size": options["batch"], "epochs": 1000},
            "train": {"precision": options["precision"], "compile": options["compile"]},
        }
    )
    context = LocalContext(recipe, {}, lambda values: None)  # steps are taken by hand
    trainer, _ = loop.prepare(recipe, context, run_url="/nowhere", num_rows=10_000)
    trainer.set_training()
    return trainer


class Prefetcher:
    """What open_clip's loop reads of a data set: one batch, some times over."""

    def __init__(self, images: torch.Tensor, texts: torch.Tensor, steps: int) -> None:
        self.dataloader = self
        self.batch, self.steps = (images, texts), steps
        self.num_batches, self.num_samples = steps, steps * len(images)

    def set_epoch(self, epoch: int) -> None:
        """Nothing follows from the epoch."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for _ in range(self.steps):
            yield self.batch


class Theirs:
    """open_clip's model, optimiser and loop."""

    def __init__(self, options: dict[str, Any], device: torch.device) -> None:
        torch.manual_seed(0)
        self.model = open_clip.create_model(options["backbone"], output_dict=True).to(device)
        named = list(self.model.named_parameters())
        plain = [p for n, p in named if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n]
        rest = [p for n, p in named if not (p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n)]
        self.optimizer = torch.optim.AdamW(
            [{"params": plain, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.1}],
            lr=1e-5, betas=(0.9, 0.98), eps=1e-6,
        )  # fmt: skip
        self.args = argparse.Namespace(
            device=str(device),
            precision="amp_bf16" if options["precision"] == "bf16" else "fp32",
            distill=False,
            accum_freq=1,
            skip_scheduler=True,
            grad_clip_norm=1.0,
            horovod=False,
            log_every_n_steps=1000,
            batch_size=options["batch"],
            world_size=1,
            rank=0,
            local_rank=0,
            wandb=False,
            log_local=False,
            save_logs=False,
        )

    def run(self, images: torch.Tensor, texts: torch.Tensor, steps: int) -> None:
        """Take some steps."""
        prefetcher = {"train": Prefetcher(images, texts, steps)}
        train_one_epoch(
            self.model,
            prefetcher,
            ClipLoss(),
            0,
            self.optimizer,
            None,
            lambda step: None,
            None,
            self.args,
        )


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the best of several large matrix products, in operations a second."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(8):
        synchronize(device)
        began = time.perf_counter()
        for _ in range(4):
            a @ b
        synchronize(device)
        best = max(best, 4 * 2 * size**3 / (time.perf_counter() - began))
    return best


def counted(work: Callable[[], object]) -> float:
    """Return the operations of a step."""
    # compiled kernels would hide what they compute
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def measure(options: dict[str, Any]) -> dict[str, float]:
    """Time both, turn by turn; print a table and return the ratios."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classes = taxonomy.load(options["taxonomy"])
    ours, theirs = build_ours(options), Theirs(options, device)
    size, batch = ours.clip.image_size, options["batch"]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch, size, size, 3), generator=generator, dtype=torch.uint8)
    targets = torch.randint(0, len(classes), (batch,), generator=generator)
    ids = [f"picture-{k}" for k in range(batch)]
    given = Batch(pixels.permute(0, 3, 1, 2), targets, ids, [""] * batch)
    spoken = [
        captions.sample(ours.grammar, classes.cards[k], seed=0, step=0) for k in targets.tolist()
    ]
    images, texts = ours.prepared(given).contiguous().cpu(), ours.clip.tokenize(spoken)

    def run_ours() -> None:
        prefetcher, last = OurPrefetcher(repeat(given, options["steps"]), device), None
        while batch := prefetcher.take():
            outcome = ours.take_step(batch, epoch=0, meanwhile=prefetcher.fetch)
            if last:
                ours.settle(last)
            last = outcome
        if last:
            ours.settle(last)

    works = {
        "ours": run_ours,
        "open_clip": lambda: theirs.run(images, texts, options["steps"]),
    }
    operations = {
        "ours": counted(lambda: ours.train_step(given, epoch=0)),
        "open_clip": counted(lambda: theirs.run(images, texts, 1)),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(options["rounds"] + WARM_UP):
        for name, work in works.items():
            synchronize(device)
            began = time.perf_counter()
            work()
            synchronize(device)
            if turn >= WARM_UP:
                times[name].append((time.perf_counter() - began) / options["steps"])
    dtype = torch.bfloat16 if options["precision"] == "bf16" else torch.float32
    peak = peak_flops(device, dtype)
    print(f"{options['backbone']}, {batch} pictures of {size}, {len(classes)} classes, "
          f"{options['precision']}, {device}, {torch.get_num_threads()} threads, "
          f"peak {peak / 1e12:.3g} TFLOP/s")  # fmt: skip
    found = {}
    for name, seconds in times.items():
        median = statistics.median(seconds)
        share = operations[name] / median / peak
        found[name] = median
        print(f"{name:<10} {batch / median:8.1f} images/s  {median * 1e3:8.0f} ms a step "
              f"({min(seconds) * 1e3:.0f} to {max(seconds) * 1e3:.0f})  "
              f"{operations[name] / 1e9:6.0f} GFLOP  MFU {share:.1%}")  # fmt: skip
    key = f"{options['backbone']}_{options['precision']}_{device.type}"
    return {
        f"ours_to_open_clip_{key}": round(found["open_clip"] / found["ours"], 3),
        f"mfu_ours_{key}": round(operations["ours"] / found["ours"] / peak, 3),
    }


def main() -> None:
    """Read the options and measure each backbone named."""
    logging.disable(logging.INFO)
    cuda = torch.cuda.is_available()
    options: dict[str, Any] = {
        "backbone": "ViT-B-32,ViT-B-16,ViT-L-14" if cuda else "ViT-B-32",
        "batch": 256 if cuda else 64,
        "taxonomy": "yoga82",
        "rounds": 5,
        "steps": 20 if cuda else 2,
        "precision": "bf16" if cuda else "fp32",
        "compile": cuda,
    }
    for key, value in config.parse_assignments(sys.argv[1:]).items():
        if key not in options:
            raise SystemExit(f"{key}: unknown; known: {', '.join(options)}")
        options[key] = value
    ratios: dict[str, float] = {}
    for backbone in options["backbone"].split(","):
        ratios |= measure({**options, "backbone": backbone})
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
