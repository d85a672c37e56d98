"""Convolutions in the Winograd domain: the same values and gradients, where they pay and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from hcflow_tf.config import parse_config
from hcflow_tf.losses import training_log_prob
from hcflow_tf.models.folded import InferenceModel
from hcflow_tf.models.systems import make_model
from hcflow_tf.networks import rrdb, winograd
from hcflow_tf.networks.coupling import LEAKY_SLOPE, dense_block
from hcflow_tf.networks.layers import convolve, repeated_border
from hcflow_tf.training.step import TrainingStep
from hcflow_tf.training.strategy import make_strategy

SIZES = [(8, 8), (5, 10), (7, 3)]
FEATURES, GROWTH = 32, 32


@pytest.fixture(autouse=True)
def _no_switch(monkeypatch):
    monkeypatch.delenv(winograd.SWITCH, raising=False)


def random_block(size: tuple[int, int], growth: int = GROWTH) -> tuple[tf.Tensor, list[tuple[tf.Tensor, tf.Tensor]]]:
    """An input and the five convolutions of a dense block."""
    rng = np.random.default_rng(0)
    affines = []
    for index in range(5):
        inputs, outputs = FEATURES + growth * index, growth if index < 4 else FEATURES
        kernel = rng.normal(0, 1 / np.sqrt(9 * inputs), (3, 3, inputs, outputs))
        affines.append((tf.constant(kernel, tf.float32), tf.constant(rng.normal(0, 0.5, outputs), tf.float32)))
    return tf.constant(rng.normal(size=(2, *size, FEATURES)), tf.float32), affines


def value_and_gradients(function, *inputs: tf.Tensor, open_size: bool = False) -> list[np.ndarray]:
    """Of a graph, with respect to all inputs, for an upstream gradient that is no constant."""

    def compute(*inputs: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            value = function(*inputs)
            loss = tf.reduce_sum(tf.sin(value))
        return [value, *tape.gradient(loss, inputs)]

    shapes = [[None, None, None, inputs[0].shape[-1]], *(tensor.shape for tensor in inputs[1:])]
    signature = [tf.TensorSpec(shape, tensor.dtype) for shape, tensor in zip(shapes, inputs, strict=True)] if open_size else None
    return [tensor.numpy() for tensor in tf.function(compute, input_signature=signature, autograph=False)(*inputs)]


def assert_close(actual: list[np.ndarray], expected: list[np.ndarray], tolerance: float = 1e-5) -> None:
    for index, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert a.shape == b.shape
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b), index


def direct(x: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
    """A dense block as its definition says."""
    for kernel, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        x = tf.concat([x, tf.nn.leaky_relu(tf.nn.conv2d(x, kernel, 1, "SAME") + bias, LEAKY_SLOPE)], axis=-1)
    return tf.nn.conv2d(x, weights[-2], 1, "SAME") + weights[-1]


def pairs(weights: tuple[tf.Tensor, ...]) -> list[tuple[tf.Tensor, tf.Tensor]]:
    return list(zip(weights[::2], weights[1::2], strict=True))


@pytest.mark.parametrize("open_size", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_dense_block_equals_direct_convolutions(size, open_size):
    x, affines = random_block(size)
    inputs = (x, *(tensor for affine in affines for tensor in affine))
    actual = value_and_gradients(
        lambda x, *weights: winograd.dense_block(pairs(weights), x, LEAKY_SLOPE), *inputs, open_size=open_size
    )
    expected = value_and_gradients(direct, *(tf.cast(tensor, tf.float64) for tensor in inputs))
    assert_close(actual, expected)


@pytest.mark.parametrize("open_size", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_convolution_equals_a_direct_one(size, open_size):
    x, [(kernel, bias), *_] = random_block(size)
    actual = value_and_gradients(lambda x, *affine: winograd.convolve(affine, x), x, kernel, bias, open_size=open_size)
    inputs = (tf.cast(tensor, tf.float64) for tensor in (x, kernel, bias))
    assert_close(actual, value_and_gradients(lambda x, kernel, bias: tf.nn.conv2d(x, kernel, 1, "SAME") + bias, *inputs))


def convolutions(function, *inputs: tf.Tensor, training: bool = True) -> int:
    """How many direct ones the graph of a function has, as part of a training step or not."""
    function = winograd.in_training()(function) if training else function
    graph = tf.function(function, autograph=False).get_concrete_function(*inputs).graph.as_graph_def()
    nodes = [*graph.node, *(node for nested in graph.library.function for node in nested.node_def)]
    return sum(node.op == "Conv2D" for node in nodes)


def test_only_where_it_pays(monkeypatch):
    def count(*, dtype: str = "float32", border=None, growth: int = GROWTH, training: bool = True) -> int:
        x, affines = random_block((8, 8), growth)
        inputs = [tf.cast(tensor, dtype) for tensor in (x, *(tensor for affine in affines for tensor in affine))]
        return convolutions(lambda x, *weights: dense_block(pairs(weights), x, border=border), *inputs, training=training)

    assert count() == 0
    assert (
        count(training=False)
        == count(dtype="float64")
        == count(dtype="bfloat16")
        == count(border=repeated_border)
        == count(growth=16)
        == 5
    )
    x, affines = random_block((8, 8))
    assert convolutions(lambda x: dense_block(affines, x), x) == 5, "constant weights, as an export has them"
    wide, kernel = tf.zeros([1, 8, 8, 64]), tf.zeros([3, 3, 64, 64])
    assert convolutions(lambda x, kernel: convolve((kernel, None), x), wide, kernel) == 0
    assert convolutions(lambda x, kernel: convolve((kernel, None), x), wide[..., :63], kernel[:, :, :63]) == 1
    monkeypatch.setenv(winograd.SWITCH, "0")
    assert count() == 5
    monkeypatch.delenv(winograd.SWITCH)
    monkeypatch.setattr(winograd, "_accelerated", lambda: True)
    assert count() == 5


CONFIG = parse_config("""
model: {task: super_resolution, scale: 2, main_steps: 1, conditional_steps: 1, main_width: 4, conditional_width: 64,
  rrdb_blocks: [1, 0], rrdb_features: 64, rrdb_growth: 32}
