"""Small layers that the networks share: ActNorm weights, convolutions, and their initial values."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

MIN_STD = 1e-3
"""The least standard deviation that ActNorm divides a channel by when it is set from data; a quarter of an 8-bit step."""


def small_xavier() -> keras.initializers.Initializer:
    """Xavier normal times 0.1, the initial value in coupling networks and dense blocks."""
    return keras.initializers.VarianceScaling(scale=0.01, mode="fan_avg", distribution="untruncated_normal")


class Conv(keras.layers.Layer):
    """Zero-padded convolution [batch, h, w, inputs] -> [batch, h, w, outputs]."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int = 3,
        *,
        use_bias: bool = True,
        initializer: str | keras.initializers.Initializer = "glorot_normal",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.inputs, self.outputs, self.size = inputs, outputs, size
        self.use_bias, self.initializer = use_bias, initializer

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates kernel [size, size, inputs, outputs] and bias [outputs]."""
        self.kernel = self.add_weight(
            name="kernel", shape=(self.size, self.size, self.inputs, self.outputs), initializer=self.initializer
        )
        self.bias = self.add_weight(name="bias", shape=(self.outputs,), initializer="zeros") if self.use_bias else None

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the convolution of x.

        Raises:
          ValueError: x has other channels; TensorFlow would take a multiple of them for a grouped convolution.
        """
        if x.shape[-1] != self.inputs:
            raise ValueError(f"{self.path}: expected {self.inputs} channels, got shape {x.shape}")
        y = tf.nn.conv2d(x, tf.convert_to_tensor(self.kernel), strides=1, padding="SAME")
        return y if self.bias is None else tf.nn.bias_add(y, tf.convert_to_tensor(self.bias))


class ScaledConv(Conv):
    """conv3x3 with bias times exp(3 g), g learned per channel; everything starts at 0."""

    def __init__(self, inputs: int, outputs: int, **kwargs):
        super().__init__(inputs, outputs, initializer="zeros", **kwargs)

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates g [outputs] beside kernel and bias."""
        super().build(input_shape)
        self.log_scale = self.add_weight(name="log_scale", shape=(self.outputs,), initializer="zeros")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the scaled convolution of x."""
        return super().call(x) * tf.exp(3.0 * tf.convert_to_tensor(self.log_scale))


class ActNorm(keras.layers.Layer):
    """y = (x + bias) exp(log_scale) per channel, set once from data by `initialise`."""

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates bias and log_scale [channels]."""
        self.bias = self.add_weight(name="bias", shape=(self.channels,), initializer="zeros")
        self.log_scale = self.add_weight(name="log_scale", shape=(self.channels,), initializer="zeros")

    def initialise(self, x: tf.Tensor, *, keep: int = 0) -> None:
        """Sets bias = -mean and log_scale = -log(std + 1e-6) per channel of x, so that the output is standardised.

        The first `keep` channels stay as they are, and the scale of those whose std is below `MIN_STD`: x has no variation
        there (blank images), and the next images that have some would be multiplied by up to a million.
        """
        values = np.asarray(x, np.float64)
        changed = np.arange(self.channels) >= keep
        std = values.std(axis=(0, 1, 2))
        self.bias.assign(np.where(changed, -values.mean(axis=(0, 1, 2)), self.bias.numpy()))
        self.log_scale.assign(np.where(changed & (std >= MIN_STD), -np.log(std + 1e-6), self.log_scale.numpy()))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the normalised x."""
        return (x + tf.convert_to_tensor(self.bias)) * tf.exp(tf.convert_to_tensor(self.log_scale))


class HaarMatrix(keras.initializers.Initializer):
    """[C, C]: the Haar step of rescaling as a 1x1 convolution of squeezed 2x2 blocks (paper section 3.2).

    Its first C/4 outputs are the averages of the blocks, the others their differences along x, y and both.
    """

    def __call__(self, shape: tuple[int, int], dtype: object = None, **kwargs: object) -> tf.Tensor:
        """Returns the matrix."""
        signs = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 4
        # Squeezed channels are ordered (c, dy, dx), the outputs (band, c).
        matrix = np.einsum("bp,cd->bcdp", signs, np.eye(shape[0] // 4)).reshape(shape)
        return keras.ops.convert_to_tensor(matrix, dtype=dtype)


class InvertibleMatrix(keras.layers.Layer):
    """Owns the matrix [channels, channels] of an invertible 1x1 convolution."""

    def __init__(self, channels: int, initializer: str | keras.initializers.Initializer = "orthogonal", **kwargs):
        """Args: initializer, by default a random rotation."""
        super().__init__(**kwargs)
        self.channels, self.initializer = channels, initializer

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates the matrix."""
        self.matrix = self.add_weight(name="matrix", shape=(self.channels, self.channels), initializer=self.initializer)
