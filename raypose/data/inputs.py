"""What a recipe names outside itself: class cards, captions, data sets; read and checked at once.

Nothing heavy is needed for it, so that a mistake is answered before Ray and torch are started.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raypose import captions, storage
from raypose.captions import nodes, taxonomy
from raypose.captions.taxonomy import Taxonomy
from raypose.config import Config, ModelConfig, override, space
from raypose.console import status
from raypose.data.manifests import Manifest, read_manifest
from raypose.errors import ConfigError, DataError, did_you_mean

__all__ = [
    "GRAMMAR",
    "Inputs",
    "check",
    "check_names",
    "check_search",
    "load",
    "ready",
    "searched_keys",
    "tell_shared",
]

GRAMMAR = "captions.grammar"
"""The key in which a study settles what a caption grammar leaves open."""


@dataclass(frozen=True)
class Inputs:
    """The classes of a recipe, and its data sets by split: train; val and synthetic where set."""

    classes: Taxonomy
    manifests: dict[str, Manifest]

    def counts(self, split: str) -> dict[str, int]:
        """Return card id → pictures of a split; classes without any are left out."""
        return self.classes.counts(self.manifests[split].labels)


def load(config: Config) -> Inputs:
    """Read what a recipe names.

    Raises:
        ConfigError: for a synthetic share of nothing.
        TaxonomyError: for its cards, or a label that has none.
        CaptionError: for its captions.
        DataError: where there is no data set.
    """
    classes = check_names(config)
    if config.data.synthetic_share and not config.data.synthetic:
        raise ConfigError(
            "data.synthetic_share: set where data.synthetic names no shards; "
            "make some with: raypose synthesize DEST form=shards"
        )
    splits = ("train", "val", "test", "synthetic")
    urls = {split: getattr(config.data, split) for split in splits}
    urls = {split: url for split, url in urls.items() if url or split == "train"}
    return Inputs(
        classes, {split: check(url, classes, key=f"data.{split}") for split, url in urls.items()}
    )


def ready(config: Config) -> Inputs:
    """Read what a recipe names, and say where it scores a model on what it was trained on.

    Raises:
        RayposeError: as `load`.
    """
    found = load(config)
    tell_shared(found.manifests)
    return found


def tell_shared(manifests: Mapping[str, Manifest]) -> None:
    """Say which splits hold shards that the training set holds, too."""
    shards = {
        split: {one.sha256 for one in manifest.shards} for split, manifest in manifests.items()
    }
    for split in ("val", "test"):
        if shards.get("train", set()) & shards.get(split, set()):
            status(
                f"data.{split}: holds pictures of data.train, so that its scores say nothing of "
                "others; raypose shards split parts them"
            )


def check_names(config: Config) -> Taxonomy:
    """Prove what a recipe names outside itself, but for its data sets; return the classes.

    Raises:
        ConfigError: for a model or a file that there is not.
        TaxonomyError: for its cards.
        CaptionError: for its captions.
    """
    classes = taxonomy.load(config.data.taxonomy)
    captions.check(captions.load(config.captions), classes)
    names = space.values(config.search.space, "model.backbone") or [config.model.backbone]
    for model in (config.model.model_copy(update={"backbone": str(name)}) for name in names):
        _check_backbone(model)
    _check_sinks(config)
    weights = config.model.image_weights
    if weights and not storage.exists(weights):
        raise ConfigError(f"model.image_weights: {weights}: not found; check the path")
    return classes


def check_search(config: Config) -> list[str]:
    """Refuse what cannot be searched; return the keys that trials differ in.

    Raises:
        CaptionError: where a preset to try is not there.
        ConfigError: where there is nothing to search, or nothing to rank by.
    """
    keys = searched_keys(config)
    if not keys:
        raise ConfigError("search.space: empty; give at least one key, such as optim.learning_rate")
    if not config.data.val:
        raise ConfigError("data.val: not set; trials are ranked on a validation set")
    return keys


def searched_keys(config: Config) -> list[str]:
    """Return the keys that trials differ in.

    Raises:
        CaptionError: where a preset to try is not there.
        ConfigError: where a grammar to try leaves something to the study itself.
    """
    recipes = [override(config, {"search": {}})]
    for key in ("captions.preset", GRAMMAR):
        ways = space.values(config.search.space, key)
        if ways:
            recipes = [override(each, {key: way}) for each in recipes for way in ways]
    open_ends = any(nodes.searched(captions.load(each.captions)) for each in recipes)
    if open_ends and GRAMMAR in config.search.space:
        raise ConfigError(
            f"search.space.{GRAMMAR}: a grammar among several cannot hold search: choices; "
            f"set {GRAMMAR} to one that does, or write sample: instead"
        )
    return [*config.search.space, *([GRAMMAR] if open_ends else [])]


def _check_sinks(config: Config) -> None:
    for name in config.tracking.sinks:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"tracking.sinks: {name} is not installed; pip install 'raypose[track]'"
            )


def _check_backbone(model: ModelConfig) -> None:
    """Refuse a model that there is not, by the names of open_clip's configurations."""
    name = model.backbone
    if name in model.architectures or name.startswith(("hf-hub:", "s3://")):
        return
    if name.startswith("local-dir:"):
        saved = Path(name.removeprefix("local-dir:"))
        if not (saved / "open_clip_config.json").is_file():
            raise ConfigError(
                f"model.backbone: no open_clip_config.json in {saved}; give a saved model"
            )
        return
    found = importlib.util.find_spec("open_clip")
    if found is None or not found.submodule_search_locations:
        return  # a base install: training will tell
    folder = Path(found.submodule_search_locations[0], "model_configs")
    known = [path.stem for path in folder.glob("*.json")]
    asked = name.partition("/")[0]
    if asked not in known:
        near = did_you_mean(asked, [*model.architectures, *known])
        raise ConfigError(
            f"model.backbone: open_clip has no model {asked!r}{near}"
            "; or describe it under model.architectures"
        )


def check(url: str, classes: Taxonomy, *, key: str) -> Manifest:
    """Read a data set's manifest and prove that the taxonomy knows its labels.

    Args:
        url: of the shards.
        classes: the taxonomy.
        key: the setting that named it, for messages.

    Raises:
        DataError: where there is no data set.
        TaxonomyError: where a label has no card.
    """
    try:
        manifest = read_manifest(url)
    except DataError as error:
        raise type(error)(f"{key}: {error}") from None
    classes.require(manifest.labels, where=url)
    return manifest