data: {train: {hr: photographs}}
losses: {nll: 1}
training: {steps: 1}
""")


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_of_a_model(recompute, monkeypatch):
    model = make_model(CONFIG.model, recompute=recompute)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign_add(0.02 * rng.standard_normal(variable.shape))
    hr = tf.constant(rng.random((2, 16, 16, 3)), tf.float32)
    lr = tf.nn.avg_pool2d(hr, 2, 2, "VALID")

    @winograd.in_training()
    def compute() -> list[tf.Tensor]:
        variables = [variable.value for variable in model.trainable_variables]
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(training_log_prob(model.computed_flow(), hr, lr)[0])
        return tape.gradient(loss, variables)

    def gradient() -> np.ndarray:
        rrdb._traced_rrdb.cache_clear()  # what is traced stays as it is
        return np.concatenate([gradient.numpy().ravel() for gradient in tf.function(compute, autograph=False)()])

    few, actual = convolutions(compute), gradient()
    monkeypatch.setenv(winograd.SWITCH, "0")
    rrdb._traced_rrdb.cache_clear()
    many, expected = convolutions(compute), gradient()
    assert many - few >= 15 + 2, "the dense blocks of an RRDB, and wide convolutions"
    assert np.linalg.norm(actual - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_training_step_is_computed_so_without_recomputation(recompute):
    rrdb._traced_rrdb.cache_clear()
    step = TrainingStep(CONFIG, make_model(CONFIG.model, recompute=recompute), make_strategy())
    called, original = [], winograd._Grid.transform
    with pytest.MonkeyPatch.context() as context:
        context.setattr(winograd._Grid, "transform", lambda grid, x: called.append(x) or original(grid, x))
        step(tf.zeros([1, 16, 16, 3]), tf.zeros([1, 8, 8, 3]), 0)
    assert not called if recompute else len(called) >= 10


def test_export_has_direct_convolutions():
    inference = InferenceModel(make_model(CONFIG.model))
    latents = inference.draw_latents([1, 8, 8, 3], 0.0, seed=0)
    assert convolutions(lambda lr: inference.decode(lr, latents), tf.zeros([1, 8, 8, 3])) >= 15
