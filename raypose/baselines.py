"""What a trained model is held against: the model it came from, by its captions and by a probe.

Both see the same pictures. The probe is fitted to the recipe's training set and kept in storage, so
that all runs of one model on one set share it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load, save

from raypose import captions, embedding, model, probe, storage, zeroshot
from raypose.config import Config, canonical_json
from raypose.embedding import Embedded, Progress
from raypose.grammar import grammar_hash
from raypose.sources import MANIFEST
from raypose.taxonomy import Taxonomy

__all__ = ["Baseline", "baselines"]


@dataclass(frozen=True)
class Baseline:
    """How another way does on the same pictures.

    Attributes:
        probabilities: float32 (N, C), rows in the order of the data set.
        ids: example id → its row.
        note: what to know when reading its figures; empty for nothing.
    """

    probabilities: npt.NDArray[np.float32]
    ids: dict[str, int]
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
        progress: told (pictures done, in all) of each set that is read.

    Returns:
        ``zero_shot``, by the recipe's captions; ``probe``, a head fitted to its training set.

    Raises:
        RayposeError: where the model or the training set is out of reach.
    """
    clip = model.build(config.model, seed=config.seed)
    rows = _embedded(clip, config, classes, url, progress)
    grammar = captions.load(config.captions)
    start = zeroshot.build_classifier(clip, grammar, classes).cpu()
    scale = clip.model.logit_scale.exp().item()
    head, probe_scale = _probe(clip, config, classes, start, progress)
    features = torch.from_numpy(rows.features)
    note = "" if model.has_weights(config.model) else "its text tower was not trained: chance"
    ids = {name: row for row, name in enumerate(rows.ids)}
    return {
        "zero_shot": Baseline(zeroshot.probabilities(features, start, scale).numpy(), ids, note),
        "probe": Baseline(zeroshot.probabilities(features, head, probe_scale).numpy(), ids),
    }


def _embedded(
    clip: model.Clip, config: Config, classes: Taxonomy, url: str, progress: Progress
) -> Embedded:
    return embedding.encode(
        clip, url, classes.index(), config.data, resize=config.model.resize, progress=progress
    )


def _probe(
    clip: model.Clip,
    config: Config,
    classes: Taxonomy,
    start: torch.Tensor,
    progress: Progress,
) -> tuple[torch.Tensor, float]:
    """Return the fitted head (C, D) and its factor, from storage where it was fitted before."""
    place = storage.join(config.storage, "baselines", f"{_key(config, classes)}.safetensors")
    if storage.exists(place):
        kept = load(storage.read_bytes(place))
        return kept["head"], float(kept["logit_scale"])
    rows = _embedded(clip, config, classes, config.data.train, progress)
    features = torch.from_numpy(rows.features[rows.good])
    targets = torch.from_numpy(rows.targets[rows.good])
    scale = clip.model.logit_scale.exp().item()
    penalty = config.optim.probe_penalty
    if penalty is None:
        penalty = probe.choose_penalty(features, targets, start, logit_scale=scale)
    head = probe.fit(features, targets, start, logit_scale=scale, penalty=penalty)
    tensors = {"head": head.contiguous(), "logit_scale": torch.tensor(scale)}
    storage.write_bytes(place, save(tensors))
    return head, scale


def _key(config: Config, classes: Taxonomy) -> str:
    """Return a hash of all that a fitted head follows from."""
    document: dict[str, Any] = {
        "model": config.model.model_dump(mode="json"),
        "seed": config.seed,
        "penalty": config.optim.probe_penalty,
        "captions": grammar_hash(captions.load(config.captions)),
        "classes": classes.to_dict(),
        "data": storage.sha256(storage.read_bytes(storage.join(config.data.train, MANIFEST))),
    }
    return hashlib.sha256(canonical_json(document).encode()).hexdigest()[:16]
