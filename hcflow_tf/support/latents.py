"""Of what shape the latents of a model are, for images of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Latent(NamedTuple):
    """One of the latents z_1, z_2, ... of a model.

    Attributes:
      channels: how many it has.
      divisor: height and width are those of hr divided by this.
    """

    channels: int
    divisor: int


def latent_shapes(lr_height: Any, lr_width: Any, scale: int, latents: Sequence[Latent]) -> list[list[Any]]:
    """[height, width, channels] of each latent for an LR image of this size (integers or tensors) and a model of this scale."""
    return [[lr_height * scale // latent.divisor, lr_width * scale // latent.divisor, latent.channels] for latent in latents]


def halving_latents(channels: Sequence[int]) -> tuple[Latent, ...]:
    """Latents of these channels, the first half as large as hr, each further one half as large as the one before."""
    return tuple(Latent(count, 2**level) for level, count in enumerate(channels, start=1))
