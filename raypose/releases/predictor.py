"""The files of a release, written once after training and read wherever pictures are classified.

A release is a model folder for open_clip, with the document it was trained by, its classes, its
captions, their features as a classifier, and its figures. Classifying needs the image tower only.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
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
from raypose.errors import CheckpointError, UsageError
from raypose.releases import card, choosing
from raypose.releases.backends import REFERENCE, Backend, Maker, Torch
from raypose.releases.predictions import Predicted, Prediction

__all__ = ["CLASSIFIER", "Predictor", "write_release"]

CLASSIFIER = "classifier.safetensors"


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
        backend: Backend | None = None,
    ) -> None:
        self.clip = clip
        self.classifier = classifier
        self.logit_scale = logit_scale
        self.classes = classes
        self.config = config
        self.backend: Backend = backend or Torch(clip, config.model)
        self.to(device)

    def to(self, device: torch.device) -> None:
        """Move to a device, in the layout that the config asks for.

        Raises:
            UsageError: where the backend computes on a CPU alone, and the device is none.
        """
        if device.type != "cpu" and self.backend.name != REFERENCE:
            raise UsageError(f"backend: {self.backend.name} computes on a CPU, not on {device}")
        self.device = device
        model.place(self.clip, device, channels_last=self.config.model.channels_last).eval()
        self.classifier = self.classifier.to(device)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: torch.device | str | None = None,
        backend: str = REFERENCE,
        threads: int | None = None,
        kept: Path | None = None,
    ) -> Predictor:
        """Load a release from a local folder.

        Args:
            folder: as `registry.fetch` fills it.
            device: by default a GPU where there is one; a CPU where a backend needs it.
            backend: how the image tower is computed: see `backends`. ``auto`` is the fastest here
                of those that the release admits, and torch on a GPU.
            threads: that a CPU computes with; for torch, of the whole process. By default 1, but
                for torch asked for by its name, which takes what the process has.
            kept: folder of this release's where a backend keeps what takes long to make.

        Raises:
            CheckpointError: where a file of it is missing or damaged.
            RegistryError: where it does not say by what it may be computed.
            UsageError: for a backend that this machine has not.
        """
        auto = backend == "auto"
        cpu_only = not auto and backend != REFERENCE
        by_default = "cuda" if torch.cuda.is_available() and not cpu_only else "cpu"
        where = torch.device(device or by_default)
        made = cls._loaded(folder, where)
        if where.type != "cpu" and cpu_only:
            raise UsageError(f"backend: {backend} computes on a CPU, not on {where}")
        if where.type != "cpu" or (backend == REFERENCE and threads is None):
            return made
        torch.set_num_threads(threads or 1)
        maker = Maker(made.clip, made.config.model, threads=threads or 1, kept=kept)
        if not auto:
            return made.by(maker.make(backend))
        names, side = choosing.admitted(folder), made.clip.image_size
        return choosing.fastest(lambda name: made.by(maker.make(name)), names, folder, side=side)

    @classmethod
    def _loaded(cls, folder: Path, device: torch.device) -> Predictor:
        try:
            config = parse_config(_read(folder / "config.json"), where=f"{folder}/config.json")
            document = _read(folder / "taxonomy.json")
            tensors = load_file(folder / CLASSIFIER)
            features, scale = tensors["text_features"], float(tensors["logit_scale"])
            classes = taxonomy.parse(document, where=f"{folder}/taxonomy.json")
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"{folder}: not a whole release ({error})") from None
        rows = len(features) if features.ndim == 2 else 0
        if rows != len(classes):
            raise CheckpointError(
                f"{folder}: gives {rows} logits where {len(classes)} were published, one for each "
                "class; publish it again"
            )
        return cls(
            model.load_image_tower(folder),
            features,
            scale,
            classes,
            config,
            device=device,
        )

    def by(self, backend: Backend) -> Predictor:
        """Return a predictor of the same release by another backend, made of its tower."""
        return Predictor(
            self.clip,
            self.classifier,
            self.logit_scale,
            self.classes,
            self.config,
            device=self.device,
            backend=backend,
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
    def logits(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return what probabilities are made of, float32 (B, C), of uint8 (B, 3, S, S)."""
        return self._logits(pixels).cpu().numpy()

    @torch.inference_mode()
    def probabilities(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return class probabilities, float32 (B, C), of uint8 (B, 3, S, S)."""
        return self._logits(pixels).softmax(dim=-1).cpu().numpy()

    def _logits(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        features = self.backend(torch.from_numpy(pixels))
        return zeroshot.logits(features, self.classifier, self.logit_scale)

    def rank(
        self, probabilities: npt.NDArray[np.float32], *, k: int = 5, level: int = 0
    ) -> list[Prediction]:
        """Return the k most probable of one row (C,), best first.

        Args:
            probabilities: of the classes.
            k: how many.
            level: 0 for classes; from 1 on for parents in the tree, nearest first, whose
                probability is the sum of their classes'.

        Raises:
            CheckpointError: where one of them is no number.
        """
        if not np.isfinite(probabilities).all():
            raise CheckpointError(
                "the model's answer is no number, so its weights are of no use for this picture; "
                "publish another"
            )
        if level:
            parents = self.classes.levels[level - 1]
            above = self.classes.parents(level - 1)
            odds: npt.NDArray[Any] = metrics.of_parents(probabilities[None], above, len(parents))[0]
            ids = names = parents
        else:
            odds, ids = probabilities, self.classes.ids
            names = tuple(card.name for card in self.classes.cards)
        return [Prediction(ids[i], names[i], float(odds[i])) for i in np.argsort(-odds)[:k]]

    def predicted(
        self,
        source: str,
        probabilities: npt.NDArray[np.float32],
        *,
        top_k: int,
        level: int,
        abstain_below: float,
    ) -> Predicted:
        """Return what is said of one picture among many: `rank`, or why there is nothing to say.

        Args:
            source: names the picture.
            probabilities: of the classes, (C,).
            top_k: how many of the most probable.
            level: see `rank`.
            abstain_below: see `Predicted.of`.
        """
        try:
            top = self.rank(probabilities, k=top_k, level=level)
        except CheckpointError as error:
            return Predicted(source, error=str(error))
        return Predicted.of(source, top, abstain_below=abstain_below)

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
    (folder / "README.md").write_text(card.text(config, classes, metrics, origin), encoding="utf-8")


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
