"""Both towers as one module, and how it is spread over workers: DDP, or `sharding` if too big.

What torch has for tensors in parts takes seconds to load: only runs that have such tensors do.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raypose.clip import text
from raypose.clip.augment import ramp
from raypose.config import TrainConfig

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

__all__ = [
    "Towers",
    "are_finite",
    "assign",
    "gradient_norm",
    "is_sharded",
    "load_optimizer",
    "optimizer_state",
    "share_buffers",
    "unused",
    "whole",
    "wrap",
]

BYTES_PER_PARAMETER = 16
"""Weight, gradient and AdamW's two moments in fp32."""
SHARE_OF_GPU = 0.6
Features = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor, torch.Tensor | None]


class Towers(nn.Module):
    """An open_clip model as it is called: either tower may be left out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor | None, tokens: torch.Tensor | None) -> Features:
        """Return image features (B, D), text features (N, D), the logit scale and bias.

        Args:
            images: float (B, 3, S, S), normalised.
            tokens: int64 (N, L) on the CPU.
        """
        image_features = None if images is None else self.model.encode_image(images, normalize=True)
        text_features = None if tokens is None else text.encode(self.model, tokens)
        return (
            image_features,
            text_features,
            self.model.logit_scale.exp(),
            getattr(self.model, "logit_bias", None),
        )


def wrap(
    towers: Towers,
    config: TrainConfig,
    *,
    device: torch.device,
    world_size: int,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Return the towers as they are called in training; their parameters may be replaced by parts.

    Args:
        towers: on the device.
        config: how to spread, to save memory, to compile.
        device: of this worker.
        world_size: number of workers.
        dtype: of autocast; None for none.
    """
    model = towers.model
    if config.activation_checkpointing:
        model.set_grad_checkpointing(True)
    if config.compile:
        model.visual.compile()
        getattr(model, "text", model).transformer.compile(dynamic=True)  # lengths vary
    if world_size == 1:
        return towers
    if _wants_parts(config, model, device):
        from raypose.clip import sharding

        return sharding.shard(towers, device, world_size, dtype)
    return DistributedDataParallel(
        towers,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
    )


def is_sharded(module: nn.Module) -> TypeGuard[FSDPModule]:
    """Tell whether a wrapped module lies in parts on several workers."""
    return _is(module, "torch.distributed.fsdp", "FSDPModule")


def _is_part(tensor: torch.Tensor) -> TypeGuard[DTensor]:
    return _is(tensor, "torch.distributed.tensor", "DTensor")


def _is(value: object, module: str, name: str) -> bool:
    """Tell whether a value is of a class, of which there is none before its module is loaded."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))


def gradient_norm(model: nn.Module, *, world_size: int) -> torch.Tensor:
    """Return the norm of all gradients together, a scalar; average what FSDP does not."""
    gradients = _gradients(model)
    parts = [gradient for gradient in gradients if _is_part(gradient)]
    if not parts:
        return nn.utils.get_total_norm(gradients)
    whole = [gradient for gradient in gradients if not _is_part(gradient)]
    for gradient in whole:
        dist.all_reduce(gradient)
        gradient /= world_size
    norms = [nn.utils.get_total_norm(parts).full_tensor()]  # type: ignore[attr-defined]
    if whole:
        norms.append(nn.utils.get_total_norm(whole))
    norm: torch.Tensor = torch.stack(norms).norm()
    return norm


def are_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Tell whether all values of tensors are, of their parts here where they lie in parts."""
    parts = [one.to_local() if _is_part(one) else one for one in tensors]
    sums = [part.detach().sum() for part in parts]  # finite only where all of them are
    if not sums or torch.stack(sums).isfinite().all():
        return True
    return all(bool(part.isfinite().all()) for part in parts)  # a sum may be too large


