"""Parquet files in Hugging Face's layout, shards too."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from raypose import storage
from raypose.captions.taxonomy import Taxonomy
from raypose.console import status
from raypose.data.manifests import MANIFEST, RECORDS, Manifest, read_manifest
from raypose.data.shards import CHECKED
from raypose.data.sources import rules
from raypose.data.sources.listing import Entry, Listing, inside
from raypose.errors import DataError

__all__ = ["list_source", "read_rows"]

FEW_ROWS = 100_000
"""So many rows may take no bytes at all."""


EXPANDED_BYTES = 1 << 30
"""The pictures of any row group may take as much in memory."""


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

    Rows are called by the id column where that tells them apart, else by their pictures' paths
    where these do so in their file, or by file and number.

    Raises:
        DataError: where a file is damaged, has no such columns, or is not what its manifest says.
    """
    listing = Listing(source)
    urls, own = _files(listing, source)
    rows: list[tuple[Entry, str]] = []  # with the id of the id column
    for url in urls:
        with storage.open_file(url) as file, _readable(url):
            rows += _list_file(listing, pq.ParquetFile(file, **CHECKED), url, own)
    ids = [name for _, name in rows]
    unique = all(ids) and len(set(ids)) == len(ids)
    if own and not unique:
        raise DataError(f"{source}: pictures in it bear the same id; build it again")
    if any(ids) and not unique:
        status(f"{source}: its id column does not tell rows apart: rows are called by their place")
    listing.entries = [entry._replace(id=name) if unique else entry for entry, name in rows]
    return listing


def _files(listing: Listing, source: str) -> tuple[list[str], Manifest | None]:
    """Return the files of a source, stamped, and the manifest that they are of."""
    found, loose = inside(source, ".parquet")
    own = None
    if source not in found and storage.exists(storage.join(source, MANIFEST)):
        own = read_manifest(source)
        listed = [storage.join(source, shard.name) for shard in own.shards]
        missing = [url for url in listed if url not in found]
        if missing:
            raise DataError(f"{missing[0]}: not found, and its manifest lists it; build it again")
        found = {url: found[url] for url in listed}
    elif source not in found and storage.exists(storage.join(source, RECORDS)):
        raise DataError(f"{source}: a build that was cut off; give its command again to finish it")
    elif source not in found:
        rules.refuse_named_sets(source, found)
    listing.stamp_containers(found)
    if not own:
        listing.tell_beside(loose)
    return list(found), own


def _list_file(
    listing: Listing, parquet: pq.ParquetFile, url: str, own: Manifest | None
) -> Iterator[tuple[Entry, str]]:
    """Yield the labelled rows of a file, and what its id column says of each.

    The labels of a data set of ours are taken as they are: they were looked at when it was packed.
    """
    columns = _columns(parquet.schema_arrow, where=url)
    _check_packed(parquet, url)
    tables = [
        parquet.read_row_group(group, columns=columns.light)
        for group in range(parquet.num_row_groups)
    ]
    places = _places(tables, columns, f"{url.rpartition('/')[2]}/")
    for group, table in enumerate(tables):
        key = f"{url}#{group}"
        listing.group_bytes[key] = parquet.metadata.row_group(group).total_byte_size
        ids = _own_ids(table) if columns.has_id else [""] * len(table)
        telling = len(set(ids)) == len(ids)
        for row, value in enumerate(table[columns.label].to_pylist()):
            place = next(places)
            name = (telling and ids[row]) or place
            if own and value not in own.labels:
                raise DataError(f"{url}: {name}: its label is not in {MANIFEST}; build it again")
            try:
                label = value if own else rules.label_of(value, columns.class_names)
            except rules.BadLabel as error:
                listing.refuse(name, str(error))
                continue
            if label or own:
                yield Entry(place, label, url, row, group, key), ids[row]
            else:
                listing.leave_out(name, "has no label")


