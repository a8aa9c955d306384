"""Settings of how a run and a search are carried out, and on which Ray."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, create_model, field_validator

from raypose.config.complaints import explain
from raypose.config.section import Count, Fraction, Positive, Section
from raypose.config.space import Distribution, Space

__all__ = [
    "ClusterConfig",
    "SearchConfig",
    "TrackingConfig",
    "TrainConfig",
]


KIND = 0.001
"""Of a node's resource that says what accelerators it has: it holds 1, for all who ask."""


class TrainConfig(Section):
    """How a run is spread out and what it survives."""

    num_workers: Count | tuple[Count, Count] = 1
    """Processes that train together: gloo between CPUs, nccl between GPUs. Two numbers, such as
    [2, 8], are the least and the most: the group grows when nodes join, and shrinks when they
    leave."""
    cpus_per_worker: Positive = 1.0
    """Logical CPUs that each worker holds."""
    resources: Mapping[str, Positive] = Field(default_factory=dict)
    """Custom resources that each worker holds, which keep it on the nodes that have them, such as
    {trainer: 1}."""
    accelerator_type: Annotated[str, Field(pattern=r"^[\w.-]*$")] = ""
    """Kind of accelerator that the nodes of workers have, as Ray names it, such as A100 or T4; by
    default any."""
    use_gpu: bool | None = None
    """One GPU a worker; by default where the cluster has as many."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Autocast over fp32 weights; auto is bf16 on a GPU, fp16 on one that has no bf16, and fp32
    elsewhere."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """How often a killed worker is replaced."""
    max_preemption_failures: Annotated[int, Field(ge=-1)] = -1
    """How often nodes that are taken back may interrupt a run beside that; -1 is without end."""
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

    @field_validator("num_workers")
    @classmethod
    def _least_first(cls, given: int | tuple[int, int]) -> int | tuple[int, int]:
        if isinstance(given, tuple) and given[0] > given[1]:
            raise ValueError(f"the least comes first: [{given[1]}, {given[0]}]")
        return given

    @field_validator("seeds")
    @classmethod
    def _different(cls, given: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(given)) < len(given):
            raise ValueError("a seed is given twice, and would be the same run")
        return given

    @field_validator("resources")
    @classmethod
    def _custom(cls, given: Mapping[str, float]) -> Mapping[str, float]:
        keys = {"cpu": "train.cpus_per_worker", "gpu": "train.use_gpu"}
        for name in given:
            if name.lower() in keys:
                raise ValueError(f"{name}: is said by {keys[name.lower()]}")
        return given

    @property
    def least_workers(self) -> int:
        """Without which a run does not go on."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    def needs(self, gpus: float) -> dict[str, float]:
        """Return what each worker holds with so many GPUs: Ray resource → amount."""
        kind = {f"accelerator_type:{self.accelerator_type}": KIND} if self.accelerator_type else {}
        held = {"CPU": self.cpus_per_worker, "GPU": gpus, **kind, **self.resources}
        return {name: amount for name, amount in held.items() if amount}

    @property
    def is_elastic(self) -> bool:
        """Whether workers may come and go."""
        return not isinstance(self.num_workers, int)


class TrackingConfig(Section):
    """Where metrics go beside the run's own file."""

    sinks: tuple[Literal["tensorboard", "mlflow"], ...] = ()
    """tensorboard: event files in RUN/tensorboard; mlflow: the server that MLFLOW_TRACKING_URI
    names. Both come with the extra `track`."""


FROM = """Ids or names of other searches, from whose trials this one learns where they share keys;
those of the same recipe over another space are found by themselves."""
_Sources: type[Section] = create_model(  # from: a word of Python, which no attribute can be named
    "_Sources",
    __base__=Section,
    **{"from": (tuple[str, ...], Field((), description=FROM))},
)  # type: ignore[call-overload]


