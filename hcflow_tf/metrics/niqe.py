"""NIQE: distance of a picture's statistics from those of pristine photographs (Mittal, Soundararajan and Bovik 2013)."""

from __future__ import annotations

import functools
import math

import numpy as np

from hcflow_tf.data.resize import imresize
from hcflow_tf.metrics import natural_scenes
from hcflow_tf.metrics.images import UndefinedError, crop_border

BLOCK = 96
"""Side of the blocks, pixels; what is left at the right and bottom does not count."""


def niqe(image: np.ndarray) -> float:
    """NIQE by the official convention: MATLAB's `rgb2gray`, rounded, no border cropped. Lower is better; no reference.

    Values near 0 are set to 0 (`natural_scenes.normalize`), so that pictures with constant areas have one score on every
    machine; the MATLAB release's score of such a picture carries its own rounding noise, up to a few hundredths.

    Args:
      image: [H, W, 3] RGB, uint8 or float on the 0..255 scale, at least 96 x 192 pixels (one way or the other).

    Raises:
      HCFlowError: not such an image.
      UndefinedError: it is too small, or fewer than two of its blocks are free of constant areas.
    """
    return _score(natural_scenes.rgb_to_gray(image))


def niqe_y(image: np.ndarray, border: int = 0) -> float:
    """NIQE as super-resolution papers print it: of Y, rounded, after cropping `border` pixels; else as `niqe`.

    The two differ by several tenths: print which.
    """
    return _score(crop_border(natural_scenes.rgb_to_rounded_y(image), border))


def features(gray: np.ndarray) -> np.ndarray:
    """36 features of each block of a gray picture [H, W]: [blocks, 36], NaN where undefined, blocks in columns' order."""
    rows, columns = (side // BLOCK for side in gray.shape)
    gray = gray[: rows * BLOCK, : columns * BLOCK]
    scales = []
    for picture, side in ((gray, BLOCK), (imresize(gray, 0.5), BLOCK // 2)):
        grid = natural_scenes.normalize(picture, "edge").reshape(rows, side, columns, side)
        blocks = grid.transpose(2, 0, 1, 3).reshape(-1, side, side)
        scales.append(np.array([_block_features(block) for block in blocks]))
    return np.concatenate(scales, axis=1)


def _block_features(block: np.ndarray) -> list[float]:
    shape, left, right = _fit(block)
    values = [shape, (left + right) / 2]
    for product in natural_scenes.products(block):
        shape, left, right = _fit(product)
        mean = (right - left) * math.exp(math.lgamma(2 / shape) - math.lgamma(1 / shape))
        values += [shape, mean, left, right]
    return values


def _fit(values: np.ndarray) -> tuple[float, float, float]:
    """Shape and the two scale parameters."""
    shape, left, right = natural_scenes.fit_asymmetric(values)
    factor = math.exp((math.lgamma(1 / shape) - math.lgamma(3 / shape)) / 2)
    return shape, left * factor, right * factor


def _score(gray: np.ndarray) -> float:
    height, width = gray.shape
    if (height // BLOCK) * (width // BLOCK) < 2:
        raise UndefinedError(f"NIQE needs two blocks of {BLOCK} x {BLOCK} pixels, got an image of {height} x {width}")
    found = features(gray)
    complete = found[~np.isnan(found).any(axis=1)]
    if len(complete) < 2:
        raise UndefinedError(f"NIQE is not defined: {len(found) - len(complete)} of {len(found)} blocks have constant areas only")
    mean, covariance = _pristine()
    difference = mean - np.nanmean(found, axis=0)
    inverse = np.linalg.pinv((covariance + np.cov(complete, rowvar=False)) / 2)
    return math.sqrt(max(float(difference @ inverse @ difference), 0.0))


@functools.cache
def _pristine() -> tuple[np.ndarray, np.ndarray]:
    with np.load(natural_scenes.PARAMETERS / "niqe.npz") as file:
        return file["mu"], file["cov"]
