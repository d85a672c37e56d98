"""The inference form equals the model, and is made of operations that every runtime has."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from hcflow_tf.bijectors.log_scales import portable_atan
from hcflow_tf.config import ModelConfig
from hcflow_tf.models.flow_model import LR_LOG_STD, gaussian_log_prob, latent_log_prob
from hcflow_tf.models.folded import InferenceModel
from hcflow_tf.models.hcflow import HCFlow
from hcflow_tf.networks.layers import before_upsampling, convolve, repeated_border

SMALL = {"main_width": 6, "conditional_width": 5, "rrdb_blocks": (1, 2), "rrdb_features": 6, "rrdb_growth": 3}
CONFIGS = {
    "sr_x8": ModelConfig(scale=8, main_steps=1, conditional_steps=2, **SMALL),
    "sr_x2": ModelConfig(scale=2, main_steps=1, conditional_steps=1, **SMALL),
    "sr_x2_unbounded": ModelConfig(scale=2, main_steps=1, conditional_steps=1, log_std_bound=None, **SMALL),
    "rescaling_x4": ModelConfig(task="rescaling", scale=4, main_steps=2, conditional_steps=2, **SMALL),
    "no_conditional_steps": ModelConfig(scale=4, main_steps=1, conditional_steps=0, **SMALL),
    "no_conditions": ModelConfig(scale=4, main_steps=1, conditional_steps=1, conditions=("nothing", "nothing"), **SMALL),
    "own_images": ModelConfig(scale=4, main_steps=1, conditional_steps=1, conditions=("own", "own"), **SMALL),
    "given_lr": ModelConfig(scale=4, main_steps=1, conditional_steps=1, conditions=("own_and_below", "lr"), **SMALL),
    "repeated_border": ModelConfig(scale=4, main_steps=1, conditional_steps=1, padding="replicate", **SMALL),
    "rescaling_repeated_border": ModelConfig(
        task="rescaling", scale=4, main_steps=2, conditional_steps=2, padding="replicate", **SMALL
    ),
    "latents_only": ModelConfig(scale=4, main_steps=1, conditional_steps=1, conditions=("lr", "lr"), lr_is_output=False, **SMALL),
}


def random_model(config: ModelConfig, dtype: str) -> HCFlow:
    """Every weight random; the rotations stay well conditioned."""
    model = HCFlow(config, dtype=dtype)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(np.asarray(variable) + 0.03 * rng.standard_normal(variable.shape))
    return model


def largest_error(ours, reference) -> float:
    """Largest difference as a share of the largest value."""
    return float(np.abs(np.asarray(ours) - np.asarray(reference)).max() / np.abs(np.asarray(reference)).max())


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"), [*((name, "float64", 1e-12) for name in CONFIGS), ("rescaling_x4", "float32", 1e-5)]
)
def test_equals_the_model(name, dtype, tolerance):
    model = random_model(CONFIGS[name], dtype)
    inference = InferenceModel(model)
    rng = np.random.default_rng(1)
    for height, width in ((3, 5), (4, 3)):
        lr = tf.constant(rng.random((2, height, width, 3)), dtype)
        latents = model.draw_latents(lr.shape, 0.9, seed=3)
        # The flow itself, operation by operation: tracing it takes longer than all that is compared here.
        hr = model.flow.decode(lr, latents)
        assert largest_error(inference.decode(lr, latents), hr) <= tolerance
        hr = tf.constant(rng.random((2, height * model.scale, width * model.scale, 3)), dtype)
        given = {"lr": lr} if model.flow.needs_lr else {}
        parts, log_det = model.flow.forward_and_log_det(hr, **given)
        for ours, expected in zip(inference.encode_and_log_det(hr, lr)[0], parts, strict=True):
            assert largest_error(ours, expected) <= tolerance
    zeros = [tf.zeros_like(latent) for latent in latents]
    assert largest_error(inference.decode(lr), model.flow.decode(lr, zeros)) <= tolerance
    log_prob = latent_log_prob(parts[model.flow.has_lr :]) + log_det
    if model.flow.has_lr:
        log_prob += gaussian_log_prob(parts[0], lr, LR_LOG_STD)
    assert largest_error(inference.log_prob(hr, lr), log_prob) <= tolerance


def test_portable_atan():
    x = np.concatenate([[0.0, 1e37, -1e37], np.geomspace(1e-20, 1e20, 999), -np.geomspace(1e-20, 1e20, 999)])
    assert np.abs(portable_atan(tf.constant(x, tf.float32)) - np.arctan(x)).max() <= 5e-7
    half = np.geomspace(1e-3, 6e4, 999).astype(np.float16)
    assert np.abs(portable_atan(tf.constant(half)) - np.arctan(half.astype(np.float64))).max() <= 4e-3


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_convolution_before_upsampling(factor):
    rng = np.random.default_rng(0)
    x, kernel = rng.random((2, 5, 3, 4)), rng.random((3, 3, 4, 6))
    for border in (None, repeated_border):
        fine = convolve((kernel, None), x.repeat(factor, 1).repeat(factor, 2), border)
        coarse = convolve((before_upsampling(kernel, factor), None), x, border)
        np.testing.assert_allclose(tf.nn.depth_to_space(coarse, factor), fine, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["rescaling_x4", "rescaling_repeated_border"])
def test_operations_are_portable(name):
    """No tensor above rank 4, nothing trained, random, inverted or resized."""
    model = random_model(CONFIGS[name], "float32")
    inference = InferenceModel(model, lite=True)
    allowed = {"Abs", "AddV2", "BiasAdd", "ConcatV2", "Const", "Conv2D", "DepthToSpace", "Exp", "Identity", "LeakyRelu"}
    allowed |= {"Maximum", "Mul", "Neg", "Placeholder", "RealDiv", "Relu", "Split", "SplitV", "Sqrt", "StridedSlice", "Sub"}
    lr = tf.TensorSpec([None, None, None, 3])
    latents = [tf.TensorSpec([None, None, None, channels]) for channels in inference.latent_channels]
    graph = tf.function(lambda *parts: [inference.flow.decode(parts[0], parts[1:])], autograph=False)
    graph = graph.get_concrete_function(lr, *latents).graph
    operations = needed(graph)
    assert {operation.type for operation in operations} <= allowed
    assert all(tensor.shape.rank <= 4 for operation in operations for tensor in operation.outputs)


@pytest.mark.parametrize("name", ["rescaling_repeated_border", "repeated_border"])
def test_border_of_slices_is_the_border(name):
    model = random_model(CONFIGS[name], "float64")
    lr = tf.random.stateless_uniform([2, 3, 1, 3], seed=(0, 1), dtype="float64")
    latents = model.draw_latents(lr.shape, 0.9, seed=3)
    decoded = InferenceModel(model).decode(lr, latents)
    assert largest_error(InferenceModel(model, lite=True).decode(lr, latents), decoded) <= 1e-6  # the arcus tangent's


@pytest.mark.parametrize("name", ["rescaling_repeated_border", "repeated_border"])
def test_flat_pictures_stay_flat_to_their_border(name):
    """The LR image and the latents of a flat picture, if convolutions see its border again outside; not with zeros there."""
    picture = np.full((1, 24, 16, 3), (0.2, 0.9, 0.4))
    for padding, flat in (("replicate", True), ("zeros", False)):
        model = InferenceModel(random_model(CONFIGS[name].model_copy(update={"padding": padding}), "float64"))
        parts, _ = model.encode_and_log_det(picture)
        assert all(np.ptp(part, axis=(1, 2)).max() <= 1e-12 for part in parts) == flat


def needed(graph: tf.Graph) -> set[tf.Operation]:
    """The operations that the outputs depend on, which are those that a converter converts."""
    found, waiting = set(), [tensor.op for tensor in graph.structured_outputs]
    while waiting:
        operation = waiting.pop()
        if operation not in found:
            found.add(operation)
            waiting += [tensor.op for tensor in operation.inputs]
    return found


def test_later_changes_of_the_model_do_not_show():
    model = random_model(CONFIGS["sr_x2"], "float32")
    inference = InferenceModel(model)
    lr = np.random.default_rng(0).random((1, 3, 3, 3))
    latents = model.draw_latents(lr.shape, 0.5, seed=0)
    before = inference.decode(lr, latents)
    for variable in model.weights:
        variable.assign(variable * 2)
    np.testing.assert_array_equal(inference.decode(lr, latents), before)


def test_condition_of_a_level_is_one_convolution():
    """All conditional steps' parts of the condition come out of one wide convolution."""
    level = InferenceModel(random_model(CONFIGS["sr_x8"], "float32")).flow.levels[0]
    condition = level.extractor(tf.zeros([1, 8, 8, 6]), tf.zeros([1, 4, 4, 12]), tf.zeros([1, 2, 2, 12]))
    assert condition.shape == (1, 8, 8, 12)
    parts = [conditions["condition"] for _, conditions in level.latent_path(condition)]
    assert [part.shape[-1] for part in parts] == [5, 5, 12]
    assert level.condition_parts(condition).shape[-1] == 10
