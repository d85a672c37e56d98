"""The model section of RRDB and ESRGAN."""

from __future__ import annotations

from typing import Literal

from hcflow_tf.config.systems.base import SystemConfig, Task
from hcflow_tf.config.types import Channels, Layers


class RRDBConfig(SystemConfig):
    """ESRGAN's generator (Wang et al., 2018): one image for each LR image."""

    has_likelihood = False
    DEFAULT_LOSSES = {"nll": 0.0, "pixel": 1.0}  # noqa: RUF012

    system: Literal["rrdb"] = "rrdb"
    scale: Literal[2, 4, 8] = 4
    blocks: Layers = 23
    """RRDBs in the trunk."""
    features: Channels = 64
    growth: Channels = 32
    """Of the dense blocks in them."""

    @property
    def task(self) -> Task:
        """What it is for."""
        return "super_resolution"

    @property
    def min_weights(self) -> int:
        """See `SystemConfig`."""
        return 30 * self.blocks

    def describe(self) -> dict[str, str]:
        """See `SystemConfig`."""
        return {"RRDB blocks": str(self.blocks), "RRDB features": f"{self.features}, growth {self.growth}"}
