"""What counts in every source: which names are passed over, what is a label, which column is which.

A value becomes a label only where it is one: text, or a class number. What is guessed is said, and
what is refused names the row.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from raypose.captions import folders
from raypose.errors import DataError

__all__ = [
    "LABEL_COLUMNS",
    "PATH_COLUMNS",
    "PICTURES",
    "BadLabel",
    "as_text",
    "column",
    "composed",
    "drawn_from",
    "ending",
    "is_mask",
    "is_other",
    "is_passed_over",
    "label_of",
    "sets_among",
]

PICTURES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
OTHER = {
    ".avi", ".bin", ".csv", ".db", ".doc", ".docx", ".gz", ".htm", ".html", ".ini", ".ipynb",
    ".json", ".jsonl", ".lnk", ".log", ".m4a", ".md", ".mkv", ".mov", ".mp3", ".mp4", ".npy",
    ".npz", ".parquet", ".pdf", ".pickle", ".pkl", ".pt", ".pth", ".py", ".svg", ".tar", ".tsv",
    ".txt", ".url", ".wav", ".xls", ".xlsx", ".xml", ".yaml", ".yml", ".zip",
}  # fmt: skip
"""Endings of what is no picture and does not claim to be one; any other is tried."""
PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path", "filepath")
LABEL_COLUMNS = ("label", "labels", "class", "posture", "pose")
BY_TOOLS = {"thumbs.db", "desktop.ini", "icon\r", "ehthumbs.db"}
MASKS = (
    "alpha|annotated|annotations?|bbox|depth|heatmap|keypoints|labels?|masks?|matte|normals?|"
    "overlay|segm?|segmentation|skeleton|vis"
)
"""What is put behind a picture's name for one that is drawn from it."""
NOTHING = ("", "-1", "nan", "<na>")
"""What tables write where there is no label."""
_MASK = re.compile(rf"(.+)[._-](?:{MASKS})", re.IGNORECASE)


class BadLabel(ValueError):  # noqa: N818  it is the label that is bad, not the work
    """A value that stands where a label should and is none; the text says what it is."""


def composed(name: str) -> str:
    """Return a name with each accent in one character with its letter: in NFC."""
    return unicodedata.normalize("NFC", name)


def as_text(name: str) -> str:
    """Return a name that can be stored: bytes of it that are not UTF-8 are written out."""
    try:
        name.encode()
        return name  # itself: there may be millions
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def ending(name: str) -> str:
    """Return the ending of a file's name in small letters, with its dot; empty without one."""
    last = name.rpartition("/")[2]
    stem, dot, end = last.rpartition(".")
    return f".{end.lower()}" if dot and stem else ""


def is_passed_over(path: str) -> bool:
    """Tell whether a path is hidden, or lies in a folder that is hidden or that a tool made."""
    *above, name = path.split("/")
    while above and above[0] in (".", ""):
        above = above[1:]
    return any(map(folders.is_foreign, above)) or name.startswith(".") or name.lower() in BY_TOOLS


def is_other(name: str) -> bool:
    """Tell whether a name says itself that what bears it is no picture."""
    return ending(name) in OTHER


def is_mask(path: str, stems: Collection[str]) -> bool:
    """Tell whether a picture is drawn from the one beside it, as ``1.seg.png`` from ``1.jpg``.

    Args:
        path: of the picture.
        stems: paths of pictures, without their endings.
    """
    return drawn_from(path) in stems


def drawn_from(path: str) -> str:
    """Return the path, without ending, of what a mask would be drawn from; empty for no mask."""
    found = _MASK.fullmatch(path.rpartition(".")[0])
    return found[1] if found else ""


def label_of(value: Any, names: Sequence[str] = ()) -> str:
    """Return a label, composed and without space around it; empty for none.

    Args:
        value: as a source has it.
        names: of the classes, where the source has them for class numbers.

    Raises:
        BadLabel: where it is neither text nor a class number.
    """
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if names and isinstance(value, float) and value.is_integer():
        value = int(value)  # of a column with gaps, as pandas writes it
    if isinstance(value, bool) or not isinstance(value, int | str):
        shown = repr(value)
        shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
        raise BadLabel(f"its label is {shown}; a label is text or a class number")
    if isinstance(value, int) and value == -1:
        return ""
    if isinstance(value, int) and names:
        if not 0 <= value < len(names):
            raise BadLabel(f"its label is {value} where there are {len(names)} class names")
        return composed(str(names[value])).strip()
    if isinstance(value, int) and value < 0:
        raise BadLabel(f"its label is {value}; a class number is not below 0")
    text = composed(str(value)).strip()
    if any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 for letter in text):
        raise BadLabel(f"its label is {text!r}, which holds what is no text")
    return "" if text.lower() in NOTHING else text


def column(found: Sequence[str], known: Sequence[str], *, where: str) -> str:
    """Return the first known column that was found, capitals aside.

    Raises:
        DataError: naming what there is, where there is none or it is there twice.
    """
    for name in known:
        alike = [one for one in found if one is not None and one.strip().lower() == name]
        if len(alike) > 1:
            raise DataError(f"{where}: column {name!r} is there {len(alike)} times; keep one")
        if alike:
            return alike[0]
    there = ", ".join(map(str, found)) or "none"
    raise DataError(f'{where}: no column "{known[0]}"; found {there[:200]}; name one {known[0]}')


def sets_among(names: Iterable[str]) -> list[str]:
    """Return the names that are those of sets, such as train and val, in that order."""
    found = [name for name in names if name.lower() in folders.SPLITS]
    return sorted(found, key=lambda name: folders.SPLITS.index(name.lower()))