def _check_packed(parquet: pq.ParquetFile, url: str) -> None:
    """Refuse a file of next to no bytes whose rows would fill any memory."""
    for group in range(parquet.num_row_groups):
        told = parquet.metadata.row_group(group)
        if told.num_rows > FEW_ROWS and told.num_rows > told.total_byte_size:
            raise DataError(
                f"{url}: {told.num_rows} rows in {told.total_byte_size} bytes: the same few values "
                "over and over; write each picture once"
            )


def _places(tables: Sequence[pa.Table], columns: _Columns, prefix: str) -> Iterator[str]:
    """Yield each row's picture's path, where these tell all rows apart, or its number."""
    if columns.has_path:
        pictures = (picture for table in tables for picture in table[columns.image].to_pylist())
        paths = [(picture or {}).get("path") for picture in pictures]
        if all(paths) and len(set(paths)) == len(paths):
            yield from (f"{prefix}{path}" for path in paths)
            return
    yield from (f"{prefix}{row:07d}" for row in range(sum(map(len, tables))))


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
            parquet = pq.ParquetFile(file, **CHECKED)
            name = _columns(parquet.schema_arrow, where=url).image
            for group, members in groups.items():
                wanted = {entry.offset: entry.id for entry in members}
                for row, picture in _pictures(parquet, group, name, url):
                    if row in wanted:
                        rows[wanted.pop(row)] = picture
                if wanted:
                    reason = f"row group {group} has fewer rows than it says"
                    raise DataError(f"{url}: cut off or damaged ({reason}); fetch it again")
    return rows


def _pictures(
    parquet: pq.ParquetFile, group: int, name: str, url: str
) -> Iterator[tuple[int, bytes]]:
    """Yield the rows of a group, a few at a time: some of little on disk are large in memory."""
    most = max(EXPANDED_BYTES, 2 * parquet.metadata.row_group(group).total_byte_size)
    row = held = 0
    for batch in parquet.iter_batches(batch_size=64, row_groups=[group], columns=[name]):
        for value in batch.column(0).to_pylist():
            picture = (value.get("bytes") if isinstance(value, Mapping) else value) or b""
            held += len(picture)
            yield row, picture
            row += 1
        if held > most:
            raise DataError(
                f"{url}: the pictures of row group {group} take over {most >> 20} MiB, far more "
                "than the file: the same over and over; write each once"
            )


def _columns(schema: pa.Schema, *, where: str) -> _Columns:
    features = _features(schema)
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise DataError(f"{where}: column {twice[0]!r} is there more than once; keep one")
    image = _image_column(schema, features, where=where)
    label = rules.column(schema.names, rules.LABEL_COLUMNS, where=where)
    feature = features.get(label)
    names = feature.get("names", ()) if isinstance(feature, Mapping) else ()
    kind = schema.field(label).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    whole = pa.types.is_integer(kind) or _is_text(kind)
    if not (whole or pa.types.is_null(kind) or (names and pa.types.is_floating(kind))):
        raise DataError(
            f"{where}: column {label} is {kind}; a label is text or a class number: convert it"
        )
    return _Columns(
        image,
        label,
        list(names) if isinstance(names, Sequence) else (),
        _has_path(schema.field(image).type),
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


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _is_bytes(kind.field(place).type)
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def _has_path(kind: pa.DataType) -> bool:
    place = kind.get_field_index("path") if pa.types.is_struct(kind) else -1
    return place >= 0 and bool(_is_text(kind.field(place).type))


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
        raise _damaged(url, error) from None
    except MemoryError:
        raise DataError(f"{url}: far larger in memory than on disk; write it in parts") from None
    except UnicodeDecodeError:
        raise DataError(f"{url}: text in it is not UTF-8; write its labels and ids anew") from None
    except OSError as error:
        if error.errno is not None or "AWS" in str(error):
            raise
        raise _damaged(url, error) from None  # so does Arrow call what it cannot make out


def _damaged(url: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:120]
    return DataError(f"{url}: cut off or damaged ({reason}); fetch it again")
