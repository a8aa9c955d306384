"""What all settings share: frozen models that are strict about unknown keys."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

__all__ = ["MAX_PIXELS", "NAME_PATTERN", "Count", "Fraction", "Positive", "Section"]

MAX_PIXELS = 25_000_000
"""Of a picture; some 300 MB and a second are what as many may cost."""


Fraction = Annotated[float, Field(ge=0, le=1)]


Positive = Annotated[float, Field(gt=0)]


Count = Annotated[int, Field(ge=1)]


NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


def _plain(annotation: Any) -> Any:
    """Return a type without its bounds."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


class Section(BaseModel):
    """Base of all settings: frozen, strict about unknown keys, documented per attribute."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true where 1 may be meant: pydantic takes the one for the other."""
        wanted = cls.model_fields[str(info.field_name)].annotation
        numbers = {int, float} & {wanted, *map(_plain, get_args(wanted))}
        if isinstance(value, bool) and numbers and bool not in get_args(wanted):
            raise ValueError("a number is wanted")
        return value
