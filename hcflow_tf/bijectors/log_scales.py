"""From what a network gives to the logarithm of a scale: the bounds that keep a flow from exploding.

A coupling is handed one of these functions; where a runtime lacks an operation, another form of the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

LogScale = Callable[[tf.Tensor], tf.Tensor]

BOUND = 0.318
"""About 1/pi: log scales lie in (-0.5, 0.5), so no layer shrinks or stretches by more than exp(0.5)."""

RAW_FACTOR = 2.0
"""The factor of raw in 0.318 atan(2 raw); the networks' last convolution holds it (`hcflow_tf.networks.layers.halves`)."""

_ATAN_COEFFICIENTS = (
    0.9999998978,
    -0.3333195972,
    0.1996923539,
    -0.1401658504,
    0.0990609690,
    -0.0593671008,
    0.0241661895,
    -0.0046687733,
)
"""Of the polynomial p with atan(w) = w p(w^2) to 1.2e-7 on [-1, 1], lowest first."""


def portable_atan(x: tf.Tensor) -> tf.Tensor:
    """atan(x) to 5e-7, of operations that LiteRT's CPU and GPU kernels are fast at; it has no Atan, and a slow Atan2.

    atan(x) = 2 atan(w) with w = x / (1 + sqrt(1 + x^2)) in [-1, 1]; large x are scaled so that no square overflows, in
    float16 either.
    """
    scale = 1.0 / tf.maximum(tf.abs(x), 1.0)
    scaled = x * scale
    w = scaled / (scale + tf.sqrt(scale * scale + scaled * scaled))
    square = w * w
    value = square * _ATAN_COEFFICIENTS[-1] + _ATAN_COEFFICIENTS[-2]
    for coefficient in _ATAN_COEFFICIENTS[-3::-1]:
        value = value * square + coefficient
    return 2.0 * w * value


def arctangent(atan: Callable[[tf.Tensor], tf.Tensor] = tf.math.atan) -> LogScale:
    """s = 0.318 atan(h), h = 2 raw; atan: `tf.math.atan` or `portable_atan`.

    References:
      [1] Liang et al., Hierarchical Conditional Flow, ICCV 2021, section 3.2, as the released weights compute it.
    """
    return lambda h: BOUND * atan(h)


def sigmoid_scale(h: tf.Tensor) -> tf.Tensor:
    """s = log(sigmoid(h + 2) + 1e-4): scales in (1e-4, 1 + 1e-4), at first near 0.88.

    References:
      [1] Lugmayr et al., SRFlow, ECCV 2020, section 3.3, as the released weights compute it.
    """
    return tf.math.log(tf.sigmoid(h + 2.0) + 1e-4)


def sigmoid(bound: float) -> LogScale:
    """s = bound (2 sigmoid(h) - 1), in (-bound, bound).

    References:
      [1] Xiao et al., Invertible Image Rescaling, ECCV 2020, section 3.2, as the released weights compute it.
    """
    return lambda h: bound * (2.0 * tf.sigmoid(h) - 1.0)


def unbounded(h: tf.Tensor) -> tf.Tensor:
    """s = h: the log standard deviations of the released super-resolution models."""
    return h


def capped(log_scale: LogScale, caps: Sequence[float]) -> LogScale:
    """min(log_scale(h), caps), a cap for each channel: for samples of pictures unlike those that a model was trained on."""
    return lambda h: tf.minimum(log_scale(h), tf.constant(caps, h.dtype))


def bounded_above(bound: float) -> LogScale:
    """s = bound - softplus(bound - h): h where it is far below the bound, never above it, smooth and increasing.

    Bounded on one side only: a smooth region needs very small deviations, but no pixel in [0, 1] needs a large one.
    """
    return lambda h: bound - tf.math.softplus(bound - h)
