"""The guard: samples of pictures unlike photographs stay finite, and those of photographs as they are."""

from __future__ import annotations

import json
import pathlib
import runpy
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny import tiny_config

import hcflow_tf
from hcflow_tf.info import PARTLY_UNLIKE, UNLIKE
from hcflow_tf.models.folded import InferenceModel
from hcflow_tf.models.guard import QUANTILE, ensure_guard, measure_caps, sample_lr_images, share_at_caps
from hcflow_tf.models.hcflow import HCFlow
from hcflow_tf.runtimes.keras import KerasRuntime
from hcflow_tf.runtimes.open import open_runtime
from hcflow_tf.support import cli
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.weights.store import GUARD_FILE, assign_weights, load_model, save_model


@pytest.fixture(scope="module")
def shipped() -> InferenceModel:
    return InferenceModel(hcflow_tf.load_model("sr-x4-compact"))


def unusual(size: int = 24) -> dict[str, np.ndarray]:
    """LR pictures [1, size, size, 3] that a photograph does not look like."""
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:size, :size]
    flat = {
        "checkerboard": (x + y) % 2,
        "dither": rng.random((size, size)) < x / size,
        "stripes": x % 2,
        "noise": np.clip(0.5 + rng.normal(0, 50 / 255, (size, size)), 0, 1),
    }
    return {name: np.repeat(np.asarray(value, np.float32)[None, :, :, None], 3, axis=-1) for name, value in flat.items()}


@pytest.mark.parametrize("temperature", [0.5, 0.8, 1.2])
def test_samples_of_unusual_pictures_are_finite(shipped, temperature):
    exploded = 0
    for name, lr in unusual().items():
        for seed in range(3):
            latents = shipped.draw_latents(lr.shape, temperature, seed)
            guarded = shipped.decode(lr, latents, guard=True).numpy()
            assert np.isfinite(guarded).all() and np.abs(guarded).max() < 10, (name, seed)
            free = shipped.decode(lr, latents).numpy()
            exploded += not np.isfinite(free).all() or np.abs(free).max() > 100
    assert exploded >= 3  # without the guard: else this test would show nothing


def test_photographs_hardly_change(shipped):
    for lr in sample_lr_images(4, side=48)[:3]:
        latents = shipped.draw_latents((1, *lr.shape), 0.8, 0)
        free, guarded = (np.clip(shipped.decode(lr[None], latents, guard=guard), 0, 1) for guard in (False, True))
        assert np.abs(free - guarded).mean() < 1.5 / 255


def test_temperature_0_and_decode_are_exact(shipped):
    lr = unusual()["noise"]
    np.testing.assert_array_equal(shipped.sample(lr, 0.0, 0), shipped.sample(lr, 0.0, 0, guard=False))
    model = hcflow_tf.load_model("sr-x4-compact")
    latents = shipped.draw_latents(lr.shape, 0.3, 0)
    np.testing.assert_allclose(shipped.decode(lr, latents), model.decode(lr, latents), atol=1e-3)


def test_caps_are_kept_with_the_model_and_checked(tmp_path):
    model = hcflow_tf.load_model("sr-x4-compact")
    save_model(model, tmp_path / "m")
    assert load_model(tmp_path / "m").log_std_caps == model.log_std_caps
    (tmp_path / "m" / GUARD_FILE).write_text('{"log_std_caps": [[1.0]]}')
    with pytest.raises(HCFlowError, match=r"guard.json is not of this model: delete it"):
        load_model(tmp_path / "m")
    (tmp_path / "m" / GUARD_FILE).write_text("{")
    with pytest.raises(HCFlowError, match=r"guard.json cannot be read .*: delete it"):
        load_model(tmp_path / "m")
    model.set_guard(None)
    save_model(model, tmp_path / "m")
    assert not (tmp_path / "m" / GUARD_FILE).exists()


def test_a_model_without_caps_gets_them_at_its_first_sample(tmp_path, monkeypatch):
    from hcflow_tf.models import guard

    model = hcflow_tf.load_model("sr-x4-compact")
    model.set_guard(None)
    save_model(model, tmp_path / "m")
    monkeypatch.setattr(guard, "sample_lr_images", lambda scale: sample_lr_images(scale, side=24)[:2])
    lr, shapes = unusual(16)["checkerboard"], [(1, 32, 32, 6), (1, 16, 16, 21)]
    runtime = KerasRuntime(tmp_path / "m")
    runtime.decode(lr, [np.zeros(shape, np.float32) for shape in shapes])
    assert runtime._unguarded is not None  # temperature 0 needs none
    latents = [0.8 * np.random.default_rng(0).standard_normal(shape).astype(np.float32) for shape in shapes]
    assert np.isfinite(runtime.decode(lr, latents)).all() and runtime._unguarded is None
    assert not np.isfinite(KerasRuntime(tmp_path / "m", guard=False).decode(lr, latents)).all()


def test_rescaling_models_need_no_guard_and_bounded_ones_do():
    rescaling = hcflow_tf.load_model("rescale-x4-compact")
    assert not rescaling.needs_guard
    ensure_guard(rescaling)
    assert rescaling.log_std_caps is None
    assert HCFlow(tiny_config("super_resolution")).needs_guard


