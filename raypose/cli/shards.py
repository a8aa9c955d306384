"""Data sets: `shards`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import Field

from raypose.cli.places import check_out
from raypose.cli.verbs import Call, Keys, Verb, Word
from raypose.config.packing import Packing
from raypose.config.section import Count, Fraction
from raypose.console import bar, plural, status, waiting
from raypose.errors import UsageError

__all__ = ["DATA", "DEST", "VERBS", "Tasks", "tasks"]

Tasks = Annotated[int, Field(ge=0)]
DATA = Word("DATA", "a folder of shards, local or s3://")
DEST = Word("DEST", "a folder to write to, local or s3://")
SHOWN_REJECTS = 20
"""Pictures left out that are named one by one; the manifest names them all."""


class BuildKeys(Packing, Keys):
    """What is packed, and how."""

    kind: Literal["auto", "imagefolder", "webdataset", "parquet", "csv", "yoga82"] = "auto"
    """What the source is; by default told from names."""
    pictures: str = ""
    """Folder that the paths of a list are relative to; by default the list's own."""
    taxonomy: str = ""
    """Class cards that labels must be in: a shipped taxonomy, or a YAML file."""
    overwrite: bool = False
    """Replace a data set that is there."""
    num_workers: Tasks = 0
    """Ray tasks that pack side by side; 0 packs in this process."""


class TwinKeys(Keys):
    """What counts as a near-duplicate."""

    max_distance: Annotated[int, Field(ge=0, le=64)] = 6
    """Bits in which the perceptual hashes of twins may differ."""
    min_correlation: Annotated[float, Field(ge=-1, le=1)] = 0.9
    """Correlation of the brightness of twins, pixel by pixel of small pictures."""
    min_cosine: Fraction = 0.96
    """Cosine of the features of twins, where a model is named."""
    model: str = ""
    """An open_clip NAME/TAG whose features tell twins too."""
    num_workers: Tasks = 0
    """Ray tasks side by side; 0 works in this process."""


class SplitKeys(TwinKeys):
    """How a data set is divided."""

    val: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the validation set."""
    test: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the test set."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the draw."""
    rows_per_shard: Count = 256
    """Pictures in one file."""
    overwrite: bool = False
    """Replace parts that are there."""


class PageKeys(TwinKeys):
    """What the page shows."""

    out: str = "shards.html"
    """Where to write it; a name in .png makes a picture."""
    per_class: Count = 6
    """Pictures of each class."""


@contextmanager
def tasks(call: Call) -> Iterator[Any]:
    """Yield what runs tasks: Ray where a cluster is named or workers are asked for, else here."""
    from raypose.data import packing

    cluster, num_workers = call.config().cluster, call.keys.num_workers
    if not num_workers and not cluster.named:
        yield packing.serial
        return
    with waiting("loading Ray"):
        import ray

        from raypose import runtime

    cluster = cluster.model_copy(update={"num_cpus": max(2, num_workers)})
    with runtime.connect(cluster, verbose=call.verbose):
        yield runtime.spread(num_workers or max(1, int(ray.cluster_resources().get("CPU", 1))))


def shards_build(call: Call) -> None:
    """Pack pictures of any source into shards."""
    from raypose import storage
    from raypose.captions import taxonomy
    from raypose.data import packing, sources

    keys = call.keys
    source, dest = call.words
    classes = taxonomy.load(keys.taxonomy) if keys.taxonomy else None
    pictures = storage.absolute(keys.pictures) if keys.pictures else ""
    with waiting(f"listing {source}"):
        listing = sources.find(
            storage.absolute(source), kind=keys.kind, pictures=pictures, classes=classes
        )
    how = Packing(**{name: getattr(keys, name) for name in Packing.model_fields})
    with tasks(call) as run, bar("packing") as update:
        manifest = packing.pack(
            listing,
            storage.absolute(dest),
            how,
            overwrite=keys.overwrite,
            progress=update,
            run=run,
        )
    _show_packed(call, dest, manifest)


