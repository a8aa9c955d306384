"""Parquet files in Hugging Face's layout, shards too."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from raypose import storage
from raypose.captions.taxonomy import Taxonomy
from raypose.data.sources.listing import (
    LABEL_COLUMNS,
    MANIFEST,
    RECORDS,
    Entry,
    Listing,
    Rejected,
    column,
    inside,
)
from raypose.errors import DataError

__all__ = ["list_source", "read_rows"]


def list_source(source: str, pictures: str, classes: Taxonomy | None) -> Listing:
    """List the rows of a file, or of the files of a folder."""
    listing = Listing(source)
    unfinished = storage.exists(storage.join(source, RECORDS))
    if unfinished and not storage.exists(storage.join(source, MANIFEST)):
        raise DataError(f"{source}: a build that was cut off; give its command again to finish it")
    files = [source] if source.endswith(".parquet") else inside(source, ".parquet")
    for url in files:
        name = url.rpartition("/")[2]
        with storage.open_file(url) as file, _readable(url):
            parquet = pq.ParquetFile(file)
            schema = parquet.schema_arrow
            image = schema.field(_image_column(schema, where=url))
            label = column(schema.names, LABEL_COLUMNS, where=url)
            class_names = _class_names(schema, label)
            wanted = [label, *(["id"] if "id" in schema.names else [])]
            wanted += [f"{image.name}.path"] if pa.types.is_struct(image.type) else []
            first = 0
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group, columns=wanted)
                labels = table[label].to_pylist()
                ids = _row_ids(table, image.name, f"{name}/", first)
                for row, (key, value) in enumerate(zip(ids, labels, strict=True)):
                    told = class_names[value] if class_names and isinstance(value, int) else value
                    if told is None or told == "":
                        listing.rejected.append(Rejected(key, "has no label"))
                        continue
                    place = Entry(key, str(told), url, row, group, f"{url}#{group}")
                    listing.entries.append(place)
                first += len(table)
    return listing


def _row_ids(table: pa.Table, image: str, prefix: str, first: int) -> list[str]:
    """Return each row's id column, or its picture's path, or its place in the file."""
    rows = range(first, first + len(table))
    if "id" in table.column_names:
        return [str(key) for key in table["id"].to_pylist()]
    if image in table.column_names:
        paths = [(picture or {}).get("path") for picture in table[image].to_pylist()]
        if all(paths) and len(set(paths)) == len(paths):
            return [f"{prefix}{path}" for path in paths]
    return [f"{prefix}{row:07d}" for row in rows]


def read_rows(entries: Sequence[Entry]) -> dict[str, bytes]:
    """Read the pictures of some rows, group by group."""
    rows: dict[str, bytes] = {}
    groups: dict[tuple[str, int], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.url, entry.size), []).append(entry)
    for (url, group), members in groups.items():
        with storage.open_file(url) as file, _readable(url):
            parquet = pq.ParquetFile(file)
            name = _image_column(parquet.schema_arrow, where=url)
            table = parquet.read_row_group(group, columns=[name])
            pictures = table[name].take([entry.offset for entry in members]).to_pylist()
        for entry, picture in zip(members, pictures, strict=True):
            content = picture.get("bytes") if isinstance(picture, Mapping) else picture
            rows[entry.id] = content or b""
    return rows


def _image_column(schema: pa.Schema, *, where: str) -> str:
    for candidate in schema:
        kind = candidate.type
        named = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        if named or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return str(candidate.name)
    raise DataError(
        f"{where}: no column of pictures, found {', '.join(schema.names)}; expected "
        "image: struct<bytes, path>, as Hugging Face writes it"
    )


def _class_names(schema: pa.Schema, label: str) -> Sequence[str]:
    """Return the names behind class numbers, where Hugging Face's metadata give them."""
    document = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = document.get("info", {}).get("features", {}).get(label, {})
    names: Sequence[str] = feature.get("names", ()) if isinstance(feature, Mapping) else ()
    return names


@contextmanager
def _readable(url: str) -> Iterator[None]:
    """Say which Parquet file cannot be read."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{url}: cut off or damaged ({reason}); fetch it again") from None
