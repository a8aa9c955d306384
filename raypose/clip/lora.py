"""Low-rank changes beside frozen weights, by peft; merged into stock weights when saved."""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import nn

from raypose.config import OptimConfig
from raypose.errors import ConfigError

__all__ = ["adapt", "merged"]


def adapt(model: Any, settings: OptimConfig, *, text: bool, seed: int) -> Any:
    """Put changes of zero beside layers, in place.

    Args:
        model: of open_clip.
        settings: rank, alpha, dropout and targets.
        text: change the text tower too.
        seed: of the first factors; alike on every worker.

    Returns:
        peft's handle, for `merged`.

    Raises:
        ConfigError: where the targets are no pattern, or no layer is of that name.
    """
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    names = _targets(model, text=text)
    try:
        wanted = re.compile(settings.lora_targets)
    except re.error as error:
        raise ConfigError(f"optim.lora_targets: no pattern ({error})") from None
    chosen = [name for name in names if wanted.search(name)]
    if not chosen:
        raise ConfigError(
            f"optim.lora_targets={settings.lora_targets}: no layer is of that name; there are "
            f"{names[0]}, {names[-1]} and {len(names) - 2} more"
        )
    torch.manual_seed(seed)
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha or 2 * settings.lora_rank,
        lora_dropout=settings.lora_dropout,
        target_modules="|".join(map(re.escape, chosen)),
    )
    try:
        return LoraModel(model, config, "default")
    except ValueError as error:  # attention of torch's own takes no dropout
        raise ConfigError(f"optim.method=lora: {' '.join(str(error).split())[:160]}") from None


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
