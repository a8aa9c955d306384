"""Every setting of raypose, as frozen models: load a recipe, override dotted keys, dump the result.

One document travels: the recipe that a person writes is resolved here, rides into the job, and is
stored in checkpoint and release. One override serves the command line, search and tests.
This module reads no data and imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from raypose import storage
from raypose.errors import ConfigError, DataError, UsageError, did_you_mean

__all__ = [
    "AugmentConfig",
    "CaptionConfig",
    "ClusterConfig",
    "Config",
    "DataConfig",
    "Distribution",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "SearchConfig",
    "ServeConfig",
    "TrainConfig",
    "absolute",
    "canonical_json",
    "config_hash",
    "document_hash",
    "dump",
    "load",
    "override",
    "parse_assignments",
    "parse_config",
    "read_yaml",
    "search_hash",
    "sparse",
]

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
SPREAD = (
    "num_workers", "cpus_per_worker", "use_gpu", "max_failures", "checkpoint_steps", "sharding",
    "activation_checkpointing", "compile",
)  # fmt: skip
"""Keys of `train` that say how a run is spread out: they may change between its parts."""
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


class Section(BaseModel):
    """Base of all settings: frozen, strict about unknown keys, documented per attribute."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class DataConfig(Section):
    """Which shards are read, and how."""

    train: str = ""
    """URL or path of the training shards, a folder with MANIFEST.json."""
    val: str = ""
    """URL or path of the validation shards: they rank epochs and trials."""
    taxonomy: str = "yoga82"
    """Name of a shipped taxonomy or path of a YAML file: the classes and their order."""
    max_bad_fraction: Fraction = 0.0
    """Share of undecodable pictures above which a run stops; below it they are quarantined."""
    max_pixels: Count = 50_000_000
    """Pictures whose header claims more pixels are refused undecoded."""
    dct_scaled: bool = False
    """Decode large JPEGs at a fraction of their size: faster, at some 42 dB instead of exact."""
    synthetic: str = ""
    """URL or path of shards of synthetic pictures to mix in with the training pictures."""
    synthetic_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of an epoch's pictures that are synthetic; every real one still comes once."""
    preserve_order: bool = False
    """Give each step the same pictures on any number of workers; each then reads every shard."""
    cache_bytes: Annotated[int, Field(ge=0)] = 2 << 30
    """Decoded sets up to this size stay in Ray's object store; larger ones decode each epoch."""
    shuffle_rows: Annotated[int, Field(ge=0)] = 2048
    """Rows of the window that is shuffled, after the order of shards; 0 leaves it at that."""


class ModelConfig(Section):
    """The pair of towers."""

    backbone: Annotated[str, Field(min_length=1)] = "ViT-B-32-256/datacomp_s34b_b86k"
    """An open_clip NAME/TAG or NAME, hf-hub:ORG/REPO, local-dir:PATH, s3://…, or an architecture
    named under `architectures`."""
    architectures: dict[str, dict[str, Any]] = {}
    """Models described here, in the form of open_clip's model_cfg: name → embed_dim, vision_cfg,
    text_cfg."""
    image_weights: str | None = None
    """Safetensors file for the image tower alone, for example a timm trunk."""
    image_mean: tuple[float, float, float] | None = None
    """Channel means in 0..1; by default those the weights came with."""
    image_std: tuple[float, float, float] | None = None
    """Channel deviations in 0..1; by default those the weights came with."""
    freeze_batch_norm: bool = False
    """Keep the running statistics of BatchNorm as loaded."""
    channels_last: bool = True
    """Lay pictures out as NHWC in memory, which convolutions prefer."""
    resize: Literal["shortest", "longest", "squash"] = "squash"
    """The one way to a square, in training, evaluation and serving: crop, pad or stretch."""


class AugmentConfig(Section):
    """Changes to training pictures. No vertical flip: orientation is signal."""

    enabled: bool = True
    """Switches all of them."""
    min_area: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Smallest share of the picture that a random crop keeps."""
    max_stretch: Annotated[float, Field(ge=1, le=2)] = 1.2
    """Largest factor between the sides of a crop."""
    max_rotation: Annotated[float, Field(ge=0, le=10)] = 8.0
    """Degrees to either side."""
    flip: bool = True
    """Mirror half of the pictures; off where left and right are classes."""
    brightness: Fraction = 0.2
    """Largest relative change."""
    contrast: Fraction = 0.2
    """Largest relative change."""
    erase: Fraction = 0.1
    """Share of pictures in which one rectangle is blanked."""


class CaptionConfig(Section):
    """The sentences that name the classes."""

    preset: str = "photo"
    """Name of a shipped grammar; see raypose/captions.py."""
    grammar: str | None = None
    """A grammar of one's own in the text form; takes the place of the preset."""


