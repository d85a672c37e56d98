"""phi_l: the RRDB network that turns the LR image (and lower conditions) into a level's condition."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence

import keras
import numpy as np
import tensorflow as tf

from hcflow_tf.networks.coupling import DenseBlock, dense_block
from hcflow_tf.networks.layers import Affine, Conv, convolve
from hcflow_tf.networks.part import Part, Value, Weights, traced_once

RESIDUAL_SCALE = 0.2


def rrdb(weights: Weights, x: tf.Tensor) -> tf.Tensor:
    """Three dense blocks, each adding its output, and the whole 0.2 times its own."""
    y = x
    for block in weights:
        y = y + dense_block(block, y)
    return x + RESIDUAL_SCALE * y


class RRDB(Part, keras.layers.Layer):
    """Three dense blocks, each adding 0.2 times its output, and so does the whole.

    References:
      [1] Wang et al., ESRGAN, 2018, section 3.1.
    """

    function = staticmethod(rrdb)

    def __init__(self, features: int, growth: int, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [
            DenseBlock(features, features, growth, zero_last=False, name=f"block_{index + 1}", dtype=self.dtype_policy)
            for index in range(3)
        ]

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates the weights."""
        for block in self.blocks:
            block.build(None)

    def effective(self, value: Value = tf.convert_to_tensor) -> Weights:
        """The dense blocks' convolutions; their factor 0.2 is part of the last ones."""
        blocks = []
        for block in self.blocks:
            *first, last = block.effective(value)
            blocks.append((*first, tuple(None if values is None else RESIDUAL_SCALE * values for values in last)))
        return tuple(blocks)


def before_upsampling(kernel: tf.Tensor, factor: int) -> tf.Tensor:
    """The kernel K' with depth_to_space(conv(x, K'), factor) = conv(upsample(x, factor), K), nearest neighbour.

    Exact with zero padding too: a fine pixel lies outside if and only if its coarse pixel does.

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


def feature_extractor(
    weights: Weights, *sources: tf.Tensor, factors: Sequence[int], concat: bool, recompute: bool = False
) -> tf.Tensor:
    """See `FeatureExtractor`."""
    kernels, bias, trunk_a, trunk_b, conv_last = weights

    compute_block = _recomputed_rrdb if recompute else rrdb
    if not recompute and tf.is_symbolic_tensor(bias):
        compute_block = traced_once(rrdb)

    def run(trunk: Weights, x: tf.Tensor) -> tf.Tensor:
        for block in trunk:
            x = compute_block(block, x)
        return x

    first = bias
    for kernel, source, factor in zip(kernels, sources, factors, strict=True):
        part = convolve((kernel, None), source)
        first += part if factor == 1 else tf.nn.depth_to_space(part, factor)
    after_a = run(trunk_a, first)
    last = convolve(conv_last, run(trunk_b, after_a)) + first
    return tf.concat([after_a, last], axis=-1) if concat else last


def _recomputed_rrdb(weights: Weights, x: tf.Tensor) -> tf.Tensor:
    """`rrdb`, whose activations are computed again in the backward pass instead of being kept."""

    def compute(x: tf.Tensor, *flat: tf.Tensor) -> tf.Tensor:
        return rrdb(tf.nest.pack_sequence_as(weights, flat), x)

    return tf.recompute_grad(compute)(x, *tf.nest.flatten(weights))


class FeatureExtractor(Part, keras.layers.Layer):
    """F0 = conv(u); F1 = trunk A(F0); F2 = conv(trunk B(F1)) + F0; the condition is concat(F1, F2) or F2.

    u is the concatenation of its sources, each at its own resolution and enlarged (nearest neighbour) to the finest:
    the first convolution of an enlarged source is computed at the source's resolution. Runs in the dtype policy it is
    given (bfloat16 for mixed precision) and returns float32 unless that is float64.

    References:
      [1] Liang et al., Hierarchical Conditional Flow, ICCV 2021, section 3.3.
    """

    def __init__(
        self,
        sources: Sequence[tuple[int, int]],
        *,
        features: int,
        growth: int,
        blocks: tuple[int, int],
        concat: bool,
        recompute: bool = False,
        **kwargs,
    ):
        """Creates the layers.

        Args:
          sources: of each source its channels and the factor by which it is enlarged.
          features: channels of the trunks.
          growth: of their dense blocks.
          blocks: RRDBs in trunk A and B.
          concat: True for super-resolution.
          recompute: compute the activations of the RRDBs again in the backward pass.
        """
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        self.sources, self.concat, self.recompute = tuple(sources), concat, recompute
        channels = sum(count for count, _ in sources)
        self.conv_first = Conv(channels, features, name="conv_first", dtype=dtype)
        self.trunk_a = [RRDB(features, growth, name=f"trunk_a_{i + 1}", dtype=dtype) for i in range(blocks[0])]
        self.trunk_b = [RRDB(features, growth, name=f"trunk_b_{i + 1}", dtype=dtype) for i in range(blocks[1])]
        self.conv_last = Conv(features, features, name="conv_last", dtype=dtype)
        self.outputs = features * (2 if concat else 1)

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates the weights."""
        self.conv_first.build(None)
        for block in (*self.trunk_a, *self.trunk_b):
            block.build(None)
        self.conv_last.build(None)

    @property
    def function(self) -> Callable[..., tf.Tensor]:
        """(weights, *sources) -> the condition [batch, h, w, outputs]."""
        return functools.partial(feature_extractor, factors=[factor for _, factor in self.sources], concat=self.concat)

    @property
    def kind(self) -> Hashable:
        """See `Part.kind`."""
        return (super().kind, self.sources)

    def effective(self, value: Value = tf.convert_to_tensor) -> Weights:
        """The first convolution's kernels, one for each source, and its bias; both trunks; the last convolution."""
        kernel, bias = self.conv_first.effective(value)
        kernels, first = [], 0
        for channels, factor in self.sources:
            kernels.append(before_upsampling(kernel[:, :, first : first + channels], factor))
            first += channels
        trunks = (tuple(block.effective(value) for block in trunk) for trunk in (self.trunk_a, self.trunk_b))
        last: Affine = self.conv_last.effective(value)
        return (tuple(kernels), bias, *trunks, last)

    def call(self, *sources: tf.Tensor) -> tf.Tensor:
        """Returns the condition, computed in the layer's compute type."""
        compute = functools.partial(tf.cast, dtype=self.compute_dtype)
        weights = self.effective(lambda variable: compute(tf.convert_to_tensor(variable)))
        condition = self.function(weights, *map(compute, sources), recompute=self.recompute)
        return tf.cast(condition, self.variable_dtype)
