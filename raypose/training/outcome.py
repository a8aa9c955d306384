"""What a step came to, which its device may still be computing when the next step begins."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from raypose.errors import TrainError

__all__ = ["Outcome"]


@dataclass
class Outcome:
    """Figures of a step, alike on all ranks.

    Nothing waits for them but `read`, and that for no later work: they are copied to the CPU as
    soon as they are there.

    Attributes:
        figures: float64 (2,), on the device: the mean loss over all good pictures, and the norm of
            the gradients before they were clipped; None where there was no picture.
        count: good pictures, over all ranks.
        step: counted from 0.
        epoch: counted from 0.
        ids: of this rank's pictures.
        factor: on the loss, where towers compute in fp16.
    """

    figures: torch.Tensor | None = None
    count: int = 0
    step: int = 0
    epoch: int = 0
    ids: list[str] = field(default_factory=list)
    factor: float = 1.0

    def __post_init__(self) -> None:
        self._copied, self._done = self.figures, None
        if self.figures is not None and self.figures.device.type == "cuda":
            self._copied = torch.empty_like(self.figures, device="cpu", pin_memory=True)
            self._copied.copy_(self.figures, non_blocking=True)
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()

    def finite(self) -> torch.Tensor:
        """Return whether the step is of use, as 1.0 or 0.0 on the device."""
        assert self.figures is not None
        return self.figures.isfinite().all().float()

    def read(self) -> tuple[float, float]:
        """Wait for the figures; return the loss and the norm."""
        assert self._copied is not None
        if self._done is not None:
            self._done.synchronize()
        mean, norm = self._copied.tolist()
        return mean, norm

    @property
    def is_finite(self) -> bool:
        """Whether the step was of use."""
        return all(map(math.isfinite, self.read()))

    def refused(self, *, low: bool) -> TrainError:
        """Return what to raise where a figure is not finite; low: towers compute in less."""
        mean, _ = self.read()
        what = "gradient" if math.isfinite(mean) else "loss"
        ids = ", ".join(self.ids[:4]) or "of another worker"
        mend = " or set train.precision=fp32" if low else ""
        return TrainError(
            f"{what} is not finite at step {self.step} of epoch {self.epoch + 1} (examples "
            f"{ids}); nothing was updated by it; lower optim.learning_rate{mend}"
        )
