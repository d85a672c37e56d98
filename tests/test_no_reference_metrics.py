"""NIQE and BRISQUE against stored stages, stored scores and the official ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from hcflow_tf.data.resize import imresize
from hcflow_tf.metrics import brisque, natural_scenes, niqe
from hcflow_tf.metrics.images import UndefinedError
from hcflow_tf.metrics.report import image_metrics
from hcflow_tf.support import cli
from hcflow_tf.support.errors import HCFlowError

PICTURES = ["leaves", "leaves_blur", "leaves_noise", "leaves_with_flat_patches", "leaves_with_constant_block"]
# Where a picture has constant windows, the official values hold MATLAB's rounding noise; I04 has none.
NIQE_NOISE = {"I03": 0.01, "I04": 1e-6, "I06": 0.002, "I08": 0.02, "I19": 0.035}
BRISQUE_NOISE = {"I03": 0.002, "I04": 1e-5, "I06": 0.002, "I08": 0.6, "I19": 2.2}


@pytest.fixture(scope="module")
def folder(shared):
    if not (shared / "fixtures/metrics/niqe_brisque.json").is_file():
        pytest.skip(f"the stored scores are not in {shared}")
    return shared / "fixtures/metrics"


@pytest.fixture(scope="module")
def stored(folder):
    return json.loads((folder / "niqe_brisque.json").read_text())


@pytest.fixture(scope="module")
def pictures(folder):
    return dict(np.load(folder / "nr_pictures.npz"))


def test_every_stage(folder, pictures):
    stages = np.load(folder / "nr_stages.npz")
    gray = natural_scenes.rgb_to_gray(pictures["leaves"])
    np.testing.assert_array_equal(gray, stages["gray"])
    np.testing.assert_array_equal(natural_scenes.rgb_to_rounded_y(pictures["leaves"]), stages["luma"])
    small = stages["gray_small"].astype(np.float64)
    np.testing.assert_array_equal(imresize(small, 0.5), stages["half_small"])
    np.testing.assert_array_equal(imresize(small[:31, :37], 0.5), stages["half_odd"])
    normalized = natural_scenes.normalize(small, "edge")
    np.testing.assert_allclose(normalized, stages["mscn_replicate"], rtol=0, atol=1e-11)
    np.testing.assert_allclose(natural_scenes.normalize(small, "constant"), stages["mscn_zero"], rtol=0, atol=1e-11)
    np.testing.assert_allclose(natural_scenes.fit_asymmetric(normalized), stages["aggd_of_mscn_replicate"], rtol=1e-10)
    product = natural_scenes.products(normalized)[0]
    np.testing.assert_allclose(natural_scenes.fit_asymmetric(product), stages["aggd_of_product_0_1"], rtol=1e-10)
    np.testing.assert_allclose(niqe.features(gray), stages["niqe_features_of_leaves"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(brisque.features(gray), stages["brisque_features_of_leaves"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", PICTURES)
def test_stored_scores(name, pictures, stored):
    image, expected = pictures[name], stored["own_pictures"][name]
    assert niqe.niqe(image) == pytest.approx(expected["niqe_gray"], abs=1e-6)
    assert niqe.niqe_y(image) == pytest.approx(expected["niqe_y"], abs=1e-6)
    assert niqe.niqe_y(image, 4) == pytest.approx(expected["niqe_y_crop4"], abs=1e-6)
    assert brisque.brisque(image) == pytest.approx(expected["brisque_gray"], abs=1e-6)
    rounded = brisque.brisque(image, release_rounding=True)
    assert rounded == pytest.approx(expected["brisque_gray_release_rounding"], abs=1e-6)
    assert niqe.niqe(image.astype(np.float32)) == niqe.niqe(image)


def test_set5(shared, stored):
    folder = shared / "data/eval/Set5/x4/HR"
    if not folder.is_dir():
        pytest.skip(f"Set5 is not at {folder}")
    rows = []
    for path in sorted(folder.glob("*.png")):
        image = np.array(Image.open(path).convert("RGB"))
        rows.append([niqe.niqe(image), niqe.niqe_y(image), niqe.niqe_y(image, 4), brisque.brisque(image)])
    mean = stored["sets"]["Set5/HR"]["mean"]
    expected = [mean[name] for name in ("niqe_gray", "niqe_y", "niqe_y_crop4", "brisque_gray")]
    np.testing.assert_allclose(np.mean(rows, axis=0), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NIQE_NOISE)
def test_official_scores(name, folder, stored):
    path = folder / f"calibration/{name}_dist.png"
    if not path.is_file():
        pytest.skip(f"TID2013's pictures may not travel with the project; {path} is absent")
    image, official = np.array(Image.open(path).convert("RGB")), stored["official"]
    assert niqe.niqe(image) == pytest.approx(official["niqe"][name], abs=NIQE_NOISE[name])
    score = brisque.brisque(image, release_rounding=True)
    assert score == pytest.approx(official["brisque"][name], abs=BRISQUE_NOISE[name])


def test_a_constant_block_is_exactly_zero():
    # 81.3 is no binary fraction: without the threshold its window sums leave values around 1e-13.
    assert not natural_scenes.normalize(np.full((20, 20), 81.3), "edge").any()


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: niqe.niqe(noise(95, 400)), UndefinedError, "two blocks of 96 x 96 pixels, got an image of 95 x 400"),
        (lambda: niqe.niqe(noise(191, 191)), UndefinedError, "191 x 191"),
        (lambda: niqe.niqe_y(noise(96, 192), 4), UndefinedError, "88 x 184"),
        (lambda: niqe.niqe(np.full((96, 192, 3), 90, np.uint8)), UndefinedError, "2 of 2 blocks"),
        (lambda: brisque.brisque(noise(13, 40)), UndefinedError, "at least 14 x 14 pixels, got 13 x 40"),
        (lambda: brisque.brisque(np.zeros((40, 40, 3), np.uint8)), UndefinedError, "constant areas only"),
        (lambda: niqe.niqe(np.full((96, 192, 3), np.inf)), HCFlowError, "NaN or infinity"),
        (lambda: brisque.brisque(np.full((96, 192, 3), np.nan)), HCFlowError, "NaN or infinity"),
        (lambda: brisque.brisque(np.zeros((96, 192))), HCFlowError, r"RGB image \[H, W, 3\]"),
    ],
)
def test_images_without_a_score(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_smallest_images_with_a_score():
    assert np.isfinite([niqe.niqe(noise(192, 96)), niqe.niqe_y(noise(104, 200), 4), brisque.brisque(noise(14, 14))]).all()


def test_report_holds_what_was_asked_for(pictures):
    sr, hr = pictures["leaves_blur"], pictures["leaves"]
    figures = image_metrics(sr, hr, 4, ["brisque", "psnr", "niqe", "niqe_y"])
    assert list(figures) == ["psnr_rgb", "psnr_y", "niqe", "niqe_y", "brisque"]
    assert figures["niqe"] == niqe.niqe(sr) != niqe.niqe(hr)
    assert figures["niqe_y"] == niqe.niqe_y(sr, 4)
    assert list(image_metrics(sr, hr, 4)) == ["psnr_rgb", "ssim_rgb", "psnr_y", "ssim_y"]


def test_evaluate_metrics(tmp_path, capsys):
    smooth = imresize(noise(26, 52), 8)
    Image.fromarray(smooth).save(tmp_path / "a.png")
    Image.fromarray(smooth[:64, :64]).save(tmp_path / "small.png")
    output = tmp_path / "report.json"
    arguments = ["--model", "bicubic", "--hr", str(tmp_path), "--output", str(output), "--metrics", "niqe", "brisque"]
    assert cli.execute("evaluate", arguments) == 0
    captured = capsys.readouterr()
    assert "small.png, restored: no niqe: NIQE needs two blocks" in captured.err
    assert "niqe at 0.0: of 1 of 2 images" in captured.out
    report = json.loads(output.read_text())
    assert report["images"].keys() == {"a.png", "small.png"}
    assert report["images"]["small.png"]["temperature"]["0.0"].keys() == {"brisque", "consistency", "lr_psnr"}
    restored = imresize(imresize(smooth, 1 / 4), 4)
    mean = report["mean"]["temperature"]["0.0"]
    assert mean["niqe"] == pytest.approx(niqe.niqe(restored), abs=1e-9)
    images = [report["images"][name]["brisque"] for name in ("a.png", "small.png")]
    assert images[0] == pytest.approx(brisque.brisque(restored), abs=1e-9)
    assert mean["brisque"] == pytest.approx(np.mean(images), abs=1e-9)
    assert set(mean) == {"niqe", "brisque", "consistency", "lr_psnr"}
    assert report["mean"]["brisque"] == mean["brisque"]
    assert "psnr_y" not in report["mean"]
    assert cli.execute("evaluate", [*arguments[:-2], "nique"]) == 2
    known = "psnr, ssim, lpips, lpips_vgg, niqe, niqe_y, brisque"
    assert f"--metrics nique: there is no such metric; known: {known}" in capsys.readouterr().err
