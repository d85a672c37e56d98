"""The networks inside the couplings: FCN and DenseBlock."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import keras
import tensorflow as tf

from hcflow_tf.bijectors.log_scales import RAW_FACTOR
from hcflow_tf.networks import winograd
from hcflow_tf.networks.layers import ActNorm, Affine, Border, Conv, ScaledConv, convolve, halves, of_outputs, small_xavier
from hcflow_tf.networks.part import ComputesInType, Value, Weights, stacked, variables_together

LEAKY_SLOPE = 0.2


def fcn(weights: Weights, passed: tf.Tensor, of_condition: tf.Tensor | None = None, *, border: Border = None) -> tf.Tensor:
    """Three convolutions with ReLU between; of_condition is added before the first ReLU."""
    conv_1, conv_2, conv_3 = weights
    h = convolve(conv_1, passed, border)
    h = tf.nn.relu(h if of_condition is None else h + of_condition)
    return convolve(conv_3, tf.nn.relu(convolve(conv_2, h)), border)


def conditional_fcn(weights: Weights, passed: tf.Tensor, condition: tf.Tensor, *, border: Border = None) -> tf.Tensor:
    """`fcn` that computes from a condition what it adds before the first ReLU."""
    of_condition, convs = weights
    return fcn(convs, passed, convolve(of_condition, condition, border), border=border)


class FCN(ComputesInType, keras.layers.Layer):
    """conv3x3, ActNorm, ReLU, conv1x1, ActNorm, ReLU, conv3x3 times exp(3 g): [.., passed] -> [.., outputs], shift | raw.

    Of a conditional coupling the first convolution sees concat(passed, condition); it is computed as the sum of a
    convolution of each. Starts as the zero function.
    """

    in_groups = True

    def __init__(
        self,
        passed: int,
        outputs: int,
        width: int,
        *,
        condition: int = 0,
        raw_factor: float = RAW_FACTOR,
        border: Border = None,
        **kwargs,
    ):
        """Creates the layers.

        Args:
          passed: channels of the passed half.
          outputs: channels of shift and raw together.
          width: channels inside.
          condition: channels of the condition, 0 for a network without.
          raw_factor: see `ScaledConv`.
          border: see `convolve`.
        """
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        self.passed, self.condition, self.border = passed, condition, border
        options = {"use_bias": False, "border": border, "dtype": dtype}
        self.conv_1 = Conv(passed + condition, width, initializer=small_xavier(), name="conv_1", **options)
        self.actnorm_1 = ActNorm(width, name="actnorm_1", dtype=dtype)
        self.conv_2 = Conv(width, width, 1, initializer=small_xavier(), name="conv_2", **options)
        self.actnorm_2 = ActNorm(width, name="actnorm_2", dtype=dtype)
        self.conv_3 = ScaledConv(width, outputs, raw_factor=raw_factor, border=border, name="conv_3", dtype=dtype)

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates the weights."""
        for layer in (self.conv_1, self.actnorm_1, self.conv_2, self.actnorm_2, self.conv_3):
            layer.build(None)

    @property
    def function(self) -> Callable[..., tf.Tensor]:
        """(weights, passed[, condition]) -> [batch, h, w, outputs]."""
        return functools.partial(conditional_fcn if self.condition else fcn, border=self.border)

    def effective(self, value: Value = tf.convert_to_tensor) -> Weights:
        """The three convolutions with ActNorms and factors inside; before them, the condition's part of the first."""
        kernel, bias = self.actnorm_1.after(self.conv_1, value)
        if not self.condition:
            return ((kernel, bias), *self._later(value))
        of_passed, of_condition = tf.split(kernel, [self.passed, self.condition], axis=-2)
        return (of_condition, bias), ((of_passed, None), *self._later(value))

    def of_condition(self, value: Value = tf.convert_to_tensor) -> Affine:
        """The condition's part of the first convolution, its bias included."""
        scale = self.actnorm_1.scale(value)
        kernel = value(self.conv_1.kernel)[..., self.passed :, :]
        return kernel * of_outputs(scale), value(self.actnorm_1.bias) * scale

    def of_passed(self, value: Value = tf.convert_to_tensor) -> Weights:
        """The three convolutions without the condition's part of the first."""
        kernel = value(self.conv_1.kernel)[..., : self.passed, :] * of_outputs(self.actnorm_1.scale(value))
        return ((kernel, None), *self._later(value))

    @property
    def kind(self) -> Hashable:
        """See `Part.kind`."""
        return (super().kind, self.passed, self.conv_3.raw_factor)

    def _later(self, value: Value) -> tuple[Affine, Affine]:
        return self.actnorm_2.after(self.conv_2, value), self.conv_3.effective(value)

    def initialise(self, *inputs: tf.Tensor) -> None:
        """Sets both ActNorms from the data, one after the other."""
        h = self.conv_1.call(tf.concat(inputs, axis=-1))
        self.actnorm_1.initialise(h)
        h = self.conv_2.call(tf.nn.relu(self.actnorm_1.call(h)))
        self.actnorm_2.initialise(h)


