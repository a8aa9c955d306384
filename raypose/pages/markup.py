"""HTML pages that need nothing beside them: their frame, and pictures inside it."""

from __future__ import annotations

import base64
from html import escape

__all__ = ["REPORT", "jpeg_source", "page", "section"]


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


def section(title: str, body: str) -> str:
    """Return a part of a page.

    Args:
        title: plain text.
        body: HTML.
    """
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def jpeg_source(content: bytes) -> str:
    """Return what an img element's src holds for JPEG bytes."""
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


REPORT = """
body{font:15px/1.5 system-ui,sans-serif;margin:24px auto;padding:0 16px;max-width:1080px;
color:#20242c;background:#fff}
h1{font-size:22px;overflow-wrap:anywhere}h2{font-size:17px;margin:32px 0 8px}
p,li{overflow-wrap:anywhere}small,.note{color:#646b78}.note{font-size:13px;margin:6px 0}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px;margin:8px 0}
th,td{text-align:right;padding:4px 10px;border-bottom:1px solid #e6e9ee;vertical-align:top;
white-space:nowrap;font-variant-numeric:tabular-nums}
th{font-weight:600;color:#646b78}td:first-child,th:first-child,td:nth-child(2),th:nth-child(2){text-align:left}
.words td{white-space:normal}
.main td{background:#f2f6fe;font-weight:600}.main small{font-weight:400}
.plain td{text-align:left;white-space:normal;overflow-wrap:anywhere}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:16px}
.plot svg{display:block;width:100%;height:auto;max-width:720px}.matrix{min-width:640px}
.matrix svg{max-width:860px}
.row{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:14px}
figure{margin:0}figure img{display:block;width:100%;border-radius:4px;background:#eee}
figcaption{font-size:12px;line-height:1.4;margin-top:4px;overflow-wrap:anywhere}
summary{cursor:pointer}
.verdict{padding:10px 14px;border-left:4px solid #d9762b;background:#fdf3ea;font-weight:600}
"""
"""CSS of reports: text, tables that scroll in `.wide`, plots two by two in `.pair`."""
