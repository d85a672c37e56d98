"""Layers of the inference form: constants, folded from a model's layers; see `hcflow_tf.models.folded`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from hcflow_tf.bijectors.base import pixel_count, sum_per_image
from hcflow_tf.bijectors.conditional_gaussian import bounded_above
from hcflow_tf.bijectors.coupling import BOUND
from hcflow_tf.models import folding
from hcflow_tf.networks import coupling, feature_extractor
from hcflow_tf.networks.layers import ScaledConv

ATAN_FACTOR = 2.0
"""The factor of raw in 0.318 atan(2 raw), folded into the convolution that computes raw."""

CONDITION_SCOPE, NETWORK_SCOPE = "condition", "network"
"""Name scopes of what makes the conditions, and of the coupling networks; exports quantise by them."""

Atan = Callable[[tf.Tensor], tf.Tensor]


class Conv(tf.Module):
    """Zero-padded convolution with a bias."""

    def __init__(self, affine: folding.Affine, dtype: tf.DType):
        super().__init__()
        self._kernel, self._bias = (tf.constant(values, dtype) for values in affine)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Returns [batch, h, w, outputs]."""
        return tf.nn.bias_add(tf.nn.conv2d(x, self._kernel, 1, "SAME"), self._bias)


class Linear(tf.Module):
    """y = A x + b at every pixel; a multiplication where A is diagonal, else a 1x1 convolution."""

    def __init__(self, affine: folding.Affine, dtype: tf.DType):
        super().__init__()
        matrix, bias = affine
        diagonal = np.diag(matrix)
        self._diagonal = bool(np.array_equal(matrix, np.diag(diagonal)))
        self._weights = tf.constant(diagonal if self._diagonal else matrix.T[None, None], dtype)
        self._bias = tf.constant(bias, dtype)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Returns a tensor of x's shape."""
        if self._diagonal:
            return x * self._weights + self._bias
        return tf.nn.bias_add(tf.nn.conv2d(x, self._weights, 1, "SAME"), self._bias)


class FCN(tf.Module):
    """A coupling network on the channels that pass; in a conditional step its first layer also gets the condition's part."""

    def __init__(self, network: coupling.FCN, passed: int, dtype: tf.DType):
        """Args: passed, how many of the network's inputs are not the condition."""
        super().__init__()
        kernel, bias = folding.normalised(network.conv_1, network.actnorm_1)
        own_bias = bias if kernel.shape[2] == passed else np.zeros_like(bias)
        self.condition_affine = (kernel[:, :, passed:], bias)
        self._conv_1 = Conv((kernel[:, :, :passed], own_bias), dtype)
        self._conv_2 = Conv(folding.normalised(network.conv_2, network.actnorm_2), dtype)
        self._conv_3 = Conv(folding.halves(folding.scaled(network.conv_3), ATAN_FACTOR), dtype)

    def __call__(self, x: tf.Tensor, of_condition: tf.Tensor | None = None) -> tf.Tensor:
        """Returns [batch, h, w, outputs], shift | raw."""
        h = self._conv_1(x)
        h = tf.nn.relu(h if of_condition is None else h + of_condition)
        return self._conv_3(tf.nn.relu(self._conv_2(h)))


class DenseBlock(tf.Module):
    """Five convolutions, each on all earlier outputs."""

    def __init__(self, affines: Sequence[folding.Affine], dtype: tf.DType):
        super().__init__()
        self._convs = [Conv(affine, dtype) for affine in affines]

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Returns [batch, h, w, outputs]."""
        for conv in self._convs[:-1]:
            x = tf.concat([x, tf.nn.leaky_relu(conv(x), coupling.LEAKY_SLOPE)], axis=-1)
        return self._convs[-1](x)


class RRDB(tf.Module):
    """Three residual dense blocks; their factor 0.2 is part of their last convolutions."""

    def __init__(self, block: feature_extractor.RRDB, dtype: tf.DType):
        super().__init__()
        self._blocks = []
        for dense in block.blocks:
            affines = [folding.plain(conv) for conv in dense.convs]
            affines[-1] = tuple(feature_extractor.RESIDUAL_SCALE * values for values in affines[-1])
            self._blocks.append(DenseBlock(affines, dtype))

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Returns a tensor of x's shape."""
        y = x
        for block in self._blocks:
            y = y + block(y)
        return x + feature_extractor.RESIDUAL_SCALE * y


