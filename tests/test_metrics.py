"""Metrics against stored values, scikit-image, and what their definitions give by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import structural_similarity

from hcflow_tf.data.resize import imresize
from hcflow_tf.metrics.bits_per_dim import bits_per_dim, released_nll
from hcflow_tf.metrics.consistency import consistency
from hcflow_tf.metrics.diversity import diversity
from hcflow_tf.metrics.luma import rgb_to_y
from hcflow_tf.metrics.psnr import MAX_PSNR, psnr
from hcflow_tf.metrics.report import image_metrics
from hcflow_tf.metrics.ssim import ssim
from hcflow_tf.metrics.table import format_metric, format_table, metrics_table
from hcflow_tf.support.errors import HCFlowError

# The reference values are stored with five decimals, and we agree to all of them.
STORED = 1e-5


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def noisy_pair(rng: np.random.Generator, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    smooth = imresize(rng.integers(0, 256, (12, 12, *shape[2:]), dtype=np.uint8), 12)[: shape[0], : shape[1]]
    return np.clip(smooth + rng.normal(0, 15, shape), 0, 255).astype(np.uint8), smooth


@pytest.mark.parametrize("name", ["Set5", "Set14", "BSD100"])
def test_bicubic_upscaling_has_the_reference_psnr_and_ssim(shared, name):
    reference = json.loads((shared / "fixtures/bicubic_x4_metrics.json").read_text())[name]
    folder = shared / "data/eval" / name / "x4"
    rows = []
    for image, expected in reference["images"].items():
        lr, hr = (np.array(Image.open(folder / side / f"{image}.png").convert("RGB")) for side in ("LR", "HR"))
        sr = imresize(lr, 4)
        metrics = image_metrics(sr, hr[: sr.shape[0], : sr.shape[1]], 4)
        rows.append([metrics[column] for column in reference["columns"]])
        np.testing.assert_allclose(rows[-1], expected, rtol=0, atol=STORED, err_msg=f"{name} {image}")
    np.testing.assert_allclose(np.mean(rows, axis=0), reference["mean"], rtol=0, atol=STORED)


def test_psnr_of_a_known_error():
    reference = np.full((8, 8, 3), 100, np.uint8)
    assert psnr(reference - 5, reference) == pytest.approx(20 * math.log10(255 / 5), abs=1e-12)
    assert psnr(np.zeros((4, 4)), np.full((4, 4), 255.0)) == pytest.approx(0, abs=1e-12)
    # uint8 must not wrap around: 3 - 250 is 247 apart, not 9.
    assert psnr(np.full((4, 4), 3, np.uint8), np.full((4, 4), 250, np.uint8)) == pytest.approx(20 * math.log10(255 / 247))


def test_psnr_is_finite_for_equal_images():
    image = np.full((16, 16, 3), 7, np.uint8)
    assert psnr(image, image) == MAX_PSNR
    assert psnr(image, image + 1e-9) == MAX_PSNR
    metrics = image_metrics(np.tile(image, (2, 2, 1)), np.tile(image, (2, 2, 1)), 2)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == pytest.approx(
        {"psnr_rgb": 100, "ssim_rgb": 1, "psnr_y": 100, "ssim_y": 1}
    )


@pytest.mark.parametrize("shape", [(11, 11), (11, 130, 3), (58, 59, 3), (107, 106), (64, 70, 1)])
def test_ssim_equals_scikit_image(rng, shape):
    image, reference = noisy_pair(rng, *shape)
    expected = structural_similarity(
        image, reference, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255,
        channel_axis=-1 if len(shape) == 3 else None,
    )  # fmt: skip
    assert ssim(image, reference) == pytest.approx(expected, abs=1e-12)
    assert ssim(image.astype(np.float32), reference.astype(np.float64)) == pytest.approx(expected, abs=1e-12)


def test_luma_of_black_white_and_red():
    image = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]], np.uint8)
    np.testing.assert_allclose(rgb_to_y(image), [[16, 235, 16 + 65.481]], rtol=0, atol=1e-12)


def test_borders_are_not_counted(rng):
    sr, hr = noisy_pair(rng, 64, 48, 3)
    spoilt = sr.copy()
    spoilt[:4], spoilt[-4:], spoilt[:, :4], spoilt[:, -4:] = 0, 0, 0, 0
    assert image_metrics(spoilt, hr, 4) == image_metrics(sr, hr, 4)
    spoilt[4, 4] = 0
    assert image_metrics(spoilt, hr, 4) != image_metrics(sr, hr, 4)


def test_diversity_is_the_mean_standard_deviation():
    draws = np.zeros((2, 4, 4, 3), np.uint8)
    draws[1, :2] = 10  # half of the pixels: standard deviation 5 at them, 0 elsewhere
    assert diversity(draws) == pytest.approx(2.5, abs=1e-12)
    assert diversity(list(draws)) == pytest.approx(2.5, abs=1e-12)
    assert diversity([draws[0]] * 5) == 0
    for bad in ([draws[0] * np.float32(np.nan)] * 2, ["a", "b"], [draws[0]], [draws[0], draws[0, 1:]]):
        with pytest.raises(HCFlowError):
            diversity(bad)


def test_consistency_ignores_what_downscaling_removes(rng):
    hr = noisy_pair(rng, 64, 64, 3)[0]
    lr = imresize(hr, 1 / 4)
    checker = np.where(np.indices((64, 64)).sum(0) % 2, 40, -40)[..., None]
    grey = np.full_like(hr, 128)
    assert consistency((grey + checker).astype(np.uint8), grey, 4) > 48.1  # at most one level at each LR pixel
    assert psnr((grey + checker).astype(np.uint8), grey) == pytest.approx(20 * math.log10(255 / 40))
    brighter = np.clip(hr.astype(int) + 20, 0, 255).astype(np.uint8)
    assert consistency(brighter, hr, 4) == psnr(imresize(brighter, 1 / 4), lr) < 25


def test_bits_per_dim_of_the_uniform_density_is_eight():
    # A density of 1 over [0, 1) spends log2(q) bits on each value.
    assert bits_per_dim(0.0, 5, 7) == pytest.approx(8)
    assert bits_per_dim(0.0, 5, 7, quantization_levels=64) == pytest.approx(6)
    # Twice that density at every value saves one bit.
    log_prob = np.array([0.0, 5 * 7 * 3 * math.log(2)])
    np.testing.assert_allclose(bits_per_dim(log_prob, 5, 7), [8, 7], rtol=1e-12)
    np.testing.assert_allclose(released_nll(log_prob, 5, 7), 3 * bits_per_dim(log_prob, 5, 7) - 16, rtol=1e-12)


@pytest.mark.parametrize("name", ["sr_x4_tiny", "sr_x8_tiny"])
def test_released_nll_equals_the_authors_program(shared, name):
    stored = np.load(shared / f"fixtures/parity/{name}.npz")
    log_std = -6
    error = (stored["encode_lr_quantized"].astype(np.float64) - stored["lr"]) * math.exp(-log_std)
    lr_term = -0.5 * np.sum(error**2 + math.log(2 * math.pi) + 2 * log_std, axis=(1, 2, 3))
    nll = released_nll(stored["encode_logdet_with_prior"] + lr_term, *stored["hr"].shape[2:]).mean()
    assert nll == pytest.approx(stored["nll_bits_per_dim_noise0"].item(), rel=1e-6)  # stored in float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: psnr(np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8)), r"\(4, 4\).*\(4, 5\)"),
        (lambda: psnr(np.zeros((4, 4), np.uint16), np.zeros((4, 4), np.uint16)), "uint8.*got uint16"),
        (lambda: psnr(np.full((4, 4), np.nan), np.zeros((4, 4))), "NaN"),
        (lambda: psnr(np.zeros((0, 4)), np.zeros((0, 4))), r"with pixels.*\(0, 4\)"),
        (lambda: ssim(np.zeros((10, 40)), np.zeros((10, 40))), "at least 11 x 11 pixels, got 10 x 40"),
        (lambda: rgb_to_y(np.zeros((4, 4))), r"expected an RGB image \[H, W, 3\]"),
        (lambda: image_metrics(np.zeros((8, 40, 3)), np.zeros((8, 40, 3)), 4), "cannot crop 4 pixels .* 8 x 40"),
        (lambda: diversity([np.zeros((4, 4, 3))]), "at least two images .*got 1"),
        (lambda: diversity([np.zeros((4, 4, 3)), np.zeros((4, 5, 3))]), r"\(4, 4, 3\), \(4, 5, 3\)"),
        (lambda: consistency(np.zeros((8, 8, 3)), np.zeros((8, 8, 3)), 4), "8-bit images, got float64"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(HCFlowError, match=message):
        call()


def test_table_is_aligned_and_keeps_the_fields_decimals():
    rows = {"img_001": {"psnr_y": 28.4212, "ssim_y": 0.81036}, "mean": {"psnr_y": 8.0, "diversity": 4.8}}
    assert metrics_table(rows).splitlines() == [
        "image    psnr_y  ssim_y  diversity",
        "-------  ------  ------  ---------",
        "img_001   28.42  0.8104          -",
        "mean       8.00       -       4.80",
    ]
    assert format_metric("bits_per_dim", 1.23456) == "1.235"
    with pytest.raises(ValueError):
        format_table(["a", "b"], [["only one"]])
