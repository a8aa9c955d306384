"""Decoded pictures that the trials of a search share: one copy of each set, however many trials.

An actor decodes what a trial asks for first and owns it, so that it stays when trials end. What
would not fit into its part of the object store is decoded by each trial, epoch by epoch.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray
import ray.util

from raypose import data, runtime
from raypose.config import DataConfig

__all__ = ["Decoded"]

PREFIX = "raypose-search-"


class Decoded:
    """Hands out readers; it travels to trials, and its actor ends with the last copy of it."""

    def __init__(self) -> None:
        how: dict[str, Any] = {"name": f"{PREFIX}{uuid.uuid4().hex}", "namespace": "raypose"}
        how |= runtime.beside_driver()
        self.actor = ray.remote(num_cpus=0)(_Sets).options(**how).remote()

    def close(self) -> None:
        """End the actor, whoever still has a copy of this."""
        ray.kill(self.actor)

    @staticmethod
    def count() -> int:
        """Return how many searches there are on the cluster: each has one of these."""
        actors = ray.util.list_named_actors(all_namespaces=True)
        return sum(str(actor["name"]).startswith(PREFIX) for actor in actors)

    def load(
        self, url: str, index: Mapping[str, int], config: DataConfig, **asked: Any
    ) -> data.Reader:
        """Return what `data.load` returns, decoded once for all who ask."""
        with runtime.unwrapped():
            found: data.Reader = ray.get(self.actor.load.remote(url, dict(index), config, **asked))
        return found


class _Sets:
    def __init__(self) -> None:
        self.readers: dict[Any, data.Reader] = {}
        self.taken = 0

    def load(
        self, url: str, index: dict[str, int], config: DataConfig, **asked: Any
    ) -> data.Reader:
        settings = (config.max_pixels, config.dct_scaled, config.cache_bytes)
        share = config.synthetic_share if asked.get("synthetic") else 0.0
        key = (url, *index.items(), *settings, share, *sorted(asked.items()))
        if key in self.readers:
            return self.readers[key]
        room = max(0, data.cache_room(config) - self.taken)
        made = data.load(url, index, config, room=room, **asked)
        self.taken += made.num_kept_bytes
        self.readers[key] = replace(made, num_read_bytes=0)  # it was read for the first alone
        return made