class SearchConfig(_Sources):
    """How many trials, over what."""

    space: Space = {}
    """Dotted key → distribution; or several, each with a `when`, of which the first that holds
    counts."""
    include: tuple[str, ...] = ()
    """Named sub-spaces, shipped or YAML files, whose keys join `space`; its own keys come first."""
    num_trials: Count = 12
    """Configurations to try."""
    max_concurrent: Count | None = None
    """Trials at a time; by default as many as the cluster has room for, more as nodes join, and on
    one machine no more than it has cores."""
    gpus_per_trial: Annotated[float, Field(gt=0)] = 1.0
    """GPUs of a trial of one worker, or the part of one, where there are GPUs; of several workers
    each has a whole one."""
    sampler: Literal["tpe", "random", "gp"] = "tpe"
    """Who draws points: Optuna's TPE, chance by seed and number, or Optuna's Gaussian process."""
    grace_epochs: Count = 2
    """Epochs that ASHA gives every trial before it may stop one: its first rung."""
    reduction_factor: Annotated[int, Field(ge=0)] = 4
    """ASHA lets one in so many go on from a rung to the next, which is as many times as far; 0
    stops none."""
    max_failures: Annotated[int, Field(ge=0)] = 2
    """How often a trial whose process died, or that ran out of memory, is gone on with."""
    max_hours: Positive | None = None
    """After this no trial begins, and those that run are stopped; more hours go on."""
    stop_at: Fraction | None = None
    """Score at which the search has found what was wanted."""
    grammars: Annotated[int, Field(ge=0)] = 1000
    """Caption grammars to score before any training, where captions are searched and the backbone
    has a trained text tower; 0 for none."""
    finalists: Annotated[int, Field(ge=0)] = 3
    """Best trials that are trained anew with `final_seeds` seeds each, beside the recipe as it was
    and plain captions; 0 for none."""
    final_seeds: Annotated[int, Field(ge=2)] = 3
    """Seeds of each finalist."""

    @field_validator("space", mode="before")
    @classmethod
    def _plain_space(cls, given: Any) -> Any:
        """Read each distribution by itself, so that what is wrong is told of its key alone."""
        if not isinstance(given, Mapping):
            return given
        return {key: _distributions(str(key), each) for key, each in given.items()}

    @property
    def sources(self) -> tuple[str, ...]:
        """`search.from`."""
        found: tuple[str, ...] = getattr(self, "from")
        return found


def _distributions(key: str, given: Any) -> Any:
    if isinstance(given, list | tuple) and given and all(_is_one(each) for each in given):
        return tuple(_distribution(key, each) for each in given)
    if _is_one(given):
        return _distribution(key, given)
    raise ValueError(f"{key}: wants a distribution, such as {{choice: [16, 32]}}")


def _is_one(given: Any) -> bool:
    return isinstance(given, Mapping | Distribution)


def _distribution(key: str, given: Any) -> Distribution:
    if isinstance(given, Distribution):
        return given
    try:
        return Distribution.model_validate(dict(given))
    except ValidationError as error:
        raise ValueError(f"{key}: {explain(error, Distribution)}") from None


class ClusterConfig(Section):
    """Which Ray, and how a command comes to it. Within a job only `max_wait_s` counts."""

    address: str | None = None
    """Address of a running cluster; by default RAY_ADDRESS, else one is started here."""
    jobs: str | None = None
    """Job server of a cluster, such as http://head:8265, that carries the command out; by default
    RAYPOSE_JOBS."""
    env: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], ...] = ()
    """Names of environment variables that go along with a job, with their values here."""
    shared: tuple[str, ...] = ()
    """Folders that all nodes of a cluster have under the same path, which a job may name."""
    driver_labels: Mapping[str, str] = Field(default_factory=dict)
    """Labels of nodes that may hold a job's driver; by default it runs on the head."""
    max_wait_s: Positive = 1800.0
    """How long training and search wait for resources that are not free, or nodes that have yet to
    come."""
    num_cpus: Annotated[int, Field(ge=2)] = 8
    """Logical CPUs of a cluster started here: slots for processes, not cores."""

    @property
    def named(self) -> str:
        """Address of the cluster that is named, here or by RAY_ADDRESS; empty where none is."""
        return self.address or os.environ.get("RAY_ADDRESS", "")
