"""The pair of towers: built from a recipe, saved to and loaded from open_clip's folder form.

Any open_clip name, ``hf-hub:`` or ``local-dir:`` folder, a folder on S3, or an architecture that
the recipe describes. A saved folder loads with plain
``open_clip.create_model_from_pretrained("local-dir:…")`` and gives the same features.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from raypose import storage
from raypose.clip import batch_norm
from raypose.clip.libraries import HFTokenizer, open_clip
from raypose.config import ModelConfig
from raypose.errors import CheckpointError, ConfigError, did_you_mean

__all__ = [
    "CONFIG_FILE",
    "MAX_TOKENIZED",
    "WEIGHTS_FILE",
    "Clip",
    "build",
    "check_weights",
    "has_weights",
    "image_size",
    "image_tower",
    "load",
    "load_image_tower",
    "place",
    "quiet",
    "refuse_name",
    "save",
]

CONFIG_FILE = "open_clip_config.json"


WEIGHTS_FILE = "open_clip_model.safetensors"


TEXT_FOLDER = "hf_text"
"""What transformers needs to know of a text tower of its own, so that nothing is fetched."""


NO_TEXT = {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}
"""Stands in for a text tower where only the image tower is wanted."""


MAX_TOKENIZED = 1 << 14
"""Captions whose tokens are remembered at most."""


@dataclass
class Clip:
    """A model with what belongs to it.

    ``model_cfg`` and ``preprocess_cfg`` are open_clip's; their sum is open_clip_config.json.
    """

    model: Any
    tokenizer: Any
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    _tokens: dict[str, torch.Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def image_size(self) -> int:
        """Pixels of a side of the square that the image tower takes."""
        return _side(self.preprocess_cfg["size"])

    @property
    def context_length(self) -> int:
        """Tokens that the text tower takes."""
        return int(self.model_cfg["text_cfg"].get("context_length", 77))

    def tokenize(self, captions: Sequence[str]) -> torch.Tensor:
        """Return token ids, int64 (N, L), padded; each caption is read once."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._tokens]
        if new:
            self._tokens |= zip(new, self.tokenizer(new), strict=True)
        rows = torch.stack([self._tokens[caption] for caption in captions])
        if len(self._tokens) > MAX_TOKENIZED:
            self._tokens.clear()
        return rows


def build(config: ModelConfig, *, seed: int = 0) -> Clip:
    """Build the model that a recipe names, with its weights.

    Raises:
        ConfigError: where there is no such model, or its weights do not load.
    """
    torch.manual_seed(seed)  # what no weights fill starts the same on every rank
    with quiet(), _unset_marked():
        if config.kept:
            clip = _build_folder(config.kept)
        elif config.backbone in config.architectures:
            clip = _build_described(config.architectures[config.backbone], config)
        elif config.backbone.startswith(("local-dir:", "hf-hub:", "s3://")):
            clip = _build_folder(config.backbone)
        else:
            clip = _build_named(config)
    _draw_unset(clip.model)
    if config.image_weights:
        _load_image_weights(clip, config.image_weights)
    mode = "longest" if config.resize == "trim" else config.resize  # open_clip knows no other
    clip.preprocess_cfg.update(resize_mode=mode, fill_color=0, interpolation="bicubic")
    for key, value in (("mean", config.image_mean), ("std", config.image_std)):
        if value is not None:
            clip.preprocess_cfg[key] = list(value)
    return clip


