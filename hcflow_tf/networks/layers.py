"""Small layers that the networks share: ActNorm weights, convolutions, and their initial values."""

from __future__ import annotations

import functools
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from hcflow_tf.bijectors.log_scales import RAW_FACTOR
from hcflow_tf.networks import winograd
from hcflow_tf.networks.part import Part, Value

MIN_STD = 1e-3
"""The least standard deviation that ActNorm divides a channel by when it is set from data; a quarter of an 8-bit step."""

Affine = tuple[tf.Tensor, tf.Tensor | None]
"""Kernel [height, width, in, out] and bias [out] of a convolution."""


def small_xavier() -> keras.initializers.Initializer:
    """Xavier normal times 0.1, the initial value in coupling networks and dense blocks."""
    return keras.initializers.VarianceScaling(scale=0.01, mode="fan_avg", distribution="untruncated_normal")


Border = Callable[[tf.Tensor], tf.Tensor] | None
"""Adds one pixel at each side of [batch, h, w, channels]; None is zeros."""


def repeated_border(x: tf.Tensor) -> tf.Tensor:
    """x with its outermost pixels once more around it."""
    return tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")


def repeated_border_of_slices(x: tf.Tensor) -> tf.Tensor:
    """The same for LiteRT, whose CPU and GPU delegates have slices and concatenations, but not that padding."""
    x = tf.concat([x[:, :1], x, x[:, -1:]], axis=1)
    return tf.concat([x[:, :, :1], x, x[:, :, -1:]], axis=2)


def convolve(affine: Affine, x: tf.Tensor, border: Border = None) -> tf.Tensor:
    """Convolution of [batch, h, w, in] by 1x1 or 3x3, as large as its input.

    Args:
      affine: kernel and bias.
      x: its input.
      border: what a 3x3 convolution sees outside x; zeros, if nothing is said.

    Raises:
      ValueError: x has other channels; TensorFlow would take a multiple of them for a grouped convolution.
    """
    kernel, bias = affine
    if x.shape[-1] != kernel.shape[2]:
        raise ValueError(f"expected {kernel.shape[2]} channels, got shape {x.shape}")
    if border is None and winograd.pays(affine, x, inputs=64, outputs=64):
        return winograd.convolve(affine, x)
    if border is None or kernel.shape[0] == 1:
        y = tf.nn.conv2d(x, kernel, strides=1, padding="SAME")
    else:
        y = tf.nn.conv2d(border(x), kernel, strides=1, padding="VALID")
    return y if bias is None else tf.nn.bias_add(y, bias)


