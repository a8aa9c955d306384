"""Settings of what is learned, from which pictures and sentences, and how."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raypose.config.section import MAX_PIXELS, Count, Fraction, Positive, Section

__all__ = [
    "AugmentConfig",
    "CaptionConfig",
    "Cards",
    "DataConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
]


_CardText = str | list[str] | dict[str, str | list[str]]
Cards = dict[str, str | list[str | dict[str, _CardText]]]
"""What a taxonomy file holds, and `source`, where it lay."""


class DataConfig(Section):
    """Which shards are read, and how."""

    train: str = ""
    """URL or path of the training shards, a folder with MANIFEST.json."""
    val: str = ""
    """URL or path of the validation shards: they rank epochs and trials."""
    test: str = ""
    """URL or path of shards on which no choice rests: runs and few-shot methods are held against
    their baselines on them. Without, on the validation set, and that is said."""
    taxonomy: str | Cards = "yoga82"
    """Name of a shipped taxonomy or path of a YAML file: the classes and their order. A file
    travels inside the document, as what it holds, to where there is no such file."""
    max_bad_fraction: Fraction = 0.0
    """Share of undecodable pictures above which a run stops; below it they are quarantined."""
    max_pixels: Count = MAX_PIXELS
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


RESIZES = ("shortest", "longest", "squash")
"""Ways to a square that open_clip knows, and notes among a model's own settings."""


