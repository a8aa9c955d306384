"""The text tower with less work and the same features: captions cut where they all have ended.

In a causal tower nothing after the end-of-text token reaches the feature that is read there, so the
padding, most of 77 tokens, is never computed; on a CPU the shorter captions are cut further. Towers
that look both ways are left alone: there padding is part of what they were trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.func import functional_call

__all__ = ["TextCache", "digest", "encode"]

MIN_SAVING = 0.9
"""Captions are parted where at most this share of the tokens is left."""
MAX_CACHED = 1 << 17
"""Captions that a cache holds at most."""


def encode(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return text features (N, D) of length 1: those of ``model.encode_text(tokens)``.

    Args:
        model: of open_clip.
        tokens: int64 (N, L), padded; on the CPU, where their ends are seen without waiting.
    """
    lengths = _lengths(model, tokens)
    device = model.logit_scale.device
    if lengths is None:
        features: torch.Tensor = model.encode_text(tokens.to(device), normalize=True)
        return features
    # arithmetic is what a CPU waits for; elsewhere it is the calls
    groups = _groups(lengths) if device.type == "cpu" else [torch.arange(len(tokens))]
    parts = [_cut(model, tokens[rows, : int(lengths[rows].max())], device) for rows in groups]
    return torch.cat(parts)[torch.cat(groups).argsort()] if parts[1:] else parts[0]


def digest(model: Any, *, image: bool = False) -> str:
    """Return a hash of the text tower's weights, or of both towers'."""
    summed = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if image or not name.startswith(("visual.", "logit_")):
            summed.update(name.encode())
            summed.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return summed.hexdigest()


class TextCache:
    """Features of captions by (weights of the tower, tokens), while the tower is locked.

    Attributes:
        digest: of the tower; features are of these weights alone.
    """

    def __init__(
        self, model: Any, tower: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> None:
        self.digest = digest(model)
        self._device = model.logit_scale.device.type
        self._tower = tower or partial(encode, model)
        self._features: dict[tuple[str, bytes], torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self._features)

    @torch.no_grad()
    def encode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return features (N, D) of tokens (N, L), computing only those that are new."""
        keys = [(self.digest, row.numpy().tobytes()) for row in tokens]
        new = [k for k, key in enumerate(keys) if key not in self._features]
        if len(self._features) + len(new) > MAX_CACHED:
            self._features.clear()
            new = list(range(len(keys)))
        if new:
            with torch.autocast(self._device, enabled=False):
                made = self._tower(tokens[new]).float()
            self._features |= {keys[k]: row for k, row in zip(new, made, strict=True)}
        return torch.stack([self._features[key] for key in keys])


def _tower(model: Any) -> tuple[str, Any]:
    """Return the module that holds the text tower, and its prefix within the model."""
    return ("text.", model.text) if hasattr(model, "text") else ("", model)


def _cut(model: Any, tokens: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the features (N, D) of captions that end within their tokens (N, L)."""
    prefix, tower = _tower(model)
    length = tokens.shape[1]
    shorter = {
        f"{prefix}positional_embedding": tower.positional_embedding[:length],
        f"{prefix}attn_mask": tower.attn_mask[:length, :length],
    }
    sent = tokens.to(device, non_blocking=True)  # while the image tower computes
    made = functional_call(model, shorter, (None, sent))
    return made["text_features"] if isinstance(made, dict) else made[1]  # type: ignore[no-any-return]


def _groups(lengths: torch.Tensor) -> list[torch.Tensor]:
    """Part rows into the shorter and the longer, each to be cut to its longest, where it pays."""
    order = lengths.argsort(stable=True)
    ends, size = lengths[order], len(lengths)
    first = torch.arange(1, size + 1)
    tokens = first * ends + (size - first) * ends[-1]
    best = int(tokens.argmin())
    if tokens[best] > MIN_SAVING * tokens[-1]:
        return [torch.arange(size)]
    return [order[: best + 1], order[best + 1 :]]


def _lengths(model: Any, tokens: torch.Tensor) -> torch.Tensor | None:
    """Return how many tokens of each caption matter (N,); None where all do or it is not known."""
    _, tower = _tower(model)
    if getattr(tower, "attn_mask", None) is None or getattr(tower, "cls_emb", None) is not None:
        return None
    kind = getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", None)
    if kind == "argmax":
        ends = tokens.argmax(dim=-1)
    elif kind == "eos":
        name = "text_eos_id" if hasattr(tower, "text_eos_id") else "eos_id"
        ends = (tokens == getattr(tower, name)).int().argmax(dim=-1)
    else:
        return None
    return ends + 1
