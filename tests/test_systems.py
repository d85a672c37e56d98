"""Every system beside HCFlow under every command: trained, evaluated, run, exported, described; refused what it cannot do."""

from __future__ import annotations

import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from exports import export
from tiny import photograph
from training_runs import batch, make_config, make_step, weights_of

from hcflow_tf.config import Config, IRNConfig, RRDBConfig, SRFlowConfig, SystemConfig, load_config, parse_config
from hcflow_tf.images.images import read_image, write_image
from hcflow_tf.models.folded import InferenceModel
from hcflow_tf.models.systems import make_model
from hcflow_tf.models.trained_model import TrainedModel
from hcflow_tf.runtimes.keras import KerasRuntime
from hcflow_tf.runtimes.open import open_runtime
from hcflow_tf.support import cli
from hcflow_tf.weights.store import load_model, save_model

TINY: dict[str, SystemConfig] = {
    "irn": IRNConfig(scale=4, blocks=(1, 2), growth=4),
    "rrdb": RRDBConfig(scale=4, blocks=2, features=6, growth=4),
    "srflow": SRFlowConfig(
        scale=4, plain_steps=1, steps=1, width=4, rrdb_blocks=2, rrdb_features=4, rrdb_growth=2, stacked_blocks=(1, 0)
    ),
}
"""The smallest hyperparameters that still have every part."""
LOSSES = {
    "irn": "{nll: 0, reduction: sum, pixel: 1, pixel_epsilon: 1e-6, pixel_temperature: 1, lr: 16, latent: 1, clip: false, "
    "separate_updates: false}",
    "rrdb": "{nll: 0, pixel: 1, clip: false}",
    "srflow": "{nll: 1, quantization_levels: 32, centered_noise: true}",
}

every = pytest.mark.parametrize("system", TINY)


def config_of_nll(system: str) -> bool:
    """Whether the system is trained by its likelihood here."""
    return "nll: 1" in LOSSES[system]


def tiny(system: str, dtype: str = "float32") -> TrainedModel:
    """A model with non-trivial weights, the same each time; its images stay near [0, 1]."""
    keras.utils.set_random_seed(0)
    model, rng = make_model(TINY[system], dtype=dtype), np.random.default_rng(0)
    for variable in model.weights:
        variable.assign_add(0.03 * rng.standard_normal(variable.shape))
    return model


@pytest.fixture(scope="module")
def directories(tmp_path_factory) -> dict[str, pathlib.Path]:
    """A model directory of each system."""
    folder = tmp_path_factory.mktemp("models")
    for system in TINY:
        save_model(tiny(system), folder / system)
    return {system: folder / system for system in TINY}


@pytest.fixture
def photographs(tmp_path, monkeypatch) -> pathlib.Path:
    """The working directory, with two photographs in the folder hr."""
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        write_image(tmp_path / f"hr/{number}.png", photograph(32, 36 + 4 * number, seed=number))
    return tmp_path


@every
def test_model_directory_keeps_the_model(directories, system):
    model = load_model(directories[system])
    assert model.config == TINY[system]
    assert yaml.safe_load((directories[system] / "config.yaml").read_text())["model"]["system"] == system
    for name, weight in tiny(system).named_weights().items():
        np.testing.assert_array_equal(model.named_weights()[name], weight)
    clone = type(model).from_config(model.get_config())
    assert clone.config == model.config and clone.name == model.name


@every
def test_folded_form_is_equal(system):
    model = tiny(system, "float64")
    folded = InferenceModel(model)
    lr = np.random.default_rng(1).random((2, 6, 5 * model.flow.lr_multiple, 3))
    latents = model.draw_latents(lr.shape, 0.7, seed=3)
    np.testing.assert_allclose(folded.decode(lr, latents), model.decode(lr, latents), rtol=0, atol=1e-12)
    if model.can_encode:
        hr = model.decode(lr, latents)
        for ours, theirs in zip(folded.encode_and_log_det(hr)[0], (lr, *latents), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)


