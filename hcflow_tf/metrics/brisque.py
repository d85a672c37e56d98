"""BRISQUE: how disturbed a picture looks, by a regression on its statistics (Mittal, Moorthy and Bovik 2012)."""

from __future__ import annotations

import functools
import math

import numpy as np

from hcflow_tf.data.resize import imresize
from hcflow_tf.metrics import natural_scenes
from hcflow_tf.metrics.images import UndefinedError

MIN_SIDE = 14
"""Pixels: the window of 7 x 7 fits into the half-size picture."""


def brisque(image: np.ndarray, *, release_rounding: bool = False) -> float:
    """BRISQUE with the model of the LIVE release, of MATLAB's `rgb2gray`, rounded, no border cropped; no reference.

    About 0 (good) to 100 (bad), not clipped. Constant areas count as in `niqe.niqe`.

    Args:
      image: [H, W, 3] RGB, uint8 or float on the 0..255 scale, H and W at least `MIN_SIDE`.
      release_rounding: pass the features through text of six digits as the release does, to compare with its scores;
        changes them by up to 4e-4.

    Raises:
      HCFlowError: not such an image.
      UndefinedError: it is too small, or so constant that its statistics are not defined.
    """
    gray = natural_scenes.rgb_to_gray(image)
    if min(gray.shape) < MIN_SIDE:
        raise UndefinedError(f"BRISQUE needs at least {MIN_SIDE} x {MIN_SIDE} pixels, got {gray.shape[0]} x {gray.shape[1]}")
    found = features(gray)
    if not np.isfinite(found).all():
        raise UndefinedError("BRISQUE is not defined for an image of constant areas only")
    model = _model()
    if release_rounding:
        found = np.array([float(f"{value:.6f}") for value in found])
    scaled = -1 + 2 * (found - model["feature_min"]) / (model["feature_max"] - model["feature_min"])
    if release_rounding:
        scaled = np.array([float(f"{value:.6g}") for value in scaled])
    distances = np.square(model["support_vectors"] - scaled).sum(axis=1)
    return float(model["coefficients"] @ np.exp(-model["gamma"] * distances) - model["rho"])


def features(gray: np.ndarray) -> np.ndarray:
    """36 features of a gray picture [H, W], NaN where undefined: 18 of the picture, 18 of its half-size."""
    return np.array([value for picture in (gray, imresize(gray, 0.5)) for value in _scale_features(picture)])


def _scale_features(picture: np.ndarray) -> list[float]:
    normalized = natural_scenes.normalize(picture, "constant")
    if not normalized.any():
        return [math.nan] * 18
    values = [*natural_scenes.fit_symmetric(normalized)]
    for product in natural_scenes.products(normalized):
        shape, left, right = natural_scenes.fit_asymmetric(product)
        log_1, log_2, log_3 = (math.lgamma(k / shape) for k in (1, 2, 3))
        mean = (right - left) * math.exp(log_2 - log_1 + (log_1 - log_3) / 2)
        values += [shape, mean, left**2, right**2]
    return values


@functools.cache
def _model() -> dict[str, np.ndarray]:
    with np.load(natural_scenes.PARAMETERS / "brisque.npz") as file:
        return {name: file[name] for name in file.files if name != "license"}
