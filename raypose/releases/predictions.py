"""What a model says of pictures: one answer for each, in the order in which they were given.

Here is no torch: who hands answers on needs none.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from pandas import DataFrame  # type: ignore[import-untyped]

__all__ = ["Answer", "Predicted", "Prediction", "Predictions"]

SHOWN = 10
"""Rows that a text shows."""
WIDEST = 32
"""Letters of a cell in it: 80 columns hold a row."""


@dataclass(frozen=True)
class Prediction:
    """A class and how probable it is, in 0..1."""

    label: str
    name: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """What a release says of a picture, best first."""

    release: str
    top: list[Prediction]


@dataclass(frozen=True)
class Predicted:
    """What a model says of one picture.

    Attributes:
        source: path or URL of the picture; ``[2]`` for the third of a list that has none.
        label: id of the class, or the parent's name; None where the picture cannot be read or the
            model abstains.
        name: what people call it; None likewise.
        probability: of the most probable, in 0..1, named or not; None where there is an error.
        top: the most probable, best first; empty where there is an error.
        error: one line on why nothing is said of it, as where the picture cannot be read, or the
            model gives no number for it; else empty.
    """

    source: str
    label: str | None = None
    name: str | None = None
    probability: float | None = None
    top: tuple[Prediction, ...] = ()
    error: str = ""

    @classmethod
    def of(cls, source: str, top: Sequence[Prediction], *, abstain_below: float) -> Predicted:
        """Name the most probable, or none where it is less probable than asked."""
        best = top[0]
        sure = best.probability >= abstain_below
        label, name = (best.label, best.name) if sure else (None, None)
        return cls(source, label, name, best.probability, tuple(top))

    def to_dict(self) -> dict[str, Any]:
        """Return picture, label, name, probability, error and top in JSON's types."""
        return {**self._answer(), "top": [asdict(one) for one in self.top]}

    def to_row(self, top_k: int) -> dict[str, Any]:
        """Return picture, label, name, probability, error, top1, top1_probability, and so on.

        Args:
            top_k: pairs of the last kind, None where there are fewer.
        """
        row = self._answer()
        for k in range(top_k):
            one = self.top[k] if k < len(self.top) else None
            row[f"top{k + 1}"] = one.label if one else None
            row[f"top{k + 1}_probability"] = one.probability if one else None
        return row

    def _answer(self) -> dict[str, Any]:
        return {
            "picture": self.source,
            "label": self.label,
            "name": self.name,
            "probability": self.probability,
            "error": self.error,
        }


class Predictions(Sequence[Predicted]):
    """Answers in the order of the pictures: ``found[0].label``, ``for one in found``."""

    def __init__(self, answers: Iterable[Predicted]) -> None:
        self._answers = tuple(answers)

    def __len__(self) -> int:
        return len(self._answers)

    @overload
    def __getitem__(self, index: int) -> Predicted: ...
    @overload
    def __getitem__(self, index: slice) -> Predictions: ...
    def __getitem__(self, index: int | slice) -> Predicted | Predictions:
        found = self._answers[index]
        return found if isinstance(found, Predicted) else Predictions(found)

    def __repr__(self) -> str:
        if not self:
            return "no pictures"
        rows = [("picture", "name", "probability"), *map(_cells, self._answers[:SHOWN])]
        widths = [max(len(row[k]) for row in rows) for k in range(3)]
        lines = [
            f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}".rstrip()
            for row in rows
        ]
        hidden = len(self) - SHOWN
        return "\n".join([*lines, f"… {hidden} more"] if hidden > 0 else lines)

    def _repr_html_(self) -> str:
        """Return the table that notebooks show."""
        rows = [("picture", "name", "probability"), *map(_cells, self._answers[:SHOWN])]
        table = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
        )
        hidden = len(self) - SHOWN
        return f"<table>{table}</table>" + (f"<p>… {hidden} more</p>" if hidden > 0 else "")

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return a dictionary for each picture, in JSON's types: see `Predicted.to_dict`."""
        return [one.to_dict() for one in self._answers]

    def to_pandas(self) -> DataFrame:
        """Return a row for each picture: see `Predicted.to_row`.

        Raises:
            ModuleNotFoundError: where pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "to_pandas needs pandas: pip install pandas; to_dicts does without",
                name=error.name,
            ) from None
        top_k = max((len(one.top) for one in self._answers), default=0)
        columns = list(Predicted("").to_row(top_k))
        return pandas.DataFrame([one.to_row(top_k) for one in self._answers], columns=columns)


def _cells(one: Predicted) -> tuple[str, str, str]:
    """Return picture, name or error, and probability as a table shows them."""
    picture = one.source if len(one.source) <= WIDEST else f"…{one.source[1 - WIDEST :]}"
    if one.error:
        return picture, _cut(f"error: {one.error}"), "–"
    return picture, _cut(one.name or "(abstains)"), f"{one.probability:.3f}"


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"
