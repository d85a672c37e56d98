"""Fitting an LR image to its HR image through the decoder, from where the encoder has put it."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from hcflow_tf.models.flow_model import FlowModel

RATE, MOMENTUM = 0.03, 0.6
"""Of gradient descent, the rate divided by scale^2: halved whenever a step makes it worse."""


class Refinement:
    """Gradient descent on the LR image of a rescaling model, which then is restored better and looks no less like bicubic's.

    An encoder gives every image the LR image that was best on average in training. Here one image has its own: minimised is
    |decode(x, 0) - hr|^2 + scale^2 |x - bicubic|^2 over 8-bit images x, so that an error counts by the area that it covers;
    the gradient is taken as if rounding were the identity. Where hr is 0 or 1, what is decoded may lie beyond: in the end it is
    clipped.
    """

    def __init__(self, model: FlowModel):
        """Args: model, of rescaling; nothing of it changes."""
        self._model = model
        image = tf.TensorSpec([1, None, None, 3])
        # Sizes are left open, so that one tracing serves all images and tiles.
        self._compiled = tf.function(self._value_and_gradient, input_signature=[image] * 3, autograph=False)

    def __call__(self, hr: np.ndarray, lr: np.ndarray, bicubic: np.ndarray, steps: int) -> np.ndarray:
        """The best LR image of those after 0 to `steps` steps: none is worse than the one it starts from.

        Args:
          hr: [1, scale h, scale w, 3] float32 in [0, 1].
          lr: [1, h, w, 3], the encoder's.
          bicubic: [1, h, w, 3], what the LR image is to look like.
          steps: of gradient descent.

        Returns:
          [1, h, w, 3] float32, values of 8 bits.
        """
        rate = RATE / self._model.scale**2
        x, velocity = np.clip(lr, 0.0, 1.0), np.zeros_like(lr)
        best, least, gradient = x, np.inf, np.zeros_like(lr)
        for step in range(steps + 1):
            value, here = (part.numpy() for part in self._compiled(_to_8_bits(x), hr, bicubic))
            if value < least:
                best, least, gradient = x, value, here
            else:
                x, velocity, rate = best, np.zeros_like(lr), rate / 2
            if step < steps:
                velocity = MOMENTUM * velocity - rate * gradient
                x = np.clip(x + velocity, 0.0, 1.0)
        return _to_8_bits(best)

    def _value_and_gradient(self, lr: tf.Tensor, hr: tf.Tensor, bicubic: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(lr)
            decoded = self._model.decode(lr)
            beyond = ((hr <= 0) & (decoded < 0)) | ((hr >= 1) & (decoded > 1))
            error = tf.where(beyond, 0.0, decoded - hr)
            value = 0.5 * (tf.reduce_sum(error**2) + self._model.scale**2 * tf.reduce_sum((lr - bicubic) ** 2))
        return value, tape.gradient(value, lr)


def _to_8_bits(image: np.ndarray) -> np.ndarray:
    """Rounded, still float: what is not finite stays so, and is told by who asked."""
    return (np.round(np.clip(image, 0.0, 1.0) * 255.0) / 255.0).astype(np.float32)
