"""A linear map at every pixel: ActNorm and an invertible 1x1 convolution in one."""

from __future__ import annotations

from typing import Protocol

import tensorflow as tf

from hcflow_tf.bijectors.base import FlowBijector, ValueAndLogDet, check_image, pixel_count


class LinearMap(Protocol):
    """What `Linear` is over: the map and its inverse, each a 1x1 kernel (or a diagonal [c]) and a bias [c]; see `apply_map`."""

    channels: int

    def forward(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Kernel and bias."""

    def inverse(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Kernel and bias of the inverse."""

    def log_abs_det(self) -> tf.Tensor:
        """log|det matrix|, a scalar."""


class Linear(FlowBijector):
    """y = A x + b at every pixel; log|det| = h w log|det A|.

    ActNorm, y = (x + bias) exp(log_scale) per channel, and the invertible 1x1 convolution, y = W x, are the two maps of
    this kind in a flow; one after the other they are one (`hcflow_tf.networks.linear`).

    References:
      [1] Kingma and Dhariwal, Glow, 2018, sections 3.1 and 3.2.
    """

    def __init__(self, linear_map: LinearMap, *, name: str | None = None):
        super().__init__(name=name)
        self._map = self._no_dependency(linear_map)

    def _check_forward(self, x: tf.Tensor) -> None:
        check_image(self.name, x, channels=self._map.channels)

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        return apply_map(x, *self._map.forward()), pixel_count(x) * self._map.log_abs_det()

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        return apply_map(y, *self._map.inverse()), -pixel_count(y) * self._map.log_abs_det()

    def initialise(self, x: tf.Tensor) -> None:
        """Lets the map start from the data x."""
        self._map.initialise(x)


def apply_map(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """A x + bias at every pixel of [batch, h, w, c]; kernel: A's, as `kernel_of` makes it, or its diagonal [c]."""
    if kernel.shape.rank == 1:
        return x * kernel + bias
    return tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias)


def kernel_of(matrix: tf.Tensor) -> tf.Tensor:
    """The kernel [..., 1, 1, in, out] of a matrix [..., out, in]."""
    return tf.linalg.matrix_transpose(matrix)[..., None, None, :, :]


def log_abs_det(matrix: tf.Tensor) -> tf.Tensor:
    """log|det W| of square matrices [..., c, c]; by QR, which XLA compiles (it has no LU)."""
    return tf.reduce_sum(tf.math.log(tf.abs(tf.linalg.diag_part(tf.linalg.qr(matrix).r))), axis=-1)
