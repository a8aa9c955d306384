"""What makes two documents the same: the hashes that name runs, searches and captions.

A run is known by what its recipe says other than the defaults, so that a new key with a default
leaves the ids of all runs as they are. Where a default changes, FORMAT has to be raised: the same
sparse document then means another run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = [
    "FORMAT",
    "SOURCE",
    "base_hash",
    "canonical_json",
    "document_hash",
    "run_hash",
    "run_hash_0_1",
    "search_hash",
]

FORMAT = 4
"""Of the identity; 1 was the hash of the whole document, 2 and 3 were never released."""
ADDED_SINCE_0_1 = (
    "augment.image_size", "data.test", "model.inference", "model.kept", "model.mirror",
    "model.scales", "optim.frozen_blocks", "optim.lora_alpha", "optim.lora_dropout",
    "optim.lora_targets",
)  # fmt: skip
"""Dotted keys that a document of 0.1 did not have."""
CHANGED_SINCE_0_1 = {
    "data.max_pixels": (25_000_000, 50_000_000),
    "optim.learning_rate": (None, 1e-5),
}
"""Dotted key → its default now, and in 0.1: a run of 0.1 is looked for by the latter."""
NOT_OF_A_RUN = ("search", "serve", "cluster", "tracking")
SOURCE = "source"
"""Key of a taxonomy in a document: where its file lay."""
SPREAD = (
    "num_workers", "cpus_per_worker", "use_gpu", "max_failures", "checkpoint_steps", "seeds",
    "sharding", "activation_checkpointing", "compile", "resources", "accelerator_type",
    "max_preemption_failures",
)  # fmt: skip
"""Keys of `train` that say how a run is spread out: they may change between its parts."""
NOT_OF_A_SEARCH = (
    "num_trials", "max_concurrent", "gpus_per_trial", "max_failures", "max_hours", "stop_at",
    "finalists", "final_seeds", "from",
)  # fmt: skip
"""Keys of `search` that say how far it goes and how fast: they may change between its parts."""


def canonical_json(document: Any) -> str:
    """Return the one JSON text of a document, on which hashes rest."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def document_hash(document: Any) -> str:
    """Return the SHA-256 of a document's one JSON text."""
    return hashlib.sha256(canonical_json(document).encode()).hexdigest()


def run_hash(sparse: Mapping[str, Any]) -> str:
    """Return 8 hex digits of what a run is made of: not of how it is spread out or served.

    Args:
        sparse: the document less what is as by default.
    """
    kept = _without(_unplaced(sparse), NOT_OF_A_RUN)
    return _digits(_without(kept, SPREAD, section="train"))


def search_hash(sparse: Mapping[str, Any]) -> str:
    """Return 8 hex digits of what a search is made of: not of how many trials it makes.

    Args:
        sparse: the document less what is as by default.
    """
    kept = _without(_unplaced(sparse), ("serve", "cluster", "tracking"))
    kept = _without(kept, SPREAD, section="train")
    return _digits(_without(kept, NOT_OF_A_SEARCH, section="search"))


def base_hash(sparse: Mapping[str, Any]) -> str:
    """Return 8 hex digits of what a search starts from: equal where scores may be compared.

    Args:
        sparse: the document less what is as by default.
    """
    kept = _without(_unplaced(sparse), ("name", *NOT_OF_A_RUN))
    return _digits(_without(kept, SPREAD, section="train"))


def run_hash_0_1(document: Mapping[str, Any]) -> str:
    """Return the digits that 0.1 gave a run, for finding it again.

    Args:
        document: the complete document.
    """
    document = _without(_without(document, NOT_OF_A_RUN), SPREAD, section="train")
    cards = document.get("data", {}).get("taxonomy")
    if isinstance(cards, Mapping) and SOURCE in cards:  # 0.1 knew a file by its place alone
        document = {**document, "data": {**document["data"], "taxonomy": cards[SOURCE]}}
    for key in ADDED_SINCE_0_1:
        section, _, name = key.partition(".")
        document = _without(document, (name,), section=section)
    for key, (now, then) in CHANGED_SINCE_0_1.items():
        section, _, name = key.partition(".")
        if document[section][name] == now:
            document = {**document, section: {**document[section], name: then}}
    return document_hash(document)[:8]


def _unplaced(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a copy without places: a taxonomy is what it holds, weights what they were."""
    document = _without(document, ("kept",), section="model")
    data = document.get("data", {})
    cards = data.get("taxonomy")
    if not isinstance(cards, Mapping):
        return document
    return {**document, "data": {**data, "taxonomy": _without(cards, (SOURCE,))}}


def _digits(document: Mapping[str, Any]) -> str:
    return document_hash({"format": FORMAT, "document": document})[:8]


def _without(
    document: Mapping[str, Any], names: tuple[str, ...], *, section: str = ""
) -> dict[str, Any]:
    """Return a copy that lacks some keys, of the whole or of a section; an empty section goes."""
    if not section:
        return {key: value for key, value in document.items() if key not in names}
    inner = _without(document.get(section, {}), names)
    rest = {key: value for key, value in document.items() if key != section}
    return {**rest, section: inner} if inner else rest
