"""What a trained model is held against: the model it came from, by its captions and by a probe.

Both see the same pictures. The probe is fitted to the recipe's training set and kept in storage, so
that all runs of one model on one set share it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load, save

from raypose import captions, storage
from raypose.captions.grammar import grammar_hash
from raypose.captions.taxonomy import Taxonomy
from raypose.clip import model, probe, text, zeroshot
from raypose.config import Config, document_hash
from raypose.data.shards import manifest_hash
from raypose.inference import embedding
from raypose.inference.embedding import Embedded, Progress

__all__ = ["Baseline", "baselines"]


@dataclass(frozen=True)
class Baseline:
    """How another model does on the same pictures.

    Attributes:
        probabilities: float32 (N, C), rows in the order of the data set.
        ids: example id → its row.
        targets: int64 (N,), class numbers.
        good: bool (N,), whether the picture could be read.
        note: what to know when reading its figures; empty for nothing.
    """

    probabilities: npt.NDArray[np.float32]
    ids: dict[str, int]
    targets: npt.NDArray[np.int64]
    good: npt.NDArray[np.bool_]
    note: str = ""


def baselines(
    config: Config,
    classes: Taxonomy,
    url: str,
    *,
    progress: Progress = lambda done, total: None,
) -> dict[str, Baseline]:
    """Score a data set by the model a recipe starts from.

    Args:
        config: the recipe.
        classes: the taxonomy.
        url: of the shards to score.
        progress: called with (pictures done, in all) of each set that is read.

    Returns:
        ``zero_shot``, by the recipe's captions; ``probe``, a head fitted to its training set.

    Raises:
        RayposeError: where the model or the training set is out of reach.
    """
    clip = model.build(config.model, seed=config.seed)
    clip.model.eval()
    rows = _embedded(clip, config, classes, url, progress)
    grammar = captions.load(config.captions)
    start = zeroshot.build_classifier(clip, grammar, classes).cpu()
    scale = clip.model.logit_scale.exp().item()
    head = _head(clip, config, classes, start, progress)
    features = torch.from_numpy(rows.features)
    note = "" if model.has_weights(config.model) else "its text tower was not trained: chance"
    ids = {name: row for row, name in enumerate(rows.ids)}
    chances = {
        name: zeroshot.probabilities(features, classifier, scale).numpy()
        for name, classifier in (("zero_shot", start), ("probe", head))
    }
    return {
        name: Baseline(rows_of, ids, rows.targets, rows.good, note if name == "zero_shot" else "")
        for name, rows_of in chances.items()
    }


def _embedded(
    clip: model.Clip, config: Config, classes: Taxonomy, url: str, progress: Progress
) -> Embedded:
    return embedding.encode(
        clip, url, classes.index(), config.data, config.model, progress=progress
    )


def _head(
    clip: model.Clip,
    config: Config,
    classes: Taxonomy,
    start: torch.Tensor,
    progress: Progress,
) -> torch.Tensor:
    """Return the fitted head (C, D), from storage where it was fitted before."""
    url = storage.join(config.storage, "baselines", f"{_key(clip, config, classes)}.safetensors")
    if storage.exists(url):
        return load(storage.read_bytes(url))["head"]
    rows = _embedded(clip, config, classes, config.data.train, progress)
    features = torch.from_numpy(rows.features[rows.good])
    targets = torch.from_numpy(rows.targets[rows.good])
    scale = clip.model.logit_scale.exp().item()
    asked = config.optim.probe_penalty
    head, _ = probe.fit_best(features, targets, start, logit_scale=scale, penalty=asked)
    storage.write_bytes(url, save({"head": head.contiguous()}))
    return head


def _key(clip: model.Clip, config: Config, classes: Taxonomy) -> str:
    """Return a hash of all that a fitted head follows from: of weights, wherever they lay."""
    document: dict[str, Any] = {
        "weights": text.digest(clip.model, image=True),
        "preprocess": clip.preprocess_cfg,
        "penalty": config.optim.probe_penalty,
        "captions": grammar_hash(captions.load(config.captions)),
        "classes": classes.to_dict(),
        "data": manifest_hash(config.data.train),
    }
    document |= config.model.encoding
    return document_hash(document)[:16]
