"""Figures as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from raypose.console import plural

__all__ = ["comparison_table", "table"]

COLUMNS = ("precision", "recall", "f1")


def table(document: Mapping[str, Any]) -> Table:
    """Lay the figures of an evaluation out for a terminal: totals, classes worst first, verdict."""
    low, high = document["intervals"]["top1"]
    title = (
        f"{document['release']} on {plural(document['num_examples'], 'picture')}: "
        f"top-1 {document['top1']:.3f} ({low:.3f} to {high:.3f}), top-5 {document['top5']:.3f}, "
        f"balanced {document['balanced_accuracy']:.3f}, macro-F1 {document['macro_f1']:.3f}, "
        f"nll {document['nll']:.3f}, ece {document['ece']:.3f}"
    )
    for level in document["parents"]:
        title += f"; of {plural(level['num_classes'], 'parent')} {level['top1']:.3f}"
    for name, words in (("zero_shot", "zero-shot"), ("probe", "probe")):
        other = document.get("baselines", {}).get(name)
        if other:
            low, high = other["intervals"]["top1"]
            note = f" ({other['note']})" if other["note"] else ""
            title += f"\n{words} (baseline): top-1 {other['top1']:.3f} ({low:.3f} to {high:.3f})"
            title += note
    title += f"\n{document['note']}" if document["note"] else ""
    line = Text(document["verdict"], style="bold") if document["verdict"] else None
    shown = Table("class", "pictures", "precision", "recall", "F1", title=title, caption=line)
    for column in shown.columns[1:]:
        column.justify = "right"
    seen = [row for row in document["per_class"] if row["support"]]
    for row in sorted(seen, key=lambda row: row["f1"]):
        cells = ["–" if row[key] is None else f"{row[key]:.3f}" for key in COLUMNS]
        shown.add_row(row["label"], str(row["support"]), *cells)
    return shown


def comparison_table(document: Mapping[str, Any]) -> Table:
    """Lay a comparison out for a terminal."""
    title = (
        f"{document['a']} and {document['b']} on {plural(document['num_examples'], 'picture')}: "
        f"{document['only_a']} that a alone has right, {document['only_b']} that b alone has; "
        f"p {document['p']:.3g} (McNemar)"
    )
    title += f"\n{document['note']}" if document["note"] else ""
    shown = Table("figure", "a", "b", "a - b", "95 % interval", title=title)
    for column in shown.columns[1:]:
        column.justify = "right"
    for name, row in document["figures"].items():
        low, high = row["interval"]
        cells = [f"{row[key]:.4f}" for key in ("a", "b")]
        shown.add_row(name, *cells, f"{row['difference']:+.4f}", f"{low:+.4f} to {high:+.4f}")
    return shown
