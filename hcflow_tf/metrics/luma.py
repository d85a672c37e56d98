"""Luma of an RGB image."""

from __future__ import annotations

import numpy as np

from hcflow_tf.metrics.images import check_image
from hcflow_tf.support.errors import HCFlowError

_WEIGHTS = np.array([65.481, 128.553, 24.966]) / 255


def rgb_to_y(image: np.ndarray) -> np.ndarray:
    """Y of YCbCr as ITU-R BT.601 and MATLAB's `rgb2ycbcr` define it: 16 for black, 235 for white; not rounded.

    Args:
      image: [H, W, 3] RGB, uint8 or float on the 0..255 scale.

    Returns:
      [H, W] float64. MATLAB rounds it for uint8 input; the field's PSNR and SSIM are computed before rounding.

    Raises:
      HCFlowError: not such an image.
    """
    image = check_image(image)
    if image.ndim != 3 or image.shape[-1] != 3:
        raise HCFlowError(f"expected an RGB image [H, W, 3], got shape {image.shape}")
    return image.astype(np.float64) @ _WEIGHTS + 16