def _show_packed(call: Call, dest: str, manifest: Any) -> None:
    """Show what was packed; what was left out goes to stderr, a line each."""
    for rejected in manifest.rejected[:SHOWN_REJECTS]:
        status(f"left out {rejected.id}: {rejected.reason}")
    if len(manifest.rejected) > SHOWN_REJECTS:
        status(f"left out {len(manifest.rejected) - SHOWN_REJECTS} more: see {dest}/MANIFEST.json")
    for label, listed in (manifest.listed or {}).items():
        status(f"{label}: {manifest.labels.get(label, 0)} of {listed} downloaded")
    alone = [label for label, count in manifest.labels.items() if count == 1]
    if alone and manifest.num_rows > 4 * len(manifest.labels):
        names = ", ".join(alone[:3]) + (", …" if len(alone) > 3 else "")
        status(f"one picture only: {names}; are they spelled as the others?")
    pictures = plural(manifest.num_rows, "picture")
    text = (
        f"packed {pictures} of {plural(len(manifest.labels), 'class')} into "
        f"{plural(len(manifest.shards), 'shard')} at {dest}; left out {len(manifest.rejected)}"
    )
    if manifest.listed:
        text += f"; downloaded {manifest.num_rows} of {sum(manifest.listed.values())} listed"
    call.show({"data": dest, **manifest.to_dict()}, text)
    call.next(f"raypose shards show {shlex.quote(dest)}")


def shards_verify(call: Call) -> None:
    """Compare shards with their manifest."""
    from raypose.data import shards

    (url,) = call.words
    with bar("verifying") as update:
        manifest = shards.verify(url, progress=update)
    held = f"{plural(manifest.num_rows, 'picture')}, {plural(len(manifest.labels), 'class')}"
    document = {"data": url, "num_rows": manifest.num_rows, "whole": True}
    call.show(document, f"{url}: whole; {held}")


def _inspected(call: Call, urls: Sequence[str]) -> Any:
    """Return the pictures of data sets and their groups of near-duplicates."""
    import numpy as np

    from raypose.data import inspection, manifests

    keys = call.keys
    for url in urls:
        manifests.read_manifest(url)  # before anything starts
    with tasks(call) as run, bar("looking") as update:
        rows = inspection.inspect(urls, progress=update, run=run)
    features = None
    if keys.model:
        with waiting("loading torch and Ray"):
            from raypose import config, runtime
            from raypose.inference.embedding import embed

        settings = config.ModelConfig(backbone=keys.model)
        with runtime.connect(config.ClusterConfig(), verbose=call.verbose):
            with bar("embedding") as update:
                features = np.concatenate([embed(url, settings, progress=update) for url in urls])
    limits = {
        "max_distance": keys.max_distance,
        "min_correlation": keys.min_correlation,
        "min_cosine": keys.min_cosine,
    }
    groups = inspection.cluster(rows, features=features, **limits)
    _tell_two_labels(rows, groups)
    return rows, groups


def _tell_two_labels(rows: Any, groups: Sequence[Sequence[int]]) -> None:
    """Say that copies of a picture bear different labels: one of them is wrong."""
    pairs = [
        (rows[group[0]], rows[k])
        for group in groups
        for k in group
        if rows[k].label != rows[group[0]].label
    ]
    if pairs:
        one, other = pairs[0]
        status(
            f"{plural(len(pairs), 'near-duplicate')} under another label, such as {one.id} "
            f"({one.label}) and {other.id} ({other.label}); look at them by raypose shards show"
        )


def shards_dedupe(call: Call) -> None:
    """List near-duplicates within shards and between."""
    from raypose import storage

    first, *others = map(storage.absolute, call.words)
    if len(set(map(storage.resolved, call.words))) < len(call.words):
        raise UsageError("dedupe: a data set is given twice; give one, or others beside it")
    rows, groups = _inspected(call, [first, *others])
    given = dict(zip([first, *others], call.words, strict=True))
    twinned = {
        number
        for group in groups
        if any(rows[k].data == first for k in group)
        for number in group
        if rows[number].data != first
    }
    sizes = {url: sum(row.data == url for row in rows) for url in others}
    leaks = {url: sum(rows[number].data == url for number in twinned) for url in others}
    lines = [
        "  ".join(f"{given[rows[k].data]}/{rows[k].id}" if others else rows[k].id for k in group)
        for group in groups
    ]
    lines.append(
        f"{sum(map(len, groups))} of {plural(len(rows), 'picture')} in "
        f"{plural(len(groups), 'group')} of twins"
    )
    lines += [
        f"{leaks[url]} of {plural(sizes[url], 'picture')} of {given[url]} have a twin in "
        f"{given[first]}"
        for url in others
    ]
    document = {
        "groups": [
            [{"data": given[rows[k].data], "id": rows[k].id} for k in group] for group in groups
        ],
        "num_rows": len(rows),
        "twins_in_first": {given[url]: count for url, count in leaks.items()},
    }
    call.show(document, "\n".join(lines))


