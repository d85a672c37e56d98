"""What the runtimes of exported files share: the names of inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hcflow_tf.support.latents import Latent, halving_latents

LR, HR = "lr", "hr"

PROBE_SIZE = 16
"""LR pixels of the image that is decoded to learn the scale of a file that does not say it."""


def latent_name(number: int) -> str:
    """Name of z_1, z_2, ..., already scaled by the temperature."""
    return f"latents_{number}"


def latent_names(count: int) -> list[str]:
    """Names of all latents."""
    return [latent_name(number) for number in range(1, count + 1)]


def stated_latents(channels: Sequence[int], divisors: Sequence[int] | None) -> tuple[Latent, ...]:
    """The latents of a file from their channels, and from what it says of their resolution; the first versions said nothing."""
    if divisors is None:
        return halving_latents(channels)
    return tuple(Latent(int(count), int(divisor)) for count, divisor in zip(channels, divisors, strict=True))


def decoder_inputs(lr: np.ndarray, latents: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The decoder's inputs by name, float32."""
    parts = dict(zip(latent_names(len(latents)), latents, strict=True))
    return {LR: np.asarray(lr, np.float32), **{name: np.asarray(z, np.float32) for name, z in parts.items()}}
