"""Every bijector, from one table of constructors: inverse, log-determinant, TFP's API, shapes, cost and lifetime."""

from __future__ import annotations

import dataclasses
import functools
import gc
import math
import pathlib
import textwrap
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from tiny import tiny_config

from hcflow_tf import bijectors as fb
from hcflow_tf.bijectors.linear import log_abs_det
from hcflow_tf.bijectors.log_scales import arctangent, bounded_above, sigmoid, sigmoid_scale, unbounded
from hcflow_tf.bijectors.squeeze import haar, slow_channels
from hcflow_tf.config import IRNConfig, ModelConfig, SRFlowConfig, SystemConfig
from hcflow_tf.models.systems import make_model
from hcflow_tf.models.trained_model import TrainedModel
from hcflow_tf.networks.layers import ActNorm, InvertibleMatrix
from hcflow_tf.networks.linear_map import LinearMap

tfb, tfd = tfp.bijectors, tfp.distributions

ROUND_TRIP = {"float64": 1e-10, "float32": 2e-5}
"""Largest error of inverse(forward(x)) and forward(inverse(y)), values of order 1."""
LOG_DET_FLOAT64 = 1e-8
LOG_DET_FLOAT32 = 1e-6
"""Largest error of a float32 log-determinant against float64, per dimension."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A bijector with random weights, the shape of one input image, and the channels of its condition."""

    dtype: str
    bijector: fb.FlowBijector
    shape: tuple[int, int, int]
    condition_channels: int | None = None
    model: TrainedModel | None = None
    needs_lr: bool = False

    def conditions(self, batch_shape: tuple[int, ...]) -> dict[str, tf.Tensor]:
        if self.needs_lr:
            sides = [side // self.model.scale for side in self.shape[:2]]
            return {"lr": normal((*batch_shape, *sides, 3), self.dtype, seed=7)}
        if self.condition_channels is None:
            return {}
        height, width, _ = self.shape
        return {"condition": normal((*batch_shape, height, width, self.condition_channels), self.dtype, seed=7)}

    def x(self, batch_shape: tuple[int, ...], seed: int = 1) -> tf.Tensor:
        return normal((*batch_shape, *self.shape), self.dtype, seed)

    def y(self, batch_shape: tuple[int, ...]):
        """A random output, not the image of a known input."""
        parts = self.bijector.forward_event_shape(tf.TensorShape(self.shape))
        if isinstance(parts, list):
            return [normal((*batch_shape, *part), self.dtype, seed) for seed, part in enumerate(parts, start=2)]
        return normal((*batch_shape, *parts), self.dtype, seed=2)


def normal(shape: tuple[int, ...], dtype: str, seed: int) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).standard_normal(shape), dtype)


def variable(shape: tuple[int, ...], dtype: str, seed: int, scale: float = 0.3) -> tf.Variable:
    return tf.Variable(scale * normal(shape, dtype, seed))


def network(inputs: int, outputs: int, dtype: str, seed: int) -> Callable[..., tf.Tensor]:
    kernel = variable((3, 3, inputs, outputs), dtype, seed)
    return lambda *x: tf.nn.conv2d(tf.nn.tanh(tf.concat(x, axis=-1)), kernel, 1, "SAME")


def actnorm(channels: int, dtype: str) -> ActNorm:
    layer = ActNorm(channels, dtype=dtype)
    layer.build(None)
    layer.bias.assign(0.3 * normal((channels,), dtype, 11))
    layer.log_scale.assign(0.3 * normal((channels,), dtype, 12))
    return layer


def rotation(channels: int, dtype: str) -> InvertibleMatrix:
    layer = InvertibleMatrix(channels, dtype=dtype)
    layer.build(None)
    layer.matrix.assign(tf.eye(channels, dtype=dtype) + 0.3 * normal((channels, channels), dtype, 13))
    return layer


def linear(channels: int, dtype: str, **options) -> fb.Linear:
    return fb.Linear(LinearMap(actnorm(channels, dtype), rotation(channels, dtype), **options))


def hierarchy(task: str, scale: int, dtype: str, **options) -> Case:
    return hierarchy_of(ModelConfig(**tiny_config(task, scale).model_dump() | options), dtype)


def hierarchy_of(config: SystemConfig, dtype: str) -> Case:
    model = make_model(config, dtype=dtype)
    rng = np.random.default_rng(3)
    for weight in model.weights:
        start = np.eye(*weight.shape) if weight.name == "matrix" else 0.0  # not Keras' rotation: it has no seed
        weight.assign(start + 0.05 * rng.standard_normal(weight.shape))
    return Case(dtype, model.flow, (8, 8, 3), model=model, needs_lr=model.flow.needs_lr)