@every
def test_temperature_0_is_all_latents_0(system):
    model = tiny(system)
    width = 5 * model.flow.lr_multiple
    lr = np.random.default_rng(1).random((1, 6, width, 3), np.float32)
    zeros = [np.zeros((1, *latent.shape[1:]), np.float32) for latent in model.draw_latents(lr.shape, 0.0, 0)]
    np.testing.assert_allclose(model.decode(lr), model.decode(lr, zeros), rtol=0, atol=1e-6)
    assert np.shape(model.sample(lr, 0.8, seed=1)) == (1, 24, 4 * width, 3)


def test_what_rrdb_cannot_is_told():
    model = tiny("rrdb")
    assert not model.can_encode and not model.has_likelihood and model.latents == ()
    hr, lr = np.zeros((1, 8, 8, 3), np.float32), np.zeros((1, 2, 2, 3), np.float32)
    for call in (
        lambda: model.encode(hr),
        lambda: model.log_prob(hr, lr),
        lambda: model.distribution(lr),
        lambda: model.downscale(hr),
        lambda: model.flow.forward_and_log_det(hr),
    ):
        with pytest.raises(ValueError, match="rrdb: has no encoder and no likelihood, it makes hr of lr alone"):
            call()
    with pytest.raises(ValueError, match="rrdb: takes no latents, got 1"):
        model.decode(lr, [lr])


@every
def test_training_lowers_the_loss_and_leaves_a_model(photographs, system, capsys):
    config = f"""
model: {yaml.safe_dump(TINY[system].model_dump(mode="json"), default_flow_style=True, width=9999).strip()}
data: {{train: {{hr: hr}}, validation: {{hr: hr}}, crop_size: 16, cache: memory}}
losses: {LOSSES[system]}
optimizer: {{learning_rate: 2e-3, clip_value: null, clip_norm: 10, weight_decay: 1e-5}}
training: {{steps: 12, batch_size: 2, validate_every: 12, checkpoint_every: 6, log_every: 1}}
"""
    (photographs / "c.yaml").write_text(config)
    assert cli.execute("train", ["--config", "c.yaml", "--run-dir", "run", "--devices", "cpu"]) == 0
    assert cli.execute("train", ["--config", "c.yaml", "--run-dir", "run", "--devices", "cpu"]) == 0  # done: nothing to do
    log = [json.loads(line) for line in (photographs / "run/log.jsonl").read_text().splitlines()]
    rows = [row["nll" if config_of_nll(system) else "pixel"] for row in log if row["kind"] == "train"]
    assert len(rows) == 12 and np.mean(rows[-4:]) < np.mean(rows[:4])
    validation = next(row for row in log if row["kind"] == "validation")
    assert {"psnr_y", "ssim_y"} <= validation.keys() and ("bits_per_dim" in validation) == config_of_nll(system)
    assert ("lr_psnr" in validation) == TINY[system].makes_lr
    assert load_model("run").config == TINY[system]
    start = ["--set", "training.start_from=run", "--set", "training.steps=1"]
    assert cli.execute("train", ["--config", "c.yaml", "--run-dir", "more", "--devices", "cpu", *start]) == 0
    capsys.readouterr()
    start += ["--set", "optimizer.halve_at=[]"]
    assert cli.execute("train", ["--config", "quickstart", "--run-dir", "other", "--devices", "cpu", *start]) == 1
    differs = "task is rescaling" if system == "rrdb" else "system is hcflow"  # it would do for super-resolution
    assert f"run cannot become this model or a part of it: model.{differs} here, " in capsys.readouterr().err


