"""Settings of how a run, a search and an endpoint are carried out, and on which Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raypose.config.section import Count, Fraction, Positive, Section

__all__ = [
    "ClusterConfig",
    "Distribution",
    "SearchConfig",
    "ServeConfig",
    "TrackingConfig",
    "TrainConfig",
]


class TrainConfig(Section):
    """How a run is spread out and what it survives."""

    num_workers: Count = 1
    """Processes that train together: gloo between CPUs, nccl between GPUs."""
    cpus_per_worker: Positive = 1.0
    """Logical CPUs that each worker holds."""
    use_gpu: bool | None = None
    """One GPU a worker; by default where the cluster has as many."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Autocast over fp32 weights; auto is bf16 on a GPU, fp16 on one that has no bf16, and fp32
    elsewhere."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """How often a killed worker is replaced."""
    checkpoint_steps: Annotated[int, Field(ge=0)] = 0
    """Steps between checkpoints that a run can go on from; 0 for the end of each epoch. Where set,
    those at the ends of epochs hold the weights alone, a quarter as much."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = ()
    """Train once with each of these in place of `seed`, and give the mean of all with its
    interval."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Epochs without a better validation balanced accuracy after which a run ends; 0 never."""
    wise_alphas: tuple[Fraction, ...] = (0.25, 0.5, 0.75)
    """Shares of the trained weights, the rest being the weights a backbone came with, that are
    tried on the validation set after training, beside 1."""
    sharding: Literal["auto", "ddp", "fsdp"] = "auto"
    """ddp: a whole model on each worker; fsdp: a part on each; auto: fsdp where a model with its
    gradients and moments would take over 60 % of a GPU."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory."""
    compile: bool = False
    """Compile the towers with torch.compile: slower to start, then faster."""


class TrackingConfig(Section):
    """Where metrics go beside the run's own file."""

    sinks: tuple[Literal["tensorboard", "mlflow"], ...] = ()
    """tensorboard: event files in RUN/tensorboard; mlflow: the server that MLFLOW_TRACKING_URI
    names. Both come with the extra `track`."""


INSIDE = (5**0.5 - 1) / 2
"""Share of the way between two bounds at which a number is whole for no bounds that are."""


class Distribution(Section):
    """Values that a search may give to one key: exactly one of the forms."""

    choice: tuple[Any, ...] | None = None
    """Any of these."""
    uniform: tuple[float, float] | None = None
    """Between the two."""
    loguniform: tuple[float, float] | None = None
    """Between the two, evenly over magnitudes."""
    integers: tuple[int, int] | None = None
    """A whole number, both ends included."""

    @model_validator(mode="after")
    def _one_form(self) -> Distribution:
        forms = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(forms) != 1:
            raise ValueError("wants exactly one of choice, uniform, loguniform, integers")
        bounds = self.uniform or self.loguniform or self.integers
        if bounds and not bounds[0] < bounds[1]:
            raise ValueError(f"the lower bound {bounds[0]} is not below the upper {bounds[1]}")
        if self.loguniform and self.loguniform[0] <= 0:
            raise ValueError("loguniform wants bounds above 0")
        if self.choice is not None and not self.choice:
            raise ValueError("choice wants at least one value")
        return self

    def examples(self) -> Sequence[Any]:
        """Return values that stand for all: each choice, or both ends and what may lie between."""
        between = self.uniform or self.loguniform
        if between:
            low, high = between
            return low, high, low + (high - low) * INSIDE
        return self.choice or self.integers or ()


class SearchConfig(Section):
    """How many trials, over what."""

    space: dict[str, Distribution] = {}
    """Dotted key → distribution."""
    num_trials: Count = 12
    """Configurations to try."""
    max_concurrent: Count = 1
    """Trials at a time, one worker each."""
    grace_epochs: Count = 2
    """Epochs that ASHA gives every trial before it may stop one."""


class ServeConfig(Section):
    """The endpoint."""

    host: str = "127.0.0.1"
    """Address to bind to."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to bind to; 0 takes a free one."""
    min_replicas: Count = 1
    """Classifier replicas that always run."""
    max_replicas: Count = 2
    """Classifier replicas under load."""
    cpus_per_replica: Positive = 1.0
    """Logical CPUs of one classifier replica."""
    gpus_per_replica: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of one classifier replica, or the part of one."""
    max_batch_size: Count = 16
    """Pictures that one forward pass takes at most."""
    batch_wait_s: Annotated[float, Field(ge=0)] = 0.005
    """How long a request waits for others to share its pass."""
    max_queued_requests: Count = 256
    """Requests that may wait before new ones get 503."""
    request_timeout_s: Positive = 30.0
    """After this a request is given up."""
    max_body_bytes: Count = 16 << 20
    """Larger pictures get 413."""


class ClusterConfig(Section):
    """Which Ray."""

    address: str | None = None
    """Address of a running cluster; by default RAY_ADDRESS, else one is started here."""
    num_cpus: Annotated[int, Field(ge=2)] = 8
    """Logical CPUs of a cluster started here: slots for processes, not cores."""
