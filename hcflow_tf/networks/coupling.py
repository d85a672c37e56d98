"""The networks inside the couplings: FCN and DenseBlock."""

from __future__ import annotations

import keras
import tensorflow as tf

from hcflow_tf.networks.layers import ActNorm, Conv, ScaledConv, small_xavier

LEAKY_SLOPE = 0.2


class FCN(keras.layers.Layer):
    """conv3x3, ActNorm, ReLU, conv1x1, ActNorm, ReLU, conv3x3 times exp(3 g): [.., inputs] -> [.., outputs].

    Starts as the zero function.
    """

    def __init__(self, inputs: int, outputs: int, width: int, **kwargs):
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        self.conv_1 = Conv(inputs, width, use_bias=False, initializer=small_xavier(), name="conv_1", dtype=dtype)
        self.actnorm_1 = ActNorm(width, name="actnorm_1", dtype=dtype)
        self.conv_2 = Conv(width, width, 1, use_bias=False, initializer=small_xavier(), name="conv_2", dtype=dtype)
        self.actnorm_2 = ActNorm(width, name="actnorm_2", dtype=dtype)
        self.conv_3 = ScaledConv(width, outputs, name="conv_3", dtype=dtype)

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates the weights."""
        for layer in (self.conv_1, self.actnorm_1, self.conv_2, self.actnorm_2, self.conv_3):
            layer.build(None)

    def initialise(self, x: tf.Tensor) -> None:
        """Sets both ActNorms from the data x, one after the other."""
        h = self.conv_1(x)
        self.actnorm_1.initialise(h)
        h = self.conv_2(tf.nn.relu(self.actnorm_1(h)))
        self.actnorm_2.initialise(h)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns [batch, h, w, outputs]."""
        h = tf.nn.relu(self.actnorm_1(self.conv_1(x)))
        h = tf.nn.relu(self.actnorm_2(self.conv_2(h)))
        return self.conv_3(h)


class DenseBlock(keras.layers.Layer):
    """Five conv3x3, each on all earlier outputs, LeakyReLU 0.2 after the first four: [.., inputs] -> [.., outputs].

    As a coupling network it starts as the zero function (`zero_last`).
    """

    def __init__(self, inputs: int, outputs: int, growth: int, *, zero_last: bool, **kwargs):
        super().__init__(**kwargs)
        self.convs = [
            Conv(inputs + index * growth, growth, initializer=small_xavier(), name=f"conv_{index + 1}", dtype=self.dtype_policy)
            for index in range(4)
        ]
        last = "zeros" if zero_last else small_xavier()
        self.convs.append(Conv(inputs + 4 * growth, outputs, initializer=last, name="conv_5", dtype=self.dtype_policy))

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates the weights."""
        for conv in self.convs:
            conv.build(None)

    def initialise(self, x: tf.Tensor) -> None:
        """Nothing here depends on data."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns [batch, h, w, outputs]."""
        for conv in self.convs[:-1]:
            x = tf.concat([x, tf.nn.leaky_relu(conv(x), LEAKY_SLOPE)], axis=-1)
        return self.convs[-1](x)
