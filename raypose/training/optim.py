"""What learns and how fast: AdamW over parameter groups, the schedule, the mean of the weights."""

from __future__ import annotations

import hashlib
import inspect
import math
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from raypose.clip.libraries import group_parameters
from raypose.config import OptimConfig
from raypose.errors import ConfigError

__all__ = [
    "Ema",
    "build",
    "clamp_scale",
    "distances",
    "frozen",
    "guard",
    "learned",
    "schedule",
    "set_learning_rate",
    "step_seed",
]

NO_DECAY = ("embedding", "logit_scale", "logit_bias", "pos_embed", "cls_token")
FIRST = ("embed", "conv1", "patch", "cls_token", "cls_emb", "ln_pre", "visual.bn", "visual.conv")
LAST = ("attnpool.", "attn_pool.")
"""What pools a tower's output, whatever its parts are called."""
MAX_EMA_PERIOD = 8
_BLOCK = re.compile(r"(?:resblocks|blocks?|layers?|stages)\.?(\d+)\.")


class AdamW(torch.optim.AdamW):
    """torch's own, as it is below the decorators by which it loads torch's compiler.

    These keep what is compiled from entering an optimiser; no optimiser is compiled here, and the
    compiler takes longer to load than many a small run to train.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def build(
    model: nn.Module,
    config: OptimConfig,
    *,
    logit_bias: bool = False,
    unused: Collection[str] = (),
) -> AdamW:
    """Build the optimiser over what is to learn; everything else is frozen.

    Matrices decay; norms, biases, embeddings and the scale do not.

    Args:
        model: of open_clip, with its low-rank changes in place where the method is lora.
        config: the method, rates and decays.
        logit_bias: the bias learns too: it changes nothing where it is alike for all classes.
        unused: names of parameters that no encoder uses: see `towers.unused`.

    Raises:
        ConfigError: where the image tower has no block that is not frozen.
    """
    blocks, undecayed = distances(model), _undecayed(model)
    unused = {*unused, *frozen(model, config)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        scale = 0.0 if name in unused else _rate(name, config, logit_bias=logit_bias)
        parameter.requires_grad_(scale > 0)
        if scale == 0:
            continue
        scale *= config.layer_decay ** blocks[name]
        plain = parameter.ndim < 2 or name in undecayed or any(word in name for word in NO_DECAY)
        groups.setdefault((scale, 0.0 if plain else config.weight_decay), []).append(parameter)
    arguments: list[dict[str, Any]] = [
        {"params": parameters, "scale": scale, "weight_decay": decay}
        for (scale, decay), parameters in groups.items()
    ]
    return AdamW(arguments, lr=config.peak_rate, betas=config.betas, eps=config.eps, fused=True)


def frozen(model: nn.Module, config: OptimConfig) -> set[str]:
    """Return the parameters of the image tower's first blocks, and of what comes before them.

    Raises:
        ConfigError: where it has no more blocks than that.
    """
    count = config.frozen_blocks
    if not count:
        return set()
    image = {name: far for name, far in distances(model).items() if name.startswith("visual.")}
    furthest = max(image.values(), default=0)
    if count >= furthest - 1:
        raise ConfigError(
            f"optim.frozen_blocks={count}: the image tower has {furthest - 1} blocks, what ends it "
            "included, of which the last is to learn"
        )
    return {name for name, far in image.items() if far >= furthest - count}


def _undecayed(model: nn.Module) -> set[str]:
    """Return what timm says of its trunk that is not to decay."""
    trunk: Any = getattr(model.get_submodule("visual"), "trunk", None)
    said = trunk.no_weight_decay() if hasattr(trunk, "no_weight_decay") else ()
    return {f"visual.trunk.{name}" for name in said}


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return what a rank's draws of a step follow from: 63 bits of a hash of the three."""
    digest = hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def distances(model: nn.Module) -> dict[str, int]:
    """Return for each parameter how many blocks lie between it and its tower's output."""
    layers: dict[str, dict[str, int]] = {"image": {}, "text": {}}
    trunk: Any = getattr(model.get_submodule("visual"), "trunk", None)
    numbered = {}
    if hasattr(trunk, "group_matcher"):
        names = group_parameters(trunk, trunk.group_matcher(coarse=False), reverse=True)
        numbered = {f"visual.trunk.{name}": int(number) for name, number in names.items()}
    for name, _ in model.named_parameters():
        tower = layers["image" if name.startswith("visual.") else "text"]
        block = _BLOCK.search(name)
        if name in numbered:
            tower[name] = numbered[name]
        elif block:
            tower[name] = int(block[1]) + 1
        elif any(word in name for word in FIRST) and not any(word in name for word in LAST):
            tower[name] = 0
        else:
            tower[name] = -1  # after the last block
    found: dict[str, int] = {}
    for tower in layers.values():
        last = max(tower.values(), default=-1) + 1
        found |= {name: 0 if number < 0 else last - number for name, number in tower.items()}
    return found


