"""Parquet files in Hugging Face's layout, shards too."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from raypose import storage
from raypose.captions.taxonomy import Taxonomy
from raypose.console import status
from raypose.data.manifests import MANIFEST, RECORDS, Rejected, read_manifest
from raypose.data.sources import rules
from raypose.data.sources.listing import Entry, Listing, inside
from raypose.disks import Stat
from raypose.errors import DataError

__all__ = ["list_source", "read_rows"]

IMAGE_COLUMNS = ("image", "img", "picture", "photo", "image_bytes", "jpg", "jpeg", "png")


@dataclass(frozen=True)
class _Columns:
    """Which columns of a file hold what."""

    image: str
    label: str
    class_names: Sequence[str]
    has_path: bool
    has_id: bool

    @property
    def light(self) -> list[str]:
        """Those that are read to list a file: all but the pictures."""
        path = [f"{self.image}.path"] if self.has_path else []
        return [self.label, *(["id"] if self.has_id else []), *path]


def list_source(source: str, pictures: str, classes: Taxonomy | None) -> Listing:
    """List the rows of a file, or of the files of a folder; where a manifest lies, it is the list.

    Rows are called by the id column where that tells them apart, else by their pictures' paths, or
    by file and number.
    """
    listing = Listing(source)
    rows: list[tuple[Entry, str]] = []  # with the id of the id column
    for url in _files(listing, source):
        with storage.open_file(url) as file, _readable(url):
            parquet = pq.ParquetFile(file)
            rows += _list_file(listing, parquet, url)
    ids = [own for _, own in rows]
    unique = all(ids) and len(set(ids)) == len(ids)
    if any(ids) and not unique:
        status(f"{source}: its id column does not tell rows apart: rows are called by their place")
    listing.entries = [entry._replace(id=own) if unique else entry for entry, own in rows]
    return listing


def _files(listing: Listing, source: str) -> list[str]:
    """Return the files of a source, and stamp them."""
    if source.lower().endswith(".parquet"):
        above, _, name = source.rpartition("/")
        stats = storage.list_stats(above or ".")
        listing.stamp_files(sorted(({name: stats[name]} if name in stats else {}).items()))
        return [source]
    found = inside(source, ".parquet")
    if storage.exists(storage.join(source, MANIFEST)):
        listed = [storage.join(source, shard.name) for shard in read_manifest(source).shards]
        missing = [url for url in listed if url not in found]
        if missing:
            raise DataError(f"{missing[0]}: not found, and its manifest lists it; build it again")
        found = {url: found[url] for url in listed}
    elif storage.exists(storage.join(source, RECORDS)):
        raise DataError(f"{source}: a build that was cut off; give its command again to finish it")
    else:
        _refuse_sets(source, found)
    listing.stamp_files(sorted((found).items()))
    return list(found)


def _refuse_sets(source: str, urls: Mapping[str, Stat]) -> None:
    """Refuse files named as several sets, as Hugging Face names them: train-00000-of-00002."""
    firsts = {url.rpartition("/")[2].split("-")[0].split(".")[0] for url in urls}
    sets = rules.sets_among(firsts)
    if len(sets) > 1:
        raise DataError(
            f"{source}: holds sets side by side ({', '.join(sets)}); put the files of each in a "
            "folder of its own and pack each"
        )


def _list_file(listing: Listing, parquet: pq.ParquetFile, url: str) -> Iterator[tuple[Entry, str]]:
    """Yield the labelled rows of a file, and what its id column says of each."""
    columns = _columns(parquet.schema_arrow, where=url)
    name = url.rpartition("/")[2]
    first = 0
    for group in range(parquet.num_row_groups):
        table = parquet.read_row_group(group, columns=columns.light)
        key = f"{url}#{group}"
        listing.group_bytes[key] = parquet.metadata.row_group(group).total_byte_size
        labels = table[columns.label].to_pylist()
        places = _places(table, columns, f"{name}/", first)
        own = _own_ids(table) if columns.has_id else [""] * len(labels)
        for row, value in enumerate(labels):
            try:
                label = rules.label_of(value, columns.class_names)
            except rules.BadLabel as error:
                listing.refuse(own[row] or places[row], str(error))
                continue
            if not label:
                listing.rejected.append(Rejected(own[row] or places[row], "has no label"))
                continue
            yield Entry(places[row], label, url, row, group, key), own[row]
        first += len(table)


def _places(table: pa.Table, columns: _Columns, prefix: str, first: int) -> list[str]:
    """Return each row's picture's path, where these tell rows apart, or its number in the file."""
    if columns.has_path:
        paths = [(picture or {}).get("path") for picture in table[columns.image].to_pylist()]
        if all(paths) and len(set(paths)) == len(paths):
            return [f"{prefix}{path}" for path in paths]
    return [f"{prefix}{row:07d}" for row in range(first, first + len(table))]


def _own_ids(table: pa.Table) -> list[str]:
    """Return what the id column says of each row; empty where that is no name."""
    return [
        str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
        for value in table["id"].to_pylist()
    ]


def read_rows(entries: Sequence[Entry]) -> dict[str, bytes]:
    """Read the pictures of some rows, group by group; each file is opened once."""
    rows: dict[str, bytes] = {}
    files: dict[str, dict[int, list[Entry]]] = {}
    for entry in entries:
        files.setdefault(entry.url, {}).setdefault(entry.size, []).append(entry)
    for url, groups in files.items():
        with storage.open_file(url) as file, _readable(url):
            parquet = pq.ParquetFile(file)
            name = _columns(parquet.schema_arrow, where=url).image
            for group, members in groups.items():
                table = parquet.read_row_group(group, columns=[name])
                pictures = table[name].take([entry.offset for entry in members]).to_pylist()
                for entry, picture in zip(members, pictures, strict=True):
                    found = picture.get("bytes") if isinstance(picture, Mapping) else picture
                    rows[entry.id] = found or b""
    return rows


def _columns(schema: pa.Schema, *, where: str) -> _Columns:
    features = _features(schema)
    image = _image_column(schema, features, where=where)
    label = rules.column(schema.names, rules.LABEL_COLUMNS, where=where)
    feature = features.get(label)
    names = feature.get("names", ()) if isinstance(feature, Mapping) else ()
    kind = schema.field(label).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    whole = pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (whole or pa.types.is_null(kind) or (names and pa.types.is_floating(kind))):
        raise DataError(
            f"{where}: column {label} is {kind}; a label is text or a class number: convert it"
        )
    return _Columns(
        image,
        label,
        [str(name) for name in names] if isinstance(names, Sequence) else (),
        _has(schema.field(image).type, "path"),
        "id" in schema.names,
    )


def _image_column(schema: pa.Schema, features: Mapping[str, object], *, where: str) -> str:
    """Return the column of pictures: the one that says it is, or is named so, or the only one."""
    able = [field.name for field in schema if _holds_bytes(field.type)]
    said = [
        name
        for name in able
        if isinstance(feature := features.get(name), Mapping) and feature.get("_type") == "Image"
    ]
    for found in (said, [one for name in IMAGE_COLUMNS for one in able if one.lower() == name]):
        if len(found) == 1 or (found and found[0].lower() == IMAGE_COLUMNS[0]):
            return str(found[0])
    if len(able) == 1:
        return str(able[0])
    if able:
        raise DataError(
            f"{where}: pictures may be in any of {', '.join(able)}; name the column image"
        )
    raise DataError(
        f"{where}: no column of pictures, found {', '.join(schema.names)}; expected "
        "image: struct<bytes, path>, as Hugging Face writes it"
    )


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _holds_bytes(kind.field(place).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _has(kind: pa.DataType, name: str) -> bool:
    return bool(pa.types.is_struct(kind) and kind.get_field_index(name) >= 0)


def _features(schema: pa.Schema) -> Mapping[str, object]:
    """Return what Hugging Face's metadata say of the columns; nothing where they are malformed."""
    try:
        document = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        found = document["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, Mapping) else {}


@contextmanager
def _readable(url: str) -> Iterator[None]:
    """Say which Parquet file cannot be read."""
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowKeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{url}: cut off or damaged ({reason}); fetch it again") from None
