"""ActNorm: a scale and a bias per channel."""

from __future__ import annotations

import tensorflow as tf

from hcflow_tf.bijectors.base import FlowBijector, ValueAndLogDet, check_image, per_image, pixel_count


class ActNorm(FlowBijector):
    """y = (x + bias) exp(log_scale) per channel; log|det| = h w sum(log_scale).

    References:
      [1] Kingma and Dhariwal, Glow, 2018, section 3.1.
    """

    def __init__(self, bias: tf.Variable, log_scale: tf.Variable, *, name: str | None = None):
        """Args: bias and log_scale, variables or tensors of shape [channels]."""
        super().__init__(name=name)
        self._bias = bias
        self._log_scale = log_scale

    def _check_forward(self, x: tf.Tensor) -> None:
        check_image(self.name, x, channels=self._bias.shape[0])

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        log_scale = tf.convert_to_tensor(self._log_scale)
        y = (x + tf.convert_to_tensor(self._bias)) * tf.exp(log_scale)
        return y, per_image(x, pixel_count(x) * tf.reduce_sum(log_scale))

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        log_scale = tf.convert_to_tensor(self._log_scale)
        x = y * tf.exp(-log_scale) - tf.convert_to_tensor(self._bias)
        return x, per_image(y, -pixel_count(y) * tf.reduce_sum(log_scale))
