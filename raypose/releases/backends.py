"""How the image tower of a release is computed: by torch, or by what is faster on a CPU.

`torch` is what a release is scored by, in the precision that its config says, and the only one on a
GPU. The others are made of the same weights when a release is loaded; which of them a release may
be served by is found when it is published: see `gate`. Each name stands for one precision, so that
what was held against torch on one machine is what another computes.

Pixels go in as bytes: normalisation lies inside, and so do the mirror image and other sizes where
the config asks for them.
"""

from __future__ import annotations

import copy
import importlib.util
import threading
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from raypose.clip import arithmetic, model, zeroshot
from raypose.config import ModelConfig
from raypose.console import one_line
from raypose.errors import CheckpointError, UsageError, did_you_mean
from raypose.releases import graphs

__all__ = ["NAMES", "REFERENCE", "Backend", "Maker", "Precision", "Torch", "lacking"]

Precision = Literal["fp32", "tf32", "bf16"]
REFERENCE = "torch"
NAMES = (REFERENCE, "torch_bf16", "openvino", "openvino_bf16")
MAX_BATCH = 4096
"""Pictures at a time, at most, that a converted tower takes."""
INSTALL = "pip install 'raypose[cpu]'"


class Backend(Protocol):
    """A computed image tower."""

    @property
    def name(self) -> str:
        """One of `NAMES`."""

    @property
    def precision(self) -> Precision:
        """What it computes in, and so how near to the published logits it must come."""

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return features, float32 (B, D) of length 1, of uint8 (B, 3, S, S)."""


@dataclass(frozen=True)
class Torch:
    """The tower as it was trained, on the device where it lies."""

    clip: model.Clip
    config: ModelConfig
    name: str = REFERENCE

    @property
    def precision(self) -> Precision:
        """That of the config; on a GPU convolutions in fp32 are of TF32's ten bits."""
        if self.config.inference == "bf16":
            return "bf16"
        on_gpu = next(self.clip.model.parameters()).is_cuda
        return "tf32" if on_gpu and torch.backends.cudnn.allow_tf32 else "fp32"

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return features: see `Backend`."""
        return zeroshot.embed(self.clip, pixels, self.config)


@dataclass(frozen=True)
class TorchLow:
    """Weights in bf16: half the bytes to read, and whole tiles where the CPU has them."""

    clip: model.Clip
    config: ModelConfig
    name: str = "torch_bf16"
    precision: Precision = "bf16"

    @classmethod
    def of(cls, clip: model.Clip, config: ModelConfig) -> TorchLow:
        """Copy a tower; autocast over weights that are bf16 already would only cast again."""
        return cls(replace(clip, model=_Low(clip)), config.model_copy(update={"inference": "fp32"}))

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return features: see `Backend`."""
        return zeroshot.embed(self.clip, pixels, self.config)


class OpenVino:
    """A tower compiled by OpenVINO."""

    def __init__(self, compiled: Any, name: str, precision: Precision) -> None:
        self.name = name
        self.precision = precision
        self._compiled = compiled
        self._lock = threading.Lock()  # what it computes in is held by one call at a time

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return features: see `Backend`."""
        with self._lock:
            return torch.from_numpy(self._compiled(pixels.contiguous().numpy())[0])


class Maker:
    """Makes backends of one tower on a CPU; what several share is made once.

    Args:
        clip: the tower, as torch computes it.
        config: of the model.
        threads: that each computes with.
        kept: folder, this user's alone, where what takes long to make of the tower is kept.
    """

    def __init__(
        self,
        clip: model.Clip,
        config: ModelConfig,
        *,
        threads: int = 1,
        kept: Path | None = None,
    ) -> None:
        self.clip = clip
        self.config = config
        self.threads = threads
        self.kept = kept

    def make(self, name: str) -> Backend:
        """Return a backend.

        Raises:
            UsageError: where there is none of that name, or this machine has not what it needs.
            CheckpointError: where OpenVINO does not take the tower.
        """
        if name not in NAMES:
            known = ", ".join(("auto", *NAMES))
            raise UsageError(f'backend: no "{name}"{did_you_mean(name, NAMES)}; there are: {known}')
        if name == REFERENCE:
            return Torch(self.clip, self.config)
        if name == "torch_bf16":  # correct on any CPU, if slow on most
            return TorchLow.of(self.clip, self.config)
        if reason := lacking(name):
            raise UsageError(f"backend: {name} cannot be had: {reason}")
        return OpenVino(self._compiled(name), name, "bf16" if name.endswith("bf16") else "fp32")

    def _compiled(self, name: str) -> Any:
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if name.endswith("bf16") else "f32",
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # processes side by side would all take the first core
        }
        return _core().compile_model(self._graph, "CPU", options)

    @cached_property
    def _graph(self) -> Any:
        """The tower as OpenVINO's model, for any batch; converted once, where there is a folder."""
        import openvino

        if self.kept is None:
            return self._converted()
        versions = f"openvino-{openvino.__version__}-torch-{torch.__version__}"
        place = self.kept / versions.replace("/", "_")
        graph = graphs.read(place)
        if graph is None:
            graph = self._converted()
            graphs.keep(graph, place)
        return graph

    def _converted(self) -> Any:
        import openvino

        tower = _Whole(self.clip, self.config).eval()
        side = self.clip.image_size
        example = torch.zeros((2, 3, side, side), dtype=torch.uint8)  # of one, one would be fixed
        batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
        try:
            with torch.no_grad():
                graph = torch.export.export(tower, (example,), dynamic_shapes=({0: batch},))
            return openvino.convert_model(graph)
        except Exception as error:  # what the two raise for a layer they do not know is no family
            reason = one_line(str(error))[:160]
            raise CheckpointError(f"openvino: does not take this image tower ({reason})") from None


def lacking(name: str) -> str:
    """Return what this machine has not that a backend needs to be of use; empty where all is here.

    Raises:
        ValueError: where there is no backend of that name.
    """
    if name not in NAMES:
        raise ValueError(name)
    if name.startswith("openvino") and importlib.util.find_spec("openvino") is None:
        return f"openvino is not installed; {INSTALL}"
    if name == "openvino_bf16":
        has_bf16 = "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    elif name == "torch_bf16":
        has_bf16 = arithmetic.has_bf16(torch.device("cpu"))
    else:
        return ""
    return "" if has_bf16 else "this CPU does not compute in bf16"


def _core() -> Any:
    import openvino

    return openvino.Core()


class _Low(nn.Module):
    """An image tower in bf16 that takes pictures as the others do."""

    def __init__(self, clip: model.Clip) -> None:
        super().__init__()
        self.tower = copy.deepcopy(model.image_tower(clip).model).to(torch.bfloat16)

    def encode_image(self, image: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        made: torch.Tensor = self.tower.encode_image(image.bfloat16(), normalize=normalize)
        return made


class _Whole(nn.Module):
    """From bytes to features, to be exported: what `zeroshot.embed` does, in fp32.

    Mean and deviation are its own: those that `augment` keeps would be kept as the exporter's.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, clip: model.Clip, config: ModelConfig) -> None:
        super().__init__()
        self.tower = model.image_tower(clip).model
        self.config = config
        for name in ("mean", "std"):
            values = torch.tensor(clip.preprocess_cfg[name], dtype=torch.float32)
            self.register_buffer(name, values.view(1, -1, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        images = (pixels.float() / 255 - self.mean) / self.std
        return zeroshot.mean([self._encoded(view) for view in zeroshot.views(images, self.config)])

    def _encoded(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.tower.encode_image(images, normalize=False).float(), dim=-1)
