"""SRFlow: agreement with the authors' own program, its released names, and what is particular to it."""

from __future__ import annotations

import json
import math
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from hcflow_tf.bijectors import FlowLevel, HierarchicalFlow, Squeeze
from hcflow_tf.config import SRFlowConfig
from hcflow_tf.metrics.bits_per_dim import released_nll
from hcflow_tf.models.flow_model import latent_log_prob
from hcflow_tf.models.folded import InferenceModel
from hcflow_tf.models.srflow import SRFlow
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.weights import released
from hcflow_tf.weights.store import assign_weights

PARITY = pathlib.Path(__file__).parent / "fixtures/parity"
TOLERANCE = 1e-4
"""Largest error, as a share of the largest reference value."""


def nhwc(array: np.ndarray) -> np.ndarray:
    return array.transpose(0, 2, 3, 1)


def assert_agrees(ours, reference: np.ndarray, tolerance: float = TOLERANCE) -> None:
    assert np.shape(ours) == reference.shape
    assert np.abs(np.asarray(ours) - reference).max() <= tolerance * np.abs(reference).max()


@pytest.fixture(scope="module", params=["srflow_x4_tiny", "srflow_x8_tiny"])
def converted(request):
    state = dict(np.load(PARITY / f"{request.param}_weights.npz"))
    facts = json.loads((PARITY / f"{request.param}.json").read_text())
    config = released.infer_config({name: value.shape for name, value in state.items()})
    assert isinstance(config, SRFlowConfig)
    config = config.model_copy(update={"stacked_blocks": tuple(facts["stacked_blocks"])})  # which leave no trace in a file
    model = SRFlow(config)
    shapes = {name: tuple(variable.shape) for name, variable in model.named_weights().items()}
    assign_weights(model, released.map_released(state, shapes, config), source=request.param)
    return model, dict(np.load(PARITY / f"{request.param}.npz")), facts


def latents_of(arrays: dict[str, np.ndarray], name: str) -> list[np.ndarray]:
    count = sum(key.startswith(f"{name}_") for key in arrays)
    return [nhwc(arrays[f"{name}_{index}"]) for index in range(1, count + 1)]


def test_hyperparameters_are_inferred(converted):
    model, _, facts = converted
    config = model.config
    assert (config.scale, config.levels, config.steps) == (facts["scale"], facts["L"], facts["K"])
    assert (config.plain_steps, config.width) == (facts["additional_steps_without_coupling"], facts["hidden_channels"])
    rrdb = (config.rrdb_blocks, config.rrdb_features, config.rrdb_growth)
    assert rrdb == (facts["rrdb_blocks"], facts["rrdb_features"], facts["rrdb_growth"])
    assert model.count_params() == facts["parameters_without_unused_f"]


def test_encode(converted):
    model, arrays, _ = converted
    lr, latents = model.encode(nhwc(arrays["hr"]), nhwc(arrays["lr"]))
    assert lr is None
    expected = latents_of(arrays, "encode_eps")
    assert len(latents) == len(expected) == len(model.latents)
    for latent, reference in zip(latents, expected, strict=True):
        assert_agrees(latent, reference)


def test_log_det_and_nll(converted):
    model, arrays, _ = converted
    hr, lr = nhwc(arrays["hr"]), nhwc(arrays["lr"])
    *split, last = model.encode(hr, lr)[1]
    _, log_det = model.encode_and_log_det(hr, lr)
    assert_agrees(log_det + latent_log_prob(split), arrays["logdet_with_split_priors"])
    log_prob = model.log_prob(hr, lr)
    assert_agrees(log_prob, arrays["logdet_with_split_priors"] + latent_log_prob([last]).numpy())
    # The authors' figure without the constant of the dequantisation, which grows it by log2(32) per pixel.
    assert_agrees(-log_prob / (math.log(2) * hr.shape[1] * hr.shape[2]), arrays["nll_bits_per_pixel_no_noise"])
    with_noise = released_nll(log_prob, *hr.shape[1:3], quantization_levels=32)
    assert_agrees(with_noise, arrays["nll_bits_per_pixel_no_noise"] + 5.0)


def test_decode(converted):
    model, arrays, _ = converted
    lr = nhwc(arrays["lr"])
    assert_agrees(model.decode(lr), nhwc(arrays["decode_tau0"]))
    latents = latents_of(arrays, "decode_tau08_eps")
    assert_agrees(model.decode(lr, [0 * latent for latent in latents]), nhwc(arrays["decode_tau0"]))
    assert_agrees(model.decode(lr, latents), nhwc(arrays["decode_tau08"]))


