"""Images a second of an evaluation, ours against open_clip with torch's DataLoader, in one run.

    pip install 'raypose[train]'
    python benchmarks/evaluate.py [num=384] [rounds=3] [backbone=ViT-B-32] [pictures=FOLDER]
                                  [num_workers=2]

Theirs is what open_clip's own zero-shot evaluation does: its `preprocess_val` in the workers of a
DataLoader, `encode_image` in batches of 64 in this process, features against a classifier. Ours is
what `raypose evaluate` does, from JPEG in shards to probabilities, by workers of Ray; once in fp32
and once with `model.inference: bf16`. All have the same weights, drawn by chance, the same JPEGs on
disk and as many workers, which are started before the clock is, with the model in them: in ours it
is sent anew in each round. Rounds are interleaved and medians given. The share of pictures on which
the first class is the same is printed beside; the last line is JSON: the ratios.

Weights drawn by chance tell classes apart by little: the agreement is that of the hardest case.
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from PIL import Image

from raypose import captions, config, evaluation, runtime, synthesis
from raypose.captions import taxonomy
from raypose.clip import model, zeroshot
from raypose.data import images, packing, shards
from raypose.data.manifests import read_manifest
from raypose.inference import pool
from raypose.releases import Model, Predictor

BATCH_SIZE = 64
CLASSES = taxonomy.load("yoga82")
Chances = dict[str, npt.NDArray[np.float32]]
"""Id → probabilities (C,)."""


def drawn(number: int) -> bytes:
    """A picture of 640 × 480 with texture, some 70 kB, as a camera would give it."""
    rng = np.random.default_rng(number)
    figure = synthesis.render(CLASSES.ids[number % len(CLASSES)], seed=number, size=320)
    pixels = np.asarray(figure.resize((640, 480), Image.Resampling.BICUBIC), dtype=np.float64)
    coarse = np.kron(rng.normal(0, 9, (120, 160, 3)), np.ones((4, 4, 1)))
    pixels = np.clip(pixels + coarse + rng.normal(0, 3, pixels.shape), 0, 255)
    return images.encode(pixels.astype(np.uint8), quality=85)


def lay_out(folder: Path, num: int, pictures: str) -> str:
    """Write drawn pictures, or those of a folder, into files and shards; return the shards."""
    if pictures:
        paths = sorted(Path(pictures).rglob("*.jpg"))[:num]
        contents = [path.read_bytes() for path in paths]
    else:
        contents = [drawn(number) for number in range(num)]
    for number, content in enumerate(contents):
        path = folder / "files" / CLASSES.ids[number % len(CLASSES)] / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    packing.build(f"{folder}/files", f"{folder}/shards", packing.Packing(rows_per_shard=BATCH_SIZE))
    return f"{folder}/shards"


class Files(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """JPEGs on disk through a transform."""

    def __init__(self, folder: Path, names: list[str], transform: Any) -> None:
        self.folder, self.names, self.transform = folder, names, transform

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, str]:
        name = self.names[number]
        with Image.open(self.folder / name) as image:
            return self.transform(image), name


class Theirs:
    """open_clip's model and preprocessing, and a DataLoader whose workers stay."""

    def __init__(
        self, clip: model.Clip, backbone: str, files: Files, classifier: torch.Tensor, workers: int
    ) -> None:
        self.model, _, files.transform = open_clip.create_model_and_transforms(backbone)
        self.model.load_state_dict(clip.model.state_dict())
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(self.device).eval()
        self.classifier = classifier.to(self.device)
        self.loader = torch.utils.data.DataLoader(
            files, batch_size=BATCH_SIZE, num_workers=workers, persistent_workers=True
        )

    @torch.no_grad()
    def run(self) -> Chances:
        """Score all pictures."""
        found: Chances = {}
        scale = self.model.logit_scale.exp()
        for pixels, names in self.loader:
            features = self.model.encode_image(pixels.to(self.device), normalize=True)
            rows = (scale * features @ self.classifier.T).softmax(-1).cpu().numpy()
            found |= zip(names, rows, strict=True)
        return found