def test_losses_of_irn_are_sums_over_an_image():
    """By NumPy, from what the model's two directions give; and the weights' own share of the gradient."""
    sizes = "{system: irn, scale: 2, blocks: [2], growth: 3}"
    overrides = [f"model={sizes}", f"losses={LOSSES['irn']}", "training.batch_size=2", "data.crop_size=8"]
    config = make_config(*overrides, "optimizer.clip_value=null", "optimizer.clip_norm=null")
    model, step = make_step(config, dtype="float64")
    hr, lr = (array.astype(np.float64) for array in batch(2, 8))
    noise = np.random.default_rng(5).standard_normal((2, 4, 4, 9))
    terms = ("pixel", "lr", "latent")
    values = step._generator_losses(terms, tf.constant(hr), tf.constant(lr), tf.constant(lr), {"normal": [tf.constant(noise)]})
    encoded, (z,) = (np.asarray(part) if not isinstance(part, list) else part for part in model.encode(hr))
    decoded = np.asarray(model.decode(np.round(encoded.clip(0, 1) * 255) / 255, [noise]))
    expected = {
        "pixel": np.sqrt((hr - decoded) ** 2 + 1e-6).sum(axis=(1, 2, 3)),
        "lr": ((encoded - lr) ** 2).sum(axis=(1, 2, 3)),
        "latent": (np.asarray(z) ** 2).sum(axis=(1, 2, 3)),
    }
    for name in terms:
        np.testing.assert_allclose(values[name], expected[name], rtol=1e-10)


def test_weight_decay_is_part_of_the_gradient():
    """With a decay so strong that it alone decides Adam's first step: the sign of each weight."""
    model, step = make_step(make_config("optimizer.weight_decay=1e6", "training.batch_size=2"))
    before = weights_of(model)
    step(*(tf.constant(array) for array in batch(2)), 0)
    step.optimizer.write_weights()
    moved = np.abs(before) > 1e-3
    assert moved.mean() > 0.5
    rate = step.config.optimizer.learning_rate
    np.testing.assert_allclose((before - weights_of(model))[moved], rate * np.sign(before[moved]), rtol=1e-3)


@every
def test_evaluate_and_upscale(directories, photographs, system, capsys):
    model, runtime = str(directories[system]), KerasRuntime(directories[system])
    draws = bool(runtime.latents)
    temperatures = ["--temperature", "0", "1"] if draws else []
    assert cli.execute("evaluate", ["--model", model, "--hr", "hr", *temperatures, "--output", "report.json"]) == 0
    report = json.loads(pathlib.Path("report.json").read_text())
    assert list(report["mean"]["temperature"]) == (["0.0", "1.0"] if draws else ["0.0"])
    assert ("consistency" in report["mean"]["temperature"]["0.0"]) != runtime.makes_lr
    small = "hr"
    if runtime.makes_lr:
        assert cli.execute("downscale", ["--model", model, "hr", "-o", "small"]) == 0
        hr = read_image("hr/0.png").rgb.astype(np.float32) / 255
        expected = np.clip(runtime.downscale(hr[None])[0], 0, 1) * 255
        assert np.abs(read_image("small/0.png").rgb - expected).max() < 0.51
        small = "small"
    assert cli.execute("upscale", ["--model", model, f"{small}/0.png", "-o", "out.png", "--tile", "0"]) == 0
    lr = read_image(f"{small}/0.png").rgb.astype(np.float32) / 255
    decoded = load_model(model).decode(lr[None]).numpy()[0]
    assert np.abs(read_image("out.png").rgb - np.clip(decoded, 0, 1) * 255).max() < 0.51
    capsys.readouterr()
    sampled = cli.execute("upscale", ["--model", model, f"{small}/0.png", "-o", "samples", "--samples", "2"])
    if draws:
        assert sampled == 0
        assert (read_image("samples/0_1.png").rgb != read_image("samples/0_2.png").rgb).any()
        assert "bits_per_dim" in report["mean"]["temperature"]["0.0"] or runtime.makes_lr
    else:
        assert sampled == 2
        assert "takes no latents: it has no temperature but 0 and one sample per image" in capsys.readouterr().err
        assert cli.execute("downscale", ["--model", model, "hr", "-o", "small"]) == 2
        assert "has no encoder: it makes no LR images" in capsys.readouterr().err