def shards_split(call: Call) -> None:
    """Divide shards, near-duplicates on one side."""
    from raypose import storage
    from raypose.data import splits

    keys = call.keys
    source, dest = map(storage.absolute, call.words)
    shares = {part: getattr(keys, part) for part in ("val", "test") if getattr(keys, part)}
    splits.check_shares(shares)
    rows, groups = _inspected(call, [source])
    split = splits.assign(rows, groups, shares=shares, seed=keys.seed)
    how = Packing(rows_per_shard=keys.rows_per_shard, seed=keys.seed)
    with tasks(call) as run, bar("splitting") as update:
        written = splits.write(
            source, dest, split, how, overwrite=keys.overwrite, progress=update, run=run
        )
    lacking = split.lacking(rows, list(shares))
    for part, absent in lacking.items():
        status(f"{part} has no picture of {plural(len(absent), 'class')}: {', '.join(absent[:3])}")
    counts = {part: manifest.num_rows for part, manifest in written.items()}
    sizes = ", ".join(f"{part} {count}" for part, count in counts.items())
    dest = call.words[1]
    text = (
        f"{sizes} at {dest}; {plural(sum(map(len, groups)), 'picture')} in "
        f"{plural(len(groups), 'group')} of near-duplicates, each on one side"
    )
    call.show({"data": dest, "parts": counts, "groups": len(groups), "lacking": lacking}, text)
    parts = [part for part in ("train", "val", "test") if part in counts]
    words = (shlex.quote(f"data.{part}={dest}/{part}") for part in parts)
    call.next(f"raypose train RECIPE {' '.join(words)}")


def shards_show(call: Call) -> None:
    """Make a page to look shards over."""
    from raypose.data import sheet

    (url,), out = call.words, call.keys.out
    check_out(out, (".html", ".htm", ".png"))
    rows, groups = _inspected(call, [url])
    made = sheet.gather(url, rows, groups, per_class=call.keys.per_class)
    sheet.save(made, out)
    doubtful = [{"id": rows[number].id, "reason": why} for number, why in made.doubtful]
    document = {"data": url, "page": out, "num_rows": len(rows), "doubtful": doubtful}
    call.show(document, f"{sheet.summary(made)}\n{out}")


VERBS = (
    Verb(
        "shards build",
        (Word("SOURCE", "pictures: a folder, tar, table or list, local or s3://"), DEST),
        "pack pictures of any source into shards",
        shards_build,
        (
            "raypose shards build pictures/train shards/train max_side=320",
            "raypose shards build yoga_train.txt s3://my-bucket/train pictures=downloads",
        ),
        BuildKeys,
        sections=("cluster",),
        as_job=True,
    ),
    Verb(
        "shards split",
        (DATA, DEST),
        "divide shards, near-duplicates on one side",
        shards_split,
        ("raypose shards split shards/all shards val=0.1 test=0.1",),
        SplitKeys,
        sections=("cluster",),
        as_job=True,
    ),
    Verb(
        "shards dedupe",
        (Word("DATA", "folders of shards, the training set first", many=True),),
        "list near-duplicates within shards and between",
        shards_dedupe,
        ("raypose shards dedupe shards/train shards/val",),
        TwinKeys,
        sections=("cluster",),
        as_job=True,
    ),
    Verb(
        "shards show",
        (DATA,),
        "make a page to look shards over",
        shards_show,
        ("raypose shards show shards/train out=look.html",),
        PageKeys,
    ),
    Verb(
        "shards verify",
        (DATA,),
        "compare shards with their manifest",
        shards_verify,
        ("raypose shards verify shards/train",),
        sections=("cluster",),
        as_job=True,
    ),
)
