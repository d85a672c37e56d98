"""RRDB, ESRGAN's generator: a network from lr to hr, without latents and without a way back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from hcflow_tf.config import RRDBConfig
from hcflow_tf.models.complexity import MEMORY_MARGIN, Place
from hcflow_tf.models.one_way import OneWay
from hcflow_tf.models.trained_model import TrainedModel
from hcflow_tf.networks.part import Computed, Live
from hcflow_tf.networks.rrdb import RRDBNetwork


def assemble(
    config: RRDBConfig,
    network: Live | Computed,
    *,
    recompute: bool = False,
    atan: Callable[[tf.Tensor], tf.Tensor] | None = None,
    log_std_caps: Sequence[Sequence[float]] | None = None,
) -> OneWay:
    """The network in the place of a flow; see `FlowModel.assemble`."""
    return OneWay(network, config.scale, name="rrdb")


@keras.saving.register_keras_serializable(package="hcflow_tf")
class RRDB(TrainedModel):
    """lr -> hr, one image for each lr; images are NHWC RGB in [0, 1].

    References:
      [1] Wang et al., ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks, 2018, https://arxiv.org/abs/1809.00219
    """

    config: RRDBConfig
    flow: OneWay
    assemble = staticmethod(assemble)

    def make_layers(self, network_dtype: str, recompute: bool) -> None:
        """See `TrainedModel`."""
        config = self.config
        self.network = RRDBNetwork(
            config.scale,
            features=config.features,
            growth=config.growth,
            blocks=config.blocks,
            recompute=recompute,
            name="network",
            dtype=network_dtype,
        )

    def parts(self, *, wide: bool = True) -> Live:
        """The network."""
        return Live(self.network)

    @staticmethod
    def place_of(config: RRDBConfig, name: str) -> Place:
        """See `TrainedModel`."""
        layer = name.removeprefix("network/").partition("/")[0]
        if layer.startswith("upconv_"):
            return Place("upsampling and image", divisor=config.scale / 2 ** int(layer.removeprefix("upconv_")))
        if layer in ("conv_hr", "conv_last"):
            return Place("upsampling and image", divisor=1)
        return Place("RRDB trunk", divisor=config.scale)

    @staticmethod
    def decode_bytes(config: RRDBConfig) -> int:
        """See `TrainedModel`; the peak lies in the last upsampling, or in a dense block and its concatenations."""
        dense_block = 2 * (config.features + 4 * config.growth) + 4 * config.features
        return round(MEMORY_MARGIN * 4 * max(dense_block, 3 * config.features * config.scale**2))