@every
def test_tiles_change_little(directories, system):
    """A decoder whose latents lie at the wrong place of a tile would show."""
    from hcflow_tf.inference.scaling import Scaler

    runtime = KerasRuntime(directories[system])
    lr = photograph(40, 44).astype(np.float32) / 255
    whole, tiled = (Scaler(runtime, tile).upscale(lr, 0.8, seed=1) for tile in (0, 32))
    assert np.abs(whole - tiled).max() < 1e-3


@every
def test_info(directories, system, capsys):
    assert cli.execute("info", ["--model", str(directories[system])]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{system}, {TINY[system].task} x4: ")
    total = next(line for line in out.splitlines() if line.startswith("total"))
    assert int(total.split()[1].replace(",", "")) == tiny(system).count_params()
    assert ("the encoder's LR image" in out) == TINY[system].makes_lr


OF_TEST_SRFLOW = (("tflite", "srflow"), ("saved_model", "srflow"))
"""What tests/test_srflow.py exports, too."""


@pytest.mark.parametrize(
    ("kind", "system"),
    [
        pytest.param(kind, system, marks=pytest.mark.slow if (kind, system) in OF_TEST_SRFLOW else ())
        for kind in ("tflite", "onnx", "saved_model")
        for system in TINY
    ],
)
def test_exports(directories, tmp_path, system, kind):
    path = tmp_path / ("served" if kind == "saved_model" else f"m.{kind}")
    options = ["--dynamic"] if kind == "tflite" else []
    assert export(kind, "--model", directories[system], "--output", path, *options) == 0
    model, runtime = load_model(directories[system]), open_runtime(path)
    assert (runtime.scale, runtime.latents, runtime.makes_lr) == (model.scale, model.latents, model.config.makes_lr)
    assert runtime.can_encode == model.can_encode
    assert runtime.has_likelihood == (model.has_likelihood and kind == "saved_model")
    multiple = model.flow.lr_multiple
    assert runtime.lr_multiple == multiple
    lr = np.random.default_rng(0).random((2, 5 * multiple, 7 * multiple, 3), np.float32)
    latents = [latent.numpy() for latent in model.draw_latents(lr.shape, 0.7, seed=5)]
    expected = model.decode(lr, latents).numpy()
    np.testing.assert_allclose(runtime.decode(lr, latents), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    if model.can_encode:
        encoded, encoded_latents = runtime.encode(expected)
        for ours, part in zip((encoded, *encoded_latents), (lr, *latents), strict=True):
            np.testing.assert_allclose(ours, part, rtol=0, atol=1e-4 * np.abs(part).max())


@pytest.mark.parametrize("name", ["irn_x4", "irn_x2", "rrdb_x4", "srflow_x4", "srflow_x8"])
def test_published_settings(name):
    """REFERENCE: crops, batches, steps, halvings of the papers, and the parameters of their models."""
    from hcflow_tf.weights.store import weight_shapes

    config = load_config(name)
    published = {"irn_x4": 4_355_376 - 240, "irn_x2": 1_668_000 - 48, "rrdb_x4": 16_697_987} | {
        "srflow_x4": 39_541_811 - 276_576,
        "srflow_x8": 40_030_531 - 276_576,
    }
    assert sum(int(np.prod(shape)) for shape in weight_shapes(config.model).values()) == published[name]
    if config.model.makes_lr:
        assert config.losses.lr == config.model.scale**2 * config.losses.pixel and config.losses.reduction == "sum"


def test_losses_that_a_system_has_by_default():
    assert parse_config("model: {system: rrdb}") == Config(model=RRDBConfig(), losses={"nll": 0, "pixel": 1})
    with pytest.raises(cli.HCFlowError, match=r"losses.nll: a model of system rrdb has no likelihood; set it to 0"):
        parse_config("model: {system: rrdb}\nlosses: {pixel: 1}")
