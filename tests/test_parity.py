"""Agreement with the authors' own program, on small models with random weights under the released names."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from hcflow_tf import losses
from hcflow_tf.metrics.bits_per_dim import released_nll
from hcflow_tf.models.flow_model import latent_log_prob
from hcflow_tf.models.hcflow import HCFlow
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.weights import released as weights
from hcflow_tf.weights.store import assign_weights

MODELS = ("sr_x4_tiny", "sr_x8_tiny", "rescale_x4_tiny", "sr_x4_deep", "rescale_x4_deep")
"""The deep ones have several RRDBs in both trunks, whose order a name may get wrong."""
TOLERANCE = 1e-4
"""Largest error, as a share of the largest reference value."""

PARITY = pathlib.Path(__file__).parent / "fixtures/parity"


def nhwc(array: np.ndarray) -> np.ndarray:
    return array.transpose(0, 2, 3, 1)


def assert_agrees(ours, reference: np.ndarray) -> None:
    assert np.abs(np.asarray(ours) - reference).max() <= TOLERANCE * np.abs(reference).max()


@pytest.fixture(scope="module", params=MODELS)
def converted(request):
    state = dict(np.load(PARITY / f"{request.param}_weights.npz"))
    config = weights.infer_config({name: value.shape for name, value in state.items()})
    model = HCFlow(config)
    shapes = {name: tuple(variable.shape) for name, variable in model.named_weights().items()}
    assign_weights(model, weights.map_released(state, shapes, config), source=request.param)
    facts = json.loads((PARITY / f"{request.param}.json").read_text())
    return model, dict(np.load(PARITY / f"{request.param}.npz")), facts


def test_hyperparameters_are_inferred(converted):
    model, _, facts = converted
    config = model.config
    assert config.task == facts["task"]
    assert (config.scale, config.levels) == (facts["scale"], facts["levels_L"])
    assert (config.main_steps, config.conditional_steps) == (facts["main_flow_steps_K"], facts["conditional_flow_steps_P"])
    assert (config.main_width, config.conditional_width) == (facts["main_coupling_hidden"], facts["conditional_coupling_hidden"])
    assert list(config.rrdb_blocks) == facts["rrdb_blocks_trunk0_trunk1"]
    assert (config.rrdb_features, config.rrdb_growth) == (facts["rrdb_features"], facts["rrdb_growth"])
    haar = 144 if config.task == "rescaling" else 0  # 12 x 1 x 2 x 2 and 24 x 1 x 2 x 2 fixed kernel values
    assert model.count_params() == facts["parameters"] - haar


def test_encode(converted):
    model, reference, _ = converted
    lr, latents = model.encode(nhwc(reference["hr"]))
    assert_agrees(lr, nhwc(reference["encode_lr"]))
    assert len(latents) == model.config.levels
    for level, latent in enumerate(latents, start=1):
        assert_agrees(latent, nhwc(reference[f"encode_eps_level{level}"]))


def test_log_det_and_nll(converted):
    model, reference, facts = converted
    if model.config.task == "rescaling":
        pytest.skip("the authors' rescaling program computes no likelihood")
    hr, lr = nhwc(reference["hr"]), nhwc(reference["lr"])
    parts, log_det = model.encode_and_log_det(hr)
    assert_agrees(log_det + latent_log_prob(parts[1:]), reference["encode_logdet_with_prior"])
    log_prob = losses.training_log_prob(model.flow, hr, lr)[0]
    nll = released_nll(log_prob, *hr.shape[1:3], quantization_levels=facts["quant"])
    assert_agrees(tf.reduce_mean(nll), reference["nll_bits_per_dim_noise0"])


@pytest.mark.parametrize("temperature", ["0", "0.8"])
def test_decode(converted, temperature):
    model, reference, _ = converted
    scale = 0.0 if temperature == "0" else 1.0  # the stored latents are already scaled by tau
    latents = [scale * nhwc(reference[f"decode_tau0.8_eps_level{level}"]) for level in range(1, model.config.levels + 1)]
    assert_agrees(model.decode(nhwc(reference["lr"]), latents), nhwc(reference[f"decode_tau{temperature}"]))


@pytest.mark.parametrize(("name", "parameters"), [("sr_x4", 23_232_539), ("face_x8", 27_017_723), ("rescale_x4", 4_396_206)])
def test_released_names_and_shapes_are_fully_mapped(name, parameters):
    shapes = json.loads((PARITY / f"{name}_keys.json").read_text())
    rng = np.random.default_rng(0)
    state = {key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}
    config = weights.infer_config({key: tuple(shape) for key, shape in shapes.items()})
    model = HCFlow(config)
    assert model.count_params() == parameters
    ours = {key: tuple(variable.shape) for key, variable in model.named_weights().items()}
    mapped = weights.map_released(state, ours, config)
    assert_every_value_used(state, mapped)
    back = weights.to_released(mapped, config)
    assert back.keys() == {key for key in shapes if not key.endswith("haar_weights")}
    for key, value in back.items():
        np.testing.assert_array_equal(value, state[key])


def assert_every_value_used(state, mapped) -> None:
    """No value is lost, doubled or changed by the mapping (Haar kernels are constants here)."""
    theirs = np.concatenate([value.ravel() for key, value in state.items() if not key.endswith("haar_weights")])
    ours = np.concatenate([value.ravel() for value in mapped.values()])
    np.testing.assert_array_equal(np.sort(ours), np.sort(theirs))


def test_entries_that_do_not_fit_are_listed():
    shapes = json.loads((PARITY / "rescale_x4_keys.json").read_text())
    state = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
    config = weights.infer_config({key: value.shape for key, value in state.items()})
    ours = {key: tuple(variable.shape) for key, variable in HCFlow(config).named_weights().items()}
    del state["flow.level0_condFlow.f.bias"]
    state["extra"] = np.zeros(3, np.float32)
    state["flow.layers.1.actnorm.bias"] = np.zeros((1, 13, 1, 1), np.float32)
    with pytest.raises(HCFlowError) as caught:
        weights.map_released(state, ours, config)
    message = str(caught.value)
    assert "1 missing: flow.level0_condFlow.f.bias" in message
    assert "1 unexpected: extra" in message
    assert "1 misshapen: flow.layers.1.actnorm.bias is (1, 13, 1, 1), expected (1, 12, 1, 1)" in message
