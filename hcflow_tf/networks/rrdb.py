"""Residual-in-residual dense blocks (RRDBs), and the network of them that ESRGAN generates images with."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import keras
import tensorflow as tf

from hcflow_tf.networks.coupling import LEAKY_SLOPE, DenseBlock, dense_block
from hcflow_tf.networks.layers import Affine, Border, Conv, before_upsampling, convolve
from hcflow_tf.networks.part import (
    ComputesInType,
    Part,
    Value,
    Weights,
    in_type_of_weights,
    stacked,
    traced_once,
    unstacked,
    values_together,
    variables_together,
)

RESIDUAL_SCALE = 0.2


def rrdb(weights: Weights, x: tf.Tensor, *, border: Border = None) -> tf.Tensor:
    """Three dense blocks, each adding its output, and the whole 0.2 times its own."""
    y = x
    for block in weights:
        y = y + dense_block(block, y, border=border)
    return x + RESIDUAL_SCALE * y


class RRDB(Part, keras.layers.Layer):
    """Three dense blocks, each adding 0.2 times its output, and so does the whole.

    References:
      [1] Wang et al., ESRGAN, 2018, section 3.1.
    """

    def __init__(self, features: int, growth: int, *, border: Border = None, **kwargs):
        super().__init__(**kwargs)
        self.border = border
        options = {"zero_last": False, "border": border, "dtype": self.dtype_policy}
        self.blocks = [DenseBlock(features, features, growth, name=f"block_{index + 1}", **options) for index in range(3)]

    @property
    def function(self) -> Callable[..., tf.Tensor]:
        """(weights of the dense blocks, x) -> [batch, h, w, features]."""
        return functools.partial(rrdb, border=self.border)

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates the weights."""
        for block in self.blocks:
            block.build(None)

    def effective(self, value: Value = tf.convert_to_tensor) -> Weights:
        """The dense blocks' convolutions; their factor 0.2 is part of the last ones."""
        return effective_trunk([self], value)[0]


def dense_blocks(trunk: Sequence[RRDB]) -> list[DenseBlock]:
    """Those of all RRDBs, in order."""
    return [block for rrdb in trunk for block in rrdb.blocks]


def effective_trunk(trunk: Sequence[RRDB], value: Value = tf.convert_to_tensor) -> tuple[Weights, ...]:
    """The effective weights of RRDBs of one shape, read and computed together."""
    blocks = dense_blocks(trunk)
    if not blocks:
        return ()
    *first, last = blocks[0].effective(stacked(blocks, value))
    each = unstacked((*first, tf.nest.map_structure(lambda values: RESIDUAL_SCALE * values, last)), len(blocks))
    return tuple(tuple(each[start : start + 3]) for start in range(0, len(each), 3))


def run_trunk(trunk: Sequence[Weights], x: tf.Tensor, *, recompute: bool = False, border: Border = None) -> list[tf.Tensor]:
    """x and what each RRDB of a trunk makes of it, one after the other.

    Args:
      trunk: weights of each RRDB.
      x: [batch, h, w, features].
      recompute: compute the activations inside the RRDBs again in the backward pass instead of keeping them.
      border: see `convolve`.
    """
    run = _recomputed_rrdb if recompute else _rrdb
    outputs = [x]
    for weights in trunk:
        outputs.append(run(weights, outputs[-1], border))
    return outputs


def _rrdb(weights: Weights, x: tf.Tensor, border: Border) -> tf.Tensor:
    """`rrdb`; where weights are trained in a graph, all calls of it share one tracing."""
    traced = any(tf.is_symbolic_tensor(tensor) for tensor in tf.nest.flatten(weights))
    return _traced_rrdb(border)(weights, x) if traced else rrdb(weights, x, border=border)


@functools.cache
def _traced_rrdb(border: Border) -> Callable[..., tf.Tensor]:
    return traced_once(functools.partial(rrdb, border=border))


def _recomputed_rrdb(weights: Weights, x: tf.Tensor, border: Border) -> tf.Tensor:
    def compute(x: tf.Tensor, *flat: tf.Tensor) -> tf.Tensor:
        return rrdb(tf.nest.pack_sequence_as(weights, flat), x, border=border)

    return tf.recompute_grad(compute)(x, *tf.nest.flatten(weights))


