"""How arrays lie in the authors' files, and reading hyperparameters off names and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias, TypeVar

import pydantic

from hcflow_tf.config import SystemConfig
from hcflow_tf.support.errors import HCFlowError

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
Section = TypeVar("Section", bound=SystemConfig)

PLAIN, CONVOLUTION, PER_CHANNEL, FACTORS = "plain", "convolution", "per channel", "factors"
"""How an array lies in their files: as here; [out, in, h, w] for our [h, w, in, out]; [1, c, 1, 1] or [c, 1, 1] for our [c]."""

CONV = (("kernel", "weight", CONVOLUTION), ("bias", "bias", PLAIN))
"""Of a convolution: our name, their name, how it lies there."""


class Entry(NamedTuple):
    """What one of our weights is called in their files, and how it lies there."""

    name: str
    kind: str


def released_shape(shape: tuple[int, ...], kind: str) -> tuple[int, ...]:
    """The shape in the authors' files of our array of this shape."""
    if kind == CONVOLUTION:
        height, width, inputs, outputs = shape
        return (outputs, inputs, height, width)
    return {PLAIN: shape, PER_CHANNEL: (1, *shape, 1, 1), FACTORS: (*shape, 1, 1)}[kind]


def count(shapes: Shapes, pattern: str) -> int:
    """How many indices the entries have at the group of this pattern.

    Distinct ones, not the largest: then a gap is reported as missing entries, and no index makes a huge model.
    """
    return len({match.group(1) for name in shapes if (match := re.match(pattern, name))})


def width(shapes: Shapes, title: str, name: str, default: int | None = None) -> int:
    """Outputs of the convolution of this name.

    Raises:
      HCFlowError: there is none, and no default.
    """
    if name in shapes and len(shapes[name]) == 4:
        return int(shapes[name][0])
    if default is not None:
        return default
    raise HCFlowError(f"not the weights of {title}: there is no convolution {name}")


def make_section(section: type[Section], title: str, **hyperparameters: Any) -> Section:
    """The section of these hyperparameters.

    Raises:
      HCFlowError: they are no model's.
    """
    try:
        made = section(**hyperparameters)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise HCFlowError(f"not the weights of {title}: {key} would be {problem['input']}") from error
    for line in made.problems():
        raise HCFlowError(f"not the weights of {title}: {line}")
    return made
