"""Squeeze: 2x2 space to depth, and the fixed matrices that may follow it."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from hcflow_tf.bijectors.base import FlowBijector, ValueAndLogDet, check_image, pixel_count
from hcflow_tf.bijectors.linear import apply_map, kernel_of


def haar(channels: int) -> np.ndarray:
    """The Haar wavelet transform of 2x2 blocks as the matrix of a `Squeeze`, [4 channels, 4 channels].

    The block [[p, q], [r, s]] becomes LL = (p+q+r+s)/4, H = (p-q+r-s)/4, V = (p+q-r-s)/4, D = (p-q-r+s)/4; the new
    channels are ordered (band, c), band slowest, so the first c channels are the averaged image.

    References:
      [1] Liang et al., Hierarchical Conditional Flow, ICCV 2021, section 3.2.
    """
    signs = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    return np.kron(signs, np.eye(channels)) / 4


def slow_channels(channels: int) -> np.ndarray:
    """The matrix [4 channels, 4 channels] that orders squeezed channels (c, dy, dx), c slowest, as the released weights."""
    size = 4 * channels
    return np.eye(size).reshape(4, channels, size).transpose(1, 0, 2).reshape(size, size)


class Squeeze(FlowBijector):
    """Space to depth by 2x2 blocks, then a fixed matrix: [batch, h, w, c] -> [batch, h/2, w/2, 4c].

    Without a matrix the new channels are ordered (dy, dx, c), c fastest; log|det| = h/2 w/2 log|det matrix|, 0 without.

    References:
      [1] Dinh et al., Density estimation using Real NVP, 2017, section 3.6.
    """

    def __init__(self, matrix: np.ndarray | None = None, *, dtype: tf.DType | None = None, name: str | None = None):
        """Args: matrix, [4c, 4c], such as `haar(c)` or `slow_channels(c)`."""
        super().__init__(dtype=dtype, name=name)
        self._matrix = matrix
        self._log_abs_det = 0.0 if matrix is None else float(np.linalg.slogdet(matrix)[1])

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        y = tf.nn.space_to_depth(x, 2)
        return self._apply(y, self._matrix), self._log_abs_det * pixel_count(y)

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        inverse = None if self._matrix is None else np.linalg.inv(self._matrix)
        return tf.nn.depth_to_space(self._apply(y, inverse), 2), -self._log_abs_det * pixel_count(y)

    def _apply(self, x: tf.Tensor, matrix: np.ndarray | None) -> tf.Tensor:
        if matrix is None:
            return x
        if len(matrix) != x.shape[-1]:
            raise ValueError(f"{self.name}: expected {len(matrix)} channels after squeezing, got {x.shape[-1]}")
        return apply_map(x, kernel_of(tf.constant(matrix, x.dtype)), tf.zeros([len(matrix)], x.dtype))

    def _check_forward(self, x: tf.Tensor) -> None:
        check_image(self.name, x, divisor=2)

    def _check_inverse(self, y: tf.Tensor) -> None:
        check_image(self.name, y)
        if y.shape[-1] % 4:
            raise ValueError(f"{self.name}: expected a number of channels divisible by 4, got shape {y.shape}")

    def _forward_event_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
        height, width, channels = shape[-3:]
        halves = [None if size is None else size // 2 for size in (height, width)]
        return shape[:-3].concatenate([*halves, None if channels is None else channels * 4])

    def _inverse_event_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
        height, width, channels = shape[-3:]
        doubles = [None if size is None else size * 2 for size in (height, width)]
        return shape[:-3].concatenate([*doubles, None if channels is None else channels // 4])

    def _forward_event_shape_tensor(self, shape: tf.Tensor) -> tf.Tensor:
        return tf.concat([shape[:-3], shape[-3:-1] // 2, shape[-1:] * 4], axis=0)

    def _inverse_event_shape_tensor(self, shape: tf.Tensor) -> tf.Tensor:
        return tf.concat([shape[:-3], shape[-3:-1] * 2, shape[-1:] // 4], axis=0)