def srflow(scale: int) -> SRFlowConfig:
    """Level 1 of x4 splits, level 2 has no latents."""
    return SRFlowConfig(
        scale=scale, plain_steps=1, steps=1, width=4, rrdb_blocks=2, rrdb_features=3, rrdb_growth=2, stacked_blocks=(1, 0)
    )


TABLE: dict[str, Callable[[str], Case]] = {
    "squeeze": lambda d: Case(d, fb.Squeeze(), (4, 6, 3)),
    "haar": lambda d: Case(d, fb.Squeeze(haar(3)), (4, 6, 3)),
    "actnorm": lambda d: Case(d, fb.Linear(LinearMap(actnorm(3, d))), (4, 2, 3)),
    "linear": lambda d: Case(d, linear(5, d), (4, 2, 5)),
    "actnorm_after_haar": lambda d: Case(d, fb.Linear(LinearMap(actnorm(8, d), before=haar(2))), (4, 2, 8)),
    "linear_after_haar": lambda d: Case(d, linear(8, d, before=haar(2)), (4, 2, 8)),
    "affine_coupling": lambda d: Case(d, fb.AffineCoupling(network(2, 6, d, 14)), (4, 2, 5)),
    "conditional_coupling": lambda d: Case(d, fb.ConditionalAffineCoupling(network(5, 6, d, 15)), (4, 2, 5), 3),
    "conditional_coupling_sigmoid": lambda d: Case(
        d, fb.ConditionalAffineCoupling(network(5, 6, d, 15), log_scale=sigmoid_scale), (4, 2, 5), 3
    ),
    "affine_injector": lambda d: Case(d, fb.AffineInjector(network(3, 10, d, 21), log_scale=sigmoid_scale), (4, 2, 5), 3),
    "low_frequency_affine": lambda d: Case(d, fb.AffineCoupling(network(3, 8, d, 16), passed=3), (4, 2, 7)),
    "low_frequency_shift": lambda d: Case(d, fb.ShiftCoupling(network(4, 3, d, 17)), (4, 2, 7)),
    "invertible_block": lambda d: Case(
        d, fb.InvertibleBlock(network(4, 3, d, 24), network(3, 4, d, 25), network(3, 4, d, 26), log_scale=sigmoid(0.8)), (4, 2, 7)
    ),
    "gaussian": lambda d: Case(d, fb.ConditionalGaussian(network(3, 8, d, 18), log_std=unbounded), (4, 2, 4), 3),
    "gaussian_bounded": lambda d: Case(d, fb.ConditionalGaussian(network(3, 8, d, 18), log_std=arctangent()), (4, 2, 4), 3),
    "gaussian_bounded_above": lambda d: Case(
        d, fb.ConditionalGaussian(network(3, 8, d, 18), log_std=bounded_above(0.5)), (4, 2, 4), 3
    ),
    "flow_step": lambda d: Case(d, fb.FlowStep([linear(4, d), fb.AffineCoupling(network(2, 4, d, 19))]), (4, 2, 4)),
    "conditional_flow_step": lambda d: Case(
        d,
        fb.ConditionalFlowStep([linear(4, d), fb.ConditionalAffineCoupling(network(5, 4, d, 20))]),
        (4, 2, 4),
        3,
    ),
    "injected_flow_step": lambda d: Case(
        d,
        fb.ConditionalFlowStep(
            [
                linear(4, d),
                fb.AffineInjector(network(3, 8, d, 22), log_scale=sigmoid_scale),
                fb.ConditionalAffineCoupling(network(5, 4, d, 23), log_scale=sigmoid_scale),
            ]
        ),
        (4, 2, 4),
        3,
    ),
    "super_resolution_x2": lambda d: hierarchy("super_resolution", 2, d),
    "super_resolution_x4": lambda d: hierarchy("super_resolution", 4, d),
    "super_resolution_x8": lambda d: hierarchy("super_resolution", 8, d),
    "rescaling_x2": lambda d: hierarchy("rescaling", 2, d),
    "rescaling_x4": lambda d: hierarchy("rescaling", 4, d),
    "rescaling_x8": lambda d: hierarchy("rescaling", 8, d),
    "irn_x2": lambda d: hierarchy_of(IRNConfig(scale=2, blocks=(2,), growth=4), d),
    "irn_x4": lambda d: hierarchy_of(IRNConfig(scale=4, blocks=(1, 2), growth=4), d),
    "srflow_x2": lambda d: hierarchy_of(srflow(2), d),
    "srflow_x4": lambda d: hierarchy_of(srflow(4), d),
    "no_conditions_x4": lambda d: hierarchy("super_resolution", 4, d, conditions=("nothing", "nothing")),
    "own_images_x4": lambda d: hierarchy("super_resolution", 4, d, conditions=("own", "own")),
    "given_lr_x4": lambda d: hierarchy("super_resolution", 4, d, conditions=("own_and_below", "lr")),
    "latents_only_x4": lambda d: hierarchy("super_resolution", 4, d, conditions=("own_and_below", "lr"), lr_is_output=False),
    "latents_of_nothing_x4": lambda d: hierarchy("super_resolution", 4, d, conditions=("nothing", "nothing"), lr_is_output=False),
}