def _gradients(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@torch.no_grad()
def share_buffers(model: nn.Module, *, world_size: int) -> None:
    """Give all ranks the first one's buffers: statistics are of each rank's own pictures."""
    if world_size > 1:
        kept = model.state_dict().keys()
        for name, value in model.named_buffers():
            if name in kept:
                dist.broadcast(value, 0)


def unused(model: Any, tokens: torch.Tensor, *, size: int) -> set[str]:
    """Return the names of parameters that no encoder has a gradient for: decoders, poolers.

    Several workers would wait for them. Found by one backward pass of a picture and a caption.

    Args:
        model: of open_clip; left as it was.
        tokens: int64 (1, L) of any caption.
        size: pixels of a side of the picture.
    """
    device = model.logit_scale.device
    wanted = {name: value.requires_grad for name, value in model.named_parameters()}
    training = model.training
    model.eval()
    try:
        for value in model.parameters():
            value.requires_grad_(True)
        features = (model.encode_image(ramp(size, device)), model.encode_text(tokens.to(device)))
        torch.stack([part.float().sum() for part in features]).sum().backward()  # type: ignore[no-untyped-call]
        return {
            name
            for name, value in model.named_parameters()
            if value.grad is None and not name.startswith("logit_")
        }
    finally:
        model.train(training)
        for name, value in model.named_parameters():
            value.grad = None
            value.requires_grad_(wanted[name])


@torch.no_grad()
def assign(tensors: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    """Copy whole values into tensors by name, be they whole or parts."""
    for name, tensor in tensors.items():
        value = values[name].to(tensor.device)
        if _is_part(tensor):
            from torch.distributed.tensor import distribute_tensor

            value = distribute_tensor(value, tensor.device_mesh, tensor.placements)
        tensor.copy_(value)


def optimizer_state(forward: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the optimiser's state by parameter name, whole; called on every worker.

    What is in parts is put together on the CPU, on the first worker; what is whole is not copied.
    """
    in_parts = any(_is_part(parameter) for parameter in forward.parameters())
    if isinstance(forward, Towers) and not in_parts and optimizer.state:
        return _plain_state(forward, optimizer)
    from torch.distributed.checkpoint import state_dict as of_many

    options = of_many.StateDictOptions(full_state_dict=True, cpu_offload=in_parts)
    state: dict[str, Any] = of_many.get_optimizer_state_dict(forward, optimizer, options=options)
    return state


def _plain_state(towers: Towers, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return what `get_optimizer_state_dict` does, which loads torch's compiler, of one worker."""
    names: dict[Any, str] = {one: name for name, one in towers.named_parameters()}
    groups = [
        {**group, "params": [names[parameter] for parameter in group["params"]]}
        for group in optimizer.param_groups
    ]
    state = {names[parameter]: dict(held) for parameter, held in optimizer.state.items()}
    return {"state": state, "param_groups": groups}


@torch.no_grad()
def load_optimizer(
    forward: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Take up a state that `optimizer_state` returned, on any number of workers."""
    from torch.distributed.checkpoint import state_dict as of_many

    options = of_many.StateDictOptions(full_state_dict=True)
    of_many.set_optimizer_state_dict(forward, optimizer, state, options=options)
    for parameter, held in optimizer.state.items():
        for name, value in held.items():
            # the fused step goes by the parameter's layout alone, channels last or not
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                held[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor as it is, or put together of the workers' parts; called on every one."""
    return tensor.full_tensor() if _is_part(tensor) else tensor


def _wants_parts(config: TrainConfig, model: nn.Module, device: torch.device) -> bool:
    if config.sharding != "auto":
        return config.sharding == "fsdp"
    if any("lora_" in name for name, _ in model.named_parameters()):
        return False  # merging copies a whole model
    if device.type != "cuda":
        return False
    wanted = BYTES_PER_PARAMETER * sum(p.numel() for p in model.parameters())
    return wanted > SHARE_OF_GPU * torch.cuda.get_device_properties(device).total_memory
