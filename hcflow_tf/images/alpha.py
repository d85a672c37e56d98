"""Colours under transparent pixels, which nobody sees and every filter would mix into those that one sees."""

from __future__ import annotations

import numpy as np


def bleed(rgb: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """The colours, with each invisible pixel given that of the nearest visible one.

    Args:
      rgb: [height, width, 3].
      alpha: [height, width], 0 where nothing is seen; None: all is seen.

    Returns:
      [height, width, 3]; `rgb` itself where all or nothing is visible.
    """
    if alpha is None:
        return rgb
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return rgb
    from scipy import ndimage

    nearest = ndimage.distance_transform_edt(hidden, return_distances=False, return_indices=True)
    return rgb[tuple(nearest)]
