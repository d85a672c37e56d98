"""HCFlow: its architecture, from config to bijector, and the Keras model that owns the networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from hcflow_tf import bijectors
from hcflow_tf.bijectors import log_scales
from hcflow_tf.bijectors.coupling import LOW_CHANNELS
from hcflow_tf.bijectors.log_scales import LogScale
from hcflow_tf.bijectors.squeeze import haar, slow_channels
from hcflow_tf.config import ModelConfig
from hcflow_tf.models.complexity import MEMORY_MARGIN, Place
from hcflow_tf.models.trained_model import TrainedModel
from hcflow_tf.networks.coupling import FCN, ConditionParts, DenseBlock, GivenCondition
from hcflow_tf.networks.feature_extractor import FeatureExtractor
from hcflow_tf.networks.flow_step import FlowStepWeights
from hcflow_tf.networks.layers import FirstHalf, HaarMatrix, ScaledConv, repeated_border
from hcflow_tf.networks.linear_map import ComputedMap, LinearMap
from hcflow_tf.networks.part import Computed, Live

COST_PARTS = {
    "main_step": "main flow steps",
    "feature_extractor": "feature extractors",
    "conditional_step": "conditional flow steps",
    "gaussian": "conditional Gaussians",
}
"""Beginning of a weight's name within its level -> the part's name in `hcflow info`."""


class CouplingKind(NamedTuple):
    """A coupling of the image path: its network, and the bijector over it."""

    network: Callable[..., keras.layers.Layer]
    """(channels, width, **Keras options) -> the layer."""
    bijector: Callable[[Live | Computed, LogScale], bijectors.FlowBijector]


AFFINE = CouplingKind(
    lambda channels, width, **options: FCN(channels // 2, 2 * (channels - channels // 2), width, **options),
    lambda network, log_scale: bijectors.AffineCoupling(network, log_scale=log_scale),
)
LOW_FREQUENCY_AFFINE = CouplingKind(
    lambda channels, width, **options: DenseBlock(
        LOW_CHANNELS, 2 * (channels - LOW_CHANNELS), width, shift_and_raw=True, **options
    ),
    lambda network, log_scale: bijectors.AffineCoupling(network, passed=LOW_CHANNELS, log_scale=log_scale),
)
LOW_FREQUENCY_SHIFT = CouplingKind(
    lambda channels, width, **options: DenseBlock(channels - LOW_CHANNELS, LOW_CHANNELS, width, **options),
    lambda network, _: bijectors.ShiftCoupling(network),
)


def coupling_kind(config: ModelConfig, index: int) -> CouplingKind:
    """The coupling of step `index` (from 0) of the image path."""
    if config.task == "rescaling":
        return (LOW_FREQUENCY_AFFINE, LOW_FREQUENCY_SHIFT)[index % 2]
    return AFFINE


class StepParts(NamedTuple):
    """One flow step: a linear map at every pixel and the network of a coupling."""

    linear: LinearMap | ComputedMap
    network: Live | Computed


class LevelParts(NamedTuple):
    """What `assemble` makes a level of; None where its latents have no condition."""

    main_steps: Sequence[StepParts]
    conditional_steps: Sequence[StepParts]
    extractor: Live | Computed | None
    condition_parts: Live | Computed | None
    gaussian: Live | Computed | None
    gaussian_mean: Live | Computed | None


def assemble(
    config: ModelConfig,
    parts: Sequence[LevelParts],
    *,
    recompute: bool = False,
    atan: Callable[[tf.Tensor], tf.Tensor] = tf.math.atan,
    log_std_caps: Sequence[Sequence[float]] | None = None,
) -> bijectors.HierarchicalFlow:
    """The flow over the parts of levels 1 (finest) to L, live or computed: the one place that says what HCFlow is.

    Args:
      config: hyperparameters.
      parts: of each level.
      recompute: see `HierarchicalFlow`.
      atan: the arcus tangent to use; `log_scales.portable_atan` where the runtime has none.
      log_std_caps: of each level the largest log standard deviation of each latent channel; see `models.guard`.
    """
    log_scale = log_scales.arctangent(atan)
    log_std = log_scales.unbounded if config.log_std_bound is None else log_scales.bounded_above(config.log_std_bound)
    if config.task == "rescaling":
        log_std = log_scale
    levels = []
    for number, (level, conditioned_on) in enumerate(zip(parts, config.level_conditions, strict=True), start=1):
        steps = [
            bijectors.FlowStep([bijectors.Linear(linear), coupling_kind(config, index).bijector(network, log_scale)])
            for index, (linear, network) in enumerate(level.main_steps)
        ]
        if level.gaussian is None:
            latent_steps = [
                bijectors.FlowStep([bijectors.Linear(linear), bijectors.AffineCoupling(network, log_scale=log_scale)])
                for linear, network in level.conditional_steps
            ]
            gaussian = None
        else:
            latent_steps = [
                bijectors.ConditionalFlowStep(
                    [bijectors.Linear(linear), bijectors.ConditionalAffineCoupling(network, log_scale=log_scale)]
                )
                for linear, network in level.conditional_steps
            ]
            of_level = log_scales.capped(log_std, log_std_caps[number - 1]) if log_std_caps else log_std
            gaussian = bijectors.ConditionalGaussian(level.gaussian, log_std=of_level, mean=level.gaussian_mean)
        levels.append(
            bijectors.FlowLevel(
                squeeze=bijectors.Squeeze(),
                steps=steps,
                image_channels=image_channels(config, number),
                conditional_steps=latent_steps,
                gaussian=gaussian,
                conditioned_on=conditioned_on,
                extractor=level.extractor,
                condition_parts=level.condition_parts,
            )
        )
    return bijectors.HierarchicalFlow(levels, recompute=recompute)


def image_channels(config: ModelConfig, level: int) -> int:
    """Channels of y_l, level 0 to L: half of the squeezed ones, and in the end the LR image, if it is an output."""
    if level == config.levels:
        return 3 if config.lr_is_output else 0
    return 3 * 2**level


def condition_sources(config: ModelConfig, level: int) -> list[tuple[int, int]]:
    """Channels of each source of the condition of level 1 to L, and the factor by which it is enlarged."""
    conditioned_on = config.level_conditions[level - 1]
    if conditioned_on == "lr":
        return [(3, 2 ** (config.levels - level))]
    sources = [(image_channels(config, level), 1)]
    if conditioned_on == "own_and_below":
        below = [lower for lower in range(level + 1, config.levels + 1) if config.level_conditions[lower - 1] != "nothing"]
        sources += [(config.condition_channels, 2 ** (lower - level)) for lower in below]
    return sources


class Level(keras.layers.Layer):
    """The weights of level l: K flow steps, the feature extractor, P conditional steps, the last Gaussian.

    In super-resolution the first matrix of the image path starts as the Haar step and the others as the identity, not as
    random rotations: the LR image starts as the averaged image instead of a random mixture that training has to undo
    (docs/training.md has the comparison).
    """

    def __init__(self, config: ModelConfig, level: int, network_dtype: str, recompute: bool, **kwargs):
        """Args: level, 1 to L; network_dtype, of feature extractors and coupling networks."""
        super().__init__(**kwargs)
        dtype, self._rescaling = self.dtype_policy, config.task == "rescaling"
        border = repeated_border if config.repeats_border else None
        of_network: dict[str, Any] = {"border": border, "dtype": network_dtype}
        self._squeezed = 4 * image_channels(config, level - 1)
        latent = self._squeezed - image_channels(config, level)
        conditioned = config.level_conditions[level - 1] != "nothing"
        condition = config.condition_channels if conditioned else 0
        self.main_steps = [
            FlowStepWeights(
                self._squeezed,
                coupling_kind(config, index).network(self._squeezed, config.main_width, name="network", **of_network),
                matrix=None if self._rescaling else HaarMatrix() if index == 0 else "identity",
                name=f"main_step_{index + 1}",
                dtype=dtype,
            )
            for index in range(config.main_steps)
        ]
        self.extractor = self.gaussian = None
        if conditioned:
            self.extractor = FeatureExtractor(
                condition_sources(config, level),
                features=config.rrdb_features,
                growth=config.rrdb_growth,
                blocks=config.blocks(level),
                concat=not self._rescaling,
                recompute=recompute,
                border=border,
                name="feature_extractor",
                dtype=network_dtype,
            )
        self.conditional_steps = [
            FlowStepWeights(
                latent,
                FCN(
                    latent // 2,
                    2 * (latent - latent // 2),
                    config.conditional_width,
                    condition=condition,
                    name="network",
                    **of_network,
                ),
                matrix="orthogonal",
                name=f"conditional_step_{index + 1}",
                dtype=dtype,
            )
            for index in range(config.conditional_steps)
        ]
        if conditioned:
            raw_factor = log_scales.RAW_FACTOR if self._rescaling else 1.0
            self.gaussian = ScaledConv(condition, 2 * latent, raw_factor=raw_factor, name="gaussian", border=border, dtype=dtype)

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates the weights."""
        for layer in (*self.main_steps, self.extractor, *self.conditional_steps, self.gaussian):
            if layer is not None:
                layer.build(None)

    def parts(self, *, wide: bool) -> LevelParts:
        """What the flow is made of.

        Args:
          wide: compute what all conditional steps need of the condition in one convolution; else each step computes its
            own, which keeps less for the backward pass where steps are computed again, and can start from data.
        """
        main_steps = []
        for index, step in enumerate(self.main_steps):
            first = index == 0
            # Before the first matrix of super-resolution has averaged them, all channels hold parts of the image.
            keep = self._squeezed if first and not self._rescaling else LOW_CHANNELS
            squeeze = (haar if self._rescaling else slow_channels)(self._squeezed // 4) if first else None
            main_steps.append(StepParts(step.linear_map(before=squeeze, keep=keep), Live(step.network)))
        networks = [step.network for step in self.conditional_steps]
        wide = wide and self.extractor is not None and bool(networks)
        return LevelParts(
            main_steps=main_steps,
            conditional_steps=[
                StepParts(step.linear_map(), Live(GivenCondition(step.network) if wide else step.network))
                for step in self.conditional_steps
            ],
            extractor=self.extractor and Live(self.extractor),
            condition_parts=Live(ConditionParts(networks)) if wide else None,
            gaussian=self.gaussian and Live(self.gaussian),
            gaussian_mean=self.gaussian and Live(FirstHalf(self.gaussian)),
        )


@keras.saving.register_keras_serializable(package="hcflow_tf")
class HCFlow(TrainedModel):
    """The bijection hr <-> [lr, z_1, ..., z_L] and the distributions that it defines.

    Images are NHWC RGB in [0, 1]; latents z_l are [batch, h_lr 2^(L-l), w_lr 2^(L-l), channels_l].

    References:
      [1] Liang et al., Hierarchical Conditional Flow: A Unified Framework for Image Super-Resolution and Image
          Rescaling, ICCV 2021, https://arxiv.org/abs/2108.05301
    """

    config: ModelConfig
    flow: bijectors.HierarchicalFlow
    assemble = staticmethod(assemble)

    @property
    def needs_guard(self) -> bool:
        """In super-resolution: `log_std_bound` keeps samples finite, but is one number for channels that differ."""
        return not self.config.makes_lr and self.flow.has_gaussians

    def make_layers(self, network_dtype: str, recompute: bool) -> None:
        """See `TrainedModel`."""
        self.levels = [
            Level(self.config, level, network_dtype, recompute, name=f"level_{level}", dtype=self.dtype_policy)
            for level in range(1, self.config.levels + 1)
        ]

    def parts(self, *, wide: bool = True) -> list[LevelParts]:
        """The parts of all levels, finest first; see `Level.parts`."""
        return [level.parts(wide=wide) for level in self.levels]

    @staticmethod
    def is_frozen_at_first(name: str) -> bool:
        """See `TrainedModel`."""
        return "/main_step_" in name or "/conditional_step_" in name

    @staticmethod
    def place_of(config: ModelConfig, name: str) -> Place:
        """See `TrainedModel`."""
        level_name, rest = name.split("/", 1)
        level, part = int(level_name.removeprefix("level_")), next(part for part in COST_PARTS if rest.startswith(part))
        # The Haar transform of rescaling is computed with the first step's linear map, as a 1x1 matrix.
        has_haar = config.makes_lr and rest == "main_step_1/actnorm/bias"
        return Place(
            COST_PARTS[part],
            divisor=2**level,
            encodes=part == "main_step",
            fixed_adds=(4 * image_channels(config, level - 1)) ** 2 if has_haar else 0,
        )

    @staticmethod
    def decode_bytes(config: ModelConfig) -> int:
        """See `TrainedModel`.

        The peak lies at the finest level: in a dense block (input, output, and their concatenation, beside the block's and
        the trunk's residual), or in the conditional steps (the condition and its part of all P steps at once).
        """
        features, growth = config.rrdb_features, config.rrdb_growth
        condition = config.condition_channels
        dense_block = 2 * (features + 4 * growth) + 4 * features
        conditional = condition + config.conditional_steps * config.conditional_width + 4 * config.conditional_width
        finest = max(dense_block, conditional) + 3 * 12
        return round(MEMORY_MARGIN * 4 * finest * (config.scale // 2) ** 2)
