"""A data set of any size → a table of what a release takes its pictures for.

Workers leave a part for each shard, in a folder beside the table: what was cut off goes on from
there. The table is put together from the parts in the order of the shards, some at a time, and is
there whole or not at all; then the parts go. A part is made of its shard alone, in batches that
follow from it, so that the table does not depend on who made which part, and when.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from raypose import storage
from raypose.clip import text
from raypose.config import document_hash, dump
from raypose.data import Batch, Decode, claims
from raypose.data.manifests import Manifest, read_manifest
from raypose.data.shards import manifest_hash
from raypose.errors import DataError
from raypose.inference import pool
from raypose.inference.embedding import Progress
from raypose.releases import Model, Predicted, Predictor

__all__ = ["FORMAT", "Labelled", "Options", "join", "label", "parts_url"]

FORMAT = "raypose-labels/1"


OURS = r"part-(?P<number>[0-9]{5,})-(?P<plan>[0-9a-f]{16})\.parquet"
"""Names of what lies beside a table until it is whole. A worker whose run has ended may yet write a
part, which is not to be taken for one of another plan."""


GROUP_ROWS = 1 << 16
"""Of the table, that are written together."""


@dataclass(frozen=True)
class Options:
    """What is answered for each picture.

    Attributes:
        top_k: classes to list, most probable first; 1 for no lists.
        level: 0 names classes; from 1 on parents in the tree, nearest first.
        abstain_below: in 0..1; where the best is less probable, none is named.
    """

    top_k: int = 1
    level: int = 0
    abstain_below: float = 0.0

    @property
    def schema(self) -> pa.Schema:
        """Columns of the table."""
        lists = [
            ("top_labels", pa.list_(pa.string())),
            ("top_probabilities", pa.list_(pa.float32())),
        ]
        return pa.schema(
            [
                ("id", pa.string()),
                ("label", pa.string()),
                ("predicted", pa.string()),
                ("name", pa.string()),
                ("probability", pa.float32()),
                *(lists if self.top_k > 1 else ()),
                ("error", pa.string()),
            ]
        )


@dataclass(frozen=True)
class Labelled:
    """What a table holds.

    Attributes:
        num_rows: pictures.
        num_bad: of them, that cannot be read.
        first_bad: id and error of the first of these; empty where there is none.
    """

    num_rows: int
    num_bad: int
    first_bad: tuple[str, str] | tuple[()] = ()


@dataclass(frozen=True)
class _Labelling:
    """`pool.Work`: writes a shard's part, and returns its rows."""

    predictor: Predictor
    decode: Decode
    labels: Sequence[str]
    options: Options
    parts: str
    plan: str

    def to(self, device: torch.device) -> None:
        self.predictor.to(device)

    def shard(self, number: int, batches: Iterator[Batch]) -> int:
        rows = [row for batch in batches for row in self._rows(batch)]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=self.options.schema), sink)
        storage.write_bytes(_part(self.parts, number, self.plan), memoryview(sink.getvalue()))
        return len(rows)

    def _rows(self, batch: Batch) -> Iterator[dict[str, Any]]:
        good, how = batch.good(), self.options
        chances = iter(self.predictor.probabilities(good.pixels.numpy()) if good else ())
        for key, target, error in zip(batch.ids, batch.targets.tolist(), batch.errors, strict=True):
            found = Predicted(key, error=error)
            if not error:
                found = self.predictor.predicted(
                    key,
                    next(chances),
                    top_k=how.top_k,
                    level=how.level,
                    abstain_below=how.abstain_below,
                )
            yield {
                "id": key,
                "label": self.labels[target],
                "predicted": found.label,
                "name": found.name,
                "probability": found.probability,
                "top_labels": [one.label for one in found.top],
                "top_probabilities": [one.probability for one in found.top],
                "error": found.error,
            }