def before_upsampling(kernel: tf.Tensor, factor: int) -> tf.Tensor:
    """The kernel K' with depth_to_space(conv(x, K'), factor) = conv(upsample(x, factor), K), nearest neighbour.

    Exact at the border too, of zeros or repeated: a fine pixel lies outside if and only if its coarse pixel does.

    Args:
      kernel: K, [3, 3, in, out].
      factor: of the upsampling; 1 leaves the kernel as it is.

    Returns:
      [3, 3, in, factor^2 out].
    """
    if factor == 1:
        return kernel
    inputs, outputs = kernel.shape[2:]
    # Which tap of the coarse kernel a tap of the fine one falls on, for each of the factor^2 fine pixels of a coarse one.
    falls_on = np.zeros((3, 3, factor, factor, 3, 3))
    for phase_y, phase_x, row, column in np.ndindex(factor, factor, 3, 3):
        falls_on[(phase_y + row - 1) // factor + 1, (phase_x + column - 1) // factor + 1, phase_y, phase_x, row, column] = 1
    taps = tf.constant(falls_on.reshape(-1, 9), kernel.dtype) @ tf.reshape(kernel, [9, inputs * outputs])
    phases_last = tf.transpose(tf.reshape(taps, [9, factor**2, inputs, outputs]), [0, 2, 1, 3])
    return tf.reshape(phases_last, [3, 3, inputs, factor**2 * outputs])


def of_outputs(scale: tf.Tensor) -> tf.Tensor:
    """A factor of each output [..., out], as what a kernel [..., height, width, in, out] is multiplied by."""
    return scale[..., None, None, None, :]


def halves(affine: tuple[tf.Tensor, tf.Tensor], raw_factor: float = RAW_FACTOR) -> Affine:
    """Outputs stored as shift, raw, shift, raw, ... (so the released weights) become shift | raw_factor * raw."""
    kernel, bias = (tf.concat([values[..., 0::2], raw_factor * values[..., 1::2]], axis=-1) for values in affine)
    return kernel, bias


class Conv(Part, keras.layers.Layer):
    """Convolution [batch, h, w, inputs] -> [batch, h, w, outputs]; see `convolve`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int = 3,
        *,
        use_bias: bool = True,
        initializer: str | keras.initializers.Initializer = "glorot_normal",
        border: Border = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.inputs, self.outputs, self.size = inputs, outputs, size
        self.use_bias, self.initializer, self.border = use_bias, initializer, border

    @property
    def function(self) -> Callable[..., tf.Tensor]:
        """(kernel and bias, x) -> [batch, h, w, outputs]."""
        return functools.partial(convolve, border=self.border)

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates kernel [size, size, inputs, outputs] and bias [outputs]."""
        self.kernel = self.add_weight(
            name="kernel", shape=(self.size, self.size, self.inputs, self.outputs), initializer=self.initializer
        )
        self.bias = self.add_weight(name="bias", shape=(self.outputs,), initializer="zeros") if self.use_bias else None

    def effective(self, value: Value = tf.convert_to_tensor) -> Affine:
        """Kernel and bias."""
        return value(self.kernel), None if self.bias is None else value(self.bias)


class ScaledConv(Conv):
    """conv3x3 with bias times exp(3 g), g learned per channel; everything starts at 0.

    Its outputs are shift | raw_factor * raw in contiguous halves; in the weights they alternate.
    """

    def __init__(self, inputs: int, outputs: int, *, raw_factor: float = RAW_FACTOR, **kwargs):
        super().__init__(inputs, outputs, initializer="zeros", **kwargs)
        self.raw_factor = raw_factor

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates g [outputs] beside kernel and bias."""
        super().build(input_shape)
        self.log_scale = self.add_weight(name="log_scale", shape=(self.outputs,), initializer="zeros")

    def effective(self, value: Value = tf.convert_to_tensor) -> Affine:
        """Kernel and bias with the factor inside."""
        scale = tf.exp(3.0 * value(self.log_scale))
        return halves((value(self.kernel) * of_outputs(scale), value(self.bias) * scale), self.raw_factor)


class FirstHalf(Part):
    """The first half of a convolution's outputs alone."""

    def __init__(self, conv: Conv):
        self._conv, self.weights = conv, conv.weights

    @property
    def function(self) -> Callable[..., tf.Tensor]:
        """As the convolution's."""
        return self._conv.function

    def effective(self, value: Value = tf.convert_to_tensor) -> Affine:
        """Kernel and bias of the first half."""
        return tuple(tf.split(values, 2, axis=-1)[0] for values in self._conv.effective(value))


class ActNorm(keras.layers.Layer):
    """Owns bias and log_scale [channels] of y = (x + bias) exp(log_scale), set once from data by `initialise`."""

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

    def scale(self, value: Value = tf.convert_to_tensor) -> tf.Tensor:
        """exp(log_scale), [channels]."""
        return tf.exp(value(self.log_scale))

    def after(self, conv: Conv, value: Value = tf.convert_to_tensor) -> Affine:
        """A convolution without bias and this after it, as one convolution."""
        scale = self.scale(value)
        return value(conv.kernel) * of_outputs(scale), value(self.bias) * scale

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the normalised x."""
        return (x + tf.convert_to_tensor(self.bias)) * self.scale()


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
