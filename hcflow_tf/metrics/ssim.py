"""Structural similarity (Wang, Bovik, Sheikh and Simoncelli 2004)."""

from __future__ import annotations

import functools

import numpy as np

from hcflow_tf.metrics.images import check_pair
from hcflow_tf.support.errors import HCFlowError

WINDOW = 11
SIGMA = 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_TILE = 48
"""A tile stays in the processor's cache, and its matrix products are too small for BLAS to start threads,
which on a busy machine wait for each other far longer than they compute."""


def ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """Mean SSIM over the valid region and, for several channels, over the channels.

    As in the original: Gaussian window of 11 x 11, sigma 1.5, K1 = 0.01, K2 = 0.03, range 255, population
    (not sample) variances, and only windows that lie wholly inside the image. Computed in float64.

    Args:
      image: [H, W] or [H, W, C], uint8 or float on the 0..255 scale, H and W at least 11.
      reference: the same shape; the order of the two does not matter.

    Returns:
      A number in [-1, 1], 1 for identical images.

    Raises:
      HCFlowError: the shapes differ, one is not such an image, or they are smaller than the window.
    """
    image, reference = check_pair(image, reference)
    height, width = image.shape[:2]
    if min(height, width) < WINDOW:
        raise HCFlowError(f"SSIM needs at least {WINDOW} x {WINDOW} pixels, got {height} x {width}")
    image, reference = (np.moveaxis(array.reshape(height, width, -1), -1, 0) for array in (image, reference))
    total = 0.0
    for top in range(0, height - WINDOW + 1, _TILE):
        rows = slice(top, top + _TILE + WINDOW - 1)
        for left in range(0, width - WINDOW + 1, _TILE):
            columns = slice(left, left + _TILE + WINDOW - 1)
            total += _similarity(image[:, rows, columns], reference[:, rows, columns])
    return total / (len(image) * (height - WINDOW + 1) * (width - WINDOW + 1))


def _similarity(image: np.ndarray, reference: np.ndarray) -> float:
    """Sum of the SSIM map of one tile [C, H, W]."""
    maps = np.empty((4, *image.shape))
    x, y, squares, product = maps
    x[...], y[...] = image, reference
    np.multiply(x, y, out=product)
    np.add(x * x, y * y, out=squares)
    mean_x, mean_y, squares, product = _blur_matrix(x.shape[1]) @ maps @ _blur_matrix(x.shape[2]).T
    mean_product, mean_squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    numerator = (2 * mean_product + _C1) * (2 * (product - mean_product) + _C2)
    return float(np.sum(numerator / ((mean_squares + _C1) * (squares - mean_squares + _C2))))


@functools.lru_cache(maxsize=_TILE)
def _blur_matrix(size: int) -> np.ndarray:
    """[size - 10, size]: row i holds the normalised Gaussian window that starts at i, so `B @ x` filters downwards."""
    weights = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    matrix = np.zeros((size - WINDOW + 1, size))
    for offset, weight in enumerate(weights / weights.sum()):
        np.fill_diagonal(matrix[:, offset:], weight)
    return matrix
