"""What all settings share: frozen models that are strict about unknown keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["NAME_PATTERN", "Count", "Fraction", "Positive", "Section"]

Fraction = Annotated[float, Field(ge=0, le=1)]


Positive = Annotated[float, Field(gt=0)]


Count = Annotated[int, Field(ge=1)]


NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


class Section(BaseModel):
    """Base of all settings: frozen, strict about unknown keys, documented per attribute."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
