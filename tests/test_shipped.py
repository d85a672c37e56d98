"""The models that ship with the package: found by name, undamaged, small, good, and taken without --model."""

from __future__ import annotations

import json
import pathlib
import shutil

import numpy as np
import pytest
import skimage
from PIL import Image
from tiny import photograph, tiny_config, tiny_model

import hcflow_tf
from hcflow_tf.data.samples import held_out_photographs
from hcflow_tf.images.images import read_image, write_image
from hcflow_tf.inference.panels import CROP
from hcflow_tf.support import cli
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.weights import shipped

# Limits of weights, MB of files; dB of Y at temperature 0 (means) on Set5, Set14 and BSD100: for rescaling above those of CAR
# with EDSR, for super-resolution above those of SRCNN.
MODELS = {
    "rescale-x4-compact": (0.6e6, 2.5, {"Set5": 33.9, "Set14": 30.4, "BSD100": 29.2}),
    "rescale-x4-compact-2": (0.6e6, 2.5, {"Set5": 34.2, "Set14": 30.5, "BSD100": 30.1}),
    "rescale-x4-compact-3": (0.6e6, 2.5, {"Set5": 34.1, "Set14": 30.5, "BSD100": 30.1}),
    "face-x8-compact": (2.5e6, 5.0, {}),
    "sr-x4-compact": (1.5e6, 6.0, {"Set5": 30.5, "Set14": 27.5, "BSD100": 26.9}),
    "sr-x4-compact-2": (2e6, 6.0, {"Set5": 30.8, "Set14": 27.7, "BSD100": 27.0}),
    "sr-x4-compact-3": (2e6, 6.0, {"Set5": 31.3, "Set14": 28.0, "BSD100": 27.3}),  # VDSR's
}

OTHERS = {"rescale-x4-compact", "rescale-x4-compact-2", "sr-x4-compact", "face-x8-compact"}
"""No command takes them by itself: earlier versions are kept for the LR images and results that they made, one is for faces."""


def test_they_are_listed():
    assert hcflow_tf.list_models() == sorted(MODELS)
    assert set(shipped.DEFAULT_MODEL.values()) == set(MODELS) - OTHERS


@pytest.mark.parametrize("name", MODELS)
def test_they_are_small_and_fit_their_config(name):
    max_weights, max_megabytes, _ = MODELS[name]
    model = hcflow_tf.load_model(name)
    assert model.count_params() <= max_weights
    files = list(shipped.shipped_model(name).iterdir())
    guard = ["guard.json"] if model.needs_guard else []
    without_tensorflow = ["temperature_0.onnx", *(["temperature_0_encoder.onnx"] if model.config.makes_lr else [])]
    light = name in (shipped.DEFAULT_MODEL["upscale"], shipped.DEFAULT_MODEL["downscale"])
    names = ["about.json", "config.yaml", *guard, *(without_tensorflow if light else ()), "weights.npz"]
    assert sorted(file.name for file in files) == names
    assert sum(file.stat().st_size for file in files if file.suffix != ".onnx") <= max_megabytes * 1e6
    assert sum(file.stat().st_size for file in shipped.DIRECTORY.glob("*/*")) <= 30e6
    assert (pathlib.Path(__file__).parents[1] / f"docs/models/{name}.md").is_file()


def test_a_damaged_one_is_refused(tmp_path, monkeypatch):
    shutil.copytree(shipped.DIRECTORY, tmp_path / "models")
    monkeypatch.setattr(shipped, "DIRECTORY", tmp_path / "models")
    weights = tmp_path / "models/sr-x4-compact/weights.npz"
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 1
    weights.write_bytes(content)
    with pytest.raises(HCFlowError, match=r"sr-x4-compact/weights.npz is not the file that was shipped"):
        hcflow_tf.load_model("sr-x4-compact")
    hcflow_tf.load_model("rescale-x4-compact")
    with pytest.raises(HCFlowError, match=f"or one of the shipped: {', '.join(sorted(MODELS))}$"):
        hcflow_tf.load_model("sr-x5")


