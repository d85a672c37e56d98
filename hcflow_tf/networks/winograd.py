"""Convolutions by 3x3 in the Winograd domain F(4x4, 3x3): a quarter of the multiplications, for processors and many channels.

There a convolution is 36 products of matrices, one for each value of a transformed tile of 6x6 pixels that gives 4x4 of the
output. In a dense block each feature map is transformed once, whatever number of convolutions reads it. Rounding is 1e-5 of the
largest value, where a direct convolution has 1e-6. docs/performance.md says what it brings.

References:
  [1] Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4.3,
      https://arxiv.org/abs/1509.09308
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from hcflow_tf.networks.layers import Affine

TILE, STEP = 6, 4
"""Pixels of a side of a tile, and between neighbouring tiles."""
_OF_TILE = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_OF_KERNEL = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_TO_OUTPUT = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
"""B^T, G and A^T of [1]: of one dimension; both together are their Kronecker products with themselves."""
SWITCH = "HCFLOW_WINOGRAD"
"""Environment variable, read when a graph is traced: 0 computes all convolutions directly."""
_in_training = contextvars.ContextVar("winograd_in_training", default=False)


@contextlib.contextmanager
def in_training() -> Iterator[None]:
    """Within it, what is traced may be computed here: the graph of a training step. Others take longer to be built so."""
    token = _in_training.set(True)
    try:
        yield
    finally:
        _in_training.reset(token)


def pays(affine: Affine, x: tf.Tensor, *, inputs: int, outputs: int) -> bool:
    """Whether a convolution, around whose input zeros lie, is to be computed here.

    So it is by 3x3, in float32, on processors, of at least so many input and output channels, in the graph of a training step.
    """
    kernel, _ = affine
    many = kernel.shape[:2] == (3, 3) and kernel.shape[2] >= inputs and kernel.shape[3] >= outputs
    computed = many and kernel.dtype == x.dtype == tf.float32 and tf.is_symbolic_tensor(kernel)
    return computed and _in_training.get() and os.environ.get(SWITCH) != "0" and not _accelerated()


@functools.cache
def _accelerated() -> bool:
    return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())


def dense_block(convolutions: Sequence[Affine], x: tf.Tensor, slope: float) -> tf.Tensor:
    """Convolutions, each on all earlier outputs, LeakyReLU after all but the last, as `networks.coupling.dense_block`.

    Args:
      convolutions: kernels [3, 3, in, out] and biases, float32.
      x: [batch, h, w, channels] float32; zeros lie around it.
      slope: of LeakyReLU.
    """
    compute = tf.custom_gradient(lambda x, *weights: _dense_block(x, weights, slope))
    return compute(x, *(tensor for affine in convolutions for tensor in affine))


def _dense_block(x: tf.Tensor, weights: Sequence[tf.Tensor], slope: float) -> tuple[tf.Tensor, Callable]:
    kernels, biases = weights[::2], weights[1::2]
    grid = _Grid(x)
    maps, transformed = [x], grid.transform(x)
    output = tf.nn.bias_add(grid.transform_back(transformed @ _of_kernel(kernels[0])), biases[0])
    for kernel, bias in zip(kernels[1:], biases[1:], strict=True):
        maps.append(tf.nn.leaky_relu(output, slope))
        transformed = tf.concat([transformed, grid.transform(maps[-1])], axis=-1)
        output = tf.nn.bias_add(grid.transform_back(transformed @ _of_kernel(kernel)), bias)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
        ends = np.cumsum([channels.shape[-1] for channels in maps])
        of_weights: list[tf.Tensor] = []
        of_outputs: list[tf.Tensor] = []  # of this convolution and all later ones, transformed
        reversed_kernels: list[tf.Tensor] = []
        for index in reversed(range(len(kernels))):
            of_kernel = grid.of_kernel(transformed[..., : ends[index]], upstream)
            of_weights = [of_kernel, tf.reduce_sum(upstream, axis=[0, 1, 2]), *of_weights]
            of_outputs.append(grid.transform(upstream))
            reversed_kernels.append(_of_kernel(_reversed(kernels[index])))
            start = ends[index] - maps[index].shape[-1]
            to_map = tf.concat([kernel[..., start : ends[index]] for kernel in reversed_kernels], axis=1)
            of_map = grid.transform_back(tf.concat(of_outputs, axis=-1) @ to_map)
            upstream = tf.where(maps[index] > 0, of_map, slope * of_map) if index else of_map
        return (upstream, *of_weights)

    return output, gradient


def convolve(affine: Affine, x: tf.Tensor) -> tf.Tensor:
    """Convolution of x [batch, h, w, in], around which zeros lie, by 3x3, as large as x; all float32."""
    kernel, bias = affine
    y = _convolve(x, kernel)
    return y if bias is None else tf.nn.bias_add(y, bias)


@tf.custom_gradient
def _convolve(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    grid = _Grid(x)
    transformed = grid.transform(x)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        of_x = grid.transform_back(grid.transform(upstream) @ _of_kernel(_reversed(kernel)))
        return of_x, grid.of_kernel(transformed, upstream)

    return grid.transform_back(transformed @ _of_kernel(kernel)), gradient


class _Grid:
    """The tiles of images of one size, [batch, h, w, any number of channels]."""

    def __init__(self, like: tf.Tensor):
        known, now = like.shape.as_list(), tf.shape(like)
        self.batch, self.height, self.width = (now[axis] if known[axis] is None else known[axis] for axis in range(3))
        self.rows, self.columns = -(-self.height // STEP), -(-self.width // STEP)

    def transform(self, x: tf.Tensor) -> tf.Tensor:
        """[36, tiles, channels] of the tiles that overlap by two pixels."""
        channels = x.shape[-1]
        missing = [[1, STEP * (count + 1) - size - 1] for count, size in ((self.rows, self.height), (self.columns, self.width))]
        x = tf.pad(x, [[0, 0], *missing, [0, 0]])
        x = tf.reshape(x, [self.batch, self.rows + 1, STEP, STEP * (self.columns + 1), channels])
        x = tf.concat([x[:, :-1], x[:, 1:, : TILE - STEP]], axis=2)
        x = tf.reshape(x, [self.batch, self.rows, TILE, self.columns + 1, STEP, channels])
        x = tf.concat([x[:, :, :, :-1], x[:, :, :, 1:, : TILE - STEP]], axis=4)
        return self._apply(np.kron(_OF_TILE, _OF_TILE), tf.transpose(x, [2, 4, 0, 1, 3, 5]))

    def transform_back(self, transformed: tf.Tensor) -> tf.Tensor:
        """The images [batch, h, w, channels] of a product with transformed kernels."""
        channels = transformed.shape[-1]
        x = self._apply(np.kron(_TO_OUTPUT, _TO_OUTPUT), transformed)
        x = tf.reshape(x, [STEP, STEP, self.batch, self.rows, self.columns, channels])
        x = tf.reshape(tf.transpose(x, [2, 3, 0, 4, 1, 5]), [self.batch, STEP * self.rows, STEP * self.columns, channels])
        return x[:, : self.height, : self.width]

    def of_kernel(self, transformed: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
        """The gradient of a kernel [3, 3, in, out], of its transformed input and its output's gradient [batch, h, w, out]."""
        channels = upstream.shape[-1]
        missing = [[0, STEP * count - size] for count, size in ((self.rows, self.height), (self.columns, self.width))]
        x = tf.pad(upstream, [[0, 0], *missing, [0, 0]])
        x = tf.reshape(x, [self.batch, self.rows, STEP, self.columns, STEP, channels])
        of_product = self._apply(np.kron(_TO_OUTPUT, _TO_OUTPUT).T, tf.transpose(x, [2, 4, 0, 1, 3, 5]))
        of_transformed = tf.matmul(transformed, of_product, transpose_a=True)
        inputs = transformed.shape[-1]
        taps = _matrix(np.kron(_OF_KERNEL, _OF_KERNEL).T) @ tf.reshape(of_transformed, [TILE**2, inputs * channels])
        return tf.reshape(taps, [3, 3, inputs, channels])

    def _apply(self, matrix: np.ndarray, x: tf.Tensor) -> tf.Tensor:
        """[rows of the matrix, tiles, channels]."""
        inputs, channels = matrix.shape[1], x.shape[-1]
        result = _matrix(matrix) @ tf.reshape(x, [inputs, self.batch * self.rows * self.columns * channels])
        return tf.reshape(result, [len(matrix), self.batch * self.rows * self.columns, channels])


def _of_kernel(kernel: tf.Tensor) -> tf.Tensor:
    """[36, in, out] of a kernel [3, 3, in, out]."""
    inputs, outputs = kernel.shape[2:]
    transformed = _matrix(np.kron(_OF_KERNEL, _OF_KERNEL)) @ tf.reshape(kernel, [9, inputs * outputs])
    return tf.reshape(transformed, [TILE**2, inputs, outputs])


def _reversed(kernel: tf.Tensor) -> tf.Tensor:
    """The kernel [3, 3, out, in] of the gradient with respect to a convolution's input."""
    return tf.transpose(kernel[::-1, ::-1], [0, 1, 3, 2])


def _matrix(values: np.ndarray) -> tf.Tensor:
    return tf.constant(values, tf.float32)
