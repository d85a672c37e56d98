"""The baseline: MATLAB's bicubic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hcflow_tf.data.resize import imresize
from hcflow_tf.images.images import quantize
from hcflow_tf.runtimes.runtime import Runtime

BICUBIC = "bicubic"
"""Its name as a model."""


class BicubicRuntime(Runtime):
    """The baseline: MATLAB's bicubic, up to decode and down to encode."""

    name = BICUBIC
    latents = ()
    overlap = 4
    decode_bytes = 8_000

    def __init__(self, scale: int = 4):
        self.scale = scale

    def decode(self, lr: np.ndarray, latents: Sequence[np.ndarray] = ()) -> np.ndarray:
        """Returns the enlarged lr; there are no latents."""
        return _bicubic(lr, self.scale)

    def encode(self, hr: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Returns the shrunk hr, and no latents."""
        return _bicubic(hr, 1 / self.scale), []


def _bicubic(images: np.ndarray, scale: float) -> np.ndarray:
    return np.stack([_bicubic_image(image, scale) for image in images])


def _bicubic_image(image: np.ndarray, scale: float) -> np.ndarray:
    """8-bit values are resized as MATLAB resizes uint8, rounding after each pass: published figures are of those."""
    eight_bit = quantize(image)
    if np.allclose(eight_bit / np.float32(255), image, rtol=0.0, atol=1e-6):
        return imresize(eight_bit, scale).astype(np.float32) / np.float32(255)
    return imresize(image, scale).astype(np.float32)
