"""IRN: agreement with the authors' own program, and its likelihood."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from hcflow_tf.config import IRNConfig
from hcflow_tf.models.complexity import measure
from hcflow_tf.models.folded import InferenceModel
from hcflow_tf.models.systems import make_model
from hcflow_tf.support.latents import Latent
from hcflow_tf.weights import released
from hcflow_tf.weights.store import assign_weights, weight_shapes

TOLERANCE = 1e-4
"""Largest error, as a share of the largest reference value."""
PARITY = pathlib.Path(__file__).parent / "fixtures/parity"


def nhwc(array: np.ndarray) -> np.ndarray:
    return array.transpose(0, 2, 3, 1)


def assert_agrees(ours, reference: np.ndarray) -> None:
    assert np.abs(np.asarray(ours) - reference).max() <= TOLERANCE * np.abs(reference).max()


@pytest.fixture(scope="module", params=["irn_x4_tiny", "irn_x2_tiny"])
def converted(request):
    """The model of a fixture's weights, what the authors' program computed, and its sizes."""
    state = dict(np.load(PARITY / f"{request.param}_weights.npz"))
    config = released.infer_config({name: value.shape for name, value in state.items()})
    model = make_model(config)
    assign_weights(model, released.map_released(state, weight_shapes(config), config), source=request.param)
    facts = json.loads((PARITY / f"{request.param}.json").read_text())
    return model, dict(np.load(PARITY / f"{request.param}.npz")), facts


def test_hyperparameters_are_inferred(converted):
    model, _, facts = converted
    assert model.config == IRNConfig(scale=facts["scale"], blocks=facts["block_num"], growth=facts["growth"])
    haar = {2: 48, 4: 240}[facts["scale"]]
    assert model.count_params() == facts["parameters"] - haar
    assert model.latents == (Latent(3 * facts["scale"] ** 2 - 3, facts["scale"]),)


@pytest.mark.parametrize("folded", [False, True])
def test_both_directions(converted, folded):
    model, reference, _ = converted
    model = InferenceModel(model) if folded else model
    hr = nhwc(reference["hr"])
    (lr, z), log_det = model.encode_and_log_det(hr)
    assert_agrees(lr, nhwc(reference["encode_lr"]))
    assert_agrees(z, nhwc(reference["encode_z"]))
    assert_agrees(log_det, reference["encode_logdet"])
    assert_agrees(model.decode(lr.numpy(), [z.numpy()]), hr)
    assert_agrees(model.decode(nhwc(reference["lr"]), [nhwc(reference["z"])]), nhwc(reference["decode"]))


@pytest.mark.parametrize(("name", "parameters"), [("irn_x4", 4_355_376 - 240), ("irn_x2", 1_668_000 - 48)])
def test_released_names_and_shapes_are_fully_mapped(name, parameters):
    shapes = {key: tuple(shape) for key, shape in json.loads((PARITY / f"{name}_keys.json").read_text()).items()}
    config = released.infer_config(shapes)
    assert config == IRNConfig(scale=int(name[-1]), blocks=(8,) * (int(name[-1]) // 2))
    ours = weight_shapes(config)
    assert sum(np.prod(shape) for shape in ours.values()) == parameters
    values = iter(range(10**9))
    state = {key: np.full(shape, next(values), np.float32) for key, shape in shapes.items()}
    mapped = released.map_released(state, ours, config)
    back = released.to_released(mapped, config)
    assert back.keys() == {key for key in shapes if not key.endswith("haar_weights")}
    for key, value in back.items():
        np.testing.assert_array_equal(value, state[key])


def test_cost():
    """By hand, x2 with one block: F sees 9 channels, G and H 3; Haar is a 12 x 12 matrix."""
    config = IRNConfig(scale=2, blocks=(1,), growth=4)
    cost = measure(config, weight_shapes(config))
    dense = {inputs: 9 * (4 * sum(inputs + 4 * index for index in range(4)) + (inputs + 16) * (12 - inputs)) for inputs in (9, 3)}
    assert cost.multiply_adds == {"invertible blocks": (dense[9] + 2 * dense[3] + 144) / 4}
    assert cost.parameters == {"invertible blocks": dense[9] + 2 * dense[3] + 3 * 16 + 3 + 2 * 9}
    assert cost.downscale_radius == 20  # F and then G or H: 10 convolutions of 3 x 3 at half the resolution
    assert cost.decode_radius == 11
