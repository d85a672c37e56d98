"""LR images as cameras and web sites leave them: blurred a little, noisy, compressed by JPEG."""

from __future__ import annotations

import io

import numpy as np
import scipy.ndimage
import scipy.special
from PIL import Image

from hcflow_tf.config import Degradation


def degrade(
    lr: np.ndarray, *, blur: float = 0.0, noise: float = 0.0, jpeg: int | None = None, seed: int | np.random.SeedSequence = 0
) -> np.ndarray:
    """An LR image blurred, then made noisy, then compressed, in this order, each only if it is asked for.

    Args:
      lr: [height, width, 3] uint8 RGB.
      blur: standard deviation of the Gaussian, LR pixels.
      noise: standard deviation of the noise, of 255, drawn for each value by itself.
      jpeg: JPEG's quality, 1 to 100 (libjpeg's scale, its chroma subsampling 4:2:0).
      seed: of the noise.

    Returns:
      uint8 RGB of the same shape.
    """
    values = lr.astype(np.float64)
    if blur:
        values = scipy.ndimage.gaussian_filter(values, (blur, blur, 0), mode="mirror")
    if noise:
        bits = np.random.PCG64(seed).random_raw(lr.size).reshape(lr.shape)
        values += noise * scipy.special.ndtri((bits >> np.uint64(12)) / 2.0**52 + 2.0**-53)
    image = np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)
    if jpeg is None:
        return image
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=jpeg)
    return np.asarray(Image.open(buffer).convert("RGB"))


def degrade_at_random(lr: np.ndarray, config: Degradation, seed: tuple[int, ...]) -> np.ndarray:
    """`degrade` in the share of cases and with the strengths that `config` says, drawn evenly; a function of its arguments."""
    sequence = np.random.SeedSequence(seed)
    chance, *drawn = sequence.generate_state(4, np.uint32).tolist()
    if chance >= config.share * 2**32:
        return lr
    blur, noise, quality = (value / 2**32 for value in drawn)
    jpeg = None
    if config.jpeg is not None:
        worst, best = config.jpeg
        jpeg = worst + int(quality * (best - worst + 1))
    return degrade(lr, blur=blur * config.blur, noise=noise * config.noise, jpeg=jpeg, seed=sequence)
