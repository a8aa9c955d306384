"""Data sets: `shards`, and drawn ones: `synthesize`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raypose.cli.request import PAIRS, Command, Request, options_of, show
from raypose.errors import UsageError

__all__ = ["COMMANDS"]


@contextmanager
def _spread(num_workers: int, *, verbose: bool) -> Iterator[Any]:
    """Yield what runs tasks: Ray where a cluster is named or workers are asked for, else here."""
    from raypose.data import packing

    if not num_workers and not os.environ.get("RAY_ADDRESS"):
        yield packing.serial
        return
    import ray

    from raypose import config, runtime

    with runtime.connect(config.ClusterConfig(num_cpus=max(2, num_workers)), verbose=verbose):
        yield runtime.spread(num_workers or max(1, int(ray.cluster_resources().get("CPU", 1))))


def shards_build(request: Request) -> None:
    """Pack pictures of any source into shards."""
    from raypose.captions import taxonomy
    from raypose.console import bar
    from raypose.data import packing, sources

    keys = asdict(packing.Packing())
    defaults = {"kind": "auto", "pictures": "", "taxonomy": "", "overwrite": False}
    options = options_of(request, **defaults, **keys, num_workers=0)
    source, dest = request.words
    classes = taxonomy.load(options["taxonomy"]) if options["taxonomy"] else None
    listing = sources.find(
        source, kind=options["kind"], pictures=options["pictures"], classes=classes
    )
    how = packing.Packing(**{key: options[key] for key in keys})
    with _spread(options["num_workers"], verbose=request.verbose) as run, bar("packing") as update:
        manifest = packing.pack(
            listing, dest, how, overwrite=options["overwrite"], progress=update, run=run
        )
    _show_packed(request, dest, manifest)


def _show_packed(request: Request, dest: str, manifest: Any) -> None:
    """Show what was packed; what was left out goes to stderr, a line each."""
    from raypose.console import status

    for rejected in manifest.rejected:
        status(f"left out {rejected.id}: {rejected.reason}")
    for label, listed in (manifest.listed or {}).items():
        status(f"{label}: {manifest.labels.get(label, 0)} of {listed} downloaded")
    text = (
        f"packed {manifest.num_rows} pictures of {len(manifest.labels)} classes into "
        f"{len(manifest.shards)} shards at {dest}; left out {len(manifest.rejected)}"
    )
    if manifest.listed:
        text += f"; downloaded {manifest.num_rows} of {sum(manifest.listed.values())} listed"
    show(request, {"data": dest, **manifest.to_dict()}, text)


def shards_verify(request: Request) -> None:
    """Compare shards with their manifest."""
    from raypose.console import bar
    from raypose.data import shards

    options_of(request)
    with bar("verifying") as update:
        manifest = shards.verify(request.words[0], progress=update)
    text = (
        f"{request.words[0]}: whole; {manifest.num_rows} pictures, {len(manifest.labels)} classes"
    )
    show(request, {"data": request.words[0], "num_rows": manifest.num_rows, "whole": True}, text)


TWINS = {"max_distance": 6, "min_cosine": 0.96, "model": "", "num_workers": 0}


def _inspected(request: Request, urls: Sequence[str], options: dict[str, Any]) -> Any:
    """Return the pictures of data sets and their groups of near-duplicates."""
    import numpy as np

    from raypose.console import bar
    from raypose.data import inspection, shards

    for url in urls:
        shards.read_manifest(url)  # before anything starts
    with _spread(options["num_workers"], verbose=request.verbose) as run:
        with bar("looking") as update:
            rows = inspection.inspect(urls, progress=update, run=run)
    features = None
    if options["model"]:
        from raypose import config, runtime
        from raypose.inference import embedding

        settings = config.ModelConfig(backbone=options["model"])
        with runtime.connect(config.ClusterConfig(), verbose=request.verbose):
            with bar("embedding") as update:
                features = np.concatenate(
                    [embedding.embed(url, settings, progress=update) for url in urls]
                )
    groups = inspection.cluster(
        rows,
        max_distance=options["max_distance"],
        features=features,
        min_cosine=options["min_cosine"],
    )
    return rows, groups


def shards_dedupe(request: Request) -> None:
    """List near-duplicates within shards and between."""
    first, *others = request.words
    rows, groups = _inspected(request, request.words, options_of(request, **TWINS))
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
        "  ".join(f"{rows[k].data}/{rows[k].id}" if others else rows[k].id for k in group)
        for group in groups
    ]
    lines.append(
        f"{sum(map(len, groups))} of {len(rows)} pictures in {len(groups)} groups of twins"
    )
    lines += [
        f"{leaks[url]} of {sizes[url]} pictures of {url} have a twin in {first}" for url in others
    ]
    document = {
        "groups": [[{"data": rows[k].data, "id": rows[k].id} for k in group] for group in groups],
        "num_rows": len(rows),
        "twins_in_first": leaks,
    }
    show(request, document, "\n".join(lines))


def shards_split(request: Request) -> None:
    """Divide shards, near-duplicates on one side."""
    from raypose.console import bar
    from raypose.data import packing, splits

    defaults = {"val": 0.1, "test": 0.0, "seed": 0, "rows_per_shard": 256, "overwrite": False}
    options = options_of(request, **defaults, **TWINS)
    source, dest = request.words
    rows, groups = _inspected(request, [source], options)
    shares = {part: options[part] for part in ("val", "test") if options[part]}
    split = splits.assign(rows, groups, shares=shares, seed=options["seed"])
    how = packing.Packing(
        rows_per_shard=options["rows_per_shard"], seed=options["seed"], check=False
    )
    with _spread(options["num_workers"], verbose=request.verbose) as run:
        with bar("splitting") as update:
            written = splits.write(
                source, dest, split, how,
                overwrite=options["overwrite"], progress=update, run=run,
            )  # fmt: skip
    counts = {part: manifest.num_rows for part, manifest in written.items()}
    sizes = ", ".join(f"{part} {count}" for part, count in counts.items())
    text = (
        f"{sizes} at {dest}; {sum(map(len, groups))} pictures in {len(groups)} groups of "
        "near-duplicates, each on one side"
    )
    show(request, {"data": dest, "parts": counts, "groups": len(groups)}, text)


def shards_show(request: Request) -> None:
    """Make a page to look shards over."""
    from raypose.data import sheet

    options = options_of(request, out="shards.html", per_class=6, **TWINS)
    (url,) = request.words
    rows, groups = _inspected(request, [url], options)
    made = sheet.gather(url, rows, groups, per_class=options["per_class"])
    sheet.save(made, options["out"])
    doubtful = [{"id": rows[number].id, "reason": why} for number, why in made.doubtful]
    document = {"data": url, "page": options["out"], "num_rows": len(rows), "doubtful": doubtful}
    show(request, document, f"{sheet.summary(made)}\n{options['out']}")


def synthesize(request: Request) -> None:
    """Draw pictures of postures."""
    from raypose import synthesis
    from raypose.captions import taxonomy
    from raypose.console import bar
    from raypose.data import packing, shards, sources

    defaults = {"taxonomy": "yoga82", "per_class": 100, "size": 128, "seed": 0, "fill": ""}
    options = options_of(request, form="folder", overwrite=False, num_workers=0, **defaults)
    (dest,), size, seed = request.words, options["size"], options["seed"]
    counts = dict.fromkeys(taxonomy.load(options["taxonomy"]).ids, options["per_class"])
    synthesis.drawn(counts)
    if options["fill"]:
        there = shards.read_manifest(options["fill"]).labels
        counts = {label: max(0, count - there.get(label, 0)) for label, count in counts.items()}
    counts = {label: count for label, count in counts.items() if count}
    if options["form"] == "shards":
        with _spread(options["num_workers"], verbose=request.verbose) as run:
            with bar("drawing") as update:
                packing.pack(
                    sources.drawings(counts, size=size, seed=seed), dest,
                    packing.Packing(check=False), overwrite=options["overwrite"],
                    progress=update, run=run,
                )  # fmt: skip
    elif options["form"] == "folder":
        with bar("drawing") as update:
            synthesis.synthesize(Path(dest), counts, size=size, seed=seed, progress=update)
    else:
        raise UsageError(f"form: {options['form']!r} is none; known: folder, shards")
    total = sum(counts.values())
    text = f"drew {total} pictures of {len(counts)} postures in {dest}"
    show(request, {options["form"]: dest, "num_pictures": total}, text)


COMMANDS = {
    "synthesize": Command(f"DEST {PAIRS}", "draw pictures of postures", synthesize),
    "shards build": Command(
        f"SOURCE DEST {PAIRS}", "pack pictures of any source into shards", shards_build
    ),
    "shards split": Command(
        f"DATA DEST {PAIRS}", "divide shards, near-duplicates on one side", shards_split
    ),
    "shards dedupe": Command(
        f"DATA… {PAIRS}",
        "list near-duplicates within shards and between",
        shards_dedupe,
    ),
    "shards show": Command(f"DATA {PAIRS}", "make a page to look shards over", shards_show),
    "shards verify": Command("DATA", "compare shards with their manifest", shards_verify),
}
