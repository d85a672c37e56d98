"""The checks that metrics make at their door."""

from __future__ import annotations

import numpy as np

from hcflow_tf.support.errors import HCFlowError


class UndefinedError(HCFlowError):
    """A metric has no value for this image: too small for it, or without the structure that it measures."""


def check_image(image: np.ndarray) -> np.ndarray:
    """Returns `image`, an array [H, W] or [H, W, C], uint8 or finite floats on the 0..255 scale.

    Raises:
      HCFlowError: another type or shape, an empty image, or values that are not finite.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or not image.size:
        raise HCFlowError(f"expected an image [H, W] or [H, W, C] with pixels, got an array of shape {image.shape}")
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise HCFlowError(f"expected an image of uint8 or of floats on the 0..255 scale, got {image.dtype}")
    if not np.isfinite(image).all():
        raise HCFlowError("expected an image of finite values, got NaN or infinity")
    return image


def check_pair(image: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns both images after `check_image`.

    Raises:
      HCFlowError: as `check_image`, or the shapes differ.
    """
    image, reference = check_image(image), check_image(reference)
    if image.shape != reference.shape:
        raise HCFlowError(f"cannot compare an image of shape {image.shape} with a reference of shape {reference.shape}")
    return image, reference


def crop_border(image: np.ndarray, border: int) -> np.ndarray:
    """Returns a view of `image` [H, W, ...] without `border` pixels at each side.

    Raises:
      HCFlowError: nothing would be left.
    """
    height, width = image.shape[:2]
    if min(height, width) <= 2 * border:
        raise HCFlowError(f"cannot crop {border} pixels at each border of an image of {height} x {width} pixels")
    return image[border : height - border, border : width - border]
