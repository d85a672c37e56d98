"""Muon: Keras's own on kernels, Adam everywhere else; a run of it goes on."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_runs import batch, distribute, make_config, make_step

from hcflow_tf.training.muon import Muon, orthogonalised
from hcflow_tf.training.step import TrainingStep

SHAPES = [(3, 3, 4, 6), (6,), (1, 1, 2, 30), (3, 3, 4, 6), (5, 5)]
"""Of a tall and a wide kernel, a bias, another kernel of the first's shape, and a 1x1 matrix."""


def random_arrays(seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.normal(size=shape).astype(np.float32) for shape in SHAPES]


def as_vector(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays])


def steps_of(optimizer: keras.optimizers.Optimizer, start: list[np.ndarray], count: int = 4) -> list[np.ndarray]:
    """The arrays after some steps with random gradients, the variables being one vector."""
    vector = keras.Variable(as_vector(start))
    optimizer.build([vector])
    for seed in range(count):
        optimizer.apply([tf.constant(as_vector(random_arrays(seed + 1)))], [vector])
    parts = np.split(vector.numpy(), np.cumsum([array.size for array in start])[:-1])
    return [part.reshape(array.shape) for part, array in zip(parts, start, strict=True)]


def test_kernels_take_the_steps_of_keras_muon_and_all_else_adams():
    start, rates = random_arrays(0), {"learning_rate": 0.01, "beta_1": 0.95, "beta_2": 0.99, "epsilon": 1e-8}
    ours = steps_of(Muon(**rates, shapes=SHAPES), start)
    adam = steps_of(keras.optimizers.Adam(**rates), start)
    oracle = keras.optimizers.Muon(0.01, momentum=0.95, weight_decay=None, adam_weight_decay=None)
    matrices = [keras.Variable(array.reshape(-1, array.shape[-1])) for array in start]
    oracle.build(matrices)
    for seed in range(4):
        gradients = [tf.constant(array.reshape(-1, array.shape[-1])) for array in random_arrays(seed + 1)]
        oracle.apply(gradients, matrices)
    for index, shape in enumerate(SHAPES):
        if len(shape) == 4:
            expected = matrices[index].numpy().reshape(shape)
            assert np.abs(expected - adam[index]).max() > 1e-3  # they differ, so one that mixed them up would be seen
        else:
            expected = adam[index]
        np.testing.assert_allclose(ours[index], expected, atol=2e-6, err_msg=str(shape))


@pytest.mark.parametrize("shape", [(2, 36, 6), (2, 6, 36)])
def test_singular_values_move_to_about_one_and_their_vectors_stay(shape):
    matrices = np.random.default_rng(0).normal(size=shape)
    left, _, right = np.linalg.svd(matrices, full_matrices=False)
    ours = orthogonalised(tf.constant(matrices)).numpy()
    middle = np.swapaxes(left, 1, 2) @ ours @ np.swapaxes(right, 1, 2)
    values = np.diagonal(middle, axis1=1, axis2=2)
    assert 0.6 < values.min() < values.max() < 1.3
    np.testing.assert_allclose(middle, values[:, :, None] * np.eye(6), atol=1e-12)


def test_a_kernel_without_a_gradient_stays():
    np.testing.assert_array_equal(orthogonalised(tf.zeros([1, 9, 4])), np.zeros([1, 9, 4]))


def first_losses(step: TrainingStep, count: int) -> list[float]:
    hr, lr = (distribute(step.strategy, array) for array in batch(4, step.config.data.crop_size, step.config.model.scale))
    return [step(hr, lr, index)[0]["nll"] for index in range(count)]


def test_a_run_goes_on_as_if_it_had_not_stopped():
    config = make_config("optimizer.kind=muon")
    _, whole = make_step(config)
    _, resumed = make_step(config)
    first = first_losses(whole, 2)
    resumed.optimizer.load_state(whole.optimizer.state)
    second = first_losses(whole, 2)
    assert first_losses(resumed, 2) == second
    assert second[-1] < first[0]


def test_the_discriminator_stays_with_adam():
    start = ("training.start_from=a-model", "training.steps=2000", "data.crop_size=32")
    config = make_config("optimizer.kind=muon", *start, "losses.adversarial=0.1", "losses.discriminator_width=4")
    _, step = make_step(config)
    assert isinstance(step.optimizer.keras_optimizer, Muon)
    assert not isinstance(step.discriminator_optimizer.keras_optimizer, Muon)
