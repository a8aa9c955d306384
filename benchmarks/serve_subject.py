"""What serve.py has served: a release trained for a moment on drawn postures, and a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from raypose import config, evaluation, runtime, synthesis, training
from raypose.captions import taxonomy
from raypose.cli.chain import RECIPE
from raypose.data import images, packing
from raypose.releases import registry
from raypose.releases.predictor import Predictor

CLASSES = taxonomy.load("synthetic12")
SMALL = {"per_class": 24, "epochs": 4, "method": "full"}
LARGE = {"per_class": 2, "epochs": 1, "method": "probe"}
"""Of a backbone that would take long to train: its tower stays as it was drawn by chance."""


@dataclass(frozen=True)
class Subject:
    """What all of them serve."""

    storage: str
    release: str
    folder: Path
    """The release, fetched."""
    picture: Path
    label: str


def made(folder: Path, backbone: str, *, gate: bool | None = None) -> Subject:
    """Draw pictures, train on them for a moment, and publish what comes of it.

    Args:
        folder: to do so in.
        backbone: of the model.
        gate: whether faster backends are looked for: see `evaluation.publish`.
    """
    plan = SMALL if backbone == "small" else LARGE
    for number, split in enumerate(("train", "val")):
        counts = dict.fromkeys(CLASSES.ids, plan["per_class"])
        synthesis.synthesize(folder / split, counts, size=96, seed=10**6 * number)
        packing.build(str(folder / split), str(folder / "data" / split))
    data = {split: str(folder / "data" / split) for split in ("train", "val")}
    learning = {"epochs": plan["epochs"], "method": plan["method"], "batch_size": 24}
    recipe = config.parse_config(
        {
            "name": "bench",
            "storage": str(folder / "store"),
            "data": {**data, "taxonomy": CLASSES.name},
            "model": {**RECIPE["model"], "backbone": backbone},
            "optim": {**RECIPE["optim"], **learning},
        }
    )
    with runtime.connect(config.ClusterConfig(num_cpus=4)):
        training.train(recipe, in_process=True)
        release = registry.promote(recipe.storage, str(evaluation.publish(recipe, backends=gate)))
    where = registry.fetch(release, folder / "release")
    (folder / "picture.jpg").write_bytes(photograph())
    (top,) = Predictor.load(where, device="cpu").predict([photograph()])
    return Subject(recipe.storage, release.url, where, folder / "picture.jpg", top[0].label)


def photograph(seed: int = 7) -> bytes:
    """A picture of 640 × 480 with texture, some 75 kB, as a camera would give it."""
    rng = np.random.default_rng(seed)
    figure = synthesis.render(CLASSES.ids[0], seed=seed, size=320)
    pixels = np.asarray(figure.resize((640, 480), Image.Resampling.BICUBIC), dtype=np.float64)
    coarse = np.kron(rng.normal(0, 10, (120, 160, 3)), np.ones((4, 4, 1)))
    pixels = np.clip(pixels + coarse + rng.normal(0, 3, pixels.shape), 0, 255)
    return images.encode(pixels.astype(np.uint8), quality=86)
