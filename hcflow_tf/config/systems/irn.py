"""The model section of IRN."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from hcflow_tf.config.systems.base import SystemConfig, Task
from hcflow_tf.config.types import Channels, Layers, PositiveFloat


class IRNConfig(SystemConfig):
    """Invertible Rescaling Net (Xiao et al., ECCV 2020); log2(scale) levels of invertible blocks on all channels."""

    system: Literal["irn"] = "irn"
    scale: Literal[2, 4, 8] = 4
    blocks: tuple[Layers, ...] = (8, 8)
    """Invertible blocks of each level, the finest first."""
    growth: Channels = 32
    """Of the dense blocks in them."""
    clamp: PositiveFloat = 1.0
    """Bound of the log scales: they lie in (-clamp, clamp)."""

    @property
    def task(self) -> Task:
        """What it is for."""
        return "rescaling"

    @property
    def min_weights(self) -> int:
        """See `SystemConfig`."""
        return 30 * sum(self.blocks) - 1

    def describe(self) -> dict[str, str]:
        """See `SystemConfig`."""
        return {"blocks": f"{', '.join(map(str, self.blocks))} (finest level first)", "growth": str(self.growth)}

    def problems(self) -> Iterator[str]:
        """See `SystemConfig`."""
        levels = int(math.log2(self.scale))
        if len(self.blocks) != levels:
            yield f"model.blocks: expected a number for each of the {levels} levels of scale {self.scale}, got {len(self.blocks)}"
