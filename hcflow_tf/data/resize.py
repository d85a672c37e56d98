"""MATLAB's `imresize(image, scale)` with its default bicubic kernel, to the bit on 8-bit images."""

from __future__ import annotations

import math

import numpy as np

from hcflow_tf.support.errors import HCFlowError

_KERNEL_WIDTH = 4
_TIE = 1e-9
"""Sums that are x.5 in exact arithmetic round up whatever the last bit of the float64 sum is (scales like 1/3)."""


def imresize(image: np.ndarray, scale: float) -> np.ndarray:
    """Resizes an image as MATLAB's `imresize(image, scale)` does: antialiased bicubic, symmetric borders.

    Integer images are rounded half up and clipped after the pass over the rows and again after the pass over the
    columns, as MATLAB does; float images keep every value, overshoot included, and are computed in float64.

    Args:
      image: [height, width] or [height, width, channels], uint8, uint16 or floating point, any value range.
      scale: above 0, for example 1 / 4 or 4; both sides are scaled by it.

    Returns:
      [ceil(height * scale), ceil(width * scale)] with the channels and dtype of `image`.

    Raises:
      HCFlowError: the shape, dtype or scale is none of the above.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise HCFlowError(f"imresize: expected a non-empty [height, width] or [height, width, channels], got {image.shape}")
    if image.dtype not in (np.uint8, np.uint16) and image.dtype.kind != "f":
        raise HCFlowError(f"imresize: expected uint8, uint16 or floating point, got {image.dtype}")
    if not (math.isfinite(scale) and scale > 0):
        raise HCFlowError(f"imresize: scale must be above 0, got {scale}")
    height, width = (math.ceil(side * scale) for side in image.shape[:2])
    return _resize(image, height, width, scale, scale)


def imresize_to(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """MATLAB's `imresize(image, [height width])`: as `imresize`, each side by its own scale."""
    image = np.asarray(image)
    return _resize(image, height, width, height / image.shape[0], width / image.shape[1])


def _resize(image: np.ndarray, height: int, width: int, vertical: float, horizontal: float) -> np.ndarray:
    columns_first = _resize_rows(image, height, vertical).swapaxes(0, 1)
    return np.ascontiguousarray(_resize_rows(columns_first, width, horizontal).swapaxes(0, 1))


def _resize_rows(image: np.ndarray, rows_out: int, scale: float) -> np.ndarray:
    """Resizes the first axis."""
    indices, weights = _contributions(image.shape[0], rows_out, scale)
    rows = np.ascontiguousarray(image).reshape(image.shape[0], -1)
    output = np.empty((len(indices), rows.shape[1]), image.dtype)
    # One output row at a time: its few input rows stay in the processor's cache, and the sum is one matrix product.
    for position, (index, weight) in enumerate(zip(indices, weights, strict=True)):
        row = weight @ rows[index].astype(np.float64)
        if image.dtype.kind == "u":
            row = np.floor(row + (0.5 + _TIE)).clip(0, np.iinfo(image.dtype).max)
        output[position] = row
    return output.reshape(-1, *image.shape[1:])


def _contributions(length: int, length_out: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The input indices and the weights of every output position, both [length_out, taps]."""
    shrink = min(scale, 1.0)
    width = _KERNEL_WIDTH / shrink
    # Positions count from 1, as in MATLAB, so that the floating point arithmetic is the same.
    centre = np.arange(1, length_out + 1) / scale + 0.5 * (1 - 1 / scale)
    left = np.floor(centre - width / 2)
    indices = left[:, None] + np.arange(math.ceil(width) + 2)
    weights = _cubic(shrink * (centre[:, None] - indices))
    weights /= weights.sum(axis=1, keepdims=True)
    mirrored = (indices.astype(np.int64) - 1) % (2 * length)
    mirrored = np.where(mirrored < length, mirrored, 2 * length - 1 - mirrored)
    used = np.any(weights != 0, axis=0)
    return mirrored[:, used], weights[:, used]


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -0.5."""
    x = np.abs(x)
    inner = 1.5 * x**3 - 2.5 * x**2 + 1
    outer = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, inner, np.where(x <= 2, outer, 0.0))
