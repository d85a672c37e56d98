"""SRFlow: agreement with the authors' own program, its released names, and what is particular to it."""

from __future__ import annotations

import json
import math
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from exports import export
from tiny import photograph
from training_runs import batch, make_step

from hcflow_tf.bijectors import FlowLevel, HierarchicalFlow, Squeeze
from hcflow_tf.config import RRDBConfig, SRFlowConfig, parse_config
from hcflow_tf.images.images import write_image
from hcflow_tf.inference.evaluation import Evaluation
from hcflow_tf.inference.measurement import Measurement
from hcflow_tf.inference.scaling import Scaler
from hcflow_tf.metrics.bits_per_dim import bits_per_dim, released_nll
from hcflow_tf.models.flow_model import latent_log_prob
from hcflow_tf.models.folded import InferenceModel
from hcflow_tf.models.guard import ensure_guard
from hcflow_tf.models.srflow import SRFlow
from hcflow_tf.models.systems import make_model
from hcflow_tf.runtimes.keras import KerasRuntime
from hcflow_tf.runtimes.open import open_runtime
from hcflow_tf.support import cli
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.weights import released
from hcflow_tf.weights.store import assign_weights, load_model, save_model

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
    np.testing.assert_array_equal(lr, nhwc(arrays["lr"]))
    expected = latents_of(arrays, "encode_eps")
    assert len(latents) == len(expected) == len(model.latents)
    for latent, reference in zip(latents, expected, strict=True):
        assert_agrees(latent, reference)


def test_log_det_and_nll(converted):
    model, arrays, _ = converted
    hr, lr = nhwc(arrays["hr"]), nhwc(arrays["lr"])
    same_lr, (*split, last) = model.encode(hr, lr)
    np.testing.assert_array_equal(same_lr, lr)
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