class LossConfig(Section):
    """What is minimised."""

    name: Literal["class_ce", "multi_positive", "clip", "siglip"] = "class_ce"
    """class_ce: cross-entropy over one caption a class. The others compare pictures with each
    other's captions: multi_positive and siglip count every caption of a picture's class as right,
    clip only its own."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target spread over all classes, or over the batch (multi_positive)."""
    logit_adjustment: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Factor on the logarithm of each class's share of the training set, added to its logit in
    training only: evens out classes of unequal size (class_ce only)."""
    parents_weight: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the loss that scores parents in the tree by their classes' summed probabilities
    (class_ce only)."""

    @model_validator(mode="after")
    def _fits_the_objective(self) -> LossConfig:
        if self.name != "class_ce":
            for key in ("logit_adjustment", "parents_weight"):
                if getattr(self, key):
                    raise ValueError(f"{key} is for name=class_ce only")
        if self.label_smoothing and self.name in ("clip", "siglip"):
            raise ValueError(f"label_smoothing has no meaning for name={self.name}")
        return self


class OptimConfig(Section):
    """What learns, and how: AdamW with warm-up and cosine decay."""

    method: Literal["full", "locked_text", "lora", "probe"] = "full"
    """full: both towers; locked_text: the image tower; lora: low-rank changes to both; probe: a
    head on the features of the towers as they are, by L-BFGS."""
    learning_rate: Positive = 1e-5
    """Peak rate of the image tower."""
    text_scale: Annotated[float, Field(ge=0)] = 1.0
    """Factor on the rate of the text tower; 0 locks it."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the rate for each block further from a tower's output."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """On matrices only: none on norms, biases, embeddings and the scale."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    """AdamW's two decay rates."""
    eps: Positive = 1e-6
    """AdamW's epsilon."""
    clip_norm: Positive = 1.0
    """Largest norm of the gradient."""
    warmup_fraction: Fraction = 0.06
    """Share of all steps in which the rate rises."""
    epochs: Count = 10
    """Passes over the training set."""
    batch_size: Count = 128
    """Pictures per step over all workers together."""
    accumulate: Count = 1
    """Parts that a worker's share of a step is cut into, one in memory at a time; BatchNorm sees
    one part (class_ce only)."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Weight of the past in the running mean of the weights, which is what is scored and kept; it
    starts low and never looks back further than a tenth of the run. 0 keeps the last weights."""
    lora_rank: Count = 8
    """Rank of the changes (lora only)."""
    probe_penalty: Annotated[float, Field(ge=0)] | None = None
    """Pull of the head towards the captions' features (probe only); by default the best in
    cross-validation on the training pictures."""

    @property
    def text_locked(self) -> bool:
        """The text tower stays as it is."""
        return self.method in ("locked_text", "probe") or self.text_scale == 0


class TrainConfig(Section):
    """How a run is spread out and what it survives."""

    num_workers: Count = 1
    """Processes that train together: gloo between CPUs, nccl between GPUs."""
    cpus_per_worker: Positive = 1.0
    """Logical CPUs that each worker holds."""
    use_gpu: bool | None = None
    """One GPU a worker; by default where the cluster has as many."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Autocast over fp32 weights; auto is bf16 on a GPU and fp32 elsewhere."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """How often a killed worker is replaced."""
    checkpoint_steps: Annotated[int, Field(ge=0)] = 0
    """Steps between checkpoints within an epoch; 0 writes one at its end only."""
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
        """Return values that stand for all: each choice, or both ends."""
        return self.choice or self.uniform or self.loguniform or self.integers or ()


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
    search: SearchConfig = SearchConfig()
    serve: ServeConfig = ServeConfig()
    cluster: ClusterConfig = ClusterConfig()

    @property
    def run_id(self) -> str:
        """Name and hash: the same document again is the same run, and resumes."""
        return f"{self.name}-{config_hash(self)}"

    @property
    def run_url(self) -> str:
        """Where the run lies."""
        return storage.join(self.storage, "runs", self.run_id)


def parse_config(document: Mapping[str, Any], *, where: str = "config") -> Config:
    """Validate a document.

    Raises:
        ConfigError: for the first key or value that is wrong, with its place.
    """
    try:
        config = Config.model_validate(dict(document))
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error)}") from None
    _check_space(config, where=where)
    return config


def load(path: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a recipe and apply overrides to it."""
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of keys to values")
    return parse_config(_assign(document, overrides or {}), where=path)


def override(config: Config, overrides: Mapping[str, Any]) -> Config:
    """Return the config with dotted keys replaced: ``{"optim.learning_rate": 3e-5}``."""
    document = config.model_dump(mode="python")
    return parse_config(_assign(document, overrides), where="override")


