"""Peak signal-to-noise ratio."""

from __future__ import annotations

import math

import numpy as np

from hcflow_tf.metrics.images import check_pair

MAX_PSNR = 100.0
"""dB; what identical images get instead of infinity, so that means stay finite and reports stay valid JSON."""


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """PSNR in dB, 10 log10(255^2 / MSE) with the mean over all pixels and channels, at most `MAX_PSNR`.

    Args:
      image: [H, W] or [H, W, C], uint8 or float on the 0..255 scale.
      reference: the same shape; the order of the two does not matter.

    Raises:
      HCFlowError: the shapes differ, or one is not such an image.
    """
    image, reference = check_pair(image, reference)
    mse = float(np.mean(np.square(image.astype(np.float64) - reference)))
    return min(10 * math.log10(255.0**2 / mse), MAX_PSNR) if mse else MAX_PSNR