def test_caps_are_the_quantile_of_what_the_photographs_need():
    model = hcflow_tf.load_model("sr-x4-compact")
    images = sample_lr_images(4, side=24)[:1]
    caps = measure_caps(model, images)
    seen: list[np.ndarray] = []
    flow = model.guarded_flow([[np.inf] * len(level) for level in caps])
    flow.levels[1].gaussian.observe(lambda log_std: seen.append(log_std.numpy()))
    flow.decode(tf.constant(images[0][None]), model.draw_latents((1, *images[0].shape), 0.8, 0))
    np.testing.assert_allclose(caps[1], np.quantile(seen[-1].reshape(-1, 21), 0.99, axis=0), rtol=1e-5)


@pytest.mark.parametrize("kind", ["onnx", pytest.param("tflite", marks=pytest.mark.slow)])
def test_exports_carry_the_guard(shipped, kind, tmp_path):
    from exports import export

    path, lr = tmp_path / f"m.{kind}", unusual(16)["checkerboard"]
    options = () if kind == "onnx" else ("--lr-size", "16x16")
    assert export(kind, "--model", "sr-x4-compact", "--output", path, *options, guard=True) == 0
    latents = [z.numpy() for z in shipped.draw_latents(lr.shape, 0.8, 0)]
    decoded = open_runtime(path).decode(lr, latents)
    expected = shipped.decode(lr, latents, guard=True).numpy()
    assert np.abs(decoded - expected).max() < 1e-3 * np.abs(expected).max()


def test_the_share_at_the_caps_tells_photographs_from_other_pictures():
    model = hcflow_tf.load_model("sr-x4-compact")
    photographs = [share_at_caps(model, model.log_std_caps, lr) for lr in sample_lr_images(4, side=40)[:4]]
    others = {name: share_at_caps(model, model.log_std_caps, lr[0]) for name, lr in unusual().items()}
    assert max(photographs) < PARTLY_UNLIKE < UNLIKE < min(others.values()), (photographs, others)


def test_the_share_at_the_caps_is_1_percent_where_they_were_measured_also_of_a_bounded_model_and_in_blocks():
    model = hcflow_tf.load_model("sr-x4-compact")
    lr = sample_lr_images(4, side=24)[0]
    bounded = HCFlow(model.config.model_copy(update={"log_std_bound": 0.5}))
    assign_weights(bounded, {name: np.asarray(weight) for name, weight in model.named_weights().items()}, source="shipped")
    for each in (model, bounded):
        caps = measure_caps(each, [lr])
        assert share_at_caps(each, caps, lr) == pytest.approx(1 - QUANTILE, abs=2e-3)
    blocks = [share_at_caps(bounded, caps, block) for block in (lr[:16, :16], lr[:16, 16:])]
    expected = np.average(blocks, weights=[16, lr.shape[1] - 16])
    assert share_at_caps(bounded, caps, lr[:16], side=16) == pytest.approx(expected)


def test_info_says_how_well_the_model_knows_pictures(tmp_path, capsys):
    for name, lr in (("photo", sample_lr_images(4, side=24)[0]), ("checkerboard", unusual()["checkerboard"][0])):
        Image.fromarray(np.uint8(255 * lr + 0.5)).save(tmp_path / f"{name}.png")
    (tmp_path / "bad.png").write_text("no picture")
    assert cli.execute("info", ["--model", "sr-x4-compact", str(tmp_path)]) == 1
    output, errors = capsys.readouterr()
    checkerboard, photo = output.splitlines()
    assert "checkerboard.png: 100.0% of its details" in checkerboard and "unlike them" in checkerboard
    assert "photo.png: " in photo and photo.endswith("as photographs are")
    assert "bad.png: not a PNG" in errors


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (["--model", "bicubic"], "give --model with a model directory"),
        (["--config", "sr_x4"], "give --model with a model directory"),
        (["--model", "rescale-x4-compact"], "only a conditional super-resolution model"),
    ],
)
def test_info_refuses_pictures_where_there_is_nothing_to_say(model, message, tmp_path, capsys):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    assert cli.execute("info", [*model, str(tmp_path / "a.png")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("guard", [True, False])
def test_the_documented_measure(guard, tmp_path, monkeypatch, capsys):
    """benchmarks/robustness.py on the sample photographs and made pictures: what docs/usage.md promises."""
    report = tmp_path / "report.json"
    options = ["--side", "24", "--seeds", "3", "--temperature", "0", "0.8", "1.2", "--output", str(report)]
    monkeypatch.setattr(sys, "argv", ["robustness.py", *options, *([] if guard else ["--no-guard"])])
    runpy.run_path(str(pathlib.Path(__file__).parents[1] / "benchmarks/robustness.py"), run_name="__main__")
    kinds = json.loads(report.read_text())
    assert set(kinds) >= {"photographs", "noise 50", "JPEG 20", "checkerboard of LR pixels", "flat colours"}
    assert kinds["photographs"]["beyond"] < PARTLY_UNLIKE < UNLIKE < kinds["noise 30"]["beyond"]
    non_finite = max(figures["non_finite"] for kind in kinds.values() for figures in kind["temperature"].values())
    if guard:
        assert non_finite == 0
        assert all(figures["outside"] < 1e-3 for figures in kinds["photographs"]["temperature"].values())
    else:
        assert non_finite > 0.5
    assert "checkerboard of LR pixels (1)" in capsys.readouterr().out
