"""Recomputation: the same gradients and steps from less memory."""

from __future__ import annotations

import functools
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from tiny import tiny_config, tiny_model

from hcflow_tf import losses
from hcflow_tf.config import load_config, parse_config
from hcflow_tf.models.hcflow import HCFlow
from hcflow_tf.networks.feature_extractor import FeatureExtractor
from hcflow_tf.support.devices import bfloat16_slowdown
from hcflow_tf.training import memory
from hcflow_tf.training.step import TrainingStep
from hcflow_tf.training.strategy import make_strategy

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIZE, SCALE = 16, 2


@functools.cache
def weights_of(task: str) -> list[np.ndarray]:
    return [variable.numpy() for variable in tiny_model(task, scale=SCALE).weights]


def model_of(task: str, **options) -> HCFlow:
    """A tiny model, with the same weights each time."""
    model = HCFlow(tiny_config(task, SCALE, width=6), **options)
    for variable, value in zip(model.weights, weights_of(task), strict=True):
        variable.assign(value)
    return model


def images(dtype: str = "float32") -> tuple[tf.Tensor, tf.Tensor]:
    hr = np.random.default_rng(1).random((2, SIZE, SIZE, 3))
    lr = hr.reshape(2, SIZE // SCALE, SCALE, SIZE // SCALE, SCALE, 3).mean(axis=(2, 4))
    return tf.constant(hr, dtype), tf.constant(lr, dtype)


def nll(model: HCFlow, hr: tf.Tensor, lr: tf.Tensor) -> tf.Tensor:
    return -losses.training_log_prob(model.flow, hr, lr)[0]


def pixel(model: HCFlow, hr: tf.Tensor, lr: tf.Tensor) -> tf.Tensor:
    latents = model.draw_latents(lr.shape, 0.9, seed=1)
    return losses.l1(hr, model.flow.inverse_and_log_det([lr, *latents])[0])


def rescaling(model: HCFlow, hr: tf.Tensor, lr: tf.Tensor) -> tf.Tensor:
    (encoded, *latents), _ = model.flow.forward_and_log_det(hr)
    decoded = pixel(model, hr, losses.round_straight_through(encoded))
    return decoded + losses.l2(encoded, lr) + losses.latent_l2(latents)


LOSSES = [("super_resolution", nll), ("super_resolution", pixel), ("rescaling", rescaling)]


def gradients(model: HCFlow, loss, *, compiled: bool = True, **options) -> list[np.ndarray]:
    """Of the loss with respect to the image and all weights."""
    hr, lr = images(model.variable_dtype)
    weights = [hr, *(variable.value for variable in model.trainable_variables)]

    def compute() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(hr)
            value = tf.reduce_mean(loss(model, hr, lr))
        return tape.gradient(value, weights, unconnected_gradients="zero")

    run = tf.function(compute, autograph=False, **options) if compiled else compute
    return [gradient.numpy() for gradient in run()]


def assert_equal(actual: list[np.ndarray], expected: list[np.ndarray], tolerance: float) -> None:
    """Each gradient to the tolerance, relative to its own norm."""
    assert sum(bool(gradient.any()) for gradient in expected) > 0.9 * len(expected)
    for index, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b), index


@functools.cache
def plain_gradients(task: str, loss, dtype: str) -> list[np.ndarray]:
    return gradients(model_of(task, dtype=dtype), loss)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), pytest.param("float32", 1e-5, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("task", "loss"), LOSSES)
def test_gradients_are_those_of_the_plain_model(task, loss, dtype, tolerance):
    actual = gradients(model_of(task, dtype=dtype, recompute=True), loss)
    assert_equal(actual, plain_gradients(task, loss, dtype), tolerance)


@pytest.mark.parametrize(
    "options",
    [pytest.param({"compiled": False}, id="eager"), pytest.param({"jit_compile": True}, id="xla", marks=pytest.mark.slow)],
)
def test_gradients_eager_and_compiled_by_xla(options):
    actual = gradients(model_of("super_resolution", dtype="float64", recompute=True), nll, **options)
    assert_equal(actual, plain_gradients("super_resolution", nll, "float64"), 1e-9)