def test_ship_keeps_nothing_of_the_training_machine(tmp_path, monkeypatch):
    config = hcflow_tf.Config(
        model=tiny_config("rescaling", width=6), losses={"nll": 0, "pixel": 1}, data={"train": {"hr": "/home/someone/photos"}}
    )
    hcflow_tf.save_model(tiny_model("rescaling"), tmp_path / "run", config)
    monkeypatch.setattr(shipped, "DIRECTORY", tmp_path / "models")
    directory = shipped.ship(tmp_path / "run", "mine", "2.0")
    assert "someone" not in (directory / "config.yaml").read_text()
    assert json.loads((directory / "about.json").read_text())["version"] == "2.0"
    assert shipped.list_models() == ["mine"]
    assert shipped.shipped_model("mine") == directory


def test_ship_rounds_the_kernels_of_feature_extractors_alone(tmp_path, monkeypatch):
    model = tiny_model("super_resolution", scale=2)
    hcflow_tf.save_model(model, tmp_path / "run")
    monkeypatch.setattr(shipped, "DIRECTORY", tmp_path / "models")
    stored = dict(np.load(shipped.ship(tmp_path / "run", "mine", "2.0") / "weights.npz"))
    for name, variable in model.named_weights().items():
        half = "/feature_extractor/" in name and name.endswith("/kernel")
        assert stored[name].dtype == (np.float16 if half else np.float32)
        np.testing.assert_array_equal(stored[name], variable.numpy().astype(stored[name].dtype))
    loaded = hcflow_tf.load_model("mine")  # its guard was measured with the rounded weights
    assert {str(weight.dtype) for weight in loaded.weights} == {"float32"}
    hr = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    np.testing.assert_allclose(loaded.decode(*loaded.encode(hr)), hr, atol=2e-5)
    np.testing.assert_allclose(loaded.encode(hr)[0], model.encode(hr)[0], atol=1e-6)  # the LR image needs no extractor


def test_gray_pictures_keep_what_restores_them(tmp_path, monkeypatch):
    """In a faint tint of the LR image; what is restored is gray, also of a picture that was stored as RGB."""
    monkeypatch.chdir(tmp_path)
    gray = Image.fromarray(skimage.data.chelsea()[60:220, 100:300]).convert("L")
    gray.save("gray.png")
    gray.convert("RGB").save("rgb.png")
    assert cli.execute("downscale", ["gray.png", "rgb.png", "-o", "small"]) == 0
    assert cli.execute("upscale", ["small", "-o", "restored"]) == 0
    for name in ("gray", "rgb"):
        lr = np.asarray(Image.open(f"small/{name}.png"), float)
        assert 0 < np.abs(lr - lr.mean(axis=-1, keepdims=True)).mean() <= 3
        restored = np.asarray(Image.open(f"restored/{name}.png").convert("RGB"), float)
        assert not np.ptp(restored, axis=-1).any()
        assert 10 * np.log10(255**2 / np.mean((restored[..., 0] - np.asarray(gray)) ** 2)) >= 30  # 28.1 without the tint


@pytest.mark.parametrize(
    ("name", "gain"),
    [("rescale-x4-compact", 2.7), ("rescale-x4-compact-3", 2.7), ("sr-x4-compact-2", 0.8), ("sr-x4-compact-3", 1.0)],
)
def test_they_beat_bicubic_on_a_photograph_that_they_have_not_seen(name, gain, tmp_path):
    coffee = next(file for file in held_out_photographs() if file.stem == "coffee")
    shutil.copy(coffee, tmp_path)
    psnr = {}
    for model in (name, "bicubic"):
        output = str(tmp_path / f"{model}.json")
        assert cli.execute("evaluate", ["--model", model, "--hr", str(tmp_path), "--temperature", "0", "--output", output]) == 0
        psnr[model] = json.loads(pathlib.Path(output).read_text())["mean"]["temperature"]["0.0"]["psnr_y"]
    assert psnr[name] > psnr["bicubic"] + gain


def test_compare_shows_samples_and_their_spread_of_super_resolution(tmp_path):
    write_image(tmp_path / "hr/photo.png", photograph(64, 64))
    for name, panels in (("rescale-x4-compact", 4), ("sr-x4-compact-2", 7)):
        picture = tmp_path / f"{name}.png"
        assert cli.execute("compare", ["--model", name, "--hr", str(tmp_path / "hr"), "-o", str(picture)]) == 0
        assert read_image(picture).rgb.shape[1] == panels * (CROP + 6) + 6


