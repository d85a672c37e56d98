"""VGG19 features for the perceptual loss."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from hcflow_tf.support.errors import HCFlowError

LAYER = "block5_conv4"

BLOCKS = (2, 2, 4, 4, 4)
"""Convolutions of each block; max-pooling lies between the blocks."""


class VGGFeatures(keras.layers.Layer):
    """The last convolution of VGG19's block 5 before its ReLU: [batch, h, w, 3] in [0, 1] -> [batch, h/16, w/16, 512].

    Normalises as the weights expect it: those of keras.applications BGR, 0..255, less the ImageNet mean; those of
    torchvision, which the released recipes were tuned on, RGB less the mean over the standard deviation. Frozen.

    References:
      [1] Ledig et al., SRGAN, 2017, equation 5; Wang et al., ESRGAN, 2018, section 3.3 (before activation).
    """

    def __init__(self, weights: str | None = None, **kwargs):
        """Args: weights, a file for keras.applications' VGG19 without top, or torchvision's .pth; None downloads the former.

        Raises:
          HCFlowError: the weights cannot be downloaded or read.
        """
        super().__init__(trainable=False, **kwargs)
        if weights is not None and not pathlib.Path(weights).is_file():
            raise HCFlowError(f"losses.vgg_weights: no file at {weights}")
        self._of_torchvision = weights is not None and pathlib.Path(weights).suffix in (".pth", ".pt")
        self.network = _of_torchvision(str(weights)) if self._of_torchvision else _of_keras(weights)
        self.network.trainable = False

    def call(self, image: tf.Tensor) -> list[tf.Tensor]:
        """Returns the features, alone in a list."""
        if self._of_torchvision:
            mean, std = (tf.constant(values, image.dtype) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
            return [self.network((image - mean) / std)]
        mean = tf.constant([103.939, 116.779, 123.68], image.dtype)
        return [self.network(tf.reverse(image, [-1]) * 255.0 - mean)]


def _of_keras(weights: str | None) -> keras.Model:
    try:
        network = keras.applications.VGG19(include_top=False, weights=weights or "imagenet")
    except Exception as error:
        source = weights or "the keras.applications download (give a file in losses.vgg_weights instead)"
        raise HCFlowError(f"cannot load VGG19 weights from {source}: {' '.join(str(error).split())[:300]}") from error
    layer = network.get_layer(LAYER)
    layer.activation = keras.activations.linear
    return keras.Model(network.input, layer.output)


def _of_torchvision(weights: str) -> keras.Model:
    from hcflow_tf.support.state_dict import read_state_dict

    try:
        return features_network(read_state_dict(weights))
    except (KeyError, ValueError) as error:
        raise HCFlowError(f"losses.vgg_weights: {weights} does not hold torchvision's VGG19: {error}") from error


def features_network(state: Mapping[str, np.ndarray]) -> keras.Model:
    """The convolutions of a VGG19 of any widths, from torchvision's names features.N.weight [out, in, 3, 3] and .bias.

    Raises:
      KeyError, ValueError: an entry is missing or has another shape.
    """
    image = x = keras.Input([None, None, 3])
    layers, index = [], 0
    for block, count in enumerate(BLOCKS, 1):
        for number in range(1, count + 1):
            kernel, bias = (state[f"features.{index}.{name}"] for name in ("weight", "bias"))
            name = f"block{block}_conv{number}"
            layer = keras.layers.Conv2D(len(bias), 3, padding="same", activation="linear" if name == LAYER else "relu", name=name)
            x = layer(x)
            layers.append((layer, [kernel.transpose(2, 3, 1, 0), bias]))
            index += 2
        if block < len(BLOCKS):
            x = keras.layers.MaxPooling2D()(x)
            index += 1
    for layer, values in layers:
        layer.set_weights(values)
    return keras.Model(image, x)
