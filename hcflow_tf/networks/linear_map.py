"""ActNorm and an invertible 1x1 convolution as one linear map at every pixel."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np
import tensorflow as tf

from hcflow_tf.bijectors.linear import apply_map, kernel_of, log_abs_det
from hcflow_tf.networks.layers import ActNorm, InvertibleMatrix
from hcflow_tf.networks.part import Part, Value

MapValues = tuple[tf.Tensor, tf.Tensor]
"""Kernel [1, 1, in, out], or diagonal [c], and bias [c]; see `apply_map`."""


class LinearMap(Part):
    """y = W ((B x + bias) exp(log_scale)): a fixed matrix B, an ActNorm, a 1x1 convolution W; B and W may be left out.

    Its inverse inverts W anew each time, since W is trained; `networks.part.compute` does it once.
    """

    in_groups = True

    def __init__(
        self,
        actnorm: ActNorm,
        rotation: InvertibleMatrix | None = None,
        *,
        before: np.ndarray | None = None,
        keep: int = 0,
    ):
        """Args: before, B, [c, c]; keep, how many first channels the ActNorm leaves alone when it starts from data."""
        self._actnorm, self._rotation, self._before, self._keep = actnorm, rotation, before, keep
        self.channels = actnorm.channels
        self.weights = [*actnorm.weights, *(rotation.weights if rotation else ())]

    @property
    def kind(self) -> Hashable:
        """See `Part.kind`."""
        return (super().kind, None if self._before is None else self._before.tobytes())

    def forward(self, value: Value = tf.convert_to_tensor) -> MapValues:
        """Kernel and bias."""
        scale = self._actnorm.scale(value)
        bias = scale * value(self._actnorm.bias)
        matrix = None
        if self._rotation is not None:
            rotation = value(self._rotation.matrix)
            matrix, bias = rotation * scale[..., None, :], tf.linalg.matvec(rotation, bias)
        if self._before is not None:
            before = tf.constant(self._before, scale.dtype)
            matrix = scale[..., :, None] * before if matrix is None else matrix @ before
        return (scale if matrix is None else kernel_of(matrix)), bias

    def inverse(self, value: Value = tf.convert_to_tensor) -> MapValues:
        """Kernel and bias of the inverse."""
        scale, bias, matrix = tf.exp(-value(self._actnorm.log_scale)), -value(self._actnorm.bias), None
        if self._rotation is not None:
            matrix = scale[..., :, None] * tf.linalg.inv(value(self._rotation.matrix))
        if self._before is not None:
            before = tf.constant(np.linalg.inv(self._before), bias.dtype)
            matrix = before * scale[..., None, :] if matrix is None else before @ matrix
            bias = tf.linalg.matvec(before, bias)
        return (scale if matrix is None else kernel_of(matrix)), bias

    def log_abs_det(self, value: Value = tf.convert_to_tensor) -> tf.Tensor:
        """log|det W B| + sum(log_scale), a scalar."""
        total = tf.reduce_sum(value(self._actnorm.log_scale), axis=-1)
        if self._rotation is not None:
            total += log_abs_det(value(self._rotation.matrix))
        return total if self._before is None else total + float(np.linalg.slogdet(self._before)[1])

    def effective(self, value: Value = tf.convert_to_tensor) -> tuple[MapValues, MapValues, tf.Tensor]:
        """The map, its inverse, and log|det|."""
        return self.forward(value), self.inverse(value), self.log_abs_det(value)

    def maker(self, *, shared: bool) -> Callable[[tuple[MapValues, MapValues, tf.Tensor]], ComputedMap]:
        """What makes of effective weights the map over them."""
        return lambda weights: ComputedMap(self.channels, *weights)

    def initialise(self, x: tf.Tensor) -> None:
        """Sets the ActNorm so that its output is standardised."""
        if self._before is not None:
            x = apply_map(x, kernel_of(tf.constant(self._before, x.dtype)), tf.zeros([self.channels], x.dtype))
        self._actnorm.initialise(x, keep=self._keep)


class ComputedMap:
    """A linear map whose values were computed before."""

    def __init__(self, channels: int, forward: MapValues, inverse: MapValues, log_abs_det: tf.Tensor):
        self.channels, self._forward, self._inverse, self._log_abs_det = channels, forward, inverse, log_abs_det

    def forward(self) -> MapValues:
        """Kernel and bias."""
        return self._forward

    def inverse(self) -> MapValues:
        """Kernel and bias of the inverse."""
        return self._inverse

    def log_abs_det(self) -> tf.Tensor:
        """log|det|, a scalar."""
        return self._log_abs_det
