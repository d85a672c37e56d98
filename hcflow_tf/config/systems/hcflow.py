"""The model section of HCFlow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pydantic

from hcflow_tf.config.systems.base import Inside, SystemConfig, Task
from hcflow_tf.config.systems.rrdb import RRDBConfig
from hcflow_tf.config.types import Blocks, Channels, Layers, LayersOrNone, Padding, Real, Switch

Condition = Literal["nothing", "lr", "own", "own_and_below"]

WRITTEN = "written"
"""Key of the validation context: true for a config that this program wrote, in whatever release."""

LOG_STD_BOUND = 0.5
"""Of new super-resolution models: few values of photographs are above it (docs/training.md), and no picture's may be."""


class ModelConfig(SystemConfig):
    """HCFlow (paper section 4.1); L = log2(scale)."""

    GROWING = (
        "main_steps",
        "conditional_steps",
        "main_width",
        "conditional_width",
        "rrdb_blocks",
        "lower_rrdb_blocks",
        "rrdb_growth",
    )
    FREE = ("log_std_bound", "padding")
    CAN_FREEZE = True

    system: Literal["hcflow"] = "hcflow"
    task: Task = "super_resolution"
    scale: Literal[2, 4, 8, 16] = 4
    main_steps: Layers = 13
    """K, flow steps per level on the image path."""
    conditional_steps: LayersOrNone = 13
    """P, conditional flow steps per level on the latent path."""
    main_width: Channels = 64
    """Hidden width of the FCN (super_resolution) or growth of the DenseBlock (rescaling)."""
    conditional_width: Channels = 64
    rrdb_blocks: Blocks = (7, 7)
    """RRDB blocks in trunk A and trunk B of each level's feature extractor, or of the finest level's alone."""
    lower_rrdb_blocks: Annotated[Blocks, pydantic.Field(validate_default=True)] = None  # type: ignore[assignment]
    """Those of the levels below the finest, where a pixel is four times larger and a block a quarter as expensive;
    `rrdb_blocks`, as in the released weights, if nothing is said."""
    rrdb_features: Channels = 64
    rrdb_growth: Channels = 32
    padding: Padding = "zeros"
    """What convolutions see outside the image: zeros, as in the released weights, or the pixels at its border again, of which
    a flat picture stays flat to its border."""
    log_std_bound: Real | None = None
    """Super-resolution: smooth upper bound of the log standard deviations of the latent path, `LOG_STD_BOUND` if nothing is
    said; None, as in the released weights, leaves them free, and a sample of a picture unlike the training images may then
    overflow."""

    conditions: tuple[Condition, ...] | None = None
    """What conditions the latents of levels 1 (finest) to L: nothing, the given LR image, the level's own image y_l, or
    that and the conditions of all levels below it; None: the last for all levels, as HCFlow does (paper, table 5)."""
    lr_is_output: Switch = True
    """Whether the flow gives an LR image beside the latents; false makes all channels of the last level latents."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _bounded_by_default(cls, values: Any, info: pydantic.ValidationInfo) -> Any:
        written = (info.context or {}).get(WRITTEN)  # it has every key of its time: without this one, it was free
        if written or not isinstance(values, dict) or values.get("task") == "rescaling":
            return values
        return {"log_std_bound": LOG_STD_BOUND, **values}

    @pydantic.field_validator("lower_rrdb_blocks", mode="before")
    @classmethod
    def _alike_by_default(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        return info.data.get("rrdb_blocks", (1, 1)) if value is None else value

    def blocks(self, level: int) -> tuple[int, int]:
        """RRDB blocks in trunk A and trunk B of the feature extractor of level 1 (finest) to L."""
        return self.rrdb_blocks if level == 1 else self.lower_rrdb_blocks

    @property
    def levels(self) -> int:
        """L, the number of levels."""
        return int(math.log2(self.scale))

    @property
    def level_conditions(self) -> tuple[Condition, ...]:
        """`conditions`, said for each level."""
        if self.conditions is not None:
            return self.conditions
        default: Condition = "own_and_below"
        return (default,) * self.levels

    @property
    def condition_channels(self) -> int:
        """Channels of a level's condition: super-resolution concatenates what two depths of the extractor give."""
        return self.rrdb_features * (1 if self.task == "rescaling" else 2)

    @property
    def repeats_border(self) -> bool:
        """See `SystemConfig`."""
        return self.padding == "replicate"

    @property
    def min_weights(self) -> int:
        """See `SystemConfig`."""
        blocks = sum(sum(self.blocks(level)) for level in range(1, self.levels + 1))
        return self.levels * (self.main_steps + self.conditional_steps) + blocks

    def inside(self, other: SystemConfig) -> Inside | None:
        """See `SystemConfig`: of an RRDB model the layers at LR resolution, as the extractor of the last level."""
        if not isinstance(other, RRDBConfig):
            return None
        in_trunk_a, in_trunk_b = self.blocks(self.levels)
        keys: dict[str, tuple[object, object]] = {
            "task": (other.task, self.task),
            "scale": (other.scale, self.scale),
            "lower_rrdb_blocks" if self.levels > 1 else "rrdb_blocks": (
                f"{other.blocks} together",
                f"{in_trunk_a + in_trunk_b} together",
            ),
            "rrdb_features": (other.features, self.rrdb_features),
            "rrdb_growth": (other.growth, self.rrdb_growth),
        }
        if self.level_conditions[-1] == "nothing":
            keys["conditions"] = ("features of the LR image, which the last level's condition would be made of,", self.conditions)

        def rename(name: str) -> str | None:
            _, layer, *rest = name.split("/")
            kind, _, number = layer.rpartition("_")
            if kind == "trunk":
                index = int(number)
                layer = f"trunk_a_{index}" if index <= in_trunk_a else f"trunk_b_{index - in_trunk_a}"
            elif layer == "conv_trunk":
                layer = "conv_last"
            elif layer != "conv_first":
                return None
            return "/".join([f"level_{self.levels}", "feature_extractor", layer, *rest])

        return Inside(keys, rename)

    def describe(self) -> dict[str, str]:
        """See `SystemConfig`."""
        return {
            "steps": f"L {self.levels}, K {self.main_steps}, P {self.conditional_steps}",
            "coupling widths": f"{self.main_width} and {self.conditional_width}",
            "RRDB blocks": self._describe_blocks(),
            "RRDB features": f"{self.rrdb_features}, growth {self.rrdb_growth}",
        }

    def _describe_blocks(self) -> str:
        finest, lower = (f"{first} and {second}" for first, second in (self.rrdb_blocks, self.lower_rrdb_blocks))
        return f"{finest} per level" if finest == lower else f"{finest} at the finest level, {lower} below"

    def problems(self) -> Iterator[str]:
        """See `SystemConfig`."""
        if self.makes_lr and self.log_std_bound is not None:
            yield "model.log_std_bound: a rescaling model's log standard deviations are bounded already; leave it out"
        conditions, levels = self.level_conditions, self.levels
        if len(conditions) != levels:
            yield f"model.conditions: expected one for each of the {levels} levels, got {len(conditions)}"
        if self.makes_lr and (not self.lr_is_output or "lr" in conditions):
            yield "model.conditions: a rescaling model makes its LR image itself; it must be an output and no condition is lr"
        if not self.lr_is_output and conditions[-1] in ("own", "own_and_below"):
            yield f"model.conditions: without model.lr_is_output the last level has no image of its own, got {conditions[-1]}"
