"""The figures that every published table holds, for one image."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hcflow_tf.metrics.brisque import brisque
from hcflow_tf.metrics.images import UndefinedError, check_pair, crop_border
from hcflow_tf.metrics.lpips import NETWORK, Lpips
from hcflow_tf.metrics.luma import rgb_to_y
from hcflow_tf.metrics.niqe import niqe, niqe_y
from hcflow_tf.metrics.psnr import psnr
from hcflow_tf.metrics.ssim import ssim

VERSION = 1
"""Of the definitions; reports hold it, and those of different versions cannot stand in one table."""

_PAIRWISE: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"psnr": psnr, "ssim": ssim}
_ALONE: dict[str, Callable[[np.ndarray, int], float]] = {
    "niqe": lambda sr, scale: niqe(sr),
    "niqe_y": niqe_y,
    "brisque": lambda sr, scale: brisque(sr),
}
METRICS = (*_PAIRWISE, *NETWORK, *_ALONE)
"""What can be asked for."""
DEFAULT_METRICS = tuple(_PAIRWISE)


def image_metrics(
    sr: np.ndarray,
    hr: np.ndarray,
    scale: int,
    metrics: Sequence[str] = DEFAULT_METRICS,
    lpips: Mapping[str, Lpips] | None = None,
    undefined: Callable[[str], object] | None = None,
) -> dict[str, float]:
    """The figures of one image, by default PSNR (dB) and SSIM.

    PSNR and SSIM are of RGB and of Y, after cropping `scale` pixels at each border; NIQE on Y (`niqe_y`) likewise; LPIPS,
    NIQE and BRISQUE are of the whole image, as their releases have it.

    Args:
      sr: [H, W, 3] RGB, uint8, H and W at least 2 * scale + 11. (The published figures are of 8-bit images.)
      hr: the same shape.
      scale: the super-resolution factor.
      metrics: of `METRICS`.
      lpips: the measures lpips and lpips_vgg, where `metrics` names them; see `lpips.open_lpips`.
      undefined: is told of each figure that has no value for `sr`, which is then left out; None raises the error.

    Returns:
      psnr_rgb, ssim_rgb, psnr_y, ssim_y, lpips, lpips_vgg, niqe, niqe_y, brisque, those that were asked for; all finite.

    Raises:
      HCFlowError: the shapes differ, or the images are too small or not RGB.
      UndefinedError: LPIPS, NIQE or BRISQUE has no value for `sr`, and nobody is told.
    """
    cropped_sr, cropped_hr = (crop_border(image, scale) for image in check_pair(sr, hr))
    sr_y, hr_y = rgb_to_y(cropped_sr), rgb_to_y(cropped_hr)
    figures = {
        f"{name}_{colours}": measure(image, reference)
        for colours, image, reference in (("rgb", cropped_sr, cropped_hr), ("y", sr_y, hr_y))
        for name, measure in _PAIRWISE.items()
        if name in metrics
    }
    others = {name: functools.partial(measure, sr, hr) for name, measure in (lpips or {}).items()}
    others |= {name: functools.partial(measure, sr, scale) for name, measure in _ALONE.items()}
    for name, figure in others.items():
        if name in metrics:
            try:
                figures[name] = figure()
            except UndefinedError as error:
                if undefined is None:
                    raise
                undefined(f"no {name}: {error}")
    return figures
