"""Tables of paths and labels."""

from __future__ import annotations

import csv
import io

from raypose import storage
from raypose.captions.taxonomy import Taxonomy
from raypose.data.sources.listing import (
    LABEL_COLUMNS,
    PATH_COLUMNS,
    Entry,
    Listing,
    Rejected,
    column,
)

__all__ = ["list_source"]


def list_source(source: str, pictures: str, classes: Taxonomy | None) -> Listing:
    """List a table with a column of paths and one of labels; other columns are passed over."""
    text = io.StringIO(storage.read_bytes(source).decode("utf-8-sig"))
    reader = csv.DictReader(text)
    path_column = column(reader.fieldnames or (), PATH_COLUMNS, where=source)
    label_column = column(reader.fieldnames or (), LABEL_COLUMNS, where=source)
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