def label(
    model: Model,
    url: str,
    out: str,
    options: Options,
    *,
    num_workers: int = 0,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> Labelled:
    """Write a table of what a release takes every picture of a data set for; Ray is connected.

    Args:
        model: the release, sent to the workers.
        url: of the data set.
        out: Parquet file to write, where the workers see it.
        options: what is answered.
        num_workers: 0 for as many as the cluster has room for and the pictures are worth.
        overwrite: write over a table that is there.
        progress: called with (pictures done, in all), shard by shard.

    Raises:
        UsageError: for a level that the tree has not.
        DataError: where there is no data set, a table is there already, or the folder of the parts
            holds other things.
        ConflictError: where another is at it.
    """
    model.check(**asdict(options))
    url, out = storage.absolute(url), storage.absolute(out)
    manifest = read_manifest(url)
    plan = _plan(model, url, options)
    parts = parts_url(out)
    digest = document_hash(plan)[:16]
    if not overwrite and _is_done(out, parts, plan):
        with claims.hold(parts, what=out):
            _sweep(parts)
        return _counted(out)
    _check_room(out, parts, overwrite=overwrite)
    begun = time.time()
    with claims.hold(parts, what=out) as check:
        done = _resume(parts, digest)
        predictor, labels = model.predictor, sorted(manifest.labels)
        decode = predictor.decode({name: number for number, name in enumerate(labels)})
        work = _Labelling(predictor, decode, labels, options, parts, digest)
        shards = list(enumerate(manifest.shards))
        num_done = sum(shard.num_rows for number, shard in shards if number in done)
        if num_done:
            progress(num_done, manifest.num_rows)
        todo = [one for one in shards if one[0] not in done]
        for num_rows in pool.run(work, url, todo, num_workers=num_workers):
            check()
            num_done += num_rows
            progress(num_done, manifest.num_rows)
        made = join(out, parts, manifest, options, plan)
        _sweep(parts)
        _clear_torn(out, begun)
    return made


def parts_url(out: str) -> str:
    """Return the folder of the parts of a table."""
    above, _, name = out.rpartition("/")
    return storage.join(above, f"_{name}.parts")


def _plan(model: Model, url: str, options: Options) -> dict[str, Any]:
    """Return what a table follows from: the weights themselves, not only the release's name."""
    predictor = model.predictor
    scale, config = predictor.logit_scale, dump(model.config)
    weights = text.digest(predictor.clip.model, image=True)
    head = storage.sha256(predictor.classifier.cpu().contiguous().numpy().tobytes())
    how = [weights, head, scale, config["model"], config["data"], model.taxonomy.to_dict()]
    return {
        "format": FORMAT,
        "release": model.release,
        "model": document_hash(how),
        "data": manifest_hash(url),
        "options": asdict(options),
    }


def _check_room(out: str, parts: str, *, overwrite: bool) -> None:
    """Refuse to write over a table, or into a folder that holds other things."""
    strange = [name for name in storage.list_files(parts, recursive=True) if not _is_ours(name)]
    if strange or storage.is_link(parts):
        what = f"holds {strange[0]}" if strange else "is a link"
        raise DataError(f"{parts}: {what}, which is nothing of raypose's; move it, or name another")
    if storage.exists(out) and not overwrite:
        raise DataError(f"{out}: is there already; name another file, or overwrite=true")


def _is_done(out: str, parts: str, plan: dict[str, Any]) -> bool:
    """Tell whether a table is this one, which was cut off before its parts were cleared away."""
    ours = any(re.fullmatch(OURS, name) for name in storage.list_files(parts))
    if not ours or not storage.exists(out):
        return False
    with storage.open_file(out) as file:
        try:
            noted = (pq.ParquetFile(file).schema_arrow.metadata or {}).get(b"raypose", b"")
        except pa.ArrowException:
            return False
    return bool(noted == json.dumps(plan, sort_keys=True).encode())


def _counted(out: str) -> Labelled:
    """Return what a table holds."""
    with storage.open_file(out) as file:
        table = pq.read_table(file, columns=["id", "error"])
    bad = table.filter(pc.not_equal(table["error"], ""))
    first = (bad["id"][0].as_py(), bad["error"][0].as_py()) if len(bad) else ()
    return Labelled(len(table), len(bad), first)


def _is_ours(name: str) -> bool:
    return bool(re.fullmatch(rf"{OURS}|{re.escape(claims.CLAIM)}", name))


def _resume(parts: str, plan: str) -> set[int]:
    """Return the numbers of the shards whose parts are there; sweep away those of another plan."""
    done = set()
    for name in storage.list_files(parts):
        match = re.fullmatch(OURS, name)
        if match and match["plan"] == plan:
            done.add(int(match["number"]))
        elif match:
            storage.delete_file(storage.join(parts, name))
    return done


def join(
    out: str, parts: str, manifest: Manifest, options: Options, plan: dict[str, Any]
) -> Labelled:
    """Write the table from its parts, in order, holding `GROUP_ROWS` and a part."""
    schema = options.schema.with_metadata({"raypose": json.dumps(plan, sort_keys=True)})
    num_bad, digest = 0, document_hash(plan)[:16]
    first: tuple[str, str] | tuple[()] = ()
    held: list[pa.Table] = []
    with storage.new_file(out) as file, pq.ParquetWriter(file, schema) as writer:
        for number, shard in enumerate(manifest.shards):
            place = _part(parts, number, digest)
            table = pq.read_table(pa.BufferReader(storage.read_bytes(place)), use_threads=False)
            if len(table) != shard.num_rows:
                raise DataError(
                    f"{place}: {len(table)} rows where {shard.name} has {shard.num_rows}; delete "
                    "it, and give the command again"
                )
            bad = table.filter(pc.not_equal(table["error"], ""))
            num_bad += len(bad)
            if len(bad) and not first:
                first = (bad["id"][0].as_py(), bad["error"][0].as_py())
            held.append(table)
            if sum(map(len, held)) >= GROUP_ROWS:
                writer.write_table(pa.concat_tables(held))
                held = []
        if held:
            writer.write_table(pa.concat_tables(held))
    return Labelled(manifest.num_rows, num_bad, first)


def _sweep(parts: str) -> None:
    for name in storage.list_files(parts):
        if re.fullmatch(OURS, name):
            storage.delete_file(storage.join(parts, name))


def _clear_torn(out: str, begun: float) -> None:
    """Delete what was being written when it was cut off."""
    above, _, name = out.rpartition("/")
    storage.clear_parts(above, re.escape(name), before=begun)
    storage.clear_parts(parts_url(out), OURS, before=begun)


def _part(parts: str, number: int, plan: str) -> str:
    return storage.join(parts, f"part-{number:05d}-{plan}.parquet")
