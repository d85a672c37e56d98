"""The model section of a config, one class for each system: what it is made of, and what it can do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import pydantic

from hcflow_tf.config.types import Channels, Layers, LayersOrNone, NonNegative, PositiveFloat, Real, Section, Switch, shown

Condition = Literal["nothing", "lr", "own", "own_and_below"]
WRITTEN = "written"
"""Key of the validation context: true for a config that this program wrote, in whatever release."""

LOG_STD_BOUND = 0.5
"""Of new super-resolution models: few values of photographs are above it (docs/training.md), and no picture's may be."""

Task = Literal["super_resolution", "rescaling"]


class Inside(NamedTuple):
    """A model of another system as a part of one.

    Attributes:
      prefix: what the names of its weights begin with by itself.
      prefix_here: and in the model that it is part of.
      keys: of its section, and the same in that of the model that it is part of.
    """

    prefix: str
    prefix_here: str
    keys: Mapping[str, str]


class SystemConfig(Section):
    """What the sections of all systems offer; callers ask these, never which system it is."""

    has_likelihood: ClassVar[bool] = True
    """Whether the model says how likely an image is, so that it can be trained by its negative log-likelihood."""
    DEFAULT_LOSSES: ClassVar[dict[str, float]] = {}
    """Keys of the section losses where a config leaves the section out."""
    GROWING: ClassVar[tuple[str, ...]] = ()
    """Keys in which a model may be larger than the one whose weights it starts from; see `training.growth`."""
    FREE: ClassVar[tuple[str, ...]] = ()
    """Keys in which it may differ from that one."""
    INSIDE: ClassVar[Mapping[str, Inside]] = {}
    """Systems whose models are a part of such a model, which may start from one and be frozen at first."""

    if TYPE_CHECKING:  # a key of some sections, and the same for all models of others

        @property
        def system(self) -> str:
            """Its name in configs."""

        @property
        def scale(self) -> int:
            """Width of hr over width of lr."""

        @property
        def task(self) -> Task:
            """What it is for."""

    @property
    def makes_lr(self) -> bool:
        """Whether the model makes the LR images that it restores; else it takes those of MATLAB's bicubic."""
        return self.task == "rescaling"

    @property
    def hr_multiple(self) -> int:
        """What height and width of HR images are to be divisible by."""
        return self.scale

    @property
    def min_weights(self) -> int:
        """Some number of weights (arrays) that any such model exceeds, known without making one."""
        raise NotImplementedError

    def describe(self) -> dict[str, str]:
        """Its size in words: what -> how much."""
        raise NotImplementedError

    def problems(self) -> Iterator[str]:
        """Combinations of values that are no model, each as one line "model.key: reason"."""
        yield from ()


class ModelConfig(SystemConfig):
    """HCFlow (paper section 4.1); L = log2(scale)."""

    GROWING = ("main_steps", "conditional_steps", "main_width", "conditional_width", "rrdb_blocks", "rrdb_growth")
    FREE = ("log_std_bound",)

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
    rrdb_blocks: tuple[Layers, Layers] = (7, 7)
    """RRDB blocks in trunk A and trunk B of each level's feature extractor."""
    rrdb_features: Channels = 64
    rrdb_growth: Channels = 32
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
    def min_weights(self) -> int:
        """See `SystemConfig`."""
        return self.levels * (self.main_steps + self.conditional_steps + sum(self.rrdb_blocks))

    def describe(self) -> dict[str, str]:
        """See `SystemConfig`."""
        return {
            "steps": f"L {self.levels}, K {self.main_steps}, P {self.conditional_steps}",
            "coupling widths": f"{self.main_width} and {self.conditional_width}",
            "RRDB blocks": f"{self.rrdb_blocks[0]} and {self.rrdb_blocks[1]} per level",
            "RRDB features": f"{self.rrdb_features}, growth {self.rrdb_growth}",
        }

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


class SRFlowConfig(SystemConfig):
    """SRFlow (Lugmayr et al., ECCV 2020); L = log2(scale) + 1 levels, all of them conditioned on the given LR image."""

    INSIDE = {  # noqa: RUF012
        "rrdb": Inside(
            "network/",
            "rrdb/",
            {"scale": "scale", "blocks": "rrdb_blocks", "features": "rrdb_features", "growth": "rrdb_growth"},
        )
    }

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


def system_of(section: Any) -> str:
    """The tag of the union: what `system` says, hcflow where it is not there (or where this is no section at all)."""
    named = section.get("system", "hcflow") if isinstance(section, dict) else getattr(section, "system", "hcflow")
    return named if isinstance(named, str) else shown(named)


SECTIONS: dict[str, type[SystemConfig]] = {"hcflow": ModelConfig, "irn": IRNConfig, "rrdb": RRDBConfig, "srflow": SRFlowConfig}
"""System -> its section."""
AnyModelConfig = Annotated[
    Annotated[ModelConfig, pydantic.Tag("hcflow")]
    | Annotated[IRNConfig, pydantic.Tag("irn")]
    | Annotated[RRDBConfig, pydantic.Tag("rrdb")]
    | Annotated[SRFlowConfig, pydantic.Tag("srflow")],
    pydantic.Discriminator(system_of),
]
"""The section of any system: key `system` says which, hcflow where it is left out."""


def validate_section(values: Any) -> SystemConfig:
    """The section of a model from its values, a dict.

    Raises:
      pydantic.ValidationError: they are no such section.
    """
    return _ANY.validate_python(values)


_ANY: pydantic.TypeAdapter[SystemConfig] = pydantic.TypeAdapter(AnyModelConfig)
