"""What NIQE and BRISQUE share: gray pictures, locally normalised luminance, its half-size, and fits of its histogram.

All in float64: in float32 the local variance loses half its digits.
"""

from __future__ import annotations

import functools
import math
import pathlib

import numpy as np

from hcflow_tf.metrics.images import check_image
from hcflow_tf.metrics.luma import rgb_to_y
from hcflow_tf.support.errors import HCFlowError

PARAMETERS = pathlib.Path(__file__).parent / "parameters"
"""The fitted models that ship, with their notices."""

SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Rows and columns between the neighbours whose products are fitted."""

_GRAY_WEIGHTS = np.array([0.298936021293775, 0.587043074451121, 0.114020904255103])
"""First row of the inverse of MATLAB's YIQ matrix."""
_TIE = 1e-9
"""Y of 8-bit colours that is x.5 in exact arithmetic rounds up whatever the last bit of the sum is."""
_RADIUS = 3
_NOISE = 1e-10
"""Below it a normalised value is 0: in a constant window it is 0 in exact arithmetic and, in floating point, rounding noise
whose sign and share would decide the fits."""


def rgb_to_gray(image: np.ndarray) -> np.ndarray:
    """MATLAB's `rgb2gray` of an RGB image [H, W, 3], uint8 or float on the 0..255 scale: [H, W] float64, rounded half up.

    Raises:
      HCFlowError: not such an image.
    """
    return np.floor(_check_rgb(image).astype(np.float64) @ _GRAY_WEIGHTS + 0.5)


def rgb_to_rounded_y(image: np.ndarray) -> np.ndarray:
    """`luma.rgb_to_y`, rounded half up, as MATLAB's `rgb2ycbcr` gives it for 8-bit images.

    Raises:
      HCFlowError: not an RGB image.
    """
    return np.floor(rgb_to_y(image) + (0.5 + _TIE))


def normalize(gray: np.ndarray, padding: str) -> np.ndarray:
    """Mean-subtracted, contrast-normalised values (g - m) / (s + 1), m and s of a Gaussian window of 7 x 7, sigma 7/6.

    Args:
      gray: [H, W] float64 on the 0..255 scale.
      padding: beyond the border, "edge" repeats the last pixel, "constant" is 0.
    """
    mean, square = _blur(gray, padding), _blur(gray * gray, padding)
    normalized = (gray - mean) / (np.sqrt(np.abs(square - mean * mean)) + 1)
    normalized[np.abs(normalized) < _NOISE] = 0
    return normalized


def products(normalized: np.ndarray) -> list[np.ndarray]:
    """Products of [..., H, W] with its neighbours at `SHIFTS`, wrapping round."""
    return [normalized * np.roll(normalized, shift, axis=(-2, -1)) for shift in SHIFTS]


def fit_asymmetric(values: np.ndarray) -> tuple[float, float, float]:
    """Shape and left and right root mean square of an asymmetric generalised Gaussian, by moments (Lasmar et al. 2009).

    Without values below 0, or above, that side's root mean square is NaN and the shape the smallest of the table.
    """
    squares = values * values
    left, right = (_root_mean(squares[side]) for side in (values < 0, values > 0))
    if math.isnan(left) or math.isnan(right):
        return float(_table()[0][0]), left, right
    ratio = left / right
    moments = np.abs(values).mean() ** 2 / squares.mean()
    target = moments * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    return _nearest_shape(target), left, right


def fit_symmetric(values: np.ndarray) -> tuple[float, float]:
    """Shape and mean square of a generalised Gaussian, by moments. `values` are not all 0."""
    square = float((values * values).mean())
    shapes, ratios = _table()
    return float(shapes[np.argmin(np.abs(1 / ratios - square / np.abs(values).mean() ** 2))]), square


def _check_rgb(image: np.ndarray) -> np.ndarray:
    image = check_image(image)
    if image.ndim != 3 or image.shape[-1] != 3:
        raise HCFlowError(f"expected an RGB image [H, W, 3], got shape {image.shape}")
    return image


@functools.cache
def _window() -> np.ndarray:
    weights = np.exp(-(np.arange(-_RADIUS, _RADIUS + 1) ** 2) / (2 * (7 / 6) ** 2))
    return weights / weights.sum()


def _blur(image: np.ndarray, padding: str) -> np.ndarray:
    height, width = image.shape
    padded = np.pad(image, _RADIUS, mode=padding)  # type: ignore[call-overload]
    rows = sum(weight * padded[offset : offset + height] for offset, weight in enumerate(_window()))
    return sum(weight * rows[:, offset : offset + width] for offset, weight in enumerate(_window()))


def _root_mean(squares: np.ndarray) -> float:
    return math.sqrt(squares.mean()) if squares.size else math.nan


@functools.cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    """Shapes 0.2, 0.201, ..., 10 and Gamma(2/a)^2 / (Gamma(1/a) Gamma(3/a)) of each."""
    shapes = np.arange(200, 10_001) / 1000
    ratios = [math.exp(2 * math.lgamma(2 / a) - math.lgamma(1 / a) - math.lgamma(3 / a)) for a in shapes]
    return shapes, np.array(ratios)


def _nearest_shape(ratio: float) -> float:
    shapes, ratios = _table()
    return float(shapes[np.argmin(np.abs(ratios - ratio))])
