"""What every section of a recipe is made of: its base class, and numbers and texts within the bounds of the code below.

The upper bounds are beyond what anybody uses. They keep a slip of the finger (`1e30`, an id as a seed) from ending in
an overflow inside torch, numpy or the database, or in a list that fills the memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from scrpo_cli.numbers import LARGEST

MOST_TOKENS = 10**15
"""Of a budget; floats count exactly so far."""
HIGHEST = 1e6
"""Of other numbers, either sign: products of a few of them are finite in float32."""


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "Input should be a text that is not empty")
    return text


Count = Annotated[int, Field(ge=0, le=LARGEST)]
PositiveInt = Annotated[int, Field(ge=1, le=LARGEST)]
Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
Number = Annotated[float, Field(ge=-HIGHEST, le=HIGHEST)]
NonNegative = Annotated[float, Field(ge=0, le=HIGHEST)]
Positive = Annotated[float, Field(gt=0, le=HIGHEST)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, AfterValidator(_not_blank)]


class Section(BaseModel):
    """Strict and frozen: an unknown key is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python, and so pydantic, takes true for 1."""
        given = value if isinstance(value, list) else [value]
        if any(isinstance(each, bool) for each in given):
            wanted = {*_types_in(cls.model_fields[info.field_name or ""].annotation)}
            if wanted & {int, float} and bool not in wanted:
                raise PydanticCustomError("number_type", "Input should be a number")
        return value


def _types_in(annotation: Any) -> Iterator[Any]:
    """The plain types that an annotation is made of: int and NoneType of `PositiveInt | None`."""
    if not (parts := get_args(annotation)):
        yield annotation
    for part in parts:
        yield from _types_in(part)