@functools.cache
def made(name: str, dtype: str = "float64") -> Case:
    return TABLE[name](dtype)


every = pytest.mark.parametrize("name", TABLE)
layers = pytest.mark.parametrize("name", [name for name in TABLE if "_x" not in name])
hierarchies = pytest.mark.parametrize("name", [name for name in TABLE if "_x" in name])
light = [name for name in TABLE if "_x" not in name or name in ("super_resolution_x2", "rescaling_x4")]
"""Without most hierarchies, where a test of what the base class does would repeat itself at length."""
with_networks = pytest.mark.parametrize(
    "name", [name for name in light if name not in ("squeeze", "haar") and "linear" not in name and "actnorm" not in name]
)


def assert_close(actual, expected, tolerance: float) -> None:
    tf.nest.assert_same_structure(actual, expected)
    for a, b in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        assert a.shape == b.shape
        assert np.abs(np.asarray(a) - np.asarray(b)).max() <= tolerance


def copied(value):
    return tf.nest.map_structure(tf.identity, value)


# The mathematics.


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float64") for name in TABLE), *((name, "float32") for name in (*light, "super_resolution_x8"))]
)
def test_round_trip(name, dtype):
    case = made(name, dtype)
    bijector, conditions, x, y = case.bijector, case.conditions((2,)), case.x((2,)), case.y((2,))
    assert_close(bijector.inverse(copied(bijector.forward(x, **conditions)), **conditions), x, ROUND_TRIP[dtype])
    assert_close(bijector.forward(copied(bijector.inverse(y, **conditions)), **conditions), y, ROUND_TRIP[dtype])


@every
def test_log_det_is_that_of_the_jacobian(name):
    case = made(name)
    x, conditions = case.x(()), case.conditions(())
    log_det = case.bijector.forward_log_det_jacobian(x, **conditions)
    y = case.bijector.forward(x, **conditions)
    jacobian = np.linalg.slogdet(full_jacobian(case, x, conditions))
    assert abs(log_det - jacobian.logabsdet) <= LOG_DET_FLOAT64
    assert abs(log_det + case.bijector.inverse_log_det_jacobian(copied(y), **conditions)) <= LOG_DET_FLOAT64
    if name not in ("squeeze", "low_frequency_shift"):
        assert abs(log_det) > 0.01  # else a forgotten term would pass


def full_jacobian(case: Case, x: tf.Tensor, conditions: dict[str, tf.Tensor]) -> np.ndarray:
    """dy/dx of one image, [n, n]: row i is the gradient of y's value i in the i-th of n copies of x."""
    size = int(tf.size(x))
    many = tf.repeat(x[None], size, axis=0)
    many_conditions = {key: tf.repeat(value[None], size, axis=0) for key, value in conditions.items()}
    with tf.GradientTape() as tape:
        tape.watch(many)
        y, _ = case.bijector.forward_and_log_det(many, **many_conditions)
        flat = tf.concat([tf.reshape(part, [size, -1]) for part in tf.nest.flatten(y)], axis=1)
        diagonal = tf.linalg.diag_part(flat)
    return tf.reshape(tape.gradient(diagonal, many), [size, size]).numpy()


@pytest.mark.parametrize("name", light)
def test_float32_log_det(name):
    reference, case = made(name), made(name, "float32")
    x, conditions = case.x((2,)), case.conditions((2,))
    _, log_det = case.bijector.forward_and_log_det(x, **conditions)
    wide = {key: tf.cast(value, tf.float64) for key, value in conditions.items()}
    _, expected = reference.bijector.forward_and_log_det(tf.cast(x, tf.float64), **wide)
    assert np.abs(np.asarray(log_det) - expected).max() <= LOG_DET_FLOAT32 * np.prod(case.shape)


