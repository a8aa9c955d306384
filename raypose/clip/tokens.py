"""Captions to token ids, uncut, for what has to be proved of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from raypose.clip.libraries import HFTokenizer, open_clip
from raypose.clip.model import Clip, quiet, refuse_name
from raypose.config import ModelConfig
from raypose.errors import ConfigError

__all__ = ["build_tokenizer", "token_lists"]


def token_lists(clip: Clip, captions: Sequence[str]) -> list[list[int]]:
    """Return each caption's token ids uncut and without padding, for checks."""
    return _uncut(clip.tokenizer, captions, length=4 * clip.context_length)


def build_tokenizer(name: str) -> tuple[Callable[[Sequence[str]], list[list[int]]], int]:
    """Return what gives captions' token ids uncut, and how many the text tower takes.

    Args:
        name: of an open_clip model, or its local-dir: or hf-hub: location.

    Raises:
        ConfigError: where there is no such model, or its tokenizer does not load.
    """
    document = open_clip.get_model_config(name)
    if document is None:
        refuse_name(ModelConfig(backbone=name), key="tokenizer")
    try:
        with quiet():
            tokenizer = open_clip.get_tokenizer(name)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"tokenizer: that of {name} cannot be loaded ({reason})") from None
    length = int(document["text_cfg"].get("context_length", 77))
    return partial(_uncut, tokenizer, length=4 * length), length


def _uncut(tokenizer: Any, captions: Sequence[str], *, length: int) -> list[list[int]]:
    rows = tokenizer(list(captions), context_length=length).tolist()
    hub = isinstance(tokenizer, HFTokenizer)
    pad = (tokenizer.tokenizer.pad_token_id or 0) if hub else 0
    return [row[: max(k + 1 for k, token in enumerate(row) if token != pad)] for row in rows]
