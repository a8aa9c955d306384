"""Releases made in a second, without a run: random weights, a random classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from raypose import config
from raypose.clip import model
from raypose.releases.predictor import CLASSIFIER, write_release
from support.models import TINY

END = {"epoch": 1, "alpha": 1.0, "logit_scale": 20.0}


def make(
    folder: Path,
    *,
    seed: int = 0,
    architecture: dict[str, Any] = TINY,
    classifier: torch.Tensor | None = None,
    **changes: Any,
) -> Path:
    """Fill a folder with the files of a release of 12 classes, all but what proves it."""
    recipe = config.parse_config(
        {
            "name": "made",
            "storage": str(folder),
            "data": {"train": "nowhere", "taxonomy": "synthetic12"},
            "model": {"backbone": "made", "architectures": {"made": architecture}, **changes},
        }
    )
    model.save(model.build(recipe.model, seed=seed), folder / "final")
    rows = torch.randn(12, 16, generator=torch.Generator().manual_seed(seed))
    rows = F.normalize(rows, dim=-1) if classifier is None else classifier
    tensors = {"text_features": rows, "logit_scale": torch.tensor(20.0)}
    save_file(tensors, folder / "final" / CLASSIFIER)
    write_release(folder / "final", folder / "release", recipe, {"val_top1": 0.5}, {"final": END})
    return folder / "release"
