"""Tables of paths and labels."""

from __future__ import annotations

import csv
import io
import os
import posixpath
import sys
import threading
import unicodedata
from collections.abc import Iterator

from raypose import storage
from raypose.captions.taxonomy import Taxonomy
from raypose.console import plural, status
from raypose.data.sources import rules, text
from raypose.data.sources.imagefolder import MAX_FILE_BYTES, TOO_LARGE
from raypose.data.sources.listing import Entry, Listing
from raypose.disks import Stat
from raypose.errors import DataError, StorageError

__all__ = ["list_source"]

DELIMITERS = ",;\t|"
SETS = ("split", "subset", "set", "fold", "partition")
"""Columns that part a table into sets."""
NAMED = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_LIMIT = threading.Lock()


def list_source(source: str, pictures: str, classes: Taxonomy | None) -> Listing:
    """List a table with a column of paths and one of labels; other columns are passed over."""
    listing = Listing(source, may_miss=True)
    content = text.read_text(source)
    places = _Places(pictures)
    header, rows = _table(content, source)
    path_column = rules.column(header, rules.PATH_COLUMNS, where=source)
    label_column = rules.column(header, rules.LABEL_COLUMNS, where=source)
    _tell_sets(source, header)
    turned = 0
    for line, row in rows:
        where = f"line {line}"
        if len(row) != len(header):
            reason = f"has {len(row)} fields where the header has {len(header)}"
            listing.refuse(where, f"{reason}; put quotes around what holds a delimiter")
            continue
        values = dict(zip(header, row, strict=True))
        given, label = values[path_column].strip(), values[label_column].strip()
        path = text.slashed(given).removeprefix("./")
        turned += "\\" in given and path != given
        try:
            label = rules.label_of(label)
        except rules.BadLabel as error:
            listing.refuse(path or where, str(error))
            continue
        if not path or not label:
            listing.leave_out(path or where, "has no label" if path else "no path")
        elif path.startswith(("http://", "https://")):
            listing.refuse(path, "is a web address; fetch it, and give its path")
        elif not (place := places.find(path)):
            listing.refuse(path, places.reason(path))
        elif places.is_large(place):
            listing.refuse(path, TOO_LARGE)
        else:
            listing.entries.append(Entry(path, label, place))
    if turned:
        status(f"{source}: {plural(turned, 'path')} with backslashes read with slashes")
    listing.stamp = storage.sha256(content.encode("utf-8", "surrogatepass"))
    listing.stamp_files(sorted(places.named.items()))
    listing.folders.update(place.rpartition("/")[0] for place in places.named)
    return listing


def _tell_sets(source: str, header: list[str]) -> None:
    """Say that a column of sets parts nothing here."""
    for name in header:
        if name.strip().lower() in SETS:
            status(
                f'{source}: column "{name.strip()}" is passed over: all its sets are packed '
                "together; for one of them, give a list of its own"
            )


class _Places:
    """Where the paths of a table lie; each folder is listed once, however many paths it has.

    Attributes:
        named: location → what is known of the file, of those found.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.named: dict[str, Stat] = {}
        self.listed: dict[str, _Names] = {}

    def find(self, path: str) -> str:
        """Return the location of a path, written in one way; empty where no file is there.

        A file of another spelling, of its accents, is taken where there is none of this.
        """
        whole = path.startswith(("/", "s3://"))
        url = path if whole else storage.join(self.folder, path)
        above, _, name = url.rpartition("/")
        if storage.is_s3(url):
            key = url.removeprefix("s3://").strip("/").partition("/")[2]
            if not key or {".", ".."} & {*url.split("/")}:
                return ""
        else:
            above = "" if above.strip("/") == "" else _plain(above)
        if above not in self.listed:
            self.listed[above] = _Names(above)
        place, stat = self.listed[above].find(name)
        if place and stat:
            self.named[place] = stat
        return place

    def reason(self, path: str) -> str:
        """Return why nothing is found at a path."""
        whole = path.startswith(("/", "s3://"))
        url = path if whole else storage.join(self.folder, path)
        is_folder = not storage.is_s3(url) and storage.exists(url)
        return "is no file" if is_folder else "not found; check the path"

    def is_large(self, place: str) -> bool:
        """Tell whether a file that was found is larger than any picture."""
        stat = self.named.get(place)
        return stat is not None and stat.size > MAX_FILE_BYTES


def _plain(folder: str) -> str:
    """Return a path from / without ``..`` and doubled slashes; ``..`` leads back out of a link."""
    folder = os.path.realpath(folder) if ".." in folder.split("/") else folder
    return "/" + posixpath.normpath(folder).lstrip("/")


class _Names:
    """The files of a folder, however its name and theirs are spelled."""

    def __init__(self, folder: str) -> None:
        self.exact: dict[str, tuple[str, Stat]] = {}
        self.alike: dict[str, tuple[str, Stat]] = {}
        self.folder = folder
        self.listable = True
        spellings = [folder, rules.composed(folder), unicodedata.normalize("NFD", folder)]
        for spelling in dict.fromkeys(spellings):
            for name, stat in self._listed(spelling or "/").items():
                if stat.size >= 0:
                    found = storage.join(spelling, name), stat
                    self.exact.setdefault(name, found)
                    self.alike.setdefault(rules.composed(name), found)

    def find(self, name: str) -> tuple[str, Stat | None]:
        """Return the location of a file, and what is known of it; empty where it is not there."""
        found = self.exact.get(name) or self.alike.get(rules.composed(name))
        if found or (self.listable and not name.startswith(".")):
            return found or ("", None)
        unlisted = storage.join(self.folder, name)
        return (unlisted if storage.is_file(unlisted) else ""), None

    def _listed(self, folder: str) -> dict[str, Stat]:
        """List a folder; one may be allowed to read its files and not to list it."""
        try:
            return storage.list_stats(folder)
        except StorageError:
            self.listable = False
            return {}


def _table(content: str, where: str) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Return the header of a table, and its rows with their line numbers."""
    first, _, rest = content.replace("\r\n", "\n").replace("\r", "\n").partition("\n")
    delimiter, skipped = "", 0
    if first.lower().startswith("sep=") and len(first.strip()) == 5:  # as spreadsheets write it
        delimiter, skipped = first.strip()[4], 1
        first, content = rest.partition("\n")[0], rest
    delimiter = delimiter or max(DELIMITERS, key=lambda one: _known(first, one))
    if delimiter != ",":
        status(f"{where}: columns told apart by {NAMED.get(delimiter, repr(delimiter))}")
    rows = _rows(content, delimiter, where, skipped)
    try:
        _, header = next(rows)
    except StopIteration:
        raise DataError(
            f"{where}: is empty; expected lines of path and label below a header"
        ) from None
    return header, rows


def _known(header: str, delimiter: str) -> int:
    names = [name.strip(" \"'").lower() for name in header.split(delimiter)]
    return sum(name in (*rules.PATH_COLUMNS, *rules.LABEL_COLUMNS) for name in names)


def _rows(
    content: str, delimiter: str, where: str, skipped: int
) -> Iterator[tuple[int, list[str]]]:
    """Yield rows that are not empty, with the numbers of their last lines."""
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    while True:
        try:
            with _LIMIT:
                before = csv.field_size_limit(sys.maxsize)
                try:
                    row = next(reader)
                finally:
                    csv.field_size_limit(before)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{where}: line {reader.line_num + skipped}: {error}; look for a quotation mark "
                "that does not close"
            ) from None
        if any(field.strip() for field in row):
            yield reader.line_num + skipped, row
