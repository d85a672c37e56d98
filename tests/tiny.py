"""Tiny models with non-trivial weights, for tests: zero-initialised layers make every wrong inverse look right."""

from __future__ import annotations

import keras
import numpy as np

from hcflow_tf.config import ModelConfig
from hcflow_tf.models.hcflow import HCFlow


def tiny_config(task: str, scale: int = 4, *, width: int = 4, padding: str = "zeros") -> ModelConfig:
    """The smallest hyperparameters that still have every part."""
    return ModelConfig(
        task=task,
        scale=scale,
        main_steps=2,
        conditional_steps=1,
        main_width=width,
        conditional_width=width,
        rrdb_blocks=(1, 1),
        rrdb_features=width,
        rrdb_growth=width // 2,
        padding=padding,
    )


def tiny_model(task: str, *, scale: int = 4, dtype: str = "float32", padding: str = "zeros") -> HCFlow:
    """A model of some ten thousand weights, the same each time; its images stay near [0, 1]."""
    keras.utils.set_random_seed(0)
    model = HCFlow(tiny_config(task, scale, width=6, padding=padding), dtype=dtype)
    rng = np.random.default_rng(0)
    model.initialise_actnorm(rng.random((1, 8 * scale, 8 * scale, 3), np.float32))
    for variable in model.weights:
        variable.assign_add(0.03 * rng.standard_normal(variable.shape))
    return model


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """[height, width, 3] uint8: smooth, with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [127 + 90 * np.sin(0.05 * (1 + c) * x + 0.07 * y + c + seed) for c in range(3)]
    return np.clip(np.stack(waves, -1) + rng.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)