TINY = SRFlowConfig(
    scale=4, plain_steps=1, steps=1, width=4, rrdb_blocks=2, rrdb_features=4, rrdb_growth=2, stacked_blocks=(1, 0)
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> pathlib.Path:
    """A tiny model with non-trivial weights."""
    keras.utils.set_random_seed(0)
    model, rng = SRFlow(TINY), np.random.default_rng(0)
    for variable in model.weights:
        variable.assign_add(0.05 * rng.standard_normal(variable.shape))
    ensure_guard(model)
    folder = tmp_path_factory.mktemp("srflow")
    save_model(model, folder / "model")
    return folder / "model"


@pytest.mark.parametrize("tile", [0, 33])
def test_lr_images_of_any_size_are_upscaled(directory, tile):
    """Mirrored up to even sides and cropped; tiles start and end at even pixels."""
    runtime = KerasRuntime(directory)
    scaler, lr = Scaler(runtime, tile), np.random.default_rng(2).random((19, 39, 3), np.float32)
    padded = np.pad(lr, [(0, 1), (0, 1), (0, 0)], mode="symmetric")
    model = load_model(directory)
    for temperature in (0.0, 0.8):
        latents = model.draw_latents([1, 20, 40, 3], temperature, seed=3)
        expected = np.clip(model.decode(padded[None], latents, guard=True)[0, :76, :156], 0, 1)
        ours = scaler.upscale(lr, temperature, seed=3)
        assert ours.shape == expected.shape
        assert np.abs(ours - expected).max() < (1e-4 if tile == 0 else 2e-2)


def test_likelihood_of_an_image_of_odd_size_is_that_of_its_even_part(directory):
    rng = np.random.default_rng(2)
    hr, lr = (rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in ((20, 28), (5, 7)))
    scaler = Scaler(KerasRuntime(directory), 0)
    figures = Evaluation(scaler, hr, lr, metrics=("psnr",)).sample(0.0, 1)[1]
    noise = np.random.default_rng(0).random(hr.shape, np.float32) / np.float32(256)
    seen = (hr.astype(np.float32) / np.float32(255) + noise)[:16, :24]
    log_prob = load_model(directory).log_prob(seen[None], lr[None, :4, :6].astype(np.float32) / np.float32(255))
    assert figures["bits_per_dim"] == pytest.approx(float(bits_per_dim(log_prob, 16, 24)[0]), rel=1e-5)
    one_row = Measurement(hr[:4], lr[:1], 4, ("psnr",))
    assert one_row.likelihood(scaler.log_prob, seed=0, lr_multiple=2) == {}


@pytest.mark.parametrize("kind", ["saved_model", "tflite"])
def test_exports_take_lr_images_of_any_size(directory, tmp_path, kind, capsys):
    lr = np.random.default_rng(2).integers(0, 256, (1, 9, 11, 3), np.uint8)
    as_float = lr[0].astype(np.float32) / np.float32(255)
    expected = Scaler(KerasRuntime(directory), 0).upscale(as_float)
    if kind == "saved_model":
        assert export(kind, "--model", directory, "--output", tmp_path / "served") == 0
        runtime = open_runtime(tmp_path / "served")
        served = runtime.call("upscale", image=lr)["image"][0]
        assert served.shape == expected.shape and np.abs(served - 255 * expected).max() < 0.51
    else:
        # Without latents the file itself says what it takes.
        options = ["--dynamic", "--temperature", "0"]
        assert export(kind, "--model", directory, "--output", tmp_path / "m.tflite", *options) == 0
        runtime = open_runtime(tmp_path / "m.tflite")
        capsys.readouterr()
        assert export(kind, "--model", directory, "--output", tmp_path / "odd.tflite", "--lr-size", "16x17") == 2
        assert "--lr-size 16x17: this model takes heights and widths that are divisible by 2" in capsys.readouterr().err
        assert export(kind, "--model", directory, "--output", tmp_path / "fixed.tflite", "--lr-size", "16x18") == 0
        fixed = Scaler(open_runtime(tmp_path / "fixed.tflite"), None)
        assert np.abs(fixed.upscale(as_float) - expected)[:24, :32].max() < 1e-2  # far from where it sees the mirrored border
    assert np.abs(Scaler(runtime, 0).upscale(as_float) - expected).max() < 1e-4


def test_the_guard_caps_the_channels_that_are_split_off(directory):
    """Only they have a Gaussian; all that is left behind the last level has none, and so no caps."""
    model = load_model(directory)
    split, last = model.log_std_caps
    assert len(split) == 6 and np.isfinite(split).all() and len(last) == 96 and np.isinf(last).all()
    lr = np.random.default_rng(0).random((1, 8, 8, 3), np.float32)
    latents = model.draw_latents(lr.shape, 0.8, seed=1)
    model.set_guard([[-9.0] * 6, last])
    without = [np.zeros_like(latents[0]), latents[1]]  # deviations of e^-9 are as good as none
    np.testing.assert_allclose(model.decode(lr, latents, guard=True), model.decode(lr, without), atol=1e-2)
    assert np.abs(model.decode(lr, latents) - model.decode(lr, without)).max() > 0.1


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("recompute", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_starts_from_an_rrdb_model_that_is_frozen_at_first(tmp_path, monkeypatch, recompute, capsys):
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        write_image(tmp_path / f"hr/{number}.png", photograph(32, 32, seed=number))
    keras.utils.set_random_seed(1)
    rrdb = make_model(RRDBConfig(scale=4, blocks=2, features=4, growth=2))
    save_model(rrdb, "rrdb")
    recipe = f"""
model: {{system: srflow, scale: 4, plain_steps: 1, steps: 1, width: 4, rrdb_blocks: 2, rrdb_features: 4, rrdb_growth: 2,
  stacked_blocks: [1, 0]}}
data: {{train: {{hr: hr}}, crop_size: 16, cache: memory}}
losses: {{nll: 1, quantization_levels: 32, centered_noise: true}}
optimizer: {{learning_rate: 1e-2}}
training: {{steps: 3, batch_size: 2, checkpoint_every: 1, start_from: rrdb, frozen_steps: 2, recompute: {str(recompute).lower()}}}
"""
    pathlib.Path("c.yaml").write_text(recipe)
    command = ["--config", "c.yaml", "--devices", "cpu"]
    assert cli.execute("train", [*command, "--run-dir", "frozen", "--set", "training.steps=2"]) == 0
    trained = {name.removeprefix("network/"): value.numpy() for name, value in rrdb.named_weights().items()}
    frozen = load_model("frozen").named_weights()
    assert {name.removeprefix("rrdb/") for name in frozen if name.startswith("rrdb/")} == trained.keys()
    for name, value in trained.items():
        np.testing.assert_array_equal(frozen[f"rrdb/{name}"], value)
    fresh = SRFlow(TINY).named_weights()
    assert any(np.abs(frozen[name] - fresh[name]).max() > 1e-3 for name in fresh if name.endswith("injector/conv_3/kernel"))
    assert np.abs(frozen["level_1/step_1/injector/actnorm_1/bias"]).max() > 0.02  # set from data
    assert cli.execute("train", [*command, "--run-dir", "all"]) == 0
    thawed = load_model("all").named_weights()
    unused = ("upconv_2/", "conv_hr/", "conv_last/")
    for name, value in trained.items():
        assert np.array_equal(thawed[f"rrdb/{name}"], value) == name.startswith(unused), name
    capsys.readouterr()
    assert cli.execute("train", [*command, "--run-dir", "x", "--set", "model.rrdb_growth=3"]) == 1
    assert "rrdb cannot become this model or a part of it: model.rrdb_growth is" in capsys.readouterr().err
    assert cli.execute("train", [*command, "--run-dir", "y", "--set", "losses.pixel=1"]) == 1
    assert "diverge from scratch, and the flow has nothing from rrdb, a model of system rrdb" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {system: srflow, rrdb_blocks: 4}", "model.stacked_blocks: expected indices from 0 to 3 of the 4 RRDBs, got 22"),
        (
            "model: {system: srflow}\ndata: {crop_size: 36}",
            "data.crop_size: 36 is not divisible by 8, as this model needs; use 32 or 40",
        ),
        (
            "model: {system: rrdb}\nlosses: {nll: 0, pixel: 1}\ntraining: {frozen_steps: 1}",
            "training.frozen_steps: a model of system rrdb has no part to freeze; set it to 0",
        ),
        (
            "model: {system: srflow}\noptimizer: {weight_decay: 1e-5}\ntraining: {frozen_steps: 1}",
            "training.frozen_steps: optimizer.weight_decay would change what is frozen; set one of them to 0",
        ),
    ],
)
def test_configs_that_cannot_be(text, message):
    with pytest.raises(HCFlowError) as caught:
        parse_config(text)
    assert message in str(caught.value)