def test_log_std_has_a_bound_above_only():
    raw = tf.reshape(tf.constant([-50.0, -5.0, 0.5, 2.0, 20.0, 1e6], tf.float64), [6, 1, 1, 1])
    gaussian = fb.ConditionalGaussian(
        lambda condition: tf.concat([tf.zeros_like(condition), condition], -1), log_std=bounded_above(0.5)
    )
    deviation = gaussian.inverse(tf.ones_like(raw), condition=raw)
    log_std = np.log(deviation).ravel()
    np.testing.assert_allclose(log_std, 0.5 - np.logaddexp(0, 0.5 - np.ravel(raw)), atol=1e-12)
    assert log_std[0] == pytest.approx(-50) and log_std[1] == pytest.approx(-5, abs=0.01)
    assert np.all(np.diff(log_std) > 0) and log_std[-1] <= 0.5


def test_squeeze_orders_channels_slowest_first():
    x = tf.reshape(tf.range(8.0), [1, 2, 2, 2])  # value = 4 dy + 2 dx + c
    np.testing.assert_array_equal(fb.Squeeze(slow_channels(2)).forward(x)[0, 0, 0], [0, 2, 4, 6, 1, 3, 5, 7])
    np.testing.assert_array_equal(fb.Squeeze().forward(x)[0, 0, 0], range(8))


def test_haar_of_one_block():
    block = tf.constant([[1.0, 2.0], [3.0, 5.0]])[None, :, :, None]  # p, q; r, s
    np.testing.assert_allclose(fb.Squeeze(haar(1)).forward(block)[0, 0, 0], [11 / 4, -3 / 4, -5 / 4, 1 / 4])


def test_the_example_of_the_documentation():
    page = (pathlib.Path(__file__).parents[1] / "docs/flow.md").read_text(encoding="utf-8")
    namespace = {}
    exec(textwrap.dedent(page.split("```python\n")[1].split("```")[0]), namespace)
    case = Case("float64", namespace["LeakyReLU"](0.3), (4, 2, 3))
    x = case.x(())
    log_det = case.bijector.forward_log_det_jacobian(x)
    assert abs(log_det - np.linalg.slogdet(full_jacobian(case, x, {})).logabsdet) <= LOG_DET_FLOAT64
    assert_close(case.bijector.inverse(copied(case.bijector.forward(x))), x, ROUND_TRIP["float64"])


# TFP's interface.


@pytest.mark.parametrize("name", light)
def test_tfp_interface_equals_the_primitives(name):
    case = made(name)
    bijector, conditions, x = case.bijector, case.conditions((2,)), case.x((2,))
    y, log_det = bijector.forward_and_log_det(x, **conditions)
    assert_close(bijector.forward(x, **conditions), y, 0)
    assert_close(bijector.forward_log_det_jacobian(x, **conditions), log_det, 0)
    back, inverse_log_det = bijector.inverse_and_log_det(y, **conditions)
    assert_close(bijector.inverse(copied(y), **conditions), back, 0)
    assert_close(bijector.inverse_log_det_jacobian(copied(y), **conditions), inverse_log_det, 0)
    inverted = tfb.Invert(bijector)
    assert_close(inverted.forward(copied(y), **conditions), back, 0)
    assert_close(inverted.inverse(x, **conditions), y, 0)
    assert_close(inverted.forward_log_det_jacobian(copied(y), **conditions), inverse_log_det, 0)


@pytest.mark.parametrize("name", light)
@pytest.mark.parametrize("batch_shape", [(), (3,), (2, 3)])
def test_batch_shapes(name, batch_shape):
    case = made(name)
    bijector, conditions, x = case.bijector, case.conditions(batch_shape), case.x(batch_shape)
    count = int(np.prod(batch_shape))
    flat = tf.reshape(x, [count, *case.shape])
    flat_conditions = {key: tf.reshape(value, [count, *value.shape[-3:]]) for key, value in conditions.items()}
    expected, expected_log_det = bijector.forward_and_log_det(flat, **flat_conditions)
    expected = tf.nest.map_structure(lambda part: tf.reshape(part, [*batch_shape, *part.shape[1:]]), expected)
    y = bijector.forward(x, **conditions)
    assert_close(y, expected, 1e-12)
    log_det = bijector.forward_log_det_jacobian(x, **conditions)
    assert_close(log_det, tf.reshape(expected_log_det, batch_shape), 1e-10)
    assert_close(bijector.inverse(copied(y), **conditions), x, 1e-10)
    assert_close(bijector.inverse_log_det_jacobian(copied(y), **conditions), -log_det, 1e-8)


