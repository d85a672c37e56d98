"""phi_l: the RRDB network that turns the LR image (and lower conditions) into a level's condition."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import keras
import tensorflow as tf

from hcflow_tf.networks.layers import Affine, Border, Conv, before_upsampling, convolve
from hcflow_tf.networks.part import Value, Weights, variables_together
from hcflow_tf.networks.rrdb import RRDB, ComputesAgain, dense_blocks, effective_trunk, run_trunk


def feature_extractor(
    weights: Weights,
    *sources: tf.Tensor,
    factors: Sequence[int],
    concat: bool,
    recompute: bool = False,
    border: Border = None,
) -> tf.Tensor:
    """See `FeatureExtractor`."""
    kernels, bias, trunk_a, trunk_b, conv_last = weights

    first = bias
    for kernel, source, factor in zip(kernels, sources, factors, strict=True):
        part = convolve((kernel, None), source, border)
        first += part if factor == 1 else tf.nn.depth_to_space(part, factor)
    run = functools.partial(run_trunk, recompute=recompute, border=border)
    after_a = run(trunk_a, first)[-1]
    last = convolve(conv_last, run(trunk_b, after_a)[-1], border) + first
    return tf.concat([after_a, last], axis=-1) if concat else last


class FeatureExtractor(ComputesAgain, keras.layers.Layer):
    """F0 = conv(u); F1 = trunk A(F0); F2 = conv(trunk B(F1)) + F0; the condition is concat(F1, F2) or F2.

    u is the concatenation of its sources, each at its own resolution and enlarged (nearest neighbour) to the finest:
    the first convolution of an enlarged source is computed at the source's resolution.

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
        border: Border = None,
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
          border: see `convolve`.
        """
        super().__init__(**kwargs)
        options = {"border": border, "dtype": self.dtype_policy}
        self.sources, self.concat, self.recompute, self.border = tuple(sources), concat, recompute, border
        channels = sum(count for count, _ in sources)
        self.conv_first = Conv(channels, features, name="conv_first", **options)
        self.trunk_a = [RRDB(features, growth, name=f"trunk_a_{i + 1}", **options) for i in range(blocks[0])]
        self.trunk_b = [RRDB(features, growth, name=f"trunk_b_{i + 1}", **options) for i in range(blocks[1])]
        self.conv_last = Conv(features, features, name="conv_last", **options)
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
        factors = [factor for _, factor in self.sources]
        return functools.partial(feature_extractor, factors=factors, concat=self.concat, border=self.border)

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
        trunks = effective_trunk([*self.trunk_a, *self.trunk_b], value)
        last: Affine = self.conv_last.effective(value)
        return tuple(kernels), bias, trunks[: len(self.trunk_a)], trunks[len(self.trunk_a) :], last

    def groups(self, alike: Sequence[Any]) -> list[list[keras.Variable]]:
        """See `Part.groups`."""
        trunks = ([*extractor.trunk_a, *extractor.trunk_b] for extractor in alike)
        return [group for trunk in trunks for group in variables_together(dense_blocks(trunk))]
