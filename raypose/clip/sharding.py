"""A model that is too big for one worker, in parts on several: FSDP2.

It takes no scalar parameters, so that the logit scale and bias stay whole on every worker, and
`towers` averages their gradients.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from raypose.clip import batch_norm

__all__ = ["shard"]

BLOCKS = ("resblocks", "blocks", "layers", "layer")


def shard(
    towers: nn.Module, device: torch.device, world_size: int, dtype: torch.dtype | None
) -> nn.Module:
    """Spread towers over workers; their parameters are replaced by parts.

    Args:
        towers: both in one module, on the device.
        device: of this worker.
        world_size: number of workers.
        dtype: of autocast; None for none.
    """
    # gradients computed in bf16 travel so, at half the bytes; a sum in fp16 would overflow
    low = dtype if dtype == torch.bfloat16 else None
    policy = MixedPrecisionPolicy(reduce_dtype=low)
    towers.to(memory_format=torch.contiguous_format)  # FSDP2 shards no other
    batch_norm.unfold(towers)  # a layer's parameters are whole while that layer is called
    mesh = init_device_mesh(device.type, (world_size,))
    scalars = {p for p in towers.parameters() if p.ndim == 0}
    blocks = [
        block
        for name, module in towers.named_modules()
        if name.rsplit(".", 1)[-1].rstrip("0123456789") in BLOCKS
        and isinstance(module, (nn.ModuleList, nn.Sequential))
        for block in module
        if any(True for _ in block.parameters())
    ]
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # the root too is parted again after a forward pass: validation ends without a backward one
    made: FSDPModule = fully_shard(
        towers, mesh=mesh, ignored_params=scalars, reshard_after_forward=True, mp_policy=policy
    )
    return made  # type: ignore[return-value]
