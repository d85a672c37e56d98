"""IRN, Invertible Rescaling Net: its architecture, from config to bijector, and the Keras model that owns the networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from hcflow_tf import bijectors
from hcflow_tf.bijectors import log_scales
from hcflow_tf.bijectors.coupling import LOW_CHANNELS
from hcflow_tf.bijectors.squeeze import haar
from hcflow_tf.config import IRNConfig
from hcflow_tf.models.complexity import MEMORY_MARGIN, Place
from hcflow_tf.models.trained_model import TrainedModel
from hcflow_tf.networks.coupling import DenseBlock
from hcflow_tf.networks.part import Computed, Live


class BlockParts(NamedTuple):
    """The networks F, G and H of one invertible block; see `bijectors.InvertibleBlock`."""

    low_shift: Live | Computed
    high_shift: Live | Computed
    high_scale: Live | Computed


def channels(level: int) -> int:
    """Channels behind level 0 (the image) to L: all are kept."""
    return 3 * 4**level


def assemble(
    config: IRNConfig,
    parts: Sequence[Sequence[BlockParts]],
    *,
    recompute: bool = False,
    atan: Callable[[tf.Tensor], tf.Tensor] | None = None,
    log_std_caps: Sequence[Sequence[float]] | None = None,
) -> bijectors.HierarchicalFlow:
    """The flow over the blocks of levels 1 (finest) to L: the one place that says what IRN is; see `FlowModel.assemble`.

    All channels go through all levels; behind the last one, the first 3 are the LR image and the others the latents.
    """
    log_scale = log_scales.sigmoid(config.clamp)
    levels = [
        bijectors.FlowLevel(
            squeeze=bijectors.Squeeze(haar(channels(number - 1))),
            steps=[bijectors.InvertibleBlock(*block, log_scale=log_scale) for block in blocks],
            image_channels=LOW_CHANNELS if number == len(parts) else channels(number),
            conditioned_on="nothing",
        )
        for number, blocks in enumerate(parts, start=1)
    ]
    return bijectors.HierarchicalFlow(levels, recompute=recompute)


class Block(keras.layers.Layer):
    """The weights of one invertible block; it starts as the identity."""

    def __init__(self, channels: int, growth: int, **kwargs):
        super().__init__(**kwargs)
        low, high, dtype = LOW_CHANNELS, channels - LOW_CHANNELS, self.dtype_policy
        self.f = DenseBlock(high, low, growth, name="f", dtype=dtype)
        self.g = DenseBlock(low, high, growth, name="g", dtype=dtype)
        self.h = DenseBlock(low, high, growth, name="h", dtype=dtype)

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates the weights."""
        for network in (self.f, self.g, self.h):
            network.build(None)

    def parts(self) -> BlockParts:
        """The networks over the weights as they are."""
        return BlockParts(Live(self.f), Live(self.g), Live(self.h))


class Level(keras.layers.Layer):
    """The blocks of one level."""

    def __init__(self, channels: int, blocks: int, growth: int, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [Block(channels, growth, name=f"block_{index + 1}", dtype=self.dtype_policy) for index in range(blocks)]

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates the weights."""
        for block in self.blocks:
            block.build(None)


@keras.saving.register_keras_serializable(package="hcflow_tf")
class IRN(TrainedModel):
    """The bijection hr <-> [lr, z]; images are NHWC RGB in [0, 1], z is [batch, h_lr, w_lr, 3 scale^2 - 3].

    References:
      [1] Xiao et al., Invertible Image Rescaling, ECCV 2020, https://arxiv.org/abs/2005.05650
    """

    config: IRNConfig
    flow: bijectors.HierarchicalFlow
    assemble = staticmethod(assemble)

    def make_layers(self, network_dtype: str, recompute: bool) -> None:
        """See `TrainedModel`; all of it is to be exact."""
        self.levels = [
            Level(channels(level), blocks, self.config.growth, name=f"level_{level}", dtype=self.dtype_policy)
            for level, blocks in enumerate(self.config.blocks, start=1)
        ]

    def parts(self, *, wide: bool = True) -> list[list[BlockParts]]:
        """The networks of all levels, finest first."""
        return [[block.parts() for block in level.blocks] for level in self.levels]

    @staticmethod
    def place_of(config: IRNConfig, name: str) -> Place:
        """See `TrainedModel`."""
        level_name, rest = name.split("/", 1)
        level = int(level_name.removeprefix("level_"))
        return Place(
            "invertible blocks",
            divisor=2**level,
            encodes=True,
            # G and H see the same image.
            on_path="/h/" not in name,
            fixed_adds=channels(level) ** 2 if rest == "block_1/f/conv_1/bias" else 0,
        )

    @staticmethod
    def decode_bytes(config: IRNConfig) -> int:
        """See `TrainedModel`; the peak lies in G and H of the finest level, which run at once, and their concatenations."""
        finest = 2 * 2 * (channels(1) + 4 * config.growth) + 4 * channels(1)
        return round(MEMORY_MARGIN * 4 * finest * (config.scale // 2) ** 2)
