"""Lists as people save them: decoded from the encodings of spreadsheets and old editors."""

from __future__ import annotations

import codecs
import re

from raypose import storage
from raypose.console import status
from raypose.errors import DataError

__all__ = ["decoded", "read_lines", "read_text", "slashed"]

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""What a file begins with → its encoding."""
PROBED = 4096
WESTERN = {chr(k) for k in range(0xC0, 0x100)} - {"×", "÷"} | set("ŠšŽžŒœŸ‘’“”–—…€°ºª«»¿¡·\xa0")
_STRANGE = re.compile("[À-ÿ]{4}")
"""As many accented letters in a row are words of another script."""


def read_text(url: str) -> str:
    """Return the text of a list; an encoding other than UTF-8 is said.

    Raises:
        DataError: where it is in no encoding that can be told.
    """
    return decoded(storage.read_bytes(url), where=url)


def decoded(content: bytes, *, where: str) -> str:
    """Return the text of bytes in UTF-8, UTF-16 or UTF-32, or in Windows-1252: see `read_text`."""
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "")
    encoding = encoding or _unmarked(content)
    try:
        text = content.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        raise DataError(
            f"{where}: not UTF-8 (nor UTF-16 or Windows-1252); convert it: "
            "iconv -f ENCODING -t UTF-8 FILE"
        ) from None
    if encoding == "cp1252" and not _is_western(text):
        raise DataError(
            f"{where}: not UTF-8, nor Western; convert it: iconv -f ENCODING -t UTF-8 FILE"
        )
    if encoding == "cp1252" and _is_mixed(content):
        raise DataError(
            f"{where}: some lines are UTF-8 and some are not; convert those that are not: "
            "iconv -f ENCODING -t UTF-8 FILE"
        )
    if "\0" in text:
        raise DataError(f"{where}: holds zero bytes, so it is no text; save it as UTF-8")
    if encoding not in ("utf-8", "utf-8-sig"):
        shown = {"cp1252": "Windows-1252"}.get(encoding, encoding.upper())
        status(f"{where}: read as {shown}; save it as UTF-8 where letters come out wrong")
    return text


def read_lines(url: str) -> list[str]:
    """Return the lines of a list, however they end."""
    text = read_text(url)
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def slashed(path: str) -> str:
    """Return a path of a list with slashes where it has backslashes only."""
    return path if "/" in path else path.replace("\\", "/")


def _is_western(text: str) -> bool:
    """Tell whether what was read as Windows-1252 may be: other scripts give strange signs."""
    beyond = {letter for letter in text if ord(letter) > 127}
    return beyond <= WESTERN and not _STRANGE.search(text)


def _is_mixed(content: bytes) -> bool:
    """Tell whether a line beyond ASCII is UTF-8, in a file that is not."""
    for line in content.splitlines():
        if not line.isascii():
            try:
                line.decode("utf-8")
                return True
            except UnicodeDecodeError:
                continue
    return False


def _unmarked(content: bytes) -> str:
    """Tell the encoding of bytes that do not say it."""
    head = content[:PROBED]
    if b"\0" in head:  # letters of Latin scripts leave every other byte zero
        even, odd = head[::2].count(0), head[1::2].count(0)
        return "utf-16-be" if even > odd else "utf-16-le"
    try:
        content.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError:
        return "cp1252"