def test_gradients_in_mixed_precision():
    options = {"mixed_precision": True}
    expected = gradients(model_of("super_resolution", **options), nll)
    actual = gradients(model_of("super_resolution", recompute=True, **options), nll)
    assert_equal(actual, expected, 2**-5)  # four units of bfloat16, in which networks round, each way in its own order, and sum
    exact = plain_gradients("super_resolution", nll, "float32")
    errors = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(expected, exact, strict=True) if b.any()]
    assert 0 < np.median(errors) < 2**-6


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("task", "loss"), [("super_resolution", nll), ("rescaling", pixel)])
def test_every_network_runs_once_more_for_its_gradient(task, loss, recompute, monkeypatch):
    calls = []
    original = tf.nn.conv2d

    def counted(x, kernel, *args, **kwargs):
        calls.append(kernel.shape[0] == 3)  # the linear maps are 1x1 convolutions, of which some need no recomputation
        return original(x, kernel, *args, **kwargs)

    monkeypatch.setattr(tf.nn, "conv2d", counted)
    model = model_of(task, recompute=recompute)
    hr, lr = images()
    calls.clear()
    loss(model, hr, lr)
    once = sum(calls)
    calls.clear()
    gradients(model, loss, compiled=False)
    kept = 2  # the extractor's first and last convolution
    assert sum(calls) == (2 * once - kept if recompute else once) > 10


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("devices", ["cpu", "cpu:2"])
def test_training_steps_are_those_of_the_plain_model(devices):
    strategy = make_strategy(devices)
    hr, lr = (image.numpy() for image in images())

    def part(array: np.ndarray) -> tf.Tensor:
        replicas = strategy.num_replicas_in_sync
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(np.split(array, replicas)[context.replica_id_in_sync_group])
        )

    weights = []
    for recompute in (False, True):
        config = parse_config(
            f"""
            model: {tiny_config("super_resolution", SCALE, width=6).model_dump_json()}
            data: {{crop_size: {SIZE}}}
            losses: {{nll: 1, pixel: 1, separate_updates: false}}
            training: {{batch_size: 2, start_from: x}}
            """
        )
        with strategy.scope():
            model = model_of("super_resolution", recompute=recompute)
        step = TrainingStep(config, model, strategy)
        for index in range(2):
            step(part(hr), part(lr), index)
        step.optimizer.write_weights()
        weights.append(np.concatenate([variable.numpy().ravel() for variable in model.weights]))
    start = np.concatenate([value.ravel() for value in weights_of("super_resolution")])
    assert np.abs(weights[0] - start).mean() > 1e-4
    np.testing.assert_allclose(weights[1], weights[0], atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "enough", "expected"), [("auto", 1, False), ("auto", 0, True), (False, 0, False), (True, 1, True)]
)
def test_auto_recomputes_where_the_memory_is_too_small(setting, enough, expected, monkeypatch):
    config = parse_config(
        f"""
        model: {tiny_config("rescaling", SCALE, width=6).model_dump_json()}
        data: {{crop_size: 64}}
        losses: {{nll: 0, pixel: 1, lr: 1}}
        training: {{batch_size: 4, recompute: {str(setting).lower()}}}
        """
    )
    needed = memory.step_bytes(config, model_of("rescaling"), replicas=2)
    monkeypatch.setattr(memory, "available_memory", lambda: 2 * needed / 0.8 + (1 if enough else -1))
    said = []
    model = memory.training_model(config, make_strategy("cpu:2"), said.append)
    assert model.reads_variables is expected
    assert len(said) == (setting == "auto" and not enough)


@pytest.mark.parametrize(("slowdown", "computes_in"), [(0.6, "bfloat16"), (1.2, "bfloat16"), (14.0, "float32")])
def test_mixed_precision_only_where_it_is_faster(slowdown, computes_in, monkeypatch):
    config = parse_config(
        f"""
        model: {tiny_config("super_resolution", SCALE, width=6).model_dump_json()}
        training: {{mixed_precision: true, recompute: false}}
        """
    )
    monkeypatch.setattr(memory, "bfloat16_slowdown", lambda: slowdown)
    said = []
    model = memory.training_model(config, make_strategy("cpu"), said.append)
    extractors = [layer for layer in model._flatten_layers() if isinstance(layer, FeatureExtractor)]
    assert {layer.compute_dtype for layer in extractors} == {computes_in}
    assert [line.split("takes ")[1] for line in said] == (
        ["14 times as long in bfloat16 as in float32; training in float32"] if computes_in == "float32" else []
    )


@pytest.mark.parametrize(("slow", "expected"), [("bfloat16", True), ("float32", False)])
def test_slowdown_of_bfloat16_is_measured(slow, expected, monkeypatch):
    original = tf.nn.conv2d

    def slowed(x, *args):
        time.sleep(0.5 * (x.dtype == slow))
        return original(x, *args)

    monkeypatch.setattr(tf.nn, "conv2d", slowed)
    assert (bfloat16_slowdown.__wrapped__() > 1) is expected


def test_the_estimate_is_what_was_measured():
    """669 MiB for each crop of rescale_x4: docs/training.md."""
    model, needed = None, []
    for batch in (1, 2):
        config = load_config(ROOT / "configs/rescale_x4.yaml", [f"training.batch_size={batch}"])
        model = model or HCFlow(config.model)
        needed.append(memory.step_bytes(config, model) / 2**20)
    assert needed[1] - needed[0] == pytest.approx(669, rel=0.15)
    assert needed[0] == pytest.approx(893, rel=0.15)


@pytest.mark.slow
def test_benchmark_finds_less_memory_and_equal_gradients(tmp_path):
    steps = ["model.scale=2", "model.main_steps=4", "model.conditional_steps=4"]  # they take most of the memory
    extractor = ["model.rrdb_blocks=[1,1]", "model.rrdb_features=16", "model.rrdb_growth=8"]
    command = [sys.executable, "benchmarks/training_step.py", "--config", "configs/sr_x4.yaml", "--set", *steps, *extractor]
    output = tmp_path / "memory.json"
    subprocess.run([*command, "--batch=12", "--rounds=1", f"--output={output}"], cwd=ROOT, check=True, capture_output=True)
    recompute = json.loads(output.read_text())["settings"]["recompute"]
    assert recompute["memory_ratio"] < 0.6
    assert recompute["largest_weight_difference"] < 1e-5