class GivenCondition(ComputesInType):
    """A conditional `FCN` that is handed the condition's part of its first convolution, as `ConditionParts` computes it."""

    in_groups = True

    def __init__(self, network: FCN):
        self._network, self.weights = network, network.weights
        self.compute_dtype, self.variable_dtype = network.compute_dtype, network.variable_dtype

    @property
    def function(self) -> Callable[..., tf.Tensor]:
        """(weights, passed, the condition's part) -> [batch, h, w, outputs]."""
        return functools.partial(fcn, border=self._network.border)

    def effective(self, value: Value = tf.convert_to_tensor) -> Weights:
        """See `FCN.of_passed`."""
        return self._network.of_passed(value)


class ConditionParts(ComputesInType):
    """The condition's part of the first convolution of several conditional `FCN`s, in one wide convolution."""

    keeps_type = True

    def __init__(self, networks: Sequence[FCN]):
        """Args: networks of one shape."""
        self._networks = networks
        self.compute_dtype, self.variable_dtype = networks[0].compute_dtype, networks[0].variable_dtype
        self.weights = [variable for network in networks for variable in network.weights]

    @property
    def function(self) -> Callable[..., tf.Tensor]:
        """(kernel and bias, condition) -> [batch, h, w, networks times width]."""
        return functools.partial(convolve, border=self._networks[0].border)

    def groups(self, alike: Sequence[Any]) -> list[list[keras.Variable]]:
        """See `Part.groups`."""
        return [group for part in alike for group in variables_together(part._networks)]

    def effective(self, value: Value = tf.convert_to_tensor) -> Affine:
        """Kernel and bias; the networks' parts lie side by side."""
        kernels, biases = self._networks[0].of_condition(stacked(self._networks, value))
        count, height, width, inputs, outputs = kernels.shape
        side_by_side = tf.reshape(tf.transpose(kernels, [1, 2, 3, 0, 4]), [height, width, inputs, count * outputs])
        return side_by_side, tf.reshape(biases, [-1])


def dense_block(weights: Sequence[Affine], x: tf.Tensor, *, border: Border = None) -> tf.Tensor:
    """Convolutions, each on all earlier outputs, LeakyReLU 0.2 after all but the last."""
    if border is None and winograd.pays(weights[0], x, inputs=32, outputs=32):
        return winograd.dense_block(weights, x, LEAKY_SLOPE)
    for affine in weights[:-1]:
        x = tf.concat([x, tf.nn.leaky_relu(convolve(affine, x, border), LEAKY_SLOPE)], axis=-1)
    return convolve(weights[-1], x, border)


class DenseBlock(ComputesInType, keras.layers.Layer):
    """Five conv3x3, each on all earlier outputs, LeakyReLU 0.2 after the first four: [.., inputs] -> [.., outputs].

    As a coupling network it starts as the zero function (`zero_last`), and that of an affine coupling gives shift | raw
    (`shift_and_raw`).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        growth: int,
        *,
        zero_last: bool = True,
        shift_and_raw: bool = False,
        border: Border = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.shift_and_raw, self.border = shift_and_raw, border
        options = {"border": border, "dtype": self.dtype_policy}
        self.convs = [
            Conv(inputs + index * growth, growth, initializer=small_xavier(), name=f"conv_{index + 1}", **options)
            for index in range(4)
        ]
        last = "zeros" if zero_last else small_xavier()
        self.convs.append(Conv(inputs + 4 * growth, outputs, initializer=last, name="conv_5", **options))

    @property
    def function(self) -> Callable[..., tf.Tensor]:
        """(the five convolutions, x) -> [batch, h, w, outputs]."""
        return functools.partial(dense_block, border=self.border)

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates the weights."""
        for conv in self.convs:
            conv.build(None)

    def effective(self, value: Value = tf.convert_to_tensor) -> tuple[Affine, ...]:
        """The five convolutions."""
        *first, last = (conv.effective(value) for conv in self.convs)
        return (*first, halves(last) if self.shift_and_raw else last)
