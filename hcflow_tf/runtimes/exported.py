"""What the runtimes of exported files share: the names of inputs and outputs, and where the encoder lies."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

LR, HR = "lr", "hr"

PROBE_SIZE = 16
"""LR pixels of the image that is decoded to learn the scale of a file that does not say it."""


def latent_name(level: int) -> str:
    """Name of z_l, already scaled by the temperature."""
    return f"latents_{level}"


def latent_names(levels: int) -> list[str]:
    """Names of z_1, ..., z_L."""
    return [latent_name(level) for level in range(1, levels + 1)]


def encoder_path(path: pathlib.Path) -> pathlib.Path:
    """Where the encoder of a rescaling model lies: NAME_encoder.EXT beside NAME.EXT."""
    return path.with_name(f"{path.stem}_encoder{path.suffix}")


def decoder_inputs(lr: np.ndarray, latents: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The decoder's inputs by name, float32."""
    parts = dict(zip(latent_names(len(latents)), latents, strict=True))
    return {LR: np.asarray(lr, np.float32), **{name: np.asarray(z, np.float32) for name, z in parts.items()}}
