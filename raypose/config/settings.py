"""The whole document: every setting of raypose, with its default, range and meaning."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from raypose.config import identity
from raypose.config.learning import (
    AugmentConfig,
    CaptionConfig,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
)
from raypose.config.operation import (
    ClusterConfig,
    SearchConfig,
    TrackingConfig,
    TrainConfig,
)
from raypose.config.section import NAME_PATTERN, Section
from raypose.config.serving import ServeConfig

__all__ = ["Config"]


class Config(Section):
    """The whole document."""

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if self.optim.method == "lora" and self.train.sharding == "fsdp":
            raise ValueError(
                "train.sharding=fsdp: optim.method=lora merges a whole model; set "
                "train.sharding=ddp"
            )
        if self.optim.accumulate > 1 and self.loss.name != "class_ce":
            raise ValueError(
                f"optim.accumulate: loss.name={self.loss.name} compares all pictures of a step; "
                "it works with class_ce only"
            )
        if self.optim.batch_size < 2 and self.loss.name in ("multi_positive", "clip", "siglip"):
            raise ValueError(
                f"optim.batch_size=1: loss.name={self.loss.name} compares the pictures of a step "
                "with each other; set 2 or more"
            )
        return self

    name: Annotated[str, Field(pattern=NAME_PATTERN)] = "run"
    """Names the run and its releases: letters, digits, dot, dash, underscore."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Every draw follows from it."""
    storage: Annotated[str, Field(min_length=1)] = "raypose-data"
    """Where runs/ and releases/ lie: a folder or an s3:// URL."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    captions: CaptionConfig = CaptionConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    tracking: TrackingConfig = TrackingConfig()
    search: SearchConfig = SearchConfig()
    serve: ServeConfig = ServeConfig()
    cluster: ClusterConfig = ClusterConfig()

    @property
    def run_id(self) -> str:
        """Name and hash: the same document again is the same run, and resumes."""
        return f"{self.name}-{identity.run_hash(self._sparse())}"

    @property
    def search_id(self) -> str:
        """Name and hash of a search: more trials of it are the same search."""
        return f"{self.name}-{identity.search_hash(self._sparse())}"

    @property
    def base_id(self) -> str:
        """Hash of what a search starts from: equal where scores may be compared."""
        return identity.base_hash(self._sparse())

    def _sparse(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_defaults=True)
