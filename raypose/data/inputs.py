"""What a recipe names outside itself: class cards, captions, data sets; read and checked at once.

Nothing heavy is needed for it, so that a mistake is answered before Ray and torch are started.
"""

from __future__ import annotations

from dataclasses import dataclass

from raypose import captions
from raypose.captions import taxonomy
from raypose.captions.taxonomy import Taxonomy
from raypose.config import Config
from raypose.data.shards import Manifest, read_manifest
from raypose.errors import ConfigError, DataError

__all__ = ["Inputs", "check", "load"]


@dataclass(frozen=True)
class Inputs:
    """The classes of a recipe, and its data sets by split: train; val and synthetic where set."""

    classes: Taxonomy
    manifests: dict[str, Manifest]


def load(config: Config) -> Inputs:
    """Read what a recipe names.

    Raises:
        ConfigError: for a synthetic share of nothing.
        TaxonomyError: for its cards, or a label that has none.
        CaptionError: for its captions.
        DataError: where there is no data set.
    """
    classes = taxonomy.load(config.data.taxonomy)
    captions.check(captions.load(config.captions), classes)
    if config.data.synthetic_share and not config.data.synthetic:
        raise ConfigError(
            "data.synthetic_share: set where data.synthetic names no shards; "
            "make some with: raypose synthesize DEST form=shards"
        )
    urls = {"train": config.data.train, "val": config.data.val, "synthetic": config.data.synthetic}
    urls = {split: url for split, url in urls.items() if url or split == "train"}
    return Inputs(
        classes, {split: check(url, classes, key=f"data.{split}") for split, url in urls.items()}
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
        raise DataError(f"{key}: {error}") from None
    classes.require(manifest.labels, where=url)
    return manifest
