"""The figures that every published table holds, for one image."""

from __future__ import annotations

import numpy as np

from hcflow_tf.metrics.images import check_pair, crop_border
from hcflow_tf.metrics.luma import rgb_to_y
from hcflow_tf.metrics.psnr import psnr
from hcflow_tf.metrics.ssim import ssim


def image_metrics(sr: np.ndarray, hr: np.ndarray, scale: int) -> dict[str, float]:
    """PSNR (dB) and SSIM on RGB and on Y, after cropping `scale` pixels at each border.

    Args:
      sr: [H, W, 3] RGB, uint8, H and W at least 2 * scale + 11. (The published figures are of 8-bit images.)
      hr: the same shape.
      scale: the super-resolution factor.

    Returns:
      psnr_rgb, ssim_rgb, psnr_y, ssim_y; all finite.

    Raises:
      HCFlowError: the shapes differ, or the images are too small or not RGB.
    """
    sr, hr = (crop_border(image, scale) for image in check_pair(sr, hr))
    sr_y, hr_y = rgb_to_y(sr), rgb_to_y(hr)
    return {"psnr_rgb": psnr(sr, hr), "ssim_rgb": ssim(sr, hr), "psnr_y": psnr(sr_y, hr_y), "ssim_y": ssim(sr_y, hr_y)}
