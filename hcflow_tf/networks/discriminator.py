"""The discriminator of the ++ recipes."""

from __future__ import annotations

import keras

MULTIPLES = (1, 2, 4, 8, 8)
"""Channels of the pairs of convolutions, in widths."""


def discriminator(dtype: str = "float32", *, crop_size: int = 160, width: int = 64) -> keras.Model:
    """VGG-style network [batch, crop_size, crop_size, 3] in [0, 1] -> logit [batch, 1], higher for real images.

    Pairs of conv3x3 and stride-2 conv4x4, BatchNorm except after the first, LeakyReLU 0.2, dense 100, dense 1.
    Call it with training=True always, as the released recipe does: it is never evaluated with moving statistics. The
    BatchNorms take the statistics of the global batch, over all replicas, so that several take the step that one would.

    Args:
      dtype: of weights and values.
      crop_size: pixels, divisible by 32; the dense layers fix it.
      width: channels of the first pair of convolutions, an eighth of the last's; the released recipe's is 64.

    References:
      [1] Wang et al., ESRGAN, 2018, section 4.1.
    """
    image = x = keras.Input([crop_size, crop_size, 3], dtype=dtype)
    for index, multiple in enumerate(MULTIPLES):
        for size, strides in ((3, 1), (4, 2)):
            first = index == 0 and strides == 1
            # The names are those of the weights in checkpoints.
            name = f"{index}_{strides - 1}"
            x = keras.layers.Conv2D(
                multiple * width, size, strides, padding="same", use_bias=first, dtype=dtype, name=f"convolution_{name}"
            )(x)
            if not first:
                x = keras.layers.BatchNormalization(
                    momentum=0.9, epsilon=1e-5, synchronized=True, dtype=dtype, name=f"normalisation_{name}"
                )(x)
            x = keras.layers.LeakyReLU(0.2, dtype=dtype)(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.LeakyReLU(0.2, dtype=dtype)(keras.layers.Dense(100, dtype=dtype, name="dense_1")(x))
    return keras.Model(image, keras.layers.Dense(1, dtype=dtype, name="dense_2")(x), name="discriminator")
