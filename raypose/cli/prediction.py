"""Pictures to postures: `classify`, files here, data sets on a cluster."""

from __future__ import annotations

import csv
import glob
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from raypose.cli.evaluation import RELEASE
from raypose.cli.places import check_out, looked_up
from raypose.cli.verbs import Call, Keys, Verb, Word
from raypose.config.section import Count, Fraction
from raypose.config.settings import Config
from raypose.console import bar, one_line, plural, status, waiting
from raypose.errors import DataError, UsageError

__all__ = ["VERBS"]

ENDINGS = (".csv", ".jsonl", ".parquet")
STDIN = "-"


class ClassifyKeys(Keys):
    """What is answered, and where to."""

    top_k: Count = 5
    """Classes to name for each picture."""
    level: Annotated[int, Field(ge=0)] = 0
    """Level of the tree: 0 for classes, 1 for their parents, and so on."""
    abstain_below: Fraction = 0.0
    """Name no class where the best is less probable than this."""
    out: str = ""
    """File to write to, in .csv, .jsonl or .parquet; by default a table is printed."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Workers that label a data set; 0 for as many as the cluster has room for."""
    overwrite: bool = False
    """Write over the table of a data set that is there."""


def classify(call: Call) -> None:
    """Classify pictures here."""
    config, keys = call.config(), call.keys

    reference, *given = call.words
    release = looked_up(config.storage, reference)
    sets = [word for word in given if _is_dataset(word)]
    if sets:
        _label(call, config, release, given)
        return
    if keys.out:
        check_out(keys.out, ENDINGS)
    pictures = list(_found(given))
    with waiting("loading torch and the release"):
        from raypose.data.sources.rules import as_text
        from raypose.releases.model import Model

        model = Model.load(release)
    rows = []
    with bar("classifying") as update:
        contents = [_content(picture) for picture in pictures]
        how = {"top_k": keys.top_k, "level": keys.level, "abstain_below": keys.abstain_below}
        for number, found in enumerate(model.predict_stream(contents, **how), start=1):
            row = {**found.to_dict(), "picture": pictures[number - 1]}
            rows.append(row | {key: as_text(row[key]) for key in ("picture", "error")})
            if len(pictures) > 1:
                update(number, len(pictures))
    if keys.out:
        _write(rows, keys.out)
    document = {"release": str(release), "pictures": rows}
    call.show(document, keys.out or _table(rows))
    bad = [row for row in rows if row["error"]]
    if bad:
        _refuse(len(bad), len(rows), bad[0]["picture"], bad[0]["error"])


def _label(call: Call, config: Config, release: Any, given: Sequence[str]) -> None:
    """Write a table of a data set's pictures, by workers of the cluster."""
    keys = call.keys
    if len(given) > 1:
        raise UsageError(f"classify: {plural(len(given), 'place')}; give one data set at a time")
    if not keys.out:
        raise UsageError(f"classify: {given[0]} is a data set; name a table by out=FILE.parquet")
    check_out(keys.out, (".parquet",))
    with waiting("loading torch, Ray and the release"):
        from raypose import runtime
        from raypose.inference import labelling
        from raypose.releases.model import Model

        model = Model.load(release, device="cpu")  # a GPU is for the workers
    options = labelling.Options(keys.top_k, keys.level, keys.abstain_below)
    how = {"num_workers": keys.num_workers, "overwrite": keys.overwrite}
    try:
        with runtime.connect(config.cluster, verbose=call.verbose), bar("classifying") as update:
            made = labelling.label(model, given[0], keys.out, options, progress=update, **how)
    except (KeyboardInterrupt, SystemExit):
        status("the shards that are done are kept; give the command again to go on")
        raise
    document = {"release": str(release), "data": given[0], "out": keys.out}
    call.show({**document, "num_rows": made.num_rows, "num_bad": made.num_bad}, keys.out)
    if made.first_bad:
        _refuse(made.num_bad, made.num_rows, *made.first_bad)


