"""What Prometheus is told, by Ray's own exporter, of runs, searches and endpoints: all names.

Each node's agent is asked by Prometheus, and calls them ``ray_raypose_…``: what is counted ends in
``_total``, what is spread out in ``_bucket``, ``_sum`` and ``_count``. A series bears the id of a
run or a search, never of a trial: of those there may be ten thousand. Where no Ray is connected to,
nothing is told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import ray

__all__ = ["METERS", "Meter", "Meters", "exported"]

SECONDS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0),
    *(300.0, 900.0, 3600.0, 14400.0),
)
"""Bounds of what is spread out."""


class Meter(NamedTuple):
    """What is told: a value as it is, a count that rises, or seconds spread over `SECONDS`."""

    kind: Literal["gauge", "counter", "histogram"]
    help: str
    tags: tuple[str, ...]


RUN, SEARCH = ("run",), ("search",)
METERS: Mapping[str, Meter] = {
    "raypose_train_progress": Meter("gauge", "steps done of all, 0 to 1", RUN),
    "raypose_train_epoch": Meter("gauge", "epochs done", RUN),
    "raypose_train_images_per_s": Meter("gauge", "images a second, all workers together", RUN),
    "raypose_train_images": Meter("counter", "images of the epochs done", RUN),
    "raypose_train_data_wait": Meter("gauge", "share of an epoch that waited for pictures", RUN),
    "raypose_train_loss": Meter("gauge", "loss: of the last step told, of the last epoch", RUN),
    "raypose_train_learning_rate": Meter("gauge", "learning rate after the last epoch", RUN),
    "raypose_train_gradient_norm": Meter("gauge", "mean norm of the gradient in an epoch", RUN),
    "raypose_train_val_score": Meter("gauge", "validation balanced accuracy, 0 to 1", RUN),
    "raypose_train_bad_images": Meter("gauge", "pictures of an epoch that did not decode", RUN),
    "raypose_train_checkpoint_s": Meter("histogram", "waited for checkpoints in an epoch", RUN),
    "raypose_train_epoch_s": Meter("histogram", "of an epoch's training", RUN),
    "raypose_train_cpu_hours": Meter("counter", "hours of CPUs that workers held", RUN),
    "raypose_train_gpu_hours": Meter("counter", "hours of GPUs that workers held", RUN),
    "raypose_train_bytes_read": Meter("counter", "bytes of shards that were read", RUN),
    "raypose_search_trials": Meter("gauge", "trials by state", ("search", "state")),
    "raypose_search_asked": Meter("gauge", "trials asked for", SEARCH),
    "raypose_search_busy_workers": Meter("gauge", "processes that trials train in now", SEARCH),
    "raypose_search_best_score": Meter("gauge", "best validation balanced accuracy", SEARCH),
    "raypose_search_epochs": Meter("gauge", "epochs trained in all trials", SEARCH),
    "raypose_search_spent_s": Meter("gauge", "seconds of all trials, one after another", SEARCH),
    "raypose_search_cpu_hours": Meter("gauge", "hours of CPUs that trials held", SEARCH),
    "raypose_search_gpu_hours": Meter("gauge", "hours of GPUs that trials held", SEARCH),
    "raypose_search_bytes_read": Meter("gauge", "bytes of shards that trials read", SEARCH),
    "raypose_serve_requests": Meter("counter", "requests by status", ("release", "status")),
    "raypose_serve_s": Meter("histogram", "of a request, from its headers on", ("release",)),
}
"""Name → what it is."""
_EPOCH = {
    "epoch": "raypose_train_epoch",
    "images_per_s": "raypose_train_images_per_s",
    "data_wait": "raypose_train_data_wait",
    "train_loss": "raypose_train_loss",
    "learning_rate": "raypose_train_learning_rate",
    "gradient_norm": "raypose_train_gradient_norm",
    "val_balanced_accuracy": "raypose_train_val_score",
    "num_bad": "raypose_train_bad_images",
    "checkpoint_s": "raypose_train_checkpoint_s",
    "train_s": "raypose_train_epoch_s",
    "cpu_hours": "raypose_train_cpu_hours",
    "gpu_hours": "raypose_train_gpu_hours",
    "bytes_read": "raypose_train_bytes_read",
}
"""What an epoch reports → the meter that tells it."""


class Meters:
    """The meters of one run, one search or one replica.

    Args:
        tags: ``run`` or ``search`` → its id; of a replica none.
    """

    def __init__(self, **tags: str) -> None:
        self.tags = tags
        self._made: dict[str, Any] = {}

    def tell(self, name: str, value: float, **tags: str) -> None:
        """Tell a value; one that is not finite is passed over."""
        if not ray.is_initialized() or not math.isfinite(value):
            return
        meter = METERS[name]
        if name not in self._made:
            self._made[name] = _make(name, meter)
        how = {"gauge": "set", "counter": "inc", "histogram": "observe"}[meter.kind]
        if meter.kind != "counter" or value > 0:  # Ray refuses to count nothing
            getattr(self._made[name], how)(value, tags={**self.tags, **tags})

    def step(self, event: Mapping[str, Any]) -> None:
        """Tell what a step says of itself: ``step``, ``num_steps``, ``loss``, ``images_per_s``."""
        self.tell("raypose_train_progress", event["step"] / max(1, event["num_steps"]))
        self.tell("raypose_train_loss", event["loss"])
        self.tell("raypose_train_images_per_s", event["images_per_s"])

    def epoch(self, values: Mapping[str, Any], *, num_epochs: int) -> None:
        """Tell what an epoch reports."""
        self.tell("raypose_train_progress", values["epoch"] / num_epochs)
        for key, name in _EPOCH.items():
            if values.get(key) is not None:
                self.tell(name, float(values[key]))
        images = values.get("images_per_s", 0.0) * values.get("train_s", 0.0)
        self.tell("raypose_train_images", images)


def exported(name: str) -> tuple[str, ...]:
    """Return the names by which Prometheus knows a meter."""
    kind = METERS[name].kind
    if kind == "histogram":
        return tuple(f"ray_{name}_{part}" for part in ("bucket", "sum", "count"))
    return (f"ray_{name}_total",) if kind == "counter" else (f"ray_{name}",)


def _make(name: str, meter: Meter) -> Any:
    from ray.util import metrics

    if meter.kind == "histogram":
        return metrics.Histogram(name, meter.help, boundaries=list(SECONDS), tag_keys=meter.tags)
    made = metrics.Gauge if meter.kind == "gauge" else metrics.Counter
    return made(name, meter.help, tag_keys=meter.tags)
