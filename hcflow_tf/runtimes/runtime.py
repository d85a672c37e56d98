"""What runs a model: the interface that Keras weights, the bicubic baseline and every exported file share."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import numpy as np

from hcflow_tf.models.complexity import MAX_OVERLAP
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.support.latents import Latent

DEFAULT_DECODE_BYTES = 120_000
"""Memory per LR pixel where the runtime does not know its network: that of the largest recipe."""


class Runtime(abc.ABC):
    """A model that decodes and, where it can, encodes; NumPy arrays in and out.

    Images are [batch, height, width, 3] float32 RGB in [0, 1]; latents [z_1, z_2, ...] of the shapes that
    `hcflow_tf.support.latents.latent_shapes` gives.

    Attributes:
      name: what the user called it.
      makes_lr: whether it makes the LR images that it restores (rescaling); else it takes bicubic ones (super-resolution).
      scale: width of hr over width of lr.
      latents: channels and resolution of z_1, z_2, ...; empty if the runtime takes no latents (always temperature 0).
      fixed_lr_size: (height, width) of the only LR image that it takes, or None for any.
      can_encode: whether `encode` works.
      has_likelihood: whether `log_prob` works.
      overlap: LR pixels by which neighbouring tiles are to overlap on each side.
      decode_bytes: estimate of the memory that decoding takes, bytes per LR pixel.
      on_gpu: whether it computes on a GPU where TensorFlow sees one; else on the CPU always.
    """

    name: str
    makes_lr: bool = False
    scale: int
    latents: tuple[Latent, ...]
    fixed_lr_size: tuple[int, int] | None = None
    can_encode: bool = True
    has_likelihood: bool = False
    overlap: int = MAX_OVERLAP
    decode_bytes: int = DEFAULT_DECODE_BYTES
    on_gpu: bool = False

    @property
    def latent_channels(self) -> tuple[int, ...]:
        """Channels of z_1, z_2, ..."""
        return tuple(latent.channels for latent in self.latents)

    @property
    def lr_multiple(self) -> int:
        """What height and width of LR images must be divisible by: the coarsest latents may be smaller than lr."""
        return max([1, *(latent.divisor // self.scale for latent in self.latents)])

    @property
    def can_downscale(self) -> bool:
        """Whether `downscale` works."""
        return self.can_encode

    @abc.abstractmethod
    def decode(self, lr: np.ndarray, latents: Sequence[np.ndarray]) -> np.ndarray:
        """Returns hr [batch, scale h, scale w, 3], not clipped, of lr [batch, h, w, 3]."""

    def encode(self, hr: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Returns lr, neither clipped nor rounded, and the latents; height and width of hr divisible by the scale.

        Raises:
          HCFlowError: this runtime has no encoder.
        """
        raise HCFlowError(f"{self.name} has no encoder: export one, or give the model directory")

    def downscale(self, hr: np.ndarray) -> np.ndarray:
        """Only the LR image of `encode`, which may be much cheaper."""
        return self.encode(hr)[0]

    def log_prob(self, hr: np.ndarray, lr: np.ndarray) -> np.ndarray:
        """log p(hr | lr), [batch], nats.

        Raises:
          HCFlowError: this runtime computes no likelihood.
        """
        raise HCFlowError(f"{self.name} computes no likelihood: give the model directory")
