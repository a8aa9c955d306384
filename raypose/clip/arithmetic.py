"""Whether a device computes in bfloat16 itself, and in how many threads a CPU does.

A CPU without instructions for it (AVX2 alone) does each operation in fp32 between conversions, ten
times as slowly as in fp32 from the start: what is asked of it in bf16 it does in fp32, and says so.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from raypose.console import status

__all__ = ["has_bf16", "low", "one_thread"]


def has_bf16(device: torch.device) -> bool:
    """Tell whether a device has instructions for bfloat16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return True


def low(device: torch.device) -> bool:
    """Tell whether what is asked for in bfloat16 is computed in it; where not, it is said once."""
    if has_bf16(device):
        return True
    _tell(device.type)
    return False


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch compute in one thread: the same to the last bit each time, and no other's time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def _tell(kind: str) -> None:
    status(f"this {kind.upper()} has no instructions for bf16: computing in fp32, which is faster")