class _Typed:
    """Reads variables in another type, where `value` gives them in their own."""

    def __init__(self, value: Value, own: str, wanted: str):
        self._value, self._own, self._wanted = value, own, wanted

    def __call__(self, variable: keras.Variable) -> tf.Tensor:
        return self._cast(self._value(variable))

    def together(self, variables: Sequence[keras.Variable]) -> tf.Tensor:
        """Variables of one shape, [n, *shape]."""
        return self._cast(values_together(self._value, variables))

    def _cast(self, tensor: tf.Tensor) -> tf.Tensor:
        return tf.cast(tensor, self._wanted) if tensor.dtype == self._own else tensor


class ComputesAgain(ComputesInType):
    """A part of RRDBs, whose function takes `recompute=`; its variables are cast before the weights are computed."""

    recompute: bool

    def typed(self, value: Value = tf.convert_to_tensor) -> Weights:
        """See `Part.typed`."""
        return self.effective(_Typed(value, self.variable_dtype, self.compute_dtype))

    def call(self, *inputs: tf.Tensor) -> tf.Tensor:
        """Returns the function's output, computed in the layer's compute type."""
        return in_type_of_weights(functools.partial(self.function, recompute=self.recompute), self.typed(), *inputs)


def enlarged_features(upconvs: Sequence[Affine], features: tf.Tensor) -> list[tf.Tensor]:
    """The features, and enlarged by 2, 4, ...: each time by nearest neighbour, then a convolution and LeakyReLU."""
    outputs = [features]
    for kernel, bias in upconvs:  # each kernel is that before the upsampling
        enlarged = tf.nn.depth_to_space(convolve((kernel, None), outputs[-1]), 2)
        outputs.append(_leaky_relu(tf.nn.bias_add(enlarged, bias)))
    return outputs


def rrdb_image(weights: Weights, lr: tf.Tensor, *, recompute: bool = False) -> tf.Tensor:
    """See `RRDBNetwork`."""
    conv_first, trunk, conv_trunk, upconvs, conv_hr, conv_last = weights
    first, *_, last = run_trunk(trunk, convolve(conv_first, lr), recompute=recompute)
    enlarged = enlarged_features(upconvs, first + convolve(conv_trunk, last))[-1]
    return convolve(conv_last, _leaky_relu(convolve(conv_hr, enlarged)))