def save(clip: Clip, folder: Path, weights: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write open_clip's two files into a folder, and those of a tokenizer that is not CLIP's own.

    Args:
        clip: the model.
        folder: to fill.
        weights: in place of those the model carries now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = {"model_cfg": clip.model_cfg, "preprocess_cfg": clip.preprocess_cfg}
    (folder / CONFIG_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if isinstance(clip.tokenizer, HFTokenizer):
        clip.tokenizer.tokenizer.save_pretrained(folder)
    if "hf_model_name" in clip.model_cfg["text_cfg"]:
        clip.model.text.config.save_pretrained(folder / TEXT_FOLDER)
    state = {
        key: value.detach().cpu().contiguous(memory_format=torch.contiguous_format)
        for key, value in (weights or clip.model.state_dict()).items()
    }
    save_file(state, folder / WEIGHTS_FILE)


def has_weights(config: ModelConfig) -> bool:
    """Return whether both towers of a recipe's model come with trained weights."""
    name = config.backbone
    return name not in config.architectures and ("/" in name or name.startswith("local-dir:"))


def image_size(config: ModelConfig) -> int:
    """Return the pixels of a side that a recipe's model takes, without building it."""
    name = config.backbone
    if name in config.architectures:
        document: Any = config.architectures[name]
    elif name.startswith(("s3://", "local-dir:")):
        folder = name.removeprefix("local-dir:")
        document = storage.read_json(storage.join(folder, CONFIG_FILE)).get("model_cfg", {})
    else:
        document = open_clip.get_model_config(name.partition("/")[0] if ":" not in name else name)
        if document is None:
            refuse_name(config)
    return _side(document.get("vision_cfg", {}).get("image_size", 224))


def load(folder: Path) -> Clip:
    """Load both towers from a folder that `save` wrote."""
    with quiet(), _checked(folder):
        return _from_folder(folder, load_weights=True)


def load_image_tower(folder: Path) -> Clip:
    """Load the image tower alone: `model.visual` is filled and the text tower dropped."""
    with quiet(), _checked(folder):
        model_cfg = _document(folder)["model_cfg"]
        alone = {key: model_cfg[key] for key in ("embed_dim", "vision_cfg", "quick_gelu")
                 if key in model_cfg}  # fmt: skip
        with _with_config(folder, {**alone, "text_cfg": NO_TEXT}) as changed:
            model = open_clip.create_model(f"local-dir:{changed}", load_weights=False)
        clip = _assemble(model, None, model_cfg)
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith("visual.")]  # noqa: SIM118
            weights = {name.removeprefix("visual."): file.get_tensor(name) for name in names}
        model.visual.load_state_dict(weights)
        clip.model = _ImageTower(model.visual)
        return clip


def image_tower(clip: Clip) -> Clip:
    """Return a model's image tower alone, to be sent to where only pictures are encoded."""
    return Clip(_ImageTower(clip.model.visual), None, clip.model_cfg, clip.preprocess_cfg)


def place(clip: Clip, device: torch.device, *, channels_last: bool) -> nn.Module:
    """Have a model ready to compute on a device; return it.

    Its convolutions take the layout of the pictures, and carry out what BatchNorm does after them.
    """
    clip.model.to(device)
    if channels_last:
        clip.model.to(memory_format=torch.channels_last)
    batch_norm.fold(clip.model, size=clip.image_size)
    made: nn.Module = clip.model
    return made


class _ImageTower(nn.Module):
    """An open_clip model without its text side."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def encode_image(self, image: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        made = self.visual(image)
        features: torch.Tensor = made[0] if isinstance(made, tuple) else made  # CoCa's: and tokens
        return nn.functional.normalize(features, dim=-1) if normalize else features


def _build_described(architecture: dict[str, Any], config: ModelConfig) -> Clip:
    """Build a model_cfg from the recipe; it goes through a folder, open_clip's public way."""
    where = f"model.architectures.{config.backbone}"
    if architecture.get("vision_cfg", {}).get("timm_model_pretrained"):
        raise ConfigError(
            f"{where}: vision_cfg.timm_model_pretrained is not followed; leave it out, and give "
            "the weights by model.image_weights"
        )
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    with tempfile.TemporaryDirectory() as name:
        document = {"model_cfg": architecture, "preprocess_cfg": preprocess}
        (Path(name) / CONFIG_FILE).write_text(json.dumps(document), encoding="utf-8")
        try:
            tokenizer = _named_tokenizer(architecture.get("text_cfg", {}))
            if tokenizer is not None:
                tokenizer.tokenizer.save_pretrained(name)
            return _from_folder(Path(name), load_weights=False)
        except (
            TypeError, KeyError, ValueError, RuntimeError, AssertionError, OSError, ImportError
        ) as error:  # fmt: skip
            reason = " ".join(str(error).split())[:160]
            raise ConfigError(f"{where}: open_clip cannot build it ({reason})") from None


def _named_tokenizer(text_cfg: Mapping[str, Any]) -> HFTokenizer | None:
    """Return the tokenizer of transformers that a model_cfg names by folder or repository."""
    name = text_cfg.get("hf_tokenizer_name", "")
    if not name:
        return None
    return HFTokenizer(
        name,
        context_length=text_cfg.get("context_length", 77),
        tokenizer_mode=text_cfg.get("tokenizer_mode"),
        **text_cfg.get("tokenizer_kwargs", {}),
    )


def _build_folder(location: str) -> Clip:
    if location.startswith("hf-hub:"):
        return _create(location, None)
    if storage.is_s3(location):
        with tempfile.TemporaryDirectory() as name:
            return load(storage.download_folder(location, Path(name)))
    folder = Path(location.removeprefix("local-dir:"))
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(f"model.backbone: no {CONFIG_FILE} in {folder}; give a saved model")
    return load(folder)


def _build_named(config: ModelConfig) -> Clip:
    name, _, tag = config.backbone.partition("/")
    if name not in open_clip.list_models():
        refuse_name(config)
    check_weights(config)
    return _create(name, tag or None)


def check_weights(config: ModelConfig) -> None:
    """Refuse weights that a model of open_clip has not; what has no tag is left alone.

    Raises:
        ConfigError: naming those that there are.
    """
    name, _, tag = config.backbone.partition("/")
    if not tag or name not in open_clip.list_models():
        return
    known = open_clip.list_pretrained_tags_by_model(name)
    if tag not in known:
        tags = ", ".join(known) or "none"
        near = did_you_mean(tag, known)
        raise ConfigError(f"model.backbone: {name} has no weights {tag!r}{near}; there are: {tags}")
    _activation(name, tag)


def refuse_name(config: ModelConfig, *, key: str = "model.backbone") -> NoReturn:
    """Raise the ConfigError of a backbone that there is not, naming the key and the nearest."""
    name = config.backbone.partition("/")[0]
    near = did_you_mean(name, [*config.architectures, *open_clip.list_models()])
    raise ConfigError(
        f"{key}: open_clip has no model {name!r}{near}; or describe it under model.architectures"
    )


def _create(name: str, tag: str | None) -> Clip:
    quick = _activation(name, tag)
    try:
        model = open_clip.create_model(
            name, pretrained=tag, load_weights=True, force_quick_gelu=quick
        )
        tokenizer = open_clip.get_tokenizer(name)
        model_cfg = open_clip.get_model_config(name)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"model.backbone: weights of {name} cannot be loaded ({reason}); "
            "check the network, or give a folder by local-dir:PATH"
        ) from None
    return _assemble(model, tokenizer, {**model_cfg, **({"quick_gelu": True} if quick else {})})


