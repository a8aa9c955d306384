"""The model card of a release: what it is, its figures, and what it was not made for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raypose.captions.taxonomy import Taxonomy
from raypose.config import Config

__all__ = ["text"]

TRIM = """
Its `preprocess` does not trim: raypose cuts a margin of one colour away before (`model.resize`).
"""


def text(
    config: Config, classes: Taxonomy, metrics: Mapping[str, Any], origin: Mapping[str, Any]
) -> str:
    """Return a model card."""
    end = origin["final"]
    figures = "\n".join(
        f"| {key} | {value:.4f} |" for key, value in metrics.items() if isinstance(value, float)
    )
    return f"""---
library_name: open_clip
pipeline_tag: zero-shot-image-classification
---

# {config.name}

A CLIP model fine-tuned to tell {len(classes)} postures of the taxonomy "{classes.name}" apart.
Backbone `{config.model.backbone}`; trained on `{config.data.train}`, loss `{config.loss.name}`,
method `{config.optim.method}`, {config.optim.epochs} epochs at most.

| figure | value |
|---|---|
{figures}

It names the posture of one person in a picture. It was not made to judge health, ability or
identity. `config.json` holds every setting, `captions.json` the sentences of each class.

## How it came about

Figures named `val_` are of `{config.data.val or "no validation set"}`, on which epoch
{end["epoch"]}, the mixing weight {end["alpha"]:g} of the trained weights with those it started
from, and the factor {end["logit_scale"]:.2f} on cosines were chosen: they lean to the high side.
`provenance.json` holds the hashes of recipe, captions, classes, data and code. To score it, with
intervals and baselines: `raypose evaluate {config.name} DATA`.

## In open_clip

    model, preprocess = open_clip.create_model_from_pretrained("local-dir:THIS_FOLDER")
{TRIM if config.model.resize == "trim" else ""}"""
