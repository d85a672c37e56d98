"""Caps on the standard deviations of samples: what natural photographs need, and no picture gets more.

The last conditional Gaussian of a super-resolution model is trained on photographs. On a picture unlike them (dither, text,
noise) an unbounded log standard deviation may be 10 or 10,000 where photographs have at most a few, and the sample
explodes (Hong et al., On the Robustness of Normalizing Flows for Inverse Problems in Imaging, ICCV 2023). A model trained
with `model.log_std_bound` stays finite without caps; with them its samples of noise and text are in range, too.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
import tensorflow as tf

from hcflow_tf.bijectors import HierarchicalFlow
from hcflow_tf.data.resize import imresize
from hcflow_tf.data.samples import held_out_photographs, training_photographs
from hcflow_tf.images.images import read_image
from hcflow_tf.models.flow_model import FlowModel

QUANTILE = 0.99
"""Of the log standard deviations of a channel on natural photographs: one value in a hundred is above its cap."""
TEMPERATURE, SEED = 0.8, 0
"""Of the samples in which the finer levels' conditions are measured."""


def ensure_guard(model: FlowModel) -> None:
    """Measures the caps of a model that needs them and has none, on the photographs that scikit-image ships."""
    if model.needs_guard and model.log_std_caps is None:
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


def measure_caps(model: FlowModel, lr_images: Iterable[np.ndarray]) -> list[list[float]]:
    """The caps of each level, finest first, and channel: the `QUANTILE` of its log standard deviations on these images.

    Level by level, from coarse to fine, as in decoding; each level's sample keeps to its caps before the next is measured.

    Args:
      model: the model.
      lr_images: natural photographs, LR, [h, w, 3] in [0, 1].
    """
    images = [tf.constant(image[None], tf.float32) for image in lr_images]
    caps = [[float("inf")] * latent.channels for latent in model.latents]
    for level in range(len(caps), 0, -1):
        values = [of_image[level] for image in images if level in (of_image := _log_stds(model, caps, image))]
        if values:
            caps[level - 1] = [float(cap) for cap in np.quantile(np.concatenate(values), QUANTILE, axis=0)]
    return caps


def share_at_caps(model: FlowModel, caps: Sequence[Sequence[float]], lr: np.ndarray, side: int = 128) -> float:
    """How much of an LR picture is unlike photographs: the share of its standard deviations that the caps cut, in [0, 1].

    The photographs that the caps are measured on have 1 - `QUANTILE`.

    Args:
      model: a super-resolution model with conditional Gaussians.
      caps: of `measure_caps`, or the model's own `log_std_caps`.
      lr: [h, w, 3] in [0, 1].
      side: of the blocks that a larger picture is cut into, LR pixels; each is looked at by itself.
    """
    cut = total = 0
    for top, left in itertools.product(range(0, lr.shape[0], side), range(0, lr.shape[1], side)):
        block = tf.constant(lr[None, top : top + side, left : left + side], tf.float32)
        for level, log_std in _log_stds(model, caps, block).items():
            cut += int(np.sum(log_std >= np.asarray(caps[level - 1], np.float32)))
            total += log_std.size
    return cut / total


def _log_stds(model: FlowModel, caps: Sequence[Sequence[float]], lr: tf.Tensor) -> dict[int, np.ndarray]:
    """Of each level that has a Gaussian [pixels, channels], while a sample is decoded that keeps to these caps."""
    flow, seen = cast(HierarchicalFlow, model.guarded_flow(caps)), dict[int, tf.Tensor]()
    lr = tf.pad(lr, [[0, 0], *([0, -side % flow.lr_multiple] for side in lr.shape[1:3]), [0, 0]], "SYMMETRIC")
    for level, parts in enumerate(flow.levels, start=1):
        if parts.gaussian is not None:
            parts.gaussian.observe(functools.partial(seen.__setitem__, level))
    flow.decode(lr, model.draw_latents(lr.shape, TEMPERATURE, SEED))
    return {level: log_std.numpy().reshape(-1, log_std.shape[-1]) for level, log_std in seen.items()}