def _rate(name: str, config: OptimConfig, *, logit_bias: bool) -> float:
    """Return the factor on the rate of a parameter, less its depth; 0 where it stays as it is."""
    if name == "logit_bias":
        return float(logit_bias)
    if name == "logit_scale":
        return 1.0
    if config.method == "lora" and "lora_" not in name:
        return 0.0
    if name.startswith("visual."):
        return 1.0
    return 0.0 if config.text_locked else config.text_scale


def schedule(step: int, *, num_steps: int, warmup_fraction: float) -> float:
    """Return the factor on the learning rate, in (0, 1]: a linear rise, then half a cosine.

    Args:
        step: counted from 0.
        num_steps: of the whole run.
        warmup_fraction: share of them in which the rate rises.
    """
    warmup = round(warmup_fraction * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of a rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def guard(optimizer: torch.optim.Optimizer, *, divisor: torch.Tensor, finite: torch.Tensor) -> None:
    """Have the next step divide gradients, and leave everything as it is where they are of no use.

    Args:
        optimizer: a fused one.
        divisor: a scalar on the device, as is the next.
        finite: 1.0 where the step is to be taken, else 0.0.

    Source: torch.amp.GradScaler speaks to fused optimisers in this way.
    """
    for name, value in (("grad_scale", divisor), ("found_inf", 1 - finite)):
        setattr(optimizer, name, value)


def clamp_scale(model: nn.Module, *, initial: float) -> None:
    """Keep the logarithm of the logit scale at or below max(ln 100, where it started)."""
    scale = model.get_parameter("logit_scale")
    with torch.no_grad():
        scale.clamp_(max=max(math.log(100.0), initial))


def learned(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return what training changes: parameters that learn, and running statistics, by name."""
    tensors: dict[str, torch.Tensor] = {
        name: value for name, value in model.named_parameters() if value.requires_grad
    }
    kept = model.state_dict().keys()
    for name, value in model.named_buffers():
        if name in kept and value.is_floating_point():
            tensors[name] = value
    return tensors


class Ema:
    """The running mean of a model's weights, its first steps weighing less.

    Every step would cost another pass over the weights, so that in long runs every eighth is taken,
    with the weight of the past raised to the eighth power.

    Attributes:
        mean: by name, of what `learned` names.
    """

    def __init__(self, model: nn.Module, *, decay: float, num_steps: int) -> None:
        self.model = model
        self.decay = decay
        self.period = min(MAX_EMA_PERIOD, max(1, num_steps // 256))
        self.mean = {name: value.detach().clone() for name, value in learned(model).items()}

    @torch.no_grad()
    def update(self, step: int, *, finite: torch.Tensor | None = None) -> None:
        """Take in the weights after a step, counted from 1; nothing, where `finite` is 0.

        Source: the warm-up (1 + t) / (10 + t) is TensorFlow's ExponentialMovingAverage.
        """
        if step % self.period:
            return
        past = min(self.decay, (1 + step) / (10 + step)) ** self.period
        weights, means = learned(self.model), list(self.mean.values())
        share = (1 - past) * (torch.ones(()) if finite is None else finite)
        shares = [share] * len(means)
        torch._foreach_lerp_(means, [weights[name].detach() for name in self.mean], shares)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Have the model carry the mean while the block runs."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchange values, not storage: FSDP holds on to that, and a graph may."""
        for name, value in learned(self.model).items():
            kept = self.mean[name].clone()
            self.mean[name].copy_(value)
            value.copy_(kept)