def _leaky_relu(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.leaky_relu(x, LEAKY_SLOPE)


class RRDBNetwork(ComputesAgain, keras.layers.Layer):
    """ESRGAN's generator: lr [batch, h, w, 3] -> hr [batch, scale h, scale w, 3], not clipped.

    F0 = conv3x3(lr); F = F0 + conv3x3(trunk of RRDBs(F0)); for each doubling nearest neighbour, conv3x3, LeakyReLU; then
    conv3x3, LeakyReLU, conv3x3.

    References:
      [1] Wang et al., ESRGAN, 2018, section 3.1, https://arxiv.org/abs/1809.00219
    """

    function = staticmethod(rrdb_image)

    def __init__(self, scale: int, *, features: int, growth: int, blocks: int, recompute: bool = False, **kwargs):
        """Creates the layers.

        Args:
          scale: a power of 2.
          features: channels of the trunk.
          growth: of its dense blocks.
          blocks: RRDBs in the trunk.
          recompute: see `run_trunk`.
        """
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        self.recompute = recompute
        self.conv_first = Conv(3, features, name="conv_first", dtype=dtype)
        self.trunk = [RRDB(features, growth, name=f"trunk_{index + 1}", dtype=dtype) for index in range(blocks)]
        self.conv_trunk = Conv(features, features, name="conv_trunk", dtype=dtype)
        self.upconvs = [Conv(features, features, name=f"upconv_{i + 1}", dtype=dtype) for i in range(int(math.log2(scale)))]
        self.conv_hr = Conv(features, features, name="conv_hr", dtype=dtype)
        self.conv_last = Conv(features, 3, name="conv_last", dtype=dtype)

    def build(self, input_shape: tuple | None = None) -> None:
        """Creates the weights."""
        layers: list[keras.layers.Layer] = [self.conv_first, *self.trunk, self.conv_trunk, *self.upconvs]
        for layer in (*layers, self.conv_hr, self.conv_last):
            layer.build(None)

    def groups(self, alike: Sequence[Any]) -> list[list[keras.Variable]]:
        """See `Part.groups`."""
        return [group for network in alike for group in variables_together(dense_blocks(network.trunk))]

    def effective_features(self, value: Value = tf.convert_to_tensor) -> Weights:
        """What features are computed from: the first convolution, the RRDBs, the convolution after them."""
        trunk = effective_trunk(self.trunk, value)
        return self.conv_first.effective(value), trunk, self.conv_trunk.effective(value)

    def effective_upconvs(self, count: int, value: Value = tf.convert_to_tensor) -> tuple[Affine, ...]:
        """What `enlarged_features` computes from, of the first `count` convolutions after an upsampling."""
        affines = (conv.effective(value) for conv in self.upconvs[:count])
        return tuple((before_upsampling(kernel, 2), bias) for kernel, bias in affines)

    def effective(self, value: Value = tf.convert_to_tensor) -> Weights:
        """All convolutions."""
        return (
            *self.effective_features(value),
            self.effective_upconvs(len(self.upconvs), value),
            self.conv_hr.effective(value),
            self.conv_last.effective(value),
        )


def condition_pyramid(
    weights: Weights, lr: tf.Tensor, *, stacked_blocks: Sequence[int], recompute: bool = False
) -> list[tf.Tensor]:
    """See `ConditionPyramid`."""
    conv_first, trunk, conv_trunk, upconvs = weights
    _, *outputs = run_trunk(trunk, convolve(conv_first, lr), recompute=recompute)
    # Not as in the network's own image: there the trunk's input is added, here its output.
    features = outputs[-1] + convolve(conv_trunk, outputs[-1])
    stacked = tf.concat([outputs[index] for index in stacked_blocks], axis=-1)
    # Half of lr's resolution: of F the mean of 2x2 pixels, of the stacked outputs the upper left one.
    pyramid = [tf.concat([tf.nn.avg_pool2d(features, 2, 2, "VALID"), stacked[:, ::2, ::2]], axis=-1)]
    for doublings, enlarged in enumerate(enlarged_features(upconvs, features)):
        pyramid.append(tf.concat([enlarged, _repeat(stacked, 2**doublings)], axis=-1))
    return pyramid[::-1]


def _repeat(x: tf.Tensor, factor: int) -> tf.Tensor:
    """x enlarged by nearest neighbour, of operations that every runtime has."""
    return x if factor == 1 else tf.nn.depth_to_space(tf.concat([x] * factor**2, axis=-1), factor)


class ConditionPyramid(ComputesAgain):
    """What SRFlow is conditioned on, from inside an `RRDBNetwork`: lr -> [u_1, ..., u_L], finest first.

    u_l = concat(features, stacked) has 1 / 2^l times the resolution of hr, so u_L half of lr's, with L = log2(scale) + 1.
    features: F = T + conv3x3(T), T the trunk's output, at lr's resolution; F after the convolutions that enlarge it; F
    shrunk to half. stacked: the outputs of some RRDBs beside each other, resized by nearest neighbour.

    References:
      [1] Lugmayr et al., SRFlow, ECCV 2020, section 3.3, as the released weights compute it.
    """

    def __init__(self, network: RRDBNetwork, stacked_blocks: Sequence[int]):
        """Args: stacked_blocks, indices from 0 of the RRDBs whose outputs are stacked."""
        self._network, self._stacked_blocks = network, tuple(stacked_blocks)
        self.weights, self.recompute = network.weights, network.recompute
        self.compute_dtype, self.variable_dtype = network.compute_dtype, network.variable_dtype

    @property
    def function(self) -> Callable[..., list[tf.Tensor]]:
        """(weights, lr) -> [u_1, ..., u_L]."""
        return functools.partial(condition_pyramid, stacked_blocks=self._stacked_blocks)

    @property
    def kind(self) -> Hashable:
        """See `Part.kind`."""
        return (super().kind, self._stacked_blocks)

    def groups(self, alike: Sequence[Any]) -> list[list[keras.Variable]]:
        """See `Part.groups`."""
        return [group for pyramid in alike for group in pyramid._network.groups([pyramid._network])]

    def effective(self, value: Value = tf.convert_to_tensor) -> Weights:
        """The convolutions but those that make the network's own image alone."""
        return (*self._network.effective_features(value), self._network.effective_upconvs(len(self._network.upconvs) - 1, value))
