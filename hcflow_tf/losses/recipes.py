"""The losses of the recipes (paper sections 3.4 and 4.1), each a mean over the images of a batch, [batch]."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from hcflow_tf.models.flow_model import LR_LOG_STD, Flow, gaussian_log_prob, latent_log_prob

_LUMA = (0.299, 0.587, 0.114)
"""Y of RGB by ITU-R BT.601."""


def round_straight_through(image: tf.Tensor) -> tf.Tensor:
    """Clips to [0, 1] and rounds to 8 bits; the gradient is that of the identity."""
    rounded = tf.round(tf.clip_by_value(image, 0.0, 1.0) * 255.0) / 255.0
    return image + tf.stop_gradient(rounded - image)


def training_log_prob(flow: Flow, hr: tf.Tensor, lr: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """log p(hr | lr) with the encoder's LR image rounded to 8 bits (straight-through), and [y, z_1, ..., z_L].

    Where the LR image is no output of the flow, it is a condition alone, and y is left out.

    Args:
      hr: [batch, height, width, 3] in [0, 1], dequantisation noise included.
      lr: [batch, height / scale, width / scale, 3] in [0, 1].

    Returns:
      [batch], nats (paper equation 5), and the encoding.
    """
    parts, log_det = flow.forward_and_log_det(hr, **({"lr": lr} if flow.needs_lr else {}))
    if not flow.has_lr:
        return latent_log_prob(parts) + log_det, parts
    rounded = round_straight_through(parts[0])
    return gaussian_log_prob(rounded, lr, LR_LOG_STD) + latent_log_prob(parts[1:]) + log_det, parts


def l1(a: tf.Tensor, b: tf.Tensor, epsilon: float = 0.0) -> tf.Tensor:
    """Mean absolute difference of each image; with an epsilon, the mean of sqrt(d^2 + epsilon), smooth at 0."""
    difference = a - b
    return _mean_per_image(tf.sqrt(tf.square(difference) + epsilon) if epsilon else tf.abs(difference))


def l2(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Mean squared difference of each image."""
    return _mean_per_image(tf.square(a - b))


def lr_l2(encoded: tf.Tensor, lr: tf.Tensor, chroma: float = 1.0) -> tf.Tensor:
    """Mean squared difference of each image whose colour differences R - Y, G - Y and B - Y are weighted by `chroma` first.

    A coloured speckle of a gray picture's LR image shows more than the same error in all channels; chroma = 1 is `l2`.
    """
    error = encoded - lr
    luma = tf.reduce_sum(error * tf.constant(_LUMA, error.dtype), axis=-1, keepdims=True)
    return _mean_per_image(tf.square(luma + chroma * (error - luma)))


def latent_l2(latents: list[tf.Tensor]) -> tf.Tensor:
    """Mean square of all latent values of each image."""
    return tf.add_n([tf.reduce_sum(tf.square(z), axis=[1, 2, 3]) for z in latents]) / values_per_image(*latents)


def values_per_image(*images: tf.Tensor) -> tf.Tensor:
    """How many values each image of these batches has, all together, in their type."""
    return tf.cast(tf.add_n([tf.reduce_prod(tf.shape(image)[1:]) for image in images]), images[0].dtype)


def adversarial(logits: tf.Tensor, *, real: bool) -> tf.Tensor:
    """Cross-entropy of the discriminator's logits [batch, 1] with the label `real` (vanilla GAN)."""
    labels = tf.ones_like(logits) if real else tf.zeros_like(logits)
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits), axis=1)


def relativistic(logits: tf.Tensor, others: tf.Tensor, *, real: bool, mean: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """How far logits [batch, 1] are from being `real` beside the mean of the others, and those from the opposite; halved.

    The generator's loss is that of a fake image's logits taken as real ones, the discriminator's that of a real image's.

    Args:
      logits: of what is to be `real`.
      others: of the other kind of images.
      real: the label of `logits`.
      mean: over the global batch.

    References:
      [1] Wang et al., ESRGAN, 2018, section 3.2 (relativistic average GAN).
    """
    own = adversarial(logits - mean(others), real=real)
    return (own + adversarial(others - mean(logits), real=not real)) / 2.0


def _mean_per_image(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(x, axis=list(range(1, x.shape.rank)))
