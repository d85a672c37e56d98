"""How good a model is in the middle of its training: a few whole images, the figures people compare."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from hcflow_tf.images.images import quantize
from hcflow_tf.losses import round_straight_through
from hcflow_tf.metrics.bits_per_dim import bits_per_dim
from hcflow_tf.metrics.psnr import psnr
from hcflow_tf.metrics.report import image_metrics
from hcflow_tf.models.hcflow import HCFlow

SAMPLE_TEMPERATURE = 0.8
SEED = 0

Pair = tuple[str, np.ndarray, np.ndarray]


def validate(model: HCFlow, pairs: Iterable[Pair], quantization_levels: int = 256) -> tuple[dict[str, float], list[np.ndarray]]:
    """Measures the model on whole images.

    Super-resolution decodes the true LR image at temperature 0, rescaling its own LR image rounded to 8 bits.

    Args:
      model: the model.
      pairs: (name, hr, lr), uint8, hr a multiple of the scale.
      quantization_levels: q of the dequantisation noise, for bits per dimension.

    Returns:
      Means over the images of psnr_rgb, psnr_y, lr_psnr (dB), ssim_rgb, ssim_y and, for super-resolution, bits_per_dim;
      and of the first image [LR, temperature 0, temperature 0.8, HR], uint8, all in the size of HR.
    """
    rows: list[dict[str, float]] = []
    pictures: list[np.ndarray] = []
    for _, hr, lr in pairs:
        figures, images = _measure(model, hr, lr, quantization_levels)
        rows.append(figures)
        pictures = pictures or images
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}, pictures


def _measure(model: HCFlow, hr: np.ndarray, lr: np.ndarray, levels: int) -> tuple[dict[str, float], list[np.ndarray]]:
    hr_batch, lr_batch = _to_float(hr), _to_float(lr)
    encoded, figures = model.encode(hr_batch, lr_batch)[0], {}
    if encoded is not None:
        source = round_straight_through(encoded)
        figures["lr_psnr"] = psnr(_to_bytes(encoded), lr)
    if not model.config.makes_lr:
        source = lr_batch
        noise = np.random.default_rng(SEED).random(hr_batch.shape, np.float32) / levels
        log_prob = float(model.log_prob(hr_batch + noise, lr_batch)[0])
        figures["bits_per_dim"] = bits_per_dim(log_prob, *hr.shape[:2], quantization_levels=levels)
    best = _to_bytes(model.sample(source, temperature=0.0, seed=SEED))
    figures |= image_metrics(best, hr, model.scale)
    sample = _to_bytes(model.sample(source, temperature=SAMPLE_TEMPERATURE, seed=SEED))
    shown = _to_bytes(source).repeat(model.scale, axis=0).repeat(model.scale, axis=1)
    return figures, [shown, best, sample, hr]


def _to_float(image: np.ndarray) -> np.ndarray:
    return image[None].astype(np.float32) / 255.0


def _to_bytes(batch: tf.Tensor) -> np.ndarray:
    """NaN shows as 0: a sample that overflows early in a training must not end it."""
    return quantize(np.nan_to_num(np.asarray(batch)[0]))
