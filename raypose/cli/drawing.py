"""Drawn pictures: `synthesize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from raypose.cli.shards import DEST, Tasks, tasks
from raypose.cli.verbs import Call, Keys, Verb
from raypose.config.packing import Packing
from raypose.config.section import Count
from raypose.console import bar, plural

__all__ = ["VERBS"]


class DrawKeys(Keys):
    """What is drawn."""

    taxonomy: str = "yoga82"
    """The postures: a shipped taxonomy, or a YAML file."""
    per_class: Count = 100
    """Pictures of each posture."""
    size: Annotated[int, Field(ge=8, le=2048)] = 128
    """Pixels of a side."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Number of the first picture of each posture."""
    fill: str = ""
    """Shards of which to draw only what they lack of each class."""
    form: Literal["folder", "shards"] = "folder"
    """An ImageFolder, or shards."""
    overwrite: bool = False
    """Replace a data set that is there."""
    num_workers: Tasks = 0
    """Ray tasks side by side; 0 draws in this process."""


def synthesize(call: Call) -> None:
    """Draw pictures of postures."""
    from raypose import storage, synthesis
    from raypose.captions import taxonomy
    from raypose.data import manifests, packing, sources
    from raypose.errors import UsageError

    keys, (dest,) = call.keys, call.words
    classes = taxonomy.load(keys.taxonomy)
    counts = dict.fromkeys(classes.ids, keys.per_class)
    synthesis.drawn(counts)
    if keys.fill:
        if storage.overlap(keys.fill, dest):
            raise UsageError(f"fill: {keys.fill} overlaps {dest}; draw into a place beside it")
        known = classes.index()
        labels = manifests.read_manifest(keys.fill).labels
        there = classes.counts({label: n for label, n in labels.items() if label in known})
        counts = {label: max(0, count - there.get(label, 0)) for label, count in counts.items()}
    counts = {label: count for label, count in counts.items() if count}
    if keys.form == "shards":
        listing = sources.drawings(counts, size=keys.size, seed=keys.seed)
        with tasks(call) as run, bar("drawing") as update:
            how = Packing(check=False)
            packing.pack(listing, dest, how, overwrite=keys.overwrite, progress=update, run=run)
    else:
        with bar("drawing") as update:
            synthesis.synthesize(
                Path(dest),
                counts,
                size=keys.size,
                seed=keys.seed,
                overwrite=keys.overwrite,
                progress=update,
            )
    total = sum(counts.values())
    text = f"drew {plural(total, 'picture')} of {plural(len(counts), 'posture')} in {dest}"
    call.show({keys.form: dest, "num_pictures": total}, text)


VERBS = (
    Verb(
        "synthesize",
        (DEST,),
        "draw pictures of postures",
        synthesize,
        (
            "raypose synthesize drawn per_class=100 size=128",
            "raypose synthesize more form=shards per_class=50 fill=shards/train",
        ),
        DrawKeys,
    ),
)
