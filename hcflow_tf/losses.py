"""The losses of the recipes: NLL, pixel, LR, latent; the adversarial ones; straight-through rounding."""

from __future__ import annotations

import tensorflow as tf

from hcflow_tf.bijectors import HierarchicalFlow
from hcflow_tf.model import LR_LOG_STD, gaussian_log_prob, latent_log_prob


def round_straight_through(image: tf.Tensor) -> tf.Tensor:
    """Clips to [0, 1] and rounds to 8 bits; the gradient is that of the identity."""
    rounded = tf.round(tf.clip_by_value(image, 0.0, 1.0) * 255.0) / 255.0
    return image + tf.stop_gradient(rounded - image)


def training_log_prob(
    flow: HierarchicalFlow, hr: tf.Tensor, lr: tf.Tensor, lr_log_std: float = LR_LOG_STD
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """log p(hr | lr) with the encoder's LR image rounded to 8 bits (straight-through), and [y, z_1, ..., z_L].

    Args:
      hr: [batch, height, width, 3] in [0, 1], dequantisation noise included.
      lr: [batch, height / scale, width / scale, 3] in [0, 1].

    Returns:
      [batch], nats (paper equation 5), and the encoding.
    """
    parts, log_det = flow.forward_and_log_det(hr)
    rounded = round_straight_through(parts[0])
    return gaussian_log_prob(rounded, lr, lr_log_std) + latent_log_prob(parts[1:]) + log_det, parts