def ours(
    clip: model.Clip, made: config.Config, classifier: torch.Tensor, url: str, workers: int
) -> Callable[[], Chances]:
    """Return what scores all pictures as `raypose evaluate` does."""
    scale = clip.model.logit_scale.exp().item()
    tower, cpu = model.image_tower(clip), torch.device("cpu")
    predictor = Predictor(tower, classifier, scale, CLASSES, made, device=cpu)
    release = Model(predictor, release="random:v1", captions={})

    def run() -> Chances:
        scored = evaluation.score("", release, url, num_workers=workers)
        return dict(zip(scored.ids, scored.probabilities, strict=True))

    return run


def measure(options: dict[str, Any], folder: Path) -> dict[str, float]:
    """Time all, turn by turn; print a table and return the ratios."""
    url = lay_out(folder, options["num"], options["pictures"])
    base = {"data": {"taxonomy": "yoga82"}, "model": {"backbone": options["backbone"]}}
    # open_clip's own way to a square, for like to be held against like
    low, high = (
        config.override(
            config.parse_config(base), {"model.inference": name, "model.resize": "shortest"}
        )
        for name in ("bf16", "fp32")
    )
    clip = model.build(high.model)
    clip.model.eval()
    classifier = zeroshot.build_classifier(clip, captions.load(high.captions), CLASSES)
    names = []
    for shard in read_manifest(url).shards:
        names += shards.read_shard(url, shard)["id"].to_pylist()
    files, workers = Files(folder / "files", names, None), options["num_workers"]
    works: dict[str, Callable[[], Chances]] = {
        "open_clip": Theirs(clip, options["backbone"], files, classifier, workers).run,
        "ours_fp32": ours(clip, high, classifier, url, workers),
        "ours_bf16": ours(clip, low, classifier, url, workers),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    found: dict[str, Chances] = {}
    for turn in range(options["rounds"] + 1):  # the first is to warm up
        for name, work in works.items():
            began = time.perf_counter()
            found[name] = work()
            if turn:
                times[name].append(time.perf_counter() - began)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{options['backbone']}, {len(names)} JPEGs, {workers} workers, {device}")
    speed = {name: len(names) / statistics.median(values) for name, values in times.items()}
    ratios: dict[str, float] = {}
    truth = found["open_clip"]
    for name, value in speed.items():
        share = float(np.mean([found[name][key].argmax() == truth[key].argmax() for key in truth]))
        slowest, fastest = len(names) / max(times[name]), len(names) / min(times[name])
        ratio = value / speed["open_clip"]
        print(
            f"{name:<10} {value:7.1f} images/s ({slowest:.1f} to {fastest:.1f})  "
            f"{ratio:5.2f} x open_clip, top-1 the same on {share:.1%}"
        )
        if name != "open_clip":
            ratios[f"{name}_to_open_clip_{device}"] = round(ratio, 3)
            ratios[f"{name}_agreement_{device}"] = round(share, 4)
    return ratios


def main() -> None:
    """Read the options, start Ray, and measure."""
    logging.disable(logging.INFO)
    options: dict[str, Any] = {
        "num": 4096 if torch.cuda.is_available() else 384,
        "rounds": 3,
        "backbone": "ViT-B-32",
        "pictures": "",
        "num_workers": 2,
    }
    for key, value in config.parse_assignments(sys.argv[1:]).items():
        if key not in options:
            raise SystemExit(f"{key}: unknown; known: {', '.join(options)}")
        options[key] = value
    with tempfile.TemporaryDirectory() as name:
        connected = runtime.connect(config.ClusterConfig(num_cpus=options["num_workers"] + 1))
        with connected, pool.kept():
            ratios = measure(options, Path(name))
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
