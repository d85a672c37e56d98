"""Tiny training runs for the tests of the step, the loop, and replicas."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from tiny import photograph

from hcflow_tf.config import Config, parse_config
from hcflow_tf.models.systems import make_model
from hcflow_tf.models.trained_model import TrainedModel
from hcflow_tf.training.step import TrainingStep
from hcflow_tf.training.strategy import make_strategy

TINY_MODEL = """
model: {scale: 2, main_steps: 1, conditional_steps: 1, main_width: 4, conditional_width: 4,
        rrdb_blocks: [1, 1], rrdb_features: 4, rrdb_growth: 2}
"""
BASE = f"""{TINY_MODEL}
data: {{crop_size: 16, cache: memory}}
optimizer: {{learning_rate: 1e-2}}
training: {{steps: 4, batch_size: 4, validate_every: 2, checkpoint_every: 2, log_every: 1}}
"""
RESCALING = (
    "model.task=rescaling",
    "losses.nll=0",
    "losses.pixel=1",
    "losses.pixel_temperature=1",
    "losses.lr=0.05",
    "losses.latent=1e-5",
    "losses.separate_updates=false",
)


def make_config(*overrides: str) -> Config:
    """The tiny run, changed."""
    return parse_config(BASE, overrides)


def batch(count: int = 4, size: int = 16, scale: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """hr [count, size, size, 3] and its averaged lr, float32 in [0, 1]."""
    hr = np.stack([photograph(size, size, seed=index) for index in range(count)]).astype(np.float32) / 255
    return hr, hr.reshape(count, size // scale, scale, size // scale, scale, 3).mean(axis=(2, 4))


def make_step(config: Config, devices: str = "cpu", *, dtype: str = "float32") -> tuple[TrainedModel, TrainingStep]:
    """A model with fixed, non-trivial first weights, and its training step, over some devices."""
    strategy = make_strategy(devices)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = make_model(config.model, recompute=config.training.recompute is True, dtype=dtype)
    rng = np.random.default_rng(0)
    model.initialise_actnorm(*batch(4, config.data.crop_size, config.model.scale))
    for variable in model.weights:
        variable.assign(variable.numpy() + 0.01 * rng.standard_normal(variable.shape))
    return model, TrainingStep(config, model, strategy)


def distribute(strategy: tf.distribute.Strategy, array: np.ndarray) -> tf.Tensor:
    """Each replica's part of a global batch."""
    local = len(array) // strategy.num_replicas_in_sync

    def part(context: tf.distribute.ValueContext) -> tf.Tensor:
        first = local * context.replica_id_in_sync_group
        return tf.constant(array[first : first + local])

    return strategy.experimental_distribute_values_from_function(part)


def run_steps(config: Config, devices: str = "cpu", steps: int = 3) -> tuple[list, np.ndarray, TrainingStep]:
    """What the steps returned, the weights afterwards, and the training step."""
    model, step = make_step(config, devices)
    hr, lr = (distribute(step.strategy, array) for array in batch())
    values = [step(hr, lr, index) for index in range(steps)]
    step.optimizer.write_weights()
    return values, weights_of(model), step


def weights_of(network: keras.Model) -> np.ndarray:
    """All trainable weights as one vector."""
    return np.concatenate([variable.numpy().ravel() for variable in network.trainable_variables])