SLOW = pytest.mark.slow


@pytest.mark.parametrize("dataset", ["Set5", pytest.param("Set14", marks=SLOW), pytest.param("BSD100", marks=SLOW)])
@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name][2]])
def test_they_are_as_good_as_promised(name, dataset, shared, tmp_path):
    report = tmp_path / "report.json"
    folder = shared / f"data/eval/{dataset}/x4"
    folders = ["--hr", str(folder / "HR")] + (["--lr", str(folder / "LR")] if name.startswith("sr") else [])
    assert cli.execute("evaluate", ["--model", name, *folders, "--temperature", "0", "--output", str(report)]) == 0
    mean = json.loads(report.read_text())["mean"]["temperature"]["0.0"]
    assert mean["psnr_y"] >= MODELS[name][2][dataset]
    if name.startswith("sr"):
        assert mean["lr_psnr"] >= 45
        assert mean["consistency"] >= 40


@pytest.mark.slow
def test_faces_are_as_good_as_promised(shared, tmp_path):
    folder, mean = str(shared / "data/eval_faces"), {}
    for model in ("face-x8-compact", "bicubic"):
        report = tmp_path / f"{model}.json"
        options = ["--scale", "8", "--temperature", "0", "--output", str(report)]
        assert cli.execute("evaluate", ["--model", model, "--hr", folder, *options]) == 0
        mean[model] = json.loads(report.read_text())["mean"]["temperature"]["0.0"]
    assert mean["face-x8-compact"]["psnr_y"] >= mean["bicubic"]["psnr_y"] + 2.5
    assert mean["face-x8-compact"]["lr_psnr"] >= 45


# Commands without --model.


@pytest.fixture
def photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image("photo.png", photograph(41, 50))
    return "photo.png"


def test_downscale_and_upscale_without_a_model_restore_with_the_one_that_shrank(photo, capsys):
    assert cli.execute("downscale", [photo, "-o", "small"]) == 0
    assert "50 x 41 -> 13 x 11, " in (told := capsys.readouterr().err)
    assert " bytes, bicubic " in told
    with Image.open("small/photo.png") as small:
        assert small.info["hcflow_model"] == "rescale-x4-compact-3"
    assert cli.execute("upscale", ["small", "-o", "big"]) == 0
    assert "13 x 11 -> 50 x 41, rescale-x4-compact-3" in capsys.readouterr().err
    assert cli.execute("upscale", ["--model", "rescale-x4-compact-3", "small", "-o", "named"]) == 0
    np.testing.assert_array_equal(read_image("big/photo.png").rgb, read_image("named/photo.png").rgb)


def test_a_file_of_the_first_rescaling_model_is_restored_by_it(photo, capsys):
    assert cli.execute("downscale", ["--model", "rescale-x4-compact", photo, "-o", "small"]) == 0
    assert cli.execute("upscale", ["small", "-o", "big"]) == 0
    assert "13 x 11 -> 50 x 41, rescale-x4-compact (" in capsys.readouterr().err


def test_upscale_without_a_model_takes_super_resolution_for_other_images(photo, capsys):
    assert cli.execute("downscale", ["--model", "bicubic", photo, "-o", "small.png"]) == 0
    assert cli.execute("upscale", ["small.png", "-o", "big"]) == 0
    assert "13 x 11 -> 50 x 41, sr-x4-compact-3 (" in capsys.readouterr().err
    for option in (["--temperature", "0.5"], ["--samples", "2"]):
        assert cli.execute("upscale", ["small.png", "-o", option[0].strip("-"), *option]) == 0
        assert "13 x 11 -> 50 x 41, sr-x4-compact-2 (" in capsys.readouterr().err


def test_upscale_without_a_model_does_not_guess_another_rescaling_model(photo, capsys):
    shutil.copytree(shipped.DIRECTORY / "rescale-x4-compact", "mine")
    assert cli.execute("downscale", ["--model", "mine", photo, "-o", "small"]) == 0
    capsys.readouterr()
    assert cli.execute("upscale", ["small", "-o", "big"]) == 1
    told = capsys.readouterr().err
    assert told == (
        "hcflow upscale: small/photo.png: was downscaled by a model that does not ship with this program; give it as --model\n"
    )
