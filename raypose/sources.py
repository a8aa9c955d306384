"""Where pictures come from: what each kind of source lists, and how one of its pictures is read.

A source is listed first, without its pictures, and read later, piece by piece and anywhere: an
entry says where a picture lies, be it a file, a stretch of a tar, a row of Parquet, or a drawing
still to be made. Only entries are held for all pictures, some hundred bytes each; pictures are held
a shard, or a few row groups of Parquet, at a time. Nothing is unpacked to disk.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raypose import images, storage, synthesis, taxonomy
from raypose.errors import DataError, UsageError, did_you_mean
from raypose.taxonomy import Taxonomy

__all__ = [
    "KINDS",
    "MANIFEST",
    "RECORDS",
    "Entry",
    "Listing",
    "Rejected",
    "drawings",
    "find",
    "opened",
]

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path")
LABEL_COLUMNS = ("label", "labels", "class", "posture", "pose")
DRAWN = "draw:"
MANIFEST = "MANIFEST.json"
"""What closes a folder of shards: see `shards`."""
RECORDS = "_building"
"""What lies in one that is being built."""


class Entry(NamedTuple):
    """Where one picture lies.

    `offset` and `size` are bytes in a tar, a row of Parquet, or the seed and side of a drawing.
    Entries with the same `group` are read together.
    """

    id: str
    label: str
    url: str
    offset: int = 0
    size: int = -1
    group: str = ""


class Rejected(NamedTuple):
    """A picture left out, and why."""

    id: str
    reason: str


@dataclass
class Listing:
    """What a source holds.

    Attributes:
        source: its location.
        entries: its pictures; ids are unique.
        rejected: what was seen to be unusable without reading it.
        listed: pictures of each class that a list names, where there is a list.
    """

    source: str
    entries: list[Entry] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    listed: dict[str, int] = field(default_factory=dict)


def find(
    source: str, *, kind: str = "auto", pictures: str = "", classes: Taxonomy | None = None
) -> Listing:
    """List a source.

    Args:
        source: file or folder, local or on S3.
        kind: one of `KINDS`, or auto: told from names.
        pictures: folder that the paths of a list are relative to; by default the list's own.
        classes: where given, labels must be in it, and class numbers are looked up in it.

    Raises:
        UsageError: where there is no such kind.
        DataError: where the source cannot be read or holds nothing, or two of its labels are one
            class.
        TaxonomyError: where a label is not in the taxonomy.
    """
    if kind not in ("auto", *KINDS):
        raise UsageError(f"kind: no {kind!r}{did_you_mean(kind, KINDS)}; known: {', '.join(KINDS)}")
    chosen = _guess(source) if kind == "auto" else kind
    listing = KINDS[chosen](source, pictures or source.rpartition("/")[0] or ".", classes)
    if listing.listed and not listing.entries:
        raise DataError(
            f"{source}: none of the {sum(listing.listed.values())} pictures that it lists is in "
            f"{pictures or 'its folder'}; download them, or say where they are by pictures="
        )
    if not listing.entries:
        raise DataError(f"{source}: no pictures found, read as {chosen}; {EXPECTED[chosen]}")
    listing.entries = list(_numbered(listing, classes))
    _unmixed(listing, classes)
    _once(listing)
    return listing


def opened(entries: Sequence[Entry]) -> Callable[[Entry], bytes]:
    """Return what reads each of some entries; rows of Parquet are read here, all others when asked.

    What is returned raises NotFoundError where the picture is not there.
    """
    rows = _parquet_rows([entry for entry in entries if entry.group])

    def read(entry: Entry) -> bytes:
        if entry.group:
            return rows[entry.id]
        if entry.url.startswith(DRAWN):
            label = entry.url.removeprefix(DRAWN)
            picture = synthesis.render(label, seed=entry.offset, size=entry.size)
            return images.encode(np.asarray(picture))
        return storage.read_bytes(entry.url, offset=entry.offset, size=entry.size)

    return read


def drawings(counts: Mapping[str, int], *, size: int, seed: int) -> Listing:
    """List pictures to be drawn: so many of each posture, numbered from `seed` on."""
    entries = [
        Entry(f"{label}/{number:06d}.jpg", label, f"{DRAWN}{label}", number, size)
        for label, count in counts.items()
        for number in range(seed, seed + count)
    ]
    return Listing("drawings", entries)


def _guess(source: str) -> str:
    if source.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")):
        raise DataError(f"{source}: a compressed tar cannot be read in places; unpack it to .tar")
    by_ending = {".csv": "csv", ".txt": "yoga82", ".tar": "webdataset", ".parquet": "parquet"}
    ending = PurePosixPath(source).suffix
    if ending in by_ending:
        return by_ending[ending]
    endings = {PurePosixPath(name).suffix for name in storage.list_files(source)}
    return next((by_ending[e] for e in (".parquet", ".tar") if e in endings), "imagefolder")


def _image_folder(source: str, pictures: str, classes: Taxonomy | None) -> Listing:
    listing = Listing(source)
    for name in storage.list_files(source, recursive=True):
        if "/" in name:
            label = name.rsplit("/", 2)[-2]
            listing.entries.append(Entry(name, label, storage.join(source, name)))
        else:
            listing.rejected.append(Rejected(name, "not in a class folder"))
    seen = {part for entry in listing.entries for part in entry.id.split("/")[:-1]}
    empty = (folder for folder in storage.list_folders(source) if folder not in seen)
    listing.rejected += [Rejected(f"{name}/", "class folder holds no picture") for name in empty]
    return listing


def _yoga82(source: str, pictures: str, classes: Taxonomy | None) -> Listing:
    """Read a list of Yoga-82: ``folder/file.jpg,level 6,level 20,class``."""
    cards = (classes or taxonomy.load("yoga82")).cards
    there = set(storage.list_files(pictures, recursive=True))
    listing, listed = Listing(source), Counter[str]()
    above: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(storage.read_bytes(source).decode().splitlines(), start=1):
        if not line.strip():
            continue
        path, *levels = (part.strip() for part in line.rsplit(",", 3))
        where = f"{source}: line {number}"
        if len(levels) != 3 or not all(map(str.isdigit, levels)) or "/" not in path:
            raise DataError(f"{where}: expected folder/file,level 6,level 20,class; found {line!r}")
        folder, six, twenty, label = path.split("/")[0], *levels
        if int(label) >= len(cards) or cards[int(label)].id != folder:
            owner = cards[int(label)].id if int(label) < len(cards) else "none"
            raise DataError(f'{where}: folder "{folder}" is class {label}, which is "{owner}"')
        if above.setdefault(label, (six, twenty)) != (six, twenty):
            raise DataError(f"{where}: class {label} lies under two parents")
        listed[folder] += 1
        if path in there:
            listing.entries.append(Entry(path, folder, storage.join(pictures, path)))
    listing.listed = dict(sorted(listed.items()))
    return listing


def _csv(source: str, pictures: str, classes: Taxonomy | None) -> Listing:
    text = io.StringIO(storage.read_bytes(source).decode("utf-8-sig"))
    reader = csv.DictReader(text)
    path_column = _column(reader.fieldnames or (), PATH_COLUMNS, where=source)
    label_column = _column(reader.fieldnames or (), LABEL_COLUMNS, where=source)
    listing = Listing(source)
    for row in reader:
        path, label = (row[path_column] or "").strip(), (row[label_column] or "").strip()
        if not path or not label:
            listing.rejected.append(
                Rejected(path or f"line {reader.line_num}", "has no label" if path else "no path")
            )
            continue
        whole = path.startswith(("/", "s3://"))
        listing.entries.append(Entry(path, label, path if whole else storage.join(pictures, path)))
    return listing


def _webdataset(source: str, pictures: str, classes: Taxonomy | None) -> Listing:
    listing = Listing(source)
    tars = [source] if source.endswith(".tar") else _inside(source, ".tar")
    for tar in tars:
        prefix = f"{PurePosixPath(tar).stem}/" if len(tars) > 1 else ""
        labels: dict[str, str] = {}
        found: list[tuple[str, Entry]] = []
        for member, content in _members(tar):
            path = PurePosixPath(member.name)
            key = str(path.with_name(path.name.partition(".")[0]))
            if path.suffix.lower() in PICTURES:
                folder = path.parent.name
                place = Entry(prefix + member.name, folder, tar, member.offset_data, member.size)
                found.append((key, place))
            elif content is not None:
                labels[key] = _label_of(content, path.suffix, where=f"{tar}: {member.name}")
        for key, entry in found:
            label = labels.get(key, entry.label)
            if label:
                listing.entries.append(entry._replace(label=label))
            else:
                reason = "has no label: no .cls or .json beside it, and no folder"
                listing.rejected.append(Rejected(entry.id, reason))
    return listing


def _members(tar: str) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """Yield the files of a tar in one pass, with the content of those that hold labels."""
    name, count = "its first file", 0
    try:
        with storage.open_stream(tar) as (stream, num_bytes):
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # they pile up otherwise
                    name, count = member.name, count + member.isfile()
                    if not member.isfile():
                        continue
                    file = archive.extractfile(member)
                    labelled = PurePosixPath(member.name).suffix in (".cls", ".json")
                    yield member, file.read() if labelled and file else None
                if archive.offset + tarfile.BLOCKSIZE > num_bytes:  # a whole one ends with zeros
                    raise tarfile.ReadError("unexpected end of data")
    except tarfile.TarError as error:
        raise DataError(
            f"{tar}: cut off or damaged at {name}, after {count} files ({error}); fetch it again"
        ) from None


def _label_of(content: bytes, suffix: str, *, where: str) -> str:
    if suffix == ".cls":
        return content.decode(errors="replace").strip()
    try:
        document = json.loads(content)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error})") from None
    found = document if isinstance(document, Mapping) else {}
    return str(next((found[key] for key in LABEL_COLUMNS if key in found), "")).strip()


def _parquet(source: str, pictures: str, classes: Taxonomy | None) -> Listing:
    listing = Listing(source)
    unfinished = storage.exists(storage.join(source, RECORDS))
    if unfinished and not storage.exists(storage.join(source, MANIFEST)):
        raise DataError(f"{source}: a build that was cut off; give its command again to finish it")
    files = [source] if source.endswith(".parquet") else _inside(source, ".parquet")
    for url in files:
        name = url.rpartition("/")[2]
        with storage.open_file(url) as file, _readable(url):
            parquet = pq.ParquetFile(file)
            schema = parquet.schema_arrow
            image = schema.field(_image_column(schema, where=url))
            label = _column(schema.names, LABEL_COLUMNS, where=url)
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


def _parquet_rows(entries: Sequence[Entry]) -> dict[str, bytes]:
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
    for column in schema:
        kind = column.type
        named = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        if named or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return str(column.name)
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


def _column(found: Sequence[str], known: Sequence[str], *, where: str) -> str:
    for name in known:
        if name in found:
            return name
    there = ", ".join(found) or "none"
    raise DataError(f'{where}: no column "{known[0]}"; found {there}; name one {known[0]}')


def _inside(folder: str, ending: str) -> list[str]:
    names = storage.list_files(folder)
    return [storage.join(folder, name) for name in names if name.endswith(ending)]


def _numbered(listing: Listing, classes: Taxonomy | None) -> Iterator[Entry]:
    """Put card ids in place of class numbers, where a taxonomy has that many classes."""
    known = classes.index() if classes else {}
    for entry in listing.entries:
        label = entry.label
        if classes and label not in known and label.isdecimal() and int(label) < len(classes):
            entry = entry._replace(label=classes.ids[int(label)])
        yield entry


def _unmixed(listing: Listing, classes: Taxonomy | None) -> None:
    """Refuse labels that no class has, and two labels of one class."""
    labels = sorted({entry.label for entry in listing.entries})
    known = classes.index() if classes else {}
    if classes:
        classes.require(labels, where=listing.source)
    owner: dict[Any, str] = {}
    for label in labels:
        key = known.get(label, re.sub(r"[\s_-]+", " ", label).strip().casefold())
        other = owner.setdefault(key, label)
        if other != label:
            name = f'class "{classes.ids[key]}"' if classes and isinstance(key, int) else "one"
            raise DataError(
                f'{listing.source}: "{other}" and "{label}" are both {name}; merge them in one '
                "folder or under one label"
            )


def _once(listing: Listing) -> None:
    """Keep the first of entries with one id, and name the others."""
    kept: dict[str, Entry] = {}
    for entry in listing.entries:
        if kept.setdefault(entry.id, entry) is not entry:
            listing.rejected.append(Rejected(entry.id, "listed twice"))
    listing.entries = list(kept.values())


@contextmanager
def _readable(url: str) -> Iterator[None]:
    """Say which Parquet file cannot be read."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{url}: cut off or damaged ({reason}); fetch it again") from None


KINDS: Mapping[str, Callable[[str, str, Taxonomy | None], Listing]] = {
    "imagefolder": _image_folder,
    "yoga82": _yoga82,
    "webdataset": _webdataset,
    "parquet": _parquet,
    "csv": _csv,
}
"""Kind of source → what lists it."""

EXPECTED = {
    "imagefolder": "expected one folder for each class",
    "yoga82": "expected lines of folder/file.jpg,level 6,level 20,class",
    "webdataset": "expected pictures, each with a .cls or .json beside it or in a class folder",
    "parquet": "expected rows of image and label",
    "csv": "expected lines of path and label below a header",
}
