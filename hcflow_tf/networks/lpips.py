"""LPIPS 0.1: distance of two images in the features of a classification network (Zhang et al. 2018)."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from hcflow_tf.support.errors import HCFlowError


@dataclasses.dataclass(frozen=True)
class Group:
    """Convolutions, each followed by ReLU, up to a tap."""

    pool: int
    """Side of the max-pooling of stride 2 before them; 0 for none."""
    convolutions: tuple[tuple[int, int, int], ...]
    """Index in torchvision's `features`, side, outputs."""


NETWORKS = {
    "alex": (
        Group(0, ((0, 11, 64),)),
        Group(3, ((3, 5, 192),)),
        Group(3, ((6, 3, 384),)),
        Group(0, ((8, 3, 256),)),
        Group(0, ((10, 3, 256),)),
    ),
    "vgg": (
        Group(0, ((0, 3, 64), (2, 3, 64))),
        Group(2, ((5, 3, 128), (7, 3, 128))),
        Group(2, ((10, 3, 256), (12, 3, 256), (14, 3, 256))),
        Group(2, ((17, 3, 512), (19, 3, 512), (21, 3, 512))),
        Group(2, ((24, 3, 512), (26, 3, 512), (28, 3, 512))),
    ),
}
"""AlexNet and VGG16 of torchvision, up to the last tap."""
HEADS = pathlib.Path(__file__).parents[1] / "metrics/parameters/lpips.npz"
"""The linear heads that ship, of both networks."""
MIN_SIDE = {"alex": 31, "vgg": 16}
"""Pixels, so that the last tap has one."""

_PADDING = {11: 2, 5: 2, 3: 1}
_STRIDE = {11: 4, 5: 1, 3: 1}
_SHIFT, _SCALE = (np.array(values, np.float32) for values in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
_EPSILON = 1e-10


class LPIPS(keras.layers.Layer):
    """Distances of pairs of images [batch, h, w, 3], RGB in [0, 1]: [batch], 0 for equal ones, about 1 for unlike ones.

    Differentiable with respect to both, also where all features of a position are 0. Frozen. Sides at least `MIN_SIDE`.

    References:
      [1] Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018, section 3.
    """

    def __init__(self, network: str, state: Mapping[str, np.ndarray], **kwargs):
        """Builds the layer.

        Args:
          network: of `NETWORKS`.
          state: its convolutions by torchvision's names features.N.weight [out, in, h, w] and features.N.bias [out];
            other entries are not looked at. The linear heads ship with this program.
          **kwargs: of the Keras layer, such as dtype.

        Raises:
          HCFlowError: an entry is missing or has another shape.
        """
        super().__init__(trainable=False, **kwargs)
        self._groups = NETWORKS[network]
        self._kernels, inputs = {}, 3
        for group in self._groups:
            for index, side, outputs in group.convolutions:
                kernel = _entry(state, f"features.{index}.weight", (outputs, inputs, side, side)).transpose(2, 3, 1, 0)
                bias = _entry(state, f"features.{index}.bias", (outputs,))
                self._kernels[index] = self._constant(f"kernel_{index}", kernel), self._constant(f"bias_{index}", bias)
                inputs = outputs
        with np.load(HEADS) as heads:
            self._heads = [self._constant(f"head_{tap}", heads[f"{network}_{tap}"]) for tap in range(len(self._groups))]

    def call(self, images: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Returns the distances [batch]."""
        both = self.features(tf.concat([tf.cast(image, self.compute_dtype) for image in images], axis=0))
        first, second = zip(*(tf.split(tap, 2) for tap in both), strict=True)
        return self.distance(first, second)

    def features(self, image: tf.Tensor) -> list[tf.Tensor]:
        """What is compared of images [batch, h, w, 3]: of each tap [batch, h', w', channels], at unit length."""
        x = tf.cast(image, self.compute_dtype)
        x = (2 * x - 1 - tf.cast(_SHIFT, x.dtype)) / tf.cast(_SCALE, x.dtype)
        taps = []
        for group in self._groups:
            x = self._convolved(x, group)
            taps.append(_unit(x))
        return taps

    def distance(self, first: Sequence[tf.Tensor], second: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the distances [batch] between images of these features."""
        return tf.add_n([tf.reduce_mean(distances, axis=[1, 2]) for distances in self._distances(first, second)])

    def spatial(self, first: Sequence[tf.Tensor], second: Sequence[tf.Tensor], size: Sequence[int]) -> tf.Tensor:
        """Returns the distance at each pixel [batch, h, w] of images of these features and this size (h, w): each tap's
        enlarged bilinearly, then added, in float32."""
        return tf.add_n([tf.image.resize(distances[..., None], size)[..., 0] for distances in self._distances(first, second)])

    def _distances(self, first: Sequence[tf.Tensor], second: Sequence[tf.Tensor]) -> Iterator[tf.Tensor]:
        """Of each tap, [batch, h', w']."""
        for one, other, head in zip(first, second, self._heads, strict=True):
            yield tf.reduce_sum(tf.square(one - other) * tf.convert_to_tensor(head), axis=-1)

    def _convolved(self, x: tf.Tensor, group: Group) -> tf.Tensor:
        if group.pool:
            x = tf.nn.max_pool2d(x, group.pool, 2, "VALID")
        for index, side, _ in group.convolutions:
            kernel, bias = map(tf.convert_to_tensor, self._kernels[index])
            margin = [_PADDING[side]] * 2
            x = tf.nn.conv2d(tf.pad(x, [[0, 0], margin, margin, [0, 0]]), kernel, _STRIDE[side], "VALID")
            x = tf.nn.relu(tf.nn.bias_add(x, bias))
        return x

    def _constant(self, name: str, value: np.ndarray) -> keras.Variable:
        variable = self.add_weight(name=name, shape=value.shape, initializer="zeros", trainable=False)
        variable.assign(value)
        return variable


def network_of(state: Mapping[str, np.ndarray]) -> str | None:
    """Which of `NETWORKS` a file's first convolution belongs to; None if to none."""
    shape = np.shape(state.get("features.0.weight", ()))
    sides = {name: groups[0].convolutions[0][1] for name, groups in NETWORKS.items()}
    return next((name for name, side in sides.items() if shape == (64, 3, side, side)), None)


def _unit(x: tf.Tensor) -> tf.Tensor:
    """Channels at unit length. The root's gradient at 0 is infinite, so it is not taken there."""
    square = tf.reduce_sum(tf.square(x), axis=-1, keepdims=True)
    positive = square > 0
    length = tf.where(positive, tf.sqrt(tf.where(positive, square, tf.ones_like(square))), tf.zeros_like(square))
    return x / (length + _EPSILON)


def _entry(state: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name not in state:
        raise HCFlowError(f"expected an entry {name} of shape {shape}, found none")
    if state[name].shape != shape:
        raise HCFlowError(f"expected {name} of shape {shape}, found {state[name].shape}")
    return state[name]
