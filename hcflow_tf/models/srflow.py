"""SRFlow: its architecture, from config to bijector, and the Keras model that owns the networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from hcflow_tf import bijectors
from hcflow_tf.bijectors import log_scales
from hcflow_tf.bijectors.squeeze import slow_channels
from hcflow_tf.config import SRFlowConfig
from hcflow_tf.models.complexity import MEMORY_MARGIN, Place
from hcflow_tf.models.trained_model import TrainedModel
from hcflow_tf.networks.coupling import FCN
from hcflow_tf.networks.flow_step import FlowStepWeights
from hcflow_tf.networks.layers import FirstHalf, ScaledConv
from hcflow_tf.networks.linear_map import ComputedMap, LinearMap
from hcflow_tf.networks.part import Computed, Live
from hcflow_tf.networks.rrdb import ConditionPyramid, RRDBNetwork


class StepParts(NamedTuple):
    """One conditional flow step: a linear map, the injector's network and the coupling's."""

    linear: LinearMap | ComputedMap
    injector: Live | Computed
    network: Live | Computed


class LevelParts(NamedTuple):
    """What `assemble` makes a level of; None where it does not split."""

    plain_steps: Sequence[LinearMap | ComputedMap]
    steps: Sequence[StepParts]
    gaussian: Live | Computed | None
    gaussian_mean: Live | Computed | None


class Parts(NamedTuple):
    """What `assemble` makes the flow of."""

    lr_encoder: Live | Computed
    levels: Sequence[LevelParts]


def assemble(
    config: SRFlowConfig,
    parts: Parts,
    *,
    recompute: bool = False,
    atan: Callable[[tf.Tensor], tf.Tensor] | None = None,
    log_std_caps: Sequence[Sequence[float]] | None = None,
) -> bijectors.HierarchicalFlow:
    """The flow over the parts, live or computed: the one place that says what SRFlow is; see `FlowModel.assemble`.

    All steps see the given LR image, encoded. A level that splits passes on its first half, and the other half becomes
    latents, standardised given the first; behind the last level all that is left is latents.
    """
    levels = []
    for number, level in enumerate(parts.levels, start=1):
        plain = [bijectors.Linear(linear) for linear in level.plain_steps]
        gaussian = None
        if level.gaussian is not None:
            log_std: log_scales.LogScale = log_scales.unbounded
            if log_std_caps:
                log_std = log_scales.capped(log_std, log_std_caps[number - 1])
            gaussian = bijectors.ConditionalGaussian(level.gaussian, log_std=log_std, mean=level.gaussian_mean)
        levels.append(
            bijectors.FlowLevel(
                squeeze=bijectors.Squeeze(),
                steps=[*plain, *map(_conditional_step, level.steps)],
                image_channels=image_channels(config, number),
                gaussian=gaussian,
                conditioned_on="nothing" if gaussian is None else "own",
            )
        )
    return bijectors.HierarchicalFlow(levels, scale=config.scale, lr_encoder=parts.lr_encoder, recompute=recompute)


def _conditional_step(step: StepParts) -> bijectors.ConditionalFlowStep:
    log_scale = log_scales.sigmoid_scale
    return bijectors.ConditionalFlowStep(
        [
            bijectors.Linear(step.linear),
            bijectors.AffineInjector(step.injector, log_scale=log_scale),
            bijectors.ConditionalAffineCoupling(step.network, log_scale=log_scale),
        ]
    )


def splits(config: SRFlowConfig, level: int) -> bool:
    """Whether this level, 1 (finest) to L, passes on half of its channels alone; the last two do not."""
    return level < config.levels - 1


def image_channels(config: SRFlowConfig, level: int) -> int:
    """Channels that level 0 (the image) to L pass on."""
    if level == 0:
        return 3
    if level == config.levels:
        return 0
    squeezed = 4 * image_channels(config, level - 1)
    return squeezed // 2 if splits(config, level) else squeezed


class Level(keras.layers.Layer):
    """The weights of one level: steps without coupling, conditional steps, and the Gaussian of the channels split off."""

    def __init__(self, config: SRFlowConfig, level: int, **kwargs):
        """Args: level, 1 (finest) to L."""
        super().__init__(**kwargs)
        self._squeezed = channels = 4 * image_channels(config, level - 1)
        passed, dtype = channels // 2, self.dtype_policy
        self.plain_steps = [
            FlowStepWeights(channels, matrix="orthogonal", name=f"plain_step_{index + 1}", dtype=dtype)
            for index in range(config.plain_steps)
        ]
        options = {"raw_factor": 1.0, "dtype": dtype}
        self.steps = [
            FlowStepWeights(
                channels,
                FCN(
                    passed,
                    2 * (channels - passed),
                    config.width,
                    condition=config.condition_channels,
                    name="network",
                    **options,
                ),
                injector=FCN(config.condition_channels, 2 * channels, config.width, name="injector", **options),
                matrix="orthogonal",
                name=f"step_{index + 1}",
                dtype=dtype,
            )
            for index in range(config.steps)
        ]
        self.gaussian = None
        if splits(config, level):
            self.gaussian = ScaledConv(passed, 2 * (channels - passed), name="gaussian", **options)

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates the weights."""
        for layer in (*self.plain_steps, *self.steps, self.gaussian):
            if layer is not None:
                layer.build(None)

    def parts(self) -> LevelParts:
        """What the flow is made of."""
        steps = (*self.plain_steps, *self.steps)
        # The order of the squeezed channels is part of the first map.
        maps = [steps[0].linear_map(before=slow_channels(self._squeezed // 4)), *(step.linear_map() for step in steps[1:])]
        count = len(self.plain_steps)
        return LevelParts(
            plain_steps=maps[:count],
            steps=[
                StepParts(linear, Live(step.injector), Live(step.network))
                for linear, step in zip(maps[count:], self.steps, strict=True)
            ],
            gaussian=self.gaussian and Live(self.gaussian),
            gaussian_mean=self.gaussian and Live(FirstHalf(self.gaussian)),
        )


@keras.saving.register_keras_serializable(package="hcflow_tf")
class SRFlow(TrainedModel):
    """The bijection hr <-> [z_1, z_2, ...] given lr; images are NHWC RGB in [0, 1], lr of even height and width.

    References:
      [1] Lugmayr et al., SRFlow: Learning the Super-Resolution Space with Normalizing Flow, ECCV 2020,
          https://arxiv.org/abs/2006.14200
    """

    config: SRFlowConfig
    flow: bijectors.HierarchicalFlow
    assemble = staticmethod(assemble)

    @property
    def needs_guard(self) -> bool:
        """Always: the log standard deviations of the channels that are split off are free of any bound."""
        return True

    def make_layers(self, network_dtype: str, recompute: bool) -> None:
        """See `TrainedModel`."""
        config = self.config
        self.rrdb = RRDBNetwork(
            config.scale,
            features=config.rrdb_features,
            growth=config.rrdb_growth,
            blocks=config.rrdb_blocks,
            recompute=recompute,
            name="rrdb",
            dtype=network_dtype,
        )
        self.levels = [
            Level(config, level, name=f"level_{level}", dtype=self.dtype_policy) for level in range(1, config.levels + 1)
        ]

    def parts(self, *, wide: bool = True) -> Parts:
        """The parts of the flow; each step computes from the condition what it needs, whether `wide` or not."""
        pyramid = ConditionPyramid(self.rrdb, self.config.stacked_blocks)
        return Parts(Live(pyramid), [level.parts() for level in self.levels])

    @staticmethod
    def is_frozen_at_first(name: str) -> bool:
        """See `TrainedModel`."""
        return name.startswith("rrdb/")

    @staticmethod
    def place_of(config: SRFlowConfig, name: str) -> Place:
        """See `TrainedModel`; nothing computes the RRDB network's own image."""
        first, rest = name.split("/", 1)
        if first == "rrdb":
            layer = rest.partition("/")[0]
            doubling = int(layer.removeprefix("upconv_")) if layer.startswith("upconv_") else 0
            if layer in ("conv_hr", "conv_last") or doubling == config.levels - 1:
                return Place("RRDB network's image", divisor=math.inf, on_path=False)
            return Place("RRDB network", divisor=config.scale / 2**doubling)
        divisor = 2 ** int(first.removeprefix("level_"))
        part = "conditional Gaussians" if rest.startswith("gaussian") else "flow steps"
        # The injector sees what its coupling's network sees, at the same place.
        return Place(part, divisor=divisor, on_path="/injector/" not in rest)

    @staticmethod
    def decode_bytes(config: SRFlowConfig) -> int:
        """See `TrainedModel`; the peak lies at the finest level: its condition, what that is made of, and a network beside it.

        Measured on a CPU: 29.2 kB per LR pixel for srflow_x4 (estimated 30.0).
        """
        finest = 3 * config.condition_channels + 4 * config.width + 3 * 12
        return round(MEMORY_MARGIN * 4 * finest * (config.scale // 2) ** 2)