class ModelConfig(Section):
    """The pair of towers."""

    backbone: Annotated[str, Field(min_length=1)] = "ViT-B-32-256/datacomp_s34b_b86k"
    """An open_clip NAME/TAG or NAME, hf-hub:ORG/REPO, local-dir:PATH, s3://…, or an architecture
    named under `architectures`."""
    architectures: dict[str, dict[str, Any]] = {}
    """Models described here, in the form of open_clip's model_cfg: name → embed_dim, vision_cfg,
    text_cfg."""
    kept: str | None = None
    """Folder where the backbone's weights were kept, from which they are read in place of a hub: a
    search keeps them once for all its workers. No part of what a run is made of."""
    image_weights: str | None = None
    """Safetensors file for the image tower alone, for example a timm trunk."""
    image_mean: tuple[float, float, float] | None = None
    """Channel means in 0..1; by default those the weights came with."""
    image_std: tuple[float, float, float] | None = None
    """Channel deviations in 0..1; by default those the weights came with."""
    freeze_batch_norm: bool = False
    """Keep the running statistics of BatchNorm as loaded: for small batches, and quicker, as the
    convolutions before then carry it out."""
    channels_last: bool = True
    """Lay pictures out as NHWC in memory, which convolutions prefer."""
    inference: Literal["fp32", "bf16"] = "fp32"
    """How the image tower computes once training is over: for the fitted temperature and the
    figures that come with it, in evaluation and in serving alike. bf16 is autocast over fp32
    weights: from batches of a few pictures on twice as fast on a CPU that has it, and on a GPU."""
    mirror: bool = False
    """Take the mean of a picture's features and of its mirror image's once training is over: twice
    the work, for fewer mistakes. Not where left and right are classes."""
    scales: Annotated[tuple[Annotated[float, Field(ge=0.5, le=2)], ...], Field(min_length=1)] = (
        1.0,
    )
    """Sizes at which a picture is seen once training is over, as shares of the tower's side; the
    mean of its features counts. [0.86, 1] is 1.7 times the work, for fewer mistakes of a tower that
    takes any side, as convolutional ones do."""
    resize: Literal["shortest", "longest", "squash", "trim"] = "squash"
    """The one way to a square, in training, evaluation and serving: crop the middle, pad, stretch,
    or trim: cut away a margin of one colour, as drawings and silhouettes have, then pad. open_clip
    itself knows not how to trim: what it is given then has to be trimmed."""

    @field_validator("scales")
    @classmethod
    def _in_order(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        """Have what is the same be written in one way: from small to large, each once."""
        return tuple(sorted(set(scales)))

    @property
    def encoding(self) -> dict[str, Any]:
        """How pictures become features, beside the weights, as far as it is not the usual way."""
        usual = {
            "inference": ("fp32",), "mirror": (False,), "resize": RESIZES, "scales": ((1.0,),)
        }  # fmt: skip
        found = {key: getattr(self, key) for key in usual}
        return {key: value for key, value in found.items() if value not in usual[key]}


class AugmentConfig(Section):
    """Changes to training pictures. No vertical flip: orientation is signal."""

    enabled: bool = True
    """Switches all of them."""
    image_size: Count | None = None
    """Pixels of a side in training, where the tower takes several: a smaller one than it is scored
    at trains faster and, since crops magnify what is in them, better (Touvron et al., 2019); not
    where a tower's last map is but a few cells wide. By default the model's."""
    min_area: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Smallest share of the picture that a random crop keeps. Pictures are decoded large enough for
    it to fill the tower's side."""
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
    """The training objective."""

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


Below1 = Annotated[float, Field(ge=0, lt=1)]


RATES = {"full": 1e-5, "lora": 2e-4}
"""Method → peak learning rate where a recipe says none; as `full` for the others."""


class OptimConfig(Section):
    """What learns, and how: AdamW with warm-up and cosine decay."""

    method: Literal["full", "locked_text", "lora", "probe"] = "full"
    """full: both towers; locked_text: the image tower; lora: low-rank changes to both; probe: a
    head on the features of the towers as they are, by L-BFGS."""
    learning_rate: Positive | None = None
    """Peak rate of the image tower; by default 1e-5, and 2e-4 for lora, whose changes start at
    zero: the rate of CLIP-LoRA (Zanella and Ben Ayed, 2024)."""
    text_scale: Annotated[float, Field(ge=0)] = 1.0
    """Factor on the rate of the text tower; 0 locks it."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the rate for each block further from a tower's output."""
    frozen_blocks: Annotated[int, Field(ge=0)] = 0
    """Blocks of the image tower, from its input on, that stay as they are, and what comes before
    them. The first blocks of a pretrained tower change least, and are the dearest to go back
    through where it is convolutional."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """On matrices only: none on norms, biases, embeddings and the scale."""
    betas: tuple[Below1, Below1] = (0.9, 0.98)
    """AdamW's two decay rates."""
    eps: Annotated[float, Field(ge=1e-12)] = 1e-6
    """AdamW's epsilon; below it, weights without a gradient are divided by zero."""
    clip_norm: Positive = 1.0
    """Largest norm of the gradient."""
    warmup_fraction: Fraction = 0.06
    """Share of all steps in which the rate rises."""
    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """Passes over the training set."""
    batch_size: Count = 128
    """Pictures per step over all workers together."""
    accumulate: Count = 1
    """Parts that a worker's share of a step is cut into, one in memory at a time; BatchNorm sees
    one part (class_ce only)."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Weight of the past in the running mean of the weights, which is what is scored and kept; it
    starts low and never looks back further than a tenth of the run. 0 keeps the last weights."""
    lora_rank: Annotated[int, Field(ge=1, le=4096)] = 8
    """Rank of the changes (lora only)."""
    lora_alpha: Positive | None = None
    """Factor on the changes, divided by their rank; by default twice the rank (lora only)."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the inputs that the changes do not see in a step (lora only)."""
    lora_targets: str = ""
    """Pattern of the names of the layers that are changed; by default every linear, attention and
    full convolution layer (lora only)."""
    probe_penalty: Annotated[float, Field(ge=0)] | None = None
    """Pull of the head towards the captions' features (probe only); by default the best in
    cross-validation on the training pictures."""

    @property
    def peak_rate(self) -> float:
        """The rate, or the method's own where none is set."""
        return self.learning_rate or RATES.get(self.method, RATES["full"])

    @property
    def text_locked(self) -> bool:
        """The text tower stays as it is."""
        return self.method in ("locked_text", "probe") or self.text_scale == 0