class Extractor(tf.Module):
    """phi_l: the image and the lower conditions, at their own resolutions, to the condition of a level."""

    def __init__(self, extractor: feature_extractor.FeatureExtractor, image_channels: int, dtype: tf.DType):
        super().__init__()
        kernel, bias = folding.plain(extractor.conv_first)
        self._of_image = Conv((kernel[:, :, :image_channels], bias), dtype)
        self._of_conditions, first = [], image_channels
        while first < kernel.shape[2]:
            factor = 2 ** (len(self._of_conditions) + 1)
            part = folding.before_upsampling(kernel[:, :, first : first + extractor.outputs], factor)
            self._of_conditions.append((factor, Conv((part, np.zeros(part.shape[-1])), dtype)))
            first += extractor.outputs
        self._trunks = [[RRDB(block, dtype) for block in trunk] for trunk in (extractor.trunk_a, extractor.trunk_b)]
        self._conv_last = Conv(folding.plain(extractor.conv_last), dtype)
        self._concat = extractor.concat

    def __call__(self, image: tf.Tensor, conditions: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns c_l for y_l and c_L, ..., c_{l+1}."""
        first = self._of_image(image)
        for (factor, conv), condition in zip(self._of_conditions, reversed(conditions), strict=True):
            first += tf.nn.depth_to_space(conv(condition), factor)
        trunk_a = first
        for block in self._trunks[0]:
            trunk_a = block(trunk_a)
        trunk_b = trunk_a
        for block in self._trunks[1]:
            trunk_b = block(trunk_b)
        last = self._conv_last(trunk_b) + first
        return tf.concat([trunk_a, last], axis=-1) if self._concat else last


class Coupling(tf.Module):
    """One part of the channels drives a map of the other: (z + shift) exp(s), or z + shift."""

    def __init__(self, network: FCN | DenseBlock, split: int, atan: Atan, *, low_changes: bool = False):
        """Args: split, channels of the first part; low_changes: the first part is the one that changes, by a shift alone."""
        super().__init__()
        self._network, self._split, self._atan, self._low_changes = network, split, atan, low_changes

    def forward(self, x: tf.Tensor, *of_condition: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns y and the log-determinant, [batch] or scalar."""
        first, second = x[..., : self._split], x[..., self._split :]
        if self._low_changes:
            return tf.concat([first + self._run(second), second], axis=-1), tf.zeros([], x.dtype)
        shift, log_scale = self._shift_and_log_scale(first, *of_condition)
        return tf.concat([first, (second + shift) * tf.exp(log_scale)], axis=-1), sum_per_image(log_scale)

    def inverse(self, y: tf.Tensor, *of_condition: tf.Tensor) -> tf.Tensor:
        """Returns x."""
        first, second = y[..., : self._split], y[..., self._split :]
        if self._low_changes:
            return tf.concat([first - self._run(second), second], axis=-1)
        shift, log_scale = self._shift_and_log_scale(first, *of_condition)
        return tf.concat([first, second * tf.exp(-log_scale) - shift], axis=-1)

    def _shift_and_log_scale(self, first: tf.Tensor, *of_condition: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        shift, raw = tf.split(self._run(first, *of_condition), 2, axis=-1)
        return shift, BOUND * self._atan(raw)

    def _run(self, *inputs: tf.Tensor) -> tf.Tensor:
        with tf.name_scope(NETWORK_SCOPE):
            return self._network(*inputs)


class Step(tf.Module):
    """A flow step: a linear map per pixel, then a coupling."""

    def __init__(self, linear: folding.Affine, coupling: Coupling, dtype: tf.DType):
        super().__init__()
        self.log_abs_det = folding.log_abs_det(linear)
        self._linear, self._inverse = Linear(linear, dtype), Linear(folding.inverse(linear), dtype)
        self.coupling = coupling

    def forward(self, x: tf.Tensor, *of_condition: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns y and the log-determinant, [batch] or scalar."""
        y, log_det = self.coupling.forward(self._linear(x), *of_condition)
        return y, log_det + self.log_abs_det * pixel_count(x)

    def inverse(self, y: tf.Tensor, *of_condition: tf.Tensor) -> tf.Tensor:
        """Returns x."""
        return self._inverse(self.coupling.inverse(y, *of_condition))


class Gaussian(tf.Module):
    """The last layer of the latent path."""

    def __init__(self, network: ScaledConv, atan: Atan | None, log_std_bound: float | None, dtype: tf.DType):
        """Args: atan, None where it does not bound the log standard deviation; log_std_bound, of its own in that case."""
        super().__init__()
        kernel, bias = folding.halves(folding.scaled(network), ATAN_FACTOR if atan else 1.0)
        half = len(bias) // 2
        self._mean = Conv((kernel[..., :half], bias[:half]), dtype)
        self._raw = Conv((kernel[..., half:], bias[half:]), dtype)
        self._atan, self._log_std_bound = atan, log_std_bound

    def forward(self, detail: tf.Tensor, condition: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns z_l and the log-determinant, [batch], of a_l and c_l."""
        log_std = self._log_std(condition)
        return (detail - self._mean(condition)) * tf.exp(-log_std), -sum_per_image(log_std)

    def inverse(self, latent: tf.Tensor | None, condition: tf.Tensor) -> tf.Tensor:
        """Returns a_l of z_l (None: 0) and c_l."""
        if latent is None:
            return self._mean(condition)
        return latent * tf.exp(self._log_std(condition)) + self._mean(condition)

    def _log_std(self, condition: tf.Tensor) -> tf.Tensor:
        raw = self._raw(condition)
        if self._atan:
            return BOUND * self._atan(raw)
        return raw if self._log_std_bound is None else bounded_above(raw, self._log_std_bound)
