"""The model section of SRFlow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal

import pydantic

from hcflow_tf.config.systems.base import Inside, SystemConfig, Task
from hcflow_tf.config.systems.rrdb import RRDBConfig
from hcflow_tf.config.types import Channels, Layers, LayersOrNone, NonNegative


class SRFlowConfig(SystemConfig):
    """SRFlow (Lugmayr et al., ECCV 2020); L = log2(scale) + 1 levels, all of them conditioned on the given LR image."""

    CAN_FREEZE = True

    system: Literal["srflow"] = "srflow"
    scale: Literal[2, 4, 8, 16] = 4
    plain_steps: LayersOrNone = 2
    """Flow steps without coupling, at the beginning of each level."""
    steps: Layers = 16
    """K, conditional flow steps per level."""
    width: Channels = 64
    """Hidden width of the networks in them."""
    rrdb_blocks: Layers = 23
    """RRDBs of the network that encodes the LR image."""
    rrdb_features: Channels = 64
    rrdb_growth: Channels = 32
    stacked_blocks: Annotated[tuple[NonNegative, ...], pydantic.Field(min_length=1)] = (1, 8, 15, 22)
    """The RRDBs, from 0, whose outputs all steps see beside the network's features."""

    @property
    def task(self) -> Task:
        """What it is for."""
        return "super_resolution"

    @property
    def levels(self) -> int:
        """L, the number of levels."""
        return int(math.log2(self.scale)) + 1

    @property
    def hr_multiple(self) -> int:
        """See `SystemConfig`; twice the scale, so LR images are of even height and width."""
        return 2**self.levels

    @property
    def condition_channels(self) -> int:
        """Channels of what conditions the steps."""
        return self.rrdb_features * (1 + len(self.stacked_blocks))

    @property
    def min_weights(self) -> int:
        """See `SystemConfig`."""
        return 30 * self.rrdb_blocks + self.levels * (3 * self.plain_steps + 17 * self.steps)

    def inside(self, other: SystemConfig) -> Inside | None:
        """See `SystemConfig`: an RRDB model, all of it."""
        if not isinstance(other, RRDBConfig):
            return None
        keys = {
            "scale": (other.scale, self.scale),
            "rrdb_blocks": (other.blocks, self.rrdb_blocks),
            "rrdb_features": (other.features, self.rrdb_features),
            "rrdb_growth": (other.growth, self.rrdb_growth),
        }
        return Inside(keys, lambda name: "rrdb/" + name.removeprefix("network/"))

    def describe(self) -> dict[str, str]:
        """See `SystemConfig`."""
        return {
            "steps": f"L {self.levels}, K {self.steps} and {self.plain_steps} without coupling",
            "coupling width": str(self.width),
            "RRDB blocks": f"{self.rrdb_blocks}, stacked {', '.join(map(str, self.stacked_blocks))} (from 0)",
            "RRDB features": f"{self.rrdb_features}, growth {self.rrdb_growth}",
        }

    def problems(self) -> Iterator[str]:
        """See `SystemConfig`."""
        if max(self.stacked_blocks) >= self.rrdb_blocks:
            yield (
                f"model.stacked_blocks: expected indices from 0 to {self.rrdb_blocks - 1} of the {self.rrdb_blocks} RRDBs, "
                f"got {max(self.stacked_blocks)}"
            )
