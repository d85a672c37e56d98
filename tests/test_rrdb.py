"""The RRDB network and what SRFlow takes from inside it, against what the authors' programs computed."""

from __future__ import annotations

import json
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from hcflow_tf.config import RRDBConfig
from hcflow_tf.models.folded import InferenceModel
from hcflow_tf.models.systems import make_model
from hcflow_tf.networks.part import Live, compute
from hcflow_tf.networks.rrdb import ConditionPyramid, RRDBNetwork
from hcflow_tf.weights import released
from hcflow_tf.weights.store import assign_weights, weight_shapes

PARITY = pathlib.Path(__file__).parent / "fixtures/parity"
TOLERANCE = 1e-4
"""Largest error, as a share of the largest reference value."""

NAMES = (
    (r"RRDB_trunk\.(\d+)\.RDB(\d)\.conv(\d)", lambda m: f"trunk_{int(m[1]) + 1}/block_{m[2]}/conv_{m[3]}"),
    ("trunk_conv", lambda _: "conv_trunk"),
    (r"upconv(\d)", lambda m: f"upconv_{m[1]}"),
    ("HRconv", lambda _: "conv_hr"),
)


def read(name: str, prefix: str = "") -> tuple[RRDBNetwork, dict[str, np.ndarray], dict]:
    """The network with the weights of a fixture under `prefix`, the fixture's arrays and its facts."""
    facts = json.loads((PARITY / f"{name}.json").read_text())
    sizes = {key: facts.get(f"rrdb_{key}", facts.get(key)) for key in ("features", "growth", "blocks")}
    network = RRDBNetwork(facts["scale"], **sizes, name="rrdb")
    network.build()
    state = {key.removeprefix(prefix): value for key, value in np.load(PARITY / f"{name}_weights.npz").items()}
    theirs = {}
    for key, value in state.items():
        for pattern, ours in NAMES:
            key = re.sub(pattern, ours, key)
        theirs[key.replace(".weight", "/kernel").replace(".bias", "/bias")] = value
    for variable in network.weights:
        value = theirs[variable.path.removeprefix("rrdb/")]
        variable.assign(value.transpose(2, 3, 1, 0) if value.ndim == 4 else value)
    return network, dict(np.load(PARITY / f"{name}.npz")), facts


def nhwc(array: np.ndarray) -> np.ndarray:
    return array.transpose(0, 2, 3, 1)


def assert_agrees(ours, reference: np.ndarray) -> None:
    assert ours.shape == reference.shape
    assert np.abs(np.asarray(ours) - reference).max() <= TOLERANCE * np.abs(reference).max()


def test_image():
    network, arrays, facts = read("rrdb_x4_tiny")
    assert network.count_params() == facts["parameters"]
    lr = tf.constant(nhwc(arrays["lr"]))
    assert_agrees(network.call(lr), nhwc(arrays["decode"]))
    assert_agrees(compute(Live(network))(lr), nhwc(arrays["decode"]))


@pytest.mark.parametrize(("name", "levels"), [("srflow_x4_tiny", ("2", "1", "0")), ("srflow_x8_tiny", ("4", "2", "1", "0"))])
def test_conditions(name, levels):
    network, arrays, facts = read(name, "RRDB.")
    pyramid = ConditionPyramid(network, facts["stacked_blocks"])
    lr = tf.constant(nhwc(arrays["lr"]))
    for conditions in (pyramid.call(lr), compute(pyramid)(lr)):
        assert len(conditions) == len(levels)
        for condition, level in zip(conditions, levels, strict=True):
            # The fixtures hold every 16th channel of the first image.
            assert_agrees(condition[:1, :, :, ::16], nhwc(arrays[f"condition_fea_up{level}_first_image"]))


def test_published_size():
    with keras.StatelessScope(initialize_variables=False):
        network = RRDBNetwork(4, features=64, growth=32, blocks=23)
        network.build()
        assert network.count_params() == 16_697_987
        faces = RRDBNetwork(8, features=64, growth=32, blocks=8)
        faces.build()
        assert faces.count_params() == 5_943_555


def test_computing_activations_again_changes_no_value_and_no_gradient():
    gradients = []
    for recompute in (False, True):
        keras.utils.set_random_seed(0)
        network = RRDBNetwork(2, features=4, growth=2, blocks=2, recompute=recompute, dtype="float64")
        network.build()
        with tf.GradientTape() as tape:
            image = network.call(tf.constant(np.random.default_rng(0).random((1, 5, 4, 3))))
            loss = tf.reduce_sum(image**2)
        gradients.append([image, *tape.gradient(loss, network.trainable_variables)])
    for kept, again in zip(*gradients, strict=True):
        np.testing.assert_allclose(again, kept, rtol=1e-12, atol=1e-14)


def test_mixed_precision_computes_in_bfloat16_and_returns_float32():
    network, arrays, _ = read("rrdb_x4_tiny")
    mixed = RRDBNetwork(4, features=16, growth=8, blocks=3, dtype="mixed_bfloat16")
    mixed.build()
    for ours, variable in zip(mixed.weights, network.weights, strict=True):
        ours.assign(variable)
    image = mixed.call(tf.constant(nhwc(arrays["lr"])))
    error = np.abs(image - nhwc(arrays["decode"])).max() / np.abs(arrays["decode"]).max()
    assert image.dtype == tf.float32
    assert 1e-4 < error < 5e-2


def test_authors_file_becomes_a_model():
    """The network's own test has the values; here names, shapes and the model around them."""
    state, reference = (dict(np.load(PARITY / f"rrdb_x4_tiny{part}.npz")) for part in ("_weights", ""))
    config = released.infer_config({name: value.shape for name, value in state.items()})
    facts = json.loads((PARITY / "rrdb_x4_tiny.json").read_text())
    assert config == RRDBConfig(scale=4, blocks=facts["blocks"], features=facts["features"], growth=facts["growth"])
    model = make_model(config)
    assert model.count_params() == facts["parameters"]
    assign_weights(model, released.map_released(state, weight_shapes(config), config), source="rrdb_x4_tiny")
    for each in (model, InferenceModel(model)):
        assert_agrees(each.decode(nhwc(reference["lr"])), nhwc(reference["decode"]))


def test_all_released_names_are_mapped():
    shapes = {name: tuple(shape) for name, shape in json.loads((PARITY / "rrdb_x4_keys.json").read_text()).items()}
    config, values = released.infer_config(shapes), iter(range(10**6))
    assert config == RRDBConfig()
    state = {name: np.full(shape, next(values), np.float32) for name, shape in shapes.items()}
    back = released.to_released(released.map_released(state, weight_shapes(config), config), config)
    assert back.keys() == state.keys()
    for name, value in back.items():
        np.testing.assert_array_equal(value, state[name])