def parse_assignments(words: Sequence[str]) -> dict[str, Any]:
    """Turn ``key=value`` words into overrides; values are read as YAML."""
    overrides: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f'{word}: expected key=value, such as "optim.epochs=5"')
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            overrides[key] = value
    return overrides


def absolute(config: Config) -> Config:
    """Make local locations absolute: workers do not share the directory that a command ran in."""

    def full(location: str | None) -> str | None:
        if not location or storage.is_s3(location):
            return location
        return str(Path(location).absolute())

    backbone, taxonomy = config.model.backbone, config.data.taxonomy
    overrides = {
        "storage": full(config.storage),
        "data.train": full(config.data.train),
        "data.val": full(config.data.val),
        "data.synthetic": full(config.data.synthetic),
        "model.image_weights": full(config.model.image_weights),
    }
    if backbone.startswith("local-dir:"):
        overrides["model.backbone"] = f"local-dir:{full(backbone.removeprefix('local-dir:'))}"
    if taxonomy.endswith((".yaml", ".yml")):
        overrides["data.taxonomy"] = full(taxonomy)
    return override(config, overrides)


def dump(config: Config) -> dict[str, Any]:
    """Return the complete document in JSON's types."""
    return config.model_dump(mode="json")


def canonical_json(document: Any) -> str:
    """Return the one JSON text of a document, on which hashes rest."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def document_hash(document: Any) -> str:
    """Return the SHA-256 of a document's one JSON text."""
    return hashlib.sha256(canonical_json(document).encode()).hexdigest()


def config_hash(config: Config) -> str:
    """Return 8 hex digits of what a run is made of: not of where it is spread out or served."""
    return _hash(config, without={"search", "serve", "cluster"})


def search_hash(config: Config) -> str:
    """Return 8 hex digits of what a search is made of."""
    return _hash(config, without={"serve", "cluster"})


def sparse(config: Config) -> dict[str, Any]:
    """Return the document less everything that is as by default: a recipe as people write it."""
    return config.model_dump(mode="json", exclude_defaults=True)


def read_yaml(url: str) -> Any:
    """Read a YAML file, local or on S3; an empty one is an empty mapping."""
    try:
        document = yaml.safe_load(storage.read_bytes(url).decode())
    except DataError as error:
        raise ConfigError(str(error)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{url}: not YAML ({' '.join(str(error).split())[:160]})") from None
    return {} if document is None else document


def _hash(config: Config, *, without: set[str]) -> str:
    document = config.model_dump(mode="json", exclude=without)
    for key in SPREAD:
        del document["train"][key]
    return document_hash(document)[:8]


def _assign(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Set dotted keys in a copy; sections that are missing are made."""
    result = dict(document)
    for dotted, value in overrides.items():
        head, _, rest = dotted.partition(".")
        if not rest:
            result[head] = value
            continue
        inner = result.get(head, {})
        if not isinstance(inner, Mapping):
            raise ConfigError(f"{dotted}: {head} is a value, not a section")
        result[head] = _assign(inner, {rest: value})
    return result


def _check_space(config: Config, *, where: str) -> None:
    """Prove that each key of the search space exists and takes its values."""
    document = config.model_dump(mode="python", exclude={"search"})
    for key, distribution in config.search.space.items():
        for value in distribution.examples():
            try:
                Config.model_validate(_assign(document, {key: value}))
            except ValidationError as error:
                raise ConfigError(f"{where}: search.space: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    """Put pydantic's first complaint into one line with the dotted key."""
    first = error.errors()[0]
    loc = [part for part in first["loc"] if isinstance(part, str)]
    dotted = ".".join(str(part) for part in first["loc"]) or "document"
    if first["type"] == "extra_forbidden":
        return f"{dotted}: unknown key{_suggest(loc)}"
    message = first["msg"].removeprefix("Value error, ")
    if not loc:
        return message
    return f"{dotted}: {message[0].lower()}{message[1:]}, found {_short(first['input'])}"


def _suggest(loc: Sequence[str]) -> str:
    """Name the nearest key of the section, or the section in which the key lives."""
    section: type[BaseModel] = Config
    for part in loc[:-1]:
        field = section.model_fields.get(part)
        inner = field.annotation if field else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            section = inner
    near = did_you_mean(loc[-1], section.model_fields)
    if near:
        return near
    homes = {
        leaf: f"{name}.{leaf}"
        for name, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        for leaf in field.annotation.model_fields
    }
    home = homes.get(loc[-1])
    return f'; did you mean "{home}"?' if home else f"; known: {', '.join(section.model_fields)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
