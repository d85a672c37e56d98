"""Caps on the standard deviations of samples: what natural photographs need, and no picture gets more.

The last conditional Gaussian of a super-resolution model is trained on photographs. On a picture unlike them (dither, text,
noise) an unbounded log standard deviation may be 10 or 10,000 where photographs have at most a few, and the sample
explodes (Hong et al., On the Robustness of Normalizing Flows for Inverse Problems in Imaging, ICCV 2023). Models trained
with `model.log_std_bound` need no caps.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from hcflow_tf.bijectors import HierarchicalFlow
from hcflow_tf.data.resize import imresize
from hcflow_tf.data.samples import held_out_photographs, training_photographs
from hcflow_tf.images.images import read_image
from hcflow_tf.models.hcflow import HCFlow

QUANTILE = 0.99
"""Of the log standard deviations of a channel on natural photographs: one value in a hundred is above its cap."""
TEMPERATURE, SEED = 0.8, 0
"""Of the samples in which the finer levels' conditions are measured."""


def needs_guard(model: HCFlow) -> bool:
    """Whether the model's log standard deviations are free of any bound."""
    return not model.config.makes_lr and model.config.log_std_bound is None


def ensure_guard(model: HCFlow) -> None:
    """Measures the caps of a model that needs them and has none, on the photographs that scikit-image ships."""
    if needs_guard(model) and model.log_std_caps is None:
        model.set_guard(measure_caps(model, sample_lr_images(model.scale)))


def sample_lr_images(scale: int, side: int = 96) -> list[np.ndarray]:
    """The middles of the sample photographs as LR images, at most [side, side, 3], in [0, 1]."""
    images = []
    for path in (*training_photographs(), *held_out_photographs()):
        hr = read_image(path).rgb_uint8
        height, width = (min(size // scale, side) * scale for size in hr.shape[:2])
        top, left = (hr.shape[0] - height) // 2, (hr.shape[1] - width) // 2
        images.append(imresize(hr[top : top + height, left : left + width], 1 / scale).astype(np.float32) / np.float32(255))
    return images


def measure_caps(model: HCFlow, lr_images: Iterable[np.ndarray]) -> list[list[float]]:
    """The caps of each level, finest first, and channel: the `QUANTILE` of its log standard deviations on these images.

    Level by level, from coarse to fine, as in decoding; each level's sample keeps to its caps before the next is measured.

    Args:
      model: the model.
      lr_images: natural photographs, LR, [h, w, 3] in [0, 1].
    """
    images = [tf.constant(image[None], tf.float32) for image in lr_images]
    caps = [[float("inf")] * channels for channels in model.latent_channels]
    for level in range(len(caps), 0, -1):
        values = np.concatenate([_log_stds(model, model._guarded(caps), image, level) for image in images])
        caps[level - 1] = [float(cap) for cap in np.quantile(values, QUANTILE, axis=0)]
    return caps


def _log_stds(model: HCFlow, flow: HierarchicalFlow, lr: tf.Tensor, level: int) -> np.ndarray:
    """[pixels, channels] of one level while a sample is decoded by this flow, which is changed so that it tells."""
    gaussian, seen = flow.levels[level - 1].gaussian, []
    if gaussian is None:
        return np.full((1, model.latent_channels[level - 1]), np.inf)
    gaussian.observe(lambda log_std: seen.append(log_std.numpy()))
    flow.decode(lr, model.draw_latents(lr.shape, TEMPERATURE, SEED))
    return seen[-1].reshape(-1, seen[-1].shape[-1])
