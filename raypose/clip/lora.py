"""Low-rank changes beside frozen weights, by peft; merged into stock weights when saved."""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import nn

__all__ = ["adapt", "merged"]


def adapt(model: Any, *, rank: int, text: bool, seed: int) -> Any:
    """Put changes of zero beside every linear, attention and full convolution layer, in place.

    Args:
        model: of open_clip.
        rank: of the changes.
        text: change the text tower too.
        seed: of the first factors; alike on every worker.

    Returns:
        peft's handle, for `merged`.
    """
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    targets = "|".join(re.escape(name) for name in _targets(model, text=text))
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=targets)
    return LoraModel(model, config, "default")


def merged(handle: Any) -> nn.Module:
    """Return a copy of the model with the changes added to its weights, under their stock names."""
    model: nn.Module = copy.deepcopy(handle).merge_and_unload()
    return model


def _targets(model: nn.Module, *, text: bool) -> list[str]:
    names: list[str] = []
    for name, module in model.named_modules():
        if not (text or name.startswith("visual.")):
            continue
        inside = any(name.startswith(f"{other}.") for other in names)
        full = isinstance(module, nn.Conv2d) and module.groups == 1
        if not inside and (full or isinstance(module, (nn.Linear, nn.MultiheadAttention))):
            names.append(name)
    return names
