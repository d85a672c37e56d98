"""The weights of one level; the bijectors over them are made in `hcflow_tf.models.hcflow`."""

from __future__ import annotations

import keras

from hcflow_tf.config import ModelConfig
from hcflow_tf.networks.coupling import FCN, DenseBlock
from hcflow_tf.networks.feature_extractor import FeatureExtractor
from hcflow_tf.networks.flow_step import FlowStepWeights
from hcflow_tf.networks.layers import HaarMatrix, ScaledConv


class LevelWeights(keras.layers.Layer):
    """The weights of level l: K flow steps, the feature extractor, P conditional steps, the last Gaussian.

    In super-resolution the first matrix of the image path starts as the Haar step and the others as the identity, not as
    random rotations: the LR image starts as the averaged image instead of a random mixture that training has to undo
    (docs/training.md has the comparison).
    """

    def __init__(self, config: ModelConfig, level: int, channels: int, extractor_dtype: str, recompute: bool, **kwargs):
        """Args: level, 1 to L; channels, of the image before this level's squeeze."""
        super().__init__(**kwargs)
        dtype, rescaling = self.dtype_policy, config.task == "rescaling"
        squeezed = channels * 4
        self.image_channels = 3 if level == config.levels else squeezed // 2
        latent = squeezed - self.image_channels
        condition = config.rrdb_features * (1 if rescaling else 2)
        self.main_steps = [
            FlowStepWeights(
                squeezed,
                _main_network(config, squeezed, index, dtype),
                matrix=None if rescaling else HaarMatrix() if index == 0 else "identity",
                name=f"main_step_{index + 1}",
                dtype=dtype,
            )
            for index in range(config.main_steps)
        ]
        self.extractor = FeatureExtractor(
            self.image_channels + condition * (config.levels - level),
            features=config.rrdb_features,
            growth=config.rrdb_growth,
            blocks=config.rrdb_blocks,
            concat=not rescaling,
            recompute=recompute,
            name="feature_extractor",
            dtype=extractor_dtype,
        )
        self.conditional_steps = [
            FlowStepWeights(
                latent,
                FCN(
                    latent // 2 + condition,
                    2 * (latent - latent // 2),
                    config.conditional_width,
                    name="network",
                    dtype=dtype,
                ),
                matrix="orthogonal",
                name=f"conditional_step_{index + 1}",
                dtype=dtype,
            )
            for index in range(config.conditional_steps)
        ]
        self.gaussian = ScaledConv(condition, 2 * latent, name="gaussian", dtype=dtype)

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates the weights."""
        for layer in (*self.main_steps, self.extractor, *self.conditional_steps, self.gaussian):
            layer.build(None)


def _main_network(config: ModelConfig, channels: int, index: int, dtype: object) -> keras.layers.Layer:
    """The coupling network of main step `index` (from 0), which decides what the coupling passes and changes."""
    if config.task == "super_resolution":
        passed = channels // 2
        return FCN(passed, 2 * (channels - passed), config.main_width, name="network", dtype=dtype)
    inputs, outputs = (3, 2 * (channels - 3)) if index % 2 == 0 else (channels - 3, 3)
    return DenseBlock(inputs, outputs, config.main_width, zero_last=True, name="network", dtype=dtype)
