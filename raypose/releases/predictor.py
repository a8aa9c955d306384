"""The files of a release, written once after training and read wherever pictures are classified.

A release is a model folder for open_clip, with the document it was trained by, its classes, its
captions, their features as a classifier, and its figures. Classifying needs the image tower only.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from raypose import captions, metrics
from raypose.captions import taxonomy
from raypose.captions.grammar import grammar_hash, to_json
from raypose.captions.taxonomy import Taxonomy
from raypose.clip import model, zeroshot
from raypose.config import Config, dump, parse_config
from raypose.data import Decode
from raypose.data.transforms import preprocess
from raypose.errors import CheckpointError

__all__ = ["CLASSIFIER", "Prediction", "Predictor", "write_release"]

CLASSIFIER = "classifier.safetensors"

TRIM = """
Its `preprocess` does not trim: raypose cuts a margin of one colour away before (`model.resize`).
"""


@dataclass(frozen=True)
class Prediction:
    """A class and how probable it is, in 0..1."""

    label: str
    name: str
    probability: float


class Predictor:
    """Classifies pictures by a release."""

    def __init__(
        self,
        clip: model.Clip,
        classifier: torch.Tensor,
        logit_scale: float,
        classes: Taxonomy,
        config: Config,
        *,
        device: torch.device,
    ) -> None:
        self.clip = clip
        self.classifier = classifier
        self.logit_scale = logit_scale
        self.classes = classes
        self.config = config
        self.to(device)

    def to(self, device: torch.device) -> None:
        """Move to a device, in the layout that the config asks for."""
        self.device = device
        model.place(self.clip.model, device, channels_last=self.config.model.channels_last).eval()
        self.classifier = self.classifier.to(device)

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str | None = None) -> Predictor:
        """Load a release from a local folder.

        Args:
            folder: as `registry.fetch` fills it.
            device: by default a GPU where there is one.

        Raises:
            CheckpointError: where a file of it is missing or damaged.
        """
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            config = parse_config(_read(folder / "config.json"), where=f"{folder}/config.json")
            document = _read(folder / "taxonomy.json")
            tensors = load_file(folder / CLASSIFIER)
            features, scale = tensors["text_features"], float(tensors["logit_scale"])
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"{folder}: not a whole release ({error})") from None
        return cls(
            model.load_image_tower(folder),
            features,
            scale,
            taxonomy.parse(document, where=f"{folder}/taxonomy.json"),
            config,
            device=torch.device(chosen),
        )

    def decode(self, index: Mapping[str, int]) -> Decode:
        """Return how shards become pixels and class numbers, as in training.

        Args:
            index: label → class number.
        """
        data, size = self.config.data, self.clip.image_size
        how = self.config.model.resize
        return Decode(dict(index), size, how, data.max_pixels, data.dct_scaled)

    def pixels(self, content: bytes) -> npt.NDArray[np.uint8]:
        """Decode one picture to uint8 (3, S, S), as in training.

        Raises:
            DataError: where it is no picture.
        """
        return preprocess(
            content,
            size=self.clip.image_size,
            resize=self.config.model.resize,
            max_pixels=self.config.data.max_pixels,
            dct_scaled=self.config.data.dct_scaled,
        )

    @torch.inference_mode()
    def probabilities(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return class probabilities, float32 (B, C), of uint8 (B, 3, S, S)."""
        features = zeroshot.embed(self.clip, torch.from_numpy(pixels), self.config.model)
        probabilities = zeroshot.probabilities(features, self.classifier, self.logit_scale)
        return probabilities.cpu().numpy()

    def rank(
        self, probabilities: npt.NDArray[np.float32], *, k: int = 5, level: int = 0
    ) -> list[Prediction]:
        """Return the k most probable of one row (C,), best first.

        Args:
            probabilities: of the classes.
            k: how many.
            level: 0 for classes; from 1 on for parents in the tree, nearest first, whose
                probability is the sum of their classes'.
        """
        if level:
            parents = self.classes.levels[level - 1]
            above = self.classes.parents(level - 1)
            odds: npt.NDArray[Any] = metrics.of_parents(probabilities[None], above, len(parents))[0]
            ids = names = parents
        else:
            odds, ids = probabilities, self.classes.ids
            names = tuple(card.name for card in self.classes.cards)
        return [Prediction(ids[i], names[i], float(odds[i])) for i in np.argsort(-odds)[:k]]

    def predict(self, pictures: Sequence[bytes], *, k: int = 5) -> list[list[Prediction]]:
        """Classify pictures given as bytes: for each, its k most probable classes."""
        probabilities = self.probabilities(np.stack([self.pixels(content) for content in pictures]))
        return [self.rank(row, k=k) for row in probabilities]


def write_release(
    final: Path,
    folder: Path,
    config: Config,
    metrics: Mapping[str, Any],
    origin: Mapping[str, Any],
) -> None:
    """Make a release's files from a run's final model.

    Args:
        final: local folder that `finish` wrote.
        folder: to fill.
        config: of the run.
        metrics: to carry along.
        origin: what it is made of: see `provenance`.
    """
    for name in (model.CONFIG_FILE, model.WEIGHTS_FILE, CLASSIFIER):
        if not (final / name).is_file():
            raise CheckpointError(f"{final}: {name} is missing; train again")
    # a tokenizer that is not CLIP's own has files beside these
    shutil.copytree(final, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("final.json"))
    classes = taxonomy.load(config.data.taxonomy)
    grammar = captions.load(config.captions)
    class_captions = {
        card.id: captions.evaluation_captions(grammar, card) for card in classes.cards
    }
    documents = {
        "config.json": dump(config),
        "taxonomy.json": classes.to_dict(),
        "captions.json": {
            "grammar": to_json(grammar),
            "hash": grammar_hash(grammar),
            "captions": class_captions,
        },
        "metrics.json": dict(metrics),
        "provenance.json": dict(origin),
    }
    for name, document in documents.items():
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(_card(config, classes, metrics, origin), encoding="utf-8")


def _card(
    config: Config, classes: Taxonomy, metrics: Mapping[str, Any], origin: Mapping[str, Any]
) -> str:
    """Return a model card."""
    end = origin["final"]
    figures = "\n".join(
        f"| {key} | {value:.4f} |" for key, value in metrics.items() if isinstance(value, float)
    )
    return f"""---
library_name: open_clip
pipeline_tag: zero-shot-image-classification
---

# {config.name}

A CLIP model fine-tuned to tell {len(classes)} postures of the taxonomy "{classes.name}" apart.
Backbone `{config.model.backbone}`; trained on `{config.data.train}`, loss `{config.loss.name}`,
method `{config.optim.method}`, {config.optim.epochs} epochs at most.

| figure | value |
|---|---|
{figures}

It names the posture of one person in a picture. It was not made to judge health, ability or
identity. `config.json` holds every setting, `captions.json` the sentences of each class.

## How it came about

Figures named `val_` are of `{config.data.val or "no validation set"}`, on which epoch
{end["epoch"]}, the mixing weight {end["alpha"]:g} of the trained weights with those it started
from, and the factor {end["logit_scale"]:.2f} on cosines were chosen: they lean to the high side.
`provenance.json` holds the hashes of recipe, captions, classes, data and code. To score it, with
intervals and baselines: `raypose evaluate {config.name} DATA`.

## In open_clip

    model, preprocess = open_clip.create_model_from_pretrained("local-dir:THIS_FOLDER")
{TRIM if config.model.resize == "trim" else ""}"""


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
