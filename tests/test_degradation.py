"""Degraded LR images: what each degradation does, that training draws them by the seed, and which losses see them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny import photograph
from training_runs import batch, make_config, make_step

from hcflow_tf.config import Degradation, parse_config
from hcflow_tf.data.dataset import TrainingData
from hcflow_tf.data.degradation import degrade, degrade_at_random

LR = photograph(40, 48)


def test_nothing_asked_for_is_nothing_done():
    np.testing.assert_array_equal(degrade(LR), LR)


def test_blur_has_its_standard_deviation():
    edge = np.zeros((9, 40, 3), np.uint8)
    edge[:, 20:] = 255
    slope = np.diff(degrade(edge, blur=2.0)[4, :, 0].astype(float)) / 255
    assert slope.sum() == 1
    assert np.sqrt((slope * (np.arange(39) - 19) ** 2).sum()) == pytest.approx(2.0, abs=0.1)


def test_noise_has_its_standard_deviation_and_its_seed():
    gray = np.full((200, 200, 3), 128, np.uint8)
    noisy = degrade(gray, noise=10.0, seed=3)
    assert (noisy - 128.0).std() == pytest.approx(10.0, rel=0.02)
    assert abs(noisy.mean() - 128) < 0.1
    np.testing.assert_array_equal(noisy, degrade(gray, noise=10.0, seed=3))
    assert (noisy != degrade(gray, noise=10.0, seed=4)).any()
    # Numbers that no release of numpy or scipy may change.
    assert degrade(gray, noise=10.0, seed=3).astype(int).sum() == 15359059


def test_jpeg_is_that_of_pillow_and_comes_last():
    buffer = io.BytesIO()
    Image.fromarray(LR).save(buffer, "JPEG", quality=60)
    np.testing.assert_array_equal(degrade(LR, jpeg=60), np.asarray(Image.open(buffer)))
    np.testing.assert_array_equal(degrade(LR, blur=1, noise=5, jpeg=60), degrade(degrade(LR, blur=1, noise=5), jpeg=60))


def test_share_and_strengths():
    config = Degradation(share=0.4, blur=1.0, noise=5.0, jpeg=(50, 90))
    changed = [not np.array_equal(degrade_at_random(LR, config, (0, index)), LR) for index in range(300)]
    assert 95 <= sum(changed) <= 145  # 120 expected, standard deviation 8.5
    np.testing.assert_array_equal(degrade_at_random(LR, config, (0, 5)), degrade_at_random(LR, config, (0, 5)))
    every = Degradation(share=1.0, jpeg=(70, 70))
    np.testing.assert_array_equal(degrade_at_random(LR, every, (0, 1)), degrade(LR, jpeg=70))
    none = Degradation(jpeg=(70, 70))
    np.testing.assert_array_equal(degrade_at_random(LR, none, (0, 1)), LR)


@pytest.fixture
def data():
    text = (
        "model: {scale: 4}\nlosses: {nll: 0, pixel: 1}\n"
        "data: {sample_photographs: true, crop_size: 32, cache: memory, degradation: {share: 0.5, noise: 9}}"
    )
    return TrainingData(parse_config(text))


def test_batches_hold_the_image_given_beside_the_clean_one(data):
    (hr, lr, given), (_, _, later) = data.dataset(0, 8).take(2).as_numpy_iterator()
    assert hr.shape == (8, 32, 32, 3) and lr.shape == given.shape == (8, 8, 8, 3)
    changed = np.abs(given - lr).max(axis=(1, 2, 3)) > 0
    assert 0 < changed.sum() < 8
    for index in range(8):
        clean = data.example(index)[1]
        np.testing.assert_allclose(lr[index], clean / 255, atol=1e-7)
        np.testing.assert_allclose(given[index], data.given(index, clean) / 255, atol=1e-7)
    np.testing.assert_array_equal(next(data.dataset(1, 8).as_numpy_iterator())[2], later)  # a resumed run sees the same


def test_the_likelihood_keeps_the_clean_image():
    config = make_config("training.start_from=x", "losses.pixel=1", "losses.perceptual_features=efficientnet_lite0")
    hr, lr = (tf.constant(array) for array in batch())
    given = tf.clip_by_value(lr + 0.1, 0, 1)
    (clean, _), (degraded, _) = (make_step(config)[1](hr, lr, 0, given=image) for image in (None, given))
    assert degraded["nll"] == clean["nll"]
    assert degraded["pixel"] > clean["pixel"] + 0.02


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{share: 0.5}", "data.degradation: share is above 0, but blur, noise and jpeg are all off"),
        ("{share: 0.5, jpeg: [90, 50]}", r"data.degradation.jpeg: expected the worst quality first, got \[90, 50\]"),
        ("{share: 0.5, jpeg: [0, 50]}", "data.degradation.jpeg.0: input should be greater than or equal to 1, got 0"),
        ("{share: 0.5, blur: 101}", "data.degradation.blur: input should be less than or equal to 100, got 101"),
        ("{share: 0.5, noise: 256}", "data.degradation.noise: input should be less than or equal to 255, got 256"),
        ("{share: 1.5, blur: 1}", "data.degradation.share: input should be less than or equal to 1, got 1.5"),
    ],
)
def test_what_is_refused(section, message):
    with pytest.raises(Exception, match=message):
        parse_config(f"data: {{degradation: {section}}}")
    with pytest.raises(Exception, match="a rescaling model makes its LR images itself"):
        parse_config("model: {task: rescaling}\nlosses: {nll: 0, pixel: 1}\ndata: {degradation: {share: 1, blur: 1}}")
