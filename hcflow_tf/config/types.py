"""What the values of a config may be."""

from __future__ import annotations

import reprlib
from typing import Annotated, Any, Literal

import pydantic


def shown(value: Any) -> str:
    """The value as Python writes it, cut to some 100 characters."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 100
    try:
        return short.repr(value)
    except ValueError:  # Python refuses to write integers of more than 4300 digits
        return "a number of thousands of digits"


def _refuse_look_alikes(value: Any) -> Any:
    """Pydantic would take true for 1 and "16" for 16."""
    if isinstance(value, bool | str):
        raise ValueError(f"expected a number, got {shown(value)}")
    return value


_Number = pydantic.BeforeValidator(_refuse_look_alikes)
# Above any sensible value, below what overflows, allocates everything or never ends.
_MOST, _MOST_CHANNELS, _MOST_LAYERS, _MOST_AT_ONCE = 2**31 - 1, 4096, 1000, 2**16
Positive = Annotated[int, _Number, pydantic.Field(ge=1, le=_MOST)]
NonNegative = Annotated[int, _Number, pydantic.Field(ge=0, le=_MOST)]
Channels = Annotated[Positive, pydantic.Field(le=_MOST_CHANNELS)]
Layers = Annotated[Positive, pydantic.Field(le=_MOST_LAYERS)]
LayersOrNone = Annotated[NonNegative, pydantic.Field(le=_MOST_LAYERS)]
Blocks = tuple[Layers, LayersOrNone]
"""RRDBs of a feature extractor's trunk A and trunk B; without any in trunk B it has one depth."""
Quality = Annotated[Positive, pydantic.Field(le=100)]
UpToThousands = Annotated[Positive, pydantic.Field(le=_MOST_AT_ONCE)]
Real = Annotated[float, _Number, pydantic.Field(allow_inf_nan=False)]
Weight = Annotated[Real, pydantic.Field(ge=0.0)]
PositiveFloat = Annotated[Real, pydantic.Field(gt=0.0)]
Fraction = Annotated[Real, pydantic.Field(ge=0.0, le=1.0)]
Decay = Annotated[Real, pydantic.Field(ge=0.0, lt=1.0)]
Switch = pydantic.StrictBool
Padding = Literal["zeros", "replicate"]


class Section(pydantic.BaseModel):
    """A section of a config: its keys are known, and it does not change."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