def _activation(name: str, tag: str | None) -> bool:
    """Return whether weights were trained with QuickGELU where their model's name does not say so.

    They load into the other activation without a word, and are worse by many points.

    Raises:
        ConfigError: where the name says so and they were not.
    """
    known = open_clip.get_model_config(name) if tag else None
    if not known:
        return False
    asked = bool(known.get("quick_gelu"))
    trained = bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu"))
    if asked and not trained:
        plain = name.removesuffix("-quickgelu")
        raise ConfigError(
            f"model.backbone: {name}/{tag} was trained without QuickGELU, which {name} has; give "
            + (f"{plain}/{tag}" if plain != name else "a folder with quick_gelu: false in it")
        )
    return trained and not asked


def _document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    return found


@contextmanager
def _with_config(folder: Path, model_cfg: Mapping[str, Any]) -> Iterator[Path]:
    """Yield a folder with the files of another, and another model_cfg."""
    with tempfile.TemporaryDirectory() as name:
        for path in folder.iterdir():
            if path.name != CONFIG_FILE:
                (Path(name) / path.name).symlink_to(path.resolve())
        document = {**_document(folder), "model_cfg": dict(model_cfg)}
        (Path(name) / CONFIG_FILE).write_text(json.dumps(document), encoding="utf-8")
        yield Path(name)


