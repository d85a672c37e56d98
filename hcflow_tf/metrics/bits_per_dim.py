"""Bits per dimension of a dequantised image, and the released code's own figure."""

from __future__ import annotations

import math
from typing import Any, TypeVar

Number = TypeVar("Number")
"""float, NumPy array or TensorFlow tensor: the formulas only multiply and add."""


def bits_per_dim(log_prob: Number, height: int, width: int, channels: int = 3, *, quantization_levels: int = 256) -> Number:
    """-(log p - D ln q) / (D ln 2), D = height * width * channels: what coding one value costs, in bits.

    `log p - D ln q` bounds the log-probability of the quantised image from below (Theis et al. 2016, section 3.1).

    Args:
      log_prob: nats; log-density of the image in [0, 1] after adding u / q, u ~ U[0, 1), any shape.
      height: of the HR image.
      width: of the HR image.
      channels: of the HR image.
      quantization_levels: q, 256 for 8-bit images.
    """
    return _bits(log_prob, height * width * channels, quantization_levels)


def released_nll(log_prob: Number, height: int, width: int, *, quantization_levels: int = 256) -> Number:
    """-(log p - H W ln q) / (H W ln 2): the released training code's figure, which its loss weights are tuned on.

    Per pixel where bits per dimension are per value, and with the dequantisation constant of one channel:
    not a code length. For three channels it is 3 * bits_per_dim - 2 log2(q). Arguments as `bits_per_dim`.
    """
    return _bits(log_prob, height * width, quantization_levels)


def _bits(log_prob: Any, count: int, levels: int) -> Any:
    return (count * math.log(levels) - log_prob) / (count * math.log(2))
