"""What means a release: a name in a registry, by an alias or a version of it; or a place."""

from __future__ import annotations

import re

from raypose import storage
from raypose.config import NAME_PATTERN
from raypose.errors import RegistryError

__all__ = ["FORMS", "formed", "is_place", "parts", "through"]

FORMS = "give NAME, NAME@ALIAS or NAME:VERSION, or a folder or s3:// place that holds a release"


def formed(reference: str) -> str:
    """Return a reference as it is read anywhere: that of a folder here by its whole path.

    Raises:
        RegistryError: where it is of no form that a reference has.
    """
    if is_place(reference) or "/" in reference:  # which no name has
        return storage.absolute(reference)
    name, separator, rest = parts(reference)
    wanted = {"": "", "@": NAME_PATTERN, ":": r"v\d+(-[0-9a-f]{8})?"}[separator]
    if not (re.fullmatch(NAME_PATTERN, name) and re.fullmatch(wanted, rest)):
        raise RegistryError(f'"{reference}": no reference of a release; {FORMS}')
    return reference


def through(reference: str, alias: str) -> str:
    """Return a reference by another alias of the same name; as it is, where that is empty."""
    name, _, _ = parts(reference)
    return f"{name}@{alias}" if alias else reference


def parts(reference: str) -> tuple[str, str, str]:
    """Return a reference's name, what separates it from the rest, and that."""
    found = re.match(r"([^:@]*)([:@]?)(.*)", reference, re.DOTALL)
    assert found is not None  # it matches anything
    return found[1], found[2], found[3]


def is_place(reference: str) -> bool:
    """Tell whether a reference can be nothing but a place."""
    return reference.startswith(("s3://", "/", "./", "../", "~")) or reference in (".", "..")
