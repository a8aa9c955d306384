"""Tars in the form of WebDataset: a picture with its label beside it, or in a class folder."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from raypose import storage
from raypose.captions.taxonomy import Taxonomy
from raypose.data.sources.listing import (
    LABEL_COLUMNS,
    PICTURES,
    Entry,
    Listing,
    Rejected,
    inside,
)
from raypose.errors import DataError

__all__ = ["list_source"]


def list_source(source: str, pictures: str, classes: Taxonomy | None) -> Listing:
    """List the members of a tar, or of the tars of a folder, in one pass over each."""
    listing = Listing(source)
    tars = [source] if source.endswith(".tar") else inside(source, ".tar")
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
