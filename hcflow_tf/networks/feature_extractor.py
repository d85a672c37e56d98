"""phi_l: the RRDB network that turns the LR image (and lower conditions) into a level's condition."""

from __future__ import annotations

import keras
import tensorflow as tf

from hcflow_tf.networks.coupling import DenseBlock
from hcflow_tf.networks.layers import Conv

RESIDUAL_SCALE = 0.2


class RRDB(keras.layers.Layer):
    """Three dense blocks, each adding 0.2 times its output, and so does the whole.

    References:
      [1] Wang et al., ESRGAN, 2018, section 3.1.
    """

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

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns a tensor of x's shape."""
        y = x
        for block in self.blocks:
            y = y + RESIDUAL_SCALE * block(y)
        return x + RESIDUAL_SCALE * y


class FeatureExtractor(keras.layers.Layer):
    """F0 = conv(u); F1 = trunk A(F0); F2 = conv(trunk B(F1)) + F0; the condition is concat(F1, F2) or F2.

    Runs in the dtype policy it is given (bfloat16 for mixed precision) and returns float32 unless that is float64.

    References:
      [1] Liang et al., Hierarchical Conditional Flow, ICCV 2021, section 3.3.
    """

    def __init__(
        self,
        inputs: int,
        *,
        features: int,
        growth: int,
        blocks: tuple[int, int],
        concat: bool,
        recompute: bool = False,
        **kwargs,
    ):
        """Args: inputs, channels of u_l; blocks, RRDBs in trunk A and B; concat, True for super-resolution."""
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        self.concat, self.recompute = concat, recompute
        self.conv_first = Conv(inputs, features, name="conv_first", dtype=dtype)
        self.trunk_a = [RRDB(features, growth, name=f"trunk_a_{i + 1}", dtype=dtype) for i in range(blocks[0])]
        self.trunk_b = [RRDB(features, growth, name=f"trunk_b_{i + 1}", dtype=dtype) for i in range(blocks[1])]
        self.conv_last = Conv(features, features, name="conv_last", dtype=dtype)
        self.outputs = features * (2 if concat else 1)

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates the weights."""
        for layer in (self.conv_first, *self.trunk_a, *self.trunk_b, self.conv_last):
            layer.build(None)

    def call(self, u: tf.Tensor) -> tf.Tensor:
        """Returns the condition [batch, h, w, outputs]."""
        first = self.conv_first(u)
        trunk_a = self._run(self.trunk_a, first)
        last = self.conv_last(self._run(self.trunk_b, trunk_a)) + first
        condition = tf.concat([trunk_a, last], axis=-1) if self.concat else last
        return tf.cast(condition, self.variable_dtype)

    def _run(self, trunk: list[RRDB], x: tf.Tensor) -> tf.Tensor:
        for block in trunk:
            x = tf.recompute_grad(block)(x) if self.recompute else block(x)
        return x
