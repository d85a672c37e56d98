"""VGG19 features for the perceptual loss."""

from __future__ import annotations

import pathlib

import keras
import tensorflow as tf

from hcflow_tf.support.errors import HCFlowError

LAYER = "block5_conv4"


class VGGFeatures(keras.layers.Layer):
    """The last convolution of VGG19's block 5 before its ReLU: [batch, h, w, 3] in [0, 1] -> [batch, h/16, w/16, 512].

    Normalises as the weights of keras.applications expect it: BGR, 0..255, less the ImageNet mean. Frozen.

    References:
      [1] Ledig et al., SRGAN, 2017, equation 5; Wang et al., ESRGAN, 2018, section 3.3 (before activation).
    """

    def __init__(self, weights: str | None = None, **kwargs):
        """Args: weights, a file for keras.applications' VGG19 without top; None downloads it.

        Raises:
          HCFlowError: the weights cannot be downloaded or read.
        """
        super().__init__(trainable=False, **kwargs)
        if weights is not None and not pathlib.Path(weights).is_file():
            raise HCFlowError(f"losses.vgg_weights: no file at {weights}")
        try:
            network = keras.applications.VGG19(include_top=False, weights=weights or "imagenet")
        except Exception as error:
            source = weights or "the keras.applications download (give a file in losses.vgg_weights instead)"
            raise HCFlowError(f"cannot load VGG19 weights from {source}: {' '.join(str(error).split())[:300]}") from error
        layer = network.get_layer(LAYER)
        layer.activation = keras.activations.linear
        self.network = keras.Model(network.input, layer.output)
        self.network.trainable = False

    def call(self, image: tf.Tensor) -> tf.Tensor:
        """Returns the features."""
        mean = tf.constant([103.939, 116.779, 123.68], image.dtype)
        return self.network(tf.reverse(image, [-1]) * 255.0 - mean)