def test_condition_broadcasts_over_samples():
    case = made("conditional_flow_step")
    x, condition = case.x((5, 2)), case.conditions((2,))["condition"]
    everywhere = tf.broadcast_to(condition, [5, *condition.shape])
    y = case.bijector.forward(x, condition=condition)
    assert_close(y, case.bijector.forward(copied(x), condition=everywhere), 1e-12)
    shared = tf.function(case.bijector.forward, autograph=False)
    specs = [tf.TensorSpec([None, *shape], tf.float64) for shape in (case.shape, condition.shape[1:])]
    unknown = tf.function(lambda x, condition: case.bijector.forward(x, condition=condition), specs, autograph=False)
    assert_close(unknown(x[:, 0], condition[:1]), shared(x[:, 0], condition=everywhere[:, 0]), 1e-12)


@pytest.mark.parametrize("name", light)
def test_unknown_sizes_inside_a_function(name):
    case = made(name)
    conditions, x = case.conditions((2,)), case.x((2,))
    names = list(conditions)

    def unknown(tensor: tf.Tensor) -> tf.TensorSpec:
        return tf.TensorSpec([None, None, None, tensor.shape[-1]], tensor.dtype)

    @functools.partial(tf.function, autograph=False, input_signature=[unknown(x), *map(unknown, conditions.values())])
    def there_and_back(x, *values):
        conditions = dict(zip(names, values, strict=True))
        y = case.bijector.forward(x, **conditions)
        log_det = case.bijector.forward_log_det_jacobian(x, **conditions)
        return y, log_det, case.bijector.inverse(copied(y), **conditions)

    y, log_det, back = there_and_back(x, *conditions.values())
    expected, expected_log_det = case.bijector.forward_and_log_det(x, **conditions)
    assert_close(y, expected, 1e-12)
    assert_close(log_det, expected_log_det, 1e-10)
    assert_close(back, x, 1e-10)


@every
def test_event_shapes(name):
    bijector, shape = made(name).bijector, made(name).shape
    output = tf.nest.map_structure(lambda part: part.shape, made(name).y(()))
    assert bijector.forward_event_shape(tf.TensorShape(shape)) == output
    assert bijector.inverse_event_shape(output) == tf.TensorShape(shape)
    static = bijector.forward_event_shape(tf.TensorShape([None, None, shape[-1]]))
    for part, expected in zip(tf.nest.flatten(static), tf.nest.flatten(output), strict=True):
        assert part.as_list() == [None, None, expected[-1]]
    dynamic = bijector.forward_event_shape_tensor(tf.constant(shape))
    for part, expected in zip(tf.nest.flatten(dynamic), tf.nest.flatten(output), strict=True):
        np.testing.assert_array_equal(part, expected)
    np.testing.assert_array_equal(bijector.inverse_event_shape_tensor(dynamic), shape)


@pytest.mark.parametrize("name", light)
@pytest.mark.parametrize("batch_shape", [(), (2,), (2, 3)])
def test_transformed_distribution(name, batch_shape):
    case = made(name)
    bijector, conditions = case.bijector, case.conditions(batch_shape)
    base = tfd.Independent(tfd.Normal(tf.zeros([*batch_shape, *case.shape], tf.float64), tf.ones([], tf.float64)), 3)
    distribution = tfd.TransformedDistribution(base, bijector)
    event_shape = tf.nest.map_structure(lambda part: part.shape, case.y(()))
    assert distribution.batch_shape == batch_shape
    assert distribution.event_shape == event_shape
    np.testing.assert_array_equal(distribution.batch_shape_tensor(), batch_shape)
    for part, expected in zip(tf.nest.flatten(distribution.event_shape_tensor()), tf.nest.flatten(event_shape), strict=True):
        np.testing.assert_array_equal(part, expected)
    y = distribution.sample((5,), seed=(1, 2), bijector_kwargs=conditions)
    for part, expected in zip(tf.nest.flatten(y), tf.nest.flatten(event_shape), strict=True):
        assert part.shape == (5, *batch_shape, *expected)
    log_prob = distribution.log_prob(copied(y), bijector_kwargs=conditions)
    assert log_prob.shape == (5, *batch_shape)
    x = bijector.inverse(copied(y), **conditions)
    expected = base.log_prob(x) - bijector.forward_log_det_jacobian(copied(x), **conditions)
    assert_close(log_prob, expected, 1e-8)
    value, value_log_prob = distribution.experimental_sample_and_log_prob((5,), seed=(1, 2), bijector_kwargs=conditions)
    assert_close(value, y, 1e-12)
    assert_close(value_log_prob, log_prob, 1e-8)


