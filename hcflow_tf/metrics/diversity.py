"""Diversity of the images drawn for one LR image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hcflow_tf.metrics.images import check_image
from hcflow_tf.support.errors import HCFlowError


def diversity(draws: np.ndarray | Sequence[np.ndarray]) -> float:
    """Standard deviation over the draws at each pixel and channel, averaged over the image, on the 0..255 scale.

    The population standard deviation (divided by the number of draws n); multiply by sqrt(n / (n - 1)) for the
    sample one. 0 means that all draws are equal.

    Args:
      draws: at least two images of one shape, [n, H, W, C], uint8 or float on the 0..255 scale.

    Raises:
      HCFlowError: fewer than two draws, their shapes differ, or one is no image (`check_image`).
    """
    draws = [check_image(draw) for draw in draws]
    shapes = {np.shape(draw) for draw in draws}
    if len(draws) < 2 or len(shapes) > 1:
        raise HCFlowError(f"diversity needs at least two images of one shape, got {len(draws)} of shapes {sorted(shapes)}")
    return float(np.std(np.asarray(draws, np.float64), axis=0).mean())
