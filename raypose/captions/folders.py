"""Folders of pictures: which of them are classes, and what their names say.

Folder names are labels and stay as they are; what is read out of them here are names for people
and captions, ``Boat_Pose_or_Paripurna_Navasana_`` → boat pose, paripurna navasana.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from raypose import disks, storage

__all__ = ["SPLITS", "class_folders", "is_foreign", "is_line", "names", "tidy", "title"]

SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")
"""Names of folders that hold sets, not pictures of one class; in any case of letters."""


GENERIC = {*SPLITS, "images", "data"}
"""Names of folders that say nothing of what is in them."""


PUNCTUATION = " .,;:!?"
_GAPS = re.compile(r"[\s_\u2010-\u2014-]+")
_NUMBER = re.compile(r"(\d+)([.)][\s_-]*|[\s_-]+)(?=[^\W\d]|\()")


def is_foreign(name: str) -> bool:
    """Tell whether a folder is hidden or made by a tool or a system: ``__MACOSX``."""
    return name.startswith((".", "__")) or name.lower() in disks.SYSTEM


def is_line(text: str) -> bool:
    """Tell whether all of a text is text, and of one line."""
    return not any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in text)


def class_folders(url: str) -> list[str]:
    """Return the names of the class folders in a folder, sorted.

    Where it holds sets, such as ``train`` and ``val``, these are the class folders of all sets.
    """
    folders = _folders(url)
    sets = {name: _folders(storage.join(url, name)) for name in folders if name.lower() in SPLITS}
    if any(sets.values()) and (len(sets) > 1 or len(sets) == len(folders)):
        return sorted({name for inside in sets.values() for name in inside})
    return folders


def names(
    ids: Sequence[str], known: Mapping[str, tuple[str, ...]] | None = None
) -> dict[str, tuple[str, ...]]:
    """Return names of classes by their folder names, the preferred one first.

    What stands around " or " are names of their own. Numbers stay, unless they merely count the
    folders: every folder begins with one, no two with the same, and they are written with a zero
    before (``02_tree``) or a dot or bracket behind (``2. tree``), or count three folders or more
    from 0 or 1 without a gap. Where classes would share a name, each of them takes all words of its
    folder instead, and where that does not part them, its name with no more than separators tidied.

    Args:
        ids: the folder names.
        known: names of some of them that are better than those read here.

    Returns:
        Names of each, in lower case but for known ones; equal ones only where the ids differ by
        nothing but separators, case, and punctuation around them.
    """
    counted = _counted(ids)
    forms: dict[str, list[tuple[str, ...]]] = {}
    for name in ids:
        bare = _NUMBER.sub("", name, count=1) if counted else name
        given = [known[name]] if known and name in known else []
        plain = _GAPS.sub(" ", _composed(name)).strip(PUNCTUATION).lower() or name
        forms[name] = [*given, _alternatives(bare), (tidy(name),), (plain,)]
    while True:
        owners = Counter(word.casefold() for form in forms.values() for word in form[0])
        shared = [
            form
            for form in forms.values()
            if len(form) > 1 and any(owners[word.casefold()] > 1 for word in form[0])
        ]
        if not shared:
            return {name: form[0] for name, form in forms.items()}
        for form in shared:
            del form[0]


def tidy(name: str) -> str:
    """Return the words of a folder name: ``TreePose`` → tree pose, ``warrior-2`` → warrior 2."""
    words = _GAPS.sub(" ", _apart(_composed(name))).strip(PUNCTUATION)
    return words.lower() or name


def title(url: str) -> str:
    """Return a name for what a folder holds: its own, or of one above where that says nothing."""
    parts = (
        url.removeprefix("s3://").split("/") if storage.is_s3(url) else Path(url).resolve().parts
    )
    told = [part for part in reversed(parts) if part.strip("/")]
    found = next((part for part in told if part.lower() not in GENERIC), "".join(told[:1]))
    plain = unicodedata.normalize("NFKD", found).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")[:128] or "classes"


def _folders(url: str) -> list[str]:
    return [name for name in storage.list_folders(url) if not is_foreign(name)]


def _composed(name: str) -> str:
    """Return a name with its accents in one character with their letter, as macOS does not."""
    return unicodedata.normalize("NFC", name)


def _alternatives(name: str) -> tuple[str, ...]:
    words = tidy(name)
    parts = [part.strip(PUNCTUATION) for part in words.split(" or ")]
    if not all(parts) or any(part.count("(") != part.count(")") for part in parts):
        return (words,)
    return tuple({part.casefold(): part for part in parts}.values())


def _apart(name: str) -> str:
    """Put spaces where a capital begins a word, and before a number that ends one.

    A capital begins one after a small letter, and before one: ``TPose`` → T Pose, ``WarriorIII`` →
    Warrior III. A number ends one of two letters or more: ``v2`` stays.
    """
    parts = [name[:1]]
    for before, here, place in zip(name, name[1:], range(1, len(name)), strict=False):
        after = name[place + 1 : place + 2]
        capital = here.isupper() and (before.islower() or (before.isalnum() and after.islower()))
        number = here.isdecimal() and name[max(0, place - 2) : place].isalpha() and place > 1
        parts.append(f" {here}" if capital or number else here)
    return "".join(parts)


def _counted(ids: Sequence[str]) -> bool:
    """Tell whether the numbers that folder names begin with merely count them: see `names`."""
    found = [match for match in map(_NUMBER.match, ids) if match]
    numbers = sorted(int(match[1]) for match in found)
    if len(set(numbers)) < len(ids):
        return False
    padded = any(len(match[1]) > 1 and match[1].startswith("0") for match in found)
    marked = all(match[2][0] in ".)" for match in found)
    run = len(ids) >= 3 and numbers == list(range(numbers[0], numbers[0] + len(ids)))
    return padded or marked or (run and numbers[0] in (0, 1))