def _refuse(num_bad: int, num_rows: int, first: str, error: str) -> None:
    """Say at the end how many pictures cannot be read.

    Raises:
        DataError: always.
    """
    raise DataError(
        f"{num_bad} of {plural(num_rows, 'picture')} cannot be read; "
        f"first {first}: {error.removeprefix(f'{first}: ')}"
    )


def _is_dataset(word: str) -> bool:
    from raypose import storage
    from raypose.data.manifests import MANIFEST

    return word != STDIN and storage.is_file(storage.join(word, MANIFEST))


def _found(given: Sequence[str]) -> Iterator[str]:
    """Yield the pictures that files, folders, patterns and ``-`` mean; each is checked at once."""
    from raypose import storage

    for word in given:
        if word == STDIN:
            yield word
            continue
        if storage.is_s3(word) or Path(word).is_dir():
            if inside := _inside(word):
                yield from inside
                continue
        elif not Path(word).exists() and glob.has_magic(word):
            matched = [name for name in glob.glob(word, recursive=True) if Path(name).is_file()]
            if not matched:
                raise DataError(f"{word}: no file matches")
            yield from sorted(matched)
            continue
        if not storage.exists(word):
            raise DataError(f"{word}: not found; check the path")
        yield word


def _inside(folder: str) -> list[str]:
    """Return the pictures below a folder, and say what else there is that may be one.

    The same is passed over as where pictures are packed.

    Raises:
        DataError: where there are files, and no pictures.
    """
    from raypose import storage
    from raypose.data.sources import rules

    there = [(n, stat) for n, stat in storage.walk(folder) if not rules.is_passed_over(n)]
    found = sorted(n for n, stat in there if stat.size >= 0 and rules.ending(n) in rules.PICTURES)
    others = sorted({n for n, _ in there if not rules.is_other(n)} - {*found})
    if others:
        first = rules.as_text(others[0])
        status(f"{folder}: passed over {plural(len(others), 'file')} of other names, as {first}")
    if not found and (there or not storage.is_s3(folder)):
        raise DataError(f"{folder}: holds no picture")
    return [storage.join(folder, name) for name in found]


def _content(picture: str) -> Any:
    return sys.stdin.buffer.read() if picture == STDIN else picture


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay the answers out in columns that line up."""
    rows = [{**row, "picture": one_line(row["picture"])} for row in rows]
    width = max((len(row["picture"]) for row in rows), default=0)
    names = max((len(row["name"] or "–") for row in rows), default=0)
    lines = []
    for row in rows:
        if row["error"]:
            status(f"{row['picture']}: {row['error'].removeprefix(row['picture'] + ': ')}")
            continue
        sure = f"{row['probability']:.3f}" if row["probability"] is not None else ""
        lines.append(f"{row['picture']:<{width}}  {row['name'] or '–':<{names}}  {sure}".rstrip())
    return "\n".join(lines)


def _write(rows: Sequence[dict[str, Any]], url: str) -> None:
    """Write answers as a table or as JSON lines."""
    from raypose import storage

    columns = ("picture", "label", "name", "probability", "error")
    if url.endswith(".jsonl"):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        storage.write_bytes(url, text.encode())
    elif url.endswith(".csv"):
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        storage.write_bytes(url, buffer.getvalue().encode())
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(list(rows)), sink)
        storage.write_bytes(url, sink.getvalue().to_pybytes())


VERBS = (
    Verb(
        "classify",
        (RELEASE, Word("PICTURE", "files, folders, patterns, -, or one data set", many=True)),
        "classify pictures here, or a data set on a cluster",
        classify,
        (
            "raypose classify postures photo.jpg",
            "raypose classify ./release photos out=results.csv abstain_below=0.5",
            "raypose classify postures s3://bucket/shards out=s3://bucket/labels.parquet",
        ),
        ClassifyKeys,
        ("storage", "cluster"),
    ),
)