def test_centered_noise():
    """(u - 1/2) / q: with u = 1/2 none is left."""
    config = parse_config(
        "model: {system: srflow, rrdb_blocks: 1, rrdb_features: 2, rrdb_growth: 2, steps: 1, width: 2, "
        "stacked_blocks: [0]}\nlosses: {quantization_levels: 32, centered_noise: true}\ntraining: {batch_size: 2}"
    )
    model, step = make_step(config, dtype="float64")
    hr, lr = (array.astype(np.float64) for array in batch(2, 16, 4))
    nll = step._generator_losses(
        ("nll",), tf.constant(hr), tf.constant(lr), tf.constant(lr), {"uniform": tf.fill(hr.shape, tf.constant(0.5, tf.float64))}
    )
    expected = released_nll(model.log_prob(hr, lr), 16, 16, quantization_levels=32)
    np.testing.assert_allclose(nll["nll"], expected, rtol=1e-10)


def test_flow_of_conditioned_steps_needs_an_encoder(converted):
    steps = converted[0].flow.levels[0].steps
    last = FlowLevel(squeeze=Squeeze(), steps=[], image_channels=0, conditioned_on="nothing")
    with pytest.raises(ValueError, match="expected an lr_encoder"):
        HierarchicalFlow([FlowLevel(squeeze=Squeeze(), steps=steps, image_channels=6), last])
    with pytest.raises(ValueError, match="cannot give it, too"):
        HierarchicalFlow([FlowLevel(squeeze=Squeeze(), steps=[], image_channels=3)], lr_encoder=lambda lr: [lr])
