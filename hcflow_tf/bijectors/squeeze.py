"""Squeeze: 2x2 space to depth."""

from __future__ import annotations

import math

import tensorflow as tf

from hcflow_tf.bijectors.base import FlowBijector, ValueAndLogDet, check_image, per_image, pixel_count


class _HalvesImage(FlowBijector):
    """Shapes of a bijector [batch, h, w, c] -> [batch, h/2, w/2, 4c]."""

    def __init__(self, *, dtype: tf.DType | None = None, name: str | None = None):
        super().__init__(dtype=dtype, name=name)

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


class Squeeze(_HalvesImage):
    """Space to depth by 2x2 blocks, [batch, h, w, c] -> [batch, h/2, w/2, 4c]; log|det| = 0.

    The new channels are ordered (c, dy, dx), c slowest, as in the released weights.

    References:
      [1] Dinh et al., Density estimation using Real NVP, 2017, section 3.6.
    """

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        y = _swap_channel_order(tf.nn.space_to_depth(x, 2), 4, x.shape[-1])
        return y, per_image(x, tf.zeros([], x.dtype))

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        x = tf.nn.depth_to_space(_swap_channel_order(y, y.shape[-1] // 4, 4), 2)
        return x, per_image(y, tf.zeros([], y.dtype))


class Haar(_HalvesImage):
    """Haar wavelet transform of 2x2 blocks, [batch, h, w, c] -> [batch, h/2, w/2, 4c].

    The block [[p, q], [r, s]] becomes LL = (p+q+r+s)/4, H = (p-q+r-s)/4, V = (p+q-r-s)/4, D = (p-q-r+s)/4; the new
    channels are ordered (band, c), band slowest, so the first c channels are the averaged image. log|det| = -log 16 for
    each block and channel.

    References:
      [1] Liang et al., Hierarchical Conditional Flow, ICCV 2021, section 3.2.
    """

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        y = _haar(tf.nn.space_to_depth(x, 2)) / 4
        return y, per_image(x, self._log_det(y))

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        # The +-1 Haar matrix is symmetric and its square is 4 times the identity: it is its own inverse but for the 1/4.
        x = tf.nn.depth_to_space(_haar(y), 2)
        return x, per_image(y, -self._log_det(y))

    def _log_det(self, y: tf.Tensor) -> tf.Tensor:
        return -math.log(16.0) * pixel_count(y) * (y.shape[-1] // 4)


def _haar(blocks: tf.Tensor) -> tf.Tensor:
    p, q, r, s = tf.split(blocks, 4, axis=-1)
    top, top_difference, bottom, bottom_difference = p + q, p - q, r + s, r - s
    return tf.concat(
        [top + bottom, top_difference + bottom_difference, top - bottom, top_difference - bottom_difference], axis=-1
    )


def _swap_channel_order(x: tf.Tensor, slow: int, fast: int) -> tf.Tensor:
    """Channels ordered (slow, fast) to (fast, slow)."""
    shape = tf.shape(x)
    split = tf.reshape(x, [shape[0], shape[1], shape[2], slow, fast])
    y = tf.reshape(tf.transpose(split, [0, 1, 2, 4, 3]), shape)
    return tf.ensure_shape(y, x.shape)
