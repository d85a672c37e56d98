"""LR images that are fitted to their HR image: restored better, no worse to look at, and what the option refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import skimage
import tensorflow as tf
from PIL import Image

from hcflow_tf.data.resize import imresize
from hcflow_tf.models.folded import InferenceModel
from hcflow_tf.models.refinement import RATE, Refinement
from hcflow_tf.runtimes.open import open_runtime
from hcflow_tf.support import cli
from hcflow_tf.weights.store import load_model
from tests.tiny import tiny_model

RESCALING = "rescale-x4-compact-3"


@pytest.fixture(scope="module")
def cat():
    """Part of a photograph, [64, 96, 3] float32."""
    return skimage.data.chelsea()[90:154, 120:216].astype(np.float32) / np.float32(255)


@pytest.fixture(scope="module")
def model():
    return InferenceModel(load_model(RESCALING))


@pytest.fixture(scope="module")
def refinement(model):
    """Its graph, which takes most of the time, is made once."""
    return Refinement(model)


def objective(model, lr, hr, bicubic) -> float:
    restored = np.clip(model.decode(lr), 0, 1)
    return 0.5 * np.sum((restored - hr) ** 2) + 0.5 * model.scale**2 * np.sum((lr - bicubic) ** 2)


def psnr(a, b) -> float:
    return float(-10 * np.log10(np.mean((np.asarray(a) - np.asarray(b)) ** 2)))


def to_8_bits(image):
    return (np.round(np.clip(image, 0, 1) * 255) / 255).astype(np.float32)


def test_a_photograph_is_restored_better(model, refinement, cat):
    hr, bicubic = cat[None], imresize(cat, 1 / 4).astype(np.float32)[None]
    encoded = np.asarray(model.downscale(hr))
    refined = refinement(hr, encoded, bicubic, 6)
    np.testing.assert_array_equal(refined, to_8_bits(refined))
    before, after = (psnr(np.clip(model.decode(lr), 0, 1), hr) for lr in (to_8_bits(encoded), refined))
    assert after >= before + 0.5
    assert psnr(refined, bicubic) >= psnr(to_8_bits(encoded), bicubic)


def test_no_step_makes_it_worse(model, refinement, cat, monkeypatch):
    """Not even at a rate at which the descent diverges."""
    hr, bicubic = cat[None], imresize(cat, 1 / 4).astype(np.float32)[None]
    encoded = to_8_bits(model.downscale(hr))
    monkeypatch.setattr("hcflow_tf.models.refinement.RATE", 100 * RATE)
    values = [objective(model, refinement(hr, encoded, bicubic, steps), hr, bicubic) for steps in (0, 1, 3, 8)]
    assert values == sorted(values, reverse=True)
    np.testing.assert_allclose(values[0], objective(model, encoded, hr, bicubic), rtol=1e-6)
    assert values[-1] < values[0]


def test_gradient_is_that_of_the_objective(cat):
    small = InferenceModel(tiny_model("rescaling", dtype="float64"))
    hr = tf.constant(cat[None, :16, :16], tf.float64)
    lr = tf.random.stateless_uniform([1, 4, 4, 3], seed=(0, 1), dtype="float64")
    refinement, bicubic = Refinement(small), tf.zeros_like(lr)
    _, gradient = refinement._value_and_gradient(lr, hr, bicubic)
    direction = tf.random.stateless_normal(lr.shape, seed=(2, 3), dtype="float64")
    above, below = (refinement._value_and_gradient(lr + sign * 1e-6 * direction, hr, bicubic)[0] for sign in (1, -1))
    np.testing.assert_allclose((above - below) / 2e-6, tf.reduce_sum(gradient * direction), rtol=1e-5)


def test_values_beyond_black_and_white_are_no_error(model, refinement):
    """They are clipped in the end."""
    lr = np.full((1, 6, 6, 3), 1.0, np.float32)
    decoded = model.decode(lr).numpy()
    for hr, beyond in ((np.ones_like(decoded), decoded > 1), (np.zeros_like(decoded), decoded < 0)):
        value, _ = refinement._compiled(tf.constant(lr), tf.constant(hr), tf.constant(lr))
        np.testing.assert_allclose(value, 0.5 * np.sum(np.where(beyond, 0, decoded - hr) ** 2), rtol=1e-4)


def test_commands(cat, tmp_path, monkeypatch, capsys):
    """A downscaled file is restored better; `evaluate` measures the same, and says so."""
    monkeypatch.chdir(tmp_path)
    hr = np.round(cat * 255).astype(np.uint8)
    (tmp_path / "hr").mkdir()
    Image.fromarray(hr).save("hr/cat.png")
    figures = {}
    for steps in ("0", "4"):
        option = [] if steps == "0" else ["--refine", steps]
        assert cli.execute("downscale", ["hr/cat.png", "-o", f"{steps}.png", "--model", RESCALING, *option]) == 0
        assert cli.execute("upscale", [f"{steps}.png", "-o", f"{steps}_hr.png"]) == 0
        arguments = ["--model", RESCALING, "--hr", "hr", "--output", f"{steps}.json", "--metrics", "psnr"]
        assert cli.execute("evaluate", [*arguments, *option]) == 0
        report = json.loads((tmp_path / f"{steps}.json").read_text())
        assert report["settings"]["refine"] == int(steps)
        restored = np.asarray(Image.open(f"{steps}_hr.png"))[4:-4, 4:-4] / 255
        figures[steps] = psnr(restored, hr[4:-4, 4:-4] / 255)
        assert report["mean"]["psnr_rgb"] == pytest.approx(figures[steps], abs=0.02)
    assert figures["4"] >= figures["0"] + 0.4
    assert f"{RESCALING} x4, 4 steps of refinement, mean of 1 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--model", "bicubic"], "--refine 3: takes gradients, which bicubic has none of; give a model directory or name"),
        (
            ["--model", "sr-x4-compact"],
            "--refine 3: is for rescaling models, which make their own LR images; sr-x4-compact is none",
        ),
        (["--runtime", "onnx"], "--refine 3: takes gradients, which only --runtime keras with --precision float32 has"),
    ],
)
def test_what_cannot_be_refined(arguments, complaint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32)).save("a.png")
    assert cli.execute("downscale", ["a.png", "-o", "b.png", "--refine", "3", *arguments]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "b.png").exists()


def test_images_of_another_program_are_made_already(tmp_path, capsys):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    assert cli.execute("evaluate", ["--images", str(tmp_path), "--hr", str(tmp_path), "--refine", "3"]) == 2
    assert "--refine is for --model" in capsys.readouterr().err
    for option in ("--seed", "--tile"):  # 0 is a value too
        assert cli.execute("evaluate", ["--images", str(tmp_path), "--hr", str(tmp_path), option, "0"]) == 2
        assert f"{option} is for --model" in capsys.readouterr().err


def test_a_tile_at_a_time_is_nearly_as_good(cat):
    from hcflow_tf.inference.scaling import Scaler

    runtime = open_runtime(RESCALING, refine=3)
    whole, tiled = (Scaler(runtime, tile).downscale(cat) for tile in (0, 16))
    plain = Scaler(open_runtime(RESCALING), 0)
    before, of_whole, of_tiles = (psnr(plain.upscale(to_8_bits(lr)), cat) for lr in (plain.downscale(cat), whole, tiled))
    assert abs(of_whole - of_tiles) <= 0.1
    assert of_tiles >= before + 0.3