def test_folded_form_equals_the_model(converted):
    model, arrays, _ = converted
    exact = SRFlow(model.config, dtype="float64")
    for ours, variable in zip(exact.weights, model.weights, strict=True):
        ours.assign(variable.numpy())
    folded, lr = InferenceModel(exact), tf.constant(nhwc(arrays["lr"]), tf.float64)
    latents = [tf.constant(latent, tf.float64) for latent in latents_of(arrays, "decode_tau08_eps")]
    for given in (None, latents):
        assert_agrees(folded.decode(lr, given), exact.flow.decode(lr, given).numpy(), 1e-12)
    hr = tf.constant(nhwc(arrays["hr"]), tf.float64)
    expected, log_det = exact.flow.forward_and_log_det(hr, lr=lr)
    ours, our_log_det = folded.encode_and_log_det(hr, lr)
    for part, reference in zip([*ours, our_log_det], [*expected, log_det], strict=True):
        assert_agrees(part, reference.numpy(), 1e-12)


@pytest.mark.parametrize(("name", "parameters"), [("srflow_x4", 39_541_811), ("srflow_x8", 40_030_531)])
@pytest.mark.parametrize("with_unused", [True, False])
def test_released_names_and_shapes_are_fully_mapped(name, parameters, with_unused):
    """The official files, and what was trained without the convolution that nothing uses."""
    unused = "flowUpsamplerNet.f."
    shapes = {key: tuple(shape) for key, shape in json.loads((PARITY / f"{name}_keys.json").read_text()).items()}
    ignored = sum(math.prod(shape) for key, shape in shapes.items() if key.startswith(unused))
    if not with_unused:
        shapes = {key: shape for key, shape in shapes.items() if not key.startswith(unused)}
    config = released.infer_config(shapes)
    assert config == SRFlowConfig(**PUBLISHED[name])
    with keras.StatelessScope(initialize_variables=False):
        model = SRFlow(config)
        ours = {key: tuple(variable.shape) for key, variable in model.named_weights().items()}
    assert sum(map(math.prod, ours.values())) == parameters - ignored == parameters - 276_576
    state = {key: np.broadcast_to(np.float32(number), shape) for number, (key, shape) in enumerate(shapes.items())}
    mapped = released.map_released(state, ours, config)
    back = released.to_released(mapped, config)
    assert back.keys() == {key for key in shapes if not key.startswith(unused)}
    for key, value in back.items():
        np.testing.assert_array_equal(value, state[key])


PUBLISHED = {
    "srflow_x4": {"scale": 4, "rrdb_blocks": 23, "stacked_blocks": (1, 8, 15, 22)},
    "srflow_x8": {"scale": 8, "rrdb_blocks": 8, "stacked_blocks": (1, 3, 5, 7)},
}


def test_weights_that_do_not_fit_are_listed(converted):
    model, _, _ = converted
    state = released.to_released({name: variable.numpy() for name, variable in model.named_weights().items()}, model.config)
    shapes = {name: tuple(variable.shape) for name, variable in model.named_weights().items()}
    del state["RRDB.HRconv.bias"]
    with pytest.raises(HCFlowError, match=r"srflow super_resolution x\d: 1 missing: RRDB.HRconv.bias"):
        released.map_released(state, shapes, model.config)


def test_lr_images_of_odd_size_are_refused_by_name(converted):
    model, _, _ = converted
    with pytest.raises(ValueError, match="divisible by 2"):
        model.decode(tf.zeros([1, 5, 4, 3]))
    with pytest.raises(ValueError, match=f"divisible by {2 * model.scale}"):
        model.encode(tf.zeros([1, model.scale, 2 * model.scale, 3]), tf.zeros([1, 1, 2, 3]))
    with pytest.raises(ValueError, match="expected the condition lr"):
        model.encode(tf.zeros([1, 2 * model.scale, 2 * model.scale, 3]))


def test_flow_of_conditioned_steps_needs_an_encoder(converted):
    steps = converted[0].flow.levels[0].steps
    last = FlowLevel(squeeze=Squeeze(), steps=[], image_channels=0, conditioned_on="nothing")
    with pytest.raises(ValueError, match="expected an lr_encoder"):
        HierarchicalFlow([FlowLevel(squeeze=Squeeze(), steps=steps, image_channels=6), last])
    with pytest.raises(ValueError, match="cannot give it, too"):
        HierarchicalFlow([FlowLevel(squeeze=Squeeze(), steps=[], image_channels=3)], lr_encoder=lambda lr: [lr])