def chain() -> tuple[tfb.Chain, dict[str, dict[str, tf.Tensor]], tf.Tensor]:
    """Squeeze, linear map, conditional coupling, and the inverse of Haar; an input and its condition."""
    coupling = fb.ConditionalAffineCoupling(network(6 + 2, 12, "float64", 21), name="coupling")
    layers = [fb.Squeeze(), linear(12, "float64"), coupling, tfb.Invert(fb.Squeeze(haar(3)))]
    condition = normal((2, 2, 1, 2), "float64", 22)
    return tfb.Chain(list(reversed(layers))), {"coupling": {"condition": condition}}, normal((2, 4, 2, 3), "float64", 23)


def test_chain():
    composed, conditions, x = chain()
    expected, total = x, 0.0
    for layer in reversed(composed.bijectors):
        own = conditions.get(layer.name, {})
        total += layer.forward_log_det_jacobian(expected, **own)
        expected = layer.forward(expected, **own)
    y = composed.forward(x, **conditions)
    assert_close(y, expected, 1e-12)
    assert_close(composed.forward_log_det_jacobian(x, **conditions), total, 1e-10)
    assert_close(composed.inverse(copied(y), **conditions), x, 1e-10)
    assert_close(composed.inverse_log_det_jacobian(copied(y), **conditions), -total, 1e-8)
    assert composed.forward_event_shape(tf.TensorShape([4, 2, 3])) == tf.TensorShape([4, 2, 3])


def test_chain_refuses_a_condition_for_a_misspelt_bijector():
    composed, conditions, x = chain()
    with pytest.raises(TypeError, match="condition"):
        composed.forward(x, couplin=conditions["coupling"])  # TFP drops the unknown name


def test_instances_with_equal_parameters_do_not_share_values():
    x = made("actnorm").x((2,))
    layers = [ActNorm(3, dtype="float64") for _ in range(2)]
    for value, layer in enumerate(layers, start=1):
        layer.build(None)
        layer.bias.assign([value] * 3)
    bijectors = [fb.Linear(LinearMap(layer)) for layer in layers]
    plain = [bijector.forward(x) for bijector in bijectors]
    chained = [tfb.Chain([bijector]).forward(x) for bijector in bijectors]
    for bias, values in enumerate(zip(plain, chained, strict=True), start=1):
        for value in values:
            assert_close(value, x + bias, 1e-12)


# One pass.


