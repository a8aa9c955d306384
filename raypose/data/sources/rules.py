"""What counts in every source: which names are passed over, what is a label, which column is which.

A value becomes a label only where it is one: text, or a class number. What is guessed is said, and
what is refused names the row.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from raypose.captions import folders
from raypose.console import plural, status
from raypose.errors import DataError

__all__ = [
    "DOUBTFUL",
    "LABEL_COLUMNS",
    "PATH_COLUMNS",
    "PICTURES",
    "BadLabel",
    "as_text",
    "column",
    "composed",
    "drawn_from",
    "ending",
    "folder_label",
    "is_mask",
    "is_other",
    "is_passed_over",
    "is_unseen",
    "label_of",
    "number_of",
    "refuse_named_sets",
    "refuse_sets",
    "sets_among",
    "tell_depth",
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
NOTHING = ("", "-1", "nan", "nat", "null", "<na>", "<null>", "n/a", "#n/a")
"""What tables write where there is no label."""
DOUBTFUL = ("none", "na", "?", "-", "unknown", "undefined")
"""What may be no label, and may be the class of what is no posture."""
_FILLERS = "\u115f\u1160\u2800\u3164\uffa0"
_WRITTEN = re.compile(r"""-?\d+\.\d*|-\d+|\[.*\]|b(['"]).*\1""")
"""How programs write what is no label: fractions, lists, bytes."""
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
    above = [part for part in above if part not in (".", "..", "")]
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
        raise BadLabel(f"its label is {_short(repr(value))}; a label is text or a class number")
    if isinstance(value, int) and value == -1:
        return ""
    if isinstance(value, int) and names:
        if not 0 <= value < len(names):
            raise BadLabel(f"its label is {value} where there are {len(names)} class names")
        if not isinstance(names[value], str | int):
            raise BadLabel(f"its label is {value}, and the name of that class is no text")
        return _as_label(str(names[value]))
    if isinstance(value, int) and value < 0:
        raise BadLabel(f"its label is {value}; a class number is not below 0")
    text = _as_label(str(value))
    if text.lower() in NOTHING:
        return ""
    if _WRITTEN.fullmatch(text):
        raise BadLabel(f"its label is {_short(text)}; a label is text or a whole class number")
    return text


def folder_label(name: str) -> str:
    """Return the label that a folder's name is; empty where nothing of it can be seen."""
    return _as_label(name)


def number_of(label: str) -> int:
    """Return the class number that a label is; -1 where it is none."""
    return int(label) if label.isdecimal() and len(label) < 10 else -1


def _as_label(text: str) -> str:
    """Return text composed, and without what cannot be seen around it.

    Raises:
        BadLabel: where it holds what is no text.
    """
    text = composed(text)
    first, last = 0, len(text)
    while first < last and _is_blank(text[first]):
        first += 1
    while first < last and _is_blank(text[last - 1]):
        last -= 1
    text = text[first:last]
    if not folders.is_line(text):
        raise BadLabel(f"its label is {_short(repr(text))}, which holds what is no text")
    return text


def _is_blank(letter: str) -> bool:
    return letter.isspace() or is_unseen(letter)


def is_unseen(letter: str) -> bool:
    """Tell whether nothing is to be seen of a letter, though it is no space."""
    return unicodedata.category(letter) == "Cf" or letter in _FILLERS


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


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
    raise DataError(
        f'{where}: no column "{known[0]}"; found {there[:200]} (in a table, the first line '
        f"names the columns); name one {known[0]}"
    )


def refuse_sets(source: str, names: Iterable[str], *, mend: str) -> None:
    """Refuse folders side by side that are named as sets, where one of them holds class folders.

    Args:
        source: for messages.
        names: paths of its pictures.
        mend: what to do; ``{}`` is the place of the first set, ``{name}`` its name.

    Raises:
        DataError: naming the sets.
    """
    found: dict[str, dict[str, bool]] = {}  # folder above → set → whether it holds class folders
    for name in names:
        above = name.split("/")[:-1]
        for depth in [depth for depth, part in enumerate(above) if sets_among([part])]:
            sets = found.setdefault("/".join([source.rstrip("/"), *above[:depth]]), {})
            sets[above[depth]] = sets.get(above[depth], False) or depth + 1 < len(above)
    for where, sets in found.items():
        if len(sets) > 1 and any(sets.values()):
            in_order = sets_among(sets)
            first = next(name for name in in_order if sets[name])
            place = shlex.quote(f"{where}/{first}")
            raise DataError(
                f"{where}: holds sets, not classes ({', '.join(in_order)}); "
                + mend.format(place, name=first)
            )


def refuse_named_sets(source: str, urls: Iterable[str]) -> None:
    """Refuse files side by side that are named as several sets: ``train-00000-of-00002.parquet``.

    Raises:
        DataError: naming the sets.
    """
    found = set()
    for url in urls:
        words = re.split(r"[-_.]", url.rpartition("/")[2])
        found |= set(sets_among(words)[:1])
    if len(found) > 1:
        raise DataError(
            f"{source}: holds sets side by side ({', '.join(sets_among(found))}); put the files of "
            "each in a folder of its own and pack each"
        )


def tell_depth(source: str, number: int, first: str) -> None:
    """Say that folders below a class folder are of its class.

    Args:
        source: for messages.
        number: of pictures in such folders.
        first: class of one of them.
    """
    if number:
        status(
            f"{source}: {plural(number, 'picture')} in folders below a class folder, such as "
            f"{first}, taken for that class"
        )


def sets_among(names: Iterable[str]) -> list[str]:
    """Return the names that are those of sets, such as train and val, in that order."""
    found = [name for name in names if name.lower() in folders.SPLITS]
    return sorted(found, key=lambda name: folders.SPLITS.index(name.lower()))
