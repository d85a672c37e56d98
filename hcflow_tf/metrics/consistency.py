"""Consistency of a super-resolved image with the LR image it came from."""

from __future__ import annotations

import numpy as np

from hcflow_tf.data.resize import imresize
from hcflow_tf.metrics.images import check_pair
from hcflow_tf.metrics.psnr import psnr
from hcflow_tf.support.errors import HCFlowError


def consistency(sr: np.ndarray, hr: np.ndarray, scale: int) -> float:
    """PSNR in dB between both images after MATLAB's bicubic downscaling by `scale`; no border is cropped.

    Args:
      sr: [H, W, C], uint8.
      hr: the same shape, uint8.
      scale: the factor that `sr` was upscaled by.

    Raises:
      HCFlowError: the shapes differ, or one is not uint8.
    """
    sr, hr = check_pair(sr, hr)
    if sr.dtype != np.uint8 or hr.dtype != np.uint8:
        raise HCFlowError(f"consistency compares 8-bit images, got {sr.dtype} and {hr.dtype}")
    return psnr(imresize(sr, 1 / scale), imresize(hr, 1 / scale))
