"""Plots on a page, by matplotlib: their colours, their axes, and their form inside it."""

from __future__ import annotations

import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["BLUE", "GREEN", "GREY", "ORANGE", "axes", "svg"]

BLUE = "#3b6fd6"
ORANGE = "#d9762b"
GREEN = "#2f8f5b"
GREY = "#98a0ad"


def svg(figure: Figure) -> str:
    """Return a plot as an SVG element that scales to its place."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    return f"<div class=plot>{text}</div>"


def axes(xlabel: str, ylabel: str, *, wide: bool = False) -> tuple[Figure, Axes]:
    """Return an empty plot with a grid and two axes; a wide one has a row of the page."""
    figure = Figure(figsize=(6.4, 3.8) if wide else (4.6, 3.3))
    found = figure.add_subplot()
    found.spines[["top", "right"]].set_visible(False)
    found.grid(color="#e6e9ee", linewidth=0.8)
    found.set_axisbelow(True)
    found.set_xlabel(xlabel)
    found.set_ylabel(ylabel)
    return figure, found