def _from_folder(folder: Path, *, load_weights: bool) -> Clip:
    model_cfg = _document(folder)["model_cfg"]
    inside = model_cfg
    if (folder / TEXT_FOLDER).is_dir():
        text_cfg = {**model_cfg["text_cfg"], "hf_model_name": str(folder / TEXT_FOLDER)}
        inside = {**model_cfg, "text_cfg": text_cfg}
    with _with_config(folder, inside) as changed:
        name = f"local-dir:{changed}"
        model = open_clip.create_model(name, load_weights=load_weights, pretrained_text=False)
        return _assemble(model, open_clip.get_tokenizer(name), model_cfg)


def _assemble(model: Any, tokenizer: Any, model_cfg: dict[str, Any]) -> Clip:
    vision, text = dict(model_cfg["vision_cfg"]), dict(model_cfg["text_cfg"])
    # a saved folder holds all weights itself: nothing is to be fetched beside them
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    preprocess = dict(open_clip.get_model_preprocess_cfg(model))
    preprocess["size"] = _side(preprocess["size"])
    return Clip(model, tokenizer, {**model_cfg, "vision_cfg": vision, "text_cfg": text}, preprocess)


def _side(size: Any) -> int:
    sides = set(size) if isinstance(size, (tuple, list)) else {size}
    if len(sides) > 1:
        raise ConfigError(f"model: takes pictures of {size} pixels; only square ones are supported")
    return int(sides.pop())


def _load_image_weights(clip: Clip, url: str) -> None:
    """Fill the image tower from a file; a classifier head in it is left out."""
    tower = getattr(clip.model.visual, "trunk", clip.model.visual)
    with tempfile.TemporaryDirectory() as name:
        local = Path(name) / "weights.safetensors"
        local.write_bytes(storage.read_bytes(url))
        try:
            weights = load_file(local)
        except SafetensorError as error:
            raise ConfigError(f"model.image_weights: {url}: not safetensors ({error})") from None
    try:
        report = tower.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"model.image_weights: {url}: does not fit ({reason})") from None
    heads = ("classifier.", "head.", "fc.")
    strange = [key for key in report.unexpected_keys if not key.startswith(heads)]
    for what, keys in (("lacks", report.missing_keys), ("has no place for", strange)):
        if keys:
            raise ConfigError(f"model.image_weights: {url}: {what} {keys[0]}; not this backbone's")


@contextmanager
def _unset_marked() -> Iterator[None]:
    """Make memory that nothing has filled yet NaN: open_clip leaves CoCa's last projection so."""
    before = torch.get_deterministic_debug_mode()
    # torch.empty then fills with NaN; use_deterministic_algorithms would load torch's compiler
    torch.set_deterministic_debug_mode("warn")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def _draw_unset(model: nn.Module) -> None:
    """Draw parameters that neither their module nor any weights have filled."""
    for value in model.parameters():
        if value.is_floating_point() and bool(value.isnan().all()):
            nn.init.normal_(value, std=value.shape[0] ** -0.5)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep open_clip's running commentary from the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _checked(folder: Path) -> Iterator[None]:
    """Say which folder does not load."""
    try:
        yield
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{folder}: model does not load ({reason})") from None
