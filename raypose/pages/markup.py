"""HTML pages that need nothing beside them: their frame, and pictures inside it."""

from __future__ import annotations

import base64
from html import escape

__all__ = ["jpeg_source", "page"]


def page(title: str, body: str, *, style: str) -> str:
    """Return a page.

    Args:
        title: plain text, also the heading.
        body: HTML.
        style: CSS.
    """
    return f"""<!doctype html>
<html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">
<meta name=generator content=raypose>
<title>{escape(title)}</title>
<style>{style}</style>
<h1>{escape(title)}</h1>
{body}
</html>
"""


def jpeg_source(content: bytes) -> str:
    """Return what an img element's src holds for JPEG bytes."""
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