@pytest.fixture
def convolutions(monkeypatch):
    """Counts the convolutions that run; every network of the table is made of them."""
    calls = []
    original = tf.nn.conv2d

    def counted(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(tf.nn, "conv2d", counted)

    def count(run: Callable[[], object]) -> int:
        calls.clear()
        kept = run()
        del kept
        return len(calls)

    return count


@with_networks
def test_value_and_log_det_cost_one_pass(name, convolutions):
    case = made(name)
    bijector, conditions = case.bijector, case.conditions((2,))
    once = convolutions(lambda: bijector.forward_and_log_det(case.x((2,)), **conditions))
    assert once == convolutions(lambda: bijector.inverse_and_log_det(case.y((2,)), **conditions)) > 0
    composed = tfb.Chain([bijector])
    by_name = {bijector.name: conditions} if conditions else {}
    base = tfd.Independent(tfd.Normal(tf.zeros([2, *case.shape], tf.float64), tf.ones([], tf.float64)), 3)
    distribution = tfd.TransformedDistribution(base, bijector)

    def both(value: Callable, log_det: Callable, argument, conditions: dict) -> Callable[[], tuple]:
        return lambda: (value(argument, **conditions), log_det(argument, **conditions))

    routes = {
        "forward": both(bijector.forward, bijector.forward_log_det_jacobian, case.x((2,)), conditions),
        "inverse": both(bijector.inverse, bijector.inverse_log_det_jacobian, case.y((2,)), conditions),
        "invert": both(tfb.Invert(bijector).forward, tfb.Invert(bijector).forward_log_det_jacobian, case.y((2,)), conditions),
        "log_prob": lambda: distribution.log_prob(case.y((2,)), bijector_kwargs=conditions),
        "sample_and_log_prob": lambda: distribution.experimental_sample_and_log_prob(bijector_kwargs=conditions),
    }
    if not isinstance(case.y(()), list):  # Chain takes no multipart bijector in its first place without a structure
        routes["chain"] = both(composed.forward, composed.forward_log_det_jacobian, case.x((2,)), by_name)
    assert {route: convolutions(run) for route, run in routes.items()} == dict.fromkeys(routes, once)


# Lifetime.


@pytest.mark.parametrize("name", light)
def test_no_traced_graph_stays_alive(name):
    case = made(name)
    distribution = tfd.TransformedDistribution(
        tfd.Independent(tfd.Normal(tf.zeros([2, *case.shape], tf.float64), tf.ones([], tf.float64)), 3), case.bijector
    )
    x, conditions, y = case.x((2,)), case.conditions((2,)), case.y((2,))

    def run(x):
        forward = case.bijector.forward(x, **conditions), case.bijector.forward_log_det_jacobian(x, **conditions)
        return forward, distribution.log_prob(y, bijector_kwargs=conditions)

    traced = tf.function(run, autograph=False).get_concrete_function(x)
    graph = weakref.ref(traced.graph)
    assert graph() is not None
    del traced
    gc.collect()
    assert graph() is None
    assert_close(case.bijector.forward(x, **conditions), case.bijector.forward_and_log_det(x, **conditions)[0], 0)


@pytest.mark.parametrize("name", light)
def test_no_eager_tensor_is_pinned(name):
    case = made(name)
    x, conditions = case.x((2,)), case.conditions((2,))
    y = case.bijector.forward(x, **conditions)
    log_det = case.bijector.forward_log_det_jacobian(x, **conditions)
    kept = [weakref.ref(tensor) for tensor in (*tf.nest.flatten(y), log_det, *conditions.values())]
    del y, log_det, conditions
    gc.collect()
    assert [tensor() for tensor in kept] == [None] * len(kept)  # x and the bijector are alive
    kept = weakref.ref(x)
    del x
    gc.collect()
    assert kept() is None


def test_results_do_not_pile_up_on_a_long_lived_input():
    case = made("conditional_coupling")
    x = case.x((2,))
    for _ in range(5):
        case.bijector.forward(x, **case.conditions((2,)))
    assert len(x._hcflow_passes) == 1


def test_a_new_weight_counts_once_the_old_value_is_gone():
    layer = ActNorm(3)
    layer.build(None)
    bias = layer.bias
    bijector, x = fb.Linear(LinearMap(layer)), tf.ones([1, 2, 2, 3])
    y = bijector.forward(x)
    bias.assign([1.0, 2.0, 3.0])
    assert bijector.forward(x) is y  # the documented rule
    assert_close(bijector.forward_and_log_det(x)[0], x + bias.value, 0)  # a primitive never remembers
    del y
    assert_close(bijector.forward(x), x + bias.value, 0)


# Gradients.


@hierarchies
def test_gradients_reach_every_weight(name):
    case = made(name)
    weights = {path: weight.value for path, weight in case.model.named_weights().items()}
    x, y, conditions = case.x((8,)), case.y((8,)), case.conditions((8,))
    # Those of an SRFlow model that make its RRDB network's own image, which its authors' files hold.
    unused = [path for path in weights if math.isinf(case.model.place_of(case.model.config, path).divisor)]
    assert len(unused) == (6 if name.startswith("srflow") else 0)

    def log_prob() -> tf.Tensor:
        latents = tfd.JointDistributionSequential(
            [tfd.Independent(tfd.Normal(tf.zeros_like(part), tf.ones([], tf.float64)), 3) for part in y]
        )
        return tfd.TransformedDistribution(latents, tfb.Invert(case.bijector)).log_prob(x, bijector_kwargs=conditions)

    losses = {
        "encode": lambda: [tf.reduce_sum(tf.sin(part)) for part in case.bijector.forward_and_log_det(x, **conditions)[0]],
        "decode": lambda: tf.reduce_sum(tf.sin(case.bijector.inverse_and_log_det(y, **conditions)[0])),
        "log_prob": log_prob,
    }
    for direction, loss in losses.items():
        with tf.GradientTape() as tape:
            value = loss()
        gradients = tape.gradient(value, weights)
        dead = [path for path, gradient in gradients.items() if gradient is None or not np.any(np.asarray(gradient))]
        assert dead == unused, (direction, dead)


def test_gradient_of_log_abs_det():
    matrix = rotation(5, "float64").matrix.value
    with tf.GradientTape() as tape:
        value = log_abs_det(matrix)
    with tf.GradientTape() as reference_tape:
        reference = tf.linalg.slogdet(matrix).log_abs_determinant
    assert_close(value, reference, 1e-12)
    assert_close(tape.gradient(value, matrix), reference_tape.gradient(reference, matrix), 1e-12)


# Wrong shapes.


@every
def test_wrong_rank_and_channels_are_named(name):
    case = made(name)
    bijector, conditions = case.bijector, case.conditions((2,))
    with pytest.raises(ValueError, match=r"expected shape \[batch, height, width, .+\], got \(4, 2\)"):
        bijector.forward(tf.zeros([4, 2], tf.float64), **conditions)
    with pytest.raises(ValueError, match=r"expected shape .+ got <unknown>"):
        tf.function(lambda x: bijector.forward(x, **conditions), [tf.TensorSpec(None, tf.float64)], autograph=False)(0.0)
    if name == "squeeze":
        return  # any number of channels will do
    height, width, channels = case.shape
    with pytest.raises(ValueError, match=rf"expected .*channels|expected shape .*{channels}\], got"):
        bijector.forward(tf.zeros([2, height, width, 1], tf.float64), **conditions)


@pytest.mark.parametrize(("name", "divisor"), [("squeeze", 2), ("haar", 2), ("super_resolution_x4", 4), ("rescaling_x8", 8)])
def test_sizes_that_do_not_divide_are_named(name, divisor):
    with pytest.raises(ValueError, match=rf"height and width divisible by {divisor}, got shape \(2, 8, 5, 3\)"):
        made(name).bijector.forward(tf.zeros([2, 8, 5, 3], tf.float64))


@pytest.mark.parametrize("name", ["squeeze"])
def test_channels_that_do_not_unsqueeze_are_named(name):
    with pytest.raises(ValueError, match=r"channels divisible by 4, got shape \(2, 4, 4, 6\)"):
        made(name).bijector.inverse(tf.zeros([2, 4, 4, 6]))


@pytest.mark.parametrize("name", [name for name in TABLE if "conditional" in name or "gaussian" in name])
def test_conditions_are_required_and_fit(name):
    case = made(name)
    x, condition = case.x((2,)), case.conditions((2,))["condition"]
    for direction in (case.bijector.forward, case.bijector.inverse, case.bijector.forward_log_det_jacobian):
        with pytest.raises(TypeError, match=r"missing .* 'condition'"):
            direction(x)
        with pytest.raises(TypeError, match="unexpected keyword argument 'conditions'"):
            direction(x, conditions=condition)
        with pytest.raises(ValueError, match=r"condition of shape \[2, 4, 2, 'channels'\], got \(2, 3, 2, 3\)"):
            direction(x, condition=condition[:, :3])


@layers
def test_conditions_that_mean_nothing_are_refused(name):
    case = made(name)
    if case.condition_channels is None:
        with pytest.raises(TypeError, match="unexpected keyword argument 'condition'"):
            case.bijector.forward(case.x((2,)), condition=case.x((2,)))


@pytest.mark.parametrize("kind", [fb.AffineCoupling, fb.ShiftCoupling])
def test_wrong_network_output_is_named(kind):
    with pytest.raises(ValueError, match="channels from the network, got 5"):
        kind(lambda x: tf.zeros([2, 4, 2, 5])).forward(tf.zeros([2, 4, 2, 7]))


def test_latents_that_do_not_fit_are_named():
    case = made("super_resolution_x4")
    lr, z_1, z_2 = case.y((2,))
    with pytest.raises(ValueError, match=r"expected \[lr, z_1, z_2\], got 2 tensors"):
        case.bijector.inverse_and_log_det([lr, z_1])
    for wrong in (z_2[:, :1], z_2[..., :5], z_2[:1]):
        with pytest.raises(ValueError, match=r"expected z_2 of shape \[2, 2, 2, 21\] for lr \(2, 2, 2, 3\), got"):
            case.bijector.inverse_and_log_det([lr, z_1, wrong])


def test_empty_steps_and_hierarchies_are_refused():
    with pytest.raises(ValueError, match="at least one layer"):
        fb.FlowStep([])
    with pytest.raises(ValueError, match="at least one level"):
        fb.HierarchicalFlow([])


# Compilation.


@pytest.mark.parametrize("name", ["super_resolution_x2", "rescaling_x2"])
def test_xla_compiles_both_directions(name):
    case = made(name, "float32")
    x, y = case.x((1,)), case.y((1,))
    for run, value in ((case.bijector.forward_and_log_det, x), (case.bijector.inverse_and_log_det, y)):
        actual = tf.function(run, autograph=False, jit_compile=True)(value)
        for a, b in zip(tf.nest.flatten(actual), tf.nest.flatten(run(value)), strict=True):
            assert np.abs(a - b).max() <= 1e-5 * max(1.0, np.abs(b).max())
