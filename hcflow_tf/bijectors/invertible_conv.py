"""Invertible 1x1 convolution with a full matrix."""

from __future__ import annotations

import tensorflow as tf

from hcflow_tf.bijectors.base import FlowBijector, ValueAndLogDet, check_image, per_image, pixel_count


class InvertibleConv1x1(FlowBijector):
    """y = W x at every pixel; log|det| = h w log|det W|.

    References:
      [1] Kingma and Dhariwal, Glow, 2018, section 3.2.
    """

    def __init__(self, matrix: tf.Variable, *, name: str | None = None):
        """Args: matrix, a variable or tensor of shape [channels, channels], W[out, in]."""
        super().__init__(name=name)
        self._matrix = matrix

    def _check_forward(self, x: tf.Tensor) -> None:
        check_image(self.name, x, channels=self._matrix.shape[0])

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        matrix = tf.convert_to_tensor(self._matrix)
        return _apply(matrix, x), per_image(x, pixel_count(x) * log_abs_det(matrix))

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        matrix = tf.convert_to_tensor(self._matrix)
        return _apply(tf.linalg.inv(matrix), y), per_image(y, -pixel_count(y) * log_abs_det(matrix))


def log_abs_det(matrix: tf.Tensor) -> tf.Tensor:
    """log|det W| of a square matrix; by QR, which XLA compiles (it has no LU)."""
    return tf.reduce_sum(tf.math.log(tf.abs(tf.linalg.diag_part(tf.linalg.qr(matrix).r))))


def _apply(matrix: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    flat = tf.reshape(x, [-1, matrix.shape[0]])
    return tf.ensure_shape(tf.reshape(tf.matmul(flat, matrix, transpose_b=True), tf.shape(x)), x.shape)
